"""Operators whose meaning depends on sizes that happen to be equal.

    python -m benchmarks.coincidences --max_rank=4

compares operators of `keras.ops` with NumPy's, at all small shapes in which
widths, time steps, batch and constants may coincide, and prints where they
differ. On TensorFlow that is `add` alone, whose second operand goes along
another axis where it is a vector, but for axes of length 1, of as many
entries as the first operand has channels. `utils/ambiguous_sums` describes
it; on JAX and PyTorch the list is empty. Run it anew on each new Keras.
"""

from __future__ import annotations

import itertools

import keras
import numpy as np
from absl import app
from absl import flags
from keras import ops

FLAGS = flags.FLAGS
flags.DEFINE_integer("max_rank", 3, "The largest rank, the batch included.")

SIZES = (1, 2, 3)
BINARY = (
    "add subtract multiply divide true_divide floor_divide maximum minimum "
    "power mod equal not_equal greater greater_equal less less_equal arctan2 "
    "hypot logaddexp logaddexp2 fmod heaviside "
    "logical_and logical_or logical_xor"
).split()
ALONG_AN_AXIS = (
    "sum mean max min prod any all var std argmax argmin cumsum cumprod "
    "median sort flip squeeze expand_dims roll repeat diff"
).split()


def binary_cases(names=BINARY, max_rank=3):
    """`(name, shapes)`: two operands of which one broadcasts."""
    for name in names:
        for rank in range(2, max_rank + 1):
            for shape in itertools.product(SIZES, repeat=rank):
                for other in _broadcasting(shape):
                    yield name, (shape, other)
                    yield name, (other, shape)


def _broadcasting(shape):
    """Shapes that broadcast to `shape`, of its rank and of less."""
    for rank in range(1, len(shape) + 1):
        sizes = [sorted({1, n}) for n in shape[len(shape) - rank :]]
        yield from itertools.product(*sizes)


def other_cases(max_rank=3):
    """`(name, shapes, arguments)` of what is no elementwise pair."""
    for rank in range(2, max_rank + 1):
        for shape in itertools.product(SIZES, repeat=rank):
            for name in ALONG_AN_AXIS:
                for axis in range(1, rank):
                    yield from _along(name, shape, axis)
            yield "squeeze", (shape,), {}
            for wide in SIZES:
                for name in ("matmul", "dot"):
                    yield name, (shape, (shape[-1],)), {}
                    yield name, (shape, (shape[-1], wide)), {}
                last = (*shape[:-2], shape[-1], wide)
                yield "matmul", (shape, last), {}
            yield "tensordot", (shape, shape[1:]), {"axes": rank - 1}
            yield "inner", (shape, (shape[-1],)), {}
            yield "where", (shape, shape, (1,) * rank), {}
            for other in _broadcasting(shape):
                yield "where", (shape, shape, other), {}
                yield "where", (shape, other, shape), {}
                yield "where", (other, shape, shape), {}


def _along(name, shape, axis):
    if name == "squeeze" and shape[axis] != 1:
        return
    arguments = {"axis": axis}
    if name == "roll":
        arguments["shift"] = 1
    if name == "repeat":
        arguments["repeats"] = 2
    yield name, (shape,), arguments


def results(name, shapes, arguments, rng):
    """What Keras and NumPy compute of the same numbers; `None`: not had."""
    arrays = [_different_numbers(shape, rng) for shape in shapes]
    if name == "where":
        arrays[0] = arrays[0] > arrays[0].mean()
    elif name.startswith("logical"):
        arrays = [a > a.mean() for a in arrays]
    found = ops.convert_to_numpy(getattr(ops, name)(*arrays, **arguments))
    return found, getattr(np, name)(*arrays, **arguments)


def _different_numbers(shape, rng):
    numbers = rng.permutation(int(np.prod(shape))) + 1
    return numbers.reshape(shape).astype("float32") / 4


def differing(cases, rng):
    """The cases in which Keras and NumPy differ.

    Returns:
        list of `(name, shapes)`.
    """
    found = []
    for name, shapes, *more in cases:
        ours, theirs = results(name, shapes, more[0] if more else {}, rng)
        same = ours.shape == theirs.shape
        if not same or not np.allclose(ours, theirs, 1e-5, 1e-5):
            found.append((name, shapes))
    return found


def main(_):
    rng = np.random.default_rng(0)
    print(f"Backend: {keras.backend.backend()}")
    rank, count = FLAGS.max_rank, 0
    cases = [*binary_cases(max_rank=rank), *other_cases(rank)]
    cases.sort(key=lambda case: case[0])
    for name, group in itertools.groupby(cases, lambda case: case[0]):
        group = list(group)
        count += len(group)
        if found := differing(group, rng):
            print(f"{name}: {len(found)} of {len(group)}, as {found[:3]}")
    print(f"{count:,} calls compared.")


if __name__ == "__main__":
    app.run(main)
