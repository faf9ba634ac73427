import contextlib
import functools
import io
import re
from unittest import mock

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.pruning.held_out import DataScorer
from keras_prm.pruning.purify import purify

NUM = 400


def data(num=NUM, seed=0):
    """Three classes of points, some of which lie among the others."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, num)
    x = np.eye(3)[y] + 0.4 * rng.normal(size=(num, 3))
    return x.astype("float32"), y


def classifier(**kwargs):
    """Tells the classes by the largest entry; some filters do nothing."""
    inputs = keras.Input((3,))
    x = layers.Dense(12, name="hidden", use_bias=False)(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="out")(x))
    kernel = np.full((3, 12), 0.01)
    for i in range(3):
        kernel[i, [i, 3 + i]] = 1.0
    noise = 0.01 * np.random.default_rng(0).normal(size=(3, 12))
    model.get_layer("hidden").kernel.assign(kernel + noise)
    model.get_layer("out").kernel.assign(kernel.T)
    return compiled(model, **kwargs)


def compiled(model, loss=None, metrics=("accuracy",), **kwargs):
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=[*metrics] or None, **kwargs)
    return model


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 13

    def __getitem__(self, index):
        return tuple(a[32 * index : 32 * index + 32] for a in data())


class Answers(keras.Model):
    """Reports what its answers cost, and nothing of its weights."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = keras.metrics.Mean(name="loss")
        self.cost = keras.losses.SparseCategoricalCrossentropy(True)

    def test_step(self, data):
        x, y = data
        self.seen.update_state(self.cost(y, self(x, training=False)))
        return {"loss": self.seen.result()}


