"""Geometry of convolutions: their padding, tap by tap."""

from __future__ import annotations

import functools
import numbers

import numpy as np


def pads(layer, spaces):
    """Zeros a convolution adds `(before, after)` each axis.

    Args:
        layer: A convolution; its padding may be `"causal"`.
        spaces: The spatial shapes of its inputs, a set of tuples.

    Returns:
        list of `(before, after)`, one per axis, or `None` where they depend
        on a size that is not known, or that is not the same for all inputs.
    """
    if layer.padding == "valid":
        return [(0, 0)] * len(layer.kernel_size)
    reach = reaches(layer, layer.kernel_size)
    if layer.padding == "causal":
        return [(reach[0], 0)]
    strides = _strides(layer)
    if all(stride == 1 for stride in strides):
        return [(r // 2, r - r // 2) for r in reach]
    if len(spaces) != 1 or None in next(iter(spaces)):
        return None
    found = []
    for n, r, s in zip(next(iter(spaces)), reach, strides):
        total = max((-(-n // s) - 1) * s + r + 1 - n, 0)
        found.append((total // 2, total - total // 2))
    return found


def reaches(layer, sizes):
    """How far the last tap of a window is from the first, per axis."""
    dilation = _dilation(layer)
    return [(k - 1) * d for k, d in zip(sizes, dilation)]


def output_sizes(layer, space):
    """The spatial sizes that come of sizes, `None` where not known."""
    reach = reaches(layer, layer.kernel_size)
    if layer.padding != "valid":
        reach = [0] * len(reach)
    if not reach:  # no window: every size stays
        return tuple(space)
    return tuple(
        None if n is None else max(-(-(n - r) // s), 0)
        for n, r, s in zip(space, reach, _strides(layer))
    )


def seen(layer, taps, space):
    """What a window sees of a padded input at one of its positions.

    Args:
        layer: A convolution.
        taps: The position in the window, one int per axis.
        space: The spatial sizes of the output, `None` where not known.

    Returns:
        list of slices, one per axis; none for a layer without a window.
    """
    found = []
    reach = reaches(layer, layer.kernel_size)
    dilation = _dilation(layer)
    strides = _strides(layer)
    for tap, d, s, n, r in zip(taps, dilation, strides, space, reach):
        start = int(tap) * d
        stop = None if n is None else start + (n - 1) * s + 1
        if n is None and r > start:
            stop = start - r
        found.append(slice(start, stop, s))
    return found


def taps_inside(layer, space):
    """Which taps see an input, and never padding, whatever the output.

    Args:
        layer: A convolution.
        space: The spatial shape of its input.

    Returns:
        bool array in the shape of the window.
    """
    sizes = tuple(layer.kernel_size)
    if layer.padding == "valid" or all(k == 1 for k in sizes):
        return np.ones(sizes, bool)
    before = pads(layer, {tuple(space)})
    strides = _strides(layer)
    if before is None or (None in space and max(strides) > 1):
        return np.zeros(sizes, bool)
    dilation = _dilation(layer)
    masks = []
    for n, k, s, d, (pad, _) in zip(space, sizes, strides, dilation, before):
        first = np.arange(k) * d - pad
        if s == 1:  # as many outputs as inputs, of whatever number
            masks.append(first == 0)
        else:
            last = first + (-(-n // s) - 1) * s
            masks.append((first >= 0) & (last <= n - 1))
    return functools.reduce(np.logical_and.outer, masks)


def per_axis(value, rank):
    """Strides or dilation rates as a tuple with an int per spatial axis."""
    if isinstance(value, numbers.Integral):
        return (int(value),) * rank
    return tuple(map(int, value))


def _strides(layer):
    return per_axis(layer.strides, len(layer.kernel_size))


def _dilation(layer):
    return per_axis(layer.dilation_rate, len(layer.kernel_size))
