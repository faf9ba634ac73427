"""What stays of the weights of one layer."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.analysis.liveness import Liveness
from keras_prm.analysis.trace import trace
from keras_prm.rebuild.layer_edits import KernelBox
from keras_prm.rebuild.narrowing import Narrowing
from keras_prm.rebuild.slim_weights import ModelArrays
from keras_prm.rebuild.slim_weights import SlimWeights
from tests.helpers import zoo


def network():
    """conv (2 of 3 filters live) -> conv -> dense."""
    inputs = x = keras.Input((6, 6, 2))
    x = layers.Conv2D(3, 3, padding="same", name="a", use_bias=False)(x)
    x = layers.Conv2D(4, 3, name="b")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    zoo.randomize(model)
    kernel = np.array(model.get_layer("a").kernel)
    kernel[..., 1] = 0.0
    model.get_layer("a").kernel.assign(kernel)
    return model


class SlimWeightsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.model = network()
        self.arrays = ModelArrays(Liveness(trace(self.model)))
        self.a, self.b = map(self.model.get_layer, "ab")

    def weights(self, layer, edits=(), amount=None, factors=None):
        return SlimWeights(layer, self.arrays, edits, amount, factors or {})

    def test_channels_that_go(self):
        kernel = np.array(self.b.kernel)
        found = self.weights(self.b).array(self.b.kernel)
        np.testing.assert_array_equal(found, kernel[:, :, [0, 2]])
        self.assertEqual(self.arrays.size(self.b.kernel, 2), 2)
        self.assertEqual(self.arrays.size(self.b.kernel, 0), 3)
        kept = self.weights(self.b).positions(self.b.kernel)
        self.assertEqual(
            [None if k is None else k.tolist() for k in kept][2:],
            [[0, 2], [0, 1, 2, 3]],
        )

    def test_what_is_added_to_the_bias_and_multiplied(self):
        amount = np.arange(4.0)
        factors = {id(self.b.bias): 2.0}
        found = self.weights(self.b, (), amount, factors).array(self.b.bias)
        expected = 2.0 * (np.array(self.b.bias) + amount)
        np.testing.assert_allclose(found, expected, rtol=1e-6)

    def test_a_box(self):
        window = (slice(1, 3), slice(0, 2))
        weights = self.weights(self.b, [KernelBox(window, {}, ())])
        kernel = np.array(self.b.kernel)[:, :, [0, 2]]
        found = weights.array(self.b.kernel)
        np.testing.assert_array_equal(found, kernel[1:3, 0:2])
        rows, columns, *_ = weights.positions(self.b.kernel)
        self.assertEqual((rows.tolist(), columns.tolist()), ([1, 2], [0, 1]))
        np.testing.assert_array_equal(
            weights.array(self.b.bias), np.array(self.b.bias)
        )
        extent = weights.extent(self.b.kernel)
        self.assertEqual(extent.after, (2, 2, 2, 4))

    def test_filters_that_go_by_an_edit(self):
        live = np.array([True, False, True, True])
        weights = self.weights(self.b, [Narrowing(live, np.zeros(4))])
        for variable in (self.b.kernel, self.b.bias):
            found = weights.array(variable)
            self.assertEqual(found.shape[-1], 3)
            np.testing.assert_array_equal(
                found, self.arrays(variable)[..., live]
            )
            kept = weights.positions(variable)[-1]
            self.assertEqual(kept.tolist(), [0, 2, 3])
        extent = weights.extent_of_output(
            (None, 4, 4, 4), [None] * 3 + [np.arange(4)]
        )
        self.assertEqual(extent.after[-1], 3)

    def test_initializers_give_the_final_values(self):
        weights = self.weights(self.b)
        give = weights.initializer("kernel_initializer")
        found = give((3, 3, 2, 4), "float32")
        np.testing.assert_array_equal(found, weights.array(self.b.kernel))
        self.assertIn(id(self.b.kernel), weights.given)
        # Of another variable nothing is known.
        zeros = keras.ops.convert_to_numpy(give((5,), "float32"))
        np.testing.assert_array_equal(zeros, np.zeros(5))
        self.assertEqual(weights.initializer("gate_initializer"), "zeros")

    def test_a_bias_that_is_new(self):
        amount = np.array([1.0, 2.0, 3.0])
        give = self.weights(self.a, (), amount).initializer("bias_initializer")
        np.testing.assert_array_equal(give((3,), "float32"), amount)


if __name__ == "__main__":
    absltest.main()
