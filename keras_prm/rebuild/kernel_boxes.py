"""Cutting empty rows and columns off a convolution's kernel, exactly."""

from __future__ import annotations

import dataclasses

import numpy as np
from keras import layers

from keras_prm.utils import conv_geometry

_PADDING = {1: layers.ZeroPadding1D, 2: layers.ZeroPadding2D}
_CROPPING = {1: layers.Cropping1D, 2: layers.Cropping2D}
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_KINDS = (layers.Conv1D, layers.Conv2D, *_DEPTHWISE)


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
    return type(layer) in _KINDS and layer.data_format == "channels_last"


def find(layer, kernel, input_shapes):
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
