"""Converting from every backend, in a process that runs on TensorFlow."""

import errno
import importlib.util
import json
import os
import pathlib
import subprocess
import tempfile
from unittest import mock

import keras
import numpy as np
import pytest
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.equivalence import model_state
from keras_prm.litert import conversion
from keras_prm.litert import conversion_process
from keras_prm.litert.export import export_litert
from keras_prm.litert.model import LiteRTModel
from keras_prm.utils import backend
from tests.helpers import exporting
from tests.helpers.exporting import SOUND

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def own_model():
    """Layers and functions of this repository's tests, some nested."""
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = exporting.Shift()(exporting.Scale(2.0)(x))
    inside = keras.Input((8, 8, 3))
    y = layers.Conv2D(4, 3, activation=exporting.shifted_relu)(inside)
    x = keras.Model(inside, layers.Dropout(0.5)(y))(x)
    x = layers.TimeDistributed(exporting.Scale(0.5))(x)
    x = layers.GlobalAveragePooling2D()(x)
    return exporting.randomize(keras.Model(inputs, layers.Dense(4)(x)))


def attended(x, *weights):
    """What MultiHeadAttention with heads of one number makes of `x` itself."""
    query, key, value = (
        np.einsum("btc,chd->bth", x, kernel) + bias[:, 0]
        for kernel, bias in zip(weights[:6:2], weights[1:6:2])
    )
    scores = np.exp(np.einsum("bqh,bkh->bhqk", query, key))
    scores /= scores.sum(-1, keepdims=True)
    heads = np.einsum("bhqk,bkh->bqh", scores, value)
    return np.einsum("bqh,hde->bqe", heads, weights[6]) + weights[7]


class Several(layers.Layer):
    def __init__(self, functions, **kwargs):
        super().__init__(**kwargs)
        self.functions = functions

    def call(self, x):
        return self.functions[0](x)

    def get_config(self):
        functions = keras.saving.serialize_keras_object(self.functions)
        return {**super().get_config(), "functions": functions}


class Reader(layers.Layer):
    """Reads the bias of a layer in it; another one is never called."""

    def __init__(self, part, **kwargs):
        super().__init__(**kwargs)
        self.part = part
        self.unused = type(part).from_config(part.get_config())

    def build(self, shape):
        if not self.part.built:
            self.part.build(shape)

    def call(self, x):
        return self.part(x) + keras.ops.sum(self.part.bias)

    def get_config(self):
        part = keras.saving.serialize_keras_object(self.part)
        return {**super().get_config(), "part": part}

    @classmethod
    def from_config(cls, config):
        part = keras.saving.deserialize_keras_object(config.pop("part"))
        return cls(part, **config)


class InMain(layers.Layer):
    def call(self, x):
        return x


def convert(model, path, mode="float32", samples=()):
    view = keras.Model(model.inputs, model.outputs)
    settings = conversion.Settings(mode, metadata={"a": 1})
    conversion_process.convert(view, path, settings, samples)


