import contextlib
import io
import re
import zlib

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.pruning.masks import masks_of
from keras_prm.pruning.purify import purify
from keras_prm.pruning.thresholds import Thresholds
from keras_prm.rebuild.strip import strip
from tests.helpers import zoo


def chain():
    """Three convolutions whose kernels are all ones; vectors are not 0."""
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, name="a")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU()(x)
    x = layers.Conv2D(3, 3, activation="relu", name="b")(x)
    model = keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x))
    return fill(model)


def residual():
    """out(s + p(s)): the filters of `s` and `p` fall together."""
    inputs = keras.Input((4, 4, 2))
    s = layers.Conv2D(4, 1, name="s")(inputs)
    x = layers.Add()([s, layers.Conv2D(4, 1, name="p")(s)])
    return fill(keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x)))


def fill(model):
    zoo.randomize(model)
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            layer.kernel.assign(np.ones(layer.kernel.shape))
    return model


def uneven(name, seed=0):
    """A zoo model with strong and weak channels and filters."""
    model = zoo.make(name)
    rng = np.random.default_rng(seed)
    for v in model.trainable_variables:
        if "kernel" in v.name:
            scale = np.exp(1.5 * rng.normal(size=v.shape[-2:]))
            v.assign(np.array(v) * scale)
    return model


def edit(model, name, index, value):
    """Sets `kernel[index]` of a layer, which is (h, w, in, out)."""
    kernel = np.array(model.get_layer(name).kernel)
    kernel[index] = value
    model.get_layer(name).kernel.assign(kernel)


def kernel_of(model, name):
    return np.array(model.get_layer(name).kernel)


def rows_of(report):
    return {
        r.key: [len(r.channels), len(r.filters), r.followed, r.strength]
        for r in report.rows
    }


