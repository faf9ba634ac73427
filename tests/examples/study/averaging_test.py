"""Tests of the mean of two networks."""

import keras
import numpy as np
from absl.testing import absltest
from keras import layers

from examples.study import averaging
from tests.helpers import zoo


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


if __name__ == "__main__":
    absltest.main()
