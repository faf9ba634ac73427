import contextlib
import csv
import io
import math
import os
import re
import tempfile
import warnings
from unittest import mock

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.admm.attachment import find_wrapper
from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.plans.plan import SparsityPlan
from keras_prm.training.progress import ADMMProgress
from keras_prm.training.progress import residual_line
from keras_prm.training.progress import scalars
from tests.helpers import zoo

# JAX is slow without, TensorFlow with it.
JIT = keras.backend.backend() == "jax"


def make():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, name="a", activation="relu"),
            layers.Dense(3, name="b"),
        ]
    )
    zoo.randomize(model)
    return model


def train(model, *callbacks, **kwargs):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 6)).astype("float32")
    y = rng.normal(size=(32, 3)).astype("float32")
    kwargs = {"batch_size": 4, "verbose": 0, "shuffle": False} | kwargs
    return model.fit(x, y, callbacks=[*callbacks], **kwargs)


def wrap(model, inner="adam", rho=0.1, update_every=3, **kwargs):
    plan = SparsityPlan.uniform(model, filters=0.5)
    return ADMMWrapper(inner, plan, rho, update_every, **kwargs)


def compiled(**kwargs):
    model = make()
    wrapper = wrap(model, **kwargs)
    model.compile(wrapper, "mse", jit_compile=JIT)
    return model, wrapper


def attracted(update_every=3):
    """A model that ADMM pulls to where `z` is within a few steps."""
    sgd = keras.optimizers.SGD(0.01)
    return compiled(inner=sgd, rho=50.0, update_every=update_every)


def relative(wrapper, model):
    """‖W − Z‖ / ‖W‖ of each kernel, and of all."""
    residuals = wrapper.residuals()
    primal = [residuals[k.key]["primal"] for k in wrapper.plan.kernels]
    norms = [
        np.linalg.norm(np.array(model.trainable_variables[k.index]))
        for k in wrapper.plan.kernels
    ]
    each = {
        kernel.key: p / n
        for kernel, p, n in zip(wrapper.plan.kernels, primal, norms)
    }
    return each, np.linalg.norm(primal) / np.linalg.norm(norms)


def printed(function, *args, **kwargs):
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        function(*args, **kwargs)
    return stream.getvalue()


class Outer(keras.optimizers.Optimizer):
    """A user's own wrapper."""

    def __init__(self, inner_optimizer):
        super().__init__(learning_rate=0.0)
        self.inner_optimizer = inner_optimizer


class ResidualsTest(parameterized.TestCase):
    def test_residuals_are_in_the_history(self):
        model, wrapper = compiled()
        progress = ADMMProgress()
        history = train(model, progress, epochs=2).history
        self.assertLen(progress.history, 2)
        self.assertCountEqual(
            progress.history[-1], [k.key for k in wrapper.plan.kernels]
        )
        self.assertEqual(progress.history[-1], wrapper.residuals())
        each, total = relative(wrapper, model)
        dual = [r["dual"] for r in wrapper.residuals().values()]
        for name, expected in (
            ("primal_residual", total),
            ("dual_residual", np.linalg.norm(dual)),
        ):
            self.assertLen(history[name], 2)
            self.assertAlmostEqual(history[name][-1], expected, places=5)
            self.assertGreater(history[name][-1], 0.0)
        for key, expected in each.items():
            values = history[f"primal_residual/{key}"]
            self.assertAlmostEqual(values[-1], expected, places=5)
            self.assertEqual(
                history[f"dual_residual/{key}"],
                [epoch[key]["dual"] for epoch in progress.history],
            )
        self.assertCountEqual({len(v) for v in history.values()}, [2])

    def test_another_fit_has_a_history_of_its_own(self):
        model, _ = compiled()
        progress = ADMMProgress()
        first = train(model, progress, epochs=2)
        second = train(model, progress, epochs=3)
        self.assertIs(model.history, second)
        self.assertCountEqual(first.history, second.history)
        self.assertIn("primal_residual/b/kernel", first.history)
        self.assertEqual({len(v) for v in first.history.values()}, {2})
        self.assertEqual({len(v) for v in second.history.values()}, {3})
        self.assertLen(progress.history, 5)

    def test_history_that_is_passed_in(self):
        model, _ = compiled()
        history = keras.callbacks.History()
        train(model, history, ADMMProgress(), epochs=2)
        self.assertLen(history.history["primal_residual/b/kernel"], 2)

    def test_layers_do_not_crowd_the_logs(self):
        model, _ = compiled()
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "log.csv")
            logger = keras.callbacks.CSVLogger(path)
            text = printed(train, model, ADMMProgress(), logger, verbose=2)
            with open(path) as file:
                names = next(csv.reader(file))
        found = [n for n in names if "residual" in n and "val_" not in n]
        self.assertCountEqual(found, ["primal_residual", "dual_residual"])
        self.assertIn("primal_residual: ", text)
        self.assertNotIn("kernel", text)

    def test_loop_without_a_history(self):
        model, wrapper = compiled()
        wrapper.build(model.trainable_variables)
        progress = ADMMProgress()
        loop = keras.callbacks.CallbackList([progress], model=model)
        loop.on_train_begin()
        loop.on_epoch_end(0, {})
        self.assertEqual(progress.history, [wrapper.residuals()])

    def test_a_kernel_of_zeros(self):
        model, wrapper = compiled()
        wrapper.build(model.trainable_variables)
        model.layers[1].kernel.assign(np.zeros((8, 3)))
        found = scalars(wrapper)
        self.assertEqual(found["primal_residual/b/kernel"], math.inf)
        self.assertLess(found["primal_residual"], 2.0)
        zero = make()
        zero.set_weights([np.zeros_like(w) for w in zero.get_weights()])
        wrapper = wrap(zero)
        wrapper.build(zero.trainable_variables)
        self.assertEqual(set(scalars(wrapper).values()), {0.0})

    def test_says_that_it_was_too_short_for_an_update(self):
        model, _ = compiled(update_every=1000)
        with self.assertWarnsRegex(UserWarning, "smaller `update_every`"):
            train(model, ADMMProgress())

    def test_model_without_the_wrapper(self):
        model = make()
        model.compile("sgd", "mse", jit_compile=JIT)
        weights = model.get_weights()
        with self.assertRaisesRegex(
            ValueError, r"compiled with `keras_prm.ADMMWrapper\(optimizer, plan"
        ):
            train(model, ADMMProgress())
        for a, b in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


