"""Ways of zeroing weights, and how far a stripped model is off."""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_prm.analysis.trace import trace
from keras_prm.utils import keras_graph
from keras_prm.utils import variable_keys


def kernels(model):
    found = variable_keys.variables_by_key(model).items()
    return [v for key, v in found if key.endswith("kernel")]


def edit(variable, *index):
    """Writes zero where `index` says."""
    value = np.array(ops.convert_to_numpy(variable))
    value[index] = 0
    variable.assign(value)


def none(model, rng):
    del model, rng


def filters(model, rng):
    for kernel in kernels(model):
        edit(kernel, ..., rng.random(kernel.shape[-1]) < 0.5)


def columns(model, rng):
    for kernel in kernels(model):
        edit(kernel, ..., rng.random(kernel.shape[-2]) < 0.5, slice(None))
        edit(kernel, rng.random(kernel.shape[:-1]) < 0.3)


def scattered(model, rng):
    """Few weights left, at random, so that paths are narrow."""
    for kernel in kernels(model):
        edit(kernel, rng.random(kernel.shape) < 0.8)


def both_with_vectors(model, rng):
    filters(model, rng)
    columns(model, rng)
    for variable in model.weights:
        if len(variable.shape) == 1 and "moving" not in variable.name:
            edit(variable, rng.random(variable.shape[0]) < 0.5)


def classes(model, rng):
    """Half of the channels that may go, as `hard_prune` would."""
    graph = trace(model)
    dead = rng.random(graph.num_classes) < 0.5
    dead[list(graph.pinned)] = False
    for weight in graph.weights.values():
        if weight.role == "kernel" and weight.out_ids is not None:
            ids = [None] * len(weight.ids)
            ids[weight.axes[1]] = weight.out_ids
            weight = dataclasses.replace(weight, ids=ids)
        if weight.role != "statistic":
            edit(weight.variable, weight.touched(dead[graph.classes]))


def borders(model, rng):
    for kernel in kernels(model):
        if len(kernel.shape) > 2 and kernel.shape[0] > 1:
            edit(kernel, slice(0, 1))
            edit(kernel, slice(None), slice(1, None))


def everything(model, rng):
    for kernel in kernels(model):
        edit(kernel, ...)


PATTERNS = (
    none,
    filters,
    columns,
    scattered,
    both_with_vectors,
    classes,
    borders,
    everything,
)


def outputs_of(model, x):
    return [ops.convert_to_numpy(y) for y in keras.tree.flatten(model(x))]


def max_error(model, small, x):
    """Largest difference, relative to the outputs, or 1 if these are small."""
    worst = 0.0
    outputs = model(x), small(x)
    keras.tree.assert_same_structure(*outputs)
    for pair in zip(*map(keras.tree.flatten, outputs)):
        want, have = map(ops.convert_to_numpy, pair)
        assert want.shape == have.shape and want.dtype == have.dtype
        want, have = want.astype("float64"), have.astype("float64")
        np.testing.assert_array_equal(np.isfinite(want), np.isfinite(have))
        scale = max(1.0, np.abs(want).max())
        worst = max(worst, np.abs(want - have).max() / scale)
    return worst


def num_nodes(model):
    found = [len(model._inbound_nodes)]
    for layer in model.layers:
        if keras_graph.is_model(layer):
            found += num_nodes(layer)
        found.append(len(layer._inbound_nodes))
    return found


def shapes(model):
    found = variable_keys.variables_by_key(model).items()
    return {key: tuple(v.shape) for key, v in found}


def zero_filters(model, **names):
    """Zeros filters by layer name; the biases stay."""
    for name, which in names.items():
        edit(model.get_layer(name).kernel, ..., which)
