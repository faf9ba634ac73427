"""Dropping empty filters whose channels have to stay.

A writer of a residual sum may have filters that are zero while the sum's
channels live by other writers. The filters can go all the same if a 1x1
convolution with a one-hot kernel puts the channels that are left back in
place; its bias holds what the others give out, if that is not zero.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from keras import layers

_KINDS = (layers.Conv1D, layers.Conv2D)


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
        type(layer) in _KINDS
        and layer.groups == 1
        and layer.data_format == "channels_last"
    )


def find(layer, kernel, constants, positions):
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
