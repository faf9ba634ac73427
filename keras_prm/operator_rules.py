"""Rules of operators: what `keras.ops` does to tensors in a model."""

from __future__ import annotations

import keras
import numpy as np

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
            site.trace.fix(x.ids[axis], f"'{site.path}' broadcasts it")
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

    return [cut(a) for a in args], {k: cut(a) for k, a in kwargs.items()}


# Operators that pick, move or drop axes.


def _get_item(site):
    x, out = site.inputs[0], site.outputs[0]
    entries = _entries(site.call)
    if entries is None:
        pin(site, "it picks from the batch, or not by slices and integers")
        return
    for axis, (entry, target) in enumerate(entries):
        if x.ids[axis] is None:
            continue
        if target is None:
            site.trace.read(x, axis, f"'{site.path}' picks one of them")
            continue
        at = np.arange(x.shape[axis])[entry]
        if len(at) and (np.diff(at) != 1).any():
            site.trace.fix(x.ids[axis], f"'{site.path}' picks every other one")
        out.ids[target] = x.ids[axis][at]
        every = np.arange(len(at))
        site.trace.flow([(x, axis, at)], (out, target, every), constants.same)


def _entries(call):
    """Per axis of the tensor `(index, axis of the result or None)`."""
    x = call.inputs[0]
    key = [*call.arguments.args, *call.arguments.kwargs.values()][1]
    key = key if isinstance(key, tuple) else (key,)
    known = (slice, int, np.integer, type(None), type(Ellipsis))
    if not all(isinstance(k, known) for k in key) or len(call.inputs) > 1:
        return None
    picked = sum(not (k is None or k is Ellipsis) for k in key)
    spare = [slice(None)] * (len(x.shape) - picked)
    at = next((i for i, k in enumerate(key) if k is Ellipsis), len(key))
    found, target = [], 0
    for k in (*key[:at], *spare, *key[at + 1 :]):
        if k is None:
            target += 1
        elif isinstance(k, slice):
            found.append((k, target))
            target += 1
        else:
            found.append((k, None))
    if found[0] != (slice(None), 0):
        return None
    return found


def _rewrite_get_item(call, args, kwargs, keep):
    """Moves the ends of slices to where their positions are now."""
    entries = _entries(call)
    if entries is None:
        return args, kwargs
    x = call.inputs[0]
    cuts = iter(
        _moved(entry, keep(x, axis)) if target is not None else entry
        for axis, (entry, target) in enumerate(entries)
    )
    given = [*args, *kwargs.values()]
    key = given[1] if isinstance(given[1], tuple) else (given[1],)
    new = []
    for k in key:
        if k is Ellipsis:
            missing = len(x.shape) - sum(
                not (j is None or j is Ellipsis) for j in key
            )
            new += [next(cuts) for _ in range(missing)]
        else:
            new.append(k if k is None else next(cuts))
    return [given[0], tuple(new)], {}


def _moved(entry, keep):
    """A slice of the positions that are kept."""
    if not isinstance(entry, slice) or keep is None or keep.all():
        return entry
    start, stop, _ = entry.indices(len(keep))
    return slice(int(keep[:start].sum()), int(keep[:stop].sum()))


def _split(site):
    x = site.inputs[0]
    along = site.layer.axis % len(x.shape)
    if along == 0:
        pin(site, "it splits the batch")
        return
    start = 0
    for out in site.outputs:
        for axis in range(1, len(x.shape)):
            if axis != along:
                site.move((x, axis), (out, axis))
        if x.ids[along] is not None:
            every = np.arange(out.shape[along])
            out.ids[along] = x.ids[along][start + every]
            source = (x, along, start + every)
            site.trace.flow([source], (out, along, every), constants.same)
        start += out.shape[along] or 0


def _configure_split(call, keep):
    along = call.operation.axis % len(call.inputs[0].shape)
    if call.inputs[0].shape[along] is None:
        return {}
    widths = [int(keep(x, along).sum()) for x in call.outputs]
    return {"indices_or_sections": np.cumsum(widths)[:-1].tolist()}


def _transposition(axes_of):
    """Axes that change places; `axes_of(operation, rank)` names sources."""

    def trace(site):
        x, out = site.inputs[0], site.outputs[0]
        axes = [a % len(x.shape) for a in axes_of(site.layer, len(x.shape))]
        if axes[0] != 0:
            pin(site, "it moves the batch")
            return
        for target, source in enumerate(axes):
            if target:
                site.move((x, source), (out, target))

    return Rule(trace)


def _swapped(operation, rank):
    axes = list(range(rank))
    one, other = operation.axis1 % rank, operation.axis2 % rank
    axes[one], axes[other] = axes[other], axes[one]
    return axes


def _moved_axes(operation, rank):
    return np.moveaxis(
        np.empty(range(rank)), operation.source, operation.destination
    ).shape


def _named(operation, rank):
    axes = operation.axes
    return range(rank)[::-1] if axes is None else axes


def _expand_dims(site):
    _drop_or_add(site, site.layer.axis, len(site.outputs[0].shape), add=True)


def _squeeze(site):
    x = site.inputs[0]
    axes = site.layer.axis
    if axes is None:
        axes = [i for i, n in enumerate(x.shape) if n == 1]
    _drop_or_add(site, axes, len(x.shape), add=False)


def _drop_or_add(site, axes, rank, add):
    """Axes of length 1 come or go; `axes` count in the longer shape."""
    axes = [axes] if isinstance(axes, int) else axes
    axes = [axis % rank for axis in axes]
    if 0 in axes:
        pin(site, "it changes the batch")
        return
    x, out = site.inputs[0], site.outputs[0]
    left = [i for i in range(rank) if i not in axes]
    for short, long in enumerate(left):
        if short:
            ends = (short, long) if add else (long, short)
            site.move((x, ends[0]), (out, ends[1]))
    for axis in () if add else axes:
        site.trace.read(x, axis, f"'{site.path}' drops this axis")


