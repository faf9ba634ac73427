"""Sums that go along another axis where sizes happen to be equal.

On TensorFlow `keras.ops.add` hands a second operand on as a bias where it is
a vector, but for axes of length 1, of as many entries as the first operand
has channels, or else positions on axis 1; wherever its entries lie, they go
along the channels. A width chosen by `strip` must not meet such a case, and
one that a model has of its own means what TensorFlow makes of it.
`benchmarks/coincidences.py` searches for other operators of this sort.
"""

from __future__ import annotations

import itertools

import keras
import numpy as np
from keras import layers

_LAYERS = (layers.Add, layers.Average)


def axis_of(first, second):
    """Where TensorFlow takes the second operand of a sum for a bias.

    Args:
        first: Shape of the first operand, `None` where not known.
        second: Shape of the second one.

    Returns:
        The axis of the first along which it goes, or `None` where the two
        are broadcast as elsewhere.
    """
    long = [n for n in second if n != 1]
    if len(long) != 1 or None in long or len(first) < 2:
        return None
    for axis in (len(first) - 1, 1):
        if first[axis] == long[0]:
            return axis
    return None


def is_misplaced(first, second):
    """Whether TensorFlow adds two shapes otherwise than NumPy does."""
    axis = axis_of(first, second)
    if axis is None:
        return False
    before = len(first) - len(second)
    return before < 0 or second[axis - before] == 1 or axis < before


def bias_goes_astray(shape, axes):
    """Whether a bias along some axes of a tensor goes along others.

    Args:
        shape: The tensor's shape.
        axes: The axes that the bias has.
    """
    bias = [n if axis in axes else 1 for axis, n in enumerate(shape)]
    return is_misplaced(shape, bias)


def bias_may_go_astray(shape, axes):
    """As `bias_goes_astray`, whatever the sizes are that are not known."""
    return any(
        bias_goes_astray([size if n is None else n for n in shape], axes)
        for size in [None, *(shape[axis] for axis in axes)]
    )


def is_followed():
    """Whether Keras runs on the backend that adds in this way."""
    return keras.backend.backend() == "tensorflow"


# What a model has of its own.


def is_sum(call):
    """True for a call that adds up its operands."""
    kind = type(call.operation)
    return kind in _LAYERS or _is_operator(kind)


def _is_operator(kind):
    is_own = kind.__module__.startswith("keras.src.ops.")
    return is_own and kind.__name__ == "Add"


def reason(call):
    """Why a sum of tensors cannot be told by their axes, or `None`."""
    if not (is_followed() and is_sum(call)):
        return None
    shapes = [tuple(x.shape) for x in call.inputs]
    if any(is_misplaced(*pair) for pair in _pairs(shapes)):
        return (
            f"TensorFlow adds {shapes[1]} to {shapes[0]} along another axis, "
            "as a bias of as many entries"
        )
    return None


def _pairs(shapes):
    """The shapes of the two operands of each addition, in order."""
    total = shapes[0]
    for shape in shapes[1:]:
        yield total, shape
        total = _broadcast(total, shape)


def _broadcast(first, second):
    rank = max(len(first), len(second))
    both = [(1,) * (rank - len(s)) + tuple(s) for s in (first, second)]
    return tuple(n if m == 1 else m for m, n in zip(*both))


def placed(call, operands):
    """The operands of a call, a constant array where the backend puts it.

    Args:
        call: The `topology.Call` of an operator, in the model as it is.
        operands: What is given it, here or in the smaller model.

    Returns:
        list of the same, the array reshaped so that NumPy adds it as the
        backend does.
    """
    operands = list(operands)
    if not (is_followed() and _is_operator(type(call.operation))):
        return operands
    shapes = [np.shape(x) for x in call.arguments.args[:2]]
    if is_misplaced(*shapes) and not keras.backend.is_keras_tensor(operands[1]):
        rank, axis = len(shapes[0]), axis_of(*shapes)
        shape = [-1 if i == axis else 1 for i in range(rank)]
        array = keras.ops.convert_to_numpy(operands[1])
        operands[1] = array.reshape(shape)
    return operands


# What is rebuilt.


def safe(call, args):
    """The arguments of a rebuilt sum so that it means the same everywhere.

    Operands change places, or a constant array is broadcast, where the sizes
    of the smaller model would lead TensorFlow another way, be it for one size
    of the batch only.

    Args:
        call: The `topology.Call` that is rebuilt.
        args: Its arguments in the smaller model.

    Returns:
        list of arguments.
    """
    if not is_sum(call):
        return args
    if _is_operator(type(call.operation)):
        return [*_safe_pair(*args[:2]), *args[2:]]
    orders = itertools.permutations(args[0])
    found = next(filter(_is_safe_order, orders), args[0])
    return [list(found), *args[1:]]


def is_safe(call):
    """Whether a call, as it is, means the same on every backend."""
    args = [*call.arguments.args]
    operands = args[0] if type(call.operation) in _LAYERS else args
    found = safe(call, args)
    found = found[0] if operands is not args else found
    return all(a is b for a, b in zip(operands, found))


def _is_safe_order(tensors):
    total = tensors[0]
    for x in tensors[1:]:
        if not _never_misplaced(total, x):
            return False
        total = keras.KerasTensor(_broadcast(total.shape, x.shape))
    return True


def _safe_pair(first, second):
    for pair in ((first, second), (second, first)):
        if _never_misplaced(*pair):
            return pair
    if keras.backend.is_keras_tensor(first):
        return first, _spread(second, first)
    return second, _spread(first, second)


def _never_misplaced(first, second):
    shapes = np.shape(first), np.shape(second)
    batches = {None, 1, *shapes[0], *shapes[1]}
    return not any(
        is_misplaced(*(_with_batch(s, n) for s in shapes)) for n in batches
    )


def _with_batch(shape, size):
    return (size, *shape[1:]) if shape and shape[0] is None else shape


def _spread(array, x):
    """An array as large as the sum with a tensor, but for the batch."""
    if keras.backend.is_keras_tensor(array):
        return array
    shape = _broadcast(np.shape(array), (1, *x.shape[1:]))
    shape = [1 if n is None else n for n in shape]
    array = keras.ops.convert_to_numpy(array)
    return np.ascontiguousarray(np.broadcast_to(array, shape))
