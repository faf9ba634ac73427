"""`trace`: a model's graph of channels, by the rules of its layers.

Every axis of every tensor that can be pruned carries a vector of integer
*channel ids*. A layer that makes channels makes fresh ids, a layer that
passes channels on passes ids on, and whatever must keep two positions
together *ties* their ids. The classes of tied ids are what can be removed.
"""

from __future__ import annotations

import contextlib
import math
import warnings

import keras
import numpy as np

from keras_prm.dependency.graph_builder import GraphBuilder
from keras_prm.dependency.propagation import Contraction
from keras_prm.dependency.propagation import Recurrence
from keras_prm.rules import registry
from keras_prm.rules.base import LayerCall
from keras_prm.utils import keras_graph
from keras_prm.utils import keras_hooks
from keras_prm.utils import training_argument
from keras_prm.utils import variable_keys


class DependencyGraph(GraphBuilder):
    """A model as records: values, what flows between them, and weights.

    Made by `trace(model)`; rules write it, analyses read it.

    Attributes:
        classes: int array, the channel class of every id.
        pinned: dict from class to the reason why it cannot be removed.
        inner: dict from `id(wrapper)` to the `keras_graph.Node`s of the
            layers inside.
        homes: dict from `id(KerasTensor)` to its `Value`s: one, or in a
            nested model one per call of that model.
        firsts: dict from `id(operation)` to its first `keras_graph.Node`, of
            all but nested models.
        training: What the model or wrapper around is told of training, or
            `None`.
    """

    def __init__(self, model):
        keys = variable_keys.variables_by_key(model).items()
        super().__init__({id(v): key for key, v in keys})
        self.inner = {}
        self.homes = {}
        self.firsts = {}
        self.training = None
        self.classes = np.zeros(0, int)
        self.pinned = {}
        self._tied = {}

    def walk(self, view, tensors, prefix, reason=None):
        """Traces all calls of a functional model, nested ones included.

        Args:
            view: A functional model.
            tensors: dict from `id(KerasTensor)` to `Value`, which holds the
                model's inputs and receives all the others.
            prefix: Path of the model in the hierarchy, `""` or `"a/b/"`.
            reason: Why all its layers have to be left alone, or `None`.
        """
        for node in keras_graph.nodes(view):
            self.visit(node, tensors, prefix + node.operation.name, reason)

    def visit(self, node, tensors, path, reason=None):
        """Traces one call.

        Args:
            node: The `keras_graph.Node`.
            tensors: As for `walk`.
            path: The operation's place in the hierarchy.
            reason: Why it has to be left alone, or `None`.

        Returns:
            list of `Value`, one per output.
        """
        if keras_graph.is_model(node.operation):
            outputs = self._enter(node, tensors, path, reason)
        else:
            self.firsts.setdefault(id(node.operation), node)
            inputs = [tensors[id(x)] for x in node.inputs]
            outputs = [self.value(x.shape, path) for x in node.outputs]
            call = LayerCall(self, node, path, inputs, outputs)
            registry.apply(call, reason)
            self._tie_calls(node.operation, outputs)
        for x, value in zip(node.outputs, outputs):
            tensors[id(x)] = value
            self.homes.setdefault(id(x), []).append(value)
        return outputs

    @contextlib.contextmanager
    def told(self, node):
        """What a call is told of training goes for what is inside."""
        before = self.training
        self.training = training_argument.effective(node, before)
        try:
            yield
        finally:
            self.training = before

    def held(self, layer):
        """The layers inside of an opaque one that the model calls as well.

        An embedding that a head reads too: there is one of them in the copy.

        Returns:
            list of those with a state to share.
        """
        if id(layer) not in self.opaque or not isinstance(layer, keras.Layer):
            return []
        parts = keras_hooks.sublayers(layer)[1:]
        return [
            part
            for part in parts
            if id(part) in self.firsts
            and (part.weights or hasattr(part, "get_vocabulary"))
        ]

    def can_trace(self, layer):
        """Whether one can look into a wrapped layer; no rule is needed."""
        return keras_graph.is_model(layer) or not isinstance(layer, keras.Model)

    def _tie_calls(self, operation, outputs):
        """A config that holds the widths of the output serves all calls."""
        rule = registry.rule_for(operation)
        if rule is not None and rule.resize is not registry.Rule.resize:
            self._tie_values(id(operation), outputs)

    def _tie_values(self, number, values):
        """Ties values to those that were first given under this number."""
        first = self._tied.setdefault(number, values)
        for old, new in zip(first, values):
            if len(old.shape) != len(new.shape):
                continue
            for axis, size in enumerate(new.shape):
                same_size = size is not None and size == old.shape[axis]
                if old is not new and same_size and axis > 0:
                    if not (old.ids[axis] is new.ids[axis] is None):
                        self.tie(self.ids(old, axis), self.ids(new, axis))

    def _enter(self, node, tensors, path, reason):
        view = keras_graph.functional(node.operation)
        inputs = [tensors[id(x)] for x in keras_graph.fed(node, view)]
        reason = reason or registry.unknown_argument(node)
        self._tie_values(id(node.operation), inputs)
        tensors = dict(zip(map(id, view.inputs), inputs))
        for x, value in zip(view.inputs, inputs):
            self.homes.setdefault(id(x), []).append(value)
        other = [
            f"{value.shape} into {x.shape}"
            for x, value in zip(view.inputs, inputs)
            if len(x.shape) != len(value.shape)
        ]
        with self.told(node):
            try:
                self.walk(view, tensors, path + "/", reason)
            except (IndexError, TypeError, ValueError) as error:
                if not other:
                    raise
                raise ValueError(
                    f"Cannot analyze the nested model '{path}': it is fed "
                    "tensors of another rank, which Keras makes fit, and "
                    "which shapes do not show. Put a `keras.layers.Reshape` "
                    f"in front of it. Received: {', '.join(other)}; what "
                    f"went wrong: {error}"
                ) from error
        return [tensors[id(x)] for x in view.outputs]

    def finish(self):
        """Computes `classes` and `pinned` from the ties that were made."""
        self._fix_opaque_weights()
        self.classes = _components(self.num_ids, self.ties)
        for ids, reason in self.fixed:
            for number in np.unique(self.classes[ids]):
                self.pinned.setdefault(int(number), reason)
        return self

    def _fix_opaque_weights(self):
        for layer in self.opaque.values():
            for variable in getattr(layer, "weights", ()):
                weight = self.weights.get(id(variable))
                for ids in weight.ids if weight else ():
                    if ids is not None:
                        self.fix(ids, f"'{layer.name}' has no rule here")

    @property
    def num_classes(self):
        """How many classes of channel ids there are."""
        return int(self.classes.max()) + 1 if len(self.classes) else 0

    @property
    def products(self):
        """The steps that multiply with kernels."""
        return [
            s for s in self.steps if isinstance(s, (Contraction, Recurrence))
        ]

    @property
    def macs(self):
        """Multiply-accumulates per sample of all kernels, zeros included.

        `None` where a size is not known, or a layer that is not looked into
        has a kernel.
        """
        if self.macs_note:
            return None
        return sum(
            step.macs * sum(math.prod(k.shape) for k in step.kernels)
            for step in self.products
            if step.macs is not None
        )

    @property
    def macs_note(self):
        """Why `macs` is not known, `""` where it is."""
        known = {id(k) for step in self.products for k in step.kernels}
        hidden = [
            self.opaque_paths[number]
            for number, layer in self.opaque.items()
            if any(
                len(weight.shape) > 1 and id(weight) not in known
                for weight in getattr(layer, "weights", ())
            )
        ]
        causes = []
        if hidden:
            causes.append(f"no rule says what {hidden} compute")
        if any(step.macs is None for step in self.products):
            causes.append("the model takes inputs of any size")
        return " and ".join(causes)

    @property
    def contractions(self):
        """The steps that are a `Contraction`, in order."""
        return [step for step in self.steps if isinstance(step, Contraction)]


