"""The models that every graph, strip and export test goes through.

A new layer is one row in `keras_prm/rules/registry.py` and one model here.
"""

import keras
import numpy as np
from keras import layers
from keras import ops

from tests.helpers import zoo_layers


def lenet5():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(20, 5, activation="relu", name="conv1"),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5, activation="relu", name="conv2"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, activation="relu", name="fc1"),
            layers.Dense(10, name="fc2"),
        ],
        name="lenet5",
    )


def mlp():
    x = inputs = keras.Input((12,))
    for i, units in enumerate((16, 10)):
        x = layers.Dense(units, activation="sigmoid", name=f"d{i}")(x)
        x = layers.Dropout(0.5)(x)
    return keras.Model(inputs, layers.Dense(3, "softmax", name="out")(x))


def batch_norm():
    x = inputs = keras.Input((12, 12, 3))
    for i, (size, padding) in enumerate(((3, "same"), (1, "valid"))):
        x = layers.Conv2D(
            8, size, padding=padding, use_bias=False, name=f"c{i}"
        )(x)
        x = layers.BatchNormalization(name=f"bn{i}", scale=i == 0)(x)
        x = layers.Activation("gelu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(5, name="out")(x))


def residual():
    def block(x, name):
        y = layers.Conv2D(8, 3, padding="same", name=name + "a")(x)
        y = layers.BatchNormalization(name=name + "bn1")(y)
        y = layers.ReLU()(y)
        y = layers.Conv2D(8, 3, padding="same", name=name + "b")(y)
        y = layers.BatchNormalization(name=name + "bn2")(y)
        return layers.ReLU()(layers.Add()([x, y]))

    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    x = block(block(x, "one"), "two")
    y = layers.Conv2D(12, 3, strides=2, padding="same", name="down")(x)
    z = layers.Conv2D(12, 1, strides=2, name="short")(x)
    x = layers.GlobalMaxPooling2D(keepdims=True)(y + z)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(4, name="out")(x))


def depthwise():
    x = inputs = keras.Input((10, 10, 3))
    x = layers.Conv2D(6, 1, activation="relu", name="expand")(x)
    x = layers.DepthwiseConv2D(
        3, depth_multiplier=2, padding="same", name="dw", activation="tanh"
    )(x)
    x = layers.Conv2D(8, 1, name="project")(x)
    x = layers.SeparableConv2D(
        6, 3, depth_multiplier=2, activation="relu", name="sep"
    )(x)
    x = layers.DepthwiseConv2D(3, use_bias=False, name="dw2")(x)
    x = layers.AveragePooling2D(2, padding="same")(x)
    return keras.Model(inputs, layers.Conv2D(4, 1, name="out")(x))


def branches():
    inputs = keras.Input((9, 9, 2))
    a = layers.Conv2D(6, 3, padding="same", name="a")(inputs)
    b = layers.Conv2D(5, 1, activation="elu", name="b")(inputs)
    x = layers.Concatenate(name="cat")([a, b, a])
    x = layers.LeakyReLU()(x)
    x = layers.Conv2D(7, 3, strides=2, padding="same", name="c")(x)
    y = layers.Conv2D(7, 1, activation="sigmoid", name="gate")(x)
    x = layers.Multiply()([x, y])
    z = layers.Conv2D(7, 1, name="d")(x)
    x = layers.Average()([x, z])
    x = layers.Maximum()([x, layers.Minimum()([x, z])])
    x = layers.Subtract()([x, z])
    return keras.Model(inputs, layers.Conv2D(3, 3, name="out")(x))


def grouped():
    x = inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 1, activation="relu", name="a")(x)
    x = layers.Conv2D(12, 3, groups=4, padding="same", name="g")(x)
    x = layers.ZeroPadding2D(1)(x)
    x = layers.Cropping2D(((0, 1), (1, 0)))(x)
    x = layers.UpSampling2D(2)(x)
    return keras.Model(inputs, layers.Conv2D(3, 3, name="out")(x))


