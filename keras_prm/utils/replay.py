"""The calls of a functional model, made again on other tensors."""

from __future__ import annotations

import keras

from keras_prm.utils import keras_graph
from keras_prm.utils import keras_hooks


def outputs(view, inputs, call):
    """What a model's layers return when they are called again.

    The layers are the model's own, those of nested models among them.

    Args:
        view: A functional model with a list of inputs.
        inputs: list of tensors, symbolic or not, one per input of the model.
        call: Gets a `keras_graph.Node`, and the new `args` and `kwargs`;
            calls the layer and returns what that returns.

    Returns:
        list of tensors, the outputs in order.
    """
    tensors = {id(x): _as(x, new) for x, new in zip(view.inputs, inputs)}
    for node in keras_graph.nodes(view):
        if keras_graph.is_model(node.operation):
            inner = keras_graph.functional(node.operation)
            fed = [tensors[id(x)] for x in keras_graph.fed(node, inner)]
            found = outputs(inner, fed, call)
        else:
            arguments = node.arguments.fill_in(tensors)
            found = keras.tree.flatten(call(node, *arguments))
        tensors.update(zip(map(id, node.outputs), found))
    return [tensors[id(x)] for x in view.outputs]


def model(view, inputs, call):
    """A model of the same layers; arguments as `outputs` takes them.

    Returns:
        A functional model from the list of `inputs` to outputs as those of
        `view` are: a list, or a dict.
    """
    found = outputs(view, inputs, call)
    if isinstance(view.output, dict):
        found = keras.tree.pack_sequence_as(view.output, found)
    return keras.Model(inputs, found, name=view.name)


def _as(x, new):
    """`new` in the rank that an input wants, and in its type where that is a
    smaller float; its mask goes along.
    """
    found, dtype = new, keras.backend.standardize_dtype(new.dtype)
    rank = len(x.shape)
    if len(new.shape) == rank - 1 and x.shape[-1] == 1:
        found = keras.ops.expand_dims(found, -1)
    elif len(new.shape) == rank + 1 and new.shape[-1] == 1:
        found = keras.ops.squeeze(found, -1)
    if dtype != x.dtype and x.dtype.endswith(("float16", "float32")):
        found = keras.ops.cast(found, x.dtype)
    mask = keras_hooks.timestep_mask(new)
    if found is not new and mask is not None:
        keras_hooks.set_timestep_mask(found, mask)
    return found
