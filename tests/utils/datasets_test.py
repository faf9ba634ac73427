"""Samples to calibrate and check with."""

import itertools

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.utils import datasets
from tests.helpers import exporting


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return np.ones((4, 3)), np.ones(4)


X = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")


def token_model():
    inputs = keras.Input((6,), dtype="int32", name="tokens")
    return keras.Model(inputs, keras.layers.Embedding(5, 3)(inputs))


class RepresentativeTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("array", lambda x: x, 20),
        ("doubles", lambda x: x.astype(float), 20),
        ("many", lambda x: np.repeat(x, 20, axis=0), 256),
        ("dict", lambda x: {"x": x}, 20),
        ("list_of_batches", lambda x: [x[:3], x[3:6]], 6),
        ("generator", lambda x: (x[i : i + 1] for i in range(5)), 5),
        ("fit_tuples", lambda x: iter([(x[:2], [0, 1]), (x[:4], None)]), 6),
        ("x_and_y", lambda x: (x, x), 20),
        ("x_y_and_weights", lambda x: (x, x, np.ones(20)), 20),
        ("x_alone", lambda x: (x,), 20),
        ("tuple_of_batches", lambda x: ((x, x), (x, x)), 40),
        ("lists_of_x_and_y", lambda x: [[x[:2], np.ones(2)]] * 4, 8),
        ("tensor", keras.ops.convert_to_tensor, 20),
        ("endless", itertools.repeat, 256),
        ("py_dataset", lambda x: Batches(), 12),
        ("function", lambda x: lambda: ([x[i : i + 1]] for i in range(7)), 7),
    )
    def test_forms(self, form, num):
        (found,) = datasets.representative(exporting.dense_model(), form(X))
        self.assertLen(found, num)
        self.assertEqual(found.dtype, np.float32)

    @parameterized.named_parameters(
        ("empty_array", np.ones((0, 3)), "Pass some hundred typical"),
        ("empty_list", [], "a generator can be read only once"),
        ("shape", np.ones((4, 2)), "Pass batches"),
        (
            "unbatched",
            [np.ones(3)],
            r"Rows come first: `x\[None\]`",
        ),
        ("number", [5.0], "Pass batches"),
        ("key", {"picture": np.ones((4, 3))}, r"\['picture'\]. Pass an array"),
        ("nan", np.full((4, 3), np.nan), "Remove the samples"),
        ("infinity", np.full((4, 3), np.inf), "Remove the samples"),
        ("infinite_as_float32", np.full((4, 3), 1e300), "Remove the samples"),
        ("text", np.full((4, 3), "a"), "to float32"),
        ("objects", np.full((4, 3), None), "to float32"),
        ("complex", np.full((4, 3), 1j), "to float32"),
    )
    def test_refused(self, data, message):
        model = exporting.dense_model()
        with self.assertRaisesRegex(ValueError, message):
            datasets.representative(model, data)

    def test_what_of_several_inputs_is_wrong(self):
        inputs = {name: keras.Input((3,), name=name) for name in "ab"}
        model = keras.Model(inputs, keras.layers.Add()([*inputs.values()]))
        for data, message in (
            ({"a": X}, r"missing: \['b'\], unknown: \[\]. Pass an array"),
            ({"a": X, "c": X}, r"missing: \['b'\], unknown: \['c'\]"),
            ([X, X[:2]], "Pass as many rows of each input"),
            ([X[0], X[0]], "Rows come first"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                datasets.representative(model, data)

    def test_labels_are_no_inputs(self):
        for num_inputs, data in (
            (1, (X, 1000 * X)),
            (2, ([X, X], 1000 * X)),
            (2, ({"a": X, "b": X}, 1000 * X)),
            (2, (X, X)),
        ):
            inputs = [keras.Input((3,), name=n) for n in "ab"[:num_inputs]]
            output = keras.layers.Add()(inputs) if inputs[1:] else inputs[0]
            model = keras.Model(inputs, keras.layers.Dense(3)(output))
            for found in datasets.representative(model, data):
                np.testing.assert_array_equal(found, X)

    def test_integers(self):
        tokens = np.arange(12.0).reshape(2, 6) % 5
        (found,) = datasets.representative(token_model(), tokens)
        self.assertEqual(found.dtype, np.int32)
        with self.assertRaisesRegex(ValueError, "tokens.*Pass integers"):
            datasets.representative(token_model(), tokens + 0.5)
        with self.assertRaisesRegex(ValueError, "tokens.*integers that fit"):
            datasets.representative(token_model(), tokens + 2.0**40)

    def test_keys_before_names(self):
        a, b = keras.Input((3,), name="q"), keras.Input((3,), name="p")
        with self.assertWarnsRegex(UserWarning, "must match the names"):
            model = keras.Model({"p": a, "q": b}, keras.layers.Add()([a, b]))
        found = datasets.representative(model, {"p": X, "q": -X})
        named = dict(zip([x.name for x in model.inputs], found))
        np.testing.assert_array_equal(named["q"], X)
        np.testing.assert_array_equal(named["p"], -X)

    def test_names_where_there_are_no_keys(self):
        inputs = [keras.Input((3,), name=name) for name in "qp"]
        model = keras.Model(inputs, keras.layers.Add()(inputs))
        q, p = datasets.representative(model, {"p": X, "q": -X})
        np.testing.assert_array_equal((q, p), (-X, X))


class CalibrationTest(parameterized.TestCase):
    @parameterized.parameters(0.0, 1.0, -3.5)
    def test_constant(self, value):
        model = exporting.dense_model()
        data = [np.full((4, 3), value, "float32")]
        with self.assertRaisesRegex(ValueError, f"{value}.*Pass some hundred"):
            datasets.check_calibration(model, data)
        data[0][0, 0] += 1
        datasets.check_calibration(model, data)

    @parameterized.parameters((11.0, False), (9.0, True), (1.0, True))
    def test_range(self, factor, passes):
        model = exporting.dense_model()
        for pair in (([X], [factor * X]), ([factor * X], [X])):
            if passes:
                datasets.check_calibration(model, *pair)
            else:
                with self.assertRaisesRegex(ValueError, "x.*Scale both alike"):
                    datasets.check_calibration(model, *pair)

    def test_large_numbers(self):
        x = X / np.abs(X).max() * np.float32(3e38)
        datasets.check_calibration(exporting.dense_model(), [x], [x])

    def test_range_of_integers_is_not_judged(self):
        tokens = np.arange(12).reshape(2, 6)
        datasets.check_calibration(token_model(), [tokens], [100 * tokens])

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
            datasets.check_calibration(model, data, data)


class PortionsTest(parameterized.TestCase):
    @parameterized.parameters(
        (4, False, [4, 4, 2], 4),
        (12, False, [10], 10),
        (12, True, [10], 12),
    )
    def test_all_rows_once(self, size, is_fixed, expected, rows):
        arrays = [np.arange(10), np.arange(20).reshape(10, 2)]
        parts = list(datasets.portions(arrays, size, is_fixed))
        self.assertEqual([num for _, num in parts], expected)
        for i, array in enumerate(arrays):
            self.assertEqual({len(x[i]) for x, _ in parts}, {rows})
            joined = np.concatenate([x[i][:num] for x, num in parts])
            np.testing.assert_array_equal(joined, array)


if __name__ == "__main__":
    absltest.main()
