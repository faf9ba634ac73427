"""Rules of operators that pick, move, drop, reduce or contract axes."""

from __future__ import annotations

import numpy as np

from keras_prm.dependency import constants
from keras_prm.rules.base import Rule
from keras_prm.rules.base import pin


def get_item(call):
    """Slices pass their channels on; an axis read at one index stays."""
    x, out = call.inputs[0], call.outputs[0]
    entries = _entries(call.node)
    if entries is None:
        pin(call, "it picks from the batch, or not by slices and integers")
        return
    for axis, (entry, target) in enumerate(entries):
        if x.ids[axis] is None:
            continue
        if target is None:
            call.graph.read(x, axis, f"'{call.path}' picks one of them")
            continue
        at = np.arange(x.shape[axis])[entry]
        if entry.step not in (None, 1):
            call.graph.fix(x.ids[axis], f"'{call.path}' picks every other one")
        out.ids[target] = x.ids[axis][at]
        every = np.arange(len(at))
        call.graph.positionwise(
            [(x, axis, at)], (out, target, every), constants.same
        )


def _entries(node):
    """Per axis of the tensor `(index, axis of the result or None)`."""
    x = node.inputs[0]
    key = [*node.arguments.args, *node.arguments.kwargs.values()][1]
    key = key if isinstance(key, tuple) else (key,)
    known = (slice, int, np.integer, type(None), type(Ellipsis))
    if not all(isinstance(k, known) for k in key) or len(node.inputs) > 1:
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


