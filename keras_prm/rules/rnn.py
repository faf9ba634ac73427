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

    def rule(site):
        layer, x = site.layer, site.inputs[0]
        if _is_given_a_state(site):
            pin(site, "its state does not start at zero")
            return
        activations = [layer.activation]
        activations.append(getattr(layer, "recurrent_activation", None))
        if not all(map(constants.is_elementwise, activations)):
            pin(site, "its activation reads every unit")
            return
        read_others(site, x, 2, "a recurrent layer walks along it")
        out = site.outputs[0]
        last = len(out.shape) - 1
        at_zero = constants.evaluate(layer.activation, np.zeros(1))
        site.graph.recurrence(
            site,
            (x, 2),
            (out, last),
            gates,
            None if at_zero.any() else candidate,
        )
        for state in site.outputs[1:]:
            site.move((out, last), (state, 1))

    return rule


def _is_given_a_state(site):
    mask = site.call.arguments.kwargs.get("mask")
    tensors = [x for x in site.call.inputs if x is not mask]
    return site.has_arrays() or len(tensors) > 1


def resize_recurrent(layer, size, shape):
    return {"units": size(layer.cell.recurrent_kernel, 0)}


def bidirectional(site):
    """Both directions keep as many units: Keras takes one for the other."""
    layer, x = site.layer, site.inputs[0]
    both = (layer.forward_layer, layer.backward_layer)
    if layer.return_state or _is_given_a_state(site):
        pin(site, "its states are passed on")
        return
    strange = [type(part).__name__ for part in both if type(part) not in GATED]
    if strange:
        pin(site, f"no rule for {strange[0]}")
        return
    if len({part.units for part in both}) > 1:
        pin(site, "its directions differ")
        return
    ends = [_child(site, part, x, site.call.inputs[0]) for part in both]
    last = len(ends[0].shape) - 1
    if ends[0].ids[last] is None or ends[1].ids[last] is None:
        pin(site, "one of its directions has no rule here")
        return
    site.graph.tie(ends[0].ids[last], ends[1].ids[last])
    if layer.merge_mode is None:
        for end, out in zip(ends, site.outputs):
            site.move((end, last), (out, last))
        return
    merged = dataclasses.replace(site, inputs=ends)
    passthrough.MERGES[layer.merge_mode](merged)


def time_distributed(site):
    """What the wrapped layer does to one step."""
    x, out = site.inputs[0], site.outputs[0]
    graph = site.graph
    graph.read(x, 1, f"'{site.path}' walks along it")
    step = graph.value((x.shape[0], *x.shape[2:]), site.path)
    for axis in range(2, len(x.shape)):
        site.move((x, axis), (step, axis - 1))
    tensor = keras.KerasTensor(step.shape, site.call.inputs[0].dtype)
    inner = site.layer.layer
    masked = len(site.inputs) > 1
    if masked and "mask" in inspect.signature(inner.call).parameters:
        pin(site, "the layer inside is given a mask")
        return
    if not graph.can_trace(inner):
        pin(site, f"no rule for {type(inner).__name__}")
        return
    before, steps = graph.repeats, x.shape[1]
    graph.repeats = None if None in (before, steps) else before * steps
    try:
        end = _child(site, inner, step, tensor)
    finally:
        graph.repeats = before
    for axis in range(1, len(end.shape)):
        site.move((end, axis), (out, axis + 1))


def _child(site, layer, value, tensor):
    """Traces a wrapped layer on one tensor, and notes the call."""
    call = keras_graph.call_of(layer, tensor)
    site.graph.inner.setdefault(id(site.layer), []).append(call)
    path = f"{site.path}/{layer.name}"
    return site.graph.call(call, {id(tensor): value}, path)[0]


def wrap_bidirectional(config, children):
    for name in ("layer", "backward_layer"):
        config.pop(name, None)
    forward, backward = children
    config["backward_layer"] = backward
    wrapper = layers.Bidirectional(forward, **config)
    return wrapper, (wrapper.forward_layer, wrapper.backward_layer)


def wrap_time_distributed(config, children):
    config.pop("layer")
    return layers.TimeDistributed(children[0], **config), children
