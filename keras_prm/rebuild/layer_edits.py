"""Edits of a kernel that leave the widths around it alone, exactly.

Where channels have to stay, a layer may still compute the same with a smaller
kernel, if other layers stand before or behind it: `LayerEdit`. There are three:
`KernelBox`, below, of empty borders; `narrowing.Narrowing`, of empty filters;
`lowering.methods.Lowering`, of empty columns.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from typing import Any
from typing import Protocol

import numpy as np
from keras import layers

from keras_prm.rebuild import narrowing
from keras_prm.utils import conv_geometry

if TYPE_CHECKING:
    from collections.abc import Callable

    import keras

    from keras_prm.analysis.liveness import Liveness
    from keras_prm.lowering.methods import Lowering

_PADDING = {1: layers.ZeroPadding1D, 2: layers.ZeroPadding2D}
_CROPPING = {1: layers.Cropping1D, 2: layers.Cropping2D}
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_BOX_KINDS = (layers.Conv1D, layers.Conv2D, *_DEPTHWISE)


class LayerEdit(Protocol):
    """What lets a layer compute the same with a smaller kernel."""

    @property
    def config(self) -> dict[str, Any]:
        """Changes to the layer's config."""
        ...

    @property
    def filters(self) -> np.ndarray | None:
        """Which filters stay, bool `(filters,)`; `None` for all."""
        ...

    def layers_before(self, name: str, dtype: Any) -> list[layers.Layer]:
        """The layers to put before it, their names begin with `name`."""
        ...

    def layers_behind(
        self, name: str, layer: layers.Layer
    ) -> list[layers.Layer]:
        """The layers to put behind it, built."""
        ...

    def kernel(self, array: np.ndarray) -> np.ndarray:
        """What the kernel becomes, `(..., in, out)`."""
        ...

    def positions(self, kept: list) -> list:
        """Which of the kernel's positions stay, per axis.

        Args:
            kept: list with an int array per axis, `None` for all: those that
                stay without the edit.
        """
        ...


@dataclasses.dataclass(frozen=True)
class KernelBox:
    """The part of a kernel's window that is not empty, as a `LayerEdit`.

    Args:
        window: tuple of slices, one per spatial axis of the kernel.
        config: Changes to the layer's config.
        shift: `(before, after)` per spatial axis: how far the input has to
            be padded (or, where negative, cropped) so that the smaller
            kernel sees what the larger one saw. Empty where not needed.
    """

    window: tuple[slice, ...]
    config: dict[str, Any]
    shift: tuple[tuple[int, int], ...]
    filters = None  # all stay

    def layers_before(self, name, dtype):
        """The layers that pad and crop its input, in order.

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

    def layers_behind(self, name, layer):
        """None."""
        return []

    def kernel(self, array):
        """The part of the kernel within the box."""
        return array[self.window]

    def positions(self, kept):
        """Those of the box, on the spatial axes."""
        spatial = [np.arange(span.start, span.stop) for span in self.window]
        return [*spatial, *kept[len(spatial) :]]


def has_window(layer):
    """True for a layer whose window can be cut."""
    return type(layer) in _BOX_KINDS and layer.data_format == "channels_last"


def find_box(
    layer: layers.Layer,
    kernel: np.ndarray,
    input_shapes: list[tuple[int | None, ...]],
) -> KernelBox | None:
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


class EditFinder:
    """Finds the edits of the layers of one model.

    Args:
        live: The `Liveness` of its graph.
        lowered: dict from `id(layer)` to the `Lowering` of its columns, of
            layers that nothing else is to be done to.
    """

    def __init__(
        self, live: Liveness, lowered: dict[int, Lowering] | None = None
    ) -> None:
        self.live = live
        self.lowered = lowered or {}
        graph = live.graph
        self._contractions = {}
        for contraction in graph.contractions:
            found = self._contractions.setdefault(id(contraction.layer), [])
            found.append(contraction)
        self._read = {(value.number, axis) for value, axis in graph.reads}
        # Layers that have to stay as one layer.
        self._whole = {
            id(node.operation)
            for nodes in graph.inner.values()
            for node in nodes
        }
        for layer in graph.opaque.values():
            self._whole.update(map(id, graph.held(layer)))

    def may_change(self, layer):
        """True for a layer with a kernel that may get others around it."""
        return (
            id(layer) in self._contractions
            and id(layer) not in self._whole
            and id(layer) not in self.live.graph.opaque
        )

    def edits(
        self,
        layer: layers.Layer,
        sliced: Callable[[keras.Variable], np.ndarray],
    ) -> list[LayerEdit]:
        """The `LayerEdit`s of a layer, to be made in this order.

        Args:
            layer: The layer.
            sliced: Maps a variable to the part of it that stays, an array.
        """
        if lowering := self.lowered.get(id(layer)):
            return [lowering]
        if not (self.live.may_edit and self.may_change(layer)):
            return []
        kernel = sliced(self._contractions[id(layer)][0].kernel)
        found: list[LayerEdit] = []
        if box := self._box(layer, kernel):
            found.append(box)
            kernel = box.kernel(kernel)
        if narrowed := self._narrowing(layer, kernel):
            found.append(narrowed)
        return found

    def folded_bias(self, layer):
        """What goes into a layer's bias, `(out,)`, or `None` if nothing."""
        for contraction in self._contractions.get(id(layer), ()):
            amount = self.live.folded_bias(contraction)
            if np.any(amount):
                value, axis = contraction.target
                amount = amount[self.live.keep(value.ids[axis])]
            if np.any(amount):
                return amount
        return None

    def _box(self, layer, kernel):
        if not has_window(layer):
            return None
        contractions = self._contractions[id(layer)]
        return find_box(
            layer, kernel, [c.source[0].shape for c in contractions]
        )

    def _narrowing(self, layer, kernel):
        if not narrowing.has_filters(layer):
            return None
        contractions = self._contractions[id(layer)]
        targets = [contraction.target for contraction in contractions]
        if any((value.number, axis) in self._read for value, axis in targets):
            return None  # an output of the model keeps its name
        constants = np.stack(
            [
                self.live.constant(value, axis)[self.live.keep(value.ids[axis])]
                for value, axis in targets
            ]
        )
        if np.isnan(constants).all():
            return None
        macs = [contraction.macs for contraction in contractions]
        positions = None if None in macs else min(macs)
        return narrowing.find_narrowing(kernel, constants, positions)
