"""Copies of layers that were given other layers and hold on to them.

A head that reads the weights of an embedding holds that embedding. Its config
has the embedding's own in it, so that what is made of it holds an embedding
of its own. Here it gets one that there is.
"""

from __future__ import annotations

import contextlib

import keras

from keras_prm import copying

_MARK = "keras_prm>Held"  # the name that _Held is registered by


def mentioned(layer, parts):
    """Those of `parts`, layers inside of a layer, that are in its config."""
    found = []
    _config_of(layer, parts, lambda part, config: found.append(part))
    return found


def config_of(layer, twins):
    """As `copying.config_of`, to be read where `giving(twins)`.

    Args:
        layer: The layer.
        twins: list of pairs of a layer inside of it, and what the copy is to
            hold instead.
    """
    numbers = {id(part): number for number, (part, _) in enumerate(twins)}

    def replaced(part, config):
        number = numbers[id(part)]
        if config is None:
            return twins[number][1]
        others = {k: x for k, x in config.items() if k != "build_config"}
        return others | {
            "module": None,
            "class_name": _MARK,
            "config": {"number": number},
            "registered_name": _MARK,
        }

    return _config_of(layer, [part for part, _ in twins], replaced)


@contextlib.contextmanager
def giving(twins):
    """Where a config from `config_of` becomes a layer that holds `twins`."""
    before, _Held.twins = _Held.twins, twins
    try:
        yield
    finally:
        _Held.twins = before


@keras.saving.register_keras_serializable("keras_prm", "Held")
class _Held:
    """Stands in a config for a layer that there is already."""

    twins = ()

    def get_config(self):
        """Keras registers no class without; there is no object of this one."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config):
        return cls.twins[config["number"]][1]


def _config_of(layer, parts, change):
    """A config, with `change(part, config)` in place of each of `parts`.

    `config` is what Keras has serialised, `None` where it is the layer itself.
    """
    with contextlib.ExitStack() as stack:
        for number, part in enumerate(parts):
            stack.enter_context(_marked(part, number))
        config = copying.config_of(layer)
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
        if isinstance(value, (list, tuple)):
            return type(value)(map(walk, value))
        return value

    return walk(config)


@contextlib.contextmanager
def _marked(part, number):
    """For a while, a layer's config says which one it is."""
    own = part.get_config
    part.get_config = lambda: own() | {_MARK: number}
    try:
        yield
    finally:
        del part.get_config
