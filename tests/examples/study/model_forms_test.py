"""Tests of the forms of a network: trained fast, kept, and the mean."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

import keras_prm
from examples.common import networks
from examples.study import model_forms
from tests.helpers import zoo


def small():
    x = images = keras.Input((6, 6, 2))
    x = layers.Normalization(mean=0.4, variance=0.1)(x)
    y = layers.Conv2D(4, 3, padding="same", name="conv")(x)
    y = layers.BatchNormalization(momentum=0.7, name="norm")(y)
    x = layers.Add()([layers.Conv2D(4, 1)(x), layers.ReLU()(y)])
    logits = layers.Dense(3)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(images, logits)


class TrainingFormTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        keras.utils.set_random_seed(0)
        self.model = small()
        zoo.randomize(self.model)
        self.x = np.random.default_rng(0).normal(size=(8, 6, 6, 2))

    def test_trains_as_the_network_of_keras(self):
        fast = model_forms.for_training(self.model, "float32")
        y = np.arange(8) % 3
        for model in (self.model, fast):
            model.compile(
                keras.optimizers.SGD(0.1),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            )
            for _ in range(3):
                model.train_on_batch(self.x, y)
        self.assertIsInstance(
            fast.get_layer("norm"), model_forms.FusedBatchNormalization
        )
        for mine, theirs in zip(fast.weights, self.model.weights, strict=True):
            np.testing.assert_allclose(
                mine, theirs, rtol=1e-4, atol=1e-5, err_msg=mine.path
            )

    def test_a_frozen_layer_keeps_its_statistics(self):
        fast = model_forms.for_training(self.model, "float32")
        norm = fast.get_layer("norm")
        norm.trainable = False
        before = norm.get_weights()
        fast(self.x, training=True)
        for old, new in zip(before, norm.get_weights()):
            np.testing.assert_array_equal(old, new)

    def test_half_precision_is_for_convolutions(self):
        fast = model_forms.for_training(self.model, "mixed_bfloat16")
        self.assertEqual(fast.get_layer("conv").compute_dtype, "bfloat16")
        self.assertEqual(fast.get_layer("norm").compute_dtype, "bfloat16")
        self.assertEqual(fast.output.dtype, "float32")
        outputs = keras.ops.convert_to_numpy(fast(self.x))
        expected = keras.ops.convert_to_numpy(self.model(self.x))
        scale = np.abs(expected).max()
        np.testing.assert_allclose(outputs, expected, atol=0.03 * scale)

    def test_is_kept_as_it_was(self):
        fast = model_forms.for_training(self.model, "mixed_bfloat16")
        kept = model_forms.as_kept(fast)
        for layer in kept.layers:
            self.assertEqual(type(layer).__module__.split(".")[0], "keras")
            self.assertEqual(layer.compute_dtype, "float32")
        outputs, expected = (
            keras.ops.convert_to_numpy(model(self.x))
            for model in (kept, self.model)
        )
        np.testing.assert_array_equal(outputs, expected)

    def test_is_planned_and_pruned_alike(self):
        fast = model_forms.for_training(self.model, "mixed_bfloat16")
        plan = keras_prm.SparsityPlan.uniform(fast, filters=0.5)
        expected = keras_prm.SparsityPlan.uniform(self.model, filters=0.5)
        self.assertEqual(str(plan), str(expected))
        masks = keras_prm.hard_prune(fast, plan)
        self.assertEqual(masks.to_json(), keras_prm.masks_of(fast).to_json())
        small = keras_prm.strip(model_forms.as_kept(fast))
        self.assertEqual(small.get_layer("conv").filters, 2)


class AveragingTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.first, self.second = small(), small()
        for seed, model in enumerate((self.first, self.second)):
            keras.utils.set_random_seed(seed)
            zoo.randomize(model)

    def test_weights_are_between(self):
        before = self.second.get_weights()
        found = model_forms.mean(self.first, self.second, 0.75)
        for old, new, mean in zip(
            self.first.get_weights(), before, found.get_weights()
        ):
            np.testing.assert_allclose(mean, old / 4 + new * 3 / 4, rtol=1e-6)
        for old, new in zip(before, self.second.get_weights()):
            np.testing.assert_array_equal(old, new)


class ResNet18Test(parameterized.TestCase):
    def test_weights_of_the_paper(self):
        model = networks.resnet18((32, 32, 3), 10)
        kernels = [w for w in model.weights if len(w.shape) == 4]
        self.assertLen(kernels, 1 + 16 + 3)
        self.assertEqual(sum(np.prod(k.shape) for k in kernels), 11_159_232)
        self.assertEqual(model.output_shape, (None, 10))
        self.assertEqual(
            model.get_layer("stage4_block2_sum").output.shape[1], 4
        )

    def test_slim(self):
        model = networks.resnet18((16, 24, 1), 3, 4)
        self.assertEqual(model.output_shape, (None, 3))
        self.assertEqual(model.get_layer("stage4_block1_conv1").filters, 32)


if __name__ == "__main__":
    absltest.main()
