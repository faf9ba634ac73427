"""What the patterns of columns are, for tests."""

import keras
import numpy as np
from keras import layers

from keras_prm.plans.plan import SparsityPlan

NOT_FREE = ("channels", "window", "per_channel")


def is_feasible(support, live, keep, pattern):
    """The definitions, of a bool array `(..., in)`."""
    taps = support.reshape(-1, support.shape[-1])
    per_channel = taps.sum(axis=0)
    if per_channel[live == 0].any():
        return False
    if pattern == "channels":
        whole = np.isin(per_channel, (0, len(taps))).all()
        number = np.count_nonzero(per_channel)
        return bool(whole) and number <= max(1, keep // len(taps))
    if support.sum() > keep:
        return False
    level = -(-keep // int(live.sum()))
    if pattern == "window":
        places = np.argwhere(support.any(axis=-1))
        box = places.max(axis=0) - places.min(axis=0) + 1
        return int(np.prod(box)) <= level
    return pattern == "free" or per_channel.max() <= level


def model():
    """Two convolutions, a transposed one and a dense layer."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((6, 6, 2))
    x = layers.Conv2D(6, 3, activation="relu", name="a")(x)
    x = layers.Conv2D(5, (3, 2), activation="relu", name="b")(x)
    x = layers.Conv2DTranspose(4, 3, activation="relu", name="up")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


def plan(model, pattern, filters=0.5, columns=0.7):
    return SparsityPlan.uniform(model, filters, columns, column_pattern=pattern)
