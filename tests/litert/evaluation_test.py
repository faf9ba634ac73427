"""Scores of a model and its file. Needs no file: anything that predicts."""

import functools
from unittest import mock

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.litert import evaluation
from tests.helpers import exporting

X = np.random.default_rng(0).normal(size=(300, 3)).astype("float32")


class File:
    """Predicts as a model, but for the sign."""

    def __init__(self, model):
        self.model = model

    def predict(self, arrays):
        return -self.model.predict(arrays[0], verbose=0)


class Batches(keras.utils.PyDataset):
    def __init__(self, y):
        super().__init__()
        self.y = y

    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(100 * index, 100 * (index + 1))
        return X[rows], self.y[rows]


def half(y, predictions):
    """A metric that is a function: 0.5 for each sample."""
    return 0.5 + 0.0 * keras.ops.sum(predictions, -1)


class NotCopied(keras.Metric):
    def __init__(self, factor):
        super().__init__()


class EvaluationTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.model = exporting.dense_model()
        self.view = keras.Model(self.model.inputs, self.model.outputs)
        predicted = self.model.predict(X, verbose=0)
        self.best, self.worst = predicted.argmax(-1), predicted.argmin(-1)
        self.y = self.best.copy()
        self.y[:30] = (self.y[:30] + 1) % 3

    def scores(self, data, metric=None):
        scores = evaluation.Evaluation(self.view, data, metric)
        return scores.run(File(self.model))

    @parameterized.named_parameters(
        ("arrays", lambda x, y: (x, y)),
        ("column", lambda x, y: (x, y[:, None])),
        ("whole_floats", lambda x, y: (x, y.astype("float32"))),
        ("no_weights", lambda x, y: (x, y, None)),
        ("weights", lambda x, y: (x, y, np.ones(300))),
        ("batches", lambda x, y: [(x[:200], y[:200]), (x[200:], y[200:])]),
        ("lists", lambda x, y: [[x[:200], y[:200]], [x[200:], y[200:]]]),
        (
            "generator",
            lambda x, y: ((x[i:][:7], y[i:][:7]) for i in range(0, 300, 7)),
        ),
        ("py_dataset", lambda x, y: Batches(y)),
    )
    def test_forms_of_data(self, form):
        found = self.scores(form(X, self.y))
        self.assertEqual(found.metric, "sparse_categorical_accuracy")
        self.assertEqual(found.num_samples, 300)
        self.assertAlmostEqual(found.model, 0.9, 6)
        self.assertAlmostEqual(found.file, (self.worst == self.y).mean(), 6)

    def test_one_hot(self):
        found = self.scores((X, np.eye(3)[self.y]))
        self.assertEqual(found.metric, "categorical_accuracy")
        self.assertAlmostEqual(found.model, 0.9, 6)

    def test_weights_count(self):
        weights = np.arange(300) >= 30
        self.assertAlmostEqual(self.scores((X, self.y, weights)).model, 1.0, 6)

    @parameterized.parameters(
        "mean_squared_error", "mse", keras.metrics.MeanSquaredError(), half
    )
    def test_other_metrics(self, metric):
        y = np.ones((300, 3))
        found = self.scores((X, y), metric)
        predicted = self.model.predict(X, verbose=0)
        expected = ((predicted - y) ** 2).mean(), ((predicted + y) ** 2).mean()
        if metric is half:
            expected = 0.5, 0.5
        self.assertAlmostEqual(found.model, expected[0], 5)
        self.assertAlmostEqual(found.file, expected[1], 5)

    def test_means_over_batches_count_by_rows(self):
        y = np.concatenate([np.zeros((256, 3)), np.ones((44, 3))])
        found = self.scores((X, y), lambda y, _: keras.ops.mean(y))
        self.assertAlmostEqual(found.model, y.mean(), 5)
        weights = np.arange(300) % 2
        found = self.scores((X, y, weights), lambda y, _: np.mean(y))
        self.assertAlmostEqual(found.model, y.mean(), 5)

    @parameterized.named_parameters(
        ("loss", keras.losses.MeanSquaredError(), "mean_squared_error"),
        ("partial", functools.partial(half), "partial"),
    )
    def test_other_callables(self, metric, name):
        y = np.ones((300, 3))
        weights = np.arange(300) < 150
        found = self.scores((X, y, weights), metric)
        predicted = self.model.predict(X, verbose=0)
        expected = ((predicted - y)[:150] ** 2).mean()
        self.assertEqual(found.metric, name)
        expected = 0.5 if name == "partial" else expected
        self.assertAlmostEqual(found.model, expected, 5)

    def test_an_output_in_a_dict(self):
        self.model = keras.Model(
            {"x": self.model.input}, {"y": self.model.output}
        )
        self.view = self.model
        with mock.patch.object(File, "predict", lambda _, x: np.ones((32, 3))):
            found = self.scores(({"x": X[:32]}, self.best[:32]))
        self.assertEqual(found.model, 1.0)

    def test_256_rows_are_looked_at(self):
        x = np.arange(300, dtype="float32")[:, None] * X
        batches = ((x[i:][:32], self.y[i:][:32]) for i in range(0, 300, 32))
        scores = evaluation.Evaluation(self.view, batches)
        (values,) = scores.inputs
        expected = x[:256]
        np.testing.assert_allclose(values, expected.ravel(), rtol=1e-6)
        self.assertEqual(scores.run(File(self.model)).num_samples, 300)

    def test_metric_objects_are_not_touched(self):
        metric = keras.metrics.MeanSquaredError()
        metric.update_state([[1.0]], [[3.0]])
        self.scores((X, np.ones((300, 3))), metric)
        self.assertEqual(float(metric.result()), 4.0)

    def test_one_figure_for_each_pixel(self):
        inputs = keras.Input((4, 4, 2))
        self.model = keras.Model(inputs, keras.layers.Conv2D(3, 1)(inputs))
        self.view = keras.Model([inputs], self.model.outputs)
        x = np.random.default_rng(0).normal(size=(5, 4, 4, 2))
        found = self.scores((x, self.model.predict(x, verbose=0).argmax(-1)))
        self.assertEqual((found.model, found.num_samples), (1.0, 5))

    @parameterized.named_parameters(
        ("regression", np.random.default_rng(1).normal(size=(300, 3))),
        ("several_labels", np.ones((300, 3), int)),
        ("text", np.full(300, "cat")),
    )
    def test_accuracy_is_unclear(self, y):
        with self.assertRaisesRegex(ValueError, "Pass metric="):
            self.scores((X, y))

    def test_accuracy_of_one_figure_is_unclear(self):
        view = exporting.dense_model(1)
        with self.assertRaisesRegex(ValueError, "binary_accuracy"):
            evaluation.Evaluation(view, (X, np.ones(300, int)), "accuracy")

    @parameterized.named_parameters(
        ("empty", (X[:0], X[:0, 0]), "Pass arrays"),
        ("no_batches", [], "a generator can be read only once"),
        ("array", [X], "Pass a tuple of arrays"),
        ("dict", [{"x": X}], "Pass a tuple of arrays"),
        ("one", (X,), "Pass a tuple of arrays"),
        ("none", [(X, None)], "labels that are None. Pass a tuple"),
        ("rows", (X, np.ones(299, int)), "one label for each"),
        ("scalar", [(X, 1)], "one label for each"),
        ("shape", (X[:, :2], np.ones(300, int)), "evaluation_data.*Pass batc"),
        ("nan", (X * np.nan, np.ones(300, int)), "Remove the samples"),
    )
    def test_wrong_data(self, data, message):
        with self.assertRaisesRegex(ValueError, message):
            self.scores(data)

    def test_wrong_metrics(self):
        data = (X, self.y)
        with self.assertRaisesRegex(ValueError, "the name of a class of"):
            self.scores(data, "nonsense")
        with self.assertRaisesRegex(ValueError, "the name of a class of"):
            self.scores(data, keras.layers.Dense)
        with self.assertRaisesRegex(TypeError, "Give it a `get_config`"):
            self.scores(data, NotCopied(3))
        with self.assertRaisesRegex(ValueError, "Let it average"):
            self.scores((X, np.eye(3)[self.y]), keras.metrics.F1Score())

    def test_several_outputs(self):
        model = exporting.dict_model()
        with self.assertRaisesRegex(ValueError, r"model.outputs\[0\]"):
            evaluation.Evaluation(model, (X, self.y))


if __name__ == "__main__":
    absltest.main()