def sequence():
    x = inputs = keras.Input((16, 5))
    x = layers.Conv1D(8, 3, padding="causal", name="a")(x)
    x = layers.Activation("relu")(x)
    x = layers.SeparableConv1D(6, 3, name="s")(x)
    x = layers.MaxPooling1D(2)(x)
    x = layers.Cropping1D(1)(layers.ZeroPadding1D(2)(x))
    x = layers.UpSampling1D(2)(x)
    x = layers.Dense(7, activation="tanh", name="d")(x)
    x = layers.Conv1D(4, 2, dilation_rate=2, padding="same", name="b")(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


def shared():
    inputs = [keras.Input((8, 8, 2), name=n) for n in "uv"]
    conv = layers.Conv2D(6, 3, name="conv", activation="relu")
    second = layers.Conv2D(5, 1, name="second")
    x, y = (second(conv(i)) for i in inputs)
    x = layers.Flatten()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


def nested():
    inner = keras.Input((8, 8, 6))
    x = layers.Conv2D(8, 3, name="conv", padding="same")(inner)
    x = layers.BatchNormalization(name="bn")(x)
    body = keras.Model(inner, layers.ReLU()(x), name="body")
    head = keras.Sequential(
        [
            keras.Input((8, 8, 8)),
            layers.Conv2D(6, 3, name="conv", padding="same"),
            layers.Activation("relu"),
        ],
        name="head",
    )
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, name="stem", padding="same")(inputs)
    x = head(body(x))
    x = head(body(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


def reshapes():
    x = inputs = keras.Input((6, 4, 3))
    x = layers.Conv2D(8, 3, padding="same", name="a")(x)
    x = layers.Permute((3, 1, 2))(x)
    x = layers.Reshape((8, 24))(x)
    x = layers.Permute((2, 1))(x)
    x = layers.Dense(6, activation="relu", name="b")(x)
    x = layers.Reshape((6, 4, 6))(x)
    x = layers.Conv2D(6, 1, name="c")(x)
    x = layers.Reshape((6, 4, 2, 3))(x)
    x = layers.Permute((1, 2, 4, 3))(x)
    x = layers.Reshape((6, 4, 6))(x)
    x = layers.Conv2D(4, 3, name="d")(x)
    x = layers.Reshape((4 * 2 * 4,))(x)
    x = layers.Reshape((4, 2, 4))(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


def operators():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", name="a")(inputs)
    y = ops.relu(layers.Conv2D(6, 3, padding="same", name="b")(x))
    x = ops.maximum(x + y, y * 0.5) * y - 1.0
    x = layers.Conv2D(5, 3, name="c")(x)
    x = ops.sigmoid(x)
    return keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x))


@keras.saving.register_keras_serializable(package="zoo")
def double(x):
    return x * 2.0


def unknown_layers():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, name="a")(x)
    x = layers.LayerNormalization()(x)
    x = layers.Conv2D(6, 1, name="b")(x)
    x = layers.Lambda(double, name="double")(x)
    x = layers.Conv2D(6, 1, name="c")(x)
    x = layers.Softmax()(x)
    x = layers.Conv2D(6, 1, activation="softmax", name="d")(x)
    return keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x))


def in_and_out():
    u = keras.Input((8,), name="u")
    v = keras.Input((4,), name="v")
    x = layers.Dense(6, activation="relu", name="a")(u)
    y = layers.Dense(6, activation="relu", name="b")(v)
    z = layers.Concatenate()([x, y])
    return keras.Model(
        {"u": u, "v": v},
        {"sum": layers.Add()([x, y]), "z": layers.Dense(3, name="out")(z)},
    )


MODELS = {
    f.__name__: f
    for f in (
        lenet5,
        mlp,
        batch_norm,
        residual,
        depthwise,
        branches,
        grouped,
        sequence,
        shared,
        nested,
        reshapes,
        operators,
        unknown_layers,
        in_and_out,
        *zoo_layers.MODELS,
    )
}


def make(name, seed=0):
    """The model `name` with all its weights random and none of them zero."""
    keras.utils.set_random_seed(seed)
    model = MODELS[name]()
    randomize(model, seed)
    return model


def randomize(model, seed=0):
    """Random weights, biases and statistics, so that no bug can hide."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        value = rng.uniform(0.2, 1.0, variable.shape)
        if "variance" not in variable.name:
            fan = max(1, int(np.prod(variable.shape[:-1])))
            value *= rng.choice([-1, 1], variable.shape)
            value *= min(1.0, 3 / np.sqrt(fan))
        variable.assign(value)


def inputs_of(model, batch=3, seed=1):
    """Random inputs in the structure the model takes."""
    rng = np.random.default_rng(seed)
    return keras.tree.map_structure(
        lambda x: _array(rng, (batch, *x.shape[1:]), x.dtype),
        model.input
        if not isinstance(model, keras.Sequential)
        else model.inputs[0],
    )


def _array(rng, shape, dtype):
    if "int" in dtype:
        return rng.integers(0, 9, shape).astype(dtype)
    return rng.normal(size=shape).astype(dtype)
