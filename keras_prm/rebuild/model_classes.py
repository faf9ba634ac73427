"""Models of the class of another one, which may train in its own way."""

from __future__ import annotations

import inspect
import types
import warnings

import keras
import numpy as np

from keras_prm.utils import keras_graph

# What a model without the class does as well, or cannot do.
_NOT_LOST = (
    "build",
    "build_from_config",
    "call",
    "compute_mask",
    "compute_output_shape",
    "compute_output_spec",
    "from_config",
    "get_build_config",
    "get_config",
)

_CHANGING = (
    keras.Variable,
    keras.Layer,
    keras.Optimizer,
    keras.Metric,
)
_SHARED = (
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.ModuleType,
)
_DEPTH = 5  # attributes of attributes that are looked through


def in_class_of(model, small):
    """A model of the class of another one, on the graph that there is.

    Args:
        model: The model whose class it shall have.
        small: A `keras.Model` that computes what it shall compute.

    Returns:
        `(model, reason)`: the new model, or `small` if the class is the same
        anyway, or cannot be made of a graph; and the reason why not, else
        `""`.
    """
    kind = type(model)
    if isinstance(small, kind) or kind is keras.Sequential:
        return small, ""
    if keras_graph.overrides_call(model):
        return small, "it has a `call` of its own"
    try:
        if isinstance(model, keras.Sequential):
            options = {"layers": _chain(small)}
        else:
            options = {"inputs": small.input, "outputs": small.output}
        found = kind(**_arguments(model, options, small.name))
        _check_made(found, small)
        # Not every constructor takes a name, or it chooses one.
        found.name = keras_graph.functional(found).name = small.name
        _copy_own_weights(model, found)
    except Exception as error:
        return small, f"{type(error).__name__}: {error}"
    return found, ""


def overridden(model):
    """Names of what a model's class does otherwise than Keras' own."""
    found = {}
    for kind in type(model).__mro__:
        if kind.__module__.partition(".")[0] == "keras":
            break
        found.update(vars(kind))
    return sorted(
        name
        for name in found
        if name not in _NOT_LOST
        and not name.startswith("_")
        and hasattr(keras.Model, name)
    )


def warn_of_lost(caller, model, reason, stacklevel):
    """Warns if a model is no longer of a class that trains in its own way.

    Args:
        caller: The name of the function that is to blame.
        model: The model whose class is lost.
        reason: Why; nothing is said if it is `""`.
        stacklevel: As `warnings.warn` takes it.
    """
    names = overridden(model) if reason else ()
    if names:
        warnings.warn(
            f"What {caller} returns for '{model.name}' is a plain keras.Model "
            f"and no {type(model).__name__}. Lost is what that class "
            f"overrides: {', '.join(names)}. {_remedy(model)} "
            f"Received: {reason}",
            stacklevel=stacklevel + 1,
        )


def _remedy(model):
    if keras_graph.overrides_call(model):
        return (
            "Put it into a subclass of keras.Model without a `call`, and make "
            "one of what is returned: `MyModel(small.input, small.output)`."
        )
    takes = "(inputs, outputs, name=None)"
    if isinstance(model, keras.Sequential):
        takes = "(layers, name=None)"
    return (
        f"To keep it, let the constructor take `{takes}`, all further "
        "arguments being in its `get_config`, or attributes of these names, "
        "and give those that hold variables, as optimizers and metrics do, a "
        "`get_config` that says all that they are made of."
    )


def _chain(small):
    """The layers of a model that calls one after the other."""
    x = small.inputs[0]
    found = [keras_graph.input_layer(x)]
    for node in keras_graph.nodes(small):
        is_layer = isinstance(node.operation, keras.layers.Layer)
        if not is_layer or [id(y) for y in node.inputs] != [id(x)]:
            raise ValueError(
                f"'{node.operation.name}' is in no chain of layers"
            )
        (x,) = node.outputs
        found.append(node.operation)
    return found