def _configure_reshape(call, keep):
    """The new shape, but -1 where the operation's own is."""
    x = call.outputs[0]
    return {
        "newshape": [
            n if i == 0 or n in (-1, None) else int(keep(x, i).sum())
            for i, n in enumerate(call.operation.newshape)
        ]
    }


def _pad(site):
    x, out = site.inputs[0], site.outputs[0]
    widths = np.broadcast_to(site.layer.pad_width, (len(x.shape), 2))
    value = site.argument("constant_values", 1)
    zeros = site.layer.mode == "constant" and value in (None, 0)
    combine = constants.zero_stays if zeros else constants.unknown
    for axis in range(1, len(x.shape)):
        if widths[axis].any():
            site.trace.read(x, axis, f"'{site.path}' pads this axis")
        else:
            site.move((x, axis), (out, axis), combine)


def _reduction(combine, is_sum=False):
    """Axes that are summed up, averaged, or searched for an extreme."""

    def trace(site):
        x, out, layer = site.inputs[0], site.outputs[0], site.layer
        rank = len(x.shape)
        axes = layer.axis
        axes = range(rank) if axes is None else axes
        axes = [axes] if isinstance(axes, int) else axes
        axes = [axis % rank for axis in axes]
        if 0 in axes or getattr(layer, "initial", None) is not None:
            pin(site, "it reduces more than it has axes")
            return
        target = 0
        for axis in range(rank):
            if axis not in axes:
                site.move((x, axis), (out, target), combine)
            elif is_sum and x.ids[axis] is not None:
                site.trace.total(x, axis)
            else:
                site.trace.read(x, axis, f"'{site.path}' reduces it")
            target += axis not in axes or layer.keepdims

    return Rule(trace)


# Products of two tensors.


def contract(site, ends):
    """The sum of the products along one axis of each of two tensors.

    Args:
        site: The call.
        ends: Two `(value, axis)`, the axes of equal, known length.
    """
    for x, axis in ends:
        site.trace.ids(x, axis)
    ids = [x.ids[axis] for x, axis in ends]
    site.trace.tie(*ids)
    every = np.arange(len(ids[0]))
    product = site.trace.value((None, len(every)), site.path)
    product.ids[1] = ids[0]
    site.trace.flow(
        [(x, axis, every) for x, axis in ends],
        (product, 1, every),
        constants.multiply,
    )
    site.trace.total(product, 1)


def _unknown(ends):
    return any(x.shape[axis] is None for x, axis in ends)


def _matmul(site):
    ends = list(zip(site.inputs, (2, 1)))
    if [len(x.shape) for x in site.inputs] != [3, 3] or _unknown(ends):
        pin(site, "it is no product of two batches of matrices")
        return
    contract(site, ends)
    left, right = site.inputs
    site.move((left, 1), (site.outputs[0], 1), constants.zero_stays)
    site.move((right, 2), (site.outputs[0], 2), constants.zero_stays)


def dot(site):
    """`keras.layers.Dot`."""
    layer = site.layer
    axes = layer.axes
    axes = [axes, axes] if isinstance(axes, int) else axes
    axes = [axis % len(x.shape) for x, axis in zip(site.inputs, axes)]
    ends = list(zip(site.inputs, axes))
    plain = all(len(x.shape) in (2, 3) for x in site.inputs)
    if layer.normalize or 0 in axes or not plain or _unknown(ends):
        pin(
            site,
            "it normalises, or contracts other than one known axis of matrices",
        )
        return
    contract(site, ends)
    target = 1
    for x, contracted in zip(site.inputs, axes):
        for axis in range(1, len(x.shape)):
            if axis != contracted:
                out = (site.outputs[0], target)
                site.move((x, axis), out, constants.zero_stays)
                target += 1


_ELEMENTWISE = (
    "Relu Relu6 LeakyRelu Elu Selu Celu Gelu Silu Sigmoid Tanh Softplus "
    "Softsign HardSigmoid HardSilu HardTanh LogSigmoid Exp Expm1 Log Log1p "
    "Sqrt Rsqrt Square Absolute Negative Sign Sin Cos Erf Reciprocal Floor "
    "Ceil Round Clip Cast StopGradient"
).split()

OPERATIONS = {
    **{name: unary() for name in _ELEMENTWISE},
    "Add": binary(constants.add),
    "Subtract": binary(constants.subtract),
    "Multiply": binary(constants.multiply),
    "Divide": binary(constants.divide),
    "TrueDivide": binary(constants.divide),
    "Maximum": binary(constants.maximum),
    "Minimum": binary(constants.minimum),
    "Power": binary(None),
    "GetItem": Rule(_get_item, rewrite=_rewrite_get_item),
    "Concatenate": Rule(concatenate),
    "Split": Rule(_split, configure=_configure_split),
    "Transpose": _transposition(_named),
    "Swapaxes": _transposition(_swapped),
    "Moveaxis": _transposition(_moved_axes),
    "ExpandDims": Rule(_expand_dims),
    "Squeeze": Rule(_squeeze),
    "Reshape": Rule(reshape, configure=_configure_reshape),
    "Pad": Rule(_pad),
    "Mean": _reduction(constants.same),
    "Max": _reduction(constants.same),
    "Amax": _reduction(constants.same),
    "Min": _reduction(constants.same),
    "Amin": _reduction(constants.same),
    "Sum": _reduction(constants.zero_stays, is_sum=True),
    "Matmul": Rule(_matmul),
}
