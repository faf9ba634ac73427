"""Rules of recurrent layers, and of wrappers around layers."""

from __future__ import annotations

import dataclasses
import inspect

import keras
import numpy as np
from keras import layers

from keras_prm.dependency import constants
from keras_prm.rules import passthrough
from keras_prm.rules.base import pin
from keras_prm.rules.base import read_others
from keras_prm.utils import keras_graph

# Layers whose units can go, with `(gates, candidate)` as `recurrent` takes.
GATED = {
    layers.LSTM: (4, 2),
    layers.GRU: (3, 2),
    layers.SimpleRNN: (1, 0),
}


def recurrent(gates, candidate):
    """A layer of units with `gates` gates each.

    Args:
        gates: How many gates a unit has.
        candidate: The gate that writes to the state: while it is zero, so
            is the state.
    """

    def rule(call):
        layer, x = call.layer, call.inputs[0]
        if _is_given_a_state(call):
            pin(call, "its state does not start at zero")
            return
        activations = [layer.activation]
        activations.append(getattr(layer, "recurrent_activation", None))
        if not all(map(constants.is_elementwise, activations)):
            pin(call, "its activation reads every unit")
            return
        read_others(call, x, 2, "a recurrent layer walks along it")
        out = call.outputs[0]
        last = len(out.shape) - 1
        at_zero = constants.evaluate(layer.activation, np.zeros(1))
        call.graph.recurrence(
            call,
            (x, 2),
            (out, last),
            gates,
            None if at_zero.any() else candidate,
        )
        for state in call.outputs[1:]:
            call.move((out, last), (state, 1))

    return rule


def _is_given_a_state(call):
    mask = call.node.arguments.kwargs.get("mask")
    tensors = [x for x in call.node.inputs if x is not mask]
    return call.has_arrays() or len(tensors) > 1


def resize_recurrent(layer, size, shape):
    """The units that are left, counted by the recurrent kernel."""
    return {"units": size(layer.cell.recurrent_kernel, 0)}


def bidirectional(call):
    """Both directions keep as many units: Keras takes one for the other."""
    layer, x = call.layer, call.inputs[0]
    both = (layer.forward_layer, layer.backward_layer)
    if layer.return_state or _is_given_a_state(call):
        pin(call, "its states are passed on")
        return
    strange = [type(part).__name__ for part in both if type(part) not in GATED]
    if strange:
        pin(call, f"no rule for {strange[0]}")
        return
    if len({part.units for part in both}) > 1:
        pin(call, "its directions differ")
        return
    ends = [_child(call, part, x, call.node.inputs[0]) for part in both]
    last = len(ends[0].shape) - 1
    if ends[0].ids[last] is None or ends[1].ids[last] is None:
        pin(call, "one of its directions has no rule here")
        return
    call.graph.tie(ends[0].ids[last], ends[1].ids[last])
    if layer.merge_mode is None:
        for end, out in zip(ends, call.outputs):
            call.move((end, last), (out, last))
        return
    merged = dataclasses.replace(call, inputs=ends)
    passthrough.MERGES[layer.merge_mode](merged)


def time_distributed(call):
    """What the wrapped layer does to one step."""
    x, out = call.inputs[0], call.outputs[0]
    graph = call.graph
    graph.read(x, 1, f"'{call.path}' walks along it")
    step = graph.value((x.shape[0], *x.shape[2:]), call.path)
    for axis in range(2, len(x.shape)):
        call.move((x, axis), (step, axis - 1))
    tensor = keras.KerasTensor(step.shape, call.node.inputs[0].dtype)
    inner = call.layer.layer
    masked = len(call.inputs) > 1
    if masked and "mask" in inspect.signature(inner.call).parameters:
        pin(call, "the layer inside is given a mask")
        return
    if not graph.can_trace(inner):
        pin(call, f"no rule for {type(inner).__name__}")
        return
    before, steps = graph.repeats, x.shape[1]
    graph.repeats = None if None in (before, steps) else before * steps
    try:
        end = _child(call, inner, step, tensor)
    finally:
        graph.repeats = before
    for axis in range(1, len(end.shape)):
        call.move((end, axis), (out, axis + 1))


def _child(call, layer, value, tensor):
    """Traces a wrapped layer on one tensor, and notes the call."""
    node = keras_graph.node_of(layer, tensor)
    call.graph.inner.setdefault(id(call.layer), []).append(node)
    path = f"{call.path}/{layer.name}"
    return call.graph.visit(node, {id(tensor): value}, path)[0]


def wrap_bidirectional(config, children):
    """Both directions, made smaller, in one wrapper."""
    for name in ("layer", "backward_layer"):
        config.pop(name, None)
    forward, backward = children
    config["backward_layer"] = backward
    wrapper = layers.Bidirectional(forward, **config)
    return wrapper, (wrapper.forward_layer, wrapper.backward_layer)


def wrap_time_distributed(config, children):
    """The layer of each step, made smaller, in its wrapper."""
    config.pop("layer")
    return layers.TimeDistributed(children[0], **config), children