class ThresholdsTest(parameterized.TestCase):
    def test_channel_with_few_and_weak_columns_falls(self):
        model = chain()
        edit(model, "b", np.s_[:, :, 1], 0.0)
        edit(model, "b", np.s_[0, 0, 1, :], 0.1)
        report = purify(model, thresholds=Thresholds())
        self.assertFalse(kernel_of(model, "b")[:, :, 1].any())
        # Filter (i - 1, j) falls with it, whole.
        self.assertFalse(kernel_of(model, "a")[..., 1].any())
        bn = model.get_layer("bn")
        for vector in (model.get_layer("a").bias, bn.gamma, bn.beta):
            np.testing.assert_array_equal(
                np.array(vector) != 0, [True, False, True, True]
            )
        self.assertEqual(
            rows_of(report),
            {
                "a/kernel": [0, 0, 3 * 3 * 2, 1.0],
                "b/kernel": [1, 0, 0, 1.0],
                "out/kernel": [0, 0, 0, 1.0],
            },
        )
        before = 3 * 3 * 2 * 4 + (3 * 3 * 3 + 1) * 3 + 3 * 2
        self.assertEqual(report.weights_before, before)
        self.assertEqual(report.weights_after, before - 3 * 3 * 2 - 3)
        self.assertEqual(report.masks, masks_of(model))
        self.assertEqual(strip(model).get_layer("a").filters, 3)

    def test_weak_channel_of_live_columns_stays(self):
        model = chain()
        # 0.35^2 is a tenth of the median column, and a tenth of the energy.
        edit(model, "b", np.s_[:, :, 1], 0.35)
        thresholds = Thresholds(column=0.1, share=0.5, channel=0.5)
        report = purify(model, thresholds=thresholds)
        self.assertEqual(report.weights_after, report.weights_before)

    def test_strong_channel_of_few_columns_stays(self):
        model = chain()
        edit(model, "b", np.s_[:, :, 1], 0.0)
        edit(model, "b", np.s_[1, 1, 1, :], 1.0)  # a ninth of the energy
        report = purify(model, thresholds=Thresholds(channel=0.1))
        self.assertEqual(report.weights_after, report.weights_before)
        report = purify(model, thresholds=Thresholds(channel=0.12))
        self.assertLess(report.weights_after, report.weights_before)

    def test_rows_of_an_embedding_stay(self):
        inputs = keras.Input((5,), dtype="int32")
        x = layers.Embedding(12, 4, name="words")(inputs)
        x = layers.GlobalAveragePooling1D()(x)
        model = keras.Model(inputs, layers.Dense(2, name="out")(x))
        words = np.ones((12, 4))
        words[3] = 1e-3  # a rare word
        words[:, 2] = 1e-3
        model.get_layer("words").embeddings.assign(words)
        purify(model, thresholds=Thresholds())
        found = np.array(model.get_layer("words").embeddings)
        words[:, 2] = 0
        np.testing.assert_array_equal(found, words.astype("float32"))

    def test_frozen_layers_lose_what_follows_alone(self):
        model = chain()
        edit(model, "a", np.s_[..., 2], 0.1)
        edit(model, "b", np.s_[..., 1], 0.1)
        model.get_layer("b").trainable = False
        purify(model, thresholds=Thresholds())
        self.assertFalse(kernel_of(model, "a")[..., 2].any())
        kernel = kernel_of(model, "b")
        self.assertFalse(kernel[:, :, 2].any())
        self.assertTrue(kernel[:, :, [0, 1, 3]].all())

    @parameterized.parameters(1.0, 1e3, 1e9)
    def test_channel_of_strong_columns_never_falls(self, strength):
        model = chain()
        edit(model, "b", np.s_[:, :, 1:3], 2.0)
        limits = Thresholds(strength, 0.5, strength, 0.0)
        purify(model, thresholds=limits)
        self.assertTrue(kernel_of(model, "b")[:, :, 1:3].all())
        self.assertFalse(kernel_of(model, "b")[:, :, [0, 3]].any())

    @parameterized.parameters("fixed_point", "single")
    def test_nor_does_it_in_a_search_that_may_do_anything(self, sweeps):
        model = chain()
        edit(model, "b", np.s_[:, :, 1:3], 2.0)
        purify(
            model,
            evaluate=is_alive,
            thresholds=Thresholds(10.0, 0.5, 10.0, 0.0),
            sweeps=sweeps,
        )
        self.assertTrue(kernel_of(model, "b")[:, :, 1:3].all())

    def test_nor_because_filters_fell(self):
        """Every column of `b` loses the little that two filters held."""
        model = chain()
        edit(model, "b", np.s_[..., 2], 0.1)
        purify(model, thresholds=Thresholds(1e3, 0.5, 1e3, 0.5))
        kernel = kernel_of(model, "b")
        self.assertFalse(kernel[..., 2].any())
        self.assertTrue(kernel[..., :2].all())

    def test_small_filter_falls_with_all_that_follows(self):
        model = chain()
        edit(model, "a", np.s_[..., 2], 0.1)
        report = purify(model, thresholds=Thresholds())
        self.assertFalse(kernel_of(model, "a")[..., 2].any())
        bn = model.get_layer("bn")
        for vector in (model.get_layer("a").bias, bn.gamma, bn.beta):
            np.testing.assert_array_equal(
                np.array(vector) != 0, [True, True, False, True]
            )
        self.assertTrue(np.all(bn.moving_mean))
        self.assertFalse(kernel_of(model, "b")[:, :, 2].any())  # (i + 1, m)
        self.assertEqual(
            rows_of(report),
            {
                "a/kernel": [0, 1, 0, 1.0],
                "b/kernel": [0, 0, 3 * 3 * 3, 1.0],
                "out/kernel": [0, 0, 0, 1.0],
            },
        )

    def test_filters_of_the_output_stay(self):
        model = chain()
        edit(model, "out", np.s_[..., 1], 1e-3)
        report = purify(model, thresholds=Thresholds())
        self.assertEqual(report.weights_after, report.weights_before)

    def test_fixed_point_does_more_than_a_single_sweep(self):
        counts = {}
        for sweeps in ("single", "fixed_point"):
            model = chain()
            # Channel 1 lives by filter 0, which lives by channel 1.
            edit(model, "b", np.s_[..., 0], 0.0)
            edit(model, "b", np.s_[:, :, 1], 0.01)
            edit(model, "b", np.s_[:, :, 1, 0], 0.5)
            report = purify(model, thresholds=Thresholds(), sweeps=sweeps)
            self.assertFalse(kernel_of(model, "b")[..., 0].any())
            counts[sweeps] = report.weights_after
            left = kernel_of(model, "a")[..., 1].any()
            self.assertEqual(left, sweeps == "single")
        # Filter 1 of `a`, and what `b` reads of it with two filters.
        difference = 3 * 3 * 2 + 3 * 3 * 2
        self.assertEqual(counts["single"] - counts["fixed_point"], difference)


