"""What a constant becomes on its way through layers."""

import math

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.dependency import constants

NAN = np.nan
VALUES = np.array([-2.0, NAN, 0.0, 0.0, 0.5, 3.0])


class ActivationTest(parameterized.TestCase):
    @parameterized.parameters(
        ("sigmoid", 0.5),
        ("relu", 0.0),
        ("softplus", math.log(2)),
        ("exponential", 1.0),
        (layers.ReLU(negative_slope=0.1, threshold=1.0), -0.1),
        (layers.ReLU(max_value=2.0), 0.0),
        (layers.LeakyReLU(0.3), 0.0),
        (layers.Activation("sigmoid"), 0.5),
    )
    def test_of_zero(self, activation, expected):
        function = constants.activation_map(keras.activations.get(activation))
        found = function(np.array([0.0, NAN]))
        self.assertAlmostEqual(found[0], expected, 6)
        self.assertTrue(np.isnan(found[1]))

    @parameterized.parameters(*constants._ELEMENTWISE)
    def test_every_name_is_an_elementwise_activation(self, name):
        activation = getattr(keras.activations, name)
        self.assertTrue(constants.is_elementwise(activation))
        known = VALUES[~np.isnan(VALUES)].astype("float32")
        apart = [float(activation(known[i : i + 1])[0]) for i in range(5)]
        found = constants.activation_map(activation)(VALUES)
        np.testing.assert_allclose(found[~np.isnan(VALUES)], apart, rtol=1e-6)
        self.assertTrue(np.isnan(found[1]))

    @parameterized.parameters(
        keras.activations.softmax,
        keras.activations.log_softmax,
        keras.activations.glu,
        layers.Softmax(),
        layers.PReLU(),
        layers.Activation("softmax"),
        lambda x: x,
    )
    def test_others_are_not(self, activation):
        self.assertFalse(constants.is_elementwise(activation))
        self.assertTrue(
            np.isnan(constants.activation_map(activation)(VALUES)).all()
        )

    def test_no_activation_keeps_everything(self):
        for activation in (None, keras.activations.linear):
            np.testing.assert_array_equal(
                constants.activation_map(activation)(VALUES), VALUES
            )

    def test_a_result_that_is_not_finite_is_not_constant(self):
        found = constants.evaluate(lambda x: 1.0 / x, np.array([0.0, 2.0]))
        np.testing.assert_array_equal(found, [NAN, 0.5])

    def test_evaluates_each_value_once(self):
        seen = []

        def function(x):
            seen.extend(np.asarray(x))
            return -x

        found = constants.evaluate(function, VALUES)
        np.testing.assert_array_equal(found, -VALUES)
        self.assertEqual(seen, [-2.0, 0.0, 0.5, 3.0])


class JoinTest(parameterized.TestCase):
    @parameterized.parameters(
        (constants.add, [3.0, NAN, NAN, NAN]),
        (constants.subtract, [-1.0, NAN, NAN, NAN]),
        (constants.multiply, [2.0, 0.0, NAN, 0.0]),
        (constants.average, [1.5, NAN, NAN, NAN]),
        (constants.maximum, [2.0, NAN, NAN, NAN]),
        (constants.minimum, [1.0, NAN, NAN, NAN]),
    )
    def test_two(self, join, expected):
        """Only zero decides a product alone."""
        left, right = np.array([[1.0, 0.0, 1.0, NAN], [2.0, NAN, NAN, 0.0]])
        np.testing.assert_array_equal(join(left, right), expected)

    def test_three(self):
        parts = np.array([[1.0, 5.0], [2.0, NAN], [6.0, 0.0]])
        np.testing.assert_array_equal(constants.average(*parts), [3.0, NAN])
        np.testing.assert_array_equal(constants.multiply(*parts), [12.0, 0.0])

    def test_padding_and_the_unknown(self):
        np.testing.assert_array_equal(
            constants.zero_stays(VALUES), [NAN, NAN, 0.0, 0.0, NAN, NAN]
        )
        self.assertTrue(np.isnan(constants.unknown(VALUES, VALUES)).all())


class NormalizationTest(parameterized.TestCase):
    @parameterized.product(scale=(True, False), center=(True, False))
    def test_is_what_the_layer_computes(self, scale, center):
        layer = layers.BatchNormalization(scale=scale, center=center)
        layer.build((None, 3))
        rng = np.random.default_rng(0)
        for variable in layer.weights:
            variable.assign(rng.uniform(0.5, 2.0, 3))
        a, b = constants.normalized(layer)(keras.ops.convert_to_numpy)
        x = rng.normal(size=(4, 3)).astype("float32")
        np.testing.assert_allclose(layer(x), a * x + b, atol=1e-6)


if __name__ == "__main__":
    absltest.main()
