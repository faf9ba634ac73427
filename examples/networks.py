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


def lenet5_normalised(input_shape, num_classes):
    """`lenet5` with BatchNormalization, which `folding.folded` takes out."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(20, 5, use_bias=False, name="conv1"),
            layers.BatchNormalization(name="norm1"),
            layers.ReLU(name="relu1"),
            layers.MaxPooling2D(2, name="pool1"),
            layers.Conv2D(50, 5, use_bias=False, name="conv2"),
            layers.BatchNormalization(name="norm2"),
            layers.ReLU(name="relu2"),
            layers.MaxPooling2D(2, name="pool2"),
            layers.Flatten(name="flatten"),
            layers.Dense(500, use_bias=False, name="fc1"),
            layers.BatchNormalization(name="norm3"),
            layers.ReLU(name="relu3"),
            layers.Dense(num_classes, name="logits"),
        ],
        name="lenet5",
    )


NETWORKS = {"lenet5": lenet5, "lenet5_normalised": lenet5_normalised}
