"""Tests of the mean of two networks."""

import keras
import numpy as np
from absl.testing import absltest
from keras import layers

from examples import averaging
from tests import zoo


def small():
    images = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, name="conv")(images)
    x = layers.BatchNormalization(momentum=0.7, name="norm")(x)
    return keras.Model(images, layers.Flatten()(x))


class AveragingTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.first, self.second = small(), small()
        for seed, model in enumerate((self.first, self.second)):
            keras.utils.set_random_seed(seed)
            zoo.randomise(model)

    def test_weights_are_between(self):
        before = self.second.get_weights()
        found = averaging.mean(self.first, self.second, 0.75)
        for old, new, mean in zip(
            self.first.get_weights(), before, found.get_weights()
        ):
            np.testing.assert_allclose(mean, old / 4 + new * 3 / 4, rtol=1e-6)
        for old, new in zip(before, self.second.get_weights()):
            np.testing.assert_array_equal(old, new)

    def test_statistics_are_those_of_the_batches(self):
        rng = np.random.default_rng(0)
        batches = rng.normal(size=(3, 8, 6, 6, 2)).astype("float32")
        found = averaging.mean(self.first, self.second, 0.5)
        kernels = [np.array(w) for w in found.trainable_weights]
        averaging.settle(found, keras.Sequential([found]), batches)
        norm = found.get_layer("norm")
        made = [found.get_layer("conv")(x) for x in batches]
        made = np.stack([keras.ops.convert_to_numpy(x) for x in made])
        made = made.reshape(3, -1, 4)
        np.testing.assert_allclose(
            norm.moving_mean, made.mean(axis=(0, 1)), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(
            norm.moving_variance, made.var(axis=1).mean(axis=0), rtol=1e-4
        )
        self.assertEqual(norm.momentum, 0.7)
        for old, new in zip(kernels, found.trainable_weights):
            np.testing.assert_array_equal(old, new)


if __name__ == "__main__":
    absltest.main()
