"""`GatherColumns`: a layer that hands on single columns of its input."""

from __future__ import annotations

import itertools
import numbers
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_prm.dependency import constants
from keras_prm.rules import registry
from keras_prm.rules.base import Rule
from keras_prm.rules.base import read_others
from keras_prm.utils import conv_geometry

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

METHODS = ("gather", "pointwise", "slices", "patches")
_PADDINGS = ("valid", "same", "causal")


@keras.saving.register_keras_serializable(package="keras_prm")
class GatherColumns(layers.Layer):
    """The columns of its input that a convolution reads, and no others.

    A convolution is a matrix product with the *columns* of its input: what
    the window sees at one position, in one channel. Of a kernel whose other
    columns are zero, only `K` of them matter; this layer lays them out as `K`
    channels, and a 1x1 convolution with a kernel `(1, 1, K, filters)` does
    the rest (`im2col`, restricted to live columns). With row `r_k`, column
    `q_k` and channel `c_k` of column `k`, stride `s` and dilation `d`,

        y[b, i, j, k] = x[b, i s + r_k d - pad, j s + q_k d - pad, c_k]

    and 0 where that lies outside of `x`. Without a window (`kernel_size=()`)
    it picks features for a `Dense`, or channels for a whole convolution.

    It has no weights; its config holds one number per column. All methods
    compute the same values. They differ in what they cost on a device:

    | method | channels are picked by | moved in space by |
    |---|---|---|
    | `"gather"` | one gather | a one-hot depthwise convolution |
    | `"pointwise"` | a 1x1 convolution with a one-hot kernel | the same |
    | `"slices"` | a slice per run of consecutive channels | the same, each |
    | `"patches"` | a slice or a gather per position | spatial slices |

    Args:
        columns: Sequence of ints, the columns in the order they are put out:
            `position * channels + channel`, where positions count the window
            row by row, as in `kernel.reshape(-1, filters)`.
        kernel_size: Window, one int per spatial axis; `()` for none.
        strides: int or tuple of ints. Default 1.
        padding: `"valid"`, `"same"` or, for one spatial axis, `"causal"`.
        dilation_rate: int or tuple of ints. Default 1.
        method: One of the above. Default `"gather"`.
        chosen_for: Sequence of str, how the files are quantized for which
            this was found to pay, as `export_litert` is told; it computes
            the same for all. Default `()`: not known.
        **kwargs: Of `keras.layers.Layer`: `name`, `dtype`.

    Input shape: `(batch, *space, channels)`, or `(batch, ..., features)`
    without a window.

    Output shape: `(batch, *new_space, K)`.

    Raises:
        TypeError: `kernel_size` is an int.
        ValueError: An argument is not one of these; a column is outside of
            the window or the channels; strides differ, or come with dilation,
            which only `"patches"` knows; or `"patches"` has strides and
            `"same"` padding while the input's size is not known.

    Example:

    ```python
    # Column 13 is the window's middle (1, 1) in the second of 3 channels.
    layer = GatherColumns([13], kernel_size=(3, 3), padding="same")
    layer(x)[..., 0] == x[..., 1]
    ```
    """

    def __init__(
        self,
        columns: Sequence[int],
        kernel_size: Sequence[int] = (),
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        dilation_rate: int | Sequence[int] = 1,
        method: str = "gather",
        chosen_for: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.columns = tuple(int(c) for c in columns)
        self.kernel_size = _checked_window(kernel_size)
        rank = len(self.kernel_size)
        self.strides = conv_geometry.per_axis(strides, rank)
        self.dilation_rate = conv_geometry.per_axis(dilation_rate, rank)
        self.padding = padding
        self.method = method
        self.chosen_for = tuple(chosen_for)
        self._check()
        rank = len(self.kernel_size)
        self.input_spec = layers.InputSpec(
            ndim=rank + 2 if rank else None, min_ndim=2
        )

    def _check(self):
        problem = None
        rank = len(self.kernel_size)
        if not self.columns or min(self.columns) < 0:
            problem = "at least one column, and none below 0"
        elif self.method not in METHODS:
            problem = f"a method of {list(METHODS)}"
        elif self.padding not in _PADDINGS[: 3 if rank == 1 else 2]:
            problem = f"a padding of {list(_PADDINGS)}, causal on one axis only"
        elif (
            rank > 2
            or min(
                self.kernel_size + self.strides + self.dilation_rate, default=1
            )
            < 1
        ):
            problem = "at most two spatial axes, and sizes of at least 1"
        elif {len(self.strides), len(self.dilation_rate)} != {rank}:
            problem = "as many strides and dilation rates as spatial axes"
        elif self.method != "patches" and not can_shift(self):
            problem = (
                "equal strides, and no dilation beside strides above 1. Use "
                "method='patches'"
            )
        if problem:
            raise ValueError(
                f"Cannot gather columns. Expected {problem}. Received: "
                f"{len(self.columns)} columns, method={self.method!r}, "
                f"kernel_size={self.kernel_size}, padding={self.padding!r}, "
                f"strides={self.strides}, dilation_rate={self.dilation_rate}"
            )

    def build(self, input_shape: Sequence[int | None]) -> None:
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(
                f"'{self.name}' gathers columns by the numbers of channels. "
                "Expected an input whose last axis has a fixed size. "
                f"Received: an input of shape {tuple(input_shape)}"
            )
        highest = int(np.prod(self.kernel_size)) * channels - 1
        if max(self.columns) > highest:
            raise ValueError(
                f"'{self.name}' gathers columns that its input does not have. "
                f"Expected numbers up to {highest}, by a window of "
                f"{self.kernel_size} and {channels} channels. Received: "
                f"{max(self.columns)}"
            )
        if self.method == "patches" and self._pads(input_shape) is None:
            raise ValueError(
                f"'{self.name}' cannot place its window. Expected an input of "
                "known size for strides with padding='same' and "
                "method='patches'; use another method, or fix the size. "
                f"Received: an input of shape {tuple(input_shape)}"
            )
        self.built = True

    def call(self, inputs: Any) -> Any:
        positions, channels = self._places(inputs.shape[-1])
        if self.method == "patches":
            parts = self._patches(inputs, positions, channels)
        else:
            pieces = [slice(None)]
            if self.method == "slices":
                pieces = runs(channels)
            parts = [
                self._shift(self._pick(inputs, channels[run]), positions[run])
                for run in pieces
            ]
        return parts[0] if len(parts) == 1 else ops.concatenate(parts, -1)

    def _places(self, num_channels):
        return np.divmod(np.asarray(self.columns), num_channels)

    def _pick(self, x, channels):
        """The channels, in this order."""
        if np.array_equal(channels, np.arange(x.shape[-1])):
            return x
        if is_run(channels):
            return x[..., channels[0] : channels[-1] + 1]
        if self.method != "pointwise":
            return ops.take(x, channels.astype("int32"), axis=-1)
        one_hot = np.eye(x.shape[-1])[channels].T
        rank = len(x.shape) - 2
        if rank not in (1, 2):
            return ops.matmul(x, ops.convert_to_tensor(one_hot, x.dtype))
        kernel = one_hot.reshape(*[1] * rank, *one_hot.shape)
        kernel = ops.convert_to_tensor(kernel, x.dtype)
        return ops.conv(x, kernel, data_format="channels_last")

    def _shift(self, x, positions):
        """Channel `k` as the window sees it at position `positions[k]`."""
        if self._stands_still(positions):
            return x
        window = np.zeros((int(np.prod(self.kernel_size)), len(positions)))
        window[positions, np.arange(len(positions))] = 1
        kernel = window.reshape(*self.kernel_size, -1, 1)
        padding = self.padding
        if padding == "causal":
            before = conv_geometry.reaches(self, self.kernel_size)[0]
            x, padding = ops.pad(x, [(0, 0), (before, 0), (0, 0)]), "valid"
        return ops.depthwise_conv(
            x,
            ops.convert_to_tensor(kernel, x.dtype),
            strides=self.strides[0],
            padding=padding,
            data_format="channels_last",
            dilation_rate=self.dilation_rate,
        )

    def _stands_still(self, positions):
        """Whether all of the positions see just what is there."""
        if max(self.strides, default=1) > 1:
            return False
        if all(size == 1 for size in self.kernel_size):
            return True
        if self.padding == "valid":
            return False
        taps = np.unravel_index(positions, self.kernel_size)
        pads = conv_geometry.pads(self, set())
        return pads is not None and all(
            (tap * d == pad).all()
            for tap, d, (pad, _) in zip(taps, self.dilation_rate, pads)
        )

    def _pads(self, shape):
        return conv_geometry.pads(self, {tuple(shape[1:-1])})

    def _patches(self, x, positions, channels):
        space = conv_geometry.output_sizes(self, x.shape[1:-1])
        pads = self._pads(x.shape)
        if pads and np.any(pads):
            x = ops.pad(x, [(0, 0), *pads, (0, 0)])
        parts = []
        for position, run in runs_by_position(positions):
            own = channels[run]
            taps = np.unravel_index(position, self.kernel_size or (1,))
            window = conv_geometry.seen(self, taps, space)
            if is_run(own):
                last = slice(int(own[0]), int(own[-1]) + 1)
                parts.append(x[(slice(None), *window, ..., last)])
            else:
                parts.append(self._pick(x[(slice(None), *window)], own))
        return parts

    def compute_output_shape(
        self,
        input_shape: Sequence[int | None],
    ) -> tuple[int | None, ...]:
        space = conv_geometry.output_sizes(self, input_shape[1:-1])
        return (input_shape[0], *space, len(self.columns))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "columns": list(self.columns),
            "kernel_size": list(self.kernel_size),
            "strides": list(self.strides),
            "padding": self.padding,
            "dilation_rate": list(self.dilation_rate),
            "method": self.method,
            "chosen_for": list(self.chosen_for),
        }


