"""Maps of constants: what a channel that never varies becomes.

A *constant* is a float per position, NaN where the position is not known to
be constant. Layers are evaluated on them rather than described: what a
`ReLU(threshold=1, negative_slope=0.1)` makes of 0 is for the layer to say.
"""

from __future__ import annotations

import keras
import numpy as np

_ELEMENTWISE = (
    "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh "
    "leaky_relu linear log_sigmoid mish relu relu6 selu sigmoid silu "
    "soft_shrink softplus softsign sparse_plus sparse_sigmoid squareplus "
    "tanh tanh_shrink"
).split()
_ELEMENTWISE_LAYERS = (
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
)


def is_elementwise(activation):
    """True for an activation that maps each element on its own."""
    if activation is None or isinstance(activation, _ELEMENTWISE_LAYERS):
        return True
    if isinstance(activation, keras.layers.Activation):
        return is_elementwise(activation.activation)
    known = (getattr(keras.activations, n, None) for n in _ELEMENTWISE)
    return any(activation is f for f in known if f is not None)


def evaluate(function, constants):
    """Applies an elementwise function of tensors to constants.

    A result that is not finite counts as not constant.

    Args:
        function: Maps a float tensor `(n,)` to one of the same shape.
        constants: float array with NaN where not constant.

    Returns:
        float array of the same shape.
    """
    result = np.full(constants.shape, np.nan)
    known = ~np.isnan(constants)
    if known.any():
        values, where = np.unique(constants[known], return_inverse=True)
        tensor = keras.ops.convert_to_tensor(values.astype("float32"))
        images = keras.ops.cast(function(tensor), "float32")
        images = np.array(keras.ops.convert_to_numpy(images), "float64")
        images[~np.isfinite(images)] = np.nan
        result[known] = images[where.reshape(-1)]
    return result


def activation_map(activation):
    """The map of constants of a layer's `activation` argument."""
    if activation is None or activation is keras.activations.linear:
        return same
    if not is_elementwise(activation):
        return unknown
    return lambda constants: evaluate(activation, constants)


def by(call):
    """The map of constants of an elementwise call with one tensor."""
    node = call.node

    def function(tensor):
        # Not `operation(...)`, which records losses and casts by itself.
        dtype = getattr(node.operation, "compute_dtype", tensor.dtype)
        tensor = keras.ops.cast(tensor, dtype)
        args, kwargs = node.arguments.fill_in({id(node.inputs[0]): tensor})
        return node.operation.call(*args, **kwargs)

    return lambda constants: evaluate(function, constants)


def normalized(layer):
    """BatchNormalization at inference: the `terms` of an `Affine`."""

    def terms(read):
        mean = read(layer.moving_mean).astype("float64")
        variance = read(layer.moving_variance).astype("float64")
        scale = 1.0 / np.sqrt(variance + layer.epsilon)
        if layer.scale:
            scale = scale * read(layer.gamma)
        shift = -mean * scale
        if layer.center:
            shift = shift + read(layer.beta)
        return scale, shift

    return terms


def same(constants):
    """The constants as they are: nothing happens to them."""
    return constants


def unknown(*constants):
    """NaN everywhere: nothing is known to be constant."""
    return np.full(constants[0].shape, np.nan)


def zero_stays(constants):
    """Zeros stay zeros; of other constants nothing is known."""
    return np.where(constants == 0, 0.0, np.nan)


def add(*constants):
    """The sum of constants; NaN where any is not known."""
    return np.sum(constants, axis=0)


def subtract(left, right):
    """The difference of constants; NaN where any is not known."""
    return left - right


def multiply(*constants):
    """The product of constants; zero where any of them is zero."""
    product = np.prod(constants, axis=0)
    return np.where((np.stack(constants) == 0).any(axis=0), 0.0, product)


def divide(left, right):
    """The quotient of constants; NaN where it is not finite."""
    with np.errstate(all="ignore"):
        quotient = left / right
    return np.where(np.isfinite(quotient), quotient, np.nan)


def average(*constants):
    """The mean of constants; NaN where any is not known."""
    return np.mean(constants, axis=0)


def maximum(*constants):
    """The largest of constants; NaN where any is not known."""
    return np.max(constants, axis=0)


def minimum(*constants):
    """The smallest of constants; NaN where any is not known."""
    return np.min(constants, axis=0)
