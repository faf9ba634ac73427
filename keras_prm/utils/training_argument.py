"""The argument `training` of a layer's `call`."""

from __future__ import annotations

import inspect

from keras import layers

from keras_prm.utils import keras_graph
from keras_prm.utils import keras_hooks


def parameters(operation):
    """Names of the parameters of a layer's `call`, in order."""
    if not isinstance(operation, layers.Layer):
        return ()
    return tuple(inspect.signature(operation.call).parameters)


def given(operation, args, kwargs):
    """What a call passes for `training`, or `None`."""
    by_position = dict(zip(parameters(operation), args))
    return kwargs.get("training", by_position.get("training"))


def given_to(node):
    """What the call of a `keras_graph.Node` passes for `training`."""
    return given(node.operation, node.arguments.args, node.arguments.kwargs)


def replaced(operation, args, kwargs, training):
    """The arguments of a call with another `training`, where it takes that."""
    names = parameters(operation)
    if "training" not in names:
        return args, kwargs
    position = names.index("training")
    if len(args) <= position:
        return args, {**kwargs, "training": training}
    return (*args[:position], training, *args[position + 1 :]), kwargs


def depends_on_training(operation):
    """Whether something inside computes otherwise in training."""
    return isinstance(operation, layers.Layer) and any(
        "training" in parameters(part) and _has_an_effect(part)
        for part in keras_hooks.sublayers(operation)
    )


def effective(node, around=None):
    """What a call is told of training where its model is told nothing.

    Args:
        node: A `keras_graph.Node`.
        around: What the model that it belongs to is told, or `None`.

    Returns:
        bool or `None`. What a nested model is told goes before what its
        calls pass.
    """
    return given_to(node) if around is None else around


def called_in_training(view, around=None, prefix=""):
    """Layers that are told to compute as in training, and do otherwise then.

    Args:
        view: A functional model.
        around: What it is told itself, or `None`.
        prefix: Path of the model in the hierarchy, `""` or `"a/b/"`.

    Returns:
        list of paths.
    """
    found = []
    for node in keras_graph.nodes(view):
        layer, told = node.operation, effective(node, around)
        path = prefix + layer.name
        if keras_graph.is_model(layer):
            inner = keras_graph.functional(layer)
            found += called_in_training(inner, told, path + "/")
        elif told and depends_on_training(layer):
            found.append(path)
    return list(dict.fromkeys(found))


def note(paths):
    """What it means that layers are called with `training=True`."""
    return (
        f"{paths} are called with training=True, which holds in `model(x)` "
        "alone: `predict` and a LiteRT file compute with training=False, "
        "without random numbers and with the statistics that were learned."
    )


def _has_an_effect(part):
    """Whether the `training` of a layer, not of those inside, matters."""
    if isinstance(part, layers.BatchNormalization):
        return part.trainable
    names = ("rate", "dropout", "recurrent_dropout", "stddev")
    rates = [getattr(part, name, None) for name in names]
    rates = [rate for rate in rates if isinstance(rate, (int, float))]
    if rates:
        return any(rates)
    inside = keras_hooks.sublayers(part)[1:]
    if not type(part).__module__.startswith("keras."):
        return not inside
    # Random numbers, or statistics: some take `training` for other reasons.
    others = {id(v) for layer in inside for v in layer.variables}
    trained = {id(v) for v in part.trainable_variables}
    return any(id(v) not in others | trained for v in part.variables)
