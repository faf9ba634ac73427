import warnings

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.pruning.recalibrate import recalibrate
from tests.helpers import zoo

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def make_model(wrap=False):
    """Statistics of `bn` are those of `2 x + 1`; noise would move them."""
    x = inputs = keras.Input((3,))
    x = layers.GaussianNoise(1.0, name="noise")(x)
    x = layers.Dropout(0.5, name="dropout")(x)
    x = layers.GaussianDropout(0.5, name="gaussian")(x)
    x = layers.Dense(3, name="dense")(x)
    x = layers.BatchNormalization(momentum=0.9, name="bn")(x)
    model = keras.Model(inputs, x)
    if wrap:
        outer = keras.Input((3,))
        model = keras.Model(outer, model(outer))
    zoo.randomize(model)
    dense = find(model, "dense")
    dense.kernel.assign(2 * np.eye(3))
    dense.bias.assign(np.ones(3))
    return model


def find(model, name):
    """The layer of this name, in a nested model too."""
    for layer in model.layers:
        if layer.name == name:
            return layer
        if isinstance(layer, keras.Model):
            return find(layer, name)


def make_data(samples=24):
    rng = np.random.default_rng(0)
    x = rng.normal(2.0, 3.0, (samples, 3)) * np.arange(1, 4)
    return x.astype("float32")


def batches(x, size=8):
    return [x[i : i + size] for i in range(0, len(x), size)]


def dataset(x, y=False):
    import tensorflow as tf

    parts = (x, np.zeros(len(x))) if y else x
    return tf.data.Dataset.from_tensor_slices(parts).batch(8)


class Looked(layers.Layer):
    """Normalizes its second argument; the first one is a table."""

    def __init__(self):
        super().__init__()
        self.norm = layers.BatchNormalization()

    def build(self, *shapes):
        self.norm.build((None, 3))

    def call(self, table, x, training=None):
        return self.norm(x, training=training)


class ByRow(Looked):
    """Normalizes one row after the other."""

    def call(self, table, x, training=None):
        rows = range(x.shape[0] or 1)
        parts = [self.norm(x[i : i + 1], training=training) for i in rows]
        return keras.ops.concatenate(parts, 0)

    def compute_output_spec(self, table, x, training=None):
        return keras.KerasTensor(x.shape, x.dtype)


class Counting(layers.BatchNormalization):
    """With states of its own, which no statistics are."""

    def build(self, input_shape):
        super().build(input_shape)
        options = {"initializer": "zeros", "trainable": False}
        self.count = self.add_weight(shape=(), dtype="int32", **options)
        self.seeds = keras.random.SeedGenerator(3)

    def call(self, x, training=None, mask=None):
        if training:
            self.count.assign(self.count + 1)
            keras.random.normal((1,), seed=self.seeds)
        return super().call(x, training=training, mask=mask)


class Inside(layers.Layer):
    """Has statistics that no training moves, and some nobody reads."""

    def __init__(self):
        super().__init__()
        self.frozen = layers.BatchNormalization()
        self.idle = layers.BatchNormalization()

    def build(self, shape):
        self.frozen.build(shape)
        self.idle.build(shape)

    def call(self, x):
        return self.frozen(x, training=False)


class AlwaysNoisy(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), seed=self.generator)


