"""The smaller twin of a model, call by call."""

from __future__ import annotations

import functools

import keras
import numpy as np
from keras import layers
from keras import tree

from keras_prm.dependency import ambiguous_sums
from keras_prm.rebuild import model_classes
from keras_prm.rebuild import shared_layers
from keras_prm.rebuild import slim_layer
from keras_prm.rules import registry
from keras_prm.utils import keras_graph


class ModelRebuilder:
    """Builds the twins of the layers and models of one graph.

    Args:
        live: The `Liveness` of the graph: what stays.
        lowered: dict from `id(layer)` to the `Lowering` of its columns.

    Attributes:
        slimmer: The `LayerSlimmer` of the layers.
        lost: list of `(model, reason)` whose class could not be kept.
    """

    def __init__(self, live, lowered=None):
        self.graph = live.graph
        self.live = live
        self.slimmer = slim_layer.LayerSlimmer(live, lowered)
        self.lost = []
        self._twins = {}
        self._outputs = set()
        self._making = set()
        self._holders = None

    def untied(self):
        """Pairs of names: of a layer, and of one that it no longer holds.

        Their twins have a copy each of what the two of them had in common.
        """
        found = []
        for layer in self.graph.opaque.values():
            twin = self._twins.get(id(layer))
            for part in self.graph.held(layer) if twin else ():
                own = set(map(id, twin.layer.weights))
                other = self._twins.get(id(part))
                if other and not own.issuperset(map(id, other.layer.weights)):
                    found.append((layer.name, part.name))
        return found

    # Models.

    def model(self, view, is_root=False, origin=None):
        """The twin of a functional model.

        Args:
            view: The model.
            is_root: Whether it is the outermost one.
            origin: The model whose class the twin shall have, if not the
                view.
        """
        if is_root:
            used = functools.cache(lambda: self._used(view))
            self._holders = shared_layers.Holders(
                self.graph, lambda layer: id(layer) in used()
            )
        tensors = {
            id(x): self._input(x, keep_shape=is_root) for x in view.inputs
        }
        inputs = dict(tensors)
        self._outputs.update(id(x) for x in view.outputs)
        nodes, needed = keras_graph.nodes(view), self._needed(view)
        for node in nodes:
            if any(id(x) in needed for x in node.outputs):
                outputs = self._call(node, tensors)
                for x, new in zip(node.outputs, tree.flatten(outputs)):
                    self._check_shape(node, x, new)
                    tensors[id(x)] = new
        for layer in {id(c.operation): c.operation for c in nodes}.values():
            if id(layer) in self._twins and not keras_graph.is_model(layer):
                self.slimmer.fill(layer, self._twins[id(layer)])
        small = keras.Model(
            tree.map_structure(lambda x: inputs[id(x)], view.input),
            tree.map_structure(lambda x: tensors[id(x)], view.output),
            name=view.name,
        )
        origin = view if origin is None else origin
        small, reason = model_classes.in_class_of(origin, small)
        if reason:
            self.lost.append((origin, reason))
        return small

    def _input(self, x, keep_shape):
        layer = keras_graph.input_layer(x)
        config = layer.get_config()
        if not keep_shape:
            config["batch_shape"] = self._shape(x)
        return type(layer).from_config(config).output

    def _needed(self, view):
        """Ids of the tensors that the outputs depend on."""
        needed = {id(x) for x in view.outputs}
        for node in reversed(keras_graph.nodes(view)):
            if any(id(x) in needed for x in node.outputs):
                needed.update(id(x) for x in self._operands(node))
        return needed

    def _used(self, view):
        """Ids of the operations that outputs depend on, nested ones as well."""
        self._outputs.update(id(x) for x in view.outputs)
        needed, found = self._needed(view), set()
        for node in keras_graph.nodes(view):
            if any(id(x) in needed for x in node.outputs):
                inner = self.graph.inner.get(id(node.operation), ())
                for each in (node, *inner):
                    found.add(id(each.operation))
                    if keras_graph.is_model(each.operation):
                        model = keras_graph.functional(each.operation)
                        found |= self._used(model)
        return found

    def _operands(self, node):
        """The inputs of a call, less the zero terms of a sum."""
        dtypes = {x.dtype for x in (*node.inputs, *node.outputs)}
        if (
            not _is_sum(node)
            or len(dtypes) > 1
            or any(map(keras_graph.is_masked, node.inputs))
            or id(node.outputs[0]) in self._outputs  # they keep their names
        ):
            return node.inputs
        terms = [
            x
            for x in node.inputs
            if x.shape != node.outputs[0].shape or not self._is_zero(x)
        ]
        whole = [x for x in terms if x.shape == node.outputs[0].shape]
        if whole:
            return terms
        spare = [x for x in node.inputs if x.shape == node.outputs[0].shape]
        return terms + spare[:1] if spare else node.inputs

    def _is_zero(self, x):
        return all(self.live.is_zero(v) for v in self.graph.homes[id(x)])

    def _call(self, node, tensors):
        terms = self._operands(node)
        if len(terms) < len(node.inputs):
            terms = [tensors[id(x)] for x in terms]
            if len(terms) == 1:
                return terms[0]
            return self._twin(node).layer(terms)
        args, kwargs = node.arguments.fill_in(tensors)
        rule = registry.rule_for(node.operation)
        if rule is not None and rule.rewrite is not None:
            args, kwargs = rule.rewrite(node, args, kwargs, self._keep)
        args = ambiguous_sums.safe(node, args)
        twin = self._twin(node)
        for adapter in twin.adapters:
            args = (adapter(args[0]), *args[1:])
        result = twin.layer(*args, **kwargs)
        for follower in twin.followers:
            result = follower(result)
        return result

    def _twin(self, node):
        """The twin of a layer; first that of a layer that makes it, if any."""
        layer = node.operation
        if id(layer) not in self._twins:
            for maker in self._holders.makers(layer):
                self._make(self.graph.firsts[id(maker)])
            self._make(node)
        return self._twins[id(layer)]

    def _make(self, node):
        layer = node.operation
        if id(layer) in self._twins or id(layer) in self._making:
            return
        if keras_graph.is_model(layer):
            view = keras_graph.functional(layer)
            twin = slim_layer.Twin(self.model(view, origin=layer))
            self._twins[id(layer)] = twin
            return
        self._making.add(id(layer))
        held = []
        for part in self._holders.given(layer):
            twin = self._twin(self.graph.firsts[id(part)]).layer
            held.append(
                (part, self._filled(part, shared_layers.build(part, twin)))
            )
        inner = self._inner(layer)
        shape = self._shape(node.outputs[0])
        twin = self.slimmer.make(node, shape, self._keep, inner, held)
        self._twins[id(layer)] = twin
        for part, new in self._holders.made(layer, twin.layer):
            twin = slim_layer.Twin(self._filled(part, new))
            self._twins.setdefault(id(part), twin)

    def _filled(self, layer, twin):
        """A twin with its weights before it is called, if it ever is."""
        if len(layer.weights) == len(twin.weights):
            self.slimmer.fill(layer, slim_layer.Twin(twin))
        return twin

    def _inner(self, layer):
        """The twins of what a wrapper wraps, once each."""
        nodes = self.graph.inner.get(id(layer), ())
        if id(layer) in self.graph.opaque:
            nodes = ()
        layers_ = {id(node.operation): node for node in nodes}
        return [self._twin(node) for node in layers_.values()]

    # Shapes.

    def _keep(self, x, axis):
        """Which positions of an axis of a tensor stay, bool."""
        ids = self.graph.homes[id(x)][0].ids[axis]
        if ids is None:
            return np.ones(x.shape[axis] or 0, bool)
        return self.live.keep(ids)

    def _shape(self, x):
        """The shape that the analysis predicts for the twin of a tensor."""
        value = self.graph.homes[id(x)][0]
        return value.shape_of(self.live.keep, x.shape)

    def _check_shape(self, node, x, new):
        if tuple(new.shape) != self._shape(x):
            raise RuntimeError(
                f"The rebuilt '{node.operation.name}' has the shape "
                f"{tuple(new.shape)} where the analysis expected "
                f"{self._shape(x)}. This is an error in the rule for "
                f"{type(node.operation).__name__}: mend it if it is your own, "
                "and please report it if not."
            )


def _is_sum(node):
    return (
        ambiguous_sums.is_sum(node)
        and type(node.operation) is not layers.Average
        and (type(node.operation) is layers.Add or len(node.inputs) == 2)
    )
