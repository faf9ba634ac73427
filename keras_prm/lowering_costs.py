"""What a lowering costs, by a model that was fitted once, and in bytes."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from keras_prm import column_runs

_FLOAT = 4  # bytes
_OPERATION = 400  # bytes of an operation with its tensors' names, roughly
_BLOCK = 16  # filters that are computed together
_COUNTS = ("convolutions", "slices", "gathers")


@dataclasses.dataclass(frozen=True)
class CostModel:
    """Microseconds on LiteRT, as a sum over primitives.

    The time of a layer is taken to be linear in how much of each primitive
    it needs. The coefficients of `MODELS` were fitted by `python -m
    benchmarks.columns --fit --num_fitted=90`, for one thread and with
    `--threads=2`, to 3x3 convolutions of random sizes with random columns, in
    all lowerings (LiteRT 2.3, XNNPACK, float32, x86-64 with 2 cores, seed 0).
    For half of the layers, what it picked was the fastest there was; at
    worst that took 1.8 times as long as the fastest, on two threads 2.6 times.

    Args:
        convolutions: Per convolution, µs.
        slices: Per slice, padding or operand of a concatenation, µs.
        gathers: Per gather, µs: it leaves the delegate and returns to it.
        macs: Per million multiply-accumulates of a convolution whose filters
            are filled up to a multiple of 16, µs.
        reads: Per million entries that a convolution reads, one for each
            position of its window, µs.
        shifts: Per million multiply-accumulates of a depthwise convolution.
        gathered: Per million entries that are gathered.
        copied: Per million entries that are sliced, joined or padded.
    """

    convolutions: float
    slices: float
    gathers: float
    macs: float
    reads: float
    shifts: float
    gathered: float
    copied: float

    def microseconds(self, sizes):
        """The predicted time of what `operations` returned."""
        return sum(getattr(self, name) * n for name, n in sizes.items())


# By number of threads.
MODELS = {
    1: CostModel(0.10, 0.13, 0.21, 17.2, 51.0, 51.8, 1912, 288),
    2: CostModel(1.40, 0.14, 1.22, 9.1, 133.4, 43.9, 1922, 404),
}
_NAMES = tuple(field.name for field in dataclasses.fields(CostModel))


def operations(site, lowering=None):
    """How much of each primitive a layer needs, per sample.

    Args:
        site: The `ColumnSite`; its sizes are known.
        lowering: A `Lowering`, or `None` for the dense kernel.

    Returns:
        dict from the name of a coefficient of `CostModel` to a number.
    """
    sizes = dict.fromkeys(_NAMES, 0.0)
    shape = site.array.shape
    if lowering is not None:
        shape = lowering.kernel(site.array).shape
        _gather(sizes, site, lowering, (site.space, site.new_space))
    _convolve(sizes, site.new_space, shape)
    return {n: v if n in _COUNTS else v / 1e6 for n, v in sizes.items()}


def file_bytes(site, lowering=None):
    """Bytes that a layer takes in a float32 file, its bias aside."""
    if lowering is None:
        return _FLOAT * site.array.size
    sizes = dict.fromkeys(_NAMES, 0.0)
    _gather(sizes, site, lowering, ((1,), (1,)))
    total = lowering.kernel(site.array).size
    number, channels = len(lowering.columns), site.array.shape[-2]
    if not lowering.keeps_window and lowering.method != "patches":
        total += number * math.prod(site.window)
    if lowering.method in ("gather", "patches"):
        total += number
    if lowering.method == "pointwise":
        total += number * channels
    return int(_FLOAT * total + _OPERATION * sum(map(sizes.get, _COUNTS)))


def _convolve(sizes, space, shape):
    *window, inputs, filters = shape
    positions = math.prod(space)
    reads = positions * math.prod(window) * inputs
    sizes["convolutions"] += 1
    sizes["reads"] += reads
    sizes["macs"] += reads * _filled(filters)


def _filled(channels):
    """Channels, filled up to whole blocks."""
    return -(-channels // _BLOCK) * _BLOCK


def _gather(sizes, site, lowering, spaces):
    before, after = map(math.prod, spaces)
    number, inputs = len(lowering.columns), site.array.shape[-2]
    positions, channels = np.divmod(np.array(lowering.columns), inputs)
    if lowering.method == "patches":
        # To take every other position is as slow as a gather.
        slicing = "copied" if before == after else "gathered"
        for _, run in column_runs.groups(positions):
            width = len(channels[run])
            if len(column_runs.runs(channels[run])) > 1:
                sizes["gathers"] += 1
                sizes["gathered"] += after * width
                width = inputs
            sizes["slices"] += 2
            sizes[slicing] += after * width
        sizes["copied"] += before * inputs + after * number
        return
    if lowering.method == "pointwise":
        _convolve(sizes, spaces[0], (inputs, number))
    elif lowering.method == "gather":
        sizes["gathers"] += 1
        sizes["gathered"] += before * number
    pieces = [slice(None)]
    if lowering.method == "slices":
        pieces = column_runs.runs(channels)
        sizes["slices"] += 2 * len(pieces)
        joined = after * number if len(pieces) > 1 else 0
        sizes["copied"] += before * number + joined
    if not lowering.keeps_window:
        widths = [_filled(len(channels[piece])) for piece in pieces]
        sizes["convolutions"] += len(pieces)
        sizes["shifts"] += after * sum(widths) * math.prod(site.window)
