"""What each channel class is worth, by hand and by removing it."""

import json

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.analysis.channel_groups import ClassTable
from keras_prm.analysis.costs import costs
from keras_prm.analysis.explain import explain
from keras_prm.analysis.trace import trace
from keras_prm.rebuild.strip import strip
from tests.helpers import zeros
from tests.helpers import zoo

# Models in which other classes fall with one, since a product is zero.
FOLLOWED = ("slices",)


def rows_of(model):
    return {row.name: row for row in explain(model).rows}


def members_of(row):
    return {(m.key, m.axis): (m.side, m.positions) for m in row.members}


class CountsTest(parameterized.TestCase):
    def assertWorth(self, row, num_classes, weights, macs):
        self.assertEqual(row.num_classes, num_classes)
        self.assertEqual(row.weights_per_class, weights)
        self.assertEqual(row.macs_per_class, macs)

    def test_lenet5(self):
        rows = rows_of(zoo.make("lenet5"))
        self.assertEqual(
            list(rows), ["input of conv1", "conv1", "conv2", "fc1", "fc2"]
        )
        made, read = 5 * 5 * 1, 5 * 5 * 50
        self.assertWorth(
            rows["conv1"], 20, made + 1 + read, 24 * 24 * made + 8 * 8 * read
        )
        # Each channel of conv2 stands at 4 * 4 positions of the flat vector.
        made, read = 5 * 5 * 20, 4 * 4 * 500
        self.assertWorth(
            rows["conv2"], 50, made + 1 + read, 8 * 8 * made + read
        )
        self.assertWorth(rows["fc1"], 500, 4 * 4 * 50 + 1 + 10, 800 + 10)
        self.assertEqual(rows["fc1"].weights, 500 * (800 + 1 + 10))
        self.assertEqual(rows["fc1"].macs, 500 * (800 + 10))
        self.assertEqual(
            members_of(rows["conv2"]),
            {
                ("conv2/kernel", 3): ("out", 1),
                ("conv2/bias", 0): ("vector", 1),
                ("fc1/kernel", 0): ("in", 4 * 4),
            },
        )

    def test_what_is_pinned(self):
        rows = rows_of(zoo.make("lenet5"))
        reasons = {name: row.pinned for name, row in rows.items()}
        self.assertIn("output of the model", reasons["fc2"])
        self.assertIn("input of the model", reasons["input of conv1"])
        self.assertEqual([reasons[n] for n in ("conv1", "fc1")], ["", ""])
        self.assertEqual(rows["fc2"].weights, 500 * 10 + 10)

    def test_totals(self):
        found = explain(zoo.make("lenet5"))
        self.assertEqual(found.weights, 431080)
        # Nothing but the output's own bias belongs to no other channel.
        self.assertEqual(found.fixed, 10)
        self.assertEqual(found.prunable, 431080 - 10)
        self.assertEqual(found.skipped, ())

    def test_batch_norm(self):
        """Its statistics are stored, and go, too; c0 has no bias."""
        rows = rows_of(zoo.make("batch_norm"))
        made, read = 3 * 3 * 3, 8
        self.assertWorth(
            rows["c0"], 8, made + 4 + read, 12 * 12 * (made + read)
        )
        self.assertWorth(rows["c1"], 8, 8 + 3 + 5, 12 * 12 * 8 + 5)

    def test_a_residual_sum_is_one_row(self):
        """Three convolutions write its channels, four read them."""
        rows = rows_of(zoo.make("residual"))
        stem, blocks = 3 * 3 * 3 + 1, 2 * (3 * 3 * 8 + 1 + 4)
        read = 2 * (3 * 3 * 8) + 3 * 3 * 12 + 12
        self.assertEqual(
            rows["oneb+stem+twob"].weights_per_class, stem + blocks + read
        )
        self.assertEqual(
            rows["down+short"].weights_per_class, 72 + 1 + 8 + 1 + 4
        )

    def test_both_axes_of_one_kernel(self):
        """Where row and column of a class cross, an entry counts once."""
        x = inputs = keras.Input((4, 4, 3))
        x = layers.Conv2D(8, 1, use_bias=False, name="a")(x)
        y = layers.Conv2D(8, 3, padding="same", use_bias=False, name="b")(x)
        x = layers.Conv2D(2, 1, use_bias=False)(x + y)
        row = rows_of(keras.Model(inputs, x))["a+b"]
        square = 3 * 3 * (8 * 8 - 7 * 7)
        self.assertWorth(row, 8, 3 + square + 2, 4 * 4 * (3 + square + 2))
        self.assertEqual(row.weights, 3 * 8 + 3 * 3 * 8 * 8 + 8 * 2)

    def test_a_shared_layer_is_stored_once_and_computed_twice(self):
        row = rows_of(zoo.make("shared"))["conv"]
        made, read = 3 * 3 * 2, 5
        self.assertWorth(row, 6, made + 1 + read, 2 * 6 * 6 * (made + read))

    def test_grouped_and_depthwise(self):
        """Of g's 4 groups, each reads 2 filters of a and makes 3."""
        row = rows_of(zoo.make("grouped"))["a+g"]
        self.assertEqual(members_of(row)["a/kernel", 3], ("out", 2))
        self.assertEqual(members_of(row)["g/kernel", 3], ("out", 3))
        self.assertEqual(
            row.weights_per_class,
            2 * (4 + 1) + 3 * (3 * 3 * 2 + 1) + 3 * (3 * 3 * 3),
        )
        row = rows_of(zoo.make("depthwise"))["expand"]
        self.assertEqual(members_of(row)["dw/kernel", 2], ("in", 1))
        self.assertEqual(
            row.weights_per_class, (3 + 1) + 2 * (3 * 3 + 1) + 2 * 8
        )

    def test_channels_that_are_positions_of_another_product(self):
        """b is applied at every channel of a: without one, once less."""
        x = inputs = keras.Input((5, 3))
        x = layers.Dense(4, name="a")(x)
        x = layers.Dense(6, name="b")(layers.Permute((2, 1))(x))
        x = layers.Dense(2, name="c")(layers.Permute((2, 1))(x))
        rows = rows_of(keras.Model(inputs, x))
        self.assertWorth(rows["a"], 4, 3 + 1 + 2, 5 * 3 + 5 * 6 + 6 * 2)

    def test_unknown_size(self):
        x = inputs = keras.Input((None, None, 3))
        x = layers.Conv2D(2, 1, name="b")(layers.Conv2D(4, 1, name="a")(x))
        found = explain(keras.Model(inputs, x))
        row = found.rows[1]
        self.assertWorth(row, 4, 3 + 1 + 2, None)
        self.assertIsNone(row.macs)
        self.assertIsNone(found.macs)
        self.assertIn("   ?   ", str(found))


