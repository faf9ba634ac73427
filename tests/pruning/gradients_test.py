from unittest import mock

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.pruning import gradients
from tests.helpers import zoo

BACKEND = keras.backend.backend()


def linear(**kwargs):
    """`w1 x1 + w2 x2` with both weights 1, and the squared error."""
    dense = layers.Dense(1, use_bias=False, kernel_initializer="ones", **kwargs)
    model = keras.Sequential([keras.Input((2,)), dense])
    model.compile("sgd", "mse")
    return model


def convolutions():
    inputs = keras.Input((5, 5, 2))
    x = layers.Conv2D(4, 3, name="a")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.5)(layers.Activation("tanh")(x))
    x = Draws()(layers.Flatten()(x))
    model = keras.Model(inputs, layers.Dense(3, name="out")(x))
    zoo.randomize(model)
    model.compile("adam", "mse", metrics=["mae"])
    return model


class Draws(layers.Layer):
    """Draws a random number at every call, and makes nothing of it."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, x):
        return x + 0.0 * keras.random.uniform((), seed=self.seeds)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return batch()[0] + index, batch()[1]


def batch(samples=4):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, 5, 5, 2)).astype("float32")
    return x, rng.normal(size=(samples, 3)).astype("float32")


def arrays(variables):
    return [keras.ops.convert_to_numpy(v) for v in variables]


def take(model, variables, data):
    return list(
        gradients.per_batch(model, variables, gradients.gradient_batches(data))
    )


class PerBatchTest(parameterized.TestCase):
    # With an error e the gradient is 2 e x; of two samples, the mean.
    @parameterized.named_parameters(
        # 1 + 2 - 1 = 2 and 1 + 0 - 0 = 1.
        ("two_batches", [[[1, 2]], [[1, 0]]], [[1], [0]], [[4, 8], [2, 0]]),
        ("one_batch", [[[1, 2], [1, 0]]], [[1, 0]], [[(4 + 2) / 2, 8 / 2]]),
    )
    def test_by_hand(self, x, y, expected):
        model = linear()
        data = [
            (np.array(a, "float32"), np.array(b, "float32")[:, None])
            for a, b in zip(x, y)
        ]
        found = take(model, model.trainable_variables, data)
        self.assertLen(found, len(expected))
        for (gradient,), value in zip(found, expected):
            self.assertEqual(gradient.dtype, np.float32)
            np.testing.assert_allclose(gradient[:, 0], value, rtol=1e-6)

    def test_sample_weights_and_penalties_count(self):
        model = linear(kernel_regularizer=keras.regularizers.L2(0.1))
        x, y = np.array([[1.0, 2.0]]), np.array([[1.0]])
        data = [(x, y, np.array([10.0]))]
        ((found,),) = take(model, model.trainable_variables, data)
        # The penalty is 0.1 (w1^2 + w2^2).
        np.testing.assert_allclose(found[:, 0], [40.2, 80.2], rtol=1e-6)

    def test_penalties_on_other_weights(self):
        x = inputs = keras.Input((2,))
        x = layers.Dense(1, use_bias=False, kernel_initializer="ones")(x)
        x = layers.BatchNormalization(gamma_regularizer="l1", epsilon=1e-7)(x)
        model = keras.Model(inputs, x)
        model.compile("sgd", "mse")
        data = [(np.array([[1.0, 2.0]]), np.array([[1.0]]))]
        ((found,),) = take(model, model.trainable_variables[:1], data)
        np.testing.assert_allclose(found[:, 0], [4, 8], rtol=1e-5)

    def test_finite_differences(self):
        model = convolutions()
        kernel = model.get_layer("a").kernel
        ((found,),) = take(model, [kernel], [batch()])
        before = keras.ops.convert_to_numpy(kernel)
        for place in [(0, 0, 0, 0), (1, 2, 1, 3), (2, 2, 0, 1)]:
            losses = []
            for step in (-1e-2, 1e-2):
                moved = before.copy()
                moved[place] += step
                kernel.assign(moved)
                losses.append(model.evaluate(*batch(), verbose=0)[0])
            slope = (losses[1] - losses[0]) / 2e-2
            self.assertAlmostEqual(found[place], slope, places=2)
            self.assertGreater(abs(slope), 0.02)

    def test_changes_nothing(self):
        model = convolutions()
        model.fit(*batch(), verbose=0)
        everything = [
            *model.variables,
            *model.optimizer.variables,
            *model.metrics_variables,
        ]
        before = arrays(everything)
        self.assertTrue(any("seed" in v.name for v in everything))
        if BACKEND == "torch":
            trained = [v.value for v in model.trainable_variables]
            before += [v.grad.numpy().copy() for v in trained]
        take(model, model.trainable_variables[:3], [batch()])
        after = arrays(everything)
        if BACKEND == "torch":
            after += [v.grad.numpy() for v in trained]
            self.assertTrue(all(v.requires_grad for v in trained))
        for old, new in zip(before, after, strict=True):
            np.testing.assert_array_equal(old, new)
        model.fit(*batch(), verbose=0)

    def test_two_outputs_and_named_inputs(self):
        """Each loss has a metric of its own, which is not to count."""
        x = inputs = keras.Input((3,), name="x")
        one, two = layers.Dense(2, name="one"), layers.Dense(1, name="two")
        model = keras.Model({"x": inputs}, {"a": one(x), "b": two(x)})
        model.compile("sgd", {"a": "mse", "b": "mae"})
        data = (
            {"x": np.ones((4, 3), "float32")},
            {"a": np.zeros((4, 2)), "b": np.full((4, 1), 9.0)},
        )
        for _ in range(2):
            ((first, second),) = take(model, [one.kernel, two.kernel], data)
            np.testing.assert_allclose(second, -np.ones((3, 1)), rtol=1e-6)
            self.assertTrue(first.all())
        loss = model.evaluate(*data, verbose=0, return_dict=True)["loss"]
        self.assertTrue(np.isfinite(loss))

    def test_embeddings_and_what_the_loss_does_not_read(self):
        inputs = keras.Input((2,), dtype="int32")
        words = layers.Embedding(3, 2, name="words")
        idle = layers.Dense(2, name="idle")
        x = words(inputs)
        model = keras.Model(inputs, [layers.Flatten()(x), idle(x)])
        model.compile("sgd", ["mse", None])
        data = (np.array([[0, 2]]), [np.zeros((1, 4)), np.zeros((1, 2, 2))])
        ((found, none),) = take(model, [words.embeddings, idle.kernel], [data])
        w = keras.ops.convert_to_numpy(words.embeddings)
        # The mean over four entries of their squares.
        expected = 2 / 4 * w * [[1], [0], [1]]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        np.testing.assert_array_equal(none, np.zeros((2, 2)))

    def test_mixed_precision(self):
        model = linear(dtype="mixed_bfloat16")
        data = [(np.array([[1.0, 2.0]]), np.array([[1.0]]))]
        ((found,),) = take(model, model.trainable_variables, data)
        self.assertEqual(found.dtype, np.float32)
        np.testing.assert_allclose(found[:, 0], [4, 8], rtol=1e-2)

    def test_labels_that_are_none(self):
        model = linear()
        with self.assertRaisesRegex(ValueError, "Pass batches .x, y."):
            take(model, model.trainable_variables, [(np.ones((1, 2)), None)])

    def test_not_compiled(self):
        model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
        with self.assertRaisesRegex(ValueError, r"`model.compile\(optimizer"):
            take(model, model.trainable_variables, [batch()])


class BatchesTest(parameterized.TestCase):
    def test_a_tuple_of_all_samples_is_cut_as_fit_does(self):
        x, y = batch(70)
        found = gradients.gradient_batches((x, y))
        self.assertEqual([len(a) for a, _ in found], [32, 32, 6])
        np.testing.assert_array_equal(np.concatenate([a for a, _ in found]), x)
        found = gradients.gradient_batches(({"a": x, "b": [x]}, y, y[:, 0]))
        self.assertLen(found, 3)
        self.assertEqual(found[2][0]["b"][0].shape, (6, 5, 5, 2))
        self.assertEqual(found[2][2].shape, (6,))

    @parameterized.named_parameters(
        ("list", lambda: [batch(), batch()]),
        ("tuple", lambda: (batch(), batch())),
        ("generator", lambda: (batch() for _ in range(2))),
        ("data_set", Batches),
    )
    def test_iterables_of_batches(self, make):
        found = gradients.gradient_batches(make())
        self.assertLen(found, 2)
        self.assertEqual(found[1][0].shape, (4, 5, 5, 2))

    def test_tensorflow_data(self):
        if BACKEND != "tensorflow":
            self.skipTest("TensorFlow need not be there.")
        import tensorflow as tf

        model = convolutions()
        data = tf.data.Dataset.from_tensor_slices(batch()).batch(2)
        found = take(model, [model.get_layer("a").kernel], data)
        expected = take(
            model,
            [model.get_layer("a").kernel],
            [[a[i : i + 2] for a in batch()] for i in (0, 2)],
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_no_batches(self):
        for data in ([], iter([]), (np.zeros((0, 2)), np.zeros(0))):
            with self.assertRaisesRegex(ValueError, "pass a list or"):
                gradients.gradient_batches(data)

    @parameterized.parameters(
        (np.zeros((3, 2)),), (3,), ([np.zeros((3, 2))],), ([(1, 2, 3, 4)],)
    )
    def test_something_else(self, data):
        with self.assertRaisesRegex(TypeError, r"iterable of batches \(x, y\)"):
            gradients.gradient_batches(data)


class BackendTest(absltest.TestCase):
    def test_another_backend(self):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        with mock.patch.object(keras.backend, "backend", lambda: "numpy"):
            with self.assertRaisesRegex(ValueError, "Set `KERAS_BACKEND`"):
                next(gradients.per_batch(model, [], []))


if __name__ == "__main__":
    absltest.main()
