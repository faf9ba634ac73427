"""Users' data: what they stand for."""

import collections
import itertools

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.utils import datasets
from tests.helpers import exporting


class Endless(keras.utils.PyDataset):
    """Without a `__len__`: Keras goes on asking for more."""

    num_batches = None

    def __getitem__(self, index):
        return np.ones((4, 3)), np.ones(4)


X, Y = np.arange(20.0).reshape(10, 2), np.arange(10)


class LabeledBatchesTest(parameterized.TestCase):
    def batches(self, data, size=4):
        return list(datasets.labeled_batches(data, size, "d", RuntimeError))

    @parameterized.named_parameters(
        ("tuple", lambda: (X, Y)),
        ("list", lambda: [X, Y]),
        ("no_weights", lambda: (X, Y, None)),
        ("inputs", lambda: ((X,), Y)),
        ("batches", lambda: [(X[i:][:4], Y[i:][:4]) for i in (0, 4, 8)]),
        ("lists", lambda: ([X[i:][:4], Y[i:][:4], None] for i in (0, 4, 8))),
    )
    def test_forms(self, make):
        found = self.batches(make())
        self.assertEqual([len(batch) for batch in found], [2, 2, 2])
        self.assertEqual([len(y) for _, y in found], [4, 4, 2])
        parts = [keras.tree.flatten(x)[0] for x, _ in found]
        np.testing.assert_array_equal(np.concatenate(parts), X)

    def test_labels_that_are_not_needed(self):
        labels = {"a": Y, "b": None}
        for data in ((X, labels), [(X, labels)], [[X, [Y, None]]]):
            found = self.batches(data, size=100)
            self.assertLen(found, 1)
            self.assertEqual(len(found[0][1]), 2)

    @parameterized.named_parameters(
        ("no_labels", (X,), "a tuple of 1, without labels"),
        ("dict", {"x": X}, "a dict of .*, without labels"),
        ("array", X, "of type ndarray"),
        ("many", [(X, Y, Y, Y)], "a tuple of 4"),
        ("words", ("x", "y"), "words; make arrays"),
        ("samples", [(1.0, 2.0)], "single samples"),
    )
    def test_another_form(self, data, received):
        with self.assertRaisesRegex(RuntimeError, received):
            self.batches(data)

    def test_nothing_to_go_through(self):
        with self.assertRaisesRegex(RuntimeError, "3 .of type int"):
            self.batches(3)

    def test_one_label_for_each(self):
        with self.assertRaisesRegex(
            ValueError, r"`d` differ.*\[10, 9\] samples"
        ):
            self.batches((X, Y[1:]))

    def test_endless(self):
        with self.assertRaisesRegex(ValueError, "never end.*`num_batches`"):
            self.batches(Endless())
        found = datasets.batches(Endless(), 1)
        self.assertLen([*itertools.islice(found, 3)], 3)

    def test_labels_that_are_none(self):
        """Of models whose losses are all added by layers; no weights."""
        found = self.batches([(X, None), (X, Y, None), (X, Y.tolist())])
        self.assertEqual([len(batch) for batch in found], [2, 2, 2])
        self.assertIsNone(found[0][1])
        np.testing.assert_array_equal(found[2][1], Y)
        with self.assertRaisesRegex(RuntimeError, "weights of labels"):
            self.batches([(X, None, Y)])

    def test_what_else_is_called_cardinality(self):
        class Cards(list):
            cardinality = 52

        self.assertLen(self.batches(Cards([(X, Y)])), 1)
        pair = collections.namedtuple("Pair", "x y")
        self.assertLen(self.batches((pair(X, Y), pair(X, Y))), 2)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return np.ones((4, 3)), np.ones(4)


ROWS = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")


def first_rows(model, data):
    return datasets.first_rows(model, data, "samples", "export to LiteRT")


def token_model():
    inputs = keras.Input((6,), dtype="int32", name="tokens")
    return keras.Model(inputs, keras.layers.Embedding(5, 3)(inputs))


class FirstRowsTest(parameterized.TestCase):
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
        (found,) = first_rows(exporting.dense_model(), form(ROWS))
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
            first_rows(model, data)

    def test_what_of_several_inputs_is_wrong(self):
        inputs = {name: keras.Input((3,), name=name) for name in "ab"}
        model = keras.Model(inputs, keras.layers.Add()([*inputs.values()]))
        for data, message in (
            ({"a": ROWS}, r"missing: \['b'\], unknown: \[\]. Pass an array"),
            ({"a": ROWS, "c": ROWS}, r"missing: \['b'\], unknown: \['c'\]"),
            ([ROWS, ROWS[:2]], "Pass as many rows of each input"),
            ([ROWS[0], ROWS[0]], "Rows come first"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                first_rows(model, data)

    def test_labels_are_no_inputs(self):
        for num_inputs, data in (
            (1, (ROWS, 1000 * ROWS)),
            (2, ([ROWS, ROWS], 1000 * ROWS)),
            (2, ({"a": ROWS, "b": ROWS}, 1000 * ROWS)),
            (2, (ROWS, ROWS)),
        ):
            inputs = [keras.Input((3,), name=n) for n in "ab"[:num_inputs]]
            output = keras.layers.Add()(inputs) if inputs[1:] else inputs[0]
            model = keras.Model(inputs, keras.layers.Dense(3)(output))
            for found in first_rows(model, data):
                np.testing.assert_array_equal(found, ROWS)

    def test_integers(self):
        tokens = np.arange(12.0).reshape(2, 6) % 5
        (found,) = first_rows(token_model(), tokens)
        self.assertEqual(found.dtype, np.int32)
        with self.assertRaisesRegex(ValueError, "tokens.*Pass integers"):
            first_rows(token_model(), tokens + 0.5)
        with self.assertRaisesRegex(ValueError, "tokens.*integers that fit"):
            first_rows(token_model(), tokens + 2.0**40)

    def test_keys_before_names(self):
        a, b = keras.Input((3,), name="q"), keras.Input((3,), name="p")
        with self.assertWarnsRegex(UserWarning, "must match the names"):
            model = keras.Model({"p": a, "q": b}, keras.layers.Add()([a, b]))
        found = first_rows(model, {"p": ROWS, "q": -ROWS})
        named = dict(zip([x.name for x in model.inputs], found))
        np.testing.assert_array_equal(named["q"], ROWS)
        np.testing.assert_array_equal(named["p"], -ROWS)

    def test_names_where_there_are_no_keys(self):
        inputs = [keras.Input((3,), name=name) for name in "qp"]
        model = keras.Model(inputs, keras.layers.Add()(inputs))
        q, p = first_rows(model, {"p": ROWS, "q": -ROWS})
        np.testing.assert_array_equal((q, p), (-ROWS, ROWS))


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