# Where Keras runs on TensorFlow nobody needs the other process.
@(pytest.mark.slow if ON_TENSORFLOW else lambda kind: kind)
@absltest.skipIf(
    importlib.util.find_spec("tensorflow") is None, "TensorFlow converts"
)
class ProcessTest(exporting.ExportTestCase):
    def test_own_layers(self):
        model = own_model()
        x = exporting.data_for(model)["image"]
        convert(model, self.path, "int8", [x])
        file = LiteRTModel(self.path)
        self.assertEqual(file.metadata, {"a": 1})
        self.assertIn("QUANTIZE", file.operations)
        y = keras.ops.convert_to_numpy(model(x))
        limit = SOUND["int8"] * np.abs(y).max()
        np.testing.assert_allclose(file(x), y, rtol=0, atol=limit)

    def test_functions_in_containers(self):
        inputs = keras.Input((3,))
        outputs = Several([exporting.shifted_relu])(inputs)
        found = conversion_process.custom_objects(keras.Model(inputs, outputs))
        self.assertCountEqual(
            [name for *_, name in found], ["Several", "shifted_relu"]
        )

    def test_parts_of_a_compiled_model(self):
        """TensorFlow's keeps a dict of its layers, which have no order."""
        model = keras.Model(inputs := keras.Input((3,)), InMain()(inputs))
        model.compile("sgd", "mse")
        model.notes = {model: 1, model.layers[1]: [exporting.shifted_relu]}
        found, hidden = conversion_process.custom_parts(model)
        self.assertEqual([name for *_, name in found], ["InMain"])
        self.assertEmpty(hidden)

    def test_settings_are_plain(self):
        before = keras.config.epsilon()
        keras.config.set_epsilon(np.float32(0.25))
        try:
            settings = json.dumps(backend.process_settings())
        finally:
            keras.config.set_epsilon(before)
        self.assertEqual(json.loads(settings)["epsilon"], 0.25)

    def test_converters_refusal_comes_back(self):
        model = exporting.lambda_model(keras.ops.erfinv)
        with self.assertRaisesRegex(ValueError, r"Erfinv \(inner\).*Use othe"):
            convert(model, self.path)

    def test_the_one_call(self):
        """From JAX or PyTorch; on TensorFlow there is no other process."""
        model = exporting.dict_model()
        report = export_litert(model, self.path, batch_size=2)
        self.assertLess(report.max_rel_error, SOUND["float32"])
        self.assertEqual(os.listdir(self.folder), [self.path.name])
        names = list(LiteRTModel(self.path).input_shapes)
        self.assertCountEqual(names, ["apple", "zebra"])

    def test_inputs_without_names(self):
        """Their tensors are called otherwise once the model is loaded."""
        self.check_inputs_without_names("double")

    @parameterized.parameters("single", "sequential")
    @pytest.mark.slow
    def test_one_input_without_a_name(self, kind):
        self.check_inputs_without_names(kind)

    def check_inputs_without_names(self, kind):
        inputs = [keras.Input((3,)), keras.Input((3,))]
        model = {
            "single": keras.Model(inputs[0], layers.Dense(2)(inputs[0])),
            "double": keras.Model(inputs, layers.Subtract()(inputs)),
            "sequential": keras.Sequential([inputs[0], layers.Dense(2)]),
        }[kind]
        convert(model, self.path)
        names = conversion.input_names(model)
        data = [np.full((2, 3), i + 1.0, "float32") for i in range(len(names))]
        file = LiteRTModel(self.path, input_names=names)
        y = keras.ops.convert_to_numpy(
            model(data if kind == "double" else data[0])
        )
        np.testing.assert_allclose(file(data), y, rtol=1e-5, atol=1e-6)

    def test_biases_as_long_as_an_axis_of_positions(self):
        """TensorFlow's layers add them along these; the others do not."""
        inputs = keras.Input((4, 6))
        to_heads, attention, convolution = parts = (
            layers.EinsumDense("abc,cde->abde", (None, 4, 1), "relu", "de"),
            layers.MultiHeadAttention(4, 1),
            layers.Conv2D(6, 1, data_format="channels_first"),
        )
        inner = keras.Model(inputs, attention(inputs, inputs))
        image = layers.Reshape((2, 2, 6))(inputs)
        outputs = [to_heads(inputs), inner(inputs), convolution(image)]
        model = exporting.randomize(keras.Model(inputs, outputs))
        rng = np.random.default_rng(0)
        x = rng.normal(size=(3, 4, 6)).astype("float32")
        convert(model, self.path)
        found = LiteRTModel(self.path)(x)
        weights = [
            [*map(keras.ops.convert_to_numpy, part.get_weights())]
            for part in parts
        ]
        kernel, bias = weights[0]
        expected = [np.maximum(np.einsum("abc,cde->abde", x, kernel) + bias, 0)]
        expected.append(attended(x, *weights[1]))
        kernel, bias = weights[2]
        x = np.einsum("abcd,be->aecd", x.reshape(3, 2, 2, 6), kernel[0, 0])
        expected.append(x + bias[:, None, None])
        for y, z in zip(found, expected, strict=True):
            np.testing.assert_allclose(y, z, rtol=1e-4, atol=1e-5)

    def test_biases_that_are_never_made_or_read_by_others(self):
        inputs = keras.Input((4, 6, 6))
        einsum = layers.EinsumDense(
            "abcd,de->abce", (None, 6, 6), bias_axes="e"
        )
        convolution = layers.Conv2D(4, 1, data_format="channels_first")
        x = Reader(convolution)(Reader(einsum)(inputs))
        model = exporting.randomize(keras.Model(inputs, x))
        convert(model, self.path)
        x = np.random.default_rng(0).normal(size=(3, 4, 6, 6))
        y = keras.ops.convert_to_numpy(model(x))
        found = LiteRTModel(self.path)(x.astype("float32"))
        np.testing.assert_allclose(found, y, rtol=1e-4, atol=1e-5)

    def test_states_go_on_from_call_to_call(self):
        inner = keras.Input(batch_shape=(1, 3, 4))
        state = {"stateful": True, "return_sequences": True}
        both = layers.Bidirectional(layers.GRU(3, **state))(inner)
        inner = keras.Model(inner, layers.SimpleRNN(4, **state)(both))
        inputs = keras.Input(batch_shape=(1, 3, 4))
        x = layers.LSTM(3, stateful=True)(inner(inputs))
        model = keras.Model(inputs, layers.BatchNormalization()(x))
        model = exporting.randomize(model)
        export_litert(model, self.path)
        file = LiteRTModel(self.path)
        rng = np.random.default_rng(0)
        seen = []
        for x in rng.normal(size=(3, 1, 3, 4)).astype("float32"):
            seen.append(keras.ops.convert_to_numpy(model(x)))
            np.testing.assert_allclose(file(x), seen[-1], 1e-4, 1e-5)
        model_state.reset(model)
        again = keras.ops.convert_to_numpy(model(x))
        self.assertGreater(np.abs(again - seen[-1]).max(), 1e-3)

    def test_what_cannot_be_imported(self):
        class Local(layers.Layer):
            def call(self, x):
                return x

        x = keras.Input((3,))
        y = layers.Dense(2, activation=lambda x: x, name="d")(Local()(x))
        with mock.patch.object(InMain, "__module__", "__main__"):
            with self.assertRaisesRegex(
                ValueError,
                "__main__.InMain.*Local.*Move them into a file of their own",
            ):
                convert(keras.Model(x, InMain()(y)), self.path)
        self.assertEqual(os.listdir(self.folder), [])

    def test_process_dies(self):
        done = subprocess.CompletedProcess([], -9, "", "...Killed")
        with mock.patch.object(subprocess, "run", return_value=done):
            with self.assertRaisesRegex(
                ValueError, "code -9.*Killed.*Free memory"
            ):
                convert(exporting.dense_model(), self.path)

    def test_disk_is_too_full_to_say_so(self):
        """The worker dies of its error message, of which a part is left."""
        text = "OSError: [Errno 28] No space left on device"

        def run(command, **kwargs):
            (command[-1] / conversion_process.ERROR).write_text('{"type"')
            return subprocess.CompletedProcess(command, 1, "", text)

        with mock.patch.object(subprocess, "run", run):
            with self.assertRaisesRegex(OSError, "No space left") as caught:
                convert(exporting.dense_model(), self.path)
        self.assertEqual(caught.exception.errno, errno.ENOSPC)

    def test_tensorflow_is_missing(self):
        with mock.patch.object(importlib.util, "find_spec", return_value=None):
            with self.assertRaisesRegex(ImportError, r"keras-prm\[tensorflow"):
                convert(exporting.dense_model(), self.path)


