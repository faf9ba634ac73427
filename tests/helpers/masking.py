"""A model, its data and what tests of masks compare."""

import keras
import numpy as np
from absl.testing import parameterized
from keras import layers

from keras_prm.utils import variable_keys
from tests.helpers import zoo

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
# Elsewhere a few will do: graphs are no matter of the backend.
FEW = ("lenet5", "residual", "grouped", "nested")
MODELS = zoo.MODELS if ON_TENSORFLOW else FEW


def snapshot(model):
    return [keras.ops.convert_to_numpy(v) for v in model.weights]


def conv_model():
    """Small enough to train, with all that falls with a filter."""
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, name="a")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.Conv2D(6, 1, activation="relu", name="b")(x)
    x = layers.Flatten()(x)
    model = keras.Model(inputs, layers.Dense(3, name="out")(x))
    zoo.randomize(model)
    return model


def conv_data(samples=8):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, 6, 6, 2)).astype("float32")
    return x, rng.normal(size=(samples, 3)).astype("float32")


class MasksTestCase(parameterized.TestCase):
    def assert_unchanged(self, model, before):
        for old, new in zip(before, snapshot(model), strict=True):
            np.testing.assert_array_equal(old, new)

    def assert_masked(self, model, masks):
        """All that is masked is zero; returns how much that is."""
        variables = variable_keys.variables_by_key(model)
        count = 0
        for key, factors in masks.factors().items():
            keep = np.ones(variables[key].shape, bool)
            for factor in factors:
                keep = keep & factor
            array = keras.ops.convert_to_numpy(variables[key])
            self.assertFalse(array[~keep].any(), key)
            count += np.count_nonzero(~keep)
        self.assertGreater(count, 0)
        return count
