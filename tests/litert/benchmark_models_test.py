"""From whatever is to be measured to files with names."""

import pathlib
import tempfile
from unittest import mock

import keras
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.litert import benchmark_models
from keras_prm.litert.model import LiteRTModel
from tests.helpers.litert_files import double
from tests.helpers.litert_files import file_of
from tests.helpers.litert_files import spec
from tests.helpers.litert_files import two_inputs


def dense(name="dense"):
    inputs = [keras.Input((3,), name="zebra"), keras.Input((3,), name="apple")]
    x = layers.Concatenate()(inputs)
    return keras.Model(inputs, layers.Dense(2)(x), name=name)


class FilesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        if keras.backend.backend() != "tensorflow":
            self.skipTest("the files are made by TensorFlow")
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.folder = pathlib.Path(folder)
        self.content = file_of(double, spec(None, 3))
        self.path = self.folder / "small.tflite"
        self.path.write_bytes(self.content)

    def files(self, models, *arguments):
        return benchmark_models.files(models, self.folder, *arguments)

    def test_files_of_all_kinds(self):
        opened = LiteRTModel(self.content)
        kinds = [self.content, self.path, str(self.path), opened]
        found = self.files(kinds)
        names = [file.name for file in found]
        self.assertEqual(names, ["model", "small", "small_1", "model_1"])
        for file in found:
            model = file.open(2)
            self.assertEqual(model.content, self.content)
            self.assertTrue(model.is_ordered)
        self.assertEqual([f.path for f in found[1:3]], 2 * [self.path])

    @parameterized.parameters(list, tuple)
    def test_one_is_a_list_of_one(self, kind):
        (one,) = self.files(self.path)
        (same,) = self.files(kind([self.path]))
        self.assertEqual(one, same)

    def test_names_that_are_given(self):
        found = self.files({"b": self.path, 1: self.path, "1": self.path})
        self.assertEqual([f.name for f in found], ["b", "1", "1_1"])

    def test_names_that_are_taken(self):
        names = ["a_1", "a", "a", "a"]
        paths = [self.folder / str(i) / f"{x}.md" for i, x in enumerate(names)]
        for path in paths:
            path.parent.mkdir()
            path.write_bytes(self.content)
        found = [file.name for file in self.files(paths)]
        self.assertEqual(found, ["a_1", "a", "a_2", "a_3"])

    def test_keras_models_are_exported(self):
        (file,) = self.files(dense())
        model = file.open(1)
        self.assertEqual(file.name, "dense")
        self.assertEqual(file.path.parent, self.folder)
        # As in `model.inputs`; the file has them in another order.
        self.assertEqual(model.input_names, ["zebra", "apple"])
        self.assertTrue(model.is_ordered)

    def test_how_keras_models_are_exported(self):
        model, data = dense(), {"zebra": 1, "apple": 2}
        with mock.patch.object(benchmark_models, "export_litert") as export:
            self.files([model, self.path], "int8", data, 2)
        path = self.folder / "0.tflite"
        export.assert_called_once_with(
            model, path, "int8", [1, 2], check=False, batch_size=2
        )

    def test_batch_sizes_of_keras_models(self):
        inputs = keras.Input(batch_shape=(4, 3))
        own = keras.Model(inputs, layers.Dense(2)(inputs))
        for model, size in ((dense(), 2), (own, 4)):
            (file,) = self.files(model, None, None, 2)
            shapes = file.open(1).input_shapes.values()
            self.assertEqual({shape[0] for shape in shapes}, {size})

    def test_order_is_not_made_up(self):
        content = two_inputs()
        order = ["zebra", "apple"]
        unordered, ordered = self.files(
            [LiteRTModel(content), LiteRTModel(content, input_names=order)]
        )
        self.assertIsNone(unordered.input_names)
        self.assertEqual(ordered.input_names, order)

    @parameterized.named_parameters(("list", []), ("tuple", ()), ("dict", {}))
    def test_no_models(self, models):
        with self.assertRaisesRegex(ValueError, "Pass a Keras model or the"):
            self.files(models)

    def test_unknown_types(self):
        models = {"a": 1, "b": self.path, "c": keras.layers.Dense(1)}
        wrong = r"'a': 'int', 'c': 'Dense'}. Pass one, a list, or a dict"
        with self.assertRaisesRegex(TypeError, wrong):
            self.files(models)
        with self.assertRaisesRegex(TypeError, "Pass one, a list, or a dict"):
            self.files(None)

    def test_missing_files(self):
        models = {"a": self.path, "b": "no/b.tflite", "c": self.folder}
        with self.assertRaisesRegex(
            ValueError, "'b': 'no/b.tflite', 'c': .*Check the paths"
        ):
            self.files(models)

    def test_files_are_not_quantized(self):
        with self.assertRaisesRegex(ValueError, "Pass Keras models, or"):
            self.files([self.path], "float16")

    def test_int8_without_data(self):
        with self.assertRaisesRegex(ValueError, "typical samples as inputs"):
            self.files([self.path, dense()], "int8")

    def test_unknown_quantization(self):
        with self.assertRaisesRegex(ValueError, "quantize='int4'. Choose"):
            self.files(dense(), "int4")


if __name__ == "__main__":
    absltest.main()
