"""Indices that a user gives are in the model's tables."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers
from keras import ops

from keras_prm.equivalence import index_checks
from keras_prm.litert.export import export_litert
from keras_prm.verification.verify import verify


def table(rows=20):
    return layers.Embedding(rows, 4, name="table")


def direct(x):
    return table()(x)


def nested(x):
    inner = keras.Sequential([keras.Input((5,)), table()], name="inner")
    return inner(x)


def twice_nested(x):
    part = keras.Input((5,))
    return keras.Model(part, nested(ops.cast(part, "int32")))(x)


def shifted(x):
    """Of rows from 1 to 20 in the data."""
    return table()(x - 1)


INDICES = np.arange(20).reshape(4, 5)


def model_of(function, dtype="int32"):
    inputs = keras.Input((5,), dtype=dtype, name="words")
    outputs = layers.GlobalAveragePooling1D()(function(inputs))
    return keras.Model(inputs, layers.Dense(3)(outputs))


def check(model, *arrays):
    index_checks.check_indices(model, [*arrays], "inputs", "compare")


class CheckTest(parameterized.TestCase):
    @parameterized.product(
        function=(direct, nested, twice_nested), dtype=("int32", "float32")
    )
    def test_named(self, function, dtype):
        model, x = model_of(function, dtype), INDICES.astype(dtype)
        check(model, x)
        check(model, x - 20)  # counted from the end
        x[2, 3] = 33
        with self.assertRaisesRegex(
            ValueError,
            "inputs holds.*table 'table'.*input 'words', indices that come "
            "to 0 to 19, of its 20 rows. Received: 33.*and 1 of 20 outside. "
            "Pass indices of the table.*`input_dim`",
        ):
            check(model, x)
        with self.assertRaisesRegex(ValueError, "Received: -21"):
            check(model, INDICES.astype(dtype) - 21)

    def test_indices_that_are_computed(self):
        model = model_of(shifted)
        check(model, INDICES + 1)
        with self.assertRaisesRegex(ValueError, "Received: 20, and 1 of 20"):
            check(model, INDICES + 2)

    def test_nan(self):
        with self.assertRaisesRegex(ValueError, "Received: nan"):
            check(model_of(direct, "float32"), np.full((2, 5), np.nan))

    def test_several_inputs(self):
        """Each is of a table of its own, or of the one that they share."""
        inputs = [keras.Input((5,), name=name) for name in "ab"]
        shared, small = table(), layers.Embedding(7, 4, name="small")
        x = [shared(inputs[0]), shared(inputs[1]), small(inputs[1])]
        x = layers.GlobalAveragePooling1D()(layers.Add()(x))
        model = keras.Model(inputs, layers.Dense(2)(x))
        check(model, INDICES, INDICES % 7)
        with self.assertRaisesRegex(ValueError, "'small'.*input 'b'.*7, and"):
            check(model, INDICES, INDICES)
        with self.assertRaisesRegex(ValueError, "'table'.*input 'a'.*20, "):
            check(model, INDICES + 1, INDICES % 7)

    def test_verify(self):
        model = model_of(nested)
        self.assertTrue(verify(model, model, inputs=INDICES - 20).ok)
        with self.assertRaisesRegex(ValueError, "Pass indices of the table"):
            verify(model, model, inputs=INDICES + 1)

    @parameterized.parameters("inputs", "representative_data")
    def test_export_litert(self, name):
        data = {name: INDICES + 1}
        with self.assertRaisesRegex(ValueError, f"{name} holds numbers that"):
            export_litert(model_of(direct), "never.tflite", **data)


if __name__ == "__main__":
    absltest.main()