class ResidualTest(parameterized.TestCase):
    def test_one_blank_writer_is_not_enough(self):
        model = residual()
        edit(model, "p", np.s_[..., 1], 0.01)
        bias = np.array(model.get_layer("p").bias)
        report = purify(model, thresholds=Thresholds())
        self.assertFalse(kernel_of(model, "p")[..., 1].any())
        self.assertTrue(kernel_of(model, "s").all())
        self.assertTrue(kernel_of(model, "out").all())
        np.testing.assert_array_equal(model.get_layer("p").bias, bias)
        self.assertEqual(report.masks, masks_of(model))
        self.assertEqual(strip(model).count_params(), model.count_params())

    def test_all_writers_blank(self):
        model = residual()
        edit(model, "p", np.s_[..., 1], 0.01)
        edit(model, "s", np.s_[..., 1], 0.01)
        purify(model, thresholds=Thresholds())
        for name in ("s", "p"):
            layer = model.get_layer(name)
            self.assertFalse(kernel_of(model, name)[..., 1].any())
            self.assertEqual(np.array(layer.bias)[1], 0.0)
        for name in ("p", "out"):
            self.assertFalse(kernel_of(model, name)[:, :, 1].any())
        self.assertEqual(strip(model).get_layer("s").filters, 3)

    @parameterized.parameters(False, True)
    def test_falls_where_nobody_reads_it(self, one_reader):
        model = residual()
        edit(model, "out", np.s_[:, :, 1], 0.01)
        if not one_reader:
            edit(model, "p", np.s_[:, :, 1], 0.01)
        purify(model, thresholds=Thresholds())
        self.assertFalse(kernel_of(model, "out")[:, :, 1].any())
        self.assertEqual(kernel_of(model, "s")[..., 1].all(), one_reader)
        filters = strip(model).get_layer("s").filters
        self.assertEqual(filters, 4 if one_reader else 3)


def share_of_energy(model):
    return float(sum(np.abs(k).sum() for k in kernels_of(model))) / 1e3


def count(model):
    return sum(np.count_nonzero(w) for w in model.get_weights())


def checksum(model):
    return zlib.crc32(b"".join(w.tobytes() for w in model.get_weights()))


def is_alive(model):
    """A score that all will do for but a model without any kernel."""
    return float(any(v.any() for v in kernels_of(model)))


def kernels_of(model):
    return [np.array(v) for v in model.weights if "kernel" in v.name]


SCORES = {
    "constant": is_alive,
    "energy": share_of_energy,
    "steps": lambda m: float(count(m) > 150),
    "fewer_is_better": lambda m: -count(m) / 1e3,
    "waves": lambda m: np.sin(count(m) / 7.0),
    "noise": lambda m: share_of_energy(m) + checksum(m) % 97 / 97,
    "array": lambda m: np.array(checksum(m) % 11, "float32"),
}


def error_against(y, x, sign):
    """A score: an error, which should be lower, or its negative."""
    return lambda model: sign * float(np.abs(model(x) - y).mean())


class Recorder:
    """Keeps every state that was evaluated, with its score."""

    def __init__(self, function):
        self.function = function
        self.seen = []

    def __call__(self, model):
        score = self.function(model) if is_alive(model) else -1e9
        self.seen.append((checksum(model), float(score)))
        return score


