"""Tests of what is measured of a model on a split."""

from unittest import mock

import keras
import numpy as np
from absl.testing import absltest

from examples.common import image_data
from examples.study import measuring


def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(5)]
    )


def split(num=23):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(num, 4, 4, 1)).astype("float32")
    return image_data.Split(x, rng.integers(0, 5, num))


class MeasuringTest(absltest.TestCase):
    def test_shares_right(self):
        logits = np.array(
            [[3, 2, 1, 0], [3, 2, 1, 0], [3, 2, 1, 0], [0, 1, 2, 3]]
        )
        labels = np.array([0, 1, 3, 3])
        self.assertEqual(
            measuring.shares_right(logits, labels), {"accuracy": 0.5}
        )
        self.assertEqual(
            measuring.shares_right(logits, labels, 2),
            {"accuracy": 0.5, "top2": 0.75},
        )

    def test_divergence(self):
        rng = np.random.default_rng(0)
        before, now = rng.normal(size=(2, 6, 4)).astype("float32")
        p, q = (
            np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            for logits in (before, now)
        )
        expected = (p * np.log(p / q)).sum(-1).mean()
        found = measuring.mean_divergence(now, before)
        self.assertAlmostEqual(found, expected, places=5)
        self.assertAlmostEqual(
            measuring.mean_divergence(before + 3, before), 0.0, places=5
        )

    def test_divergence_sees_damage_that_likelihood_does_not(self):
        """Of a network that is less sure than it is right."""
        before = np.array([[1, 0], [1, 0], [1, 0], [0.1, 0]])
        labels = np.zeros(4, int)
        damaged = np.array([[3, 0], [3, 0], [3, 0], [-0.1, 0]])
        self.assertGreater(
            measuring.mean_log_probability(damaged, labels),
            measuring.mean_log_probability(before, labels),
        )
        self.assertGreater(measuring.mean_divergence(damaged, before), 0.1)

    def test_an_account_has_the_shares(self):
        data = split()
        found = measuring.account("dense", model(), data, top=2)
        logits = measuring.logits_of(model(), data)
        shares = measuring.shares_right(logits, data.y, 2)
        self.assertEqual(found["valid_accuracy"], shares["accuracy"])
        self.assertEqual(found["valid_top2"], shares["top2"])
        self.assertEqual(found["macs"], 80)
        self.assertNotIn(
            "valid_top2", measuring.account("dense", model(), data)
        )

    def test_images_are_read_by_the_chunk(self):
        whole = measuring.logits_of(model(), split())
        with mock.patch.object(measuring, "CHUNK", 10 * 4 * 16):
            found = measuring.logits_of(model(), split())
        self.assertEqual(found.shape, (23, 5))
        np.testing.assert_allclose(found, whole, rtol=1e-5)


if __name__ == "__main__":
    absltest.main()
