"""Exporting to LiteRT: the call, its file and its report."""

import collections
import errno
import itertools
import os
import subprocess
import sys
from unittest import mock

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.litert import conversion
from keras_prm.litert import flatbuffer
from keras_prm.litert.export import export_litert
from keras_prm.litert.model import LiteRTModel
from keras_prm.rebuild.strip import strip
from keras_prm.reports.strip import StripReport
from keras_prm.reports.strip import StripRow
from keras_prm.verification.verify import verify
from keras_prm.version import __version__
from tests.helpers import exporting
from tests.helpers import zeros
from tests.helpers.exporting import MODES
from tests.helpers.exporting import SOUND
from tests.helpers.exporting import conv_model
from tests.helpers.exporting import data_for
from tests.helpers.exporting import dense_model
from tests.helpers.exporting import dict_model

LARGE = 300  # units; 300 * 400 weights
FULL = OSError(errno.ENOSPC, "No space left on device")


def large_model():
    x = inputs = keras.Input((400,))
    x = keras.layers.Dense(LARGE, activation="relu")(x)
    return exporting.randomize(keras.Model(inputs, keras.layers.Dense(3)(x)))


class FileTest(exporting.ExportTestCase):
    def setUp(self):
        super().setUp()
        self.needs_tensorflow()

    @parameterized.product(
        mode=MODES, build=(conv_model, dict_model), given=(True, False)
    )
    def test_file_computes_what_the_model_does(self, mode, build, given):
        model = build()
        data = data_for(model) if given or mode == "int8" else None
        report = export_litert(model, self.path, mode, data)
        self.assertEqual(report.quantize, mode)
        self.assertEqual(report.num_bytes, self.path.stat().st_size)
        self.assertEqual(report.num_samples, 20 if data else 8)
        self.assertLess(report.max_rel_error, SOUND[mode])
        self.assertIn(f"{mode}, ", str(report))
        # The same figures, from a file that was opened anew.
        inputs = data_for(model)
        inputs = inputs.get("image", inputs)
        expected = keras.tree.flatten(model(inputs))
        actual = LiteRTModel(self.path)(inputs)
        actual = [actual] if len(expected) == 1 else actual
        for y, z in zip(expected, actual, strict=True):
            limit = SOUND[mode] * np.abs(y).max()
            np.testing.assert_allclose(z, y, rtol=0, atol=limit)

    def test_default_is_float32_and_quantized_files_are_smaller(self):
        model = large_model()
        data = np.linspace(0, 1, 1600).reshape(4, 400)
        size = {
            mode: export_litert(model, self.path, mode, data).num_bytes
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
        export_litert(model, self.path, "int8", data, int8_io=int8_io)
        interpreter = LiteRTModel(self.path)._interpreter
        for detail in (
            *interpreter.get_input_details(),
            *interpreter.get_output_details(),
        ):
            self.assertEqual(np.dtype(detail["dtype"]), dtype)
        kernels = [
            detail["quantization_parameters"]["scales"]
            for detail in interpreter.get_tensor_details()
            if detail["dtype"] == np.int8
            and tuple(detail["shape"])[1:] == (3, 3, 3)
        ]
        self.assertLen(kernels, 1)
        self.assertLen(set(kernels[0]), 8)

    @parameterized.parameters(*MODES)
    def test_fixed_batch_size(self, mode):
        model = conv_model()
        x = data_for(model)["image"]
        report = export_litert(model, self.path, mode, x, batch_size=3)
        file = LiteRTModel(self.path)
        self.assertEqual(file.input_shapes, {"image": (3, 8, 8, 3)})
        self.assertEqual(report.num_samples, 20)
        self.assertLess(report.max_rel_error, SOUND[mode])

    def test_batch_size_of_the_model_itself(self):
        inputs = keras.Input(batch_shape=(4, 3))
        model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
        labels = np.arange(10) % 2
        data = np.random.default_rng(0).normal(size=(10, 3))
        report = export_litert(
            model, self.path, None, data, evaluation_data=(data, labels)
        )
        self.assertEqual(report.num_samples, 10)
        self.assertEqual(report.scores.num_samples, 10)
        shapes = list(LiteRTModel(self.path).input_shapes.values())
        self.assertEqual(shapes, [(4, 3)])
        self.assert_refused("Pass None for any", model, self.path, batch_size=2)

    @parameterized.parameters(None, 1)
    def test_words_before_a_loop(self, batch_size):
        words = keras.layers.TextVectorization(
            vocabulary=["a", "b"], output_sequence_length=4, name="words"
        )
        x = inputs = keras.Input((), dtype="string")
        x = keras.layers.Embedding(5, 3, mask_zero=True)(words(x))
        model = keras.Model(inputs, keras.layers.GRU(2)(x))
        message = r"\(words\)'\]. Turn strings.*get_layer\('words'\)"
        self.assert_refused(message, model, self.path, batch_size=batch_size)

    def test_recurrent_layers_with_a_batch_size(self):
        model = exporting.layer_model(keras.layers.GRU(3))
        self.assert_refused("pass `batch_size=1`", model, self.path)
        reason = conversion._reason("'tf.TensorListReserve' op", model, 1)
        self.assertIn("for recurrent layers, set `unroll=True`.", reason)
        report = export_litert(model, self.path, batch_size=1)
        self.assertLess(report.max_rel_error, SOUND["float32"])
        # Here the converter would kill Python.
        self.assert_refused(
            "loops in .'gru.*'dynamic_range'.*unroll=True",
            model,
            self.path,
            "int8",
            data_for(model),
            batch_size=1,
        )

    @parameterized.product(
        policy=["mixed_float16", "mixed_bfloat16"], mode=[None, "int8"]
    )
    def test_mixed_precision(self, policy, mode):
        inputs = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(4, 3, dtype=policy)(inputs)
        x = keras.layers.BatchNormalization(dtype=policy)(x)
        x = keras.layers.Reshape((6, 24))(x)
        x = keras.layers.MultiHeadAttention(2, 3, dtype=policy)(x, x)
        model = keras.Model(inputs, keras.layers.Dense(2, dtype=policy)(x))
        images = np.random.default_rng(0).normal(size=(20, 8, 8, 3))
        report = export_litert(model, self.path, mode, images)
        self.assertLess(report.max_rel_error, SOUND[mode or "float32"])
        self.assertEqual(
            [layer.dtype_policy.name for layer in model.layers],
            ["float32", policy, policy, "float32", policy, policy],
        )
        self.assertIn(policy[6:], str(model(images).dtype))

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
        report = export_litert(model, self.path, "int8", data)
        self.assertEqual(report.num_samples, 20)
        self.assertLess(report.max_rel_error, SOUND["int8"])

    def test_endless_data(self):
        model = conv_model()
        data = itertools.repeat(data_for(model)["image"])
        report = export_litert(model, self.path, "int8", data)
        self.assertEqual(report.num_samples, 64)

    @parameterized.parameters(
        (collections.OrderedDict, ("b", "c", "a")),
        (dict, [f"output_{i}" for i in range(12)]),  # sorted as text
    )
    def test_outputs_of_a_dict_keep_their_order(self, kind, names):
        inputs = keras.Input((3,))
        outputs = kind((name, inputs + i) for i, name in enumerate(names))
        model = keras.Model(inputs, outputs)
        export_litert(model, self.path)
        expected = keras.tree.flatten(model(np.ones((2, 3))))
        file = LiteRTModel(self.path)
        np.testing.assert_allclose(file(np.ones((2, 3))), expected)
        self.assertCountEqual(file.metadata["output_names"], names)
        self.assertTrue(verify(model, model, self.path).ok)

    def test_outputs_without_rows(self):
        inputs = keras.Input((3,))
        model = keras.Model(inputs, keras.ops.mean(inputs))
        self.assert_refused("outputs with rows", model, self.path)

    def test_dict_keys_may_differ_from_the_inputs_names(self):
        a = keras.Input((3,), name="b")
        b = keras.Input((2,), name="a b")
        y = keras.layers.Concatenate()([a, b])
        with self.assertWarnsRegex(UserWarning, "must match the names"):
            model = keras.Model({"x": a, "y": b}, [[y, {"z": y}], a])
        data = {"x": np.ones((5, 3)), "y": np.zeros((5, 2))}
        report = export_litert(model, self.path, None, data)
        self.assertEqual(report.max_abs_error, 0.0)

    def test_dict_keys_may_be_the_inputs_names_in_another_order(self):
        """Data goes by key; the names of the tensors say something else."""
        a, b = keras.Input((3,), name="q"), keras.Input((3,), name="p")
        y = keras.layers.Subtract()([a, 2.0 * b])
        with self.assertWarnsRegex(UserWarning, "must match the names"):
            model = keras.Model({"p": a, "q": b}, {"y": y})
        p = np.random.default_rng(0).normal(size=(40, 3))
        data = {"p": p, "q": 0.0 * p}
        report = export_litert(
            model,
            self.path,
            evaluation_data=(data, p.astype("float32")),
            metric="mean_absolute_error",
        )
        self.assertLess(report.model_score, 1e-6)
        self.assertLess(report.file_score, 1e-6)

    def test_keys_of_evaluation_data_may_differ_from_the_names(self):
        a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
        with self.assertWarnsRegex(UserWarning, "must match the names"):
            model = keras.Model({"x": a, "y": b}, keras.layers.Add()([a, b]))
        x = np.ones((5, 3), "float32")
        report = export_litert(
            model,
            self.path,
            evaluation_data=({"x": x, "y": x}, 2.0 * x),
            metric="mean_absolute_error",
        )
        self.assertEqual((report.model_score, report.file_score), (0, 0))

    def test_sequential_and_integer_inputs(self):
        model = keras.Sequential(
            [keras.Input((6,)), keras.layers.Embedding(5, 3)]
        )
        report = export_litert(model, str(self.path))
        self.assertEqual(report.max_abs_error, 0.0)
        self.assertEqual(report.path, str(self.path))

    def test_missing_folders_are_made_and_files_replaced(self):
        path = self.folder / "a" / "b" / "model.tflite"
        export_litert(dense_model(), path)
        path.write_bytes(b"old")
        export_litert(dense_model(), path)
        self.assertGreater(path.stat().st_size, 500)
        self.assertEqual(os.listdir(path.parent), ["model.tflite"])

    def test_metadata(self):
        model = dense_model(8)
        layer = model.layers[-1]
        outputs = keras.layers.Dense(2)(model.output)
        model = keras.Model(model.inputs, outputs)
        zeros.edit(layer.kernel, ..., [1, 4])
        zeros.edit(layer.bias, [1, 4])
        small, found = strip(model, return_report=True)
        x = data_for(small)
        for mode in MODES:
            export_litert(small, self.path, mode, x, report=found)
            self.assertEqual(
                LiteRTModel(self.path).metadata,
                {
                    "keras_prm": __version__,
                    "keras": keras.__version__,
                    "quantize": mode,
                    "kept_channels": {layer.name: [0, 2, 3, 5, 6, 7]},
                },
            )
        export_litert(small, self.path)
        self.assertNotIn("kept_channels", LiteRTModel(self.path).metadata)


class CheckTest(exporting.ExportTestCase):
    def setUp(self):
        super().setUp()
        self.needs_tensorflow()

    def off_by_one(self):
        return exporting.layer_model(exporting.OffByOne())

    def test_unchecked(self):
        report = export_litert(self.off_by_one(), self.path, check=False)
        self.assertIsNone(report.max_abs_error)
        self.assertIsNone(report.model_score)
        self.assertIn("not compared", str(report))

    def test_parity_is_checked(self):
        model = self.off_by_one()
        self.assert_refused("a larger tolerance", model, self.path)
        data = np.linspace(0, 1, 32).reshape(2, 4, 4)
        self.assert_refused(
            "larger tolerance", model, self.path, "int8", data, tolerance=0.5
        )
        data = np.full((2, 4, 4), 2.0)
        report = export_litert(model, self.path, None, data, tolerance=0.6)
        self.assertAlmostEqual(report.max_abs_error, 1.0, 5)
        self.assertAlmostEqual(report.max_rel_error, 0.5, 5)
        self.assertEqual(report.tolerance, 0.6)

    def test_tolerance_is_relative_to_the_largest_output(self):
        """Off by one, scaled: small outputs are held to as many digits."""
        for scale in (1.0, 1e-4):
            model = keras.Sequential(
                [
                    keras.Input((4,)),
                    exporting.OffByOne(),
                    keras.layers.Rescaling(scale),
                ]
            )
            for value, passes in ((2e3, True), (5e2, False)):
                data = np.full((2, 4), value)
                if passes:
                    export_litert(model, self.path, None, data)
                else:
                    self.assert_refused("agrees", model, self.path, None, data)

    @parameterized.parameters(*MODES)
    def test_outputs_must_be_finite(self, mode):
        model = exporting.lambda_model(lambda x: keras.ops.log(x - 100.0))
        data = np.linspace(0, 1, 32).reshape(2, 4, 4)
        self.assert_refused("Mend the model", model, self.path, mode, data)

    def test_inputs_instead_of_random_ones(self):
        """Logarithms of what is given, where random inputs are not it."""
        model = exporting.lambda_model(lambda x: keras.ops.log(x - 100.0))
        x = np.linspace(101, 102, 96).reshape(6, 4, 4)
        report = export_litert(model, self.path, inputs=x)
        self.assertEqual(report.num_samples, 6)
        self.assertIn("on 6 samples given", str(report))
        self.assert_refused("typical `inputs`", model, self.path, inputs=x - 9)
        self.assert_refused("Pass some", model, self.path, inputs=x[:0])

    def test_random_inputs_are_in_range(self):
        x = inputs = keras.Input((9,), dtype="int32")
        x = keras.layers.Embedding(20, 4, mask_zero=True)(x)
        x = keras.layers.GlobalAveragePooling1D()(x)
        report = export_litert(keras.Model(inputs, x), self.path)
        self.assertIn("integers 0 to 19, zeros at the end", str(report))

    def test_a_dead_model_is_untested(self):
        model = dense_model()
        model.set_weights([np.zeros((3, 3)), np.ones(3)])
        with self.assertWarnsRegex(UserWarning, "untested.*Pass other"):
            report = export_litert(model, self.path)
        self.assertLen(report.problems, 1)
        self.assertTrue(self.path.exists())

    def test_a_file_that_fails_on_what_is_given(self):
        model, images = exporting.standardizing()
        images[3] = 0
        self.assert_refused(
            "DIV.*Pass typical", model, self.path, "int8", images
        )

    @parameterized.parameters(True, False)
    def test_strings(self, check):
        inputs = keras.Input((1,), dtype="string")
        x = keras.layers.TextVectorization(
            vocabulary=["a", "b"], output_sequence_length=4, name="words"
        )(inputs)
        x = keras.layers.Embedding(5, 8)(x)
        model = keras.Model(inputs, x)
        code = r"keras.Model\(model.get_layer\('words'\).output, model.outputs"
        self.assert_refused(code, model, self.path, check=check)
        rest = keras.Model(model.get_layer("words").output, model.outputs)
        export_litert(rest, self.path)
        inputs = keras.Input((2,), dtype="string")
        x = keras.layers.StringLookup(vocabulary=["a", "b"])(inputs)
        model = keras.Model(inputs, keras.layers.Embedding(5, 8)(x))
        report = export_litert(model, self.path, check=check)
        self.assertEqual(report.num_samples, 8 * check)

    def test_strings_beside_numbers(self):
        inputs = [keras.Input((2,), dtype="string"), keras.Input((2,))]
        x = keras.layers.StringLookup(vocabulary=["a", "b"])(inputs[0])
        x = keras.layers.Embedding(5, 8)(x)
        x = keras.layers.Concatenate()([keras.layers.Flatten()(x), inputs[1]])
        model = keras.Model(inputs, keras.layers.Dense(3)(x))
        report = export_litert(model, self.path, "dynamic_range")
        self.assertEqual(report.num_samples, 8)
        self.assertLess(report.max_rel_error, 1e-3)

    def test_a_file_begins_at_the_reset_state(self):
        inputs = keras.Input(batch_shape=(1, 4, 6))
        layer = keras.layers.GRU(8, stateful=True, unroll=True)
        model = keras.Model(inputs, keras.layers.Dense(2)(layer(inputs)))
        x = np.random.default_rng(0).normal(size=(5, 4, 6)).astype("float32")
        expected = model.predict(x, verbose=0, batch_size=1)
        layer.states[0].assign(np.full((1, 8), 0.5))
        data = x, x[:, 0, 0]

        def summed(y, predictions):
            return keras.ops.sum(predictions, -1)

        for kwargs in ({}, {"evaluation_data": data, "metric": summed}):
            export_litert(model, self.path, **kwargs)
            np.testing.assert_array_equal(layer.states[0], np.full((1, 8), 0.5))
            found = LiteRTModel(self.path).predict(x)
            np.testing.assert_allclose(found, expected, atol=1e-5)
        self.assertTrue(verify(model, model, self.path).ok)

    @parameterized.parameters(*MODES)
    def test_scores(self, mode):
        model = conv_model()
        x = data_for(model, 70)["image"]
        y = np.argmax(model(x), -1)
        y[:7] = (y[:7] + 1) % 4
        report = export_litert(
            model, self.path, mode, x, evaluation_data=(x, y), batch_size=4
        )
        self.assertEqual(report.metric, "sparse_categorical_accuracy")
        self.assertAlmostEqual(report.model_score, 0.9, 6)
        predicted = LiteRTModel(self.path)(x).argmax(-1)
        self.assertAlmostEqual(report.file_score, (predicted == y).mean(), 6)
        self.assertIn("accuracy of the model 0.9000, of the", str(report))
        self.assertIn("on 70 samples", str(report))

    def test_ranges_that_differ(self):
        model = conv_model()
        x, y = np.abs(data_for(model)["image"]), np.arange(20) % 4
        for factor in (255.0, 1 / 255):
            self.assert_refused(
                "Scale both alike",
                model,
                self.path,
                "int8",
                x * factor,
                evaluation_data=(x, y),
            )
        self.assert_refused(
            "Pass some hundred", model, self.path, "int8", np.zeros_like(x)
        )

    def test_without_the_interpreter(self):
        missing = {"ai_edge_litert.interpreter": None}
        with mock.patch.dict(sys.modules, missing):
            for arguments in (
                {},
                {"check": False, "evaluation_data": ([[0.0] * 3], [1])},
            ):
                self.assert_refused(
                    "pip install ai-edge",
                    dense_model(),
                    self.path,
                    error=ImportError,
                    **arguments,
                )

    def test_metadata_without_ai_edge_litert(self):
        missing = dict.fromkeys(flatbuffer._READERS[:1])
        with mock.patch.dict(sys.modules, missing):
            export_litert(dense_model(), self.path, check=False)
            found = flatbuffer.metadata(self.path.read_bytes())
        self.assertEqual(found["quantize"], "float32")


class FailureTest(exporting.ExportTestCase):
    def setUp(self):
        super().setUp()
        self.needs_tensorflow()

    def test_a_link_stays_and_what_it_names_is_written(self):
        link = self.folder / "link.tflite"
        link.symlink_to(self.path)
        report = export_litert(dense_model(), link)
        self.assertTrue(link.is_symlink())
        self.assertEqual(report.path, str(link))
        self.assertGreater(self.path.stat().st_size, 500)

    def test_names_may_be_as_long_as_the_disk_takes(self):
        path = self.folder / ("x" * 248 + ".tflite")
        export_litert(dense_model(), path, check=False)
        self.assertEqual(os.listdir(self.folder), [path.name])

    def test_destination_cannot_be_written(self):
        for path in (self.path / "x.tflite", self.path / "y" / "x.tflite"):
            self.assert_refused("a folder you may", dense_model(), path)

    @parameterized.parameters(
        (keras.Model, "export", FULL),
        (keras.Model, "export", RuntimeError("a: No space left on device")),
        (keras.Model, "export", RuntimeError("x/v; File too large [Op:Save]")),
        (flatbuffer, "add_metadata", FULL),
        (os, "replace", FULL),
    )
    def test_disk_is_full(self, owner, name, error):
        with mock.patch.object(owner, name, side_effect=error):
            self.assert_refused(
                "(No space left|File too large).*is as it was. Free space on",
                dense_model(),
                self.path,
                error=OSError,
            )

    def test_failed_move_leaves_nothing_behind(self):
        # Windows refuses to replace a file that is in use, for example.
        with mock.patch.object(os, "replace", side_effect=PermissionError):
            self.assert_refused(
                "Close what uses the file, or",
                dense_model(),
                self.path,
                error=OSError,
            )

    def test_operation_without_builtin_is_named_with_its_layer(self):
        model = exporting.lambda_model(keras.ops.erfinv)
        self.assert_refused(r"Erfinv \(inner\).*Use others", model, self.path)

    def test_an_operator_is_named_by_what_the_model_calls(self):
        inputs = keras.Input((4,))
        model = keras.Model(
            inputs, keras.ops.argmax(keras.layers.Dense(3)(inputs), -1)
        )
        self.assert_refused(r"BitwiseAnd \(argmax", model, self.path)

    def test_what_training_true_loses_is_said(self):
        x = inputs = keras.Input((4,))
        x = keras.layers.Dropout(0.5, name="drop")(x, training=True)
        model = keras.Model(inputs, keras.layers.Dense(3)(x))
        with self.assertWarnsRegex(UserWarning, "'drop'.*as an input"):
            export_litert(model, self.path)

    def test_random_at_inference(self):
        def noisy(x):
            import tensorflow as tf  # whose random numbers LiteRT has too

            return x + tf.random.normal(tf.shape(x))

        inputs = keras.Input((4,))
        x = keras.layers.Lambda(noisy, output_shape=(4,))(inputs)
        model = keras.Model(inputs, keras.layers.Dense(3)(x))
        self.assert_refused(
            "random at inference.*as an input", model, self.path
        )

    def test_report_of_another_model(self):
        row = StripRow("no/kernel", (3, 3), (3, 2), 0, 0)
        kept = {"no/kernel": (None, (0, 2))}
        report = StripReport((row,), (), 9, 6, kept=kept)
        model = dense_model()
        key = f"{model.layers[-1].name}/kernel"
        row = StripRow(key, (3, 5), (3, 2), 0, 0)
        kept = {key: (None, (0, 2))}
        narrow = StripReport((row,), (), 9, 6, kept=kept)
        width = r"\(2, 3\)}. Pass the report that `strip` returned"
        self.assert_refused(width, model, self.path, report=narrow)
        for message, wrong, error in (
            ("`strip` returned with this model", report, ValueError),
            ("return_report=True", "report", TypeError),
        ):
            self.assert_refused(
                message, dense_model(), self.path, report=wrong, error=error
            )


class ImportTest(absltest.TestCase):
    def test_import_leaves_tensorflow_alone(self):
        code = (
            "import sys, keras_prm.litert.export; print("
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


if __name__ == "__main__":
    absltest.main()
