"""Exporting to LiteRT."""

import itertools
import os
import pathlib
import subprocess
import sys
import tempfile
from unittest import mock

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm import export

MODES = ("float32", "float16", "dynamic_range", "int8")
# Relative to the largest output: what a sound file keeps well below.
SOUND = dict(zip(MODES, (1e-5, 5e-3, 0.1, 0.2)))
LARGE = 300  # units; 300 * 400 weights


def randomise(model):
    rng = np.random.default_rng(1)
    for v in model.variables:
        offset = 1.5 if "variance" in v.name else 0.1
        v.assign(offset + rng.uniform(-0.3, 0.3, v.shape))
    return model


def conv_model():
    x = image = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(8, 3, padding="same")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Activation("relu")(x)
    x = keras.layers.DepthwiseConv2D(3)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return randomise(keras.Model(image, keras.layers.Dense(4)(x)))


def dict_model():
    """Names chosen so that no order of them is the order of creation."""
    zebra = keras.Input((6, 6, 3), name="zebra")
    apple = keras.Input((5,), name="apple")
    x = keras.layers.Conv2D(4, 3, activation="relu")(zebra)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Concatenate()([x, apple])
    return randomise(
        keras.Model(
            {"zebra": zebra, "apple": apple},
            {
                "yes": keras.layers.Dense(2)(x),
                "no": keras.layers.Dense(2)(x),
            },
        )
    )


def large_model():
    x = inputs = keras.Input((400,))
    x = keras.layers.Dense(LARGE, activation="relu")(x)
    return randomise(keras.Model(inputs, keras.layers.Dense(3)(x)))


def lambda_model(function):
    inputs = keras.Input((4, 4))
    return keras.Model(inputs, keras.layers.Lambda(function)(inputs))


class OffByOne(keras.layers.Layer):
    """Computes something else in a file than in Keras."""

    def call(self, x):
        import tensorflow as tf

        return x if tf.executing_eagerly() else x + 1.0


def off_by_one_model():
    inputs = keras.Input((4, 4))
    return keras.Model(inputs, OffByOne()(inputs))


def data_for(model, num=20):
    rng = np.random.default_rng(2)
    return {
        x.name: rng.normal(size=(num, *x.shape[1:])).astype("float32")
        for x in model.inputs
    }


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return np.ones((4, 8, 8, 3)), np.ones(4)


class ExportTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        if keras.backend.backend() != "tensorflow":
            self.skipTest("export needs TensorFlow")
        self.folder = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory())
        )
        self.path = self.folder / "model.tflite"

    def assert_refused(self, message, *args, error=ValueError, **kwargs):
        """Nothing is written, an older file stays, nothing is left over."""
        self.path.write_bytes(b"old")
        with self.assertRaisesRegex(error, message):
            export.export_litert(*args, **kwargs)
        self.assertEqual(self.path.read_bytes(), b"old")
        self.assertEqual(os.listdir(self.folder), [self.path.name])

    @parameterized.product(
        mode=MODES, build=(conv_model, dict_model), given=(True, False)
    )
    def test_file_computes_what_the_model_does(self, mode, build, given):
        model = build()
        data = data_for(model) if given or mode == "int8" else None
        report = export.export_litert(model, self.path, mode, data)
        self.assertEqual(report.quantize, mode)
        self.assertEqual(report.num_bytes, self.path.stat().st_size)
        self.assertEqual(report.num_samples, 20 if data else 8)
        self.assertLess(report.max_rel_error, SOUND[mode])
        self.assertIn(f"{mode}, ", str(report))
        # The same figures, from a file that was opened anew.
        inputs = data_for(model)
        inputs = inputs.get("image", inputs)
        expected = keras.tree.flatten(model(inputs))
        actual = export.LiteRTModel(self.path)(inputs)
        actual = [actual] if len(expected) == 1 else actual
        for y, z in zip(expected, actual, strict=True):
            limit = SOUND[mode] * np.abs(y).max()
            np.testing.assert_allclose(z, y, rtol=0, atol=limit)

    def test_default_is_float32_and_quantised_files_are_smaller(self):
        model = large_model()
        size = {
            mode: export.export_litert(
                model, self.path, mode, np.ones((4, 400))
            ).num_bytes
            for mode in (None, *MODES)
        }
        self.assertGreaterEqual(size[None], 4 * (400 * LARGE + 3 * LARGE))
        self.assertEqual(size[None], size["float32"])
        self.assertAlmostEqual(size[None] / size["float16"], 2.0, delta=0.1)
        self.assertGreater(size[None] / size["dynamic_range"], 2.5)
        self.assertGreater(size[None] / size["int8"], 2.5)

    @parameterized.parameters((False, "float32"), (True, "int8"))
    def test_int8_weights_are_per_channel(self, int8_io, dtype):
        model = conv_model()
        data = data_for(model)
        export.export_litert(model, self.path, "int8", data, int8_io=int8_io)
        interpreter = export.LiteRTModel(self.path)._interpreter
        for detail in (
            *interpreter.get_input_details(),
            *interpreter.get_output_details(),
        ):
            self.assertEqual(np.dtype(detail["dtype"]), dtype)
        kernels = [
            len(detail["quantization_parameters"]["scales"])
            for detail in interpreter.get_tensor_details()
            if detail["dtype"] == np.int8
            and tuple(detail["shape"])[1:] == (3, 3, 3)
        ]
        self.assertEqual(kernels, [8])

    @parameterized.named_parameters(
        ("array", lambda x: x, 20),
        ("many", lambda x: np.repeat(x, 20, axis=0), 64),
        ("dict", lambda x: {"image": x}, 20),
        ("list_of_batches", lambda x: [x[:3], x[3:6]], 6),
        ("generator", lambda x: (x[i : i + 1] for i in range(5)), 5),
        ("fit_tuples", lambda x: iter([(x[:2], [0, 1]), (x[:4], None)]), 6),
        ("endless", itertools.repeat, 64),
        ("py_dataset", lambda x: Batches(), 12),
    )
    def test_representative_data(self, form, num):
        model = conv_model()
        data = form(data_for(model)["image"])
        report = export.export_litert(model, self.path, "int8", data)
        self.assertEqual(report.num_samples, num)

    @parameterized.parameters("names", "list", "dataset", "dataset_xy")
    def test_representative_data_of_two_inputs(self, form):
        import tensorflow as tf

        model = dict_model()
        x = data_for(model)
        data = {
            "names": dict(reversed(x.items())),
            "list": [x["apple"], x["zebra"]],  # model.inputs: keys sorted
            "dataset": tf.data.Dataset.from_tensor_slices(x).batch(6),
            "dataset_xy": tf.data.Dataset.from_tensors((x, 0)),
        }[form]
        report = export.export_litert(model, self.path, "int8", data)
        self.assertEqual(report.num_samples, 20)
        self.assertLess(report.max_rel_error, SOUND["int8"])

    def test_dict_keys_may_differ_from_the_inputs_names(self):
        a = keras.Input((3,), name="b")
        b = keras.Input((2,), name="a b")
        y = keras.layers.Concatenate()([a, b])
        with self.assertWarnsRegex(UserWarning, "must match the names"):
            model = keras.Model({"x": a, "y": b}, [[y, {"z": y}], a])
        data = {"x": np.ones((5, 3)), "y": np.zeros((5, 2))}
        report = export.export_litert(model, self.path, None, data)
        self.assertEqual(report.max_abs_error, 0.0)
        self.assertEqual(export.input_names(model), ["b", "a_b"])

    def test_sequential_and_integer_inputs(self):
        model = keras.Sequential(
            [keras.Input((6,)), keras.layers.Embedding(5, 3)]
        )
        report = export.export_litert(model, str(self.path))
        self.assertEqual(report.max_abs_error, 0.0)
        self.assertEqual(report.path, str(self.path))

    def test_missing_folders_are_made_and_files_replaced(self):
        path = self.folder / "a" / "b" / "model.tflite"
        export.export_litert(conv_model(), path)
        path.write_bytes(b"old")
        export.export_litert(conv_model(), path)
        self.assertGreater(path.stat().st_size, 1000)
        self.assertEqual(os.listdir(path.parent), ["model.tflite"])

    def test_unchecked(self):
        report = export.export_litert(
            off_by_one_model(), self.path, check=False
        )
        self.assertIsNone(report.max_abs_error)
        self.assertIn("not compared", str(report))

    def test_parity_is_checked(self):
        model = off_by_one_model()
        self.assert_refused("a larger tolerance", model, self.path)
        self.assert_refused(
            "larger tolerance",
            model,
            self.path,
            "int8",
            np.ones((2, 4, 4)),
            tolerance=0.5,
        )
        report = export.export_litert(model, self.path, tolerance=1.1)
        self.assertAlmostEqual(report.max_abs_error, 1.0, 5)
        self.assertEqual(report.tolerance, 1.1)

    def test_tolerance_is_relative_to_large_outputs_only(self):
        model = off_by_one_model()
        for value, passes in ((1e5, True), (1e3, False)):
            data = np.full((2, 4, 4), value)
            if passes:
                export.export_litert(model, self.path, None, data)
            else:
                self.assert_refused("agrees", model, self.path, None, data)

    @parameterized.parameters(*MODES)
    def test_outputs_must_be_finite(self, mode):
        model = lambda_model(lambda x: keras.ops.log(x - 100.0))
        data = np.ones((2, 4, 4))
        self.assert_refused("Mend the model", model, self.path, mode, data)

    @parameterized.named_parameters(
        ("none", None, "Pass some hundred typical samples"),
        ("empty_array", np.ones((0, 8, 8, 3)), "Pass some hundred typical"),
        ("empty_list", [], "a generator can be read only once"),
        ("shape", np.ones((4, 8, 8, 1)), "Pass batches"),
        ("unbatched", [np.ones((8, 8, 3))], "Pass batches"),
        ("key", {"picture": np.ones((4, 8, 8, 3))}, "Pass batches"),
        ("nan", np.full((4, 8, 8, 3), np.nan), "Remove the samples"),
    )
    def test_wrong_data(self, data, message):
        self.assert_refused(message, conv_model(), self.path, "int8", data)

    def test_wrong_arguments(self):
        model = conv_model()
        for message, args in {
            "a path that ends in `.tflite`": (self.folder / "model.onnx",),
            "Choose None or one of .*float16": (self.path, "int4"),
            "Pass quantize='int8'": (self.path, None, None, True, None, True),
            "Pass None for the default": (self.path, None, None, True, -1.0),
        }.items():
            self.assert_refused(message, model, *args)

    def test_destination_cannot_be_written(self):
        for path in (self.path / "x.tflite", self.path / "y" / "x.tflite"):
            self.assert_refused("a folder you may", conv_model(), path)

    def test_failed_move_leaves_nothing_behind(self):
        # Windows refuses to replace a file that is in use, for example.
        with mock.patch.object(os, "replace", side_effect=PermissionError):
            self.assert_refused("", conv_model(), self.path, error=OSError)

    def test_wrong_models(self):
        class Own(keras.Model):
            def call(self, x):
                return x

        unbuilt = keras.Sequential([keras.layers.Dense(2)])
        inputs = keras.Input((4,))
        half = keras.layers.Dense(2, dtype="mixed_float16", name="h")
        half = keras.Model(inputs, half(inputs))
        self.assert_refused("Wrap it", Own(), self.path, error=TypeError)
        self.assert_refused("Wrap it", 3, self.path, error=TypeError)
        self.assert_refused("model.build", unbuilt, self.path)
        self.assert_refused("set_dtype_policy", half, self.path)

    def test_operation_without_builtin_is_named(self):
        model = lambda_model(keras.ops.erfinv)
        self.assert_refused("Erfinv.*Use others", model, self.path)


