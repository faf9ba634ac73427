"""Masks: what they are, and what they are saved as."""

import os
import tempfile

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.plans.plan import SparsityPlan
from keras_prm.plans.records import KernelMask
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.pruning.masks import Masks
from keras_prm.pruning.masks import apply_masks
from keras_prm.pruning.masks import masks_of
from keras_prm.training.mask_constraint import enforced
from tests.helpers import zoo
from tests.helpers.masking import MasksTestCase
from tests.helpers.masking import conv_model
from tests.helpers.masking import snapshot


class MasksTest(MasksTestCase):
    def test_masks_of_a_dense_model_are_none(self):
        masks = masks_of(conv_model())
        self.assertEqual(masks, Masks({}))

    def test_masks_of_reads_no_bias_of_a_live_filter(self):
        model = conv_model()
        layer = model.get_layer("a")
        layer.bias.assign(np.zeros(8))
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        kernel[..., 3] = 0
        layer.kernel.assign(kernel)
        masks = masks_of(model)
        np.testing.assert_array_equal(
            masks.vectors["a/bias"], np.arange(8) != 3
        )
        # Its beta is not zero: it is a constant somebody may want.
        self.assertEqual([*masks.vectors], ["a/bias"])

    @parameterized.parameters("lenet5", "residual", "depthwise", "nested")
    def test_json_round_trip(self, name):
        model = zoo.make(name)
        masks = hard_prune(model, SparsityPlan.uniform(model, 0.5, 0.3))
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "masks.json")
            masks.save(path)
            back = Masks.load(path)
        self.assertEqual(back, masks)
        for key, mask in masks.kernels.items():
            np.testing.assert_array_equal(back.kernels[key].full(), mask.full())
        for key, mask in masks.vectors.items():
            self.assertEqual(back.vectors[key].dtype, bool)
            np.testing.assert_array_equal(back.vectors[key], mask)

    def test_equality(self):
        a = KernelMask(np.ones(2, bool), np.array([True, False]))
        b = KernelMask(np.ones(2, bool), np.array([True, True]))
        self.assertEqual(Masks({"x": a, "y": b}), Masks({"y": b, "x": a}))
        self.assertNotEqual(Masks({"x": a}), Masks({"x": b}))
        self.assertNotEqual(Masks({"x": a}), None)

    def test_and_keeps_what_both_keep(self):
        def mask(filters, columns):
            filters, columns = np.array(filters, bool), np.array(columns, bool)
            return KernelMask(filters, columns, (-1, -2))

        a, b = np.array([True, False]), np.array([True, True])
        one = Masks({"k": mask([1, 0], [[1, 1]]), "l": mask([1], [[0]])})
        two = Masks({"k": mask([1, 1], [[0, 1]])}, {"v": a, "w": b})
        both = one & two
        self.assertEqual(
            both,
            Masks(
                {"k": mask([1, 0], [[0, 1]]), "l": mask([1], [[0]])},
                {"v": a, "w": b},
            ),
        )
        np.testing.assert_array_equal(
            (Masks({}, {"w": a}) & two).vectors["w"], a
        )
        self.assertEqual(two & one, both)
        self.assertEqual(both & both, both)

    def test_json_of_something_else(self):
        with self.assertRaisesRegex(ValueError, "what `Masks.save` wrote"):
            Masks.from_json('{"a": 1}')

    def test_table(self):
        mask = KernelMask(np.array([True, False]), np.array([[True, False]]))
        self.assertRegex(str(Masks({"k": mask})), r"\n *1 +2 +1 +2  k$")

    def test_unfitting_masks_change_nothing(self):
        model = conv_model()
        good = KernelMask(np.zeros(8, bool), np.zeros((3, 3, 2), bool))
        before = snapshot(model)
        for bad in (
            {"c/kernel": good},
            {"b/kernel": good},
            {
                "a/kernel": KernelMask(
                    np.ones(8, bool), np.ones((3, 3, 8), bool)
                )
            },
        ):
            for function in (apply_masks, self.enforce):
                with self.assertRaisesRegex(
                    ValueError, r"`masks_of\(model\)` reads them"
                ):
                    function(model, Masks({"a/kernel": good} | bad))
                with self.assertRaisesRegex(ValueError, "masks_of"):
                    vectors = {"a/bias": np.zeros(7, bool)}
                    function(model, Masks({"a/kernel": good}, vectors))
        self.assert_unchanged(model, before)
        self.assertTrue(all(v.constraint is None for v in model.weights))

    def enforce(self, model, masks):
        with enforced(model, masks):
            self.fail("The block runs.")

    def test_something_else_than_masks(self):
        with self.assertRaisesRegex(TypeError, "as `hard_prune` or `masks_of`"):
            apply_masks(conv_model(), {"a/kernel": 1})


if __name__ == "__main__":
    absltest.main()
