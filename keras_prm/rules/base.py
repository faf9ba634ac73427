"""What a rule is, and what it sees of a model: one call of one layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from keras_prm.dependency import constants
from keras_prm.utils import training_argument


@dataclasses.dataclass(frozen=True)
class LayerCall:
    """One call of one layer, as a rule sees it.

    Args:
        graph: The `DependencyGraph` to write to.
        call: The `keras_graph.Node`.
        path: The layer's place in the hierarchy.
        inputs: list of `Value`, one per tensor argument.
        outputs: list of `Value` whose axes the rule may name by ids.
    """

    graph: object
    node: object
    path: str
    inputs: list
    outputs: list

    @property
    def layer(self):
        """The layer, or operation, that is called."""
        return self.node.operation

    def has_arrays(self):
        """True if arrays are among the arguments of the call."""
        arguments = self.node.arguments
        return any(
            hasattr(x, "shape") and not isinstance(x, keras.KerasTensor)
            for x in keras.tree.flatten((arguments.args, arguments.kwargs))
        )

    def argument(self, name, position):
        """What the call passes for an argument, or `None`."""
        arguments = self.node.arguments
        if name in arguments.kwargs:
            return arguments.kwargs[name]
        if len(arguments.args) > position:
            return arguments.args[position]
        return None

    def is_in_training(self):
        """Whether the layer is told to compute as in training, and can."""
        told = training_argument.effective(self.node, self.graph.training)
        return bool(told) and training_argument.depends_on_training(self.layer)

    def read_all(self, value, why):
        """Pins all axes of a tensor."""
        for axis in range(1, len(value.shape)):
            self.graph.read(value, axis, f"'{self.path}': {why}")

    def value_of(self, tensor):
        """The `Value` of one of the tensors that the call is given."""
        found = [x is tensor for x in self.node.inputs]
        return self.inputs[found.index(True)]

    def move(self, source, target, combine=constants.same, gate=None):
        """Passes one axis on, position by position, ids included."""
        value, axis = source
        if value.ids[axis] is None:
            return
        out, out_axis = target
        out.ids[out_axis] = value.ids[axis]
        every = np.arange(len(value.ids[axis]))
        self.graph.positionwise(
            [(value, axis, every)], (out, out_axis, every), combine, gate
        )


@dataclasses.dataclass(frozen=True)
class Rule:
    """How to trace a layer and how to make it smaller.

    Only `trace` is needed for a layer whose config holds no widths.

    Args:
        trace: Gets the `LayerCall` and writes its trace.
        resize: `resize(layer, size, shape)` returns the changes to the
            layer's config. `size(variable, axis)` is the new length of an
            axis of one of its weights, `shape` the new shape of its output.
        configure: `configure(node, keep)` returns the changes to the config
            of an operation, which is called only once. `keep(x, axis)` is a
            bool array: which positions of a tensor's axis stay.
        rewrite: `rewrite(node, args, kwargs, keep)` returns the arguments of
            the smaller call, from those that have its tensors filled in.
        arguments: Names of the call's arguments, besides the first, that
            `trace` looks at. Any other one that is not at its default pins,
            and so does one without a name if there are none here.
        factors: `factors(layer, size)` returns `(variable, factor)` pairs:
            what has to be multiplied by a number once it is smaller.
        wrap: `wrap(config, children)` makes the smaller wrapper of the
            smaller layers it wraps, and returns it and these as it holds
            them, in the order of `DependencyGraph.inner`.
    """

    trace: Callable
    resize: Callable = lambda layer, size, shape: {}
    configure: Callable = lambda node, keep: {}
    rewrite: Callable | None = None
    arguments: tuple[str, ...] = ()
    factors: Callable = lambda layer, size: ()
    wrap: Callable | None = None


def pin(call, reason):
    """Pins all channels that a call reads; its outputs are untracked."""
    call.graph.skip(call.path, call.layer, reason)
    for value in call.inputs:
        for axis in range(len(value.shape)):
            call.graph.read(value, axis, f"'{call.path}': {reason}")


def channel_axis(layer, value):
    """The axis of the channels, by the layer's data format if it has one."""
    if getattr(layer, "data_format", None) == "channels_first":
        return 1
    return len(value.shape) - 1


def read_others(call, value, axis, why):
    """Pins every axis but one, the batch left out."""
    for other in range(1, len(value.shape)):
        if other != axis:
            call.graph.read(value, other, f"'{call.path}': {why}")
