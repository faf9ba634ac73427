"""Methods to store and compute a kernel with empty columns."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from keras import layers

from keras_prm.lowering.gather_columns import METHODS
from keras_prm.lowering.gather_columns import GatherColumns
from keras_prm.lowering.gather_columns import can_shift
from keras_prm.utils.conv_geometry import per_axis

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from keras_prm.dependency.propagation import Contraction

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D)


@dataclasses.dataclass(frozen=True, eq=False)
class SparseKernel:
    """A layer some of whose columns are empty.

    Args:
        layer: A `Conv1D`, `Conv2D` or `Dense`.
        key: The key of its kernel.
        array: Its kernel, `(*window, in, filters)`.
        space: The spatial sizes of its input, `None` where not known, or
            for `Dense` the sizes between the batch and the features.
    """

    layer: layers.Layer
    key: str
    array: np.ndarray
    space: tuple[int | None, ...]

    @property
    def live(self) -> np.ndarray:
        """Which columns are not empty, bool `(*window, in)`."""
        return np.any(self.array, axis=-1)

    @property
    def window(self) -> tuple[int, ...]:
        """The sizes of the kernel's window, `()` for `Dense`."""
        return self.array.shape[:-2]

    @property
    def new_space(self) -> tuple[int | None, ...]:
        """The spatial sizes of its output, `None` where not known."""
        shape = (None, *self.space, self.array.shape[-2])
        return tuple(self.layer.compute_output_shape(shape)[1:-1])


@dataclasses.dataclass(frozen=True, eq=False)
class Lowering:
    """One way to leave out the empty columns of a layer, a `LayerEdit`.

    Args:
        method: Of the `GatherColumns` that is put before the layer.
        columns: The columns that it puts out, in order; numbers of channels
            where `window` is kept.
        keeps_window: True where only whole channels are left out and the
            layer stays a convolution with its window; False where it becomes
            a 1x1 convolution over the columns.
        gather: Arguments of the `GatherColumns`, without these.
        window: The sizes of the kernel's window.
    """

    method: str
    columns: tuple[int, ...]
    keeps_window: bool
    gather: dict[str, Any]
    window: tuple[int, ...]
    filters = None

    @property
    def name(self) -> str:
        """What reports call it."""
        what = "channels" if self.keeps_window else "columns"
        return f"{what} by {self.method}"

    def covers(self, sparse: SparseKernel) -> bool:
        """Whether it is of this layer, and none of its live columns is lost.

        Args:
            sparse: The layer.
        """
        live = sparse.live
        if self.keeps_window:
            live = live.reshape(-1, live.shape[-1]).any(axis=0)
        columns = {*self.columns}
        return (
            len(columns) == len(self.columns)
            and tuple(self.window) == sparse.window
            and columns <= {*range(live.size)}
            and columns >= {*np.flatnonzero(live).tolist()}
        )

    @property
    def config(self) -> dict[str, Any]:
        """Changes to the layer's config."""
        if self.keeps_window:
            return {}
        ones = [1] * len(self.window)
        return {
            "kernel_size": ones,
            "strides": ones,
            "dilation_rate": ones,
            "padding": "valid",
        }

    def layers_before(self, name: str, dtype: Any) -> list[layers.Layer]:
        """The layer that picks the columns, in a list."""
        return [
            GatherColumns(
                self.columns,
                method=self.method,
                name=f"{name}_columns",
                dtype=dtype,
                **self.gather,
            )
        ]

    def layers_behind(
        self,
        name: str,
        layer: layers.Layer,
    ) -> list[layers.Layer]:
        """None."""
        return []

    def positions(self, kept: Sequence[Any]) -> list[None]:
        """All: the kernel is laid out anew, not cut axis by axis."""
        return [None] * len(kept)

    def kernel(self, array: np.ndarray) -> np.ndarray:
        """The part of the kernel that is stored, as it is laid out."""
        columns = np.array(self.columns)
        if self.keeps_window:
            return np.take(array, columns, axis=-2)
        rows = array.reshape(-1, array.shape[-1])[columns]
        return rows.reshape(*[1] * len(self.window), *rows.shape)


def is_eligible(layer: layers.Layer) -> bool:
    """True for a layer whose columns can be lowered."""
    if type(layer) in _CONVOLUTIONS:
        return layer.groups == 1 and layer.data_format == "channels_last"
    return type(layer) is layers.Dense


def candidates(sparse: SparseKernel) -> list[Lowering]:
    """All `Lowering`s of a layer, the dense kernel aside.

    Args:
        sparse: A `SparseKernel` with at least one live and one empty column.

    Returns:
        list of `Lowering`; every one computes the same, exactly.
    """
    found = list(_by_channel(sparse))
    if int(np.prod(sparse.window)) > 1:
        found += _by_column(sparse)
    return found


def _by_channel(sparse):
    """Whole channels left out, where there are any."""
    used = sparse.live.reshape(-1, sparse.live.shape[-1]).any(axis=0)
    if used.all():
        return
    columns = tuple(np.flatnonzero(used).tolist())
    methods = ["gather", "pointwise", "slices"]
    if not sparse.window:
        methods.remove("pointwise")  # as large as the kernel itself
    for method in methods:
        yield Lowering(method, columns, True, {}, sparse.window)


def _by_column(sparse):
    layer, rank = sparse.layer, len(sparse.window)
    gather = {
        "kernel_size": list(sparse.window),
        "strides": list(per_axis(layer.strides, rank)),
        "padding": layer.padding,
        "dilation_rate": list(per_axis(layer.dilation_rate, rank)),
    }
    methods = list(METHODS)
    probe = GatherColumns([0], method="patches", **gather)
    if not can_shift(probe):
        methods = ["patches"]
    if probe.padding == "same" and max(probe.strides) > 1:
        if None in sparse.space:
            methods.remove("patches")
    for method in methods:
        columns = tuple(_ORDERS[method](sparse.live).tolist())
        yield Lowering(method, columns, False, gather, sparse.window)


def _by_position(live):
    return np.flatnonzero(live)


def _channel_first(live):
    positions, channels = _places(live)
    return _column_numbers(live, np.lexsort((positions, channels)))


def _by_level(live):
    """First one column of every channel, then the second ones, ..."""
    positions, channels = _places(live)
    order = np.lexsort((positions, channels))
    sorted_channels = channels[order]
    first = np.searchsorted(sorted_channels, sorted_channels)
    level = np.empty(len(order), int)
    level[order] = np.arange(len(order)) - first
    return _column_numbers(live, np.lexsort((channels, level)))


def _places(live):
    return np.divmod(np.flatnonzero(live), live.shape[-1])


def _column_numbers(live, order):
    return np.flatnonzero(live)[order]


_ORDERS = {
    "gather": _channel_first,
    "pointwise": _channel_first,
    "slices": _by_level,
    "patches": _by_position,
}


def sparse_kernel_of(
    contractions: Sequence[Contraction],
    key: str,
    array: np.ndarray,
) -> SparseKernel | None:
    """The `SparseKernel` of a layer, or `None` where nothing can be left out.

    Args:
        contractions: The `Contraction`s of the layer's calls.
        key: The key of its kernel.
        array: Its kernel.
    """
    layer = contractions[0].layer
    if not is_eligible(layer):
        return None
    live = array.any(axis=-1)
    if live.all() or not live.any():
        return None
    spaces = {
        tuple(contraction.source[0].shape[1:-1]) for contraction in contractions
    }
    space = spaces.pop()
    if spaces:
        space = (None,) * max(1, len(space))
    return SparseKernel(layer, key, array, space)
