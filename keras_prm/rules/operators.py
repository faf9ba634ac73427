"""Rules of operators: the table of `keras.ops`."""

from __future__ import annotations

import keras
import numpy as np

from keras_prm.dependency import ambiguous_sums
from keras_prm.dependency import constants
from keras_prm.rules import axes
from keras_prm.rules.base import Rule
from keras_prm.rules.base import pin
from keras_prm.rules.merging import concatenate
from keras_prm.rules.merging import join
from keras_prm.rules.passthrough import elementwise
from keras_prm.rules.reshaping import reshape

# Elementwise operators.


def _unary(call):
    if len(call.inputs) == 1 and all(np.ndim(x) == 0 for x in _others(call)):
        elementwise(call)
    else:
        pin(call, "it is called with several tensors")


def unary():
    """One tensor, and numbers."""
    return Rule(_unary)


def _clip(call):
    bounds = (call.layer.x_min, call.layer.x_max)
    if any(np.ndim(x) for x in bounds):
        pin(call, "its bounds are arrays")
    else:
        elementwise(call)


def binary(combine):
    """Two tensors, or one with a number or an array of constants.

    Args:
        combine: Maps arrays of constants to the constants that result; or
            `None` where two tensors are more than the rule can say.
    """

    def trace(call):
        others = _others(call)
        if len(call.inputs) == 2 and not others and combine:
            join(combine)(call)
        elif len(call.inputs) == 1 and all(np.ndim(x) == 0 for x in others):
            elementwise(call)
        elif len(call.inputs) == 1 and len(others) == 1 and combine:
            _with_array(call, combine)
        else:
            pin(call, "it joins a tensor with an array")

    return Rule(trace, rewrite=_slice_array)


def _others(call):
    """The arguments of a call that are not tensors."""
    given = (call.node.arguments.args, call.node.arguments.kwargs)
    return [
        x
        for x in (*given[0], *given[1].values())
        if not isinstance(x, keras.KerasTensor)
    ]


def _operands(node):
    """The two operands of a call, in order, arrays as float64."""
    arguments = node.arguments
    given = [*arguments.args, *arguments.kwargs.values()][:2]
    given = ambiguous_sums.placed(node, given)
    return [
        x
        if isinstance(x, keras.KerasTensor)
        else keras.ops.convert_to_numpy(x).astype("float64")
        for x in given
    ]


def _with_array(call, combine):
    x, out = call.inputs[0], call.outputs[0]
    operands = _operands(call.node)
    rank = len(x.shape)
    array = next(a for a in operands if isinstance(a, np.ndarray))
    if array.ndim > rank or (array.ndim == rank and array.shape[0] != 1):
        pin(call, "it joins a tensor with an array of more axes")
        return
    widths = (1,) * (rank - array.ndim) + array.shape
    array = array.reshape(widths)
    first = operands[0] is call.node.inputs[0]
    for axis in range(1, rank):
        if x.ids[axis] is None:
            continue
        if x.shape[axis] == 1 < widths[axis]:
            call.graph.read(x, axis, f"'{call.path}' broadcasts it")
            continue

        def image(inputs, axis=axis):
            shape = [1] * rank
            shape[axis] = -1
            pair = [inputs.reshape(shape), array]
            pair = np.broadcast_arrays(*(pair if first else pair[::-1]))
            with np.errstate(all="ignore"):
                found = np.moveaxis(combine(*pair), axis, 0)
            found = found.reshape(len(inputs), -1)
            same = (found == found[:, :1]).all(axis=1)
            return np.where(
                same & np.isfinite(found[:, 0]), found[:, 0], np.nan
            )

        call.move((x, axis), (out, axis), image)


def _slice_array(node, args, kwargs, keep):
    """Cuts an array of constants as the tensor it is joined with."""
    if len(node.inputs) != 1:
        return args, kwargs
    x = node.inputs[0]

    def cut(value):
        if keras.backend.is_keras_tensor(value) or np.ndim(value) == 0:
            return value
        array = whole = keras.ops.convert_to_numpy(value)
        for axis in range(array.ndim):
            of_tensor = axis - array.ndim + len(x.shape)
            if array.shape[axis] == x.shape[of_tensor] and of_tensor > 0:
                array = np.compress(keep(x, of_tensor), array, axis)
        return value if array.shape == whole.shape else array

    args = ambiguous_sums.placed(node, args)
    return [cut(a) for a in args], {k: cut(a) for k, a in kwargs.items()}


_ELEMENTWISE = (
    "Relu Relu6 LeakyRelu Elu Selu Celu Gelu Silu Sigmoid Tanh Softplus "
    "Softsign HardSigmoid HardSilu HardTanh LogSigmoid Exp Expm1 Log Log1p "
    "Sqrt Rsqrt Square Absolute Negative Sign Sin Cos Erf Reciprocal Floor "
    "Ceil Round Cast StopGradient"
).split()

OPERATIONS = {
    **{name: unary() for name in _ELEMENTWISE},
    "Clip": Rule(_clip),
    "Add": binary(constants.add),
    "Subtract": binary(constants.subtract),
    "Multiply": binary(constants.multiply),
    "Divide": binary(constants.divide),
    "TrueDivide": binary(constants.divide),
    "Maximum": binary(constants.maximum),
    "Minimum": binary(constants.minimum),
    **{
        name: binary(None)
        for name in (
            "Power Equal NotEqual Greater GreaterEqual Less LessEqual"
        ).split()
    },
    "GetItem": Rule(axes.get_item, rewrite=axes.rewrite_get_item),
    "Concatenate": Rule(concatenate),
    "Split": Rule(axes.split, configure=axes.configure_split),
    "Transpose": axes.transposition(axes.named),
    "Swapaxes": axes.transposition(axes.swapped),
    "Moveaxis": axes.transposition(axes.moved_axes),
    "ExpandDims": Rule(axes.expand_dims),
    "Squeeze": Rule(axes.squeeze, configure=axes.configure_squeeze),
    "Reshape": Rule(reshape, configure=axes.configure_reshape),
    "Pad": Rule(axes.pad),
    "Mean": axes.reduction(constants.same),
    "Max": axes.reduction(constants.same),
    "Amax": axes.reduction(constants.same),
    "Min": axes.reduction(constants.same),
    "Amin": axes.reduction(constants.same),
    "Sum": axes.reduction(constants.zero_stays, is_sum=True),
    "Matmul": Rule(axes.matmul),
}