class RecalibrateTest(parameterized.TestCase):
    def assert_statistics(self, model, parts):
        parts = [2 * part + 1 for part in parts]
        rows = [len(part) for part in parts]
        bn = find(model, "bn")
        for found, expected in (
            (bn.moving_mean, [p.mean(0) for p in parts]),
            (bn.moving_variance, [p.var(0) for p in parts]),
        ):
            np.testing.assert_allclose(
                found, np.average(expected, 0, rows), rtol=1e-4
            )

    @parameterized.named_parameters(
        ("array", lambda x: x, False),
        ("generator", lambda x: iter(batches(x)), False),
        ("pairs", lambda x: ((b, np.zeros(len(b))) for b in batches(x)), False),
        ("triples", lambda x: ((b, 0, 1) for b in batches(x)), False),
        ("dataset", dataset, True),
        ("dataset_of_pairs", lambda x: dataset(x, y=True), True),
    )
    def test_average_over_the_batches(self, give, needs_tensorflow):
        if needs_tensorflow and not ON_TENSORFLOW:
            self.skipTest("tf.data")
        model, x = make_model(), make_data()
        self.assertEqual(recalibrate(model, give(x), batch_size=8), 3)
        self.assert_statistics(model, batches(x))

    def test_last_batch_may_be_short(self):
        model, x = make_model(), make_data(20)
        self.assertEqual(recalibrate(model, x, batch_size=8), 3)
        self.assert_statistics(model, [x[:8], x[8:16], x[16:]])

    def test_batches_without_a_row_do_not_count(self):
        model, x = make_model(), make_data(16)
        self.assertEqual(recalibrate(model, [x[:8], x[:0], x[8:]]), 2)
        self.assert_statistics(model, [x[:8], x[8:]])

    @parameterized.parameters((1, 1), (2, 2), (9, 3))
    def test_number_of_batches(self, limit, used):
        model, x = make_model(), make_data()
        count = recalibrate(model, x, batch_size=8, max_batches=limit)
        self.assertEqual(count, used)
        self.assert_statistics(model, batches(x)[:used])

    def test_nested_models(self):
        model, x = make_model(wrap=True), make_data()
        recalibrate(model, x, batch_size=8)
        self.assert_statistics(model, batches(x))

    def test_inside_of_other_layers(self):
        x = inputs = keras.Input((4, 3))
        x = layers.TimeDistributed(layers.BatchNormalization(name="bn"))(x)
        lstm = layers.LSTM(3, dropout=0.9, recurrent_dropout=0.9)
        x = layers.BatchNormalization(name="after")(lstm(x))
        model = keras.Model(inputs, x)
        rng = np.random.default_rng(0)
        x = rng.normal(10.0, 2.0, (24, 4, 3)).astype("float32")
        found = []
        for _ in range(2):
            recalibrate(model, x, batch_size=8)
            found.append([np.array(w) for w in model.weights])
        for one, other in zip(*found):
            np.testing.assert_array_equal(one, other)
        mean, variance = found[0][2:4]
        self.assertIn("moving_mean", model.weights[2].path)
        np.testing.assert_allclose(mean, x.mean(axis=(0, 1)), rtol=1e-5)
        self.assertEqual((lstm.cell.dropout, lstm.dropout), (0.9, 0.9))
        x[3, 1] = np.nan
        with self.assertRaisesRegex(ValueError, "The model is as before"):
            recalibrate(model, x)
        for old, new in zip(found[0], model.weights):
            np.testing.assert_array_equal(old, new)

    def test_what_makes_no_update_is_left_alone(self):
        """Called for inference, or not called at all; NaN goes all the same."""
        x = inputs = keras.Input((3,))
        x = Inside()(x)
        x = layers.BatchNormalization(name="bn")(x)
        model = keras.Model(inputs, x)
        zoo.randomize(model)
        inside, bn = model.layers[1], model.layers[2]
        before = [np.array(w) for w in inside.weights]
        bn.moving_mean.assign(np.full(3, np.nan))
        x = make_data()
        recalibrate(model, x, batch_size=8)
        for old, new in zip(before, inside.weights):
            np.testing.assert_array_equal(old, new, new.path)
        parts = keras.ops.convert_to_numpy(inside(x)).reshape(3, 8, 3)
        np.testing.assert_allclose(
            bn.moving_mean, parts.mean((0, 1)), rtol=1e-4
        )
        # A second time nothing counts of the first.
        recalibrate(model, x, batch_size=8, max_batches=1)
        np.testing.assert_allclose(bn.moving_mean, parts[0].mean(0), rtol=1e-4)

    def test_random_augmentation_is_off(self):
        x = inputs = keras.Input((4, 4, 3))
        x = layers.RandomFlip(seed=1)(x)
        x = layers.RandomBrightness(0.5, value_range=(0.0, 1.0), seed=2)(x)
        model = keras.Model(inputs, layers.BatchNormalization(name="bn")(x))
        rng = np.random.default_rng(0)
        x = rng.uniform(size=(8, 4, 4, 3)).astype("float32")
        recalibrate(model, x)
        bn = find(model, "bn")
        np.testing.assert_allclose(bn.moving_mean, x.mean((0, 1, 2)), rtol=1e-4)
        self.assertNotIn("call", vars(model.layers[1]))

    def test_what_nothing_switches_off(self):
        x = inputs = keras.Input((3,))
        x = layers.BatchNormalization()(AlwaysNoisy(name="noisy")(x))
        model = keras.Model(inputs, x)
        with self.assertWarnsRegex(UserWarning, "noisy.*`training` argument"):
            recalibrate(model, make_data())

    def test_what_changes_in_training_is_brought_back(self):
        x = inputs = keras.Input((5,))
        x = layers.SpectralNormalization(layers.Dense(4))(x)
        model = keras.Model(inputs, layers.BatchNormalization(name="bn")(x))
        zoo.randomize(model)
        before = [np.array(w) for w in model.weights]
        recalibrate(model, np.ones((8, 5), "float32"))
        for old, new in zip(before, model.weights):
            if "moving" not in new.path:
                np.testing.assert_array_equal(old, new, new.path)

    def test_a_layer_that_is_called_twice(self):
        one, other = keras.Input((3,)), keras.Input((3,))
        bn = layers.BatchNormalization()
        model = keras.Model([one, other], [bn(one), bn(other)])
        x = np.arange(24.0).reshape(8, 3)
        recalibrate(model, [x, x - 100.0], batch_size=4)
        np.testing.assert_allclose(
            bn.moving_mean, x.mean(axis=0) - 50.0, rtol=1e-5
        )

    def test_layers_reached_by_several_paths(self):
        """Two nested models have layers in common, one in a wrapper, too."""
        bn, noise = layers.BatchNormalization(), layers.GaussianNoise(1.0)
        turned = layers.RandomRotation(0.5, fill_mode="constant")
        inner = keras.Input((2, 2, 3))
        shared = bn(turned(noise(inner)))
        after = layers.RandomFlip()
        one = keras.Model(inner, shared)
        again, share = layers.TimeDistributed(bn), 2 / 4
        if keras.backend.backend() != "tensorflow":  # which takes both ranks
            again, share = bn, 2 / 3
        other = keras.Model(inner, again(after(shared)))
        inputs = keras.Input((2, 2, 3))
        model = keras.Model(inputs, [one(inputs), other(inputs)])
        x = np.random.default_rng(0).normal(5.0, size=(8, 2, 2, 3))
        recalibrate(model, x.astype("float32"))
        # Of all calls two see x, the others what is normalized already.
        mean = x.mean((0, 1, 2)) * share
        np.testing.assert_allclose(bn.moving_mean, mean, rtol=1e-3)
        self.assertEqual(noise.stddev, 1.0)
        for layer in (bn, turned, after):
            self.assertNotIn("call", vars(layer))

    def test_a_call_of_the_layer_s_own_comes_back(self):
        model, calls = make_model(), []
        bn = find(model, "bn")
        call = bn.call

        def own(x, training=None, mask=None):
            calls.append(training)
            return call(x, training=training, mask=mask)

        bn.call = own
        recalibrate(model, make_data(), batch_size=8)
        self.assertEqual(calls, [True] * 3)
        self.assertIs(vars(bn)["call"], own)

    def test_arguments_that_are_no_tensors_of_rows(self):
        """Keywords that are None, and scalars."""
        x = inputs = keras.Input((5, 8))
        attention = layers.MultiHeadAttention(2, 4)
        x = attention(query=x, value=x, attention_mask=None)
        x = layers.BatchNormalization()(x)
        mean = layers.Rescaling(2.0)(keras.ops.mean(x))
        model = keras.Model(inputs, [x, mean])
        data = np.ones((4, 5, 8), "float32")
        self.assertEqual(recalibrate(model, data), 1)

    @absltest.skipIf(
        keras.backend.backend() == "jax", "its arrays carry no masks"
    )
    def test_a_mask_in_front_of_a_nested_model(self):
        """Half precision is cast to what the nested model takes."""
        table = layers.Embedding(9, 8, mask_zero=True, dtype="mixed_float16")
        inner, bn = keras.Input((6, 8)), layers.BatchNormalization()
        inputs = keras.Input((6,), dtype="int32")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the mask ends there
            outputs = keras.Model(inner, bn(inner))(table(inputs))
        model = keras.Model(inputs, outputs)
        x = np.random.default_rng(0).integers(0, 3, (10, 6))
        recalibrate(model, x)
        rows = keras.ops.convert_to_numpy(table.embeddings)[x][x > 0]
        np.testing.assert_allclose(bn.moving_mean, rows.mean(0), atol=1e-4)

    def test_structured_inputs(self):
        model = zoo.make("in_and_out")
        self.assertEqual(recalibrate(model, zoo.inputs_of(model), 2), 2)

    def test_all_else_is_as_before(self):
        model, x = make_model(), make_data()
        before = {v.path: np.array(v) for v in model.weights}
        recalibrate(model, x, batch_size=8)
        for variable in model.weights:
            equal = np.array_equal(variable, before[variable.path])
            self.assertEqual(
                equal, "moving" not in variable.name, variable.path
            )
        self.assert_settings_are_back(model)
        # Noise is on again.
        one, other = (
            keras.ops.convert_to_numpy(model(x, training=True))
            for _ in range(2)
        )
        self.assertTrue(np.any(one != other))

    def assert_settings_are_back(self, model):
        self.assertEqual(model.get_layer("noise").stddev, 1.0)
        self.assertEqual(model.get_layer("dropout").rate, 0.5)
        self.assertEqual(model.get_layer("gaussian").rate, 0.5)
        self.assertEqual(model.get_layer("bn").momentum, 0.9)

    def test_frozen_statistics_are_kept(self):
        model = make_model()
        bn = model.get_layer("bn")
        bn.trainable = False
        before = np.array(bn.moving_mean), np.array(bn.moving_variance)
        recalibrate(model, make_data())
        np.testing.assert_array_equal(bn.moving_mean, before[0])
        np.testing.assert_array_equal(bn.moving_variance, before[1])
        self.assertFalse(bn.trainable)

    def test_settings_come_back_after_an_error(self):
        model = make_model()

        def data():
            yield make_data()
            raise RuntimeError("mine")

        before = model.get_weights()
        with self.assertRaisesRegex(RuntimeError, "mine"):
            recalibrate(model, data())
        self.assert_settings_are_back(model)
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_data_that_are_not_finite_change_nothing(self):
        model = make_model()
        before = model.get_weights()
        x = make_data()
        x[3, 1] = np.nan
        with self.assertRaisesRegex(ValueError, "Remove the samples"):
            recalibrate(model, x)
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_statistics_that_are_not_finite_are_replaced(self):
        model, x = make_model(), make_data()
        find(model, "bn").moving_mean.assign(np.full(3, np.nan))
        find(model, "bn").moving_variance.assign(np.full(3, np.inf))
        recalibrate(model, x, batch_size=8)
        self.assert_statistics(model, batches(x))

    def test_forms_of_data(self):
        """A list holds batches, a tuple is `(x, y)`."""
        x, found = make_data(), []
        pairs = [(b, b) for b in batches(x)]
        forms = (x, batches(x), pairs, [[*p] for p in pairs], (x, x))
        for data in forms:
            model = make_model()
            self.assertEqual(recalibrate(model, data, batch_size=8), 3)
            found.append(np.array(model.get_layer("bn").moving_mean))
        for mean in found[1:]:
            np.testing.assert_array_equal(mean, found[0])

    def test_a_layer_that_is_never_called(self):
        layer = Looked()
        layer.other = layers.BatchNormalization()
        inputs = keras.Input((3,))
        model = keras.Model(inputs, layer(keras.ops.zeros((5, 3)), inputs))
        self.assertEqual(recalibrate(model, make_data()), 1)

    def test_renorm(self):
        """What the next update starts from is measured as well."""
        inputs = keras.Input((3,))
        layer = layers.BatchNormalization(renorm=True)
        model = keras.Model(inputs, layer(inputs))
        x = make_data()
        recalibrate(model, x)
        np.testing.assert_allclose(layer.moving_mean, x.mean(0), 1e-3)
        found = np.asarray(layer.moving_stddev)
        np.testing.assert_allclose(found, x.std(0), 1e-2)
        np.testing.assert_allclose(layer.renorm_mean, x.mean(0), 1e-3)
        self.assertEqual(layer.renorm_momentum, 0.99)

    @parameterized.parameters(Looked, ByRow)
    def test_weight_of_a_call(self, kind):
        """The rows that the layer itself gets; the last batch has one."""
        inputs = keras.Input((3,))
        layer = kind()
        table = keras.ops.zeros((5, 3))
        model = keras.Model(inputs, layer(table, inputs))
        x = make_data(samples=9)
        recalibrate(model, x, batch_size=8)
        np.testing.assert_allclose(layer.norm.moving_mean, x.mean(0), 1e-4)

    def test_states_of_its_own_stay(self):
        inputs = keras.Input((3,))
        layer = Counting()
        model = keras.Model(inputs, layer(inputs))
        x, seeds = make_data(), np.array(layer.seeds.state)
        with self.assertWarnsRegex(UserWarning, "random layers"):
            recalibrate(model, x)
        np.testing.assert_allclose(layer.moving_mean, x.mean(0), 1e-4)
        self.assertEqual(int(layer.count), 0)
        np.testing.assert_array_equal(layer.seeds.state, seeds)

    def test_a_nested_model_of_another_rank(self):
        """Keras adds an axis of size 1 to what a model is fed, or drops it."""
        x = make_data()
        for size, shape, fed, expected in (
            (1, (3,), lambda x: keras.ops.mean(x, -1), [x.mean()]),
            (3, (3, 1), lambda x: x, x.mean(0)),
        ):
            norm, inside = layers.BatchNormalization(), keras.Input((size,))
            inner = keras.Model(inside, norm(inside))
            inputs = keras.Input(shape)
            model = keras.Model(inputs, inner(fed(inputs)))
            recalibrate(model, x.reshape(-1, *shape))
            np.testing.assert_allclose(norm.moving_mean, expected, 1e-4)

    def test_batch_size(self):
        with self.assertRaisesRegex(ValueError, "`batch_size` counts samples"):
            recalibrate(make_model(), make_data(), batch_size=0)

    @parameterized.named_parameters(
        ("list", list),
        ("used_up", lambda: iter(())),
        ("array", lambda: np.zeros((0, 3), "float32")),
    )
    def test_no_batch(self, give):
        model = make_model()
        before = model.get_weights()
        with self.assertRaisesRegex(ValueError, "Pass at least one batch"):
            recalibrate(model, give())
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
        self.assert_settings_are_back(model)

    @parameterized.parameters("abc", 5, ([[1.0, 2.0, 3.0]],))
    def test_no_arrays(self, data):
        with self.assertRaisesRegex(TypeError, "Expected training inputs"):
            recalibrate(make_model(), data)

    def test_entries_that_are_no_inputs(self):
        """Keras takes of a dict what the model has; so does this."""
        norm = layers.BatchNormalization()
        inputs = keras.Input((3,), name="x")
        model, x = keras.Model({"x": inputs}, norm(inputs)), make_data()
        with self.assertWarnsRegex(UserWarning, "structure of `inputs`"):
            count = recalibrate(model, [{"x": x, "z": np.int64(3)}])
        self.assertEqual(count, 1)
        np.testing.assert_allclose(norm.moving_mean, x.mean(0), 1e-4)

    def test_what_is_compiled(self):
        if not ON_TENSORFLOW:
            self.skipTest("a function of TensorFlow's")
        import tensorflow as tf

        class Compiled(Looked):
            def call(self, table, x, training=None):
                return tf.function(super().call)(table, x, training=training)

        inputs = keras.Input((3,))
        table = keras.ops.zeros((5, 3))
        model = keras.Model(inputs, Compiled()(table, inputs))
        with self.assertRaisesRegex(ValueError, "outside of what is compiled"):
            recalibrate(model, make_data())

    def test_endless(self):
        if not ON_TENSORFLOW:
            self.skipTest("a data set of TensorFlow's")
        data = dataset(make_data()).repeat()
        with self.assertRaisesRegex(ValueError, "never end.*take"):
            recalibrate(make_model(), data)
        self.assertEqual(recalibrate(make_model(), data, max_batches=2), 2)

    def test_subclassed_model(self):
        class Subclassed(keras.Model):
            def call(self, x):
                return x

        with self.assertRaisesRegex(TypeError, "functional model"):
            recalibrate(Subclassed(), make_data())


if __name__ == "__main__":
    absltest.main()
