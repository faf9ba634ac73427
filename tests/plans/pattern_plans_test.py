"""Plans with patterns: what they hold, and what they refuse."""

import json

import keras
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.plans.column_patterns import PATTERNS
from keras_prm.plans.plan import SparsityPlan
from keras_prm.training import checkpoint_state
from tests.helpers import patterns


def heads():
    """Dense layers of which one puts out, and one takes in, two axes."""
    inputs = keras.Input((6, 4))
    x = layers.EinsumDense("abc,cde->abde", (None, 3, 5), name="heads")(inputs)
    x = layers.EinsumDense("abde,dec->abc", (None, 4), name="joined")(x)
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


class PlanTest(parameterized.TestCase):
    def test_explicit_is_per_layer(self):
        targets = {"columns": 0.5, "column_pattern": "window"}
        plan = SparsityPlan.explicit(
            patterns.model(),
            {"a": targets, "b": {"columns": 0.5}, "out": targets},
        )
        self.assertEqual(
            {k.key: k.column_pattern for k in plan.kernels},
            {"a/kernel": "window", "b/kernel": "free", "out/kernel": "window"},
        )

    def test_uniform_leaves_out_what_is_excluded(self):
        plan = SparsityPlan.uniform(
            patterns.model(), 0.5, 0.5, exclude=["b"], column_pattern="channels"
        )
        of = {k.key: k.column_pattern for k in plan.kernels}
        self.assertEqual(of.pop("b/kernel"), "free")
        self.assertEqual(set(of.values()), {"channels"})

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
        self.assertEqual(
            {k.note for k in plan.kernels}, {"", "its kernel slides no window"}
        )
        free = SparsityPlan.uniform(heads(), 0.0, 0.5)
        self.assertEqual({k.note for k in free.kernels}, {""})

    @parameterized.parameters(*PATTERNS)
    def test_round_trip(self, pattern):
        plan = patterns.plan(patterns.model(), pattern)
        config = json.loads(json.dumps(plan.get_config()))
        back = SparsityPlan.from_config(config)
        self.assertEqual(back, plan)
        self.assertEqual(back.digest(), plan.digest())
        milder = {k.column_pattern for k in plan.at_share(0.5).kernels}
        self.assertEqual(milder, {pattern})

    def test_the_pattern_is_part_of_a_plan(self):
        model = patterns.model()
        plans = [patterns.plan(model, pattern) for pattern in PATTERNS]
        self.assertLen({plan.digest() for plan in plans}, len(PATTERNS))
        self.assertLen(set(plans), len(PATTERNS))
        self.assertRegex(str(plans[-1]), "70% +18  a/kernel: per_channel")
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
        model = patterns.model()
        plan = patterns.plan(model, pattern)
        model.compile(ADMMWrapper("sgd", plan), "mse")
        model.optimizer.build(model.trainable_variables)
        description, _ = checkpoint_state.collect(model, None)
        for kernel in description["plan"]["kernels"]:
            del kernel["column_pattern"]
        if pattern == "free":
            checkpoint_state.check_fits(model, None, description, "file")
            return
        with self.assertRaisesRegex(ValueError, "another plan.*delete the fil"):
            checkpoint_state.check_fits(model, None, description, "file")


class RefusalTest(parameterized.TestCase):
    @parameterized.parameters("rows", None, 3, (["window"],))
    def test_unknown_pattern(self, pattern):
        message = r"Expected one of \['free', .*'free' lets columns lie any"
        targets = {"columns": 0.5, "column_pattern": pattern}
        with self.assertRaisesRegex(ValueError, message) as caught:
            SparsityPlan.explicit(
                patterns.model(),
                {"a": targets, "b": targets, "up": {"columns": 0.5}},
            )
        self.assertIn(
            f"'a': {pattern!r}, 'b': {pattern!r}}}", str(caught.exception)
        )
        with self.assertRaisesRegex(ValueError, message):
            SparsityPlan.uniform(
                patterns.model(), 0.5, 0.5, column_pattern=pattern
            )

    @parameterized.parameters("rows", (["window"],))
    def test_unknown_pattern_in_a_config(self, pattern):
        config = patterns.plan(patterns.model(), "window").get_config()
        config["kernels"][1]["column_pattern"] = pattern
        with self.assertRaisesRegex(
            ValueError, "'free' lets columns lie anywhere.*{'b/kernel': "
        ):
            SparsityPlan.from_config(config)

    def test_a_pattern_without_columns(self):
        targets = {"filters": 0.5, "column_pattern": "window"}
        free = {"filters": 0.5, "column_pattern": "free"}
        with self.assertRaisesRegex(
            ValueError, "2 layers.*Add `columns`.*{'a': 'window', 'b': 'win"
        ):
            SparsityPlan.explicit(
                patterns.model(), {"a": targets, "b": targets, "up": free}
            )
        # No columns on purpose: the first point of a sweep, say.
        plan = SparsityPlan.explicit(
            patterns.model(), {"a": targets | {"columns": 0.0}}
        )
        self.assertEqual({k.column_pattern for k in plan.kernels}, {"free"})

    def test_windows_of_too_many_boxes(self):
        inputs = x = keras.Input((16, 16, 100))
        x = layers.Conv2D(80, 3, padding="same", name="small")(x)
        x = layers.Conv2D(2, 16, name="large")(x)
        x = layers.Reshape((1, 2))(x)
        x = layers.Conv1D(2, 1, name="single")(x)
        model = keras.Model(inputs, x)
        targets = {"columns": 0.5, "column_pattern": "window"}
        with self.assertRaisesRegex(
            ValueError,
            f"1 layers.*'large': {854 * 16 * 16 * 80}}}. Use 'per_channel'",
        ):
            SparsityPlan.explicit(
                model, dict.fromkeys(("small", "large", "single"), targets)
            )
        plan = SparsityPlan.uniform(model, 0.0, 0.5, column_pattern="window")
        self.assertEqual(
            {k.key: (k.column_pattern, k.note) for k in plan.kernels},
            {
                "small/kernel": ("window", ""),
                "large/kernel": ("free", "its window has too many boxes"),
                "single/kernel": ("window", ""),
            },
        )
        self.assertIn("large/kernel: free, its window has too m", str(plan))
        self.assertEqual(SparsityPlan.from_config(plan.get_config()), plan)
        targets = targets | {"column_pattern": "channels"}
        SparsityPlan.explicit(model, {"large": targets})

    def test_layers_that_have_none(self):
        inputs = x = keras.Input((6, 6, 4))
        x = layers.Conv2D(4, 3, groups=2, name="grouped")(x)
        x = layers.EinsumDense(
            "abcd,def->abcef", (None, None, 2, 4), name="sum"
        )(x)
        x = layers.Reshape((4, 4, 8))(x)
        model = keras.Model(inputs, layers.Conv2D(4, 2, name="plain")(x))
        targets = {"columns": 0.5, "column_pattern": "window"}
        with self.assertRaisesRegex(ValueError, "What is asked.*'grouped'"):
            SparsityPlan.explicit(model, {"grouped": targets})
        with self.assertRaisesRegex(
            ValueError,
            "Cannot train the columns of 1 layers.*{'sum': 'window'}. Leave "
            "`column_pattern` out for these",
        ):
            SparsityPlan.explicit(
                model, dict.fromkeys(("sum", "plain"), targets)
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
