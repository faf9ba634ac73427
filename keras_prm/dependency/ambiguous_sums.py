"""Sums that go along another axis where sizes happen to be equal.

On TensorFlow `keras.ops.add` hands a second operand on as a bias where it is
a vector, but for axes of length 1, of as many entries as the first operand
has channels, or else positions on axis 1; wherever its entries lie, they go
along the channels. A width chosen by `strip` must not meet such a case, and
one that a model has of its own means what TensorFlow makes of it.
`benchmarks/coincidences.py` searches for other operators of this sort.
"""

from __future__ import annotations

import functools
import itertools

import keras
import numpy as np
from keras import layers

from keras_prm.utils import keras_graph
from keras_prm.utils import replay

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
    return before < 0 or axis < before or second[axis - before] == 1


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


def is_sum(node):
    """True for a call that adds up its operands."""
    kind = type(node.operation)
    return kind in _LAYERS or _is_operator(kind)


def _is_operator(kind):
    is_own = kind.__module__.startswith("keras.src.ops.")
    return is_own and kind.__name__ == "Add"


def reason(node):
    """Why a sum of tensors cannot be told by their axes, or `None`."""
    if not (is_followed() and is_sum(node)):
        return None
    shapes = _aligned(node.inputs, type(node.operation) in _LAYERS)
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


def placed(node, operands):
    """The operands of a call, a constant array where the backend puts it.

    Args:
        node: The `keras_graph.Node` of an operator, in the model as it is.
        operands: What is given it, here or in the smaller model.

    Returns:
        list of the same, the array reshaped so that NumPy adds it as the
        backend does.
    """
    operands = list(operands)
    if not (is_followed() and _is_operator(type(node.operation))):
        return operands
    shapes = [np.shape(x) for x in node.arguments.args[:2]]
    if is_misplaced(*shapes) and not keras.backend.is_keras_tensor(operands[1]):
        rank, axis = len(shapes[0]), axis_of(*shapes)
        shape = [-1 if i == axis else 1 for i in range(rank)]
        array = keras.ops.convert_to_numpy(operands[1])
        operands[1] = array.reshape(shape)
    return operands


# What is rebuilt.


def safe(node, args):
    """The arguments of a rebuilt sum so that it means the same everywhere.

    Operands change places, or one is broadcast, where the sizes of the
    smaller model would lead TensorFlow another way, be it for one size of
    the batch, or of another axis that is not known.

    Args:
        node: The `keras_graph.Node` that is rebuilt.
        args: Its arguments in the smaller model.

    Returns:
        list of arguments.
    """
    if not is_sum(node):
        return args
    if _is_operator(type(node.operation)):
        return [*_safe_pair(*args[:2]), *args[2:]]
    return [_safe_list(args[0]), *args[1:]]


def is_safe(node):
    """Whether a call, as it is, means the same on every backend."""
    args = [*node.arguments.args]
    operands = args[0] if type(node.operation) in _LAYERS else args
    found = safe(node, args)
    found = found[0] if operands is not args else found
    return all(a is b for a, b in zip(operands, found))


def with_safe_sums(view):
    """A model whose sums TensorFlow adds as this backend adds those of `view`.

    Whatever the batch. Its layers are the model's own.

    Args:
        view: A functional model with a list of inputs.

    Returns:
        `view` where its sums are safe as they are, else another model.
    """
    if all(map(is_safe, keras_graph.all_nodes(view))):
        return view
    return replay.model(view, view.inputs, _call_safely)


def _call_safely(node, args, kwargs):
    return node.operation(*safe(node, placed(node, args)), **kwargs)


def _safe_list(tensors):
    """The operands of a layer in an order that is safe.

    Where there is none, all but one lack positions or channels, of which
    there are equally many; one that has the channels is then made as large
    as the sum, times 1.
    """
    shapes = _aligned(tensors, is_layer=True)
    order = safe_order(shapes)
    if order is not None:
        return [tensors[i] for i in order]
    whole = functools.reduce(_broadcast, shapes)
    for i, shape in enumerate(shapes):
        wider = [*shapes]
        wider[i] = _broadcast(shape, _ones_shape(whole))
        order = safe_order(wider) if shape[-1] != 1 else None
        if order is not None:
            wide = _times_one(tensors[i], whole)
            return [wide if j == i else tensors[j] for j in order]
    return [*tensors]  # sizes that are not known may still meet


def _ones_shape(whole):
    """The shape of an array of ones by which a tensor gets as large."""
    return (1, *(n or 1 for n in whole[1:]))


