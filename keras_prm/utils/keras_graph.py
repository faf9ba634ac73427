"""The calls that a functional model is made of.

Keras has no public way to list them, nor to ask where a tensor comes from.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import TYPE_CHECKING

import keras

from keras_prm.utils import keras_hooks

if TYPE_CHECKING:
    from typing import Any


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One call of a layer or operation inside a model.

    Args:
        operation: The layer or operation that is called.
        inputs: The `KerasTensor`s among its arguments, in order.
        outputs: The `KerasTensor`s it returns, flat.
        arguments: Keras' record of the whole call; `arguments.args` and
            `arguments.kwargs` as they were passed, `arguments.fill_in(d)`
            the same with each tensor `x` replaced by `d[id(x)]`.
    """

    operation: Any
    inputs: tuple
    outputs: tuple
    arguments: Any


def is_model(layer):
    """True for a model that consists of calls that can be listed."""
    kinds = (keras.Sequential, keras.Function)
    return isinstance(layer, kinds) and not overrides_call(layer)


def functional(model):
    """The functional form of `model`: itself, or sharing all its layers.

    Args:
        model: A built `keras.Sequential` or a functional `keras.Model`.

    Raises:
        TypeError: `model` is neither.
        ValueError: It has no weights yet.
    """
    check_is_new(model)
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Expected a keras.Model. To prune single layers, put them into "
            f"a functional model. Received: model={model!r} "
            f"(of type {type(model).__name__})"
        )
    if isinstance(model, keras.Sequential):
        if not model.built:
            raise ValueError(
                f"The model '{model.name}' has no weights yet. Give it an "
                "input shape: put a `keras.Input` first, or call "
                "`model.build(input_shape)`."
            )
        if not overrides_call(model):
            x, y = model.inputs[0], model.outputs[0]
            return keras.Model(x, y, name=model.name)
    if not isinstance(model, keras.Function) or overrides_call(model):
        way = (
            "Rewrite it as a functional model, by "
            "`keras_prm.as_functional(model)` or as "
            "`keras.Model(inputs, outputs)`."
        )
        if inside := ", ".join(_models_held(model)):
            if type(model).train_step is not keras.Model.train_step:
                way = (
                    "Pass what it holds and that can be seen, each on its "
                    f"own: {inside}. It goes on training them as before."
                )
            else:
                way += f" Or pass what it holds and that can be seen: {inside}."
        raise TypeError(
            f"The model '{model.name}' is a subclass of keras.Model with a "
            f"`call` of its own, whose inside cannot be seen. {way} "
            f"Received: model of type {type(model).__name__}"
        )
    return model


def attributes(owner):
    """Names and values; PyTorch keeps layers apart from the others."""
    return [*vars(owner).items(), *vars(owner).get("_modules", {}).items()]


def _models_held(owner):
    """Functional models in attributes, lists and dicts of one, as code."""
    found, seen = [], set()

    def look(value, code):
        if isinstance(value, dict):
            for key, each in value.items():
                look(each, f"{code}[{key!r}]")
        elif isinstance(value, (list, tuple)):
            for number, each in enumerate(value):
                look(each, f"{code}[{number}]")
        elif is_model(value) and id(value) not in seen:
            seen.add(id(value))
            found.append(f"`{code}`")

    for name, value in attributes(owner):
        if not name.startswith("_"):
            look(value, f"model.{name}")
    return found


def check_is_new(model):
    """Refuses what looks like a model: its file, or one of Keras 2.

    Raises:
        TypeError: `model` is one.
    """
    if isinstance(model, (str, os.PathLike)):
        if os.fspath(model).endswith(".tflite"):
            raise TypeError(
                "Expected a keras.Model, and not a LiteRT file, from which "
                "none can be made. Pass the model that was exported. "
                f"Received: model={model!r}"
            )
        raise TypeError(
            "Expected a keras.Model, and not where one is. Load it, by "
            f"`keras.saving.load_model({os.fspath(model)!r})`, and pass what "
            f"that returns. Received: model={model!r}"
        )
    for kind in type(model).__mro__:
        package = kind.__module__.split(".")[0]
        if package == "tf_keras" or kind.__module__.startswith(
            "tensorflow.python.keras."
        ):
            raise TypeError(
                "Expected a model of Keras 3. Build the same network with "
                "`import keras` and hand the weights on: "
                "`new.set_weights(old.get_weights())`. Received: a model of "
                f"{package}, which is Keras 2: {type(model).__name__}"
            )


def plain(model):
    """As `functional`, but always a new `keras.Model`, not compiled."""
    view = functional(model)
    return keras.Model(view.input, view.output, name=view.name)


def overrides_call(model):
    """True for a model whose inside cannot be seen."""
    if isinstance(model, keras.Sequential):
        return type(model).call is not keras.Sequential.call
    own = getattr(type(model), "call", None)  # a bare Function has none
    return own not in (keras.Function.call, _functional_class().call)


@functools.cache
def _functional_class():
    """What `keras.Model(inputs, outputs)` makes; Keras does not export it."""
    x = keras.Input((1,))
    return type(keras.Model(x, x))


def nodes(view):
    """The calls of a functional model, each after those it needs."""
    return [
        _node_at(node)
        for node in keras_hooks.raw_nodes(view)
        if not node.is_input
    ]


def all_nodes(view):
    """As `nodes`, with those inside of nested models instead of these."""
    found = []
    for node in nodes(view):
        is_nested = is_model(node.operation)
        found += all_nodes(functional(node.operation)) if is_nested else [node]
    return found


def _node_at(node):
    return Node(
        node.operation,
        tuple(node.input_tensors),
        tuple(node.output_tensors),
        node.arguments,
    )


def nodes_between(inputs, outputs):
    """The calls that lead from some tensors to others, in order.

    Args:
        inputs: list of `KerasTensor`.
        outputs: list of `KerasTensor`.

    Returns:
        list of `Node`, each after those it needs.

    Raises:
        ValueError: They start from more than `inputs`.
    """
    known, found = {id(x) for x in inputs}, []
    left = list(reversed(outputs))
    while left:
        x = left[-1]
        node = keras_hooks.origin(x)
        missing = [y for y in node.input_tensors if id(y) not in known]
        if id(x) in known:
            left.pop()
        elif node.is_input:
            raise ValueError("it reads a tensor that it is not given")
        elif missing:
            left += reversed(missing)
        else:
            found.append(_node_at(node))
            known.update(id(y) for y in node.output_tensors)
    return found


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The arguments of a call that Keras keeps no record of."""

    args: tuple
    kwargs: dict

    def fill_in(self, tensors):
        """The same with each tensor `x` replaced by `tensors[id(x)]`."""
        return tuple(tensors[id(x)] for x in self.args), self.kwargs


def node_of(layer, x):
    """The `Node` that a wrapper makes of the layer inside, on one tensor."""
    outputs = keras.tree.flatten(layer.compute_output_spec(x))
    return Node(layer, (x,), tuple(outputs), Arguments((x,), {}))


def is_masked(x):
    """Whether Keras passes a mask of timesteps along with a tensor."""
    return keras_hooks.timestep_mask(x) is not None


def input_layer(x):
    """The `InputLayer` that made an input of a model."""
    return keras_hooks.origin(x).operation


def fed(node, view):
    """What a call of a nested model feeds to each of `view.inputs`."""
    argument = node.arguments.args[0] if node.arguments.args else None
    if not isinstance(argument, dict):
        return node.inputs
    if isinstance(view.input, dict):
        return tuple(argument[name] for name in sorted(view.input))
    return tuple(argument[input_layer(x).name] for x in view.inputs)
