"""Cost model of lowerings: time, fitted once, and bytes."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from keras_prm.lowering.gather_columns import runs
from keras_prm.lowering.gather_columns import runs_by_position

_BLOCK = 16  # filters that are computed together
_COUNTS = ("convolutions", "slices", "gathers")


@dataclasses.dataclass(frozen=True)
class FileCosts:
    """Bytes of what a lowering adds to a file, an upper bound.

    Those of `FILES` are the largest that were met in files of one lowered
    3x3, strided or one-dimensional convolution (TensorFlow 2.21), rounded up.

    Args:
        entry: Of an entry of a kernel.
        least: Entries below which a kernel stays float32.
        channel: Of a channel that a convolution puts out, beyond its bias:
            scales and zero points.
        bias: Of an entry of a bias, which every convolution has.
        convolution: Of a convolution with its tensors and their names.
        reshape: Of what a one-dimensional convolution has beside it.
        gather: Of a gather.
        slice: Of a slice, padding or operand of a concatenation.
    """

    entry: int
    least: int
    channel: int
    bias: int
    convolution: int
    reshape: int
    gather: int
    slice: int

    def kernel(self, size):
        """Bytes of a kernel of so many entries."""
        return size * (_FLOAT if size < self.least else self.entry)

    def one_hot(self, size, channels):
        """Bytes of a convolution's kernel and bias that pick channels."""
        scales = 0 if size < self.least else self.channel * channels
        return self.kernel(size) + scales + self.bias * channels


_FLOAT = 4  # bytes
_INDEX = 4
_NAME = 11  # letters of the key of the kernel that `FILES` was measured with
_NUM_NAMES = 3  # of an operation's tensors
FILES = {
    "float32": FileCosts(4, 0, 0, 4, 480, 400, 420, 320),
    "float16": FileCosts(2, 0, 0, 2, 640, 420, 520, 380),
    "dynamic_range": FileCosts(1, 1024, 12, 4, 480, 400, 420, 320),
    "int8": FileCosts(1, 0, 24, 4, 560, 480, 560, 420),
}


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
        """The predicted time of what `operation_counts` returned."""
        return sum(getattr(self, name) * n for name, n in sizes.items())


# By number of threads.
MODELS = {
    1: CostModel(0.10, 0.13, 0.21, 17.2, 51.0, 51.8, 1912, 288),
    2: CostModel(1.40, 0.14, 1.22, 9.1, 133.4, 43.9, 1922, 404),
}
_NAMES = tuple(field.name for field in dataclasses.fields(CostModel))


def operation_counts(sparse, lowering=None):
    """How much of each primitive a layer needs, per sample.

    Args:
        sparse: The `SparseKernel`; its sizes are known.
        lowering: A `Lowering`, or `None` for the dense kernel.

    Returns:
        dict from the name of a coefficient of `CostModel` to a number.
    """
    sizes = dict.fromkeys(_NAMES, 0.0)
    shape = sparse.array.shape
    if lowering is not None:
        shape = lowering.kernel(sparse.array).shape
        _add_gather(sizes, sparse, lowering, (sparse.space, sparse.new_space))
    _convolve(sizes, sparse.new_space, shape)
    return {n: v if n in _COUNTS else v / 1e6 for n, v in sizes.items()}


def file_bytes(sparse, lowering=None, quantize="float32"):
    """Bytes that a layer takes in a file, its bias aside, at the most.

    Args:
        sparse: The `SparseKernel`.
        lowering: A `Lowering`, or `None` for the dense kernel, whose bytes
            are exact.
        quantize: How the file is quantized, a key of `FILES`.
    """
    costs = FILES[quantize]
    if lowering is None:
        return costs.kernel(sparse.array.size)
    sizes = dict.fromkeys(_NAMES, 0.0)
    _add_gather(sizes, sparse, lowering, ((1,), (1,)))
    total = costs.kernel(lowering.kernel(sparse.array).size)
    number, channels = len(lowering.columns), sparse.array.shape[-2]
    if not lowering.keeps_window and lowering.method != "patches":
        total += costs.one_hot(number * math.prod(sparse.window), number)
    if lowering.method in ("gather", "patches"):
        total += _INDEX * number
    if lowering.method == "pointwise":
        total += costs.one_hot(number * channels, number)
    # Names of tensors are as long as the path of the layer.
    names = _NUM_NAMES * max(0, len(sparse.key) - _NAME)
    reshape = costs.reshape if len(sparse.window) == 1 else 0
    total += sizes["convolutions"] * (costs.convolution + reshape + names)
    total += sizes["gathers"] * (costs.gather + names)
    total += sizes["slices"] * (costs.slice + names)
    return int(total)


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


def _add_gather(sizes, sparse, lowering, spaces):
    before, after = map(math.prod, spaces)
    number, inputs = len(lowering.columns), sparse.array.shape[-2]
    positions, channels = np.divmod(np.array(lowering.columns), inputs)
    if lowering.method == "patches":
        # To take every other position is as slow as a gather.
        slicing = "copied" if before == after else "gathered"
        for _, run in runs_by_position(positions):
            width = len(channels[run])
            if len(runs(channels[run])) > 1:
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
        pieces = runs(channels)
        sizes["slices"] += 2 * len(pieces)
        joined = after * number if len(pieces) > 1 else 0
        sizes["copied"] += before * number + joined
    if not lowering.keeps_window:
        widths = [_filled(len(channels[piece])) for piece in pieces]
        sizes["convolutions"] += len(pieces)
        sizes["shifts"] += after * sum(widths) * math.prod(sparse.window)
