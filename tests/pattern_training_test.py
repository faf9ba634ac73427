"""Training into patterns: plans, ADMM, scores, pruning on the way."""

import json

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers
from keras import ops

from keras_prm import scores
from keras_prm import training_state
from keras_prm.callbacks import StructuredMask
from keras_prm.column_patterns import PATTERNS
from keras_prm.iterative import IterativePruning
from keras_prm.optimizers import ADMMWrapper
from keras_prm.plan_projections import kernel_inputs
from keras_prm.plan_projections import project_plan
from keras_prm.plans import SparsityPlan
from keras_prm.projections import removed_count
from keras_prm.pruning import hard_prune
from tests.column_patterns_test import NOT_FREE
from tests.column_patterns_test import is_feasible
from tests.plan_projections_test import compile_function
from tests.plan_projections_test import normal


def make():
    """Two convolutions, a transposed one and a dense layer."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((6, 6, 2))
    x = layers.Conv2D(6, 3, activation="relu", name="a")(x)
    x = layers.Conv2D(5, (3, 2), activation="relu", name="b")(x)
    x = layers.Conv2DTranspose(4, 3, activation="relu", name="up")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


def heads():
    """Dense layers of which one puts out, and one takes in, two axes."""
    inputs = keras.Input((6, 4))
    x = layers.EinsumDense("abc,cde->abde", (None, 3, 5), name="heads")(inputs)
    x = layers.EinsumDense("abde,dec->abc", (None, 4), name="joined")(x)
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


def make_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 6, 6, 2)).astype("float32")
    return x, np.tanh(x[:, :3, 0, 0])


def train(model, epochs, callbacks=()):
    x, y = make_data()
    options = {"batch_size": 8, "shuffle": False, "verbose": 0}
    model.fit(x, y, epochs=epochs, callbacks=list(callbacks), **options)


def make_plan(model, pattern, filters=0.5, columns=0.7):
    return SparsityPlan.uniform(model, filters, columns, column_pattern=pattern)


def mixed_plan(model, filters=0.5, columns=0.7):
    """Each convolution has a pattern of its own."""
    patterns = {"a": "window", "b": "per_channel", "up": "channels"}
    return SparsityPlan.explicit(
        model,
        {
            name: {
                "filters": filters,
                "columns": columns,
                "column_pattern": pattern,
            }
            for name, pattern in patterns.items()
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
        model = make()
        plan = make_plan(model, pattern)
        once = hard_prune(model, plan)
        self.assert_feasible(plan, once.kernels)
        weights = model.get_weights()
        hard_prune(model, plan)
        for before, after in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_array_equal(before, after)

    def test_share_is_a_tensor(self):
        plan = mixed_plan(make())
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
        model = make()
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
        model = make()
        model.compile("sgd", "mse")
        plan = make_plan(model, pattern)
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
        model = make()
        plan = make_plan(model, pattern)
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


class PlanTest(PatternTestCase):
    def test_explicit_is_per_layer(self):
        targets = {"columns": 0.5, "column_pattern": "window"}
        plan = SparsityPlan.explicit(
            make(), {"a": targets, "b": {"columns": 0.5}, "out": targets}
        )
        self.assertEqual(
            {k.key: k.column_pattern for k in plan.kernels},
            {"a/kernel": "window", "b/kernel": "free", "out/kernel": "window"},
        )

    def test_uniform_leaves_out_what_is_excluded(self):
        plan = SparsityPlan.uniform(
            make(), 0.5, 0.5, exclude=["b"], column_pattern="channels"
        )
        patterns = {k.key: k.column_pattern for k in plan.kernels}
        self.assertEqual(patterns.pop("b/kernel"), "free")
        self.assertEqual(set(patterns.values()), {"channels"})

    def test_uniform_leaves_free_what_has_no_window(self):
        plan = SparsityPlan.uniform(heads(), 0.0, 0.5, column_pattern="window")
        self.assertEqual(
            {k.key: k.column_pattern for k in plan.kernels},
            {
                "heads/kernel": "free",
                "joined/kernel": "free",
                "out/kernel": "window",
            },
        )

    @parameterized.parameters(*PATTERNS)
    def test_round_trip(self, pattern):
        plan = make_plan(make(), pattern)
        config = json.loads(json.dumps(plan.get_config()))
        back = SparsityPlan.from_config(config)
        self.assertEqual(back, plan)
        self.assertEqual(back.digest(), plan.digest())
        milder = {k.column_pattern for k in plan.at_share(0.5).kernels}
        self.assertEqual(milder, {pattern})

    def test_the_pattern_is_part_of_a_plan(self):
        model = make()
        plans = [make_plan(model, pattern) for pattern in PATTERNS]
        self.assertLen({plan.digest() for plan in plans}, len(PATTERNS))
        self.assertLen(set(plans), len(PATTERNS))
        self.assertIn("70%     18  a/kernel: per_channel", str(plans[-1]))
        self.assertTrue(str(plans[0]).endswith("out/kernel"))

    def test_plans_from_before_there_were_patterns(self):
        """Written by version 0.1.0 before it knew any: one kernel, no group."""
        kernel = {
            "key": "a/kernel",
            "index": 0,
            "shape": [3, 3, 2, 6],
            "in_classes": [-1, -1],
            "out_classes": [-1] * 6,
            "columns": 0.5,
            "axes": [-2, -1],
        }
        old = SparsityPlan.from_config(
            {
                "kernels": [kernel],
                "groups": [],
                "variables": [["kernel", [3, 3, 2, 6]]],
            }
        )
        self.assertEqual(old.kernels[0].column_pattern, "free")
        self.assertEqual(
            old.digest().hex(),
            "65268bbd5c13efe26c3a82866675ea06c5bace47e7aa616d2c909e66024852e1",
        )

    @parameterized.parameters("free", "window")
    def test_checkpoints_from_before_there_were_patterns(self, pattern):
        model = make()
        plan = make_plan(model, pattern)
        model.compile(ADMMWrapper("sgd", plan), "mse")
        model.optimizer.build(model.trainable_variables)
        description, _ = training_state.collect(model, None)
        for kernel in description["plan"]["kernels"]:
            del kernel["column_pattern"]
        if pattern == "free":
            training_state.check(model, None, description, "file")
            return
        with self.assertRaisesRegex(ValueError, "another plan.*delete the fil"):
            training_state.check(model, None, description, "file")


class RefusalTest(PatternTestCase):
    @parameterized.parameters("rows", None, 3, (["window"],))
    def test_unknown_pattern(self, pattern):
        message = r"2 layers. Expected one of \['free', .*leave `column_patt"
        targets = {"columns": 0.5, "column_pattern": pattern}
        with self.assertRaisesRegex(ValueError, message) as caught:
            SparsityPlan.explicit(
                make(), {"a": targets, "b": targets, "up": {"columns": 0.5}}
            )
        self.assertIn(
            f"'a': {pattern!r}, 'b': {pattern!r}}}", str(caught.exception)
        )
        with self.assertRaisesRegex(ValueError, "leave `column_pattern` out"):
            SparsityPlan.uniform(make(), 0.5, 0.5, column_pattern=pattern)

    def test_layers_that_have_none(self):
        inputs = x = keras.Input((6, 6, 4))
        x = layers.Conv2D(4, 3, groups=2, name="grouped")(x)
        x = layers.DepthwiseConv2D(3, name="depthwise")(x)
        x = layers.Conv2D(4, 2, name="plain")(x)
        x = layers.Flatten()(x)
        model = keras.Model(inputs, layers.Dense(2, name="out")(x))
        targets = {"columns": 0.5, "column_pattern": "window"}
        with self.assertRaisesRegex(
            ValueError,
            "Cannot train the columns of 2 layers.*'grouped': 'window', "
            "'depthwise': 'window'}. Leave `column_pattern` out for these",
        ):
            SparsityPlan.explicit(
                model,
                dict.fromkeys(
                    ("grouped", "depthwise", "plain", "out"), targets
                ),
            )

    def test_an_axis_that_is_no_window(self):
        model = heads()
        for name in ("heads", "joined"):
            with self.assertRaisesRegex(ValueError, "Leave `column_pattern`"):
                SparsityPlan.explicit(
                    model,
                    {name: {"columns": 0.5, "column_pattern": "channels"}},
                )


if __name__ == "__main__":
    absltest.main()
