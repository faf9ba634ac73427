"""What `export_litert` refuses at once. No TensorFlow needed."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.litert import export_checks
from tests.helpers import exporting
from tests.helpers.exporting import dense_model

X = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")


class ArgumentsTest(exporting.ExportTestCase):
    def test_wrong_arguments(self):
        model = dense_model()
        for message, args in {
            "a path that ends in `.tflite`": (self.folder / "model.onnx",),
            "Choose None or one of .*float16": (self.path, "int4"),
            "Pass some hundred typical": (self.path, "int8"),
            "Pass quantize='int8'": (self.path, None, None, True, None, True),
        }.items():
            self.assert_refused(message, model, *args)

    @parameterized.parameters(-1.0, np.nan, "0.1", True)
    def test_tolerance(self, tolerance):
        self.assert_refused(
            "Pass None for the default",
            dense_model(),
            self.path,
            tolerance=tolerance,
        )

    def test_types(self):
        for message, kwargs in {
            "filepath=3. Choose a path": {"filepath": 3},
            "filepath=b'a'. Choose a path": {"filepath": b"a"},
            "Pass False to write": {"filepath": self.path, "check": "no"},
            "Pass an array, or batches": {
                "filepath": self.path,
                "representative_data": 5,
            },
            "Pass a tuple of arrays": {
                "filepath": self.path,
                "evaluation_data": 5,
            },
        }.items():
            self.assert_refused(
                message, dense_model(), error=TypeError, **kwargs
            )

    def test_quantize(self):
        for mode in ("", "INT8", 8, ["int8"], True):
            self.assert_refused(
                "Choose None or one", dense_model(), self.path, mode
            )

    def test_batch_size_of_numpy(self):
        size = export_checks.batch_size(dense_model(), np.int64(4))
        self.assertEqual((size, type(size)), (4, int))

    def test_path_is_a_folder(self):
        folder = self.folder / "folder.tflite"
        folder.mkdir()
        with self.assertRaisesRegex(ValueError, "and is no folder"):
            export_checks.check_settings(folder, None, None, None, False)

    @parameterized.parameters(0, -1, 2.0, True, "3")
    def test_batch_size(self, size):
        self.assert_refused(
            "Pass None for any number",
            dense_model(),
            self.path,
            batch_size=size,
        )

    def test_metric_without_data(self):
        self.assert_refused(
            r"Pass evaluation_data=\(x, y\)",
            dense_model(),
            self.path,
            metric="accuracy",
        )

    def test_wrong_models(self):
        class Own(keras.Model):
            def call(self, x):
                return x

        unbuilt = keras.Sequential([keras.layers.Dense(2)])
        inputs = keras.Input((4,))
        half = keras.layers.Dense(2, dtype="float16", name="h")
        half = keras.Model(inputs, half(inputs), name="inner")
        nested = keras.Model(inputs, half(inputs))
        self.assert_refused("Wrap it", Own(), self.path, error=TypeError)
        self.assert_refused("load_model", "m.keras", self.path, error=TypeError)
        self.assert_refused("model.build", unbuilt, self.path)
        self.assert_refused("'h'.*'mixed_float16'", half, self.path)
        self.assert_refused("inner/h.*'mixed_bfloat16'", nested, self.path)

    def test_a_functional_model_with_a_call_of_its_own(self):
        class Own(keras.Model):
            def call(self, x):
                return 2.0 * super().call(x)

        inputs = keras.Input((4,))
        model = Own(inputs, keras.layers.Dense(2)(inputs))
        self.assert_refused("Wrap it", model, self.path, error=TypeError)

    def test_weights_that_are_not_finite_are_named(self):
        inputs = keras.Input((3,))
        dense = keras.layers.Dense(2, name="d")
        model = keras.Model(inputs, dense(inputs))
        dense.bias.assign([0.0, np.nan])
        self.assert_refused("d/bias", model, self.path)


class CalibrationTest(parameterized.TestCase):
    @parameterized.parameters(0.0, 1.0, -3.5)
    def test_constant(self, value):
        model = exporting.dense_model()
        data = [np.full((4, 3), value, "float32")]
        with self.assertRaisesRegex(ValueError, f"{value}.*Pass some hundred"):
            export_checks.check_calibration(model, data)
        data[0][0, 0] += 1
        export_checks.check_calibration(model, data)

    @parameterized.parameters((11.0, False), (9.0, True), (1.0, True))
    def test_range(self, factor, passes):
        model = exporting.dense_model()
        for pair in (([X], [factor * X]), ([factor * X], [X])):
            if passes:
                export_checks.check_calibration(model, *pair)
            else:
                with self.assertRaisesRegex(ValueError, "x.*Scale both alike"):
                    export_checks.check_calibration(model, *pair)

    def test_large_numbers(self):
        x = X / np.abs(X).max() * np.float32(3e38)
        export_checks.check_calibration(exporting.dense_model(), [x], [x])

    def test_range_of_integers_is_not_judged(self):
        tokens = np.arange(12).reshape(2, 6)
        model = _token_model()
        export_checks.check_calibration(model, [tokens], [100 * tokens])

    @parameterized.parameters(1, 2)
    def test_words_are_refused(self, number):
        """Also where they are constant, or beside numbers."""
        inputs = [
            keras.Input((3,), dtype="string", name="w"),
            keras.Input((3,)),
        ]
        model = keras.Model(inputs[:number], inputs[:number])
        data = [np.full((4, 3), "a", object), np.ones((4, 3))][:number]
        with self.assertRaisesRegex(
            ValueError, r"strings \['w'\]. Turn .*, or pass .*'dynamic_range'"
        ):
            export_checks.check_calibration(model, data, data)


def _token_model():
    inputs = keras.Input((6,), dtype="int32", name="tokens")
    return keras.Model(inputs, keras.layers.Embedding(5, 3)(inputs))


if __name__ == "__main__":
    absltest.main()
