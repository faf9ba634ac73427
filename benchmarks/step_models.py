"""The models whose training steps are timed, for any Keras.

`keras` is an argument, so that a library that needs Keras 2 is measured on
the very same models.
"""

SHAPES = {"lenet5": (28, 28, 1), "resnet18": (32, 32, 3)}
BATCH_SIZES = {"lenet5": 64, "resnet18": 32}


def make(name, keras):
    """A model by its name, with 10 logits.

    Args:
        name: A key of `SHAPES`.
        keras: The module `keras`, or `tf_keras`.
    """
    return {"lenet5": lenet5, "resnet18": resnet18}[name](keras)


def lenet5(keras):
    """The 20-50-500 form, 430,500 kernel weights."""
    layers = keras.layers
    x = inputs = keras.Input(SHAPES["lenet5"])
    for filters in (20, 50):
        x = layers.Conv2D(filters, 5, activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Dense(500, activation="relu")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def resnet18(keras):
    """The form for 32x32 images: a 3x3 stem, 1x1 shortcuts."""
    layers = keras.layers

    def conv(x, filters, size, strides):
        x = layers.Conv2D(
            filters, size, strides=strides, padding="same", use_bias=False
        )(x)
        return layers.BatchNormalization()(x)

    def block(x, filters, strides):
        y = layers.ReLU()(conv(x, filters, 3, strides))
        y = conv(y, filters, 3, 1)
        if strides > 1:
            x = conv(x, filters, 1, strides)
        return layers.ReLU()(layers.Add()([x, y]))

    inputs = keras.Input(SHAPES["resnet18"])
    x = layers.ReLU()(conv(inputs, 64, 3, 1))
    for filters in (64, 128, 256, 512):
        x = block(x, filters, 1 if filters == 64 else 2)
        x = block(x, filters, 1)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))