class BudgetTest(parameterized.TestCase):
    @parameterized.product(
        score=[*SCORES], max_drop=[0.0, 0.3], name=["batch_norm"]
    )
    def test_holds_for_any_score(self, score, max_drop, name):
        self.check(uneven(name), SCORES[score], max_drop)

    @parameterized.parameters("residual", "mlp", "shared", "nested")
    def test_holds_for_any_model(self, name):
        self.check(uneven(name), SCORES["noise"], 0.3, max_evaluations=15)

    @parameterized.parameters(0, 1)
    def test_holds_for_single_sweeps(self, seed):
        model = uneven("batch_norm", seed)
        self.check(model, SCORES["energy"], 0.05, sweeps="single")

    def check(self, model, score, max_drop, **kwargs):
        kwargs = {"max_evaluations": 30} | kwargs
        recorder = Recorder(score)
        before = model.get_weights()
        report = purify(model, recorder, max_drop, **kwargs)
        self.assertEqual(report.score_before, recorder.seen[0][1])
        self.assertGreaterEqual(
            float(score(model)), report.score_before - max_drop
        )
        # The final state is one that was evaluated, to the bit.
        self.assertIn((checksum(model), report.score_after), recorder.seen)
        self.assertLen(recorder.seen, report.evaluations)
        self.assertLessEqual(report.evaluations, kwargs["max_evaluations"])
        states = [state for state, _ in recorder.seen]
        self.assertLen({*states}, len(states))
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(new, np.where(new == 0, 0, old))
        self.assertEqual(report.masks, masks_of(model))
        kernels = kernels_of(model)
        self.assertEqual(
            report.weights_after, sum(np.count_nonzero(k) for k in kernels)
        )
        return report

    def test_a_large_budget_is_used(self):
        model = uneven("batch_norm")
        report = self.check(model, SCORES["constant"], 0.0)
        self.assertLess(report.weights_after, report.weights_before / 2)

    def test_no_budget_changes_nothing(self):
        model = uneven("batch_norm")
        before = checksum(model)
        report = purify(model, lambda m: float(checksum(m) == before))
        self.assertEqual(checksum(model), before)
        self.assertEqual(report.weights_after, report.weights_before)
        for *removed, _ in rows_of(report).values():
            self.assertEqual(removed, [0, 0, 0])

    @parameterized.parameters(1, 7, 20)
    def test_the_search_ends_close_to_the_budget(self, num):
        """Each filter has a tenth more energy than the one before."""
        dense = [layers.Dense(size, use_bias=False) for size in (40, 2)]
        model = keras.Sequential([keras.Input((3,)), *dense])
        energies = 1.1 ** (np.arange(40) / 2)
        model.set_weights([np.ones((3, 40)) * energies, np.ones((40, 2))])

        def score(model):
            alive = np.array(dense[0].kernel).any(axis=0)
            return -float(40 - alive.sum())

        report = self.check(model, score, num)
        self.assertEqual(report.weights_after, (3 + 2) * (40 - num))

    @parameterized.parameters(1, 2, 5)
    def test_number_of_evaluations(self, limit):
        model = uneven("batch_norm")
        report = self.check(model, SCORES["noise"], 0.3, max_evaluations=limit)
        self.assertEqual(report.evaluations, limit)

    @parameterized.product(
        error=[RuntimeError("mine"), KeyboardInterrupt("mine")], call=[1, 2, 4]
    )
    def test_weights_come_back_after_an_error(self, error, call):
        model = uneven("batch_norm")
        before, calls = checksum(model), []

        def evaluate(model):
            calls.append(checksum(model))
            if len(calls) == call:
                raise error
            return is_alive(model)

        with self.assertRaisesRegex(type(error), "mine"):
            purify(model, evaluate)
        self.assertLen(calls, call)
        self.assertEqual(checksum(model), before)
        self.assertEqual(call == 1, calls[-1] == before)

    @parameterized.parameters(
        (float("nan"), ValueError, "higher is better, such as an accuracy"),
        ([0.1, 0.9], TypeError, r"`lambda m: m.evaluate\(x, y\)\[1\]`"),
        ({"loss": 0.1, "acc": 0.9}, TypeError, r"such as `\['acc'\]`"),
        ((0.1, 0.9, 0.8), TypeError, r"`lambda m: m.evaluate\(x, y\)\[1\]`"),
        ({}, TypeError, "`evaluate` has to return a float"),
        (None, TypeError, "Does the function return something"),
        ("0.9", TypeError, r"Convert what it returns, `float\(score\)`"),
        (np.ones(3), TypeError, r"`float\(np.mean\(scores\)\)`"),
        (iter([0.9]), TypeError, "Data are given as they are"),
        (float("inf"), ValueError, "finite, higher is better, such as"),
        ((0.9, float("inf")), ValueError, r"Return `\(score, standard_error"),
        ((0.9, float("nan")), ValueError, "or the score alone"),
    )
    def test_weights_come_back_after_no_score(self, bad, error, message):
        model = uneven("batch_norm")
        before, scores = checksum(model), iter([1.0, 0.0, bad])
        with self.assertRaisesRegex(error, message):
            purify(model, lambda m: next(scores))
        self.assertEqual(checksum(model), before)

    @parameterized.parameters("inf", "-inf", "nan")
    def test_a_first_score_that_is_not_finite(self, value):
        model = uneven("batch_norm")
        before = checksum(model)
        with self.assertRaisesRegex(ValueError, "finite, .* an accuracy"):
            purify(model, lambda m: float(value), verbose=0)
        self.assertEqual(checksum(model), before)

    def test_a_state_may_be_infinitely_bad(self):
        """As a likelihood that is 0."""
        model = uneven("batch_norm")
        start = count(model)

        def score(model):
            return 0.0 if count(model) > 0.9 * start else -np.inf

        report = purify(model, score, 1.0, verbose=0)
        self.assertGreater(count(model), 0.9 * start)
        self.assertEqual(report.score_after, 0.0)

    @parameterized.parameters(
        (np.array,),
        (lambda x: np.array([x]),),
        (lambda x: np.array([[x]], "float32"),),
        (np.float32,),
        (keras.ops.convert_to_tensor,),
        (lambda x: keras.ops.cast([x], "bfloat16"),),
    )
    def test_one_number_is_a_score(self, form):
        model = uneven("batch_norm")
        report = purify(model, lambda m: form(is_alive(m)), 0.5, verbose=0)
        self.assertEqual(report.score_before, 1.0)

    def test_all_that_evaluate_returns_is_no_score_with_an_error(self):
        model = uneven("batch_norm")

        def score(model):
            return (0.3, 0.9) if is_alive(model) else (1.1, 0.1)

        text = "is taken for .score, standard error.: .* one metric alone"
        with self.assertRaisesRegex(ValueError, text):
            purify(model, score, 1.0, verbose=0)

    @parameterized.parameters(
        (0.0, "of a loss return the negative"),
        (1e9, "Lower `max_drop`: .*max_drop=1e\\+09. The model is as before"),
    )
    def test_a_budget_for_everything_is_refused(self, max_drop, message):
        model = uneven("batch_norm")
        before, x = checksum(model), zoo.inputs_of(model)
        evaluate = error_against(model(x), x, -1 if max_drop else 1)
        with self.assertRaisesRegex(ValueError, message):
            purify(model, evaluate, max_drop)
        self.assertEqual(checksum(model), before)

    def test_a_budget_for_all_that_can_go_warns(self):
        with self.assertWarnsRegex(UserWarning, "Lower `max_drop`, or the"):
            purify(uneven("batch_norm"), is_alive)

    def test_a_budget_for_every_weight_is_refused(self):
        inputs = keras.Input((3,))
        x = layers.Dense(2, name="a")(inputs)
        model = keras.Model(inputs, layers.Dense(2, name="b")(x))
        # What stays longest of one is not what stays longest of the other.
        model.get_layer("a").kernel.assign([[1, 0.1]] * 3)
        model.get_layer("b").kernel.assign([[0.1, 0.1], [1, 1]])
        model.get_layer("a").bias.assign([1, 1])
        before = checksum(model)

        def score(model):  # without biases all kernels may go
            return is_alive(model) or float(count(model) == 0)

        with self.assertRaisesRegex(ValueError, "0 of 10 .*model is as bef"):
            purify(model, score)
        self.assertEqual(checksum(model), before)

    def test_a_function_that_does_not_look_at_the_model_warns(self):
        model = uneven("batch_norm")
        with self.assertWarnsRegex(UserWarning, "Let it measure the model"):
            report = purify(model, lambda m: 0.5)
        self.assertLess(report.weights_after, report.weights_before)

    @parameterized.parameters(
        (0.102, 0.09),  # shares of 500
        (0.3, 0.1),
        (0.55, 0.5, 0.05),
    )
    def test_chance_level_is_refused(self, value, blank, error=None):
        def score(model):
            found = value if is_alive(model) else blank
            return found if error is None else (found, error)

        if (value, blank) == (0.3, 0.1):  # told apart by 100 samples
            purify(uneven("batch_norm"), score, max_evaluations=2)
            return
        with self.assertRaisesRegex(ValueError, "Train it first, or measure"):
            purify(uneven("batch_norm"), score, max_drop=1.0)

    def test_a_model_of_one_answer_is_refused(self):
        model = uneven("batch_norm")
        start = checksum(model)

        def score(model):  # random kernels give other answers
            is_one_answer = checksum(model) == start or not is_alive(model)
            return 0.1 if is_one_answer else 0.13

        with self.assertRaisesRegex(ValueError, "Train it first, or measure"):
            purify(model, score, max_drop=1.0)


