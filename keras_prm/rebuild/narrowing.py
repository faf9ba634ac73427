"""Narrowing: a convolution without its empty filters, and when that pays."""

from __future__ import annotations

import dataclasses

import numpy as np
from keras import layers

_NARROWED_KINDS = (layers.Conv1D, layers.Conv2D)


@dataclasses.dataclass(frozen=True)
class NarrowingRule:
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


RULE = NarrowingRule()


@dataclasses.dataclass(frozen=True, eq=False)
class Narrowing:
    """A convolution without its empty filters, as a `LayerEdit`.

    Args:
        filters: bool array, `(filters,)`: which filters stay.
        constants: float array, `(filters,)`: what the others give out.
    """

    filters: np.ndarray
    constants: np.ndarray

    @property
    def config(self):
        """Changes to the layer's config."""
        return {"filters": int(self.filters.sum())}

    def layers_before(self, name, dtype):
        """None."""
        return []

    def layers_behind(self, name, layer):
        """A convolution that puts each channel where it was, built."""
        bias = np.where(self.filters, 0.0, self.constants)
        rank = layer.rank
        put = type(layer)(
            len(self.filters),
            1,
            data_format="channels_last",
            use_bias=bool(bias.any()),
            name=f"{name}_place",
            dtype=layer.dtype_policy,
            trainable=False,
        )
        put.build((*[None] * (rank + 1), int(self.filters.sum())))
        one_hot = np.eye(len(self.filters), dtype="float32")[self.filters]
        put.kernel.assign(one_hot.reshape(*[1] * rank, *one_hot.shape))
        if put.use_bias:
            put.bias.assign(bias)
        return [put]

    def kernel(self, array):
        """The filters that stay."""
        return np.compress(self.filters, array, axis=-1)

    def positions(self, kept):
        """Those of the filters that stay."""
        return [*kept[:-1], kept[-1][self.filters]]


def has_filters(layer):
    """True for a layer whose filters can be dropped one by one."""
    return (
        type(layer) in _NARROWED_KINDS
        and layer.groups == 1
        and layer.data_format == "channels_last"
    )


def find_narrowing(
    kernel: np.ndarray, constants: np.ndarray, positions: int | None
) -> Narrowing | None:
    """The `Narrowing` of a convolution, or `None` where it had better stay.

    Args:
        kernel: The kernel as it would be stored, `(..., in, filters)`, of a
            layer that `has_filters`.
        constants: float array `(calls, filters)`, what the filters give out
            at each call of the layer, NaN where that is not constant.
        positions: int, the positions of its output, or `None` if unknown.
    """
    live = np.any(kernel, axis=tuple(range(kernel.ndim - 1)))
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
