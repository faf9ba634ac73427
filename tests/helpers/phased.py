"""A tiny residual network in phases, on made images."""

import copy
from unittest import mock

import keras
import numpy as np
from keras import layers

from examples.common import image_bytes
from examples.common import networks
from examples.study.phase_recipe import PhaseRecipe
from examples.study.phase_work import PhaseWork

TRAINING = {"epochs": 2, "rate": 0.1, "weight_decay": 1e-4}
CONFIG = {
    "dataset": "made",
    "network": "tiny",
    "width": 8,
    "image_size": 8,
    "precision": "float32",
    "batch_size": 16,
    "pixels": 1,
    "dense": TRAINING | {"epochs": 6},
    "again": TRAINING | {"hole": 3},
    "average": 0.6,
    "distillation": {"weight": 0.5, "temperature": 2.0, "views": 2},
    "column_pattern": "free",
    "max_drop": 0.0,
    "admm": TRAINING | {"rate": 0.01, "rho": 0.1, "growth": 3.0},
    "retrain": TRAINING | {"epochs": 4, "rate": 0.05},
    "points": {
        "half": {
            "after": "dense",
            "keep": {"stem": [5, 13], "conv1": [4, 20]},
        },
        "third": {"after": "half", "keep": {"conv1": [3, 10]}},
        "at_once": {
            "after": "dense",
            "keep": {"stem": [4, None]},
            "by": "magnitude",
        },
    },
}


def tiny(input_shape, num_classes, width=8, widths=None):
    width = (widths or {}).get("stem", width)
    x = images = keras.Input(input_shape)
    x = layers.Conv2D(width, 3, padding="same", use_bias=False, name="stem")(x)
    x = layers.BatchNormalization(momentum=0.8, name="norm")(x)
    y = layers.ReLU()(layers.Conv2D(width, 3, padding="same", name="conv1")(x))
    y = layers.Conv2D(width, 1, use_bias=False, name="conv2")(y)
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Dense(num_classes, name="logits")(
        layers.GlobalAveragePooling2D()(x)
    )
    return keras.Model(images, x, name="tiny")


def split(num, seed):
    """Images that are red, green or blue."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, num).astype("int32")
    x = rng.uniform(0, 0.5, (num, 8, 8, 3)).astype("float32")
    x[np.arange(num), :, :, y] += 0.4
    return image_bytes.ByteSplit(np.rint(x * 255).astype("uint8"), y)


def data():
    names = {"train": 96, "valid": 40, "test": 50}
    return {n: split(num, num) for n, num in names.items()}


def as_network():
    """A context in which `tiny` is a network that recipes may name."""
    return mock.patch.dict(networks.NETWORKS, {"tiny": tiny})


def work(folder, seed=0, workers=1, **changes):
    """The phases' work, inside of `as_network`."""
    recipe = PhaseRecipe.from_config(copy.deepcopy(CONFIG | changes))
    return PhaseWork(recipe, data(), folder, seed, workers=workers)