def can_shift(layer):
    """Whether a depthwise convolution can move its window on all backends."""
    strides = set(layer.strides)
    dilated = max(layer.dilation_rate, default=1) > 1
    return len(strides) < 2 and not (dilated and strides != {1})


def _checked_window(kernel_size):
    if isinstance(kernel_size, numbers.Integral):
        raise TypeError(
            "Expected `kernel_size` to have one size per spatial axis, such "
            f"as (3, 3). Received: kernel_size={kernel_size!r}"
        )
    return tuple(int(n) for n in kernel_size)


def runs(channels):
    """Slices of consecutive channels, as long as they can be."""
    cuts = np.flatnonzero(np.diff(channels) != 1) + 1
    ends = [0, *cuts.tolist(), len(channels)]
    return [slice(*pair) for pair in itertools.pairwise(ends)]


def is_run(channels):
    """Whether channels follow each other."""
    return len(runs(channels)) == 1


def runs_by_position(positions):
    """`(position, slice)` of the columns that follow at one position."""
    cuts = np.flatnonzero(np.diff(positions)) + 1
    ends = [0, *cuts.tolist(), len(positions)]
    return [
        (positions[start], slice(start, stop))
        for start, stop in itertools.pairwise(ends)
    ]


def _gather_columns(call):
    layer, x, out = call.layer, call.inputs[0], call.outputs[0]
    axis = len(x.shape) - 1
    if layer.kernel_size:
        read_others(call, x, axis, "it slides over it")
    else:
        for other in range(1, axis):
            call.move((x, other), (out, other))
    _, channels = np.divmod(np.array(layer.columns), x.shape[axis])
    ids = call.graph.ids(x, axis)
    out.ids[axis] = ids[channels]
    every = np.arange(len(channels))
    pads = layer.kernel_size and layer.padding != "valid"
    combine = constants.zero_stays if pads else constants.same
    call.graph.positionwise([(x, axis, channels)], (out, axis, every), combine)


def _resize(layer, size, shape):
    """Nothing to change; that it is there ties the widths of all calls."""
    return {}


def _configure(node, keep):
    """The columns of the channels that are kept, numbered anew."""
    x = node.inputs[0]
    kept = keep(x, len(x.shape) - 1)
    columns = np.array(node.operation.columns)
    positions, channels = np.divmod(columns, len(kept))
    numbers = positions * kept.sum() + np.cumsum(kept)[channels] - 1
    return {"columns": numbers[kept[channels]].tolist()}


registry.register_rule(
    GatherColumns, Rule(_gather_columns, _resize, _configure)
)
