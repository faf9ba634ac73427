"""Training into patterns: plans, ADMM, scores, pruning on the way."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers
from keras import ops

from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.plans.plan import SparsityPlan
from keras_prm.plans.projections import kernel_inputs
from keras_prm.plans.projections import project_plan
from keras_prm.plans.projections import removed_count
from keras_prm.pruning import scores
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.training.iterative_pruning import IterativePruning
from keras_prm.training.structured_mask import StructuredMask
from tests.helpers import patterns
from tests.helpers.arrays import compile_function
from tests.helpers.arrays import normal
from tests.helpers.patterns import NOT_FREE
from tests.helpers.patterns import is_feasible


def make_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 6, 6, 2)).astype("float32")
    return x, np.tanh(x[:, :3, 0, 0])


def train(model, epochs, callbacks=()):
    x, y = make_data()
    options = {"batch_size": 8, "shuffle": False, "verbose": 0}
    model.fit(x, y, epochs=epochs, callbacks=list(callbacks), **options)


def mixed_plan(model, filters=0.5, columns=0.7):
    """Each convolution has a pattern of its own."""
    of = {"a": "window", "b": "per_channel", "up": "channels"}
    return SparsityPlan.explicit(
        model,
        {
            name: {
                "filters": filters,
                "columns": columns,
                "column_pattern": pattern,
            }
            for name, pattern in of.items()
        },
    )


def live_inputs(kernel, masks):
    """The input channels that some column of a mask reads, or may read."""
    writers = {
        c: live
        for key, live in masks.items()
        for c, live in zip(key.out_classes, live.filters)
    }
    inputs = [writers.get(c, True) for c in kernel.in_classes]
    return np.array(inputs, "float32")


class PatternTestCase(parameterized.TestCase):
    def assert_feasible(self, plan, masks):
        """Every mask lies in its kernel's set, given what is alive."""
        by_kernel = {k: masks[k.key] for k in plan.kernels}
        for kernel, mask in by_kernel.items():
            live = live_inputs(kernel, by_kernel)
            size = int(live.sum() * np.prod(kernel.matrix_shape[:-2]))
            keep = size - removed_count(size, kernel.columns)
            self.assertTrue(
                is_feasible(mask.columns, live, keep, kernel.column_pattern),
                f"{kernel} {mask.columns}",
            )
            self.assertTrue(mask.columns.any())


class ProjectionTest(PatternTestCase):
    @parameterized.parameters(*NOT_FREE)
    def test_plan_is_feasible_and_idempotent(self, pattern):
        model = patterns.model()
        plan = patterns.plan(model, pattern)
        once = hard_prune(model, plan)
        self.assert_feasible(plan, once.kernels)
        weights = model.get_weights()
        hard_prune(model, plan)
        for before, after in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_array_equal(before, after)

    def test_share_is_a_tensor(self):
        plan = mixed_plan(patterns.model())
        kernels = [normal(k.shape, i) for i, k in enumerate(plan.kernels)]
        compiled = compile_function(
            lambda share, *kernels: project_plan(list(kernels), plan, share)
        )
        tensors = [ops.convert_to_tensor(kernel) for kernel in kernels]

        def at(share):
            share = ops.convert_to_tensor(share, "float32")
            channels, columns = compiled(share, *tensors)
            return channels, [ops.convert_to_numpy(c) for c in columns]

        _, columns = at(0.0)
        self.assertTrue(all(kept.all() for kept in columns))
        numbers = [sum(kept.sum() for kept in columns)]
        for share in (0.5, 1.0):
            channels, columns = at(share)
            numbers.append(sum(kept.sum() for kept in columns))
            for kernel, kept in zip(plan.kernels, columns, strict=True):
                live = kernel_inputs(kernel, channels)
                live = ops.convert_to_numpy(live)
                size = int(live.sum() * np.prod(kernel.matrix_shape[:-2]))
                gone = removed_count(size, kernel.columns)
                keep = size - int(np.floor(gone * share + 1e-4))
                pattern = kernel.column_pattern
                self.assertTrue(is_feasible(kept > 0, live, keep, pattern))
        self.assertEqual(numbers, sorted(numbers, reverse=True))
        whole_channels, whole = project_plan(kernels, plan)
        np.testing.assert_array_equal(
            ops.convert_to_numpy(channels),
            ops.convert_to_numpy(whole_channels),
        )
        for one, other in zip(columns, whole, strict=True):
            np.testing.assert_array_equal(one, ops.convert_to_numpy(other))


class TrainingTest(PatternTestCase):
    def test_admm(self):
        model = patterns.model()
        plan = mixed_plan(model)
        ramp = keras.optimizers.schedules.PolynomialDecay(0.0, 40, 1.0)
        wrapper = ADMMWrapper(
            keras.optimizers.SGD(0.1),
            plan,
            rho=3.0,
            update_every=4,
            ramp=ramp,
        )
        model.compile(wrapper, "mse")
        train(model, 20)
        self.assertTrue(wrapper.settled)
        self.assert_feasible(plan, wrapper.masks())
        for residual in wrapper.residuals().values():
            self.assertLess(residual["primal"], 0.05)
        masks = hard_prune(model, plan)
        self.assertEqual(masks.kernels.keys(), wrapper.masks().keys())
        self.assert_feasible(plan, masks.kernels)
        model.compile("sgd", "mse")
        train(model, 2, [StructuredMask(masks)])
        for kernel in plan.kernels:
            mask = masks.kernels[kernel.key]
            weights = model.trainable_variables[kernel.index]
            weights = ops.convert_to_numpy(weights)
            self.assertTrue(weights[mask.full()].all())
            self.assertFalse(weights[~mask.full()].any())

    @parameterized.parameters(*NOT_FREE)
    def test_iterative_pruning(self, pattern):
        model = patterns.model()
        model.compile("sgd", "mse")
        plan = patterns.plan(model, pattern)
        ramp = keras.optimizers.schedules.PolynomialDecay(0.0, 3, 1.0)
        pruning = IterativePruning(plan, scores.l1_norm, ramp)
        train(model, 5, [pruning])
        self.assert_feasible(plan, pruning.masks.kernels)

    @parameterized.product(
        pattern=NOT_FREE,
        score=(
            scores.l1_norm,
            lambda structures: -np.abs(structures.weights).sum(axis=1),
        ),
    )
    def test_scores(self, pattern, score):
        model = patterns.model()
        plan = patterns.plan(model, pattern)
        masks = hard_prune(model, plan, score)
        self.assert_feasible(plan, masks.kernels)
        again = hard_prune(model, plan, score)
        self.assertEqual(masks, again)

    def test_scores_are_added_up(self):
        """Of a channel: 5 + 4 + 4 and 9 + 1 + 1."""
        inputs = keras.Input((6, 2))
        model = keras.Model(inputs, layers.Conv1D(2, 3, name="a")(inputs))
        kernel = np.ones((3, 2, 2)) * [[[5], [9]], [[4], [1]], [[4], [1]]]
        model.get_layer("a").kernel.assign(kernel)
        targets = {"columns": 0.5, "column_pattern": "channels"}
        plan = SparsityPlan.explicit(model, {"a": targets})
        for sign, stays in ((1, 0), (-1, 1)):
            model.get_layer("a").kernel.assign(kernel)
            masks = hard_prune(
                model, plan, lambda s: sign * np.abs(s.weights).sum(axis=1)
            )
            columns = masks.kernels["a/kernel"].columns
            np.testing.assert_array_equal(
                columns.all(axis=0), np.arange(2) == stays
            )


if __name__ == "__main__":
    absltest.main()
