"""Running LiteRT files."""

import pathlib
import sys
import tempfile
from unittest import mock

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.litert.model import LiteRTModel
from tests.helpers.litert_files import double
from tests.helpers.litert_files import file_of
from tests.helpers.litert_files import quantized
from tests.helpers.litert_files import spec
from tests.helpers.litert_files import two_inputs

ROWS = np.arange(21, dtype="float32").reshape(7, 3)


class LiteRTModelTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        if keras.backend.backend() != "tensorflow":
            self.skipTest("the files are made by TensorFlow")
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.path = pathlib.Path(folder) / "model.tflite"

    @parameterized.product(rows=(1, 2, 7), batch_size=(None, 1, 3, 100))
    def test_any_batch_size(self, rows, batch_size):
        model = LiteRTModel(file_of(double, spec(None, 3)))
        for x in (ROWS[:rows], ROWS[:1], ROWS[:rows]):
            y = model.predict(x, batch_size=batch_size)
            np.testing.assert_array_equal(y, 2 * x)
        self.assertEqual(model.input_shapes, {"x": (None, 3)})

    @parameterized.parameters(1, 2, 3, 7)
    def test_fixed_batch_size(self, size):
        model = LiteRTModel(file_of(double, spec(size, 3)))
        self.assertEqual(model.input_shapes, {"x": (size, 3)})
        np.testing.assert_array_equal(model(ROWS), 2 * ROWS)

    def test_other_unknown_sizes(self):
        model = LiteRTModel(file_of(double, spec(None, None, 2)))
        for size in (3, 5):
            x = np.ones((2, size, 2), "float32")
            np.testing.assert_array_equal(model(x), 2 * x)

    def test_path_bytes_and_size(self):
        content = file_of(double, spec(None, 3))
        self.path.write_bytes(content)
        for source in (content, self.path, str(self.path)):
            model = LiteRTModel(source, num_threads=2)
            self.assertEqual(model.num_bytes, len(content))
            np.testing.assert_array_equal(model(ROWS), 2 * ROWS)

    def test_several_inputs_go_by_name(self):
        apple, zebra = ROWS, ROWS**2 + 1
        expected = (zebra - apple, zebra * apple)
        content = two_inputs()
        by_name = LiteRTModel(content)
        for order in (["zebra", "apple"], ["apple", "zebra"]):
            ordered = LiteRTModel(content, input_names=order)
            self.assertEqual(ordered.input_names, order)
            arrays = {"zebra": zebra, "apple": apple}
            for outputs in (
                by_name(arrays),
                ordered(arrays),
                ordered([arrays[name] for name in order]),
            ):
                np.testing.assert_array_equal(outputs, expected)

    def test_many_outputs_keep_their_order(self):
        inputs = keras.Input((3,))
        outputs = [inputs + float(i) for i in range(12)]
        model = keras.Model(inputs, outputs)
        model.export(self.path, format="litert", verbose=False)
        for i, y in enumerate(LiteRTModel(self.path)(ROWS)):
            np.testing.assert_array_equal(y, ROWS + i)

    def test_keys_of_a_dict_of_outputs_are_in_order(self):
        inputs = keras.Input((3,))
        names = ("output_2", "output_10", "output_1")
        outputs = {name: inputs + float(name[7:]) for name in names}
        model = keras.Model(inputs, outputs)
        model.export(self.path, format="litert", verbose=False)
        expected = keras.tree.flatten(model(ROWS))
        found = LiteRTModel(self.path)(ROWS)
        np.testing.assert_array_equal(found, expected)

    @parameterized.parameters("int8", "uint8")
    def test_quantized_inputs_and_outputs(self, int_type):
        model = LiteRTModel(quantized(int_type))
        x = np.array([[-1.0, 0.25, 0.5], [0.0, 1.0, 9.0]], "float32")
        y = model(x)
        self.assertEqual(y.dtype, np.float32)
        # Steps are 2 / 255 in and 4 / 255 out; 9 is cut to 1.
        np.testing.assert_allclose(y, 2 * np.minimum(x, 1), atol=0.025)
        # Data that is quantized already passes as it is.
        raw = np.full((1, 3), 10, int_type)
        scale, zero_point = model._inputs["x"]["quantization"]
        expected = 2 * scale * (10.0 - zero_point) * np.ones((1, 3))
        np.testing.assert_allclose(model(raw), expected, atol=0.025)

    def test_integers_and_doubles_are_cast(self):
        content = file_of(lambda x: x + 1, spec(None, 3, dtype="int32"))
        y = LiteRTModel(content)(ROWS.astype("float64"))
        np.testing.assert_array_equal(y, ROWS + 1)

    def test_load_and_invoke(self):
        model = LiteRTModel(two_inputs())
        held = model.load({"zebra": 3 * ROWS, "apple": ROWS.astype("float64")})
        model.invoke()
        difference = model._result(model._outputs[0])
        np.testing.assert_array_equal(difference, 2 * ROWS)
        details = {d["index"]: d for d in model._inputs.values()}
        self.assertEqual(set(held), set(details))
        for index, array in held.items():
            self.assertEqual(array.dtype, np.float32)
            found = model._interpreter.get_tensor(index)
            np.testing.assert_array_equal(found, array)

    def test_load_fills_a_fixed_batch(self):
        model = LiteRTModel(file_of(double, spec(4, 3)))
        (held,) = model.load(ROWS[:2]).values()
        np.testing.assert_array_equal(held, ROWS[[0, 1, 1, 1]])

    def test_types_of_inputs(self):
        for content, expected in (
            (file_of(double, spec(None, 3)), "float32"),
            (quantized("int8"), "float32"),
            (file_of(lambda x: x + 1, spec(None, dtype="int32")), "int32"),
        ):
            model = LiteRTModel(content)
            self.assertEqual(list(model.input_dtypes.values()), [expected])
            self.assertEqual(model.content, content)

    @parameterized.named_parameters(
        ("list", [ROWS, ROWS], "Pass a dict"),
        ("number", [ROWS], "Pass a dict"),
        ("key", {"zebra": ROWS, "bear": ROWS}, "Pass a dict"),
        ("shape", {"zebra": ROWS, "apple": ROWS[:, 1:]}, "Expected: .*None, 3"),
        ("rank", {"zebra": ROWS, "apple": ROWS[0]}, "Expected: .*None, 3"),
        ("rows", {"zebra": ROWS, "apple": ROWS[1:]}, "same number of rows"),
        ("empty", {"zebra": ROWS[:0], "apple": ROWS[:0]}, "at least one"),
    )
    def test_wrong_inputs(self, inputs, message):
        with self.assertRaisesRegex(ValueError, message):
            LiteRTModel(two_inputs())(inputs)

    def test_wrong_batch_size(self):
        model = LiteRTModel(file_of(double, spec(None, 3)))
        with self.assertRaisesRegex(ValueError, "batch_size=-1"):
            model.predict(ROWS, batch_size=-1)

    @parameterized.parameters("3", 2.5, True, 0)
    def test_batch_size_is_no_whole_number(self, size):
        model = LiteRTModel(file_of(double, spec(None, 3)))
        with self.assertRaisesRegex(ValueError, "at least 1, or None"):
            model.predict(ROWS, batch_size=size)

    @parameterized.parameters("1", None, 0, -1, 1.5, True)
    def test_wrong_numbers_of_threads(self, num_threads):
        with self.assertRaisesRegex(ValueError, "a whole number of threads"):
            LiteRTModel(b"", num_threads)

    @parameterized.parameters((None,), (3,), (["a.tflite"],))
    def test_what_is_no_file(self, source):
        with self.assertRaisesRegex(TypeError, "`export_litert` makes a file"):
            LiteRTModel(source)

    @parameterized.parameters(
        (ROWS.astype("complex64"),),
        (ROWS.astype(str),),
        (np.full((2, 3), None),),
    )
    def test_what_holds_no_numbers(self, rows):
        model = LiteRTModel(file_of(double, spec(None, 3)))
        with self.assertRaisesRegex(ValueError, "Convert them, to float32"):
            model(rows)

    @parameterized.parameters(5, "x", [[]])
    def test_names_that_are_no_list(self, names):
        with self.assertRaisesRegex(ValueError, "Expected each of: .*apple"):
            LiteRTModel(two_inputs(), input_names=names)

    def test_wrong_names(self):
        with self.assertRaisesRegex(ValueError, "Expected each of: .*apple"):
            LiteRTModel(two_inputs(), input_names=["zebra", "bear"])

    def test_not_a_litert_file(self):
        with self.assertRaisesRegex(ValueError, "Expected a whole"):
            LiteRTModel(b"no such thing" * 10)

    def test_missing_package(self):
        missing = {"ai_edge_litert.interpreter": None}
        with mock.patch.dict(sys.modules, missing):
            with self.assertRaisesRegex(ImportError, "pip install ai-edge-l"):
                LiteRTModel(b"")


if __name__ == "__main__":
    absltest.main()
