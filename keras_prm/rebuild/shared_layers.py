"""Copies of layers that were given other layers and hold on to them.

A head that reads the weights of an embedding holds that embedding. Its config
has the embedding's own in it, so that what is made of it holds an embedding
of its own. Here it gets one that there is.
"""

from __future__ import annotations

import contextlib

import keras

from keras_prm.rebuild import cloning
from keras_prm.utils import keras_hooks

_MARK = "keras_prm>Held"  # the name that _Held is registered by


class Holders:
    """Which layers of a graph hold others that its model calls as well.

    Args:
        graph: The `DependencyGraph`.
        is_used: Function of a layer, whether outputs depend on it.
    """

    def __init__(self, graph, is_used):
        self._given = {}
        self._makers = {}
        self._made = {}
        for layer in graph.opaque.values():
            parts = graph.held(layer)
            if parts and is_used(layer):
                given = self._given[id(layer)] = _mentioned(layer, parts)
                made = {id(x) for x in parts} - {id(x) for x in given}
                self._made[id(layer)] = made
                for number in made:
                    self._makers.setdefault(number, []).append(layer)

    def given(self, layer):
        """The layers that are in a layer's config."""
        return self._given.get(id(layer), ())

    def makers(self, layer):
        """The layers that make a layer, as it is not in their config."""
        return self._makers.get(id(layer), ())

    def made(self, layer, twin):
        """Pairs of layers that a layer makes, and of those its twin has made.

        Less those that come out otherwise, such as LoRA.
        """
        if not self._made.get(id(layer)):
            return []
        build(layer, twin)
        pairs = zip(keras_hooks.sublayers(layer), keras_hooks.sublayers(twin))
        pairs = [
            (old, build(old, new))
            for old, new in pairs
            if id(old) in self._made[id(layer)] and type(old) is type(new)
        ]
        return [pair for pair in pairs if _are_alike(*pair)]


def build(layer, twin):
    """Gives a twin that nobody has called yet its variables, and returns it."""
    if type(layer).build is not keras.layers.Layer.build:
        if layer.built and not twin.built:
            twin.build_from_config(layer.get_build_config() or {})
    return twin


def _are_alike(layer, twin):
    shapes = [[v.shape for v in x.weights] for x in (layer, twin)]
    return shapes[0] == shapes[1] and not hasattr(layer, "get_vocabulary")


def _mentioned(layer, parts):
    """Those of `parts`, layers inside of a layer, that are in its config.

    Not those in a functional model: what Keras makes of its config calls
    layers as if nobody had called them yet.
    """
    inside = {
        id(part)
        for model in keras_hooks.sublayers(layer)
        if isinstance(model, keras.Function)
        and not isinstance(model, keras.Sequential)
        for part in keras_hooks.sublayers(model)
    }
    parts = [part for part in parts if id(part) not in inside]
    found = {}
    _config_of(layer, parts, lambda part, _: found.setdefault(id(part), part))
    return list(found.values())


def copy(layer, twins):
    """A copy of a layer that holds others than the layer does.

    Args:
        layer: The layer.
        twins: list of pairs of a layer that is in its config, and what the
            copy is to hold instead.

    Returns:
        The new layer, or `None` if the layer's `from_config` does not take
        what there is for what there was.
    """
    twin_of = {id(part): twin for part, twin in twins}

    def replaced(part, config):
        twin = twin_of[id(part)]
        if config is None:
            return twin
        others = {k: x for k, x in config.items() if k != "build_config"}
        return others | {
            "module": None,
            "class_name": _MARK,
            "config": {"layer": twin},
            "registered_name": _MARK,
        }

    config = _config_of(layer, [part for part, _ in twins], replaced)
    try:
        return cloning.copy_from_config(layer, config)
    except TypeError:
        return None


@keras.saving.register_keras_serializable("keras_prm", "Held")
class _Held:
    """Stands in a config for a layer that there is already, and holds it."""

    def get_config(self):
        """Keras registers no class without; there is no object of this one."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config):
        return config["layer"]


def _config_of(layer, parts, change):
    """A config, with `change(part, config)` in place of each of `parts`.

    `config` is what Keras has serialized, `None` where it is the layer itself.
    """
    with contextlib.ExitStack() as stack:
        for number, part in enumerate(parts):
            stack.enter_context(_marked(part, number))
        config = cloning.config_of(layer)
    live = {id(part): part for part in parts}

    def walk(value):
        if id(value) in live:
            return change(live[id(value)], None)
        if isinstance(value, dict):
            inner = value.get("config")
            if "class_name" in value and isinstance(inner, dict):
                if _MARK in inner:
                    return change(parts[inner[_MARK]], value)
            return {k: walk(x) for k, x in value.items() if k != _MARK}
        if type(value) in (list, tuple):
            return type(value)(map(walk, value))
        return value

    return walk(config)


@contextlib.contextmanager
def _marked(part, number):
    """For a while, a layer's config says which one it is."""
    before, own = vars(part).get("get_config"), part.get_config
    part.get_config = lambda: own() | {_MARK: number}
    try:
        yield
    finally:
        del part.get_config
        if before is not None:
            part.get_config = before
