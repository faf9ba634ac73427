"""Files that take integers and compute in integers alone, or are refused."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.litert import float_inputs
from keras_prm.litert.export import export_litert
from keras_prm.litert.model import LiteRTModel
from tests.helpers import exporting


def images(dtype="uint8", num=16):
    limits = np.iinfo(dtype)
    low, high = max(limits.min, -128), min(limits.max, 200)
    rng = np.random.default_rng(0)
    return rng.integers(low, high, (num, 6, 6, 3)).astype(dtype)


def body(x):
    x = layers.Conv2D(4, 3, activation="relu")(x)
    return layers.Dense(3)(layers.GlobalAveragePooling2D()(x))


def camera(dtype="uint8"):
    inputs = keras.Input((6, 6, 3), dtype=dtype, name="image")
    return keras.Model(inputs, body(layers.Rescaling(1 / 255)(inputs)))


def nested():
    own = keras.Input((6, 6, 3), dtype="uint8")
    inner = keras.Model(own, layers.Rescaling(1 / 255)(own))
    inputs = keras.Input((6, 6, 3), dtype="uint8", name="image")
    return keras.Model(inputs, {"y": body(inner(inputs))})


def behind_a_reshape():
    inputs = keras.Input((108,), dtype="uint8", name="image")
    x = layers.Reshape((6, 6, 3))(inputs)
    return keras.Model(inputs, body(keras.ops.cast(x, "float32") / 255.0))


class IntegerFilesTest(exporting.ExportTestCase):
    def setUp(self):
        super().setUp()
        self.needs_tensorflow()

    def export(self, model, data, **options):
        report = export_litert(model, self.path, "int8", data, **options)
        self.assertLess(report.max_rel_error, exporting.SOUND["int8"])
        return report

    @parameterized.parameters(
        (camera, True), (nested, "uint8"), (behind_a_reshape, "int8")
    )
    def test_bytes_of_a_camera(self, build, int8_io):
        """Their scale is 1, so a uint8 input takes them as they are."""
        model = build()
        data = images().reshape(-1, *model.inputs[0].shape[1:])
        report = self.export(model, data, int8_io=int8_io)
        dtype = "uint8" if int8_io == "uint8" else "int8"
        port = report.inputs[0]
        self.assertEqual((port.name, port.dtype), ("image", dtype))
        zero_point = 0 if dtype == "uint8" else -128
        self.assertEqual((port.scale, port.zero_point), (1.0, zero_point))
        self.assertEqual([x.dtype for x in report.outputs], [dtype])
        self.assertEqual(report.float_operations, {})
        self.assertNotIn("CAST", LiteRTModel(self.path).operations)
        self.assertIn(f"image {dtype} (scale 1, zero", str(report))

    def test_the_default_takes_integers_and_says_so(self):
        report = self.export(camera(), images())
        self.assertEqual(report.inputs[0].dtype, "uint8")
        self.assertIn("CAST", report.float_operations)
        self.assertRegex(str(report), r"not integer-only: CAST \(1\)")

    @parameterized.parameters(("int8", 0), ("int32", None))
    def test_other_integers(self, dtype, zero_point):
        report = self.export(camera(dtype), images(dtype), int8_io="int8")
        self.assertEqual(report.inputs[0].dtype, "int8")
        self.assertEqual(report.float_operations, {})
        if zero_point is not None:
            self.assertEqual(report.inputs[0].zero_point, zero_point)

    def test_indices_stay_integers_beside_an_image(self):
        image = keras.Input((6, 6, 3), dtype="uint8", name="image")
        index = keras.Input((2,), dtype="int32", name="index")
        x = body(layers.Rescaling(1 / 255)(image))
        y = layers.Flatten()(layers.Embedding(9, 2)(index))
        model = keras.Model([image, index], layers.Concatenate()([x, y]))
        rows = np.random.default_rng(1).integers(0, 9, (16, 2))
        report = self.export(model, [images(), rows], int8_io="uint8")
        dtypes = {port.name: port.dtype for port in report.inputs}
        self.assertEqual(dtypes, {"image": "uint8", "index": "int32"})
        self.assertEqual(report.float_operations, {})

    def test_numbers_that_are_indices_too(self):
        inputs = keras.Input((2,), dtype="int32", name="both")
        x = layers.Flatten()(layers.Embedding(9, 2)(inputs))
        y = layers.Dense(4)(layers.Rescaling(0.1)(inputs))
        model = keras.Model(inputs, x + y)
        rows = np.random.default_rng(1).integers(0, 9, (16, 2))
        self.assert_refused(
            "'both': 'int32'.*or pass int8_io=False",
            model,
            self.path,
            "int8",
            rows,
            int8_io=True,
        )

    def test_arithmetic_that_wraps_around(self):
        inputs = keras.Input((2,), dtype="int32", name="x")
        x = keras.ops.cast(inputs * 2**30, "float32")
        model = keras.Model(inputs, layers.Dense(2)(1e-9 * x))
        rows = np.random.default_rng(1).integers(0, 9, (16, 2))
        self.assert_refused(
            "wraps around.*Give the model float32 inputs",
            model,
            self.path,
            "int8",
            rows,
            int8_io=True,
        )

    def test_float_inputs_in_uint8(self):
        model = exporting.conv_model()
        report = self.export(model, exporting.data_for(model), int8_io="uint8")
        self.assertEqual(report.inputs[0].dtype, "uint8")
        self.assertEqual(report.outputs[0].dtype, "uint8")

    @parameterized.parameters(1, 0, None, "INT8", "", "int16", [[True]])
    def test_anything_else_is_refused(self, int8_io):
        self.assert_refused(
            r"Choose False, for float32, 'int8' \(or True\) or 'uint8'",
            camera(),
            self.path,
            "int8",
            images(),
            int8_io=int8_io,
        )


class DoubleTest(exporting.ExportTestCase):
    def setUp(self):
        super().setUp()
        self.needs_tensorflow()

    def model(self, last=lambda x: x, input_dtype="float64"):
        x = own = keras.Input((4,), dtype="float64")
        x = layers.Dense(5, "relu", dtype="float64")(x)
        inner = keras.Model(own, layers.BatchNormalization(dtype="float64")(x))
        inputs = keras.Input((4,), dtype=input_dtype, name="x")
        y = layers.Dense(2, dtype="float64", name="d")(inner(inputs))
        model = keras.Model(inputs, last(y))
        return exporting.randomize(model)

    @parameterized.parameters(
        ("float32", "float32"), ("float32", "float64"), ("int8", "float64")
    )
    def test_computes_in_float32(self, mode, input_dtype):
        model = self.model(input_dtype=input_dtype)
        data = np.random.default_rng(0).normal(size=(16, 4))
        report = export_litert(model, self.path, mode, data)
        self.assertLess(report.max_rel_error, exporting.SOUND[mode])
        self.assertEqual(report.inputs[0].dtype, "float32")
        expected = model.predict(data, verbose=0)
        found = LiteRTModel(self.path)(data)
        limit = exporting.SOUND[mode] * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, atol=limit, rtol=0)
        self.assertEqual(model.get_layer("d").dtype_policy.name, "float64")
        self.assertEqual(expected.dtype, np.float64)

    def test_constants_in_float64(self):
        model = self.model(lambda y: keras.ops.add(y, np.array([0.5, 1.0])))
        report = export_litert(model, self.path)
        self.assertLess(report.max_rel_error, 1e-5)

    def test_a_cast_to_float64(self):
        model = self.model(lambda y: keras.ops.cast(y, "float64"))
        self.assert_refused("'cast.*cast to float32 in them", model, self.path)

    @parameterized.parameters("int8", "float8")
    def test_layers_that_keras_quantized(self, mode):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
        model.layers[0].quantize(mode)
        self.assert_refused(
            f"'dense.*': '{mode}'.*Export the model as it was before",
            model,
            self.path,
        )


class TwinTest(absltest.TestCase):
    def test_shares_its_layers(self):
        model = nested()
        view = keras.Model(model.inputs, model.output)
        twin = float_inputs.twin(view, [True])
        self.assertEqual([x.dtype for x in twin.inputs], ["float32"])
        x = images()
        expected, found = model(x)["y"], twin([x.astype("float32")])["y"]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        own = {id(v) for v in model.weights}
        self.assertTrue(own.issuperset(id(v) for v in twin.weights))

    def test_samples_reach_the_ends_of_eight_bits(self):
        given = [images(), images("int32"), np.array([[True], [False]])]
        bytes_, ints, bools = float_inputs.samples(given, [True] * 3)
        self.assertEqual((bytes_.min(), bytes_.max()), (0, 255))
        np.testing.assert_array_equal(ints, given[1])
        np.testing.assert_array_equal(bools, given[2])
        self.assertEqual(given[0].max(), images().max())


if __name__ == "__main__":
    absltest.main()
