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


def alexnet(
    input_shape, num_classes, width=64, normalization="batch", dropout=0.5
):
    """AlexNet in one tower, of images in [0, 1].

    Five convolutions of `width` times 1, 3, 6, 4 and 4 filters, 2,468,544
    weights at width 64 and three colors, and two dense layers of `64 *
    width` units before the logits. Images are normalized in the network.

    Args:
        input_shape: `(height, width, channels)` of the images, 57 pixels or
            more; 224 in the paper.
        num_classes: Number of logits.
        width: Filters of the first convolution.
        normalization: What follows convolutions: `"batch"`, a
            BatchNormalization after each; `"local"`, after the first two the
            paper's local response normalization, which mixes channels that
            are neighbors, so that `keras_prm.strip` takes no filter out of
            these two; or None. Both of the latter want a tenth of the
            learning rate.
        dropout: Rate before the first two dense layers.

    Raises:
        ValueError: Images are too small, or `normalization` is not known.

    References:
        - [Krizhevsky et al., 2012](
          https://papers.nips.cc/paper/4824)
        - [Krizhevsky, 2014](https://arxiv.org/abs/1404.5997), the one tower
    """
    if min(input_shape[:2]) < 57:
        raise ValueError(
            "AlexNet's windows need images of 57 pixels or more. "
            f"Received: input_shape={input_shape}"
        )
    if normalization not in ("batch", "local", None):
        raise ValueError(
            "Expected `normalization` to be 'batch', 'local' or None. "
            f"Received: {normalization}"
        )

    def convolved(x, name, factor, size, strides=1):
        x = layers.Conv2D(
            factor * width,
            size,
            strides,
            "same",
            use_bias=normalization != "batch",
            kernel_initializer="he_normal",
            name=name,
        )(x)
        if normalization == "batch":
            x = layers.BatchNormalization(
                momentum=0.9, epsilon=1e-5, name=f"{name}_norm"
            )(x)
        x = layers.ReLU(name=f"{name}_relu")(x)
        if normalization == "local" and name in ("conv1", "conv2"):
            x = LocalResponseNormalization(name=f"{name}_norm")(x)
        return x

    x = images = keras.Input(input_shape)
    x = _pixels(x)
    x = convolved(x, "conv1", 1, 11, 4)
    x = layers.MaxPooling2D(3, 2, name="pool1")(x)
    x = convolved(x, "conv2", 3, 5)
    x = layers.MaxPooling2D(3, 2, name="pool2")(x)
    x = convolved(x, "conv3", 6, 3)
    x = convolved(x, "conv4", 4, 3)
    x = convolved(x, "conv5", 4, 3)
    x = layers.MaxPooling2D(3, 2, name="pool5")(x)
    x = layers.Flatten(name="flatten")(x)
    for name in ("fc6", "fc7"):
        x = layers.Dropout(dropout, name=f"{name}_dropout")(x)
        x = layers.Dense(
            64 * width,
            activation="relu",
            kernel_initializer="he_normal",
            name=name,
        )(x)
    logits = layers.Dense(num_classes, name="logits")(x)
    return keras.Model(images, logits, name="alexnet")


@keras.saving.register_keras_serializable("keras_prm_examples")
class LocalResponseNormalization(layers.Layer):
    """Divides by what a channel and its neighbors hold, as AlexNet does.

        y = x / (bias + alpha * sum of x ** 2 over 2 * radius + 1 channels)
            ** beta

    In float32, whatever the layer's precision.

    Args:
        radius: Neighbors on each side.
        bias: See the formula.
        alpha: See the formula. The paper's 1e-4 is for pixels up to 255; for
            pixels of variance 1 it is 0.4.
        beta: See the formula.

    Reference:
        - [Krizhevsky et al., 2012](https://papers.nips.cc/paper/4824),
          section 3.3
    """

    def __init__(self, radius=2, bias=2.0, alpha=0.4, beta=0.75, **kwargs):
        super().__init__(**kwargs)
        self.radius = radius
        self.bias = bias
        self.alpha = alpha
        self.beta = beta

    def call(self, inputs):
        rank, num = len(inputs.shape), inputs.shape[-1]
        ends = (self.radius, self.radius)
        x = keras.ops.cast(inputs, "float32")
        squares = keras.ops.pad(
            keras.ops.square(x), [(0, 0)] * (rank - 1) + [ends]
        )
        total = sum(
            squares[..., i : i + num] for i in range(2 * self.radius + 1)
        )
        x = x * (self.bias + self.alpha * total) ** -self.beta
        return keras.ops.cast(x, inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        names = ("radius", "bias", "alpha", "beta")
        return super().get_config() | {n: getattr(self, n) for n in names}


def resnet18(input_shape, num_classes, width=64, widths=None):
    """ResNet-18 for small images, such as CIFAR-10's, in [0, 1].

    A 3x3 convolution first and no pooling after it, four stages of two
    blocks with `width`, 2, 4 and 8 times as many filters, and 1x1
    convolutions where a shortcut changes its number of channels: 11,159,232
    convolution weights at width 64, 10 classes and three colors. Images are
    normalized in the network.

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
    x = _pixels(x)
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


def _pixels(x):
    # Of CIFAR-10's pixels, and of natural images in general.
    return layers.Normalization(mean=0.473, variance=0.063, name="pixels")(x)


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


NETWORKS = {"alexnet": alexnet, "lenet5": lenet5, "resnet18": resnet18}