class Counting(keras.Model):
    """Counts its test steps, which is of no account."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = self.add_weight(trainable=False)

    def test_step(self, *args):
        self.seen.assign_add(1.0)
        return super().test_step(*args)


class DataScorerTest(parameterized.TestCase):
    def test_is_what_evaluate_says(self):
        model, (x, y) = classifier(), data()
        scorer = DataScorer(model, (x, y), holdout=0)
        self.assertEqual(scorer.name, "accuracy")
        self.assertEqual((scorer.num_samples, scorer.num_held_out), (NUM, 0))
        score = scorer(model)
        right = (model.predict(x, verbose=0).argmax(-1) == y).astype(float)
        self.assertAlmostEqual(score.value, right.mean(), 6)
        expected = np.sqrt(right.mean() * (1 - right.mean()) / NUM)
        self.assertBetween(score.error, 0.7 * expected, 1.4 * expected)

    def test_parts_are_shared_out(self):
        model = classifier()
        scorer = DataScorer(model, data(), holdout=0.24)
        self.assertEqual(scorer.num_samples, 38 * 8)
        self.assertEqual(scorer.num_held_out, 12 * 8)
        value = 0.76 * scorer(model).value
        value += 0.24 * scorer(model, "held out").value
        whole = model.evaluate(*data(), verbose=0)[1]
        self.assertAlmostEqual(value, whole, 5)

    def test_drop_is_paired(self):
        model = classifier()
        scorer = DataScorer(model, data(), holdout=0)
        before = scorer(model)
        kernel = np.array(model.get_layer("hidden").kernel)
        model.get_layer("hidden").kernel.assign(kernel * 1.001)
        same = scorer.drop(before, scorer(model))
        # As if one more sample had changed: of these, none has.
        self.assertEqual((same.value, same.error), (0, 1 / NUM))
        kernel[0] *= -1
        model.get_layer("hidden").kernel.assign(kernel)
        drop = scorer.drop(before, scorer(model))
        self.assertGreater(drop.value, 0)
        right = before.parts - scorer(model).parts
        np.testing.assert_allclose(drop.value, right.mean(), atol=1e-9)
        expected = right.std(ddof=1) / np.sqrt(len(right))
        np.testing.assert_allclose(drop.error, expected, rtol=1e-6)

    @parameterized.parameters(
        ("accuracy", 1),
        ("loss", -1),
        ("mean_absolute_error", -1),
        ("sparse_top_k_categorical_accuracy", 1),
        ("gap", -1),
        ("share", 1),
    )
    def test_which_way_is_better(self, name, sign):
        top = keras.metrics.SparseTopKCategoricalAccuracy(k=2)
        model = classifier(metrics=["accuracy", one_hot_error, top, gap, share])
        scorer = DataScorer(model, data(), metric=name)
        self.assertEqual((scorer.name, scorer.sign), (name, sign))

    def test_an_output_s_name_says_nothing_of_the_metric(self):
        inputs = keras.Input((3,))
        names = ("error_type", "other")
        outputs = {n: keras.layers.Dense(3, name=n)(inputs) for n in names}
        model = keras.Model(inputs, outputs)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(
            loss={n: loss for n in names},
            metrics={n: ["accuracy"] for n in names},
        )
        x, y = data()
        labels = {n: y for n in names}
        for name, sign in (("error_type_accuracy", 1), ("other_loss", -1)):
            scorer = DataScorer(model, (x, labels), metric=name)
            self.assertEqual(scorer.sign, sign)

    @parameterized.parameters(
        (keras.Model, False), (keras.Model, True), (Answers, True)
    )
    def test_penalties_on_weights_are_no_gain(self, kind, seen):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((3,))
        heavy = keras.regularizers.L2(1.0)
        dense = layers.Dense(3, kernel_regularizer=heavy)
        model = compiled(kind(inputs, dense(inputs)), metrics=())
        if seen:
            whole = model.evaluate(*data(), verbose=0, return_dict=True)
        plain = keras.Model(inputs, layers.Dense(3)(inputs))
        plain.set_weights(model.get_weights())
        compiled(plain, metrics=())
        expected = plain.evaluate(*data(), verbose=0)
        found = purify(
            model, data(), 1e-4, holdout=0, max_evaluations=1, verbose=0
        )
        self.assertAlmostEqual(found.score_before, expected, 5)
        if seen:
            again = model.evaluate(*data(), verbose=0, return_dict=True)
            self.assertAlmostEqual(again["loss"], whole["loss"], 6)
            with_penalty = again["loss"] > expected + 1
            self.assertEqual(with_penalty, kind is keras.Model)

    def test_a_model_that_only_counts(self):
        inputs = keras.Input((3,))
        model = compiled(Counting(inputs, layers.Dense(3)(inputs)))
        scorer = DataScorer(model, data(), holdout=0)
        expected = model.evaluate(*data(), verbose=0)[1]
        with mock.patch.object(model, "evaluate", None):  # it is slow
            self.assertAlmostEqual(scorer(model).value, expected, 5)
        seen = np.array(model.seen)
        with self.assertRaisesRegex(ValueError, "no metric 'none'"):
            purify(model, data(), 0.1, metric="none", verbose=0)
        self.assertEqual(np.array(model.seen), seen)

    def test_samples_that_count_on_those_before(self):
        inputs = keras.Input(batch_shape=(8, 4, 3))
        x = layers.LSTM(4, stateful=True, name="memory")(inputs)
        model = compiled(keras.Model(inputs, layers.Dense(3)(x)))
        rows, y = data()
        x = np.repeat(rows[:, None], 4, 1)
        model.predict(x[:8], batch_size=8, verbose=0)
        before = [np.array(v) for v in model.get_layer("memory").states]
        message = "remembers what it has seen.*a function.*memory"
        with self.assertRaisesRegex(ValueError, message):
            purify(model, (x, y), 0.1, verbose=0)
        for old, new in zip(before, model.get_layer("memory").states):
            np.testing.assert_array_equal(old, np.array(new))

    def test_rows_that_a_fixed_batch_has_no_room_for(self):
        inputs = keras.Input(batch_shape=(8, 3))
        model = compiled(keras.Model(inputs, layers.Dense(3)(inputs)))
        x, y = data()
        scorer = DataScorer(model, (x[:203], y[:203]), holdout=0)
        self.assertEqual(scorer.num_samples, 200)
        batches = [(x[i : i + 4], y[i : i + 4]) for i in range(0, 200, 4)]
        with self.assertRaisesRegex(ValueError, "0 parts of 8 rows, which"):
            DataScorer(model, batches)

    def test_labels_that_are_none(self):
        x, y = data()
        with self.assertRaisesRegex(TypeError, "Pass arrays in their place"):
            DataScorer(classifier(), (x, [y, None]))

    def test_sample_weights(self):
        x, y = data()
        weight = np.random.default_rng(0).uniform(size=NUM).astype("float32")
        model = classifier(weighted_metrics=["accuracy"], metrics=())
        scorer = DataScorer(model, (x, y, weight), holdout=0)
        right = model.predict(x, verbose=0).argmax(-1) == y
        expected = np.average(right, weights=weight)
        self.assertAlmostEqual(scorer(model).value, expected, 5)

    @parameterized.parameters("batches", "sequence", "no_weights", "list")
    def test_forms(self, form):
        batches = [Batches()[i] for i in range(13)]
        found = {
            "batches": batches,
            "sequence": Batches(),
            "no_weights": (*data(), None),
            "list": [*data()],
        }[form]
        model = classifier()
        scorer = DataScorer(model, found, holdout=0)
        expected = model.evaluate(*data(), verbose=0)[1]
        self.assertAlmostEqual(scorer(model).value, expected, 5)

    def test_several_inputs_and_outputs(self):
        x, y = data()
        a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
        c = layers.Dense(3, name="one")(a)
        d = layers.Dense(1, name="two")(layers.Concatenate()([a, b]))
        model = keras.Model({"a": a, "b": b}, {"one": c, "two": d})
        cross = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(
            loss={"one": cross, "two": "mse"},
            metrics={"one": ["accuracy"], "two": ["mae"]},
        )
        found = ({"a": x, "b": x}, {"one": y, "two": x[:, :1]})
        scorer = DataScorer(model, found)
        self.assertEqual((scorer.name, scorer.sign), ("one_accuracy", 1))
        scorer = DataScorer(model, found, metric="two_mae")
        self.assertEqual(scorer.sign, -1)

    @parameterized.parameters(
        ({"metric": "auc"}, "Give one of those .*'accuracy'"),
        ({"metric": "span"}, "one that is, of .'accuracy', 'loss'., or giv"),
        ({"data": (np.ones((3, 3)), np.ones(3))}, "Pass some thousand"),
        ({"data": (np.ones((3, 3)), np.ones(4))}, "one label for each"),
        ({"data": []}, "Pass at least one batch"),
        ({"data": (np.full((9, 3), np.nan), np.ones(9))}, "Look for NaN"),
    )
    def test_refused(self, arguments, message):
        model = classifier(metrics=["accuracy", Span()])
        arguments = {"data": data()} | arguments
        if "Look" in message:
            arguments["metric"] = "loss"
        with self.assertRaisesRegex(ValueError, message):
            DataScorer(model, **arguments)

    @parameterized.parameters(
        keras.metrics.AUC,
        keras.metrics.Precision,
        keras.metrics.Recall,
        lambda **kwargs: keras.metrics.F1Score(
            "micro", threshold=0.5, **kwargs
        ),
        keras.metrics.BinaryIoU,
        keras.metrics.RootMeanSquaredError,
        functools.partial(keras.metrics.RecallAtPrecision, 0.5),
    )
    def test_no_mean_though_all_answers_are_right(self, kind):
        """In every part, and in the whole, they are 1, or 0."""
        if kind is keras.metrics.BinaryIoU and keras.backend.backend() == "jax":
            self.skipTest("Keras asks for int64 there, and JAX warns.")
        x = np.tile([[1.0], [0.0]], (800, 1)).astype("float32")
        model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
        model.set_weights([np.ones((1, 1)), np.zeros(1)])
        compiled(model, "mse", ["binary_accuracy", kind(name="m")])
        self.assertIn(model.evaluate(x, x, verbose=0)[2], (0, 1))
        text = "'m' is no mean .*'binary_accuracy', 'loss'.*of other samples"
        with self.assertRaisesRegex(ValueError, text):
            DataScorer(model, (x, x), metric="m")
        for name, sign in (("binary_accuracy", 1), ("loss", -1)):
            self.assertEqual(DataScorer(model, (x, x), name).sign, sign)

    @parameterized.parameters("one_loss", "two_loss", "loss", "two_mae")
    def test_unequal_parts(self, name):
        """Keras takes the loss of one output as the mean over batches."""
        model = two_outputs()
        x, y = data(NUM + 3)
        scorer = DataScorer(model, (x, [y, x[:, :1]]), name, holdout=0)
        sizes = {len(part[0]) for part in scorer._parts["search"]}
        self.assertLen(sizes, 2)
        whole = model.test_on_batch(x, [y, x[:, :1]], return_dict=True)
        self.assertAlmostEqual(scorer(model).value, float(whole[name]), 5)

    def test_the_first_metric_of_compile_is_taken(self):
        kinds = [one_hot_error, "accuracy"]
        for metrics in (kinds, kinds[::-1]):
            scorer = DataScorer(classifier(metrics=metrics), data())
            names = [getattr(m, "__name__", m) for m in metrics]
            self.assertEqual(scorer.name, names[0])
            self.assertEqual(scorer.others, ["loss", names[1]])
        scorer = DataScorer(two_outputs(), (data()[0], [data()[1]] * 2))
        self.assertEqual(scorer.name, "two_mae")

    def test_metrics_of_several_numbers_are_none(self):
        x, y = data()
        y = np.eye(3)[y].astype("float32")
        model = classifier(loss="mse", metrics=[keras.metrics.F1Score(), "mae"])
        self.assertEqual(DataScorer(model, (x, y)).name, "mae")
        with self.assertRaisesRegex(ValueError, "one number. Give one of"):
            DataScorer(model, (x, y), "f1_score")

    def test_not_compiled(self):
        model = keras.Sequential([keras.Input((3,)), layers.Dense(3)])
        with self.assertRaisesRegex(ValueError, "or give a function as `eval"):
            DataScorer(model, data())


def two_outputs():
    """Its last output is the first of the alphabet, and of the metrics."""
    inputs = keras.Input((3,))
    names = ("one", "two")
    outputs = [layers.Dense(4 - n, name=k) for k, n in zip(names, (1, 3))]
    model = keras.Model(inputs, [layer(inputs) for layer in outputs])
    cross = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=[cross, "mse"], metrics=[[], ["mae"]])
    return model


def one_hot_error(y, predictions):
    expected = keras.ops.one_hot(keras.ops.reshape(y, (-1,)), 3)
    found = keras.ops.softmax(predictions)
    return keras.ops.mean(keras.ops.abs(found - expected), axis=-1)


def gap(y, predictions):
    return one_hot_error(y, predictions)


def share(y, predictions):
    return -one_hot_error(y, predictions)


one_hot_error.__name__ = "mean_absolute_error"


class Span(keras.metrics.Metric):
    """The largest prediction: no mean over samples."""

    def __init__(self, name="span"):
        super().__init__(name=name)
        self.top = self.add_variable((), "zeros", name="top")

    def update_state(self, y, predictions, sample_weight=None):
        self.top.assign(keras.ops.maximum(self.top, keras.ops.max(predictions)))

    def result(self):
        return keras.ops.convert_to_tensor(self.top)


class PurifyTest(parameterized.TestCase):
    def test_what_is_reported_was_not_searched_on(self):
        model = classifier()
        report = purify(model, data(), max_drop=0.02, verbose=0)
        # Half of the strong filters are doubles, the weak ones do nothing.
        self.assertLess(report.weights_after, report.weights_before)
        held_out = DataScorer(model, data())
        after = held_out(model, "held out")
        self.assertEqual(report.score_after, after.value)
        self.assertEqual(report.num_samples, NUM // 2)
        self.assertTrue(report.is_held_out)
        self.assertEqual(report.metric, "accuracy")
        self.assertAlmostEqual(
            report.drop, report.score_before - report.score_after
        )
        self.assertLessEqual(report.drop_error, 0.02)
        text = str(report)
        self.assertIn("on 200 samples that the search has not seen", text)
        self.assertIn("sample by sample", text)

    def test_no_answer_that_changed_is_not_proof(self):
        model = classifier()
        x, y = data(40)
        y = model.predict(x, verbose=0).argmax(-1)  # all of them are right
        with self.assertWarnsRegex(UserWarning, "is below the standard error"):
            report = purify(model, (x, y), max_drop=0.0, verbose=0)
        self.assertEqual(report.weights_after, report.weights_before)
        self.assertAlmostEqual(report.drop_error, 1 / 20)

    def test_how_many_samples_it_takes_counts_those_held_out(self):
        x, y = data()
        with self.assertWarnsRegex(UserWarning, "in all") as caught:
            purify(classifier(), (x, y), max_drop=0.001, verbose=0)
        text = str(caught.warning).replace(",", "")
        times, total = re.search(
            r"([\d.]+) times as many samples about (\d+) in all", text
        ).groups()
        self.assertAlmostEqual(
            int(total) / (float(times) * NUM), 1.0, delta=0.02
        )

    @parameterized.parameters(list, np.array, np.char.encode)
    def test_words(self, form):
        if keras.backend.backend() != "tensorflow":
            self.skipTest("Keras takes words on TensorFlow alone.")
        words = np.array(["north", "east", "south"])
        x = words[np.arange(NUM) % 3]
        model = keras.Sequential(
            [
                keras.Input((), dtype="string"),
                layers.StringLookup(vocabulary=[*words], output_mode="one_hot"),
                layers.Dense(8, activation="relu"),
                layers.Dense(3),
            ]
        )
        for layer in model.layers[1:]:
            # The first entry stands for words that are not known.
            num_rows, width = layer.kernel.shape
            layer.kernel.assign(np.eye(num_rows, width, -(num_rows == 4)))
        y = np.arange(NUM) % 3
        compiled(model)
        pairs = [
            (form(x[i : i + 40]), y[i : i + 40]) for i in range(0, NUM, 40)
        ]
        if form is list:
            import tensorflow as tf

            pairs = tf.data.Dataset.from_tensor_slices((x, y)).batch(40)
        report = purify(model, pairs, max_drop=0.1, verbose=0)
        self.assertEqual(report.num_samples, NUM // 2)

    def test_a_loss_may_rise_by_so_much(self):
        model = classifier(metrics=())
        report = purify(model, data(), 0.05, holdout=0, verbose=0)
        self.assertEqual(report.metric, "loss")
        self.assertFalse(report.is_held_out)
        self.assertLess(report.weights_after, report.weights_before)
        self.assertAlmostEqual(
            report.drop, report.score_after - report.score_before
        )
        self.assertLessEqual(report.drop + report.drop_error, 0.05)

    def test_noise_is_no_room(self):
        """A weak filter decides some, as often wrong as right."""
        s, t = np.array([[1, 0], [-1, 0], [0.05, -1], [0.05, -1]] * 50).T
        y = np.array([1, 0, 0, 1] * 50)
        x = np.stack([s, t], axis=-1).astype("float32")
        for is_data in (False, True):
            inputs = keras.Input((2,))
            h = layers.Dense(2, name="hidden", use_bias=False)(inputs)
            model = keras.Model(inputs, layers.Dense(2, use_bias=False)(h))
            kernels = [np.diag([1, 0.1]), np.array([[0, 1], [0, 1]])]
            model.set_weights(kernels)
            compiled(model)
            kwargs = {"holdout": 0} if is_data else {}
            evaluate, warning = (x, y), "0.049: little .* as many samples"
            if not is_data:
                evaluate = lambda m: m.evaluate(x, y, verbose=0)[1]  # noqa: E731
                warning = "all that purification can remove"
            with self.assertWarnsRegex(UserWarning, warning):
                report = purify(model, evaluate, 0.01, verbose=0, **kwargs)
            filters = np.array(model.get_layer("hidden").kernel).any(axis=0)
            self.assertEqual(filters.tolist(), [True, is_data])
            self.assertEqual(report.drop, 0)

    def test_more_lost_on_what_was_not_seen(self):
        """The weak filters are needed where the search does not look."""
        model, (x, y) = classifier(), data()
        numbers = np.repeat(np.arange(NUM)[:, None], 3, axis=1)
        parts = DataScorer(model, (numbers, y))._parts["held out"]
        held_out = np.concatenate([part[0][:, 0] for part in parts])
        x = np.concatenate([x, np.zeros((NUM, 1), "float32")], axis=1)
        x[held_out[::2]] = [0, 0, 0, 1]
        y[held_out[::2]] = 2
        inputs = keras.Input((4,))
        h = layers.Dense(13, name="hidden", use_bias=False)(inputs)
        wide = keras.Model(inputs, layers.Dense(3, use_bias=False)(h))
        kernels = [np.zeros((4, 13)), np.zeros((13, 3))]
        for array, old in zip(kernels, model.get_weights()[:2]):
            array[: old.shape[0], : old.shape[1]] = old
        kernels[0][3, 12], kernels[1][12, 2] = 0.01, 1.0
        wide.set_weights(kernels)
        compiled(wide)
        text = "more than max_drop=0.01. Purify again from the weights before"
        with self.assertWarnsRegex(UserWarning, text):
            purify(wide, (x, y), 0.01, verbose=0)

    @parameterized.parameters(0.0, 1.0)
    def test_chance_level(self, max_drop):
        model = classifier()
        rng = np.random.default_rng(0)
        weights = [rng.normal(size=w.shape) for w in model.get_weights()]
        model.set_weights(weights)
        labels = rng.integers(0, 3, NUM)
        message = "Train it first.*The model is as before"
        with self.assertRaisesRegex(ValueError, message):
            purify(model, (data()[0], labels), max_drop, verbose=0)
        for old, new in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_allclose(new, old, rtol=1e-6)

    def test_says_which_metric_was_taken(self):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            purify(classifier(), data(), 0.02, max_evaluations=3)
        self.assertIn(
            "metric=None takes the first of ['accuracy', 'loss']",
            printed.getvalue(),
        )

    def test_a_budget_for_everything(self):
        with self.assertRaisesRegex(ValueError, "Lower `max_drop`: a fall"):
            purify(classifier(), data(), 1.0, verbose=0)

    def test_num_samples_are_counted(self):
        with self.assertRaisesRegex(ValueError, "data are counted. Leave it"):
            purify(classifier(), data(), num_samples=5)

    @parameterized.parameters(-0.1, 1.0)
    def test_holdout_out_of_range(self, holdout):
        with self.assertRaisesRegex(ValueError, r"`holdout` in \[0, 1\)"):
            purify(classifier(), data(), holdout=holdout)


if __name__ == "__main__":
    absltest.main()
