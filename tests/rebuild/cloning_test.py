"""Configs that can be changed, and layers made of them."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.rebuild import cloning


class Plain(layers.Layer):
    """Has no `get_config`, and arguments that are attributes."""

    def __init__(self, units, scale=2.0, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.scale = scale


class Broken(layers.Layer):
    def get_config(self):
        raise RuntimeError("mine")


class Sharing(layers.Layer):
    """Its `from_config` hands on the very layer that the config has."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def build(self, shape):
        self.inner.build(shape)

    def get_config(self):
        return {**super().get_config(), "inner": self.inner}


class ConfigTest(parameterized.TestCase):
    def test_live_objects_stay(self):
        regularizer = keras.regularizers.L2(0.1)
        layer = layers.Dense(
            3, activation=lambda x: x, kernel_regularizer=regularizer
        )
        config = cloning.config_of(layer)
        self.assertIs(config["activation"], layer.activation)
        self.assertIs(config["kernel_regularizer"], regularizer)
        twin = cloning.copy_from_config(layer, {**config, "units": 2})
        self.assertEqual((twin.units, twin.name), (2, layer.name))
        self.assertIs(twin.activation, layer.activation)

    def test_arguments_that_keras_records(self):
        layer = Plain(4, scale=3.0, name="plain")
        twin = cloning.copy_from_config(layer, cloning.config_of(layer))
        self.assertEqual((twin.units, twin.scale), (4, 3.0))

    @parameterized.named_parameters(
        ("config", Broken, "Broken.*mine"),
        (
            "sharing",
            lambda: Sharing(layers.Dense(2)),
            "Sharing.*holds the very layer",
        ),
    )
    def test_what_cannot_be_copied(self, make, message):
        layer = make()
        if isinstance(layer, Sharing):
            layer.build((None, 3))
        with self.assertRaisesRegex(TypeError, f"Cannot copy.*{message}"):
            cloning.copy_from_config(layer, cloning.config_of(layer))

    def test_an_operation_made_with_arrays(self):
        x = keras.Input((4,))
        y = keras.ops.take(x, np.array([0, 2]), axis=1)
        operation = y._keras_history.operation
        twin = cloning.copy_from_config(operation, cloning.config_of(operation))
        self.assertIs(type(twin), type(operation))
        self.assertEqual(twin.axis, 1)

    def test_pairs_go_by_name_where_the_order_differs(self):
        one, other = layers.Dense(2), layers.Dense(2)
        for layer in (one, other):
            layer.build((None, 3))
        pairs = cloning.pairs(one.weights, other.weights[::-1])
        for source, target in pairs:
            self.assertEqual(source.name, target.name)

    def test_a_vocabulary_goes_along(self):
        layer = layers.StringLookup(vocabulary=["a", "b"])
        self.assertEqual(cloning.vocabulary(layer), {"vocabulary": ["a", "b"]})


if __name__ == "__main__":
    absltest.main()
