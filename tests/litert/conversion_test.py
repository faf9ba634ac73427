"""The converter call and its errors."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.litert import conversion
from keras_prm.litert.model import LiteRTModel
from keras_prm.rebuild.strip import strip
from tests.helpers import exporting
from tests.helpers import zoo


class ConversionTest(exporting.ExportTestCase):
    def setUp(self):
        super().setUp()
        self.needs_tensorflow()

    def assert_refused(self, message, model):
        view = keras.Model(model.inputs, model.outputs)
        settings = conversion.Settings()
        with self.assertRaisesRegex(ValueError, message):
            conversion.convert(view, self.path, settings, [])

    @parameterized.parameters("class", "self", "None", "é", "_a", "1a", "a|b")
    def test_names_that_are_no_names_of_arguments(self, name):
        inputs = keras.Input((3,), name=name)
        model = keras.Model(inputs, 2.0 * inputs)
        conversion.convert(model, self.path, conversion.Settings(), [])
        found = LiteRTModel(self.path).input_names
        self.assertEqual(found, conversion.input_names(model))

    def test_only_recurrent_layers_are_told_to_unroll(self):
        text = "error: 'tf.Erfinv' op is neither a custom op nor a flex op"
        model = exporting.dense_model()
        self.assertEndsWith(conversion._reason(text, model), "of the model.")
        text = text.replace("Erfinv", "TensorListReserve")
        self.assertEndsWith(conversion._reason(text, model), "`unroll=True`.")

    def test_operations_are_named(self):
        self.assert_refused(
            r"'Erf .erf(_\d+)?.'.*Use others", zoo.make("elementwise_operators")
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

    @parameterized.parameters("normal", "uniform", "truncated_normal")
    def test_random_layers_are_named(self, name):
        """And no operation, since nobody wrote any."""
        draw = getattr(keras.random, name)
        inputs = keras.Input((3,))
        x = layers.Lambda(lambda x: x + draw(keras.ops.shape(x)), name="noise")(
            inputs
        )
        inside = keras.Model(inputs, x, name="block")
        model = keras.Model(inputs, layers.Dense(2)(inside(inputs)))
        self.assert_refused(
            r"(?s)^((?!Stateless).)*by the layers \['block/noise'\].*take them "
            "as an input",
            model,
        )

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
        found = list(conversion._sample_batches(["a", "b"], arrays, 3))
        self.assertEqual(
            [x["a"].tolist() for x in found], [[0, 1, 2], [3, 4, 0]]
        )
        self.assertEqual(found[1]["b"].tolist(), [[6, 7], [8, 9], [0, 1]])

    def test_input_names(self):
        inputs = [keras.Input((3,), name=name) for name in ("b", "a b", "a_b")]
        model = keras.Model(inputs, layers.Add()(inputs))
        self.assertEqual(conversion.input_names(model), ["b", "a_b", "a_b_2"])

    def test_input_names_differ(self):
        names = ("a b", "a_b", "a_b_1")
        inputs = [keras.Input((3,), name=name) for name in names]
        model = keras.Model(inputs, layers.Add()(inputs))
        self.assertLen(set(conversion.input_names(model)), 3)

    def test_copies_have_the_same_input_names(self):
        inputs = [keras.Input((3,)), keras.Input((3,))]
        model = keras.Model(inputs, layers.Add()(inputs))
        copies = model.from_config(model.get_config()), strip(model)
        for copy in copies:
            self.assertEqual(
                conversion.input_names(copy), conversion.input_names(model)
            )


if __name__ == "__main__":
    absltest.main()
