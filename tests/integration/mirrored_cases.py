"""`tf.distribute.MirroredStrategy`; run by `distribution_test`."""

import functools
import os
import tempfile

import keras
import numpy as np
import tensorflow as tf
from absl.testing import absltest

from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.pruning.masks import masks_of
from keras_prm.rebuild.strip import strip
from keras_prm.training.carry_optimizer import carry_optimizer
from tests.helpers import distributed
from tests.helpers.distributed import arrays


def two_devices():
    """A strategy; the number of devices is set before TensorFlow runs."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * distributed.NUM_DEVICES
    )
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def nowhere():
    return tf.distribute.get_strategy().scope()


def run_fit(scope, *args, **kwargs):
    with scope():
        inner = keras.optimizers.Adam(0.01)
    return distributed.run_fit(scope, *args, inner=inner, **kwargs)


@functools.cache
def on_one_device():
    return run_fit(nowhere)


class MirroredTest(distributed.DistributedTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.strategy = two_devices()

    def test_training_and_retraining(self):
        run = run_fit(self.strategy.scope)
        self.assert_same_run(on_one_device(), run)
        self.assert_copies_agree(run.model.variables)
        self.assert_copies_agree(run.model.optimizer.variables)
        self.assert_masked(run)
        with self.strategy.scope():
            self.assertEqual(masks_of(run.model), run.masks)
            self.assertEqual(hard_prune(run.model, run.plan), run.masks)
            small = self.stripped(run.model)
        self.assert_copies_agree(small.variables)
        self.assert_copies_agree(small.optimizer.variables)
        self.assertEqual(masks_of(run.model), run.masks)
        small = self.stripped(run.model)
        self.assert_copies_agree(small.optimizer.variables, 1)

    def test_rho_that_is_found(self):
        # With SGD: Adam makes much of rounding where gradients are nearly 0.
        run = distributed.run_fit(self.strategy.scope, rho="auto")
        self.assert_copies_agree(run.model.variables)
        alone = distributed.run_fit(nowhere, rho="auto")
        for a, b in zip(alone.trained, run.trained, strict=True):
            np.testing.assert_allclose(a, b, atol=distributed.ATOL)
        self.assertEqual(alone.masks, run.masks)

    def stripped(self, model):
        small, report = strip(model, return_report=True)
        self.assertLess(small.count_params(), 0.6 * model.count_params())
        x, _ = distributed.make_data()
        np.testing.assert_allclose(
            *arrays([small(x), model(x)]), atol=distributed.ATOL
        )
        return carry_optimizer(model, small, report)

    def test_saved_in_between_with_loss_scaling(self):
        def reload(run):
            optimizer = run.model.optimizer
            self.assert_copies_agree(optimizer.variables)
            before = arrays(run.model.variables + optimizer.variables)
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "model.keras")
                run.model.save(path)
                alone = keras.saving.load_model(path)
                with self.strategy.scope():
                    run.model = keras.saving.load_model(path)
            for model in (alone, run.model):
                after = arrays(model.variables + model.optimizer.variables)
                for a, b in zip(before, after, strict=True):
                    np.testing.assert_array_equal(a, b)

        # A scale that is a power of two changes no digit.
        run = run_fit(self.strategy.scope, reload, scaled=True)
        self.assert_same_run(on_one_device(), run)
        self.assert_copies_agree(run.model.variables)
        self.assert_copies_agree(run.model.optimizer.variables)
        self.assert_masked(run)

    def test_what_keras_itself_cannot(self):
        """Where this fails, Keras can, and docs/distribution.md is wrong."""

        def accumulating():
            return keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)

        with self.strategy.scope():
            bare = distributed.make_model()
            bare.compile(accumulating(), "mse")
        with self.assertRaisesRegex(RuntimeError, "merge_call"):
            distributed.fit(bare, 1)


if __name__ == "__main__":
    absltest.main()
