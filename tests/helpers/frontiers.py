"""A frontier of two points on made images, in as few steps as can be."""

import contextlib
import dataclasses
from unittest import mock

import keras
import numpy as np

import keras_prm
from examples.common import image_data
from examples.study import measuring
from examples.study.frontier_recipe import FrontierRecipe
from examples.study.recipe import RECIPES


def split(num, seed):
    """Bright squares in one of three places, as three classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, num).astype("int32")
    x = rng.uniform(0, 0.2, (num, 28, 28, 1)).astype("float32")
    for image, label in zip(x, y):
        image[8 * label : 8 * label + 8, 8:16] += 0.8
    return image_data.Split(x, y)


def data():
    names = ("train", "valid", "test")
    return {name: split(64, seed) for seed, name in enumerate(names)}


def recipe(**changes):
    """Two points of a LeNet-5."""
    found = FrontierRecipe.load(RECIPES / "lenet5_mnist.json")
    epochs = {
        field.name: 1
        for field in dataclasses.fields(found)
        if field.name.endswith("_epochs")
    }
    small = {
        "base": {"conv1": [6, None], "conv2": [8, None], "fc1": [20, None]},
        "points": {
            "half": {"conv1": [3, 10], "conv2": [4, 30], "fc1": [8, 20]},
            "quarter": {"conv1": [2, 9], "conv2": [3, 15], "fc1": [6, 12]},
        },
        "chains": [["half", "quarter"]],
        "widths": {"half": {"conv1": 2, "conv2": 3, "fc1": 6}},
        "shipped": [],
        "long_retraining": {},
        "batch_size": 32,
        "precision": "float32",
    }
    return dataclasses.replace(found, **epochs | small | changes)


@contextlib.contextmanager
def untrained(fit=lambda *args, **kwargs: None):
    """No network is trained, purified, or converted to a file.

    Args:
        fit: Called in place of `keras.Model.fit`.
    """

    def fitted(model, *args, **kwargs):
        fit(*args, **kwargs)
        model.compile()  # not with a wrapper that has found nothing

    export = mock.Mock(num_bytes=7)
    with (
        mock.patch.object(keras.Model, "fit", fitted),
        mock.patch.object(keras_prm, "purify"),
        mock.patch.object(keras_prm, "export_litert", return_value=export),
        mock.patch.object(measuring, "file_accuracy", return_value=0.5),
    ):
        yield
