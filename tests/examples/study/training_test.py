"""Tests of the optimizers that phases train with."""

import pathlib
import tempfile

import keras
import numpy as np
from absl.testing import absltest
from keras import layers

from examples.study.recipe import Training
from tests.helpers import phased


class PhaseTrainingTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(phased.as_network())
        self.trainer = phased.work("nowhere").trainer

    def test_decay_is_that_of_a_norm_in_the_loss(self):
        model = keras.Sequential(
            [
                keras.Input((2,)),
                layers.Dense(3, bias_initializer="ones"),
                layers.BatchNormalization(beta_initializer="ones"),
            ]
        )
        training = Training(epochs=1, rate=0.1, weight_decay=1e-3)
        optimizer = self.trainer.sgd(training, training.rate)
        optimizer.build(model.trainable_variables)
        first = [np.array(w) for w in model.trainable_variables]
        # What a gradient of `weight_decay * kernel` alone does to a kernel.
        kernel, velocity, momentum = 1.0, 0.0, 0.9
        zeros = [np.zeros_like(w) for w in first]
        for _ in range(300):
            optimizer.apply([keras.ops.convert_to_tensor(z) for z in zeros])
            gradient = training.weight_decay * kernel
            velocity = momentum * velocity - training.rate * gradient
            kernel += momentum * velocity - training.rate * gradient
        for old, new in zip(first, model.trainable_variables):
            left = kernel if new.path.endswith("kernel") else 1.0
            np.testing.assert_allclose(
                keras.ops.convert_to_numpy(new), left * old, rtol=0.02
            )
        self.assertLess(kernel, 0.8)

    def test_it_ends_where_it_diverges(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        work = phased.work(folder)
        training = Training(epochs=5, rate=0.1, weight_decay=0.0)
        model, whole = work.for_training(work.new_network(), training)
        model.get_layer("logits").bias.assign(np.full(3, np.nan))
        optimizer = self.trainer.falling_sgd(training)
        with self.assertRaisesRegex(SystemExit, "diverged.*learning rate"):
            with self.assertWarnsRegex(UserWarning, "NaN"):
                self.trainer.fit(whole, optimizer, training, folder)
        self.assertLen((folder / "log.csv").read_text().splitlines(), 2)
        self.assertFalse((folder / "training.ckpt").exists())

    def test_the_rate_rises_and_falls_to_0(self):
        training = Training(epochs=10, rate=0.5, weight_decay=0.0)
        rate = self.trainer.falling_sgd(training, warmup=0.3)._learning_rate
        steps = 10 * self.trainer.num_steps
        rates = [float(rate(i)) for i in range(steps + 1)]
        self.assertEqual(np.argmax(rates), int(0.3 * steps))
        self.assertAlmostEqual(max(rates), 0.5)
        self.assertEqual(rates[0], 0.0)
        self.assertAlmostEqual(rates[-1], 0.0)


if __name__ == "__main__":
    absltest.main()
