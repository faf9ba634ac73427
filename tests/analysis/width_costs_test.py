"""Costs by widths: against `costs` of what `strip` leaves."""

import json
import pickle

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers
from keras import ops

import keras_prm
from keras_prm.analysis.width_costs import WidthCosts
from tests.helpers import zoo

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
FEW = ("lenet5", "residual", "grouped", "nested")
MODELS = zoo.MODELS if ON_TENSORFLOW else FEW


def stripped(model, plan):
    keras_prm.hard_prune(model, plan)
    return keras_prm.costs(keras_prm.strip(model))


def frozen_reader():
    """Of `a` a dead filter is 0.5, read by a frozen kernel at the border."""
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(8, 3, activation="sigmoid", name="a")(inputs)
    frozen = layers.Conv2D(6, 3, padding="same", name="b", trainable=False)
    x = layers.Conv2D(4, 1, name="c")(frozen(x))
    return keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x))


def unread():
    """Two of the eight channels of `a` are read by nobody."""
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 1, name="a")(inputs)[..., :6]
    x = layers.Conv2D(6, 1, name="b")(x)
    return keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x))


class WidthCostsTest(parameterized.TestCase):
    @parameterized.parameters(*MODELS)
    def test_strip_leaves_what_was_said(self, name):
        model = zoo.make(name)
        plan = keras_prm.SparsityPlan.uniform(model, filters=0.4)
        costs = plan.width_costs
        self.assertEqual(
            costs.whole(),
            {
                "parameters": keras_prm.costs(model).parameters,
                "macs": keras_prm.costs(model).macs,
                "conv_weights": keras_prm.costs(model).conv_parameters,
            },
        )
        if not plan.groups:
            return
        said = costs.at([group.keep for group in plan.groups])
        found = stripped(model, plan)
        if not costs.exact:  # it matters which filters stay
            self.assertIn(name, ("gathered_columns", "slices"))
            self.assertLess(abs(said["parameters"] / found.parameters - 1), 0.1)
            return
        self.assertEqual(said["parameters"], found.parameters)
        self.assertEqual(said["macs"], found.macs)
        self.assertEqual(said["conv_weights"], found.conv_parameters)

    def test_channels_that_cannot_be_taken_out_are_counted(self):
        model = frozen_reader()
        zoo.randomize(model)
        plan = keras_prm.SparsityPlan.uniform(model, filters=0.5)
        by_name = dict(zip([g.name for g in plan.groups], range(9)))
        self.assertEqual(plan.width_costs.stuck[by_name["a"]], 1.0)
        self.assertEqual(
            plan.costs().pruned["parameters"],
            (3 * 3 * 2 * 8 + 8 + 3 * 3 * 8 * 6 + 6 + 6 * 2 + 2 + 2 * 2 + 2),
        )
        found = stripped(model, plan)
        self.assertEqual(plan.costs().pruned["parameters"], found.parameters)

    def test_channels_that_nobody_reads_go_anyway(self):
        model = unread()
        zoo.randomize(model)
        plan = keras_prm.SparsityPlan.explicit(model, {"b": {"filters": 0.5}})
        found = stripped(model, plan)
        self.assertEqual(plan.costs().pruned["parameters"], found.parameters)
        self.assertEqual(plan.costs().pruned["macs"], found.macs)

    def test_lenet5_by_hand(self):
        plan = keras_prm.SparsityPlan.uniform(zoo.make("lenet5"))
        self.assertEqual([g.size for g in plan.groups], [])
        plan = keras_prm.SparsityPlan.uniform(zoo.make("lenet5"), filters=0.5)
        costs = plan.width_costs
        self.assertEqual(
            [g.name for g in plan.groups], ["conv1", "conv2", "fc1"]
        )
        a, b, c = 3, 6, 12
        conv = 25 * a + 25 * a * b
        dense = 16 * b * c + 10 * c
        self.assertEqual(
            costs.at([a, b, c]),
            {
                "parameters": conv + a + b + dense + c + 10,
                "macs": 24 * 24 * 25 * a + 8 * 8 * 25 * a * b + dense,
                "conv_weights": conv,
            },
        )

    def test_columns_count_by_share(self):
        model = zoo.make("lenet5")
        plan = keras_prm.SparsityPlan.explicit(
            model, {"conv2": {"filters": 0.5, "columns": 0.6}}
        )
        found = plan.costs().pruned
        self.assertEqual(found["conv_weights"], 25 * 20 + 25 * 20 * 25 * 0.4)
        milder = plan.at_share(0.5).costs().pruned
        self.assertEqual(
            milder["conv_weights"], 25 * 20 + round(25 * 20 * 38 * 0.7)
        )
        again = keras_prm.SparsityPlan.from_config(plan.get_config())
        self.assertEqual(again.at_share(0.5).costs().pruned, milder)

    def test_tensors_and_many_at_once(self):
        plan = keras_prm.SparsityPlan.uniform(zoo.make("residual"), filters=0.4)
        costs = plan.width_costs
        kept = np.array([group.keep for group in plan.groups], "float32")
        many = np.stack([kept, kept - 1])
        want = costs.evaluate(many)
        np.testing.assert_array_equal(want[1], costs.evaluate(kept - 1))
        tensor = ops.convert_to_tensor(many)
        found = ops.convert_to_numpy(costs.evaluate(tensor, ops))
        np.testing.assert_allclose(found, want, rtol=1e-5)

    def test_plain_data(self):
        plan = keras_prm.SparsityPlan.uniform(
            zoo.make("residual"), filters=0.4, columns=0.3
        )
        costs = plan.width_costs
        kept = [group.keep for group in plan.groups]
        text = json.dumps(costs.to_config())
        for other in (
            WidthCosts.from_config(json.loads(text)),
            pickle.loads(pickle.dumps(costs)),
        ):
            np.testing.assert_array_equal(
                other.evaluate(kept), costs.evaluate(kept)
            )
            self.assertEqual(other.to_config(), costs.to_config())

    def test_macs_of_free_sizes_are_unknown(self):
        inputs = keras.Input((None, None, 3))
        x = layers.Conv2D(8, 3, name="a")(inputs)
        model = keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x))
        plan = keras_prm.SparsityPlan.uniform(model, filters=0.5)
        self.assertIsNone(plan.costs().pruned["macs"])
        self.assertIn("inputs of any size", str(plan.costs()))
        self.assertIsNone(plan.costs().shares["macs"])


if __name__ == "__main__":
    absltest.main()
