import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.analysis.trace import trace
from keras_prm.plans import plan_builder
from keras_prm.plans import plan_checks
from keras_prm.plans.plan import SparsityPlan
from keras_prm.plans.records import ChannelGroup
from tests.helpers import zoo


class PlanBuilderTest(parameterized.TestCase):
    def test_matching(self):
        paths = {"conv": 0, "a/conv": 0, "a/b": 0}
        for names, expected in (
            (["conv"], {"conv"}),
            (["b"], {"a/b"}),
            (["a/conv", "b"], {"a/conv", "a/b"}),
            (["onv"], set()),
            ([], set()),
        ):
            self.assertEqual(plan_checks.matching(names, paths), expected)

    def test_rounding_makes_widths_round(self):
        """Classes of two filters in `g`, and three filters that stay in `c`.

        12 filters in 6 groups of 2: half would be 3 classes; of 4 classes,
        which have 8 filters, no fewer make a multiple of 4.
        """
        x = inputs = keras.Input((6, 6, 3))
        x = layers.Conv2D(12, 1, name="a")(x)
        x = layers.Conv2D(12, 3, groups=6, name="g")(x)
        model = keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x))
        plan = SparsityPlan.uniform(model, filters=0.5, round_to=4)
        self.assertEqual([g.keep for g in plan.groups], [4])
        # 10 + 3 filters of c, of which the 3 are those of the inputs.
        y = layers.Conv2D(10, 1, name="b")(inputs)
        y = layers.Concatenate()([y, inputs])
        x = layers.Add()([y, layers.Conv2D(13, 1, name="c")(inputs)])
        model = keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x))
        plan = SparsityPlan.uniform(model, filters=0.5, round_to=4)
        (group,) = plan.groups
        self.assertEqual((group.size, group.keep), (10, 10))
        self.assertIn("multiple of 4", group.note)

    def test_partly_pinned_group_competes_with_what_is_free(self):
        """Of 6 and 4 concatenated channels a sum with an input pins 4."""
        inputs = keras.Input((10,)), keras.Input((4,))
        x = layers.Dense(10, name="a")(inputs[0])
        x = layers.Add()(
            [
                x,
                layers.Concatenate()(
                    [layers.Dense(6, name="b")(inputs[0]), inputs[1]]
                ),
            ]
        )
        model = keras.Model(inputs, layers.Dense(2, name="out")(x))
        plan = SparsityPlan.uniform(model, filters=0.5)
        self.assertEqual(plan.groups, (ChannelGroup("a+b", 0, 6, 3),))
        kernels = {k.key: k for k in plan.kernels}
        free = (0, 1, 2, 3, 4, 5)
        self.assertEqual(kernels["b/kernel"].out_classes, free)
        self.assertEqual(kernels["a/kernel"].out_classes, free + (-1,) * 4)
        self.assertEqual(kernels["out/kernel"].in_classes, free + (-1,) * 4)

    def test_classes_are_numbered_as_the_trace_ties_them(self):
        model = zoo.make("branches")
        graph = trace(model)
        plan = SparsityPlan.uniform(model, filters=0.5)
        weights = {w.key: w for w in graph.weights.values()}
        seen = {}
        for kernel in plan.kernels:
            for axis, numbers in (
                (-2, kernel.in_classes),
                (-1, kernel.out_classes),
            ):
                classes = graph.classes[weights[kernel.key].ids[axis]]
                for a, b in zip(classes.tolist(), numbers, strict=True):
                    self.assertEqual(seen.setdefault(a, b), b)
        found = [n for n in seen.values() if n >= 0]
        self.assertLen(found, len(np.unique(found)))

    def test_components_are_tied_by_filters(self):
        model = zoo.make("residual")
        graph = trace(model)
        paths = plan_checks.kernel_paths(graph)
        self.assertEqual(
            [*paths],
            ["stem", "onea", "oneb", "twoa", "twob", "down", "short", "out"],
        )
        wanted = {path: {"filters": 0.5} for path in paths}
        groups, numbers, skipped = plan_builder.filter_groups(
            model, graph, {}, 1, strict=False
        )
        self.assertEqual((groups, numbers, skipped), ([], {}, []))
        groups, numbers, skipped = plan_builder.filter_groups(
            model, graph, wanted, 1, strict=False
        )
        self.assertEqual(
            [(g.name, g.start, g.size) for g in groups],
            [
                ("onea", 0, 8),
                ("twoa", 8, 8),
                ("oneb+stem+twob", 16, 8),
                ("down+short", 24, 12),
            ],
        )
        self.assertCountEqual(numbers.values(), range(8 + 8 + 8 + 12))
        self.assertEqual([name for name, _, _ in skipped], ["out"])
        with self.assertRaisesRegex(ValueError, "out.: .it is an output"):
            plan_builder.filter_groups(model, graph, wanted, 1, strict=True)


if __name__ == "__main__":
    absltest.main()
