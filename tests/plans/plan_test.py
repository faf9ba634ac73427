import json
import os
import tempfile

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.plans.plan import SparsityPlan
from keras_prm.plans.projections import removed_count
from keras_prm.plans.records import ChannelGroup
from keras_prm.plans.records import KernelPlan
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.pruning.masks import Masks
from tests.helpers import zoo


def chain(*units):
    x = inputs = keras.Input((5,))
    for i, n in enumerate(units):
        x = layers.Dense(n, name=f"d{i}")(x)
    return keras.Model(inputs, x)


def same_names():
    """`conv` outside, `body/conv` and `head/conv` inside."""

    def part(name):
        inner = keras.Input((4, 4, 6))
        return keras.Model(
            inner, layers.Conv2D(6, 1, name="conv")(inner), name=name
        )

    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(6, 1, name="conv")(inputs)
    x = part("head")(part("body")(x))
    return keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x))


class Subclassed(keras.Model):
    def call(self, x):
        return x


class PlansTest(parameterized.TestCase):
    @parameterized.parameters(*zoo.MODELS)
    def test_uniform_is_feasible(self, name):
        model = zoo.make(name)
        plan = SparsityPlan.uniform(model, filters=0.5, columns=0.3)
        start = 0
        for group in plan.groups:
            self.assertEqual(group.start, start)
            self.assertEqual(group.keep, group.size - group.size // 2)
            start += group.size
        self.assertEqual(plan.num_classes, start)
        variables = model.trainable_variables
        self.assertEqual(
            plan.variables, tuple((v.name, tuple(v.shape)) for v in variables)
        )
        used = set()
        for kernel in plan.kernels:
            self.assertEqual(kernel.shape, tuple(variables[kernel.index].shape))
            self.assertLen(kernel.in_classes, kernel.matrix_shape[-2])
            self.assertLen(kernel.out_classes, kernel.matrix_shape[-1])
            used.update(kernel.in_classes + kernel.out_classes)
        self.assertEqual(used | {-1}, {-1, *range(start)})
        # The filters that make the outputs stay, and the table says so.
        last = {"lenet5": "fc2", "detector": "box"}.get(name, "out")
        outs = {k.key: k.out_classes for k in plan.kernels}
        self.assertEqual({*outs.get(f"{last}/kernel", (-1,))}, {-1})
        reason = {layers: why for layers, why, _ in plan.skipped}[last]
        self.assertRegex(reason, "output of the model|reads every channel")
        self.assertIn(f"{last}: {reason}", str(plan))

    @parameterized.parameters(
        (10, 0.5, 1, 5),
        (10, 0.7, 1, 3),
        (3, 0.5, 1, 2),
        (10, 0.99, 1, 1),
        (1, 0.9, 1, 1),
        (10, 0.0, 1, None),
        (20, 0.7, 8, 8),
        (20, 0.5, 8, 16),
        (20, 0.1, 8, 20),
        (4, 0.5, 8, 4),
    )
    def test_number_of_filters_kept(self, size, sparsity, round_to, keep):
        model = chain(size, 2)
        plan = SparsityPlan.uniform(model, sparsity, round_to=round_to)
        found = [(g.name, g.size, g.keep) for g in plan.groups]
        self.assertEqual(found, [] if keep is None else [("d0", size, keep)])

    def test_columns_are_asked_of_the_kernel_only(self):
        plan = SparsityPlan.uniform(chain(4, 2), columns=0.25)
        self.assertEmpty(plan.groups)
        self.assertEqual([k.columns for k in plan.kernels], [0.25, 0.25])

    def test_residual_sum_is_one_group(self):
        model = zoo.make("residual")
        plan = SparsityPlan.uniform(model, filters=0.5)
        names = [g.name for g in plan.groups]
        self.assertIn("oneb+stem+twob", names)
        self.assertIn("down+short", names)
        kernels = {k.key: k for k in plan.kernels}
        for name in ("oneb", "twob"):
            self.assertEqual(
                kernels[f"{name}/kernel"].out_classes,
                kernels["stem/kernel"].out_classes,
            )
        self.assertEqual(
            kernels["onea/kernel"].in_classes,
            kernels["stem/kernel"].out_classes,
        )

    def test_flatten_repeats_the_classes(self):
        plan = SparsityPlan.uniform(zoo.make("lenet5"), filters=0.5)
        kernels = {k.key: k for k in plan.kernels}
        conv2 = kernels["conv2/kernel"].out_classes
        self.assertEqual(kernels["fc1/kernel"].in_classes, conv2 * (4 * 4))

    @parameterized.parameters(
        ("grouped", ("g/kernel",), ("a/kernel", "out/kernel")),
        (
            "depthwise",
            ("dw/kernel", "sep/depthwise_kernel", "dw2/kernel"),
            ("expand/kernel", "sep/pointwise_kernel"),
        ),
    )
    def test_no_columns_of_channel_groups(self, name, without, with_):
        plan = SparsityPlan.uniform(zoo.make(name), columns=0.5)
        columns = {k.key: k.columns for k in plan.kernels}
        for key in without:
            self.assertEqual(columns.get(key, 0.0), 0.0, key)
        for key in with_:
            self.assertEqual(columns[key], 0.5, key)

    def test_explicit_is_per_layer(self):
        model = zoo.make("lenet5")
        plan = SparsityPlan.explicit(
            model,
            {
                "conv2": {"filters": 0.9, "columns": 0.5},
                "fc1": {"columns": 0.2},
            },
            round_to=4,
        )
        self.assertEqual(
            plan.groups, (ChannelGroup("conv2", 0, size=50, keep=8),)
        )
        columns = {k.key: k.columns for k in plan.kernels}
        self.assertEqual(columns, {"conv2/kernel": 0.5, "fc1/kernel": 0.2})

    def test_one_layer_of_a_group_stands_for_all(self):
        model = zoo.make("residual")
        plan = SparsityPlan.explicit(model, {"stem": {"filters": 0.5}})
        self.assertEqual([g.name for g in plan.groups], ["oneb+stem+twob"])

    def test_explicit_takes_paths_of_nested_models(self):
        model = zoo.make("nested")
        plan = SparsityPlan.explicit(model, {"body/conv": {"filters": 0.5}})
        self.assertEqual([g.name for g in plan.groups], ["body/conv"])

    def test_whole_path_wins_over_equal_endings(self):
        plan = SparsityPlan.explicit(same_names(), {"conv": {"columns": 0.5}})
        self.assertEqual([k.key for k in plan.kernels], ["conv/kernel"])

    def test_excluded_layers_are_left_alone(self):
        model = zoo.make("lenet5")
        plan = SparsityPlan.uniform(model, 0.5, 0.5, exclude=["conv1"])
        self.assertEqual([g.name for g in plan.groups], ["conv2", "fc1"])
        self.assertNotIn("conv1/kernel", [k.key for k in plan.kernels])

    def test_excluding_one_layer_of_a_sum_keeps_the_whole_sum(self):
        model = zoo.make("residual")
        plan = SparsityPlan.uniform(model, 0.5, exclude=["stem"])
        self.assertEqual(
            [g.name for g in plan.groups], ["onea", "twoa", "down+short"]
        )
        self.assertIn(
            ("oneb+stem+twob", "['stem'] is excluded", 8), plan.skipped
        )

    def test_frozen_layers_are_skipped_with_a_reason(self):
        model = zoo.make("residual")
        model.get_layer("oneb").trainable = False
        plan = SparsityPlan.uniform(model, filters=0.5, columns=0.5)
        self.assertNotIn("oneb/kernel", [k.key for k in plan.kernels])
        self.assertIn(
            ("oneb+stem+twob", "['oneb/kernel'] is not trainable", 8),
            plan.skipped,
        )
        self.assertIn("is not trainable", str(plan))
        self.assertIn("onea", [g.name for g in plan.groups])

    def test_filters_that_cannot_go_in_a_group_that_can(self):
        """What a makes is an output, and part of what it is added to."""
        inputs = keras.Input((3,))
        a, b, c = (
            layers.Dense(units, name=name)(inputs)
            for name, units in (("a", 2), ("b", 4), ("c", 6))
        )
        x = layers.Add()([layers.Concatenate()([a, b]), c])
        model = keras.Model(inputs, [a, layers.Dense(2, name="out")(x)])
        plan = SparsityPlan.uniform(model, filters=0.5)
        (group,) = plan.groups
        self.assertEqual((group.name, group.size, group.keep), ("a+b+c", 4, 2))
        reason = "it is an output of the model"
        self.assertEqual(
            plan.skipped, (("a+b+c", reason, 2), ("out", reason, 2))
        )
        self.assertRegex(str(plan), rf"all +2  a\+b\+c: {reason}")

    @parameterized.parameters("residual", "shared", "nested")
    def test_round_trips(self, name):
        model = zoo.make(name)
        plan = SparsityPlan.uniform(model, 0.5, 0.3)
        config = json.loads(json.dumps(plan.get_config()))
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "plan.json")
            plan.save(path)
            loaded = SparsityPlan.load(path)
        serialized = keras.saving.serialize_keras_object(plan)
        for back in (
            SparsityPlan.from_config(config),
            loaded,
            keras.saving.deserialize_keras_object(serialized),
            keras.saving.deserialize_keras_object(
                json.loads(json.dumps(serialized))
            ),
        ):
            self.assertEqual(back, plan)
            self.assertEqual(hash(back), hash(plan))
            self.assertEqual(str(back), str(plan))
            self.assertEqual(back.kernels, plan.kernels)
            self.assertEqual(back.groups, plan.groups)

    @parameterized.parameters(
        # 10 filters, 7 of them removed: 7 * 0.3 = 2.1, 7 * 0.5 = 3.5.
        (0.0, 10),
        (0.1, 10),
        (0.3, 8),
        (0.5, 7),
        (0.999, 4),
        (6 / 7, 4),
        (1.0, 3),
        (1, 3),
    )
    def test_at_share_keeps_so_many_filters(self, share, keep):
        model = chain(10, 3)
        plan = SparsityPlan.uniform(model, filters=0.7)
        self.assertEqual(plan.at_share(share).groups[0].keep, keep)

    @parameterized.parameters(
        (0.0, 0), (0.5, 27 // 2), (0.9, 24), (0.99999, 26), (1.0, 27)
    )
    def test_at_share_removes_so_many_columns(self, share, removed):
        # 90 columns, 27 of them removed: 24.3 with a share of 0.9.
        model = chain(90, 3)
        plan = SparsityPlan.explicit(model, {"d1": {"columns": 0.3}})
        (kernel,) = plan.at_share(share).kernels
        self.assertEqual(kernel.columns, 0.3 * share)
        self.assertEqual(removed_count(90, kernel.columns), removed)

    def test_at_share_takes_the_share_of_the_fraction(self):
        """Not of the number, which is rounded already."""
        plan = SparsityPlan.explicit(chain(10, 3), {"d1": {"columns": 0.59}})
        (kernel,) = plan.at_share(0.9).kernels
        # 10 * 0.59 * 0.9 = 5.31, where 5 * 0.9 = 4.5.
        self.assertEqual(removed_count(10, kernel.columns), 5)

    @parameterized.parameters("lenet5", "residual", "branches", "grouped")
    def test_at_share_is_a_plan(self, name):
        model = zoo.make(name)
        plan = SparsityPlan.uniform(model, 0.5, 0.3, round_to=4)
        self.assertEqual(plan.at_share(1.0), plan)
        none = plan.at_share(0)
        self.assertTrue(all(g.keep == g.size for g in none.groups))
        before = none
        for share in np.linspace(0.1, 1, 10):
            now = plan.at_share(share)
            for old, new in zip(before.groups, now.groups, strict=True):
                self.assertLessEqual(new.keep, old.keep)
            for old, new in zip(before.kernels, now.kernels, strict=True):
                self.assertGreaterEqual(new.columns, old.columns)
            self.assertEqual(SparsityPlan.from_config(now.get_config()), now)
            before = now

    def test_at_share_says_why_a_group_is_whole(self):
        plan = SparsityPlan.uniform(chain(10, 6, 3), filters=0.5)
        table = str(plan.at_share(0.3))
        self.assertRegex(table, "9 +10  d0\n")
        self.assertRegex(table, "6 +6  d1: too few to remove one at a share")

    @parameterized.parameters(-0.1, 1.1, float("nan"), "half", None)
    def test_share_is_a_share(self, share):
        plan = SparsityPlan.uniform(chain(10, 3), 0.5)
        with self.assertRaisesRegex(ValueError, "make another plan"):
            plan.at_share(share)

    def test_equality(self):
        model = zoo.make("mlp")
        plan = SparsityPlan.uniform(model, 0.5, 0.3)
        self.assertEqual(plan, SparsityPlan.uniform(model, 0.5, 0.3))
        self.assertNotEqual(plan, SparsityPlan.uniform(model, 0.5, 0.2))
        self.assertNotEqual(plan, SparsityPlan.uniform(model, 0.25, 0.3))
        self.assertNotEqual(plan, None)

    def test_table(self):
        plan = SparsityPlan(
            [KernelPlan("a/kernel", 0, (3, 3, 2, 6), (-1,) * 2, (0,), 0.25)],
            [ChannelGroup("a+b", 0, 6, 3)],
            [("kernel", (3, 3, 2, 6))],
            [("out", "it is an output of the model", 5)],
        )
        self.assertEqual(
            [line.split() for line in str(plan).split("\n")],
            [
                ["filters", "kept", "of", "layers"],
                ["3", "6", "a+b"],
                ["all", "5", *"out: it is an output of the model".split()],
                ["columns", "removed", "of", "kernel"],
                ["25%", f"{3 * 3 * 2}", "a/kernel"],
            ],
        )
        self.assertIn("1 groups of filters, 1 kernels", repr(plan))


class PlanErrorsTest(parameterized.TestCase):
    @parameterized.parameters(1.0, -0.1, float("nan"), 2, "half", None)
    def test_sparsity_is_a_fraction(self, value):
        for target in ("filters", "columns"):
            with self.assertRaisesRegex(ValueError, "0.5 removes half of"):
                SparsityPlan.uniform(chain(4, 2), **{target: value})
            with self.assertRaisesRegex(
                ValueError, r"in \[0, 1\), the fraction removed"
            ):
                SparsityPlan.explicit(chain(4, 2), {"d0": {target: value}})

    def test_all_offenders_are_named_at_once(self):
        targets = {
            "conv1": {"filters": 1.0},
            "conv2": {"filters": 0.5, "columns": 7.0},
            "fc1": {"filters": 0.5},
        }
        with self.assertRaises(ValueError) as caught:
            SparsityPlan.explicit(zoo.make("lenet5"), targets)
        message = str(caught.exception)
        self.assertRegex(message, "Cannot prune 2 layers .* delete it from")
        self.assertIn("'conv1': {'filters': 1.0}", message)
        self.assertIn("'columns': 7.0", message)
        self.assertNotIn("fc1", message)

    def test_a_layer_stands_for_those_inside_of_it(self):
        x = inputs = keras.Input((5, 6))
        x = layers.MultiHeadAttention(2, 4, name="mha")(x, x)
        x = layers.LSTM(6, name="lstm")(layers.Dense(6, name="d")(x))
        model = keras.Model(inputs, layers.Dense(2, name="out")(x))
        plan = SparsityPlan.uniform(model, 0.5, exclude=["mha", "lstm"])
        self.assertEqual([g.name for g in plan.groups], ["d"])
        plan = SparsityPlan.explicit(model, {"lstm": {"filters": 0.5}})
        self.assertIn("lstm/lstm_cell", plan.groups[0].name)

    def test_what_would_come_to_nothing(self):
        x = inputs = keras.Input((6, 6, 4))
        x = layers.DepthwiseConv2D(3, name="depthwise")(x)
        x = layers.Conv2D(8, 1, groups=2, name="grouped")(x)
        x = layers.Conv2D(8, 1, trainable=False, name="frozen")(x)
        x = layers.SeparableConv2D(8, 1, name="separable")(x)
        model = keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x))
        for name, target in (
            ("depthwise", "filters"),
            ("depthwise", "columns"),
            ("grouped", "columns"),
            ("frozen", "columns"),
        ):
            with self.assertRaisesRegex(ValueError, f"'{name}': '{target}, "):
                targets = {name: {target: 0.5}, "separable": {"columns": 0.5}}
                SparsityPlan.explicit(model, targets)
        plan = SparsityPlan.explicit(model, {"separable": {"columns": 0.5}})
        self.assertNotEmpty(plan.kernels)

    def test_unknown_names(self):
        model = zoo.make("mlp")
        with self.assertRaisesRegex(
            ValueError, r"\['x', 'y'\]. Expected names among .*'d0', 'd1'"
        ):
            SparsityPlan.explicit(model, {"x": {}, "y": {}, "d0": {}})
        with self.assertRaisesRegex(ValueError, "Expected names among"):
            SparsityPlan.uniform(model, 0.5, exclude=["dropout"])

    def test_name_alone_where_names_are_expected(self):
        with self.assertRaisesRegex(TypeError, "Put the name into a list"):
            SparsityPlan.uniform(zoo.make("mlp"), 0.5, exclude="d0")

    def test_layers_where_names_are_expected(self):
        model = zoo.make("mlp")
        with self.assertRaisesRegex(TypeError, "names of layers, such as"):
            SparsityPlan.uniform(model, 0.5, exclude=[model.layers[1]])

    def test_ambiguous_names(self):
        with self.assertRaisesRegex(
            ValueError, r"Use the whole path.*\['body/conv', 'head/conv'\]"
        ):
            SparsityPlan.explicit(zoo.make("nested"), {"conv": {}})

    def test_filters_of_a_pinned_layer(self):
        with self.assertRaisesRegex(
            ValueError, "Leave these .*'fc2': 'it is an output"
        ):
            SparsityPlan.explicit(
                zoo.make("lenet5"),
                {"fc1": {"filters": 0.5}, "fc2": {"filters": 0.5}},
            )

    @parameterized.parameters(0.25, 0.0)
    def test_conflicting_targets_in_a_group(self, other):
        with self.assertRaisesRegex(
            ValueError, "Give them the same, or name one of them only"
        ):
            SparsityPlan.explicit(
                zoo.make("residual"),
                {"stem": {"filters": 0.5}, "oneb": {"filters": other}},
            )

    @parameterized.parameters(0, -1, 1.5, "8")
    def test_round_to(self, value):
        with self.assertRaisesRegex(ValueError, "1 does not round"):
            SparsityPlan.uniform(chain(4, 2), 0.5, round_to=value)

    def test_unknown_target(self):
        with self.assertRaisesRegex(ValueError, r"Expected \['filters', "):
            SparsityPlan.explicit(chain(4, 2), {"d0": {"filter": 0.5}})

    def test_number_in_place_of_targets(self):
        with self.assertRaisesRegex(TypeError, "dict of targets for each"):
            SparsityPlan.explicit(chain(4, 2), {"d0": 0.5})

    def test_models_that_cannot_be_seen(self):
        with self.assertRaisesRegex(TypeError, "functional model"):
            SparsityPlan.uniform(Subclassed(), 0.5)
        with self.assertRaisesRegex(TypeError, "into a functional model"):
            SparsityPlan.uniform(layers.Dense(3), 0.5)
        with self.assertRaisesRegex(ValueError, "put a `keras.Input` first"):
            SparsityPlan.uniform(keras.Sequential([layers.Dense(3)]), 0.5)