class WorkerTest(parameterized.TestCase):
    """What goes on in that process, in this one."""

    def run_worker(self, model, effect=None):
        """Errors, by way of the file that they are written to."""

        def run(command, **kwargs):
            self.assertEqual(kwargs["env"]["KERAS_BACKEND"], "tensorflow")
            self.assertIn(
                str(pathlib.Path(__file__).absolute().parent.parent.parent),
                kwargs["env"]["PYTHONPATH"].split(os.pathsep),
            )
            conversion_process.main(command[-1])
            return subprocess.CompletedProcess(command, 0)

        with (
            tempfile.TemporaryDirectory() as folder,
            mock.patch.object(importlib.util, "find_spec"),
            mock.patch.object(subprocess, "run", run),
            mock.patch.object(conversion, "convert", side_effect=effect) as f,
        ):
            samples = [np.ones((2, 3)), np.zeros(2)]
            convert(model, pathlib.Path(folder) / "m.tflite", "int8", samples)
        return f.call_args.args

    def test_all_arrives(self):
        model = exporting.dense_model()
        view, path, settings, samples = self.run_worker(model)
        for v, w in zip(model.weights, view.weights, strict=True):
            np.testing.assert_array_equal(v, w)
        self.assertEqual(conversion.input_names(view), ["x"])
        self.assertEndsWith(path, "m.tflite")
        self.assertEqual(
            settings, conversion.Settings("int8", metadata={"a": 1})
        )
        self.assertEqual([x.shape for x in samples], [(2, 3), (2,)])

    def test_registered_layers_arrive_without_being_looked_up(self):
        view, *_ = self.run_worker(own_model())
        self.assertIsInstance(view.layers[1], exporting.Scale)
        self.assertIsInstance(view.layers[2], exporting.Shift)

    def test_layers_that_cannot_be_loaded(self):
        model = exporting.layer_model(exporting.NoConfig(2.0))
        with self.assertRaisesRegex(
            ValueError, "'factor'.*Give its layers a `get_config`"
        ):
            self.run_worker(model)

    @parameterized.parameters(
        (OSError(28, "No space"), OSError, "28.*No space"),
        (ValueError("mend it"), ValueError, "mend it"),
    )
    def test_errors_come_back(self, effect, kind, message):
        with self.assertRaisesRegex(kind, message):
            self.run_worker(exporting.dense_model(), effect)


if __name__ == "__main__":
    absltest.main()
