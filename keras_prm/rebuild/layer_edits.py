"""Edits of a kernel that leave the widths around it alone, exactly."""

from __future__ import annotations

import dataclasses

import numpy as np
from keras import layers

from keras_prm.utils import conv_geometry

_PADDING = {1: layers.ZeroPadding1D, 2: layers.ZeroPadding2D}
_CROPPING = {1: layers.Cropping1D, 2: layers.Cropping2D}
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_BOX_KINDS = (layers.Conv1D, layers.Conv2D, *_DEPTHWISE)


@dataclasses.dataclass(frozen=True)
class KernelBox:
    """The part of a kernel's window that is not empty.

    Args:
        window: tuple of slices, one per spatial axis of the kernel.
        config: Changes to the layer's config.
        shift: `(before, after)` per spatial axis: how far the input has to
            be padded (or, where negative, cropped) so that the smaller
            kernel sees what the larger one saw. Empty where not needed.
    """

    window: tuple
    config: dict
    shift: tuple

    def adapters(self, name, dtype):
        """The layers to put before the convolution, in order.

        Padding comes first: a small input may be shorter than what is
        cropped off it.
        """
        rank = len(self.window)
        found = []
        pads = tuple((max(a, 0), max(b, 0)) for a, b in self.shift)
        crops = tuple((max(-a, 0), max(-b, 0)) for a, b in self.shift)
        for table, amounts, suffix in (
            (_PADDING, pads, "pad"),
            (_CROPPING, crops, "crop"),
        ):
            if np.any(amounts):
                amounts = amounts[0] if rank == 1 else amounts
                options = {"name": f"{name}_{suffix}", "dtype": dtype}
                if table[rank] is not layers.Cropping1D:
                    options["data_format"] = "channels_last"
                found.append(table[rank](amounts, **options))
        return found


def has_window(layer):
    """True for a layer whose window can be cut."""
    return type(layer) in _BOX_KINDS and layer.data_format == "channels_last"


def find_box(layer, kernel, input_shapes):
    """The box of a convolution, or `None` where nothing can be cut.

    Args:
        layer: The layer that is to be replaced; it `has_window`.
        kernel: Its kernel as it will be stored, `(..., in, out)`.
        input_shapes: The shape of its input at each of its calls.
    """
    axes = range(kernel.ndim - 2)
    if all(kernel.take(end, axis).any() for axis in axes for end in (0, -1)):
        return None
    spans = [_span(kernel, axis) for axis in axes]
    sizes = tuple(stop - start for start, stop in spans)
    if sizes == tuple(layer.kernel_size):
        return None
    pads = conv_geometry.pads(layer, {tuple(s[1:-1]) for s in input_shapes})
    if pads is None:
        return None
    shift = tuple(
        (before - start * d, after - (k - stop) * d)
        for (before, after), (start, stop), k, d in zip(
            pads, spans, layer.kernel_size, layer.dilation_rate
        )
    )
    window = tuple(slice(*span) for span in spans)
    config = {"kernel_size": sizes}
    if layer.padding == "same" and _is_same(layer, sizes, shift):
        return KernelBox(window, config, ())
    if type(layer) in _DEPTHWISE and np.any(shift):
        return None  # on a device the padding would cost more than it saves
    return KernelBox(window, {**config, "padding": "valid"}, shift)


def _span(kernel, axis):
    """First and one past the last position with a weight, at least one."""
    others = tuple(i for i in range(kernel.ndim) if i != axis)
    live = np.flatnonzero((kernel != 0).any(axis=others))
    if not len(live):
        middle = (kernel.shape[axis] - 1) // 2
        return middle, middle + 1
    return int(live[0]), int(live[-1]) + 1


