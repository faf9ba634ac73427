"""The converter call and its errors."""

import keras
import numpy as np
from absl.testing import absltest
from keras import layers

from keras_prm import conversion
from tests import exporting
from tests import zoo


class ConversionTest(exporting.ExportTestCase):
    def setUp(self):
        super().setUp()
        self.needs_tensorflow()

    def assert_refused(self, message, model):
        view = keras.Model(model.inputs, model.outputs)
        settings = conversion.Settings()
        with self.assertRaisesRegex(ValueError, message):
            conversion.convert(view, self.path, settings, [])

    def test_operations_are_named(self):
        self.assert_refused(
            "'Erf'.*Use others", zoo.make("elementwise_operators")
        )
        self.assert_refused("AvgPool3D.*MaxPool3D", zoo.make("windows_3d"))

    def test_layers_are_named(self):
        """Even where TensorFlow's numbers look like other layers' names."""
        x = inputs = keras.Input((3,))
        x = layers.Dense(3, name="inner")(x)
        x = layers.Lambda(keras.ops.erfinv, name="inner_1")(x)
        inside = keras.Model(inputs, x, name="block")
        self.assert_refused(r"Erfinv \(inner_1\)", inside)
        inputs = keras.Input((3,))
        model = keras.Model(inputs, layers.Dense(2)(inside(inputs)))
        self.assert_refused(r"Erfinv \(block/inner_1\)", model)

    def test_what_else_the_converter_says(self):
        def fails(x):
            raise RuntimeError("this and that")

        model = exporting.layer_model(layers.Lambda(fails, lambda x: x))
        self.assert_refused(r"converter(.|\n)*this and that", model)

    def test_only_builtins(self):
        import tensorflow as tf

        function = tf.function(
            lambda x: tf.math.erf(x) + 1.0,
            input_signature=[tf.TensorSpec((None, 3), name="x")],
        )
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [function.get_concrete_function()], tf.Module()
        )
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS,
            tf.lite.OpsSet.SELECT_TF_OPS,
        ]
        self.path.write_bytes(converter.convert())
        message = r"Received: \['FlexErf'\], of \['ADD', 'FlexErf'\]. Use oth"
        with self.assertRaisesRegex(ValueError, message):
            conversion.check_builtins(self.path, "m")


class RowsTest(absltest.TestCase):
    def test_last_batch_starts_over(self):
        arrays = [np.arange(5), np.arange(10).reshape(5, 2)]
        found = list(conversion._rows(["a", "b"], arrays, 3))
        self.assertEqual(
            [x["a"].tolist() for x in found], [[0, 1, 2], [3, 4, 0]]
        )
        self.assertEqual(found[1]["b"].tolist(), [[6, 7], [8, 9], [0, 1]])

    def test_input_names(self):
        inputs = [keras.Input((3,), name=name) for name in ("b", "a b", "a_b")]
        model = keras.Model(inputs, layers.Add()(inputs))
        self.assertEqual(conversion.input_names(model), ["b", "a_b", "a_b_2"])


if __name__ == "__main__":
    absltest.main()