class FindWrapperTest(parameterized.TestCase):
    def make_optimizer(self, kind, wrapper):
        if kind == "loss_scale":
            return keras.optimizers.LossScaleOptimizer(wrapper)
        mapping = keras.optimizers.OptimizerMap(default_optimizer=wrapper)
        return keras.optimizers.MultiOptimizer(mapping)

    @parameterized.parameters("loss_scale", "multi")
    def test_inside_of_another_optimizer(self, kind):
        model = make()
        wrapper = wrap(model)
        optimizer = self.make_optimizer(kind, wrapper)
        self.assertIs(find_wrapper(optimizer), wrapper)
        model.compile(optimizer, "mse", jit_compile=JIT)
        progress = ADMMProgress()
        history = train(model, progress).history
        self.assertEqual(progress.history[-1], wrapper.residuals())
        each, total = relative(wrapper, model)
        self.assertAlmostEqual(history["primal_residual"][-1], total, places=5)
        for key, expected in each.items():
            value = history[f"primal_residual/{key}"][-1]
            self.assertAlmostEqual(value, expected, places=5)

    def test_distiller(self):
        student, teacher = make(), make()
        wrapper = wrap(student, inner=keras.optimizers.SGD(0.01), rho=50.0)
        distiller = keras.distillation.Distiller(
            teacher=teacher,
            student=student,
            distillation_losses=keras.distillation.LogitsDistillation(),
        )
        distiller.compile(wrapper, "mse", jit_compile=JIT)
        progress = ADMMProgress(tolerance=0.9)
        text = printed(train, distiller, progress, epochs=9)
        self.assertIn("stopped after epoch 1", text)
        _, total = relative(wrapper, student)
        history = distiller.history.history
        self.assertAlmostEqual(history["primal_residual"][-1], total, places=5)
        self.assertIn("primal_residual/b/kernel", history)

    def test_deep_inside(self):
        wrapper = wrap(make())
        scaled = keras.optimizers.LossScaleOptimizer(Outer(wrapper))
        self.assertIs(find_wrapper(scaled), wrapper)

    def test_nowhere(self):
        sgd = keras.optimizers.SGD()
        for optimizer in (None, sgd, self.make_optimizer("multi", sgd)):
            self.assertIsNone(find_wrapper(optimizer))