class RefusalTest(parameterized.TestCase):
    def test_explicit_without_targets(self):
        with self.assertRaisesRegex(TypeError, "everywhere, use `uniform`"):
            SparsityPlan.explicit(zoo.make("mlp"), ["d0"])

    def test_load_of_something_else(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "other.json")
            with open(path, "w") as file:
                json.dump({"a": 1}, file)
            with self.assertRaisesRegex(ValueError, "`SparsityPlan.save`"):
                SparsityPlan.load(path)

    @parameterized.parameters(
        b"", b"[]", b"no JSON", b"\xff\xfe\x00", b'{"kernels": 3}'
    )
    def test_load_of_no_plan_and_no_masks(self, content):
        folder = self.enter_context(tempfile.TemporaryDirectory())
        path = os.path.join(folder, "x.json")
        with open(path, "wb") as file:
            file.write(content)
        with self.assertRaisesRegex(ValueError, "`SparsityPlan.save`"):
            SparsityPlan.load(path)
        with self.assertRaisesRegex(ValueError, "what `Masks.save` wrote"):
            Masks.load(path)

    def test_load_of_the_other_kind(self):
        model = chain(4, 2)
        folder = self.enter_context(tempfile.TemporaryDirectory())
        path = os.path.join(folder, "x.json")
        plan = SparsityPlan.uniform(model, 0.5)
        hard_prune(model, plan).save(path)
        with self.assertRaisesRegex(ValueError, "`keras_prm.Masks.load.'"):
            SparsityPlan.load(path)
        plan.save(path)
        with self.assertRaisesRegex(ValueError, "what `Masks.save` wrote"):
            Masks.load(path)

    def test_text_has_no_lines_that_say_nothing(self):
        model = chain(4, 4, 2)
        text = str(SparsityPlan.uniform(model, filters=0.5))
        self.assertNotIn("columns removed", text)
        some = {"d0": {"filters": 0.5}, "d1": {"columns": 0.5}}
        text = str(SparsityPlan.explicit(model, some))
        self.assertNotIn("d0/kernel", text)
        self.assertRegex(text, r"50% +\d  d1/kernel")


class UnreachedTest(parameterized.TestCase):
    @parameterized.parameters(
        (lambda: layers.ConvLSTM2D(8, 3, name="a"), (4, 8, 8, 1), 8),
        (lambda: _Separable(6, 3, name="a"), (8, 8, 2), 6),
        (lambda: _Depthwise(3, depth_multiplier=2, name="a"), (8, 8, 2), 4),
    )
    def test_counts_filters(self, make, shape, filters):
        inputs = keras.Input(shape)
        model = keras.Model(inputs, layers.Conv2D(2, 1)(make()(inputs)))
        plan = SparsityPlan.uniform(model, filters=0.5)
        found = [size for name, _, size in plan.skipped if name == "a"]
        self.assertEqual(found, [filters])


class _Separable(layers.SeparableConv2D):
    """Without a rule, as a subclass."""


class _Depthwise(layers.DepthwiseConv2D):
    """Without a rule, as a subclass."""


if __name__ == "__main__":
    absltest.main()
