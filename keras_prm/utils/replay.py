"""The calls of a functional model, made again on other tensors."""

from __future__ import annotations

import keras

from keras_prm.utils import keras_graph


def outputs(view, inputs, prepare):
    """What a model's layers return when they are called again.

    The layers are the model's own, those of nested models among them.

    Args:
        view: A functional model with a list of inputs.
        inputs: list of symbolic tensors, one per input of the model.
        prepare: Gets a `keras_graph.Node`, and the new `args` and `kwargs`;
            returns those that the layer is called with.

    Returns:
        list of symbolic tensors, the outputs in order.
    """
    tensors = {id(x): _as(x, new) for x, new in zip(view.inputs, inputs)}
    for node in keras_graph.nodes(view):
        if keras_graph.is_model(node.operation):
            inner = keras_graph.functional(node.operation)
            fed = [tensors[id(x)] for x in keras_graph.fed(node, inner)]
            found = outputs(inner, fed, prepare)
        else:
            args, kwargs = prepare(node, *node.arguments.fill_in(tensors))
            found = keras.tree.flatten(node.operation(*args, **kwargs))
        tensors.update(zip(map(id, node.outputs), found))
    return [tensors[id(x)] for x in view.outputs]


def model(view, inputs, prepare):
    """A model of the same layers; arguments as `outputs` takes them.

    Returns:
        A functional model from the list of `inputs` to outputs as those of
        `view` are: a list, or a dict.
    """
    found = outputs(view, inputs, prepare)
    if isinstance(view.output, dict):
        found = keras.tree.pack_sequence_as(view.output, found)
    return keras.Model(inputs, found, name=view.name)


def _as(x, new):
    """`new` in the type that an input wants, if that is a smaller float."""
    if new.dtype == x.dtype or not x.dtype.endswith(("float16", "float32")):
        return new
    return keras.ops.cast(new, x.dtype)
