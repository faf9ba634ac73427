"""Slots: which variables of an optimizer belong to which weight."""

from __future__ import annotations

import contextlib
import dataclasses

import keras
import numpy as np

_HELP = (
    "Compile the smaller model yourself, `small.compile(...)`: its optimizer "
    "starts afresh then."
)


@dataclasses.dataclass(frozen=True)
class Slot:
    """What one variable of an optimizer is for.

    Args:
        owner: Position of its weight in the list of weights; `None` for what
            the optimizer has once, such as its iterations.
        like_weight: Whether it holds values of the weight, as an average of
            it does, and not of its gradients.
    """

    owner: int | None
    like_weight: bool = False


def layout(optimizer, weights):
    """What each of an optimizer's variables is for, in their order.

    Keras does not say. So the optimizer is built on stand-ins of the weights,
    each of a length that no other has, and the lengths of its variables tell.

    Args:
        optimizer: A fresh optimizer of the same config, not built. It cannot
            be used afterwards.
        weights: The trainable variables that the optimizer trains. It may
            look at their rank, dtype and path.

    Returns:
        list of `Slot`, one for each variable that an optimizer of this config
        has when it is built on `weights`.

    Raises:
        ValueError: Some of its variables are neither scalars nor of the shape
            of a weight.
    """
    stand_ins = [_stand_in(i, weight) for i, weight in enumerate(weights)]
    optimizer.build(stand_ins)
    owners = {tuple(v.shape): i for i, v in enumerate(stand_ins)} | {(): None}
    odd = [v.name for v in optimizer.variables if tuple(v.shape) not in owners]
    if odd:
        raise ValueError(
            f"Cannot carry over the state of the optimizer '{optimizer.name}' "
            f"(of type {type(optimizer).__name__}): some of its variables are "
            "neither scalars nor of the shape of a weight, so that it is not "
            f"known what of them to keep. {_HELP} "
            f"Received: {len(odd)} such variables, the first is {odd[0]!r}"
        )
    found = [owners[tuple(v.shape)] for v in optimizer.variables]
    like = _like_weights(optimizer, stand_ins, found)
    return [Slot(owner, i in like) for i, owner in enumerate(found)]


def check_layout(layout, variables, weights, name):
    """Raises a `ValueError` unless variables are what a layout says.

    Args:
        layout: list of `Slot`.
        variables: The optimizer's variables.
        weights: The weights that it is thought to train.
        name: The optimizer's name.
    """
    expected = [
        () if slot.owner is None else tuple(weights[slot.owner].shape)
        for slot in layout
    ]
    received = [tuple(v.shape) for v in variables]
    if expected != received:
        raise ValueError(
            f"The optimizer '{name}' was not built for the weights that the "
            "model trains now. Set `trainable` on its layers as it was when "
            "the optimizer took its first step. "
            f"Received: {len(received)} variables where {len(expected)} of "
            "given shapes were expected."
        )


def _stand_in(number, weight):
    """A variable that differs from all others on its first axis.

    A scalar is stood in for by a vector, to tell its slots from what the
    optimizer has once.
    """
    *scopes, name = weight.path.split("/")
    rank = max(1, len(weight.shape))
    with contextlib.ExitStack() as stack:
        for scope in filter(None, scopes):
            stack.enter_context(keras.name_scope(scope))
        variable = keras.Variable(
            np.full((number + 2,) + (1,) * (rank - 1), 0.377),
            dtype=weight.dtype,
            name=name,
        )
    variable.overwrite_with_gradient = weight.overwrite_with_gradient
    return variable


def _like_weights(optimizer, stand_ins, owners):
    """Positions of the slots that hold values of their weight.

    They are those that start as the weight, and those that it is set to at
    the end of training, which is tried out.
    """
    found, numbers = set(), {}
    for i, (slot, owner) in enumerate(zip(optimizer.variables, owners)):
        if owner is not None:
            if np.array_equal(
                keras.ops.convert_to_numpy(slot),
                keras.ops.convert_to_numpy(stand_ins[owner]),
            ):
                found.add(i)
            mine = numbers.setdefault(owner, [])
            mine.append(i)
            slot.assign(np.full(slot.shape, len(mine)))
    optimizer.finalize_variable_values(stand_ins)
    for owner, mine in numbers.items():
        value = float(keras.ops.convert_to_numpy(stand_ins[owner]).flat[0])
        found.update(i for n, i in enumerate(mine, 1) if n == value)
    return found