class RowsTest(parameterized.TestCase):
    def test_pinned_and_free_classes_do_not_share_a_row(self):
        """One BatchNorm over the input's channels and a convolution's."""
        inputs = keras.Input((4, 4, 3))
        x = layers.Conv2D(5, 1, name="a")(inputs)
        x = layers.BatchNormalization(name="bn")(
            layers.Concatenate()([inputs, x])
        )
        found = explain(keras.Model(inputs, layers.Conv2D(2, 1, name="b")(x)))
        self.assertEqual(
            [(r.name, r.num_classes, bool(r.pinned)) for r in found.rows],
            [("input of a+b+bn", 3, True), ("a", 5, False), ("b", 2, True)],
        )
        # What touches no filter of a: bn and b's bias for the others.
        self.assertEqual(found.fixed, 3 * 4 + 3 * 2 + 2)

    def test_classes_at_different_numbers_of_positions(self):
        """The reader has two rows for each channel of a, one for one of b."""
        rows = rows_of(zoo.make("branches"))
        self.assertEqual(members_of(rows["a"])["c/kernel", 2], ("in", 2))
        self.assertEqual(members_of(rows["b"])["c/kernel", 2], ("in", 1))

    def test_layers_without_a_rule(self):
        found = explain(zoo.make("unknown_layers"))
        self.assertEqual(found.prunable, 0)
        self.assertIn(("double", "no rule for Lambda"), found.skipped)
        text = str(found)
        self.assertStartsWith(text, "No channel can go.")
        self.assertIn("b: 'double': no rule for Lambda", text)
        self.assertIn("left alone: double: no rule for Lambda", text)

    def test_a_model_without_weights(self):
        inputs = keras.Input((3,))
        found = explain(keras.Model(inputs, layers.ReLU()(inputs)))
        self.assertEqual((found.rows, found.weights, found.macs), ((), 0, 0))
        self.assertStartsWith(str(found), "No channel can go.")

    def test_notes_say_what_a_plan_leaves_alone(self):
        x = inputs = keras.Input((4,))
        for units, name in ((3, "a"), (1, "b"), (5, "c"), (2, "d")):
            x = layers.Dense(units, name=name)(x)
        model = keras.Model(inputs, x)
        model.get_layer("a").trainable = False
        rows = rows_of(model)
        self.assertEqual(rows["a"].note, "['a/kernel'] is not trainable")
        self.assertEqual(rows["b"].note, "too few to remove one")
        self.assertEqual(rows["c"].note, "")
        self.assertIn("a: ['a/kernel'] is not", str(explain(model)))

    def test_table(self):
        """Rows as in `test_a_residual_sum_is_one_row`."""
        lines = str(explain(zoo.make("residual"))).split("\n")
        self.assertEqual(
            [line.split() for line in lines[:3]],
            [
                "classes weights each MACs each weights share made by".split(),
                "8 446 22,080 3,568 95.8% oneb + stem + 1 more".split(),
                "8 149 9,216 1,192 32.0% onea".split(),
            ],
        )
        self.assertEndsWith(lines[-2], "52  out: it is an output of the model")
        self.assertIn("3,724, of which 3,720 (99.9%)", lines[-1])

    def test_data(self):
        found = explain(zoo.make("lenet5"))
        data = json.loads(json.dumps(found.to_dict()))
        self.assertEqual(data, found.to_dict())
        self.assertEqual(data["weights"], 431080)
        self.assertEqual(data["rows"][1]["weights_per_class"], 1276)
        self.assertEqual(
            data["rows"][1]["members"][0],
            {"key": "conv1/kernel", "axis": 3, "side": "out", "positions": 1},
        )

    def test_a_model_that_cannot_be_traced(self):
        class Subclassed(keras.Model):
            def call(self, x):
                return x

        with self.assertRaisesRegex(TypeError, "functional"):
            explain(Subclassed())
        with self.assertRaisesRegex(ValueError, "keras.Input"):
            explain(keras.Sequential([layers.Dense(3)]))