def _arguments(model, options, name):
    """What to give to the constructor of a model's class."""
    kinds = inspect.Parameter
    parameters = inspect.signature(type(model).__init__).parameters
    *_, last = parameters.values()
    takes_all = last.kind == kinds.VAR_KEYWORD
    found = {
        key: value
        for key, value in {**options, "name": name}.items()
        if key in parameters or takes_all
    }
    missing = [key for key in options if key not in found]
    if missing:
        raise TypeError(f"the constructor takes no {missing}")
    config = _own_config(model)
    for key, parameter in list(parameters.items())[1:]:
        if key in found or parameter.kind in (
            kinds.VAR_KEYWORD,
            kinds.VAR_POSITIONAL,
        ):
            continue
        if key in config:
            found[key] = config[key]
        elif hasattr(model, key):
            found[key] = getattr(model, key)
        elif parameter.default is parameter.empty:
            raise TypeError(f"the constructor needs '{key}', which is unknown")
        if key in found:
            found[key] = keras.tree.map_structure(
                lambda value, key=key: _own(value, key), found[key]
            )
    return found


def _own(value, key):
    """An argument as another model may have it, of no variable of this one."""
    if isinstance(value, keras.layers.Layer):
        raise TypeError(f"the constructor needs the layer '{key}'")
    if isinstance(value, np.ndarray):
        return value.copy()
    if not _changing(value):
        return value
    reason = (
        f"its argument '{key}' holds variables or layers of this model, and "
        f"no `get_config` of {type(value).__name__} says all that it is made "
        "of"
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of lambdas, which it refuses
            found = type(value).from_config(value.get_config())
    except Exception as error:
        raise TypeError(reason) from error
    is_shared = _changing(found).keys() & _changing(value).keys()
    if is_shared or _settings(found) != _settings(value):
        raise TypeError(reason)
    return found


def _changing(value):
    """What training changes in an object, and in those inside, by id."""
    found, seen, values = {}, set(), [value]
    for _ in range(_DEPTH):
        values = [v for v in values if id(v) not in seen]
        seen.update(map(id, values))
        found.update((id(v), v) for v in values if isinstance(v, _CHANGING))
        values = [part for v in values for part in _held_values(v)]
    return found


def _held_values(value):
    """What an object holds; functions, classes and modules are shared."""
    if isinstance(value, dict):
        return [*value.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [*value]
    if isinstance(value, _SHARED) or not hasattr(value, "__dict__"):
        return []
    return [*vars(value).values()]


def _settings(value):
    """The plain public attributes of an object, but for whether it is built."""
    return {
        key: setting
        for key, setting in vars(value).items()
        if isinstance(setting, (bool, int, float, str, type(None)))
        and not key.startswith("_")
        and key != "built"
    }


def _own_config(model):
    """The arguments that a model's own `get_config` adds, as objects."""
    if type(model).get_config in (
        keras.Model.get_config,
        keras.Sequential.get_config,
    ):
        return {}
    try:
        config = model.get_config()
    except Exception:
        return {}
    return {
        key: keras.saving.deserialize_keras_object(value)
        if isinstance(value, dict) and "class_name" in value
        else value
        for key, value in config.items()
        if key not in ("layers", "input_layers", "output_layers")
    }


def _check_made(found, small):
    """Whether the constructor has made a model of what it was given."""
    specs = [
        [(tuple(x.shape), x.dtype) for x in (*m.inputs, *m.outputs)]
        for m in (found, small)
    ]
    own = {id(v) for v in small.weights}
    if specs[0] != specs[1] or not own.issubset(id(v) for v in found.weights):
        raise TypeError("the constructor makes another model of it")


def _copy_own_weights(model, found):
    """Gives a model the values of weights that no layer of it holds."""
    pairs = [own_weights(model), own_weights(found)]
    if [v.shape for v in pairs[0]] != [v.shape for v in pairs[1]]:
        raise TypeError("the constructor makes other weights of its own")
    for source, target in zip(*pairs):
        target.assign(source)


def own_weights(model):
    """The weights of a model that no layer of its graph holds."""
    held = {id(v) for layer in model.layers for v in layer.weights}
    return [v for v in model.weights if id(v) not in held]
