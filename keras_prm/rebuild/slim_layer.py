"""The smaller twin of a single layer."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import layers

from keras_prm.rebuild import attachments
from keras_prm.rebuild import cloning
from keras_prm.rebuild import shared_layers
from keras_prm.rebuild.layer_edits import EditFinder
from keras_prm.rebuild.slim_weights import ModelArrays
from keras_prm.rebuild.slim_weights import SlimWeights
from keras_prm.rules import registry
from keras_prm.utils import keras_graph
from keras_prm.utils import keras_hooks
from keras_prm.utils import variable_keys

if TYPE_CHECKING:
    from typing import Any


@dataclasses.dataclass(frozen=True)
class Twin:
    """A layer that stands for another one.

    Args:
        layer: The layer, operation or model.
        adapters: The layers to put before it, in order.
        children: Pairs of a wrapped layer and its twin.
        followers: The layers to put behind it, in order.
    """

    layer: Any
    adapters: tuple = ()
    children: tuple = ()
    followers: tuple = ()


class LayerSlimmer:
    """Makes the twins of the layers of one model.

    Args:
        live: The `Liveness` of the model's graph.
        lowered: dict from `id(layer)` to the `Lowering` of its columns, of
            layers from which nothing else is to be cut.

    Attributes:
        targets: dict from `id(variable)` to what has become of it.
        changes: list of `attachments.Change`.
        finder: The `EditFinder`.
    """

    def __init__(self, live, lowered=None):
        self.targets = {}
        self.changes = []
        self.live = live
        self.graph = live.graph
        self.finder = EditFinder(live, lowered)
        self._arrays = ModelArrays(live)
        self._weights = {}
        self._fitted = {}
        self._names = {
            name
            for value in self.graph.values
            for name in value.origin.split("/")
        }

    def make(self, node, shape, keep, children=(), held=()):
        """The `Twin` of a layer or operation, not built yet.

        Args:
            node: A `keras_graph.Node` of it.
            shape: The shape of its output in the smaller model.
            keep: `keep(x, axis)` is a bool array: which positions of a
                tensor's axis stay.
            children: The twins of the layers it wraps.
            held: list of pairs of a layer that it was given, and of the layer
                that the twin is to hold.
        """
        layer = node.operation
        if isinstance(layer, layers.Lambda):
            return Twin(cloning.copy_lambda(layer))
        if held and (twin := shared_layers.copy(layer, held)):
            return Twin(twin)
        config = cloning.config_of(layer)
        rule = self._rule(layer)
        if isinstance(layer, layers.Layer):
            config.update(self._attachments(node, config, keep))
        if rule is not None:
            config.update(rule.resize(layer, self._arrays.size, shape))
            config.update(rule.configure(node, keep))
            if children:
                inner = self.graph.inner[id(layer)]
                return _wrapped(inner, rule, config, children)
        weights, adapters, followers = self.weights_of(layer), [], []
        for edit in weights.edits:
            config.update(edit.config)
            name = self._free_name(layer.name)
            adapters += edit.layers_before(name, layer.dtype_policy)
            followers += edit.layers_behind(name, layer)
        if weights.amount is not None and "use_bias" in config:
            config["use_bias"] = True
        if hasattr(layer, "get_vocabulary"):
            config.update(cloning.vocabulary(layer))
        # Their own would draw random numbers.
        if not cloning.records_arguments(layer):
            for name in cloning.initializers(layer, config):
                config[name] = weights.initializer(name)
        twin = cloning.copy_from_config(layer, config)
        return Twin(twin, tuple(adapters), followers=tuple(followers))

    def fill(self, layer, twin):
        """Brings a built twin's weights to what they have to be."""
        if not isinstance(layer, layers.Layer) or keras_graph.is_model(layer):
            return
        if twin.children:
            for child, small in twin.children:
                self.fill(child, Twin(small))
            return
        twin, weights = twin.layer, self.weights_of(layer)
        cloning.adapt_sublayers(layer, twin)
        added = weights.amount is not None and layer.bias is None
        bias = twin.bias if added else None
        targets = [v for v in twin.weights if v is not bias]
        if len(layer.weights) != len(targets):
            raise TypeError(
                f"Cannot copy the layer '{layer.name}' of type "
                f"{type(layer).__name__}: it has {len(layer.weights)} weights, "
                f"and what its config makes has {len(targets)}. If layers "
                "inside of it share some, call them where the model can be "
                "seen, as a functional one."
            )
        pairs = cloning.pairs(layer.weights, targets)
        pairs += _seeds(layer, twin)
        for source, target in pairs:
            self.targets[id(source)] = target
            if id(source) not in weights.given:
                target.assign(weights.array(source))
        for source, target in cloning.state_pairs(layer, twin):
            target.assign(self._arrays(source))
        for part in keras_hooks.sublayers(twin):
            if isinstance(part, layers.Normalization):
                part.finalize_state()
        changed = self._fitted.get(id(layer), {})
        for name in cloning.initializers(layer, cloning.config_of(layer)):
            value = changed.get(name, getattr(layer, name))
            setattr(twin, name, keras.initializers.get(value))
        attachments.release_arrays(twin)

    def parts(self, layer):
        """A layer, or the layers that it wraps."""
        nodes = self.graph.inner.get(id(layer), ())
        if not nodes or id(layer) in self.graph.opaque:
            return [layer]
        found = []
        for node in nodes:
            inside = node.operation
            if keras_graph.is_model(inside):
                layers_ = [x for _, x in variable_keys.layer_paths(inside)]
            else:
                layers_ = [inside]
            found += [part for x in layers_ for part in self.parts(x)]
        return found

    def kept(self, layer, variable):
        """Which positions of a weight stay: per axis ints, or `None` for all.

        Args:
            layer: The layer it belongs to.
            variable: The weight.
        """
        found = self.weights_of(layer).positions(variable)
        return tuple(
            None
            if at is None or len(at) == variable.shape[axis]
            else tuple(at.tolist())
            for axis, at in enumerate(found)
        )

    def weights_of(self, layer):
        """The `SlimWeights` of a layer, found once."""
        if id(layer) not in self._weights:
            self._weights[id(layer)] = SlimWeights(
                layer,
                self._arrays,
                self.finder.edits(layer, self._arrays),
                self.finder.folded_bias(layer),
                self._factors(layer),
            )
        return self._weights[id(layer)]

    def _attachments(self, node, config, keep):
        """Arguments that have to be others for the twin of a layer."""
        layer = node.operation
        weights = self.weights_of(layer)
        outputs = [
            weights.extent_of_output(
                tuple(x.shape),
                [
                    None if n is None else np.flatnonzero(keep(x, axis))
                    for axis, n in enumerate(x.shape)
                ],
            )
            for x in node.outputs
        ]
        found = attachments.fitted_attachments(
            layer, config, weights.extent, outputs
        )
        path = self.graph.homes[id(node.outputs[0])][0].origin
        self.changes += [
            attachments.Change(path, name, *how)
            for name, (_, *how) in found.items()
        ]
        changed = {name: value for name, (value, *_) in found.items()}
        self._fitted[id(layer)] = changed
        return changed

    def _rule(self, layer):
        """The rule that its twin is made by, or `None`."""
        if id(layer) in self.graph.opaque:
            return None
        return registry.rule_for(layer)

    def _factors(self, layer):
        """What variables are multiplied by once they are smaller."""
        rule = self._rule(layer)
        if rule is None:
            return {}
        pairs = rule.factors(layer, self._arrays.size)
        return {id(v): np.float32(f) for v, f in pairs if f != 1}

    def _free_name(self, name):
        """A stem for the names of adapters that no layer has already."""
        suffixes = ("pad", "crop", "place", "columns")
        while self._names & {f"{name}_{suffix}" for suffix in suffixes}:
            name += "_"
        return name


def _seeds(layer, twin):
    """Pairs of the states of random generators, which both have or not.

    A layer has none that is made without dropout, and still has one if its
    dropout was switched off later.
    """
    seeds = []
    for each in (layer, twin):
        weights = {id(w) for w in each.weights}
        seeds.append([v for v in each.variables if id(v) not in weights])
    return zip(*seeds) if len(seeds[0]) == len(seeds[1]) else ()


def _wrapped(nodes, rule, config, children):
    wrapper, inside = rule.wrap(config, [twin.layer for twin in children])
    pairs = zip((node.operation for node in nodes), inside)
    return Twin(wrapper, (), tuple(pairs))
