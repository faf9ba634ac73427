"""What looks at a model leaves its state alone."""

import random
import tempfile
import warnings

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

import keras_prm
from keras_prm.equivalence import model_state
from tests.helpers.training import ON_TENSORFLOW


class Counter(layers.Layer):
    """Counts its calls."""

    def build(self, shape):
        self.counts = [keras.Variable(0.0, trainable=False)]

    def call(self, x):
        self.counts[0].assign_add(1.0)
        return x + self.counts[0]

    def reset_state(self):
        self.counts[0].assign(0.0)


@keras.saving.register_keras_serializable("model_state_test")
class Plain(layers.Layer):
    """Counts its calls, by a number of Python's."""

    count = 0.0

    def call(self, x):
        if not keras.backend.is_keras_tensor(x):
            self.count += 1.0
        return x * self.count

    def reset_state(self):
        self.count = 0.0


def stateful(layer=layers.GRU, batch_size=2):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(batch_shape=(batch_size, 4, 6))
    x = layer(8, stateful=True, unroll=True)(inputs)
    model = keras.Model(inputs, layers.Dense(2)(x))
    for variable in model_state.states(model):
        variable.assign(np.full(variable.shape, 0.5))
    return model


def values(model):
    return [
        keras.ops.convert_to_numpy(v).copy() for v in model_state.states(model)
    ]


X = np.random.default_rng(0).normal(size=(6, 4, 6)).astype("float32")


class KeptTest(parameterized.TestCase):
    @parameterized.parameters(layers.GRU, layers.LSTM, layers.SimpleRNN)
    def test_kept(self, layer):
        model = stateful(layer)
        before = values(model)
        self.assertNotEmpty(before)
        with model_state.kept(model):
            model_state.reset(model)
            for value in values(model):
                self.assertEqual(np.abs(value).max(), 0)
        np.testing.assert_array_equal(values(model), before)
        with self.assertRaisesRegex(KeyError, "inside"):
            with model_state.kept(model):
                model_state.reset(model)
                raise KeyError("inside")
        np.testing.assert_array_equal(values(model), before)

    def test_layers_of_ones_own(self):
        inputs = keras.Input((3,))
        counter = Counter()
        inner = keras.Sequential([keras.Input((3,)), counter])
        model = keras.Model(inputs, inner(inputs))
        counter.counts[0].assign(7.0)
        with model_state.kept(model):
            model_state.reset(model)
            self.assertEqual(float(counter.counts[0]), 0.0)
        self.assertEqual(float(counter.counts[0]), 7.0)

    def test_layers_whose_state_is_no_variable(self):
        inputs = keras.Input((3,))
        model = keras.Model(inputs, Plain()(layers.Dense(4)(inputs)))
        model.layers[-1].count = 7.0
        model_state.reset(model)
        self.assertEqual(model.layers[-1].count, 0.0)
        self.assertTrue(keras_prm.verify(model, keras_prm.strip(model)).ok)

    def test_layers_without_state(self):
        """`Bidirectional.reset_state` raises unless it is stateful."""
        inputs = keras.Input((4, 6))
        x = layers.Bidirectional(layers.LSTM(3))(inputs)
        model = keras.Model(inputs, layers.LSTM(3)(layers.RepeatVector(2)(x)))
        model_state.reset(model)
        self.assertEmpty(model_state.states(model))

    def test_what_layers_have_gathered(self):
        """Summaries and counts are no variables, and cannot be brought back."""
        bins = layers.Discretization(num_bins=4)
        bins.adapt(np.linspace(0.0, 100.0, 101))
        self.assertNotEmpty(bins.summary[0])
        inputs = keras.Input((1,))
        inner = keras.Model(inputs, bins(inputs))
        model = keras.Model(inputs, inner(inputs))
        before = np.array(bins.summary)
        model_state.reset(model)
        np.testing.assert_array_equal(bins.summary, before)

    @absltest.skipUnless(ON_TENSORFLOW, "Keras has words on TensorFlow alone.")
    def test_words_that_layers_have_counted(self):
        texts = layers.TextVectorization()
        texts.adapt(["a"])
        inputs = keras.Input((1,), dtype="string")
        model = keras.Model(inputs, texts(inputs))
        texts.update_state(["b c", "b"])
        self.assertTrue(keras_prm.verify(model, model))
        texts.finalize_state()
        self.assertEqual(texts.get_vocabulary(), ["", "[UNK]", "b", "c"])

    def test_looking(self):
        model = stateful()
        before = values(model)
        small = keras_prm.strip(model, return_report=True)[0]
        certificate = keras_prm.verify(model, small, inputs=X)
        self.assertTrue(certificate.ok)
        self.assertTrue(keras_prm.verify(model, model))
        keras_prm.explain(model)
        keras_prm.purify(
            model,
            evaluate=lambda m: float(np.std(m.predict(X, 2, 0))),
            max_drop=0.0,
            max_evaluations=2,
        )
        keras_prm.recalibrate(model, X, batch_size=2)
        np.testing.assert_array_equal(values(model), before)


class RandomNumbersTest(parameterized.TestCase):
    """What only looks at a model, or copies it, draws from no generator."""

    @parameterized.parameters(
        lambda model, data, folder: keras_prm.strip(model),
        lambda model, data, folder: keras_prm.as_functional(model),
        lambda model, data, folder: keras_prm.explain(model),
        lambda model, data, folder: keras_prm.verify(model, model),
        lambda model, data, folder: keras_prm.recalibrate(model, data[0]),
        lambda model, data, folder: keras_prm.SparsityPlan.uniform(
            model, filters=0.5
        ),
        lambda model, data, folder: keras_prm.hard_prune(
            model, keras_prm.SparsityPlan.uniform(model, filters=0.5)
        ),
        lambda model, data, folder: keras_prm.purify(
            model, data, 1.0, metric="mae", max_evaluations=1, verbose=0
        ),
        lambda model, data, folder: (
            ON_TENSORFLOW
            and keras_prm.export_litert(model, f"{folder}/a.tflite")
        ),
    )
    def test_are_left(self, function):
        keras.utils.set_random_seed(3)
        inputs = keras.Input((4,))
        x = keras.layers.Dense(6, name="hidden")(inputs)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.Dropout(0.5)(x)  # without a seed
        model = keras.Model(inputs, keras.layers.Dense(2)(x))
        model.compile("sgd", "mse", metrics=["mae"])
        data = np.ones((64, 4), "float32"), np.ones((64, 2), "float32")
        states = []
        with tempfile.TemporaryDirectory() as folder:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for _ in range(2):
                    if states:
                        function(model, data, folder)
                    states.append(
                        (random.getstate(), str(np.random.get_state()))
                    )
        self.assertEqual(*states)
        found = []
        for is_called in (False, True):
            keras.utils.set_random_seed(3)
            if is_called:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    keras_prm.strip(model)
            found.append(keras.ops.convert_to_numpy(keras.random.normal((3,))))
        np.testing.assert_array_equal(*found)


if __name__ == "__main__":
    absltest.main()
