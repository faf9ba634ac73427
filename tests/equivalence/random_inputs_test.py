"""Random inputs by what the first layers of a model take."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.equivalence import input_domains
from keras_prm.equivalence import random_inputs


def model_of(layer, shape, dtype="float32"):
    inputs = keras.Input(shape, dtype=dtype)
    return keras.Model(inputs, layer(inputs))


def image_model(*first):
    return keras.Sequential(
        [keras.Input((8, 8, 3)), *first, layers.Conv2D(2, 3)]
    )


def normalization():
    return layers.Normalization(mean=[10.0, 100.0, 50.0], variance=[1, 4, 9.0])


def divided(x):
    return layers.Conv2D(2, 3)(x / 127.5 - 1.0)


def centerd(x):
    return layers.Conv2D(2, 3)(x - np.array([104.0, 117.0, 123.0]))


class RangeTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("bytes", [layers.Rescaling(1 / 255)], 0, 255),
        ("around_zero", [layers.Rescaling(1 / 127.5, -1.0)], 0, 255),
        ("two", [layers.Rescaling(1 / 255), layers.Normalization()], 0, 255),
        (
            "to_and_fro",
            [layers.Rescaling(255), layers.Rescaling(1 / 255)],
            0,
            1,
        ),
        (
            "augmented",
            [layers.RandomFlip(), layers.Dropout(0.1), layers.Rescaling(0.01)],
            0,
            100,
        ),
        (
            "nested",
            [keras.Sequential([layers.Rescaling(1 / 255), layers.ReLU()])],
            0,
            255,
        ),
        ("normalized", [normalization()], 8, 104),
        ("nothing", [], -1, 1),
    )
    def test_real(self, first, low, high):
        self.assert_range(image_model(*first), low, high)

    @parameterized.parameters((divided, 255), (centerd, 246))
    def test_constants(self, function, high):
        self.assert_range(model_of(function, (8, 8, 3)), 0, high)

    def assert_range(self, model, low, high):
        (array,) = random_inputs.random(model)
        array, reach = array[:-1], high - low
        self.assertBetween(array.min(), low, low + 0.02 * reach)
        self.assertBetween(array.max(), high - 0.02 * reach, high)

    @parameterized.parameters(
        layers.Rescaling([0.0, 1 / 255, 1 / 255], [9.0, 0.0, 0.0]),
        lambda x: x * np.array([0.0, 1 / 255, 1 / 255]),
        lambda x: x / np.array([0.0, 255.0, 255.0]),
    )
    def test_a_factor_of_zero(self, first):
        """Whatever it is times, the others tell their range."""
        (domain,) = input_domains.input_domains(model_of(first, (8, 3)))
        self.assertEqual(np.max(domain.low), 0.0)
        np.testing.assert_allclose(domain.high, [1.0, 255.0, 255.0])

    @parameterized.parameters(
        layers.Rescaling([np.nan, 1.0, 1.0]),
        layers.Rescaling([1e-320, 1.0, 1.0]),
        layers.Normalization(mean=[np.inf, 0, 0], variance=[1.0, 1.0, 1.0]),
        layers.Discretization(bin_boundaries=[-np.inf, 0.0]),
    )
    def test_ends_that_are_not_finite(self, first):
        self.assertEqual(
            input_domains.input_domains(model_of(first, (8, 3))), [None]
        )
        self.assertTrue(
            np.isfinite(random_inputs.random(model_of(first, (8, 3)))[0]).all()
        )

    def test_each_channel_has_its_own(self):
        (array,) = random_inputs.random(image_model(normalization()))
        array = array[:-1]
        np.testing.assert_allclose(array.min((0, 1, 2)), (8, 96, 44), rtol=0.02)
        np.testing.assert_allclose(
            array.max((0, 1, 2)), (12, 104, 56), rtol=0.02
        )

    def test_wrapped(self):
        inside = keras.Sequential([layers.Embedding(50, 3), layers.Flatten()])
        model = model_of(layers.TimeDistributed(inside), (4, 5), "int32")
        (array,) = random_inputs.random(model)
        self.assertSameElements(np.unique(array), range(50))

    def test_bytes_and_booleans(self):
        def cast(x):
            return layers.Dense(2)(keras.ops.cast(x, "float32"))

        (array,) = random_inputs.random(model_of(cast, (20,), "uint8"))
        self.assertEqual((array.dtype, array.max()), (np.uint8, 255))
        (array,) = random_inputs.random(model_of(cast, (20,), "bool"))
        self.assertEqual(array.dtype, bool)
        self.assertBetween(array[:-1].mean(), 0.4, 0.6)

    def test_the_last_row_is_zeros(self):
        (array,) = random_inputs.random(image_model(layers.Rescaling(1 / 255)))
        self.assertEqual(np.abs(array[-1]).max(), 0)
        self.assertTrue(np.abs(array[:-1]).max((1, 2, 3)).all())


class IndexTest(parameterized.TestCase):
    def test_the_whole_table(self):
        for size in (5, 40, 3000):
            model = model_of(layers.Embedding(size, 2), (1,), "int32")
            (array,) = random_inputs.random(model)
            self.assertSameElements(np.unique(array), range(size))

    def test_a_table_too_large_is_spread_over(self):
        model = model_of(layers.Embedding(10**6, 1), (1,), "int32")
        (array,) = random_inputs.random(model)
        self.assertLen(np.unique(array), 4095)  # and the first one is 0
        self.assertEqual(array.max(), 10**6 - 1)

    def test_the_smallest_of_several(self):
        tokens = keras.Input((6,), dtype="int32")
        tables = [layers.Embedding(n, 2)(tokens) for n in (30, 7, 9)]
        model = keras.Model(tokens, layers.Add()(tables))
        (array,) = random_inputs.random(model)
        self.assertSameElements(np.unique(array), range(7))

    def test_columns_of_one_input(self):
        inputs = keras.Input((2,), dtype="int32")
        tables = [
            layers.Embedding(n, 2)(inputs[:, i]) for i, n in ((0, 70), (1, 9))
        ]
        (array,) = random_inputs.random(
            keras.Model(inputs, layers.Add()(tables))
        )
        self.assertSameElements(np.unique(array[:, 0]), range(70))
        self.assertSameElements(np.unique(array[:, 1]), range(9))

    def test_zeros_are_padding_alone(self):
        embedding = layers.Embedding(20, 3, mask_zero=True)
        (array,) = random_inputs.random(model_of(embedding, (9,), "int32"))
        steps = array[:-1] != 0
        self.assertSameElements(np.unique(array), range(20))
        self.assertTrue(steps[:, 0].all())
        self.assertTrue((steps[:, 1:] <= steps[:, :-1]).all())
        self.assertFalse(steps.all())
        self.assertTrue(steps[:16].all())

    def test_a_layer_that_has_tables_inside(self):
        class Positions(layers.Layer):
            def __init__(self):
                super().__init__()
                self.tokens = layers.Embedding(50, 2)

            def call(self, x):
                return self.tokens(x)

        (array,) = random_inputs.random(model_of(Positions(), (6,), "int32"))
        self.assertSameElements(np.unique(array), range(50))

    @parameterized.parameters(
        (lambda x: layers.CategoryEncoding(7)(x), range(7)),
        (lambda x: keras.ops.one_hot(x, 6), range(6)),
        (lambda x: keras.ops.take(np.ones((5, 2)), x, axis=0), range(5)),
    )
    def test_others(self, function, expected):
        (array,) = random_inputs.random(model_of(function, (4,), "int32"))
        self.assertSameElements(np.unique(array), expected)

    def test_rows_agree_between_inputs(self):
        a, b = keras.Input((3,)), keras.Input((1,), dtype="int32")
        y = layers.Dense(2)(a), layers.Embedding(90, 2)(b)
        arrays = random_inputs.random(keras.Model([a, b], y))
        self.assertEqual([len(x) for x in arrays], [91, 91])


class WordTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        if keras.backend.backend() != "tensorflow":
            self.skipTest("TensorFlow alone has strings")

    def test_texts(self):
        layer = layers.TextVectorization(
            vocabulary=["cat", "dog"], output_sequence_length=5
        )
        (array,) = random_inputs.random(model_of(layer, (1,), "string"))
        words = {word for text in array[:-1].flat for word in text.split()}
        self.assertEqual(words, {"cat", "dog", "zzz"})
        self.assertEqual(array[-1, 0], "")

    def test_lookups(self):
        layer = layers.StringLookup(vocabulary=["x", "zzz"])
        (array,) = random_inputs.random(model_of(layer, (2,), "string"))
        self.assertEqual(set(array[:-1].flat), {"x", "zzz", "zzzz"})
        layer = layers.StringLookup(vocabulary=["x", "y"], num_oov_indices=0)
        (array,) = random_inputs.random(model_of(layer, (2,), "string"))
        self.assertEqual(set(array[:-1].flat), {"x", "y"})
        layer = layers.IntegerLookup(vocabulary=[3, 70, 900])
        (array,) = random_inputs.random(model_of(layer, (2,), "int64"))
        self.assertEqual(set(array[:-1].flat), {3, 70, 900, 901})

    def test_buckets(self):
        layer = layers.Discretization([0.0, 10.0, 100.0])
        (array,) = random_inputs.random(model_of(layer, (2,)))
        buckets = np.digitize(array.ravel(), [0, 10, 100])
        self.assertSameElements(buckets.tolist(), range(4))
        layer = layers.Hashing(7)
        (array,) = random_inputs.random(model_of(layer, (2,), "string"))
        self.assertGreater(len(set(array.flat)), 7)


class TextTest(parameterized.TestCase):
    @parameterized.parameters(
        ("uint8", "integers 0 to 255"),
        ("float32", "[0, 255)"),
        ("int8", "integers 0 to 127"),
    )
    def test_bytes_that_are_scaled(self, dtype, expected):
        """Of integers both ends are drawn."""
        model = model_of(layers.Rescaling(1 / 255), (40, 40, 3), dtype)
        drawn = next(random_inputs.attempts(model))
        self.assertEqual(drawn.text, expected)
        if dtype == "uint8":
            self.assertEqual(drawn.arrays[0].max(), 255)


class AttemptsTest(parameterized.TestCase):
    def test_what_a_layer_says_may_be_too_much(self):
        """Others are tried after it: real numbers first, then integers."""
        a, b = keras.Input((3,)), keras.Input((2,), dtype="int32")
        y = layers.Rescaling(0.01)(a), layers.Embedding(9, 2)(b)
        found = [*random_inputs.attempts(keras.Model([a, b], y))]
        ends = [(d.arrays[0].max().round(), d.arrays[1].max()) for d in found]
        self.assertEqual(ends[:3], [(100, 8), (1, 8), (1, 8)])
        self.assertIn((254, 8), ends)
        self.assertEqual(ends[-1][1], 1)
        self.assertLen(found, 13)

    def test_open_sizes(self):
        model = model_of(layers.Conv2D(1, 3), (None, None, 1))
        shapes = [d.arrays[0].shape for d in random_inputs.attempts(model, 2)]
        self.assertEqual(shapes[0], (2, 32, 32, 1))
        self.assertEqual(shapes[-1], (2, 256, 256, 1))

    def test_text(self):
        self.assertEqual(
            [
                str(input_domains.Domain("real", 0.0, 255.0)),
                str(input_domains.Domain("integer", 0, 8, padded=True)),
                str(input_domains.Domain("word", values=("a",))),
                str(input_domains.Domain("word", values=("a",), length=3)),
                str(input_domains.Domain("integer", values=(3, 9))),
            ],
            [
                "[0, 255)",
                "integers 0 to 8, zeros at the end",
                "its words",
                "texts of its words",
                "2 integers of its vocabulary",
            ],
        )


if __name__ == "__main__":
    absltest.main()
