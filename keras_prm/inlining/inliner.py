"""The inliner: layers made of others, replaced by their calls.

Keras shows the calls that a functional model is made of. A `call` in Python
hides those that it makes; run on symbolic tensors, it shows them.
"""

from __future__ import annotations

import contextlib
import re

import keras
from keras import tree

from keras_prm.inlining import replay_check
from keras_prm.inlining import symbolic_call
from keras_prm.rules import registry
from keras_prm.utils import keras_graph
from keras_prm.utils import keras_hooks


class Inliner:
    """Runs calls on symbolic tensors, one by one those inside of layers.

    Args:
        to_close: Set of `id(layer)` of those that are not to be looked into.

    Attributes:
        closed: dict from the path of a layer that stays closed to why.
        paths: dict from `id(operation)` to where the operation was found:
            names of layers, joined by `/`.
    """

    def __init__(self, to_close=()):
        self.closed = {}
        self.paths = {}
        self._to_close = set(to_close)
        self._kept_whole = []
        self._opened = []

    def model(self, view, tensors, prefix=""):
        """Runs all calls of a functional model.

        Args:
            view: The model.
            tensors: dict from `id(KerasTensor)` to what stands for it, which
                holds the model's inputs and receives all the others.
            prefix: Path of the model, `""` or `"a/b/"`.
        """
        for node in keras_graph.nodes(view):
            name = node.operation.name
            if prefix:
                name = _uncounted(node.operation)
            self._run(node, tensors, prefix + name)

    def layer(self, layer, args, kwargs, prefix):
        """What a layer's `call` returns, from the calls that it makes.

        Args:
            layer: The layer, or subclassed model.
            args: Its arguments, with symbolic tensors.
            kwargs: More of them.
            prefix: What the paths of the layers inside begin with.

        Raises:
            ValueError: It cannot be opened; the message is the reason.
        """
        args, kwargs = symbolic_call.cast(layer, (args, kwargs))
        found = symbolic_call.calls_inside(layer, args, kwargs)
        tensors, names = (
            {id(x): x for x in found.inputs},
            _attribute_names(layer),
        )
        for node in found.nodes:
            operation = node.operation
            name = names.get(id(operation)) or _uncounted(operation)
            self._run(node, tensors, prefix + name)
        self._opened.append(layer)
        return tree.map_structure(lambda x: tensors[id(x)], found.outputs)

    def half_opened(self):
        """Blocks that were opened and share layers with what was not.

        Returns:
            Set of `id(layer)`.
        """
        inside = {
            id(part)
            for layer in self._kept_whole
            if isinstance(layer, keras.layers.Layer)
            for part in keras_hooks.sublayers(layer)[1:]
        }
        ends = [
            x for x in (*self._kept_whole, *self._opened) if id(x) in inside
        ]
        wanted = {id(x) for x in ends if getattr(x, "weights", ())}
        return {
            id(layer)
            for layer in self._opened
            if wanted & set(map(id, keras_hooks.sublayers(layer)))
        }

    @contextlib.contextmanager
    def renamed(self, inputs, outputs):
        """For a while, operations have names that say where they come from.

        Yields:
            list of the operations between inputs and outputs.
        """
        inputs, outputs = tree.flatten(inputs), tree.flatten(outputs)
        taken = {keras_graph.input_layer(x).name for x in inputs}
        before = {}
        for node in keras_graph.nodes_between(inputs, outputs):
            operation = node.operation
            if id(operation) not in before:
                before[id(operation)] = operation, operation.name
                path = self.paths.get(id(operation), operation.name)
                stem = name = _joined(path)
                number = 0
                while name in taken:
                    number += 1
                    name = f"{stem}_{number}"
                taken.add(name)
                operation.name = name
        try:
            yield [operation for operation, _ in before.values()]
        finally:
            for operation, name in before.values():
                operation.name = name

    def _run(self, node, tensors, path):
        operation = node.operation
        args, kwargs = node.arguments.fill_in(tensors)
        outputs = None
        if keras_graph.is_model(operation) or registry.is_block(operation):
            try:
                outputs = self._open(node, args, kwargs, tensors, path)
            except ValueError as reason:
                self.closed[path] = str(reason)
        elif _wraps_a_block(operation):
            reason = "layers of Keras around others are not looked into"
            self.closed[path] = reason
        if outputs is None:
            outputs = replay_check.of_any_batch(node)(*args, **kwargs)
            if id(operation) not in self.paths:
                self.paths[id(operation)] = path
                self._kept_whole.append(operation)
        for x, new in zip(node.outputs, tree.flatten(outputs), strict=True):
            tensors[id(x)] = new

    def _open(self, node, args, kwargs, tensors, path):
        layer = node.operation
        if id(layer) in self._to_close:
            raise ValueError("it shares layers with what stays closed")
        if not keras_graph.is_model(layer):
            if any(map(keras_graph.is_masked, (*node.inputs, *node.outputs))):
                raise ValueError("it reads or makes a mask of timesteps")
            return self.layer(layer, args, kwargs, path + "/")
        if reason := registry.unknown_argument(node):
            raise ValueError(reason)
        view = keras_graph.functional(layer)
        inputs = [tensors[id(x)] for x in keras_graph.fed(node, view)]
        inputs = symbolic_call.cast(layer, inputs)
        inside = {
            id(x): _as_input(x, given) for x, given in zip(view.inputs, inputs)
        }
        self.model(view, inside, path + "/")
        self._opened.append(layer)
        return [inside[id(x)] for x in view.outputs]


def _joined(path):
    """The names in a path, less those that the next one begins with."""
    name, *rest = path.split("/")
    last = name
    for part in rest:
        name = part if part.startswith(f"{last}_") else f"{name}_{part}"
        last = part
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def _as_input(x, given):
    """What a functional model makes of a tensor that is given for an input."""
    if given.dtype != x.dtype:
        given = keras.ops.cast(given, x.dtype)
    if len(given.shape) == len(x.shape) + 1 and given.shape[-1] == 1:
        return keras.ops.squeeze(given, axis=-1)
    if len(given.shape) == len(x.shape) - 1 and x.shape[-1] == 1:
        return keras.ops.expand_dims(given, axis=-1)
    return given


def _wraps_a_block(operation):
    return isinstance(operation, keras.layers.Layer) and any(
        registry.is_block(part) for part in keras_hooks.sublayers(operation)
    )


def _attribute_names(layer):
    """What layers inside are called by that were not given a name.

    Keras' names for these count all that were ever made; the attribute that
    holds them is the same each time.
    """
    found = {}
    modules = vars(layer).get("_modules", {})  # where PyTorch keeps them
    for name, value in (vars(layer) | modules).items():
        if name.startswith("_"):
            continue
        parts = {name: value}
        if isinstance(value, (list, tuple)):
            parts = {f"{name}_{i}": x for i, x in enumerate(value)}
        elif isinstance(value, dict):
            parts = {f"{name}_{i}": x for i, x in value.items()}
        for name, part in parts.items():
            if isinstance(part, keras.layers.Layer) and _is_unnamed(part):
                found.setdefault(id(part), name)
    return found


def _is_unnamed(operation):
    usual = type(operation).__name__.lower()
    name = operation.name.replace("_", "")
    return bool(re.fullmatch(rf"{usual}\d*", name))


def _uncounted(operation):
    """Its name, without the number that Keras made up."""
    if _is_unnamed(operation):
        return re.sub(r"_\d+$", "", operation.name)
    return operation.name
