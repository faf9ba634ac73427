"""`Costs`: what a model costs."""

from __future__ import annotations

import dataclasses

from keras_prm.reports.base import Report


@dataclasses.dataclass(frozen=True)
class Costs(Report):
    """What a model stores and computes.

    Args:
        conv_weights: Nonzero entries of convolution kernels, the count of
            the paper. Zeros in them are stored all the same.
        weights: Nonzero entries of all weights, biases and statistics too.
        parameters: Entries of all weights that are stored, zeros included.
        conv_parameters: Entries of convolution kernels that are stored.
        macs: Multiply-accumulates per sample of layers with a kernel, zeros
            included; what `GatherColumns` needs to move columns is not
            counted. `None` where the input's size is not fixed, or a layer
            that `strip` does not look into has a kernel.
        macs_note: Why `macs` is `None`; `""` where it is known.
        kernel_weights: Nonzero entries of all weights that have two axes or
            more: convolutions, dense layers, embeddings. What papers count
            of a whole network; biases and statistics are left out.
    """

    conv_weights: int
    weights: int
    parameters: int
    conv_parameters: int
    macs: int | None
    macs_note: str = ""
    kernel_weights: int = 0
