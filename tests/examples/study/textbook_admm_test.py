"""Tests of ADMM with two buffers."""

from unittest import mock

import keras
import numpy as np
from absl.testing import parameterized

from examples.study import frontier_methods
from examples.study import textbook_admm
from examples.study.training import FrontierTrainer
from tests.helpers import frontiers


class TextbookTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        found = frontiers.recipe(rho=0.1, rho_growth=3.0, admm_rate=1e-4)
        self.trainer = FrontierTrainer(found, frontiers.data(), seed=1)
        self.model = self.trainer.network("float32")
        self.keep = found.points["half"]
        self.plan = found.plan(self.model, self.keep)

    def test_two_buffers_do_what_the_wrapper_does(self):
        first = self.model.get_weights()
        found = []
        for sparsify in (
            frontier_methods.by_admm,
            frontier_methods.by_projecting_jointly,
        ):
            self.model.set_weights(first)
            self.trainer.epoch = 0
            sparsify(self.trainer, self.model, self.plan, 3)
            found.append(self.model.get_weights())
        for one, other in zip(*found, strict=True):
            np.testing.assert_array_equal(one == 0, other == 0)
        start, one, other = (
            np.concatenate([w.ravel() for w in weights])
            for weights in (first, *found)
        )
        moved = np.linalg.norm(one - start)
        self.assertLess(np.linalg.norm(one - other), 0.1 * moved)

    def test_filters_first_keeps_less_where_it_matters(self):
        kernel = np.zeros((5, 5, 1, 20), "float32")
        # By all columns the filters 0 to 2 are strongest, but not by ten.
        kernel[..., :3] = 0.5
        kernel[:2, :, :, 3:6] = 0.7
        kernels = [
            self.model.trainable_variables[k.index].value
            for k in self.plan.kernels
        ]
        plan = frontiers.recipe().plan(self.model, {"conv1": [3, 10]})
        self.assertLen(plan.kernels, 2)
        kernels = [kernel, np.zeros(plan.kernels[1].shape, "float32")]
        kept = []
        for project in (textbook_admm.filters_first, textbook_admm.joint):
            mask = np.array(project(kernels, plan)[0])
            self.assertEqual(mask.any(axis=(0, 1, 2)).sum(), 3)
            self.assertEqual(mask.any(axis=(2, 3)).sum(), 10)
            kept.append((kernel**2 * mask).sum())
        self.assertLess(kept[0], kept[1] - 1)

    def test_not_on_jax(self):
        with mock.patch.object(keras.backend, "backend", lambda: "jax"):
            with self.assertRaisesRegex(ValueError, "Use TensorFlow"):
                textbook_admm.TextbookADMM(self.model, self.plan, float)