class ZooTest(parameterized.TestCase):
    @parameterized.parameters(*zoo.MODELS)
    def test_what_strip_removes(self, name):
        """One class of a row, all its weights 0: just these must go.

        Of many rows, a dozen.
        """
        model = zoo.make(name)
        table = ClassTable(trace(model))
        weights, before = model.get_weights(), costs(model)
        free = [
            (number, row)
            for number, row in enumerate(explain(model).rows)
            if not row.pinned and row.num_classes > 1
        ]
        for number, row in free[:: -(-len(free) // 12) or 1]:
            zero_class(table, list(table.labels).index(number))
            after = costs(strip(model))
            if name in FOLLOWED:
                self.assertGreaterEqual(
                    before.parameters - after.parameters,
                    row.weights_per_class,
                )
                model.set_weights(weights)
                continue
            self.assertEqual(
                before.parameters - after.parameters,
                row.weights_per_class,
                row.name,
            )
            self.assertEqual(
                before.macs - after.macs, row.macs_per_class, row.name
            )
            model.set_weights(weights)

    @parameterized.parameters(*zoo.MODELS)
    def test_rows_and_totals(self, name):
        model = zoo.make(name)
        found = explain(model)
        self.assertEqual(found.weights, model.count_params())
        self.assertEqual(found.macs, costs(model).macs)
        free = [row for row in found.rows if not row.pinned]
        self.assertLessEqual(found.prunable, sum(row.weights for row in free))
        for row in found.rows:
            self.assertLessEqual(
                row.weights, row.num_classes * row.weights_per_class
            )
            self.assertLessEqual(row.weights, found.weights)


def zero_class(table, number):
    """Sets all weights of one channel class to 0."""
    for weight, box in zip(table.graph.weights.values(), table.weights):
        for axis, classes in box.classes.items():
            every = [slice(None)] * len(box.shape)
            every[axis] = np.flatnonzero(classes == number)
            zeros.edit(weight.variable, *every)


if __name__ == "__main__":
    absltest.main()
