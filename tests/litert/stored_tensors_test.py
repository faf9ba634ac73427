"""What a file stores its weights as, and what it computes in."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.litert.export import export_litert
from keras_prm.litert.model import LiteRTModel
from tests.helpers import exporting


def small_and_large():
    """Kernels of 3*3*3*8 = 216 entries, 3*3*8*16 = 1,152, 16*2 = 32."""
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, activation="relu", name="small")(x)
    x = layers.Conv2D(16, 3, name="large")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return exporting.randomize(keras.Model(inputs, layers.Dense(2)(x)))


class WeightsTest(exporting.ExportTestCase):
    def setUp(self):
        super().setUp()
        self.needs_tensorflow()

    def export(self, model, mode, **options):
        data = exporting.data_for(model)
        report = export_litert(model, self.path, mode, data, **options)
        return report, LiteRTModel(self.path)

    @parameterized.parameters(
        ("float32", {216: "float32", 1152: "float32", 32: "float32"}),
        ("float16", {216: "float16", 1152: "float16", 32: "float16"}),
        ("dynamic_range", {216: "float32", 1152: "int8", 32: "float32"}),
        ("int8", {216: "int8", 1152: "int8", 32: "int8"}),
    )
    def test_each_weight(self, mode, expected):
        report, file = self.export(small_and_large(), mode)
        self.assertEqual({w.size: w.dtype for w in file.weights}, expected)
        self.assertEqual(report.weights, file.weights)
        self.assertCountEqual(file.weight_dtypes.values(), expected.values())
        for weight in file.weights:
            bytes_of = np.dtype(weight.dtype).itemsize
            self.assertEqual(weight.num_bytes, bytes_of * weight.size)
            kind = "FULLY_CONNECTED" if weight.size == 32 else "CONV_2D"
            self.assertEqual(weight.operation, kind)
        coarsest = "int8" if "int8" in expected.values() else mode
        self.assertEqual(file.precision, coarsest)

    def test_the_report_says_what_stayed_in_float32(self):
        report, _ = self.export(small_and_large(), "dynamic_range")
        self.assertRegex(
            str(report),
            r"1 of 3 in int8, 2 in float32 \(2 of under 1,024 entries.*"
            "quantize='int8'",
        )

    def test_a_file_of_small_kernels_is_one_of_float32(self):
        report, file = self.export(exporting.dense_model(), "dynamic_range")
        self.assertEqual(file.precision, "float32")
        self.assertIn("0 of 1 in int8, 1 in float32", str(report))

    def test_a_loop_is_looked_into(self):
        """48 units: a kernel of 48 * 4 * 48 entries, inside of a loop."""
        model = exporting.layer_model(layers.LSTM(48))
        file = self.export(model, "dynamic_range", batch_size=1)[1]
        dtypes = {w.size: w.dtype for w in file.weights}
        self.assertEqual(dtypes, {9216: "int8", 768: "float32"})

    def test_operations_that_stay_float_are_named(self):
        model = exporting.layer_model(layers.LayerNormalization())
        report, file = self.export(model, "int8")
        self.assertIn("NEG", file.float_operations)
        self.assertRegex(str(report), r"not integer-only: .*NEG \(1\)")
        report, file = self.export(small_and_large(), "int8")
        self.assertEqual(file.float_operations, {})
        self.assertIn("integers only", str(report))


if __name__ == "__main__":
    absltest.main()
