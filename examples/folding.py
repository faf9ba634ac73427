"""BatchNormalization of a trained network, folded into its kernels."""

import keras
import numpy as np

FOLDED = (keras.layers.Conv2D, keras.layers.Dense)


def folded(model):
    """The same function without BatchNormalization.

    Each one goes into the `Conv2D` or `Dense` right before it, as it acts in
    inference: what is exported holds no trace of it.

    Args:
        model: A network whose layers form one chain.

    Returns:
        A new `keras.Sequential`; the model itself if there is nothing to fold.

    Raises:
        ValueError: A BatchNormalization does not follow such a layer without
            an activation.
    """
    if not any(map(_is_norm, model.layers)):
        return model
    chain = []  # pairs of a layer and its new weights
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if not _is_norm(layer):
            weights = list(map(keras.ops.convert_to_numpy, layer.weights))
            chain.append((layer, weights))
            continue
        before, weights = chain[-1] if chain else (None, None)
        if (
            not isinstance(before, FOLDED)
            or before.activation is not keras.activations.linear
        ):
            raise ValueError(
                f"{layer.name} cannot be folded. Expected a Conv2D or Dense "
                f"without an activation before it. Received: {before}"
            )
        scale, shift = _scale_and_shift(layer)
        kernel, bias = weights if len(weights) == 2 else (weights[0], 0.0)
        chain[-1] = (before, [kernel * scale, bias * scale + shift])
    small = keras.Sequential(
        [keras.Input(model.input_shape[1:])]
        + [_copy(layer, len(weights)) for layer, weights in chain],
        name=model.name,
    )
    small.set_weights([array for _, arrays in chain for array in arrays])
    return small


def _is_norm(layer):
    return isinstance(layer, keras.layers.BatchNormalization)


def _scale_and_shift(norm):
    """What a BatchNormalization multiplies by and then adds."""
    mean = keras.ops.convert_to_numpy(norm.moving_mean)
    variance = keras.ops.convert_to_numpy(norm.moving_variance)
    scale = keras.ops.convert_to_numpy(norm.gamma) / np.sqrt(
        variance + norm.epsilon
    )
    return scale, keras.ops.convert_to_numpy(norm.beta) - mean * scale


def _copy(layer, num_weights):
    config = layer.get_config()
    if isinstance(layer, FOLDED):
        config["use_bias"] = num_weights == 2
    return type(layer).from_config(config)