def rewrite_get_item(node, args, kwargs, keep):
    """Moves the ends of slices to where their positions are now."""
    entries = _entries(node)
    if entries is None:
        return args, kwargs
    x = node.inputs[0]
    cuts = iter(
        _moved_slice(entry, keep(x, axis)) if target is not None else entry
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


def _moved_slice(entry, keep):
    """A slice of the positions that are kept."""
    if not isinstance(entry, slice) or keep is None or keep.all():
        return entry
    start, stop, _ = entry.indices(len(keep))
    return slice(int(keep[:start].sum()), int(keep[:stop].sum()))


def split(call):
    """Each part passes on its stretch of the channels."""
    x = call.inputs[0]
    along = call.layer.axis % len(x.shape)
    if along == 0:
        pin(call, "it splits the batch")
        return
    start = 0
    for out in call.outputs:
        for axis in range(1, len(x.shape)):
            if axis != along:
                call.move((x, axis), (out, axis))
        if x.ids[along] is not None:
            every = np.arange(out.shape[along])
            out.ids[along] = x.ids[along][start + every]
            source = (x, along, start + every)
            call.graph.positionwise(
                [source], (out, along, every), constants.same
            )
        start += out.shape[along] or 0


def configure_split(node, keep):
    """Where to split what is left of each part."""
    along = node.operation.axis % len(node.inputs[0].shape)
    if node.inputs[0].shape[along] is None:
        return {}
    widths = [int(keep(x, along).sum()) for x in node.outputs]
    if len(widths) == 1:
        return {"indices_or_sections": 1}
    return {"indices_or_sections": np.cumsum(widths)[:-1].tolist()}


def transposition(axes_of):
    """Axes that change places; `axes_of(operation, rank)` names sources."""

    def trace(call):
        x, out = call.inputs[0], call.outputs[0]
        axes = [a % len(x.shape) for a in axes_of(call.layer, len(x.shape))]
        if axes[0] != 0:
            pin(call, "it moves the batch")
            return
        for target, source in enumerate(axes):
            if target:
                call.move((x, source), (out, target))

    return Rule(trace)


def swapped(operation, rank):
    """The sources of the axes of `swapaxes`."""
    axes = list(range(rank))
    one, other = operation.axis1 % rank, operation.axis2 % rank
    axes[one], axes[other] = axes[other], axes[one]
    return axes


def moved_axes(operation, rank):
    """The sources of the axes of `moveaxis`."""
    return np.moveaxis(
        np.empty(range(rank)), operation.source, operation.destination
    ).shape


def named(operation, rank):
    """The sources of the axes of `transpose`, which names them."""
    axes = operation.axes
    return range(rank)[::-1] if axes is None else axes


def expand_dims(call):
    """New axes of length 1; channels pass."""
    _drop_or_add(call, call.layer.axis, len(call.outputs[0].shape), add=True)


def squeeze(call):
    """Axes of length 1 go; channels of the others pass."""
    x = call.inputs[0]
    _drop_or_add(call, _squeezed(call.node), len(x.shape), add=False)


def _squeezed(node):
    axes = node.operation.axis
    if axes is None:
        axes = [i for i, n in enumerate(node.inputs[0].shape) if n == 1]
    return axes


def configure_squeeze(node, keep):
    """The axes by number: one that has become 1 long stays."""
    return {"axis": _squeezed(node)}


def _drop_or_add(call, axes, rank, add):
    """Axes of length 1 come or go; `axes` count in the longer shape."""
    axes = [axes] if isinstance(axes, int) else axes
    axes = [axis % rank for axis in axes]
    if 0 in axes:
        pin(call, "it changes the batch")
        return
    x, out = call.inputs[0], call.outputs[0]
    left = [i for i in range(rank) if i not in axes]
    for short, long in enumerate(left):
        if short:
            ends = (short, long) if add else (long, short)
            call.move((x, ends[0]), (out, ends[1]))
    for axis in () if add else axes:
        call.graph.read(x, axis, f"'{call.path}' drops this axis")


def configure_reshape(node, keep):
    """The new shape, but -1 where the operation's own is."""
    x = node.outputs[0]
    return {
        "newshape": [
            n if i == 0 or n in (-1, None) else int(keep(x, i).sum())
            for i, n in enumerate(node.operation.newshape)
        ]
    }


def pad(call):
    """Axes that are padded stay; channels of the others pass."""
    x, out = call.inputs[0], call.outputs[0]
    widths = np.broadcast_to(call.layer.pad_width, (len(x.shape), 2))
    value = call.argument("constant_values", 1)
    zeros = call.layer.mode == "constant" and value in (None, 0)
    combine = constants.zero_stays if zeros else constants.unknown
    for axis in range(1, len(x.shape)):
        if widths[axis].any():
            call.graph.read(x, axis, f"'{call.path}' pads this axis")
        else:
            call.move((x, axis), (out, axis), combine)


def reduction(combine, is_sum=False):
    """Axes that are summed up, averaged, or searched for an extreme."""

    def trace(call):
        x, out, layer = call.inputs[0], call.outputs[0], call.layer
        rank = len(x.shape)
        axes = layer.axis
        axes = range(rank) if axes is None else axes
        axes = [axes] if isinstance(axes, int) else axes
        axes = [axis % rank for axis in axes]
        if 0 in axes or getattr(layer, "initial", None) is not None:
            pin(call, "it reduces more than it has axes")
            return
        target = 0
        for axis in range(rank):
            if axis not in axes:
                call.move((x, axis), (out, target), combine)
            elif is_sum and x.ids[axis] is not None:
                call.graph.reduce_sum(x, axis)
            else:
                call.graph.read(x, axis, f"'{call.path}' reduces it")
            target += axis not in axes or layer.keepdims

    return Rule(trace)


def contract(call, ends):
    """The sum of the products along one axis of each of two tensors.

    Args:
        call: The call.
        ends: Two `(value, axis)`, the axes of equal, known length.
    """
    for x, axis in ends:
        call.graph.ids(x, axis)
    ids = [x.ids[axis] for x, axis in ends]
    call.graph.tie(*ids)
    every = np.arange(len(ids[0]))
    product = call.graph.value((None, len(every)), call.path)
    product.ids[1] = ids[0]
    call.graph.positionwise(
        [(x, axis, every) for x, axis in ends],
        (product, 1, every),
        constants.multiply,
    )
    call.graph.reduce_sum(product, 1)


def _any_unknown(ends):
    return any(x.shape[axis] is None for x, axis in ends)


def matmul(call):
    """Batches of matrices: what is summed over stands together."""
    ends = list(zip(call.inputs, (2, 1)))
    if [len(x.shape) for x in call.inputs] != [3, 3] or _any_unknown(ends):
        pin(call, "it is no product of two batches of matrices")
        return
    contract(call, ends)
    left, right = call.inputs
    call.move((left, 1), (call.outputs[0], 1), constants.zero_stays)
    call.move((right, 2), (call.outputs[0], 2), constants.zero_stays)


def dot(call):
    """`keras.layers.Dot`."""
    layer = call.layer
    axes = layer.axes
    axes = [axes, axes] if isinstance(axes, int) else axes
    axes = [axis % len(x.shape) for x, axis in zip(call.inputs, axes)]
    ends = list(zip(call.inputs, axes))
    plain = all(len(x.shape) in (2, 3) for x in call.inputs)
    if layer.normalize or 0 in axes or not plain or _any_unknown(ends):
        pin(
            call,
            "it normalizes, or contracts other than one known axis of matrices",
        )
        return
    contract(call, ends)
    target = 1
    for x, contracted in zip(call.inputs, axes):
        for axis in range(1, len(x.shape)):
            if axis != contracted:
                out = (call.outputs[0], target)
                call.move((x, axis), out, constants.zero_stays)
                target += 1
