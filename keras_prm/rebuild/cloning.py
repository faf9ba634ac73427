"""Copies of layers and operations, by configs that can be changed."""

from __future__ import annotations

import inspect
import warnings

import keras
import numpy as np
from keras import layers

from keras_prm.utils import keras_hooks

# Arguments that need not be serializable for a layer to be copied.
_LIVE = ("activation", "_regularizer", "_constraint")


def config_of(layer):
    """A config to change, with live objects in it where that is possible.

    Raises:
        TypeError: The layer has none.
    """
    if not isinstance(layer, layers.Layer):
        return _arguments_of(layer)
    try:
        with warnings.catch_warnings():  # of a lambda, which is not saved here
            warnings.filterwarnings("ignore", "(?s).*includes a `lambda`")
            config = layer.get_config()
    except NotImplementedError as error:  # it was given a dtype policy, say
        config = _own_arguments_of(layer)
        if config is None:
            raise _uncopyable(layer, error) from error
    except Exception as error:
        raise _uncopyable(layer, error) from error
    if "get_config" in vars(type(layer)):  # else Keras records what it is given
        if "dtype" in config:
            config["dtype"] = layer.dtype_policy  # saves making a new one
        for name in config:
            own = getattr(layer, name, None)
            plain = own is not None and not isinstance(own, layers.Layer)
            if plain and name.endswith(_LIVE):
                config[name] = own
    return config


def _own_arguments_of(layer):
    """The config of a layer whose arguments are attributes, or `None`."""
    config = {
        "name": layer.name,
        "dtype": layer.dtype_policy.name,  # which Keras can save
        "trainable": layer.trainable,
    }
    kinds = inspect.Parameter
    for name, parameter in inspect.signature(type(layer)).parameters.items():
        if parameter.kind == kinds.VAR_KEYWORD:
            continue
        own = getattr(layer, name, layer)
        if parameter.kind == kinds.VAR_POSITIONAL or _holds_a_layer(own):
            return None
        config[name] = own
    return config


def _holds_a_layer(value):
    parts = keras.tree.flatten(value)
    return any(isinstance(x, layers.Layer) for x in parts)


def _arguments_of(operation):
    """The config of an operation; Keras refuses one made with arrays."""
    try:
        return operation.get_config()
    except NotImplementedError:
        names = inspect.signature(type(operation).__init__).parameters
        return {
            name: _python_numbers(getattr(operation, name))
            for name in names
            if hasattr(operation, name)
        }


def _python_numbers(value):
    """Numbers and shapes of NumPy's as Python's; data stay arrays."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return type(value)(map(_python_numbers, value))
    return value


def copy_from_config(layer, config):
    """A new layer or operation of the same class.

    Raises:
        TypeError: The config does not make one.
    """
    kind = type(layer)
    try:
        if isinstance(layer, layers.TFSMLayer):  # it is trusted already
            found = kind(**config)
        else:
            found = kind.from_config(config)
        _check_insides(layer, found)
    except Exception as error:
        raise _uncopyable(layer, error) from error
    return found


def _check_insides(layer, found):
    if isinstance(layer, layers.Layer):
        own = set(map(id, keras_hooks.sublayers(layer)))
        for part in keras_hooks.sublayers(found):
            if id(part) in own and part.variables:
                raise ValueError(f"the copy holds the very layer '{part.name}'")


def _uncopyable(layer, error):
    if isinstance(layer, layers.TFSMLayer):
        return TypeError(
            f"Cannot copy the layer '{layer.name}': the SavedModel that it "
            "runs cannot be loaded again. Put it back where it was. Received: "
            f"filepath={layer.filepath!r}, {type(error).__name__}: {error}"
        )
    return TypeError(
        f"Cannot copy the layer '{layer.name}' of type "
        f"{type(layer).__name__}: its `from_config` does not take what "
        "its `get_config` returns. Mend these two, and register what is "
        "in there by `keras.saving.register_keras_serializable`. "
        f"Received: {type(error).__name__}: {error}"
    )


def adapt_sublayers(layer, twin):
    """What no config holds of what is inside.

    That is LoRA, quantization, and what is frozen.
    """
    pairs = zip(
        keras_hooks.sublayers(layer)[1:], keras_hooks.sublayers(twin)[1:]
    )
    for old, new in pairs:
        mode = getattr(old, "quantization_mode", None)
        if mode and not getattr(new, "quantization_mode", None):
            config = getattr(old, "quantization_config", None)
            new.quantize(mode, config=config)
        if getattr(old, "lora_enabled", False) and not new.lora_enabled:
            new.enable_lora(old.lora_rank, lora_alpha=old.lora_alpha)
        if new.trainable != old.trainable:
            new.trainable = old.trainable


def pairs(sources, targets):
    """Pairs of the weights of a layer and of its twin.

    By their names within the layer where these tell: quantized layers make
    their weights in another order if they are made so. Else by their order.

    Args:
        sources: The layer's weights.
        targets: As many of the twin.
    """
    if [v.name for v in sources] != [v.name for v in targets]:
        by_name = {v.name: v for v in targets}
        names = {v.name for v in sources}
        if len(names) == len(sources) and names == by_name.keys():
            targets = [by_name[v.name] for v in sources]
    return list(zip(sources, targets))


def vocabulary(layer):
    """Arguments that hold what a lookup has been adapted to."""
    tokens = layer.get_vocabulary(include_special_tokens=False)
    found = {"vocabulary": tokens}
    lookup = keras_hooks.lookup_of(layer)
    if getattr(lookup, "output_mode", None) == "tf_idf" and tokens:
        start = layer.vocabulary_size() - len(tokens)
        weights = np.asarray(lookup.idf_weights)
        found["idf_weights"] = weights[start : start + len(tokens)]
    return found


def initializers(layer, config):
    """Names of the arguments that hold a layer's own initializers."""
    attributes = vars(layer)
    return [
        name
        for name in config
        if name.endswith("_initializer") and name in attributes
    ]


def state_pairs(layer, twin):
    """Pairs of variables that a layer and its twin hold, but do not list.

    What a stateful recurrent layer remembers is in none of the lists of
    variables that Keras makes.

    Returns:
        list of pairs; without those that either of the two has not got.
    """
    found = []
    for old, new in zip(
        keras_hooks.sublayers(layer), keras_hooks.sublayers(twin)
    ):
        listed = {id(v) for x in (old, new) for v in x.variables}
        for name in vars(old).keys() & vars(new).keys():
            pairs = [
                [v for v in keras.tree.flatten(vars(x)[name]) if _is_state(v)]
                for x in (old, new)
            ]
            if len(pairs[0]) == len(pairs[1]):
                found += zip(*pairs)
        found = [pair for pair in found if id(pair[0]) not in listed]
    return found


def _is_state(value):
    return isinstance(value, keras.Variable)


def records_arguments(layer):
    """True for a layer whose config is what Keras has seen it being given."""
    return type(layer).get_config is layers.Layer.get_config


def copy_lambda(layer):
    """A `Lambda` of the same function, which no config can hold."""
    config = layer.get_config()
    return layers.Lambda(
        layer.function,
        output_shape=keras_hooks.lambda_shape(layer),
        mask=layer.mask,
        arguments=layer.arguments,
        name=config["name"],
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
    )
