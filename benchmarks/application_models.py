"""The models of keras.applications, with weights that hide nothing.

Freshly built models have zero biases, betas and moving means, with which a
wrong treatment of constants goes unseen. Here every weight is random and not
zero, and the activations stay of order one from the first layer to the last,
so that the outputs depend on the input and on every layer.
"""

import inspect
import math

import keras
import numpy as np
from keras import layers

import keras_prm
from keras_prm.utils import variable_keys

_CENTRES = ("bias", "beta", "mean", "moving_mean")


def constructors():
    """dict from name to function: every model of `keras.applications`."""
    return {
        name: function
        for name, function in sorted(vars(keras.applications).items())
        if inspect.isfunction(function)
        and "weights" in inspect.signature(function).parameters
    }


def build(name, size=None):
    """An application with random weights that returns logits.

    Args:
        name: A key of `constructors()`.
        size: Height and width of the images; `None` takes the default, and
            224 where that is any size.
    """
    options = {"weights": None, "classifier_activation": None}
    if size is not None:
        options["input_shape"] = (size, size, 3)
    model = constructors()[name](**options)
    return model if model.input_shape[1] else build(name, 224)


def randomize(model, rng):
    """Draws every weight anew, none of them zero. Works in place."""
    for _, layer in variable_keys.layer_paths(model):
        for variable in layer.weights:
            if "float" in variable.dtype:
                variable.assign(_drawn(layer, variable, rng))
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()


def _drawn(layer, variable, rng):
    if len(variable.shape) > 1:
        return _kernel(layer, variable, rng)
    if variable.name in _CENTRES:
        return _centers(variable.shape, rng)
    return rng.uniform(0.5, 1.5, variable.shape)


def _kernel(layer, variable, rng):
    """Normal, of variance 4 / fan-in.

    A ReLU halves the energy of what passes it, and pruning half the filters
    halves it once more.
    """
    by_channel = isinstance(
        layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
    ) or variable.name.startswith("depthwise")
    fan_in = math.prod(variable.shape[: -2 if by_channel else -1])
    array = rng.standard_normal(variable.shape, "float32")
    array[array == 0] = 1.0
    array *= 2 / math.sqrt(fan_in)
    return array


def _centers(shape, rng):
    return rng.choice([-1.0, 1.0], shape) * rng.uniform(0.05, 0.2, shape)


def settle(model, x, rng):
    """Fits BatchNormalization's statistics to `x`, roughly. Works in place.

    Statistics that have nothing to do with the activations would let these
    grow or fade from layer to layer. Exact ones would make the mean of every
    channel equal beta; so they are moved off, and none is zero.
    """
    keras_prm.recalibrate(model, x, batch_size=len(x))
    for _, layer in variable_keys.layer_paths(model):
        if isinstance(layer, layers.BatchNormalization):
            _unsettle(layer, rng)


def _unsettle(layer, rng):
    mean = keras.ops.convert_to_numpy(layer.moving_mean)
    variance = keras.ops.convert_to_numpy(layer.moving_variance)
    variance = variance + 0.1 * variance.mean() + 1e-3
    mean = mean + np.sqrt(variance) * _centers(mean.shape, rng)
    layer.moving_mean.assign(mean)
    # The mean of 1 / factor is below 1: what grows in one layer, grows in all.
    layer.moving_variance.assign(
        variance * rng.uniform(0.6, 1.8, variance.shape)
    )


def images(model, batch_size, rng):
    """Random images as the model takes them, coarse patches under noise."""
    _, height, width, _ = model.input_shape
    coarse = rng.random((batch_size, 8, 8, 3), "float32")
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8
    patches = coarse[:, rows][:, :, columns // width]
    fine = rng.random(patches.shape, "float32")
    kinds = (layers.Rescaling, layers.Normalization)
    scale = 255 if any(isinstance(x, kinds) for x in model.layers) else 1
    return scale * (patches + fine) / 2
