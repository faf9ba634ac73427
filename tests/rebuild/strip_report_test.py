"""What `strip` reports, above all which positions of each weight stay."""

import json

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.rebuild.strip import strip
from keras_prm.utils import variable_keys
from tests.helpers import zoo
from tests.helpers.zeros import borders
from tests.helpers.zeros import classes
from tests.helpers.zeros import edit
from tests.helpers.zeros import zero_filters


def read(variable):
    return keras.ops.convert_to_numpy(variable)


class KeptTest(parameterized.TestCase):
    @parameterized.product(name=tuple(zoo.MODELS), pattern=(classes, borders))
    def test_takes_the_new_weights_out_of_the_old(self, name, pattern):
        model = zoo.make(name)
        pattern(model, np.random.default_rng(0))
        small, report = strip(model, return_report=True)
        old = variable_keys.variables_by_key(model)
        new = variable_keys.variables_by_key(small)
        self.assertNotEmpty(report.kept)
        for key, positions in report.kept.items():
            array = read(old[key])
            for axis, at in enumerate(positions):
                if at is not None:
                    array = np.take(array, at, axis)
            self.assertEqual(array.shape, tuple(new[key].shape), key)
            if not key.endswith("bias"):  # it takes up constants
                np.testing.assert_allclose(array, read(new[key]), atol=1e-6)

    def test_by_hand(self):
        inputs = keras.Input((8, 8, 3))
        x = layers.Conv2D(4, 3, padding="same", name="a")(inputs)
        x = layers.BatchNormalization(name="bn")(x)
        x = layers.Conv2D(5, 1, name="b")(x)
        model = keras.Model(inputs, layers.Conv2D(2, 1, name="c")(x))
        zoo.randomize(model)
        zero_filters(model, a=[1, 3], b=[0])
        edit(model.get_layer("a").kernel, 0)  # the first row of the window
        _, report = strip(model, return_report=True)
        self.assertEqual(report.kept_channels, {"a": (0, 2), "b": (1, 2, 3, 4)})
        self.assertEqual(report.kept["a/kernel"], ((1, 2), None, None, (0, 2)))
        self.assertEqual(report.kept["bn/gamma"], ((0, 2),))
        self.assertEqual(
            report.kept["b/kernel"], (None, None, (0, 2), (1, 2, 3, 4))
        )
        self.assertEqual(report.kept["c/bias"], (None,))
        for data in (report.kept, report.kept_channels):
            self.assertEqual(len(json.loads(json.dumps(data))), len(data))

    def test_channels_of_other_kernels(self):
        x = inputs = keras.Input((6, 3))
        x = layers.Conv1D(4, 1, name="a")(x)
        x = layers.DepthwiseConv1D(2, depth_multiplier=2, name="dw")(x)
        x = layers.SeparableConv1D(5, 2, name="sep")(x)
        x = layers.Bidirectional(layers.GRU(4, name="gru"), name="both")(x)
        model = keras.Model(inputs, layers.Dense(2, name="out")(x))
        zoo.randomize(model)
        edit(model.get_layer("a").kernel, ..., [1, 2])
        edit(model.get_layer("a").bias, [1, 2])
        edit(model.get_layer("dw").bias, [2, 3, 4, 5])
        edit(model.get_layer("out").kernel, [0, 3, 4, 7])
        for name in ("forward_layer", "backward_layer"):
            layer = getattr(model.get_layer("both"), name)
            edit(layer.cell.recurrent_kernel, [0, 3])
        small, report = strip(model, return_report=True)
        self.assertEqual(
            report.kept_channels,
            {
                "a": (0, 3),
                "dw": (0, 1, 6, 7),
                "both/forward_gru": (1, 2),
                "both/backward_gru": (1, 2),
            },
        )

    def test_a_layer_that_is_gone_has_no_entry(self):
        inputs = keras.Input((4,))
        x = layers.Dense(3, name="a")(inputs)
        y = layers.Dense(3, name="b")(inputs)
        z = layers.Dense(2, name="out")(layers.Add()([x, y]))
        model = keras.Model(inputs, z)
        zoo.randomize(model)
        edit(model.get_layer("b").kernel, ...)
        edit(model.get_layer("b").bias, ...)
        _, report = strip(model, return_report=True)
        self.assertNotIn("b/kernel", report.kept)
        self.assertIn("a/kernel", report.kept)


if __name__ == "__main__":
    absltest.main()
