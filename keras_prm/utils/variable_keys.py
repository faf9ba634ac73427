"""Names of a model's layers and variables that survive saving."""

from __future__ import annotations

import keras
import numpy as np

from keras_prm.utils import keras_graph


def layer_paths(model):
    """`(path, layer)` of every layer that is not itself a model, in order.

    Args:
        model: A functional or Sequential model.

    Returns:
        list of `(path, layer)`; the path joins the names of the enclosing
        models, the outermost left out, and of the layer, by `/`.
    """
    found = []
    for layer in model.layers:
        if keras_graph.is_model(layer):
            found += [(f"{layer.name}/{p}", x) for p, x in layer_paths(layer)]
        else:
            found.append((layer.name, layer))
    return found


def _nested_models(model):
    """`(path, model)` of a model and those inside, the innermost first."""
    found = []
    for layer in model.layers:
        if keras_graph.is_model(layer):
            found += [
                (f"{layer.name}/{path}" if path else layer.name, inner)
                for path, inner in _nested_models(layer)
            ]
    return [*found, ("", model)]


def variables_by_key(model):
    """Every weight of the model by its key.

    Args:
        model: A functional or Sequential model.

    Returns:
        dict from key to `keras.Variable`; a variable that several layers
        share appears once, under the first.
    """
    return {key: variable for key, (variable, _) in owned(model).items()}


def owned(model):
    """Every weight by its key, and the first layer that holds it.

    Those that no layer of the graph holds, such as a model's own
    `add_weight`, are the model's.

    Args:
        model: A functional or Sequential model.

    Returns:
        dict from key to `(variable, layer)`.
    """
    found, seen = {}, set()
    for path, layer in [*layer_paths(model), *_nested_models(model)]:
        for variable in layer.weights:
            if id(variable) not in seen:
                seen.add(id(variable))
                key = _free_key(found, path, layer, variable)
                found[key] = variable, layer
    return found


def _free_key(found, path, layer, variable):
    """A key that is not taken; wrappers hold weights of equal names."""
    parts = variable.path.split("/")
    names = [_name_within(layer, variable)]
    names += ["/".join(parts[-n:]) for n in range(2, len(parts) + 1)]
    names += [f"{names[0]}_{n}" for n in range(1, len(found) + 2)]
    keys = (f"{path}/{name}" if path else name for name in names)
    return next(key for key in keys if key not in found)


def _name_within(layer, variable):
    parts = variable.path.split("/")
    if layer.name in parts[:-1]:
        last = len(parts) - 1 - parts[::-1].index(layer.name)
        return "/".join(parts[last + 1 :]) or variable.name
    return variable.name


def finite_arrays(model):
    """The model's weights: dict from `id(variable)` to its array.

    Raises:
        TypeError: `model` is no functional or Sequential model.
        ValueError: Some hold NaN or infinity; the message names them.
    """
    keras_graph.functional(model)
    variables = variables_by_key(model)
    arrays = {id(v): array_of(v) for v in variables.values()}
    bad = [key for key, v in variables.items() if not _is_finite(arrays[id(v)])]
    if bad:
        raise ValueError(
            "Cannot analyze a model whose weights are not finite. Restore "
            "them from a checkpoint, and train with "
            "`keras.callbacks.TerminateOnNaN`. "
            f"Received: NaN or infinity in {bad}"
        )
    return arrays


def _is_finite(array):
    """Whether all entries are finite; their squares tell in most cases."""
    if array.dtype.kind not in "fc" and "float" not in str(array.dtype):
        return True
    flat = array.reshape(-1)
    with np.errstate(all="ignore"):
        return bool(
            np.isfinite(np.vdot(flat, flat)) or np.isfinite(array).all()
        )


def array_of(variable):
    """A variable's array, without a copy where the backend allows it.

    Not to be written to.
    """
    value = variable.value
    if hasattr(value, "read_value"):  # TensorFlow's, whose buffer we can see
        value = value.read_value()
    try:
        return np.asarray(memoryview(value))
    except (TypeError, ValueError, BufferError, NotImplementedError):
        return keras.ops.convert_to_numpy(value)