def trace(model):
    """Traces a built functional or Sequential model.

    Args:
        model: The model; it is only read.

    Returns:
        A finished `DependencyGraph`.

    Raises:
        TypeError: The model is not functional.
        ValueError: It is not built.
    """
    view = keras_graph.functional(model)
    found = DependencyGraph(view)
    inputs = [found.value(x.shape, x.name) for x in view.inputs]
    found.num_inputs = len(inputs)
    for value in inputs:  # named, so that what passes them on says why
        if len(value.shape) > 1 and value.shape[-1] is not None:
            found.ids(value, len(value.shape) - 1)
    tensors = dict(zip(map(id, view.inputs), inputs))
    for number, value in tensors.items():
        found.homes[number] = [value]
    found.walk(view, tensors, "")
    for x in view.outputs:
        value = tensors[id(x)]
        for axis in range(len(value.shape)):
            found.read(value, axis, "it is an output of the model")
    return found.finish()


def warn_of_quantized(graph, what, stacklevel):
    """Warns where layers are quantized, and says whether some are.

    Args:
        graph: The `DependencyGraph` of a model.
        what: What came of it, the begin of a sentence.
        stacklevel: As `warnings.warn` takes it.
    """
    quantized = [
        path for path, why in graph.skipped if why == "it is quantized"
    ]
    if quantized:
        warnings.warn(
            f"{what}: quantized layers stay as they are. Plan, prune, purify "
            "and strip before `model.quantize(...)`, and quantize what "
            f"`strip` returns. Received: quantized layers {quantized}",
            stacklevel=stacklevel + 1,
        )
    return bool(quantized)


def _components(size, ties):
    """Connected components of `size` ids; numbered by their first member."""
    root = np.arange(size)
    if ties:
        left = np.concatenate([a for a, _ in ties])
        right = np.concatenate([b for _, b in ties])
        while True:
            low = np.minimum(root[left], root[right])
            before = root.copy()
            np.minimum.at(root, root[left], low)
            np.minimum.at(root, root[right], low)
            np.minimum.at(root, left, low)
            np.minimum.at(root, right, low)
            root = root[root]
            if np.array_equal(root, before):
                break
    return np.unique(root, return_inverse=True)[1].reshape(-1)