class VerboseTest(parameterized.TestCase):
    @parameterized.parameters(1, 2)
    def test_a_line_after_each_line_of_the_progress_bar(self, verbose):
        model, wrapper = compiled()
        text = printed(
            train, model, ADMMProgress(verbose=1), epochs=2, verbose=verbose
        )
        # What a terminal shows after the last carriage return.
        lines = [re.split(r"[\r\b]", line)[-1] for line in text.splitlines()]
        lines = [line for line in lines if line]
        self.assertLen(lines, 6)
        self.assertEqual([lines[0], lines[3]], ["Epoch 1/2", "Epoch 2/2"])
        for line in (lines[1], lines[4]):
            self.assertRegex(line, "8/8.* - loss: .* - primal_residual: ")
        each, total = relative(wrapper, model)
        dual = model.history.history["dual_residual"][-1]
        key = max(each, key=each.get)
        self.assertEqual(
            lines[5],
            f"ADMM: primal {total:.3g}, dual {dual:.3g}, rho 0.1; "
            f"farthest: {key} {each[key]:.3g}; not converged",
        )
        self.assertStartsWith(lines[2], "ADMM: primal ")

    def test_is_silent_by_default(self):
        model, _ = compiled()
        self.assertEqual(printed(train, model, ADMMProgress()), "")

    def test_goes_to_the_log_where_keras_does(self):
        model, _ = compiled()
        keras.config.disable_interactive_logging()
        self.addCleanup(keras.config.enable_interactive_logging)
        with self.assertLogs("absl", "INFO") as logs:
            text = printed(train, model, ADMMProgress(verbose=1))
        self.assertEqual(text, "")
        self.assertIn("ADMM: primal", "\n".join(logs.output))

    def test_names_the_kernel_that_is_not_finite(self):
        _, wrapper = compiled()
        found = {
            f"primal_residual/{kernel.key}": 0.5
            for kernel in wrapper.plan.kernels
        }
        found |= {"primal_residual/b/kernel": math.nan}
        found |= {"primal_residual": math.nan, "dual_residual": 0.1}
        with mock.patch.object(ADMMWrapper, "current_rho", 1e-5):
            self.assertEqual(
                residual_line(wrapper, found),
                "ADMM: primal nan, dual 0.1, rho 1e-05; "
                "farthest: b/kernel nan; no update yet",
            )

    @parameterized.parameters(2, -1, "auto", None)
    def test_verbose_is_0_or_1(self, verbose):
        with self.assertRaisesRegex(ValueError, "Pass 1 for a line per epoch"):
            ADMMProgress(verbose=verbose)


class ToleranceTest(parameterized.TestCase):
    def stopped_after(self, model, tolerance=0.9, **kwargs):
        """The number of epochs, at most 4, and what is printed."""
        progress = ADMMProgress(tolerance=tolerance)
        text = printed(train, model, progress, epochs=4, **kwargs)
        return len(model.history.epoch), text

    def test_stops_below_it(self):
        model, wrapper = attracted()
        num_epochs, text = self.stopped_after(model)
        value = model.history.history["primal_residual"][-1]
        self.assertEqual(num_epochs, 1)
        self.assertLess(value, 0.9)
        self.assertEqual(
            text,
            f"ADMM: stopped after epoch 1: primal residual {value:.3g} is "
            "below the tolerance 0.9.\n",
        )
        self.assertEqual(int(wrapper.iterations), 8)

    def test_goes_on_above_it(self):
        model, _ = attracted()
        self.assertEqual(self.stopped_after(model, 1e-6), (4, ""))
        self.assertGreater(min(model.history.history["primal_residual"]), 1e-6)

    def test_without_it_all_epochs_are_trained(self):
        model, _ = attracted()
        self.assertEqual(self.stopped_after(model, None), (4, ""))

    @parameterized.parameters((8, 1), (9, 2), (17, 3))
    def test_waits_for_an_update(self, update_every, expected):
        """An epoch has 8 steps."""
        model, _ = attracted(update_every)
        self.assertEqual(self.stopped_after(model)[0], expected)
        self.assertLess(model.history.history["primal_residual"][0], 0.9)

    def test_waits_for_an_update_in_this_fit(self):
        model, _ = attracted(update_every=12)
        self.assertEqual(self.stopped_after(model)[0], 2)
        # 16 steps are done, and the next update comes with the 24th.
        self.assertEqual(self.stopped_after(model)[0], 1)
        # 24 are done, and the next comes with the 36th.
        self.assertEqual(self.stopped_after(model)[0], 2)

    def test_waits_for_the_whole_sparsity(self):
        model, _ = attracted()
        with mock.patch.object(ADMMWrapper, "current_share", 0.5):
            self.assertEqual(self.stopped_after(model), (4, ""))
        self.assertEqual(self.stopped_after(model)[0], 1)

    def test_never_updated_is_never_reached(self):
        model, _ = attracted(update_every=1000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self.assertEqual(self.stopped_after(model), (4, ""))

    @parameterized.parameters(0, 1, 0.0, -0.1, math.nan, math.inf)
    def test_must_be_between_0_and_1(self, tolerance):
        with self.assertRaisesRegex(ValueError, "or `None` to train all"):
            ADMMProgress(tolerance=tolerance)

    @parameterized.parameters(True, "0.1", 0.1j)
    def test_must_be_a_number(self, tolerance):
        with self.assertRaisesRegex(TypeError, "for example, `tolerance=0.01`"):
            ADMMProgress(tolerance=tolerance)


if __name__ == "__main__":
    absltest.main()
