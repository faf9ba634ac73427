"""The calls that a layer's `call` makes, and whether they are all it does."""

from __future__ import annotations

import dataclasses

import keras
from keras import layers
from keras import tree

from keras_prm.inlining import block_replay
from keras_prm.inlining import block_runs
from keras_prm.utils import keras_graph
from keras_prm.utils import training_argument


def inside(layer, args, kwargs):
    """Runs the `call` of a layer on symbolic tensors.

    Args:
        layer: The layer, or subclassed model.
        args: Its arguments, with symbolic tensors.
        kwargs: More of them.

    Returns:
        A `block_runs.Run`.

    Raises:
        ValueError: That is not all that it does; the message is the reason.
    """
    if type(layer).__call__ is not layers.Layer.__call__:
        raise ValueError("it has a `__call__` of its own")
    if getattr(layer, "activity_regularizer", None) is not None:
        raise ValueError("it has an activity regularizer")
    _check_own_weights(layer)
    found, *runs = (
        block_runs.run(layer, args, kwargs, training)
        for training in (None, False, True)
    )
    _check_weights(layer, found.calls)
    if len({str(block_runs.course(run)) for run in (found, *runs)}) > 1:
        raise ValueError(
            "it computes otherwise in training than at inference, not only by "
            "layers that do"
        )
    training_argument.check_passed_on(*runs)
    calls = map(training_argument.told, found.calls, *(r.calls for r in runs))
    found = dataclasses.replace(found, calls=list(calls))
    block_replay.check(layer, args, kwargs, found)
    return found


def cast(layer, arguments):
    """Arguments as `Layer.__call__` hands them to `call`."""
    if not getattr(layer, "autocast", True):
        return arguments

    def cast_one(x):
        is_float = block_runs.is_symbolic(x) and "float" in x.dtype
        if is_float and x.dtype != layer.compute_dtype:
            return keras.ops.cast(x, layer.compute_dtype)
        return x

    return tree.map_structure(cast_one, arguments)


def _check_own_weights(layer):
    inside = {
        id(w) for part in keras_graph.sublayers(layer)[1:] for w in part.weights
    }
    own = [w.path for w in layer.weights if id(w) not in inside]
    if own:
        raise ValueError(f"it has weights of its own: {', '.join(own[:3])}")


def _check_weights(layer, calls):
    """All weights have to be those of layers that are called."""
    called = {
        id(w) for call in calls for w in getattr(call.operation, "weights", ())
    }
    lost = [w.path for w in layer.weights if id(w) not in called]
    lost += [
        x.path
        for call in calls
        for x in tree.flatten((call.arguments.args, call.arguments.kwargs))
        if isinstance(x, keras.Variable)
    ]
    if names := list(dict.fromkeys(lost)):
        raise ValueError(
            "it has weights that none of the layers inside multiplies by: "
            f"{', '.join(names[:3])}"
        )
