"""The networks that the examples prune."""

import keras
from keras import layers


def lenet5(input_shape, num_classes):
    """The 20-50-500 form, 430,500 kernel weights on 28x28x1 images."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(20, 5, activation="relu", name="conv1"),
            layers.MaxPooling2D(2, name="pool1"),
            layers.Conv2D(50, 5, activation="relu", name="conv2"),
            layers.MaxPooling2D(2, name="pool2"),
            layers.Flatten(name="flatten"),
            layers.Dense(500, activation="relu", name="fc1"),
            layers.Dense(num_classes, name="logits"),
        ],
        name="lenet5",
    )


def resnet18(input_shape, num_classes, width=64, widths=None):
    """ResNet-18 for small images, such as CIFAR-10's, in [0, 1].

    A 3x3 convolution first and no pooling after it, four stages of two
    blocks with `width`, 2, 4 and 8 times as many filters, and 1x1
    convolutions where a shortcut changes its number of channels: 11,159,232
    convolution weights at width 64, 10 classes and three colours. Images are
    normalised in the network.

    Args:
        input_shape: `(height, width, channels)` of the images.
        num_classes: Number of logits.
        width: Filters of the first stage.
        widths: dict from the name of a convolution to its filters, where
            they are not those that follow from `width`; or None.

    Reference:
        - [He et al., 2016](https://arxiv.org/abs/1512.03385)
    """
    x = images = keras.Input(input_shape)
    # Of CIFAR-10's pixels, and of natural images in general.
    x = layers.Normalization(mean=0.473, variance=0.063, name="pixels")(x)
    widths = widths or {}
    x = _convolution(x, widths.get("stem", width), 3, 1, "stem")
    x = layers.ReLU(name="stem_relu")(x)
    for stage in range(1, 5):
        filters = width * 2 ** (stage - 1)
        for block in (1, 2):
            strides = 2 if stage > 1 and block == 1 else 1
            name = f"stage{stage}_block{block}"
            inner, outer = (
                widths.get(f"{name}_conv{n}", filters) for n in (1, 2)
            )
            x = _block(x, inner, outer, strides, name)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    logits = layers.Dense(num_classes, name="logits")(x)
    return keras.Model(images, logits, name="resnet18")


def _block(x, inner, outer, strides, name):
    y = _convolution(x, inner, 3, strides, f"{name}_conv1")
    y = layers.ReLU(name=f"{name}_relu1")(y)
    y = _convolution(y, outer, 3, 1, f"{name}_conv2")
    if strides > 1:
        x = _convolution(x, outer, 1, strides, f"{name}_shortcut")
    x = layers.Add(name=f"{name}_sum")([y, x])
    return layers.ReLU(name=f"{name}_relu2")(x)


def _convolution(x, filters, size, strides, name):
    x = layers.Conv2D(
        filters,
        size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    return layers.BatchNormalization(
        momentum=0.9, epsilon=1e-5, name=f"{name}_norm"
    )(x)


NETWORKS = {"lenet5": lenet5, "resnet18": resnet18}
