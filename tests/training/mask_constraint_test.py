"""Masks that hold while a model trains."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.plans.plan import SparsityPlan
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.training.mask_constraint import MaskConstraint
from keras_prm.training.mask_constraint import enforced
from keras_prm.training.mask_constraint import release_masks
from tests.helpers import zoo
from tests.helpers.masking import ON_TENSORFLOW
from tests.helpers.masking import MasksTestCase
from tests.helpers.masking import conv_data
from tests.helpers.masking import conv_model
from tests.helpers.masking import snapshot


class EnforcedTest(MasksTestCase):
    def setUp(self):
        super().setUp()
        self.model = conv_model()
        plan = SparsityPlan.uniform(self.model, 0.5, 0.3)
        self.masks = hard_prune(self.model, plan)
        self.x, self.y = conv_data()

    @parameterized.parameters("sgd", "adamw")
    def test_train_on_batch(self, optimizer):
        model = self.model
        model.compile(optimizer, "mse")
        # A step that was compiled before the masks were there.
        model.train_on_batch(self.x, self.y)
        before = snapshot(model)
        with enforced(model, self.masks):
            for _ in range(3):
                model.train_on_batch(self.x, self.y)
                self.assert_masked(model, self.masks)
        self.assertTrue(np.any(snapshot(model)[0] != before[0]))
        model.train_on_batch(self.x, self.y)
        with self.assertRaises(AssertionError):
            self.assert_masked(model, self.masks)

    @parameterized.parameters(False, True)
    def test_loop_of_one_s_own(self, compiled):
        if not ON_TENSORFLOW:
            self.skipTest("tf.GradientTape")
        import tensorflow as tf

        model, optimizer = self.model, keras.optimizers.Adam(0.01)

        def step(x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            variables = model.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)

        with enforced(model, self.masks):
            function = tf.function(step) if compiled else step
            for _ in range(3):
                function(self.x, self.y)
                self.assert_masked(model, self.masks)

    def test_constraints_come_back(self):
        kernel = self.model.get_layer("a").kernel
        kernel.constraint = norm = keras.constraints.MaxNorm(0.5)
        with enforced(self.model, self.masks):
            self.assertIs(kernel.constraint.inner, norm)
            self.assertIsInstance(kernel.constraint, MaskConstraint)
        self.assertIs(kernel.constraint, norm)
        with self.assertRaisesRegex(RuntimeError, "mine"):
            with enforced(self.model, self.masks):
                raise RuntimeError("mine")
        self.assertIs(kernel.constraint, norm)
        others = [v for v in self.model.weights if v is not kernel]
        self.assertTrue(all(v.constraint is None for v in others))

    @parameterized.parameters(None, keras.constraints.MaxNorm(0.5))
    def test_a_constraint_that_was_there_comes_first(self, inner):
        factors = np.array([[True], [False], [True]]), np.array([True, False])
        expected = np.array([[1.0, 0], [0, 0], [1, 0]])
        if inner is not None:
            expected *= 0.5 / np.sqrt(3)
        found = MaskConstraint(factors, inner)(keras.ops.ones((3, 2)))
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_masks_are_applied_on_entry_and_at_the_end(self):
        zoo.randomize(self.model)
        with self.assertWarnsRegex(UserWarning, "masked weights were not zero"):
            with enforced(self.model, self.masks):
                self.assert_masked(self.model, self.masks)
                zoo.randomize(self.model)
        self.assert_masked(self.model, self.masks)

    def with_a_constraint(self):
        """A model whose kernel has a constraint of its own, and masks."""
        model, own = conv_model(), keras.constraints.NonNeg()
        model.get_layer("a").kernel.constraint = own
        masks = hard_prune(model, SparsityPlan.uniform(model, 0.5))
        return model, masks, own

    def test_release_takes_off_all_and_leaves_what_was_there(self):
        model, masks, own = self.with_a_constraint()
        layer = model.get_layer("a")
        for _ in range(2):
            enforced(model, masks).__enter__()
        release_masks(model)
        self.assertIs(layer.kernel.constraint, own)
        for variable in model.trainable_variables:
            self.assertNotIsInstance(variable.constraint, MaskConstraint)

    def test_blocks_may_end_in_any_order(self):
        model, masks, own = self.with_a_constraint()
        layer = model.get_layer("a")
        first, second = enforced(model, masks), enforced(model, masks)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        self.assertIsInstance(layer.kernel.constraint, MaskConstraint)
        self.assertIs(layer.kernel.constraint.inner, own)
        second.__exit__(None, None, None)
        self.assertIs(layer.kernel.constraint, own)

    def test_constraint_lets_no_infinity_live(self):
        constraint = MaskConstraint([np.array([True, False, False])])
        np.testing.assert_array_equal(
            constraint(keras.ops.array([2.0, np.nan, np.inf])), [2.0, 0.0, 0.0]
        )


if __name__ == "__main__":
    absltest.main()
