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


NETWORKS = {"lenet5": lenet5}