class ErrorTest(parameterized.TestCase):
    """What a function's score is worth, where that can be known."""

    @parameterized.parameters(
        (lambda m: (0.9 * is_alive(m), 0.003), None, "2.2 times as many samp"),
        (lambda m: 0.9 * is_alive(m), 10_000, "as many samples, about 22,500"),
    )
    def test_below_the_standard_error(self, score, num_samples, advice):
        model = uneven("batch_norm")
        text = f"max_drop=0.002 is below .* of evaluate, 0.003: .*{advice}"
        with self.assertWarnsRegex(UserWarning, text):
            report = purify(
                *(model, score, 0.002),
                max_evaluations=3,
                num_samples=num_samples,
            )
        self.assertAlmostEqual(report.standard_error, 0.003)
        self.assertEqual(report.num_samples, num_samples)
        self.assertIn("standard error of evaluate: 0.003", str(report))

    def test_silent_above_it(self):
        model = uneven("batch_norm")
        score = lambda m: (0.9 * is_alive(m), 0.003)  # noqa: E731
        purify(model, score, 0.004, max_evaluations=3)

    def test_shares_tell_their_number(self):
        model, shares = uneven("batch_norm"), iter([973, 98, 974, 972, 971])

        def score(model):
            return np.float32(next(shares) / 1000)

        with self.assertWarnsRegex(UserWarning, "shares of 1,000 samples"):
            report = purify(model, score, 0.002, max_evaluations=5)
        self.assertEqual(report.num_samples, 1000)
        self.assertAlmostEqual(
            report.standard_error, (0.973 * 0.027 / 1000) ** 0.5, 6
        )

    @parameterized.parameters(
        (98.0, 100, "Divide percent by 100"),
        ((0.9, -0.1), None, r"Return `\(score, standard_error\)`"),
    )
    def test_no_error(self, answer, num_samples, message):
        with self.assertRaisesRegex(ValueError, message):
            purify(chain(), lambda m: answer, num_samples=num_samples)


