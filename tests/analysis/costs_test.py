"""Counting weights and multiply-accumulates."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.analysis.costs import costs
from keras_prm.analysis.costs import saved_bytes
from keras_prm.analysis.explain import explain
from tests.helpers import zoo


class CostsTest(parameterized.TestCase):
    def test_lenet5(self):
        conv = 5 * 5 * 1 * 20 + 5 * 5 * 20 * 50
        dense = 4 * 4 * 50 * 500 + 500 * 10
        found = costs(zoo.make("lenet5"))
        self.assertEqual(conv, 25500)
        self.assertEqual(found.conv_parameters, conv)
        self.assertEqual(found.conv_weights, conv)
        self.assertEqual(found.parameters, conv + 20 + 50 + dense + 500 + 10)
        self.assertEqual(found.parameters, 431080)
        self.assertEqual(found.weights, 431080)
        self.assertEqual(found.kernel_weights, conv + dense)
        self.assertEqual(
            found.macs,
            24 * 24 * (5 * 5 * 1 * 20) + 8 * 8 * (5 * 5 * 20 * 50) + dense,
        )

    def test_zeros_are_stored_and_computed_but_not_counted(self):
        model = zoo.make("lenet5")
        before = costs(model)
        layer = model.get_layer("conv2")
        kernel = np.array(keras.ops.convert_to_numpy(layer.kernel))
        kernel[..., :7] = 0
        layer.kernel.assign(kernel)
        after = costs(model)
        gone = 5 * 5 * 20 * 7
        self.assertEqual(after.conv_weights, before.conv_weights - gone)
        self.assertEqual(after.weights, before.weights - gone)
        self.assertEqual(after.kernel_weights, before.kernel_weights - gone)
        self.assertEqual(after.conv_parameters, before.conv_parameters)
        self.assertEqual(after.parameters, before.parameters)
        self.assertEqual(after.macs, before.macs)

    def test_depthwise_separable_and_grouped(self):
        x = inputs = keras.Input((8, 8, 4))
        x = layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)(x)
        x = layers.SeparableConv2D(6, 3, use_bias=False)(x)
        x = layers.Conv2D(4, 1, groups=2, use_bias=False)(x)
        found = costs(keras.Model(inputs, x))
        depthwise, separable, pointwise = 3 * 3 * 4 * 2, 3 * 3 * 8, 8 * 6
        grouped = 3 * 4
        self.assertEqual(
            found.conv_parameters, depthwise + separable + pointwise + grouped
        )
        self.assertEqual(
            found.macs,
            6 * 6 * depthwise + 4 * 4 * (separable + pointwise + grouped),
        )

    def test_a_shared_layer_is_stored_once_and_computed_twice(self):
        shared = layers.Dense(3, use_bias=False)
        u, v = keras.Input((3,)), keras.Input((3,))
        found = costs(keras.Model([u, v], [shared(u), shared(v)]))
        self.assertEqual(found.parameters, 3 * 3)
        self.assertEqual(found.macs, 2 * 3 * 3)
        self.assertEqual(found.conv_parameters, 0)

    @parameterized.parameters(
        (lambda: layers.Dense(4), (5, 3), 5 * 3 * 4),
        (lambda: layers.Conv1D(4, 1), (5, 7, 3), 5 * 7 * 3 * 4),
        (lambda: layers.GRU(4), (5, 7, 3), 5 * 7 * (3 + 4) * 3 * 4),
    )
    def test_as_often_as_it_is_called(self, make, shape, macs):
        inputs = keras.Input(shape)
        x = layers.TimeDistributed(make())(inputs)
        model = keras.Model(inputs, x)
        self.assertEqual(costs(model).macs, macs)
        self.assertEqual(explain(model).macs, macs)
        inputs = keras.Input((None, 3))
        x = layers.TimeDistributed(layers.Dense(4))(inputs)
        self.assertIsNone(costs(keras.Model(inputs, x)).macs)

    def test_what_is_not_looked_into(self):
        inner = keras.Sequential(
            [keras.Input((8, 8, 3)), layers.Conv2D(6, 3, use_bias=False)]
        )
        inputs = keras.Input((8, 8, 3))
        found = costs(keras.Model(inputs, inner(inputs, training=True)))
        self.assertEqual(found.conv_parameters, 162)
        self.assertEqual(found.macs, 6 * 6 * 162)

        class Mine(layers.Conv2D):
            pass

        found = costs(keras.Model(inputs, Mine(3, 2)(inputs)))
        self.assertIsNone(found.macs)

    def test_convolutions_of_ones_own(self):
        class Mine(layers.Conv2D):
            pass

        inputs = keras.Input((4, 4, 2))
        found = costs(keras.Model(inputs, Mine(3, 2)(inputs)))
        self.assertEqual(found.conv_parameters, 2 * 2 * 2 * 3)

    def test_unknown_size(self):
        x = inputs = keras.Input((None, None, 3))
        x = layers.Conv2D(2, 1)(x)
        self.assertIsNone(costs(keras.Model(inputs, x)).macs)

    def test_saved_bytes_leave_out_the_optimizer(self):
        model = zoo.make("mlp")
        before = saved_bytes(model)
        model.compile("adam", "mse")
        model.fit(np.ones((2, 12)), np.ones((2, 3)), verbose=0)
        self.assertAlmostEqual(saved_bytes(model), before, delta=200)
        self.assertGreater(before, 4 * model.count_params())


if __name__ == "__main__":
    absltest.main()
