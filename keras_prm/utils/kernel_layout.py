"""Kernels as matrices `(..., in, out)`, however Keras lays them out.

`axes` are the kernel's axes `(in, out)`, counted from the end: `(-2, -1)` for
most layers, `(-1, -2)` for transposed convolutions.
"""

from __future__ import annotations

import numpy as np
from keras import ops

STANDARD = (-2, -1)


def order(rank, axes):
    """The permutation that brings the two axes to the end."""
    last = [axis % rank for axis in axes]
    return [i for i in range(rank) if i not in last] + last


def to_matrix(kernel, axes):
    """Any kernel, array or tensor, as `(..., in, out)`."""
    if tuple(axes) == STANDARD:
        return kernel
    return _transpose(kernel, order(len(kernel.shape), axes))


def from_matrix(matrix, axes):
    """The inverse of `to_matrix`."""
    if tuple(axes) == STANDARD:
        return matrix
    forward = order(len(matrix.shape), axes)
    inverse = sorted(range(len(forward)), key=forward.__getitem__)
    return _transpose(matrix, inverse)


def _transpose(array, axes):
    if isinstance(array, np.ndarray):
        return array.transpose(axes)
    return ops.transpose(array, axes)
