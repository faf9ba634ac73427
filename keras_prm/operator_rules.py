"""Rules of operators: what `keras.ops` does to tensors in a model."""

from __future__ import annotations

import keras
import numpy as np

from keras_prm import axis_rules
from keras_prm import coincidences
from keras_prm import constants
from keras_prm.channel_rules import concatenate
from keras_prm.channel_rules import elementwise
from keras_prm.channel_rules import join
from keras_prm.channel_rules import reshape
from keras_prm.sites import Rule
from keras_prm.sites import pin

# Elementwise operators.


def _unary(site):
    if len(site.inputs) == 1 and all(np.ndim(x) == 0 for x in _others(site)):
        elementwise(site)
    else:
        pin(site, "it is called with several tensors")


def unary():
    """One tensor, and numbers."""
    return Rule(_unary)


def _clip(site):
    bounds = (site.layer.x_min, site.layer.x_max)
    if any(np.ndim(x) for x in bounds):
        pin(site, "its bounds are arrays")
    else:
        elementwise(site)


def binary(combine):
    """Two tensors, or one with a number or an array of constants.

    Args:
        combine: Maps arrays of constants to the constants that result; or
            `None` where two tensors are more than the rule can say.
    """

    def trace(site):
        others = _others(site)
        if len(site.inputs) == 2 and not others and combine:
            join(combine)(site)
        elif len(site.inputs) == 1 and all(np.ndim(x) == 0 for x in others):
            elementwise(site)
        elif len(site.inputs) == 1 and len(others) == 1 and combine:
            _with_array(site, combine)
        else:
            pin(site, "it joins a tensor with an array")

    return Rule(trace, rewrite=_slice_array)


def _others(site):
    """The arguments of a call that are not tensors."""
    given = (site.call.arguments.args, site.call.arguments.kwargs)
    return [
        x
        for x in (*given[0], *given[1].values())
        if not isinstance(x, keras.KerasTensor)
    ]


def _operands(call):
    """The two operands of a call, in order, arrays as float64."""
    arguments = call.arguments
    given = [*arguments.args, *arguments.kwargs.values()][:2]
    given = coincidences.placed(call, given)
    return [
        x
        if isinstance(x, keras.KerasTensor)
        else keras.ops.convert_to_numpy(x).astype("float64")
        for x in given
    ]


def _with_array(site, combine):
    x, out = site.inputs[0], site.outputs[0]
    operands = _operands(site.call)
    rank = len(x.shape)
    array = next(a for a in operands if isinstance(a, np.ndarray))
    if array.ndim > rank or (array.ndim == rank and array.shape[0] != 1):
        pin(site, "it joins a tensor with an array of more axes")
        return
    widths = (1,) * (rank - array.ndim) + array.shape
    array = array.reshape(widths)
    first = operands[0] is site.call.inputs[0]
    for axis in range(1, rank):
        if x.ids[axis] is None:
            continue
        if x.shape[axis] == 1 < widths[axis]:
            site.trace.read(x, axis, f"'{site.path}' broadcasts it")
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

        site.move((x, axis), (out, axis), image)


def _slice_array(call, args, kwargs, keep):
    """Cuts an array of constants as the tensor it is joined with."""
    if len(call.inputs) != 1:
        return args, kwargs
    x = call.inputs[0]

    def cut(value):
        if keras.backend.is_keras_tensor(value) or np.ndim(value) == 0:
            return value
        array = whole = keras.ops.convert_to_numpy(value)
        for axis in range(array.ndim):
            of_tensor = axis - array.ndim + len(x.shape)
            if array.shape[axis] == x.shape[of_tensor] and of_tensor > 0:
                array = np.compress(keep(x, of_tensor), array, axis)
        return value if array.shape == whole.shape else array

    args = coincidences.placed(call, args)
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
    "GetItem": Rule(axis_rules.get_item, rewrite=axis_rules.rewrite_get_item),
    "Concatenate": Rule(concatenate),
    "Split": Rule(axis_rules.split, configure=axis_rules.configure_split),
    "Transpose": axis_rules.transposition(axis_rules.named),
    "Swapaxes": axis_rules.transposition(axis_rules.swapped),
    "Moveaxis": axis_rules.transposition(axis_rules.moved_axes),
    "ExpandDims": Rule(axis_rules.expand_dims),
    "Squeeze": Rule(axis_rules.squeeze, configure=axis_rules.configure_squeeze),
    "Reshape": Rule(reshape, configure=axis_rules.configure_reshape),
    "Pad": Rule(axis_rules.pad),
    "Mean": axis_rules.reduction(constants.same),
    "Max": axis_rules.reduction(constants.same),
    "Amax": axis_rules.reduction(constants.same),
    "Min": axis_rules.reduction(constants.same),
    "Amin": axis_rules.reduction(constants.same),
    "Sum": axis_rules.reduction(constants.zero_stays, is_sum=True),
    "Matmul": Rule(axis_rules.matmul),
}