def _is_same(layer, sizes, shift):
    """True where `same` padding of the smaller kernel does what is needed."""
    if any(stride != 1 for stride in layer.strides):
        return False
    reach = conv_geometry.reaches(layer, sizes)
    return all(s == (r // 2, r - r // 2) for s, r in zip(shift, reach))


_NARROWED_KINDS = (layers.Conv1D, layers.Conv2D)


@dataclasses.dataclass(frozen=True)
class Rule:
    """When a narrow convolution is faster than one with empty filters.

    LiteRT computes filters in blocks, so that to drop some of a block saves
    nothing, and the one-hot convolution costs a pass over the result. In
    `benchmarks/narrow_writers.py` (LiteRT 2, XNNPACK, x86) what this rule
    takes needed at most 0.77 of the time on one thread, as float32, int8 and
    dynamic range; on two, at most 0.7 as float32, and as int8 and dynamic
    range no more than before, within the noise. With 128 inputs to a 3x3
    kernel, a file of dynamic range could be slower on two threads; with 64,
    an int8 file on one. A gather instead of the one-hot convolution is slower
    wherever activations are large or int8.

    Args:
        block: Filters that are computed together.
        columns: The least number of columns, `kh * kw * in`.
        macs: The least number of multiply-accumulates, empty filters
            included.
        share: The largest share of the multiply-accumulates, and so of the
            weights, that may be left.
    """

    block: int = 64
    columns: int = 2304
    macs: int = 10_000_000
    share: float = 0.7

    def allows(self, columns, filters, live, positions):
        """Whether to keep `live` of the `filters` of a convolution.

        Args:
            columns: int, its columns.
            filters: int, its filters.
            live: int, those that are not empty.
            positions: int, the positions of its output.
        """
        computed = -(-live // self.block) * self.block
        left = computed * columns + live * filters
        return (
            columns >= self.columns
            and columns * filters * positions >= self.macs
            and left <= self.share * columns * filters
        )


RULE = Rule()


@dataclasses.dataclass(frozen=True, eq=False)
class Narrowing:
    """Which filters of a convolution stay, and what becomes of the others.

    Args:
        live: bool array, `(filters,)`.
        constants: float array, `(filters,)`: what the others give out.
    """

    live: np.ndarray
    constants: np.ndarray

    @property
    def config(self):
        """Changes to the layer's config."""
        return {"filters": int(self.live.sum())}

    def followers(self, layer, name):
        """The layers to put behind the narrow convolution, built."""
        bias = np.where(self.live, 0.0, self.constants)
        rank = layer.rank
        put = type(layer)(
            len(self.live),
            1,
            data_format="channels_last",
            use_bias=bool(bias.any()),
            name=f"{name}_place",
            dtype=layer.dtype_policy,
            trainable=False,
        )
        put.build((*[None] * (rank + 1), int(self.live.sum())))
        one_hot = np.eye(len(self.live), dtype="float32")[self.live]
        put.kernel.assign(one_hot.reshape(*[1] * rank, *one_hot.shape))
        if put.use_bias:
            put.bias.assign(bias)
        return [put]


def has_filters(layer):
    """True for a layer whose filters can be dropped one by one."""
    return (
        type(layer) in _NARROWED_KINDS
        and layer.groups == 1
        and layer.data_format == "channels_last"
    )


def find_narrowing(layer, kernel, constants, positions):
    """The `Narrowing` of a convolution, or `None` where it had better stay.

    Args:
        layer: The layer that is to be replaced; it `has_filters`.
        kernel: Its kernel as it would be stored, `(..., in, filters)`.
        constants: float array `(calls, filters)`, what the filters give out
            at each call of the layer, NaN where that is not constant.
        positions: int, the positions of its output, or `None` if unknown.
    """
    live = kernel.any(axis=tuple(range(kernel.ndim - 1)))
    known = (constants == constants[0]).all(axis=0)
    sizes = kernel[..., 0].size, len(live), int(live.sum())
    if (
        live.all()
        or not live.any()
        or not known[~live].all()
        or positions is None
        or not RULE.allows(*sizes, positions)
    ):
        return None
    return Narrowing(live, np.asarray(constants[0]))