class VerboseTest(parameterized.TestCase):
    @parameterized.parameters(0, 1, 2, "auto")
    def test_says_how_far_it_is(self, verbose):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            purify(
                *(uneven("batch_norm"), is_alive, 0.5),
                max_evaluations=5,
                verbose=verbose,
                num_samples=100,
            )
        text = printed.getvalue()
        first = r"^purify: evaluate 1.0000 ± 0.0099 on 100 samples; max_drop="
        first += r"0.5; at most 5 evaluations, about \d+ s\n"
        self.assertEqual(bool(re.search(first, text)), verbose != 0)
        self.assertEqual("5/5" in text, verbose in (1, "auto"))
        self.assertEqual("purify: kernel weights" in text, verbose == 2)
        self.assertEqual(text == "", verbose == 0)


class RoundWidthsTest(parameterized.TestCase):
    def widths(self, model, names):
        small = strip(model)
        return [small.get_layer(name).kernel.shape[-1] for name in names]

    def dense(self, sizes):
        rng = np.random.default_rng(0)
        model = keras.Sequential([keras.Input((3,))])
        for number, size in enumerate(sizes):
            model.add(layers.Dense(size, activation="relu", name=f"d{number}"))
        model.add(layers.Dense(2, name="out"))
        for v in model.weights:
            scale = np.exp(1.5 * rng.normal(size=v.shape[-1:]))
            v.assign(rng.normal(size=v.shape) * scale)
        return model

    @parameterized.parameters("fixed_point", "single")
    def test_multiples_stay(self, sweeps):
        widths = {}
        for round_to in (1, 4):
            model = self.dense((24, 18, 12))
            purify(
                model,
                thresholds=Thresholds(filter=0.3),
                sweeps=sweeps,
                round_to=round_to,
            )
            widths[round_to] = self.widths(model, ("d0", "d1", "d2"))
        for before, free, whole in zip((24, 18, 12), widths[1], widths[4]):
            self.assertLess(free, before)
            self.assertGreaterEqual(whole, free)
            self.assertIn(whole, {*range(4, before, 4), before})
        self.assertLess(sum(widths[4]), 24 + 18 + 12)

    def test_the_strongest_of_the_fallen_fill_up(self):
        model = self.dense((4,))
        model.get_layer("d0").kernel.assign([[9, 2, 1, 9]] * 3)
        model.get_layer("out").kernel.assign(np.ones((4, 2)))
        model.get_layer("d0").kernel.assign([[9, 0.2, 0.1, 8]] * 3)
        purify(model, thresholds=Thresholds(), round_to=3)
        filters = kernel_of(model, "d0").any(axis=0)
        np.testing.assert_array_equal(filters, [True, True, False, True])

    def test_a_width_that_is_not_round_stays_or_gets_round(self):
        model = self.dense((18,))
        purify(model, thresholds=Thresholds(filter=0.3), round_to=16)
        self.assertIn(self.widths(model, ["d0"])[0], (16, 18))
        model = self.dense((18,))
        purify(model, thresholds=Thresholds(filter=0.3), round_to=19)
        self.assertEqual(self.widths(model, ["d0"]), [18])

    def test_channels_that_died_before_take_no_place(self):
        model = self.dense((23,))
        kernel = np.array(model.get_layer("d0").kernel)
        kernel[:, :7] = 0
        model.get_layer("d0").kernel.assign(kernel)
        model.get_layer("d0").bias.assign(np.zeros(23))
        purify(model, thresholds=Thresholds(filter=3.0), round_to=8)
        self.assertEqual(self.widths(model, ["d0"]), [8])

    @parameterized.parameters("residual", "mlp", "shared", "nested")
    def test_holds_for_any_model(self, name):
        model = uneven(name)
        purify(model, thresholds=Thresholds(filter=0.5), round_to=2)
        for old, new in zip(model.layers, strip(model).layers):
            if hasattr(old, "filters"):
                widths = {old.filters, *range(2, old.filters, 2)}
                self.assertIn(new.filters, widths, name)

    def test_within_a_budget(self):
        model = self.dense((24, 16))
        report = purify(
            model, share_of_energy, 0.15, round_to=8, max_evaluations=30
        )
        self.assertLess(report.weights_after, report.weights_before)
        for width, before in zip(self.widths(model, ("d0", "d1")), (24, 16)):
            self.assertIn(width, range(8, before + 1, 8))