class BackendTest(absltest.TestCase):
    def test_other_backends_are_sent_to_tensorflow(self):
        with mock.patch.object(keras.backend, "backend", lambda: "jax"):
            with self.assertRaisesRegex(ValueError, "KERAS_BACKEND=tensorfl"):
                export.export_litert(conv_model(), "model.tflite")

    def test_import_leaves_tensorflow_alone(self):
        code = (
            "import sys, keras_prm.export; print("
            "{'tensorflow', 'ai_edge_litert'}.intersection(sys.modules))"
        )
        environment = dict(
            os.environ,
            KERAS_BACKEND="jax",
            PYTHONPATH=os.pathsep.join(filter(None, sys.path)),
        )
        result = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
        )
        if "No module named 'jax'" in result.stderr:
            self.skipTest("needs jax")
        self.assertEqual(result.stdout.strip(), "set()", result.stderr)


class NotFiniteTest(parameterized.TestCase):
    def test_weights_that_are_not_finite_are_named(self):
        inputs = keras.Input((3,))
        dense = keras.layers.Dense(2, name="d")
        model = keras.Model(inputs, dense(inputs))
        dense.bias.assign([0.0, np.nan])
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "m.tflite"
            with self.assertRaisesRegex(ValueError, "d/bias"):
                export.export_litert(model, path)
            self.assertFalse(path.exists())


if __name__ == "__main__":
    absltest.main()