def _times_one(x, whole):
    return keras.ops.multiply(x, keras.ops.ones(_ones_shape(whole), x.dtype))


def safe_order(shapes):
    """An order to add up operands in, from the left, that is always safe.

    A sum is taken for one with a bias only where its second operand is a
    vector: long on one axis p, of n entries. With positions (axis 1) and
    channels (the last axis) as two axes, it goes astray, by `axis_of`,

    * p no channels: where what was added up so far has n channels, or n
      positions that are not p;
    * p the channels: where it has n positions and no channels.

    The operand that comes first is no second one. So for an operand without
    channels, the more there is already, the worse; call it *late* if it is
    safe even beside the whole sum. The order is

    1. those without channels that are not late, first those without
       positions: each meets no channels, and positions only where it has them
       itself, so that, if it is a vector, it lies along them;
    2. those with channels, first one that is safe beside the sum so far. From
       then on there are channels, with which the others agree;
    3. those that are late.

    If no operand may come first in 2, all of them may be vectors, and some a
    of 1 has positions, as many as there are channels. In any other order,
    a stands after the first with channels, where a goes astray, or else
    before it, where that one does: no order is safe then. Operands whose
    length on an axis is not known count as of any length.

    Args:
        shapes: Tuples of one rank, of operands that broadcast.

    Returns:
        list of indices, those in order if that is safe; `None` if no order
        is.
    """
    order = [*range(len(shapes))]
    if _is_safe_order(shapes):
        return order
    whole = functools.reduce(_broadcast, shapes)
    late = [_never_misplaced(whole, shape) for shape in shapes]
    early = [i for i in order if not late[i]]
    early.sort(key=lambda i: shapes[i][1] != 1)
    total = functools.reduce(_broadcast, (shapes[i] for i in early), ())
    wide = [i for i in order if late[i] and shapes[i][-1] != 1]
    wide.sort(key=lambda i: not _never_misplaced(total, shapes[i]))
    late = [i for i in order if late[i] and shapes[i][-1] == 1]
    order = early + wide + late
    return order if _is_safe_order([shapes[i] for i in order]) else None


def _is_safe_order(shapes):
    return all(_never_misplaced(*pair) for pair in _pairs(shapes))


def _aligned(tensors, is_layer):
    """Shapes of operands; a layer puts axes in behind the batch."""
    shapes = [tuple(np.shape(x)) for x in tensors]
    rank = max(map(len, shapes)) if is_layer else 0
    return [s[:1] + (1,) * (rank - len(s)) + s[1:] for s in shapes]


def _safe_pair(first, second):
    for pair in ((first, second), (second, first)):
        if _never_misplaced(*pair):
            return pair
    if not keras.backend.is_keras_tensor(first):
        return second, _spread(first, second)
    if not keras.backend.is_keras_tensor(second):
        return first, _spread(second, first)
    whole = _broadcast(first.shape, second.shape)
    if _never_misplaced(
        first.shape, _broadcast(second.shape, _ones_shape(whole))
    ):
        second = _times_one(second, whole)
    return first, second


def _never_misplaced(*operands):
    """Whether a second operand goes where NumPy puts it, whatever the sizes.

    Args:
        operands: Two tensors, arrays or shapes.
    """
    shapes = [x if isinstance(x, tuple) else np.shape(x) for x in operands]
    by_axis = {}  # which are counted from the last
    for shape in shapes:
        for axis, n in enumerate(shape, -len(shape)):
            by_axis.setdefault(axis, set()).add(n)
    known = set().union(*by_axis.values()) - {None}
    any_size = {1, *known, max(known, default=1) + 1}
    unknown = {
        axis: {1, *(found - {None})} if found - {None, 1} else any_size
        for axis, found in by_axis.items()
        if None in found
    }
    for found in itertools.product(*unknown.values()):
        sizes = dict(zip(unknown, found))
        if is_misplaced(*(_with_sizes(shape, sizes) for shape in shapes)):
            return False
    return True


def _with_sizes(shape, sizes):
    return tuple(
        sizes[axis] if n is None else n
        for axis, n in enumerate(shape, -len(shape))
    )


def _spread(array, x):
    """An array as large as the sum with a tensor, but for the batch."""
    shape = _broadcast(np.shape(array), (1, *x.shape[1:]))
    shape = [1 if n is None else n for n in shape]
    array = keras.ops.convert_to_numpy(array)
    return np.ascontiguousarray(np.broadcast_to(array, shape))