class ReportTest(parameterized.TestCase):
    def test_with_scores(self):
        model = uneven("batch_norm")
        report = purify(model, SCORES["constant"], max_evaluations=5)
        lines = str(report).split("\n")
        self.assertLen(lines, 1 + 3 + 2)
        self.assertEqual(
            lines[0].split(),
            "channels filters weights that followed strength kernel".split(),
        )
        key, numbers = next(iter(rows_of(report).items()))
        self.assertEqual(lines[1].split()[-1], key)
        self.assertEqual(lines[1].split()[:3], [str(n) for n in numbers[:3]])
        self.assertIn(f"{report.weights_before:,} -> ", lines[-2])
        self.assertEqual(
            lines[-1], "evaluate: 1.0000 -> 1.0000 in 5 evaluations"
        )

    def test_without_scores(self):
        report = purify(chain(), thresholds=Thresholds())
        self.assertIsNone(report.score_before)
        self.assertIsNone(report.score_after)
        self.assertEqual(report.evaluations, 0)
        self.assertNotIn("evaluate", str(report))


class ArgumentsTest(parameterized.TestCase):
    @parameterized.parameters(
        ({}, ValueError, "`max_drop`, or explicit `thresholds`"),
        ({"evaluate": 0.9}, TypeError, "a function from the model to a float"),
        ({"evaluate": np.ones(3)}, TypeError, "such a tuple of all samples"),
        ({"evaluate": "data"}, TypeError, "Received: evaluate='data'"),
        ({"evaluate": {"x": np.ones(3)}}, TypeError, "a dict of .*'x'.*label"),
        ({"evaluate": (np.ones(3),)}, TypeError, "a tuple of 1, without lab"),
        ({"evaluate": (np.ones(3), "a")}, TypeError, "make arrays of them"),
        ({"evaluate": [1, 2]}, TypeError, "a batch of type int"),
        ({"evaluate": [(np.ones(3), np.int64(1))]}, TypeError, "call `data.ba"),
        ({"evaluate": ()}, ValueError, "no batch in `evaluate`"),
        ({"evaluate": zoo.make("mlp")}, TypeError, "write one: `lambda m"),
        ({"evaluate": keras.metrics.Mean()}, TypeError, "write one: `lambda"),
        ({"metric": "loss"}, ValueError, "Give `evaluate` data with labels"),
        ({"holdout": 0.5}, ValueError, "Give `evaluate` data with labels"),
        ({"metric": ["loss"], "evaluate": []}, TypeError, "the name of one"),
        ({"holdout": "half", "evaluate": []}, ValueError, "in .0, 1.: the sh"),
        ({"holdout": True, "evaluate": []}, ValueError, "in .0, 1.: the sha"),
        ({"num_samples": 0}, ValueError, "`num_samples` >= 1"),
        ({"num_samples": "512"}, ValueError, "`num_samples` >= 1, an int"),
        ({"num_samples": 5.5}, ValueError, "`num_samples` >= 1, an int"),
        ({"round_to": 0}, ValueError, "1 does not round"),
        ({"verbose": 3}, ValueError, "'auto', 0, 1 or 2"),
        ({"max_drop": -0.1}, ValueError, "by how much the score may fall"),
        ({"max_drop": "0.1"}, ValueError, "`max_drop` >= 0"),
        ({"max_drop": True}, ValueError, "`max_drop` >= 0"),
        ({"max_drop": float("nan")}, ValueError, "`max_drop` >= 0"),
        ({"thresholds": 0.1}, TypeError, r"`keras_prm.Thresholds\(...\)`"),
        ({"sweeps": "twice"}, ValueError, "Expected 'fixed_point' or 'single'"),
        ({"sweeps": np.ones(2)}, ValueError, "'fixed_point' or 'single'"),
        ({"verbose": np.ones(2)}, ValueError, "'auto', 0, 1 or 2"),
        ({"round_to": "8"}, ValueError, "1 does not round"),
        ({"max_evaluations": 0}, ValueError, "`max_evaluations` >= 1"),
        ({"max_evaluations": "a"}, ValueError, "`max_evaluations` >= 1, an"),
        ({"max_evaluations": None}, ValueError, "`max_evaluations` >= 1, an"),
    )
    def test_out_of_range(self, arguments, error, message):
        if arguments:
            arguments = {"evaluate": lambda m: 1.0} | arguments
        model = chain()
        before = checksum(model)
        with self.assertRaisesRegex(error, message):
            purify(model, **arguments)
        self.assertEqual(checksum(model), before)

    def test_whole_floats_are_numbers_of_samples(self):
        report = purify(
            *(uneven("batch_norm"), is_alive, 0.5),
            num_samples=1e2,
            max_evaluations=2.0,
            verbose=0,
        )
        self.assertEqual((report.num_samples, report.evaluations), (100, 2))

    def test_weights_that_are_not_finite(self):
        model = chain()
        edit(model, "b", np.s_[0, 0, 0, 0], np.nan)
        with self.assertRaisesRegex(ValueError, r"Restore.*\['b/kernel'\]"):
            purify(model, thresholds=Thresholds())

    def test_subclassed_model(self):
        class Subclassed(keras.Model):
            def call(self, x):
                return x

        with self.assertRaisesRegex(TypeError, "functional model"):
            purify(Subclassed(), thresholds=Thresholds())


class BudgetWithoutScoreTest(parameterized.TestCase):
    def test_max_drop_needs_evaluate(self):
        model = zoo.make("mlp")
        before = model.get_weights()
        with self.assertRaisesRegex(ValueError, "Give `evaluate` too"):
            purify(model, max_drop=0.1, thresholds=Thresholds())
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


if __name__ == "__main__":
    absltest.main()
