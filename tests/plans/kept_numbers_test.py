"""Tests of plans by the numbers of filters and columns that stay."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

import keras_prm
from examples.common import networks
from keras_prm.plans.plan import SparsityPlan
from tests.helpers import phased
from tests.helpers import zoo


def live(model, name):
    """How many filters and columns of a layer are not zero."""
    kernel = keras.ops.convert_to_numpy(model.get_layer(name).kernel) != 0
    kernel = kernel.reshape(-1, kernel.shape[-1])
    return int(kernel.any(axis=0).sum()), int(kernel.any(axis=1).sum())


class KeptNumbersTest(parameterized.TestCase):
    def test_residual_network(self):
        model = networks.resnet18((8, 8, 3), 10, 8)
        zoo.randomize(model)
        keep = {
            "stem": [6, None],
            "stage1_*_conv1": [5, 40],
            "stage1_*_conv2": [None, 21],
            "stage2_block2_conv2": [7, 13],
            "stage2_*_conv[12]": [7, 30],
        }
        keras_prm.hard_prune(model, SparsityPlan.keep(model, keep))
        found = {
            layer.name: live(model, layer.name)
            for layer in model.layers
            if hasattr(layer, "kernel")
        }
        # A shortcut and a sum have the channels of the layers they stand by.
        self.assertEqual(found["stem"], (6, 27))
        self.assertEqual(found["stage1_block1_conv1"], (5, 40))
        self.assertEqual(found["stage1_block2_conv2"], (6, 21))
        self.assertEqual(found["stage2_block1_conv1"], (7, 30))
        self.assertEqual(found["stage2_block1_shortcut"], (7, 6))
        self.assertEqual(found["stage2_block2_conv2"], (7, 13))
        self.assertEqual(found["stage3_block1_conv1"], (32, 9 * 7))

    def test_what_has_less_keeps_all(self):
        model = networks.lenet5((28, 28, 1), 10)
        zoo.randomize(model)
        keep = {"conv1": [99, 999], "conv2": [3, 9999]}
        keras_prm.hard_prune(model, SparsityPlan.keep(model, keep))
        self.assertEqual(live(model, "conv1"), (20, 25))
        self.assertEqual(live(model, "conv2"), (3, 500))

    def test_pattern(self):
        model = networks.lenet5((28, 28, 1), 10)
        plan = SparsityPlan.keep(model, {"conv2": [None, 100]}, "per_channel")
        pattern = {k.key: k.column_pattern for k in plan.kernels}
        self.assertEqual(pattern["conv2/kernel"], "per_channel")

    def test_a_pattern_that_names_nothing(self):
        model = networks.lenet5((28, 28, 1), 10)
        with self.assertRaisesRegex(ValueError, r"\['conv3'\].*'conv1'"):
            SparsityPlan.keep(model, {"conv3": [1, None], "conv*": [2, None]})

    def test_a_layer_that_pruning_took_out_may_be_named(self):
        network = phased.tiny((8, 8, 3), 3)
        network.get_layer("conv1").kernel.assign(np.zeros((3, 3, 8, 8)))
        network.get_layer("conv2").kernel.assign(np.zeros((1, 1, 8, 8)))
        model = keras_prm.strip(network)
        keep = {"stem": [4, None], "conv1": [4, None]}
        with self.assertRaisesRegex(ValueError, r"\['conv1'\].*'stem'"):
            SparsityPlan.keep(model, keep)
        found = SparsityPlan.keep(model, keep, network=network)
        keras_prm.hard_prune(model, found)
        self.assertEqual(live(model, "stem")[0], 4)

    def test_layers_inside_of_others_are_named_by_their_end_or_path(self):
        inner = keras.Input((6, 6, 3))
        x = layers.Conv2D(8, 3, name="conv1")(inner)
        x = layers.Conv2D(6, 1, name="conv2")(x)
        backbone = keras.Model(inner, x, name="backbone")
        inputs = keras.Input((6, 6, 3))
        x = layers.GlobalAveragePooling2D()(backbone(inputs))
        model = keras.Model(inputs, layers.Dense(2, name="logits")(x))
        zoo.randomize(model)
        by_end = SparsityPlan.keep(model, {"conv1": (3, 20)})
        by_path = SparsityPlan.keep(model, {"backbone/conv1": (3, 20)})
        self.assertEqual(by_end, by_path)
        keras_prm.hard_prune(model, by_end)
        self.assertEqual(live(backbone, "conv1"), (3, 20))
        self.assertEqual(live(backbone, "conv2"), (6, 3))

    def test_is_explicit_with_the_fractions(self):
        model = zoo.make("lenet5")
        self.assertEqual(
            SparsityPlan.keep(model, {"conv1": (15, None)}),
            SparsityPlan.explicit(model, {"conv1": {"filters": 0.25}}),
        )

    def test_gates_count_as_one_filter(self):
        inputs = keras.Input((4, 3))
        x = layers.LSTM(8, name="lstm")(inputs)
        model = keras.Model(inputs, layers.Dense(2)(x))
        plan = SparsityPlan.keep(model, {"lstm": (3, None)})
        self.assertEqual([(g.keep, g.size) for g in plan.groups], [(3, 8)])

    def test_a_name_that_is_a_pattern_too(self):
        inputs = keras.Input((4,))
        x = layers.Dense(8, name="w[1]*")(layers.Dense(8, name="w1")(inputs))
        model = keras.Model(inputs, layers.Dense(2)(x))
        wanted = {"w[1]*": (4, None)}
        (group,) = SparsityPlan.keep(model, wanted).groups
        self.assertEqual((group.name, group.keep), ("w[1]*", 4))
        wanted = {"w[1]*": (4, None), "w*": (6, None)}
        groups = SparsityPlan.keep(model, wanted).groups
        kept = {group.name: group.keep for group in groups}
        self.assertEqual(kept, {"w1": 6, "w[1]*": 4})

    @parameterized.parameters(
        ({1: (4, None)}, TypeError, r"names of layers.*Received: \[1\]"),
        ([("conv1", 3)], TypeError, "a dict such as"),
        ({"conv1": 3}, TypeError, "None for all of them.*'conv1': 3"),
        ({"conv1": (3,)}, TypeError, "as a pair"),
        ({"conv1": (0.5, None)}, TypeError, "as a pair.*0.5"),
        ({"conv1": (True, None)}, TypeError, "as a pair.*True"),
        ({"conv1": (0, None)}, ValueError, "delete it from the model"),
        ({"conv1": (None, -1)}, ValueError, "delete it from the model"),
        ({"logits": (3, None)}, ValueError, "Leave these layers' `filters`"),
    )
    def test_what_cannot_be_kept(self, layers, error, message):
        model = networks.lenet5((28, 28, 1), 10)
        with self.assertRaisesRegex(error, message):
            SparsityPlan.keep(model, layers)


if __name__ == "__main__":
    absltest.main()
