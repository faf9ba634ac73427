"""Compiling a model as another one is compiled, by its config."""

from __future__ import annotations

import copy

import keras

from keras_prm.admm.optimizer import ADMMWrapper


def config_of(model):
    """What a model is compiled with, serialised; the optimizer without ADMM.

    Raises:
        ValueError: It is not compiled, or something cannot be serialised.
    """
    if not model.compiled or model.optimizer is None:
        raise ValueError(
            f"The model '{model.name}' is not compiled, so there is no "
            "optimizer to carry over. Call `model.compile(...)` and train "
            "it, or compile the smaller model alone: `small.compile(...)`."
        )
    try:
        config = model.get_compile_config()
        bare = _serialized(model.optimizer)
    except Exception as error:
        raise _not_serializable(error) from error
    if not config:
        raise _not_serializable("`get_compile_config` returns nothing")
    # The optimizer is wrapped for mixed precision by now, or shall not be.
    return {**config, "optimizer": bare, "auto_scale_loss": False}


def _serialized(optimizer):
    serialize = keras.saving.serialize_keras_object
    if isinstance(optimizer, ADMMWrapper):
        return serialize(optimizer.inner_optimizer)
    config = serialize(optimizer)
    inner = getattr(optimizer, "inner_optimizer", None)
    if isinstance(inner, ADMMWrapper):
        config["config"]["inner_optimizer"] = serialize(inner.inner_optimizer)
    return config


def optimizer(config):
    """A fresh optimizer of a config that `config_of` returned."""
    try:
        # A copy: Keras takes the config of an inner optimizer out of it.
        return keras.saving.deserialize_keras_object(
            copy.deepcopy(config["optimizer"])
        )
    except Exception as error:
        raise _not_serializable(error) from error


def compile_by(small, config):
    """Compiles a model by a config, in place, and returns it."""
    try:
        small.compile_from_config(config)
    except Exception as error:
        raise _not_serializable(error) from error
    return small


def _not_serializable(reason):
    return ValueError(
        "Cannot compile the smaller model as the larger one is: its "
        "optimizer, loss or metrics cannot be made anew from their config. "
        "Register your own functions and classes by "
        "`@keras.saving.register_keras_serializable()`, write a lambda as a "
        "function, or compile the smaller model yourself: "
        f"`small.compile(...)`. Received: {reason}"
    )
