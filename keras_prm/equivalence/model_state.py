"""States that a model keeps from call to call, saved and put back."""

from __future__ import annotations

import contextlib
import inspect
import random

import keras
import numpy as np

from keras_prm.utils import keras_hooks
from keras_prm.utils import variable_keys


def states(model):
    """The part of `variables` that Keras does not list, such as RNNs' states.

    Args:
        model: A functional or Sequential model.

    Returns:
        list of `keras.Variable`, each once.
    """
    listed = {id(v) for v in model.variables}
    return [v for v in variables(model) if id(v) not in listed]


def variables(model):
    """Every variable of a model or layer that is no trainable weight.

    Keras lists neither the states of recurrent layers nor what else a layer
    holds in a list of its own, so the layers' attributes are read as well.

    Args:
        model: A functional or Sequential model, or a layer.

    Returns:
        list of `keras.Variable`, each once.
    """
    found = {id(v): v for v in model.non_trainable_variables}
    for layer in keras_hooks.sublayers(model):
        for value in leaves([*vars(layer).values()]):
            if isinstance(value, keras.Variable):
                found[id(value)] = value
    for variable in model.trainable_variables:
        found.pop(id(variable), None)
    return [*found.values()]


def leaves(values):
    """What a list holds, and lists, tuples and dicts inside of it.

    As `keras.tree.flatten`, but for dicts of keys that have no order.
    """
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from leaves(value)
        elif isinstance(value, dict):
            yield from leaves([*value.values()])
        else:
            yield value


@contextlib.contextmanager
def kept(*models, which=variables):
    """A context that leaves the variables of models as they were.

    Args:
        models: Functional or Sequential models.
        which: Function from a model to those meant. Default: `variables`,
            which are states of recurrent layers and of random generators, and
            moving statistics, but no trainable weights.
    """
    before = [
        (variable, np.array(variable_keys.array_of(variable)))
        for model in models
        for variable in which(model)
    ]
    try:
        yield
    finally:
        for variable, old in before:
            if not np.array_equal(variable_keys.array_of(variable), old):
                variable.assign(old)


@contextlib.contextmanager
def random_numbers_kept():
    """A context that leaves Python's and NumPy's random numbers as they were.

    A layer or initializer without a seed takes one from Python's generator
    when it is made, so that copies of layers would change what a script that
    has fixed its seed draws next.
    """
    before, before_numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(before_numpy)


def reset(*models):
    """Sets the states of stateful layers to where a sequence begins.

    Args:
        models: Functional or Sequential models. Layers of one's own are
            reset by their `reset_state()` or `reset_states()`, as Keras'.
            Those that gather data to be adapted are left alone.
    """
    for model in models:
        for layer in keras_hooks.sublayers(model):
            if not getattr(layer, "stateful", True):  # `Bidirectional` raises
                continue
            if hasattr(layer, "adapt"):
                continue
            for name in ("reset_state", "reset_states"):
                function = getattr(layer, name, None)
                if callable(function) and not _needs(function):
                    function()
                    break


def _needs(function):
    """Whether a function has arguments without defaults."""
    kinds = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return any(
        p.default is p.empty and p.kind not in kinds
        for p in inspect.signature(function).parameters.values()
    )
