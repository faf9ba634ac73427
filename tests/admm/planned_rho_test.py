import contextlib
import io
import itertools
import os
import tempfile
import unittest
import warnings

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.admm import planned_rho
from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.plans.plan import SparsityPlan
from keras_prm.plans.projections import project_plan
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.training.checkpoint import AtomicCheckpoint
from keras_prm.training.progress import ADMMProgress
from tests.helpers.training import ON_TENSORFLOW
from tests.helpers.training import functional
from tests.helpers.training import gradients
from tests.helpers.training import make_plan
from tests.helpers.training import values

# Averages of few steps, of the few steps that there are.
EMA = {"use_ema": True, "ema_momentum": 0.9}


def network(width=24, scale=1.0, norm=False):
    keras.utils.set_random_seed(3)
    inputs = x = keras.Input((12,))
    for name in ("first", "second"):
        x = layers.Dense(width, name=name)(x)
        x = layers.BatchNormalization()(x) if norm else x
        x = layers.ReLU()(x)
    model = keras.Model(inputs, layers.Dense(4, name="logits")(x))
    for variable in model.trainable_variables:
        if variable.name == "kernel":
            variable.assign(scale * variable.value)
    return model


def problem(rows=256):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 12)).astype("float32")
    return x, (x @ rng.normal(size=(12, 4))).argmax(-1)


def fit(model, optimizer, epochs=8, callbacks=None):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    callbacks = [ADMMProgress()] if callbacks is None else callbacks
    x, y = problem()
    model.fit(x, y, 16, epochs, verbose=0, callbacks=callbacks)


def accuracy(model):
    x, y = problem()
    return (model.predict(x, verbose=0).argmax(-1) == y).mean()


class RuleTest(parameterized.TestCase):
    def test_first_rho_takes_the_residual_to_the_goal(self):
        steps = 1000
        rho = planned_rho.first_rho(steps)
        held = planned_rho.HOLD * steps
        left = (1 - rho) ** (steps - held)
        np.testing.assert_allclose(left, planned_rho.GOAL, rtol=0.05)
        self.assertEqual(planned_rho.first_rho(1), planned_rho.MOST)

    def test_rho_follows_what_is_wanted(self):
        cases = [(0.2, 0.2, 0.1), (0.3, 0.2, 0.15), (2.0, 0.2, 0.2)]
        for residual, wanted, expected in cases:
            found = planned_rho.next_rho(
                *map(keras.ops.convert_to_tensor, (0.1, residual, wanted))
            )
            self.assertAlmostEqual(float(found), expected, places=6)
        self.assertAlmostEqual(
            float(
                planned_rho.next_rho(
                    *map(keras.ops.convert_to_tensor, (0.1, np.nan, 0.2))
                )
            ),
            0.1,
        )

    def test_dual_step_is_the_way_that_the_pull_makes(self):
        w, rho = 1.0, 0.1
        for _ in range(7):
            w -= rho * w
        found = planned_rho.dual_step(np.float32(rho), 7)
        self.assertAlmostEqual(float(found), 1 - w, places=5)

    def test_the_plan_falls_to_the_goal_and_stays(self):
        optimizer = keras.optimizers.SGD()
        plan = planned_rho.ResidualPlan(optimizer, 100)
        plan.begin(10, 100, 0.8, 0)
        wanted = [float(plan.wanted(step)) for step in (10, 50, 90, 500)]
        middle = (0.8 * planned_rho.GOAL) ** 0.5
        np.testing.assert_allclose(
            wanted, [0.8, middle, planned_rho.GOAL, planned_rho.GOAL], rtol=1e-4
        )


class AutoRhoTest(parameterized.TestCase):
    def test_is_the_default(self):
        model = network()
        plan = SparsityPlan.uniform(model, filters=0.5)
        optimizer = ADMMWrapper("adam", plan)
        self.assertEqual(optimizer.rho, "auto")
        self.assertEqual(optimizer.update_every, 20)
        self.assertEqual(ADMMWrapper("adam", plan, 0.1).update_every, 100)
        self.assertEqual(ADMMWrapper("adam", plan, steps=700).update_every, 14)
        again = ADMMWrapper.from_config(optimizer.get_config())
        self.assertEqual(again.get_config(), optimizer.get_config())

    def test_follows_the_equations(self):
        """Against NumPy: inner steps of SGD, pulls, updates of z, u, rho."""
        model = functional()
        plan = make_plan(model)
        optimizer = ADMMWrapper(
            keras.optimizers.SGD(0.1), plan, update_every=3, steps=12
        )
        variables = model.trainable_variables
        weights = values(variables)
        optimizer.build(variables)
        indices = [kernel.index for kernel in plan.kernels]

        def project(a):
            channels, columns = project_plan(a, plan)
            found = []
            for kernel, array, live in zip(plan.kernels, a, columns):
                filters = np.append(np.array(channels), 1.0)
                filters = filters[list(kernel.out_classes)]
                found.append(array * np.array(live)[..., None] * filters)
            return found

        z = project([weights[i] for i in indices])
        u = [0 * part for part in z]
        rho = planned_rho.first_rho(12)
        for step, grads in enumerate(gradients(weights, 12), 1):
            optimizer.apply([keras.ops.convert_to_tensor(g) for g in grads])
            weights = [w - 0.1 * g for w, g in zip(weights, grads)]
            for number, i in enumerate(indices):
                away = weights[i] - z[number] + u[number]
                weights[i] = weights[i] - rho * away
            if step % 3 == 0:
                w = [weights[i] for i in indices]
                a = [x + y for x, y in zip(w, u)]
                z = project(a)
                part = 1 - (1 - rho) ** 3
                u = [
                    np.where(y != 0, 0, before + part * x)
                    for x, y, before in zip(w, z, u)
                ]
                away = [np.sum((x - y) ** 2) for x, y in zip(w, z)]
                size = [np.sum(x**2) for x in w]
                residual = max(
                    np.sum(away) / np.sum(size),
                    np.mean([p / q for p, q in zip(away, size)]),
                )
                wanted = planned_rho.GOAL ** min((step + 3) / (0.8 * 12), 1.0)
                factor = np.clip(residual**0.5 / wanted, 0.5, 2)
                new = np.clip(rho * factor, 1e-5, 0.5)
                u = [part * rho / new for part in u]
                rho = new
                self.assertAlmostEqual(optimizer.current_rho, rho, places=5)
            for variable, expected in zip(variables, weights):
                np.testing.assert_allclose(
                    keras.ops.convert_to_numpy(variable),
                    expected,
                    rtol=1e-4,
                    atol=1e-5,
                )
        self.assertEqual(optimizer.num_updates, 4)

    @parameterized.named_parameters(
        ("adam", lambda: keras.optimizers.Adam(1e-2)),
        ("slow", lambda: keras.optimizers.Adam(1e-4)),
        ("sgd", lambda: keras.optimizers.SGD(0.05, momentum=0.9)),
        ("decay", lambda: keras.optimizers.AdamW(1e-3, weight_decay=0.1)),
        ("clipped", lambda: keras.optimizers.Adam(1e-3, clipnorm=1e-2)),
        ("averaged", lambda: keras.optimizers.Adam(3e-4, **EMA)),
        (
            "accumulated",
            lambda: keras.optimizers.Adam(1e-2, gradient_accumulation_steps=2),
        ),
    )
    def test_converges_whatever_the_optimizer(self, make):
        for scale, norm in ((1.0, False), (30.0, False), (0.3, True)):
            model = network(scale=scale, norm=norm)
            plan = SparsityPlan.uniform(model, filters=0.5)
            optimizer = ADMMWrapper(make(), plan)
            fit(model, optimizer)
            self.assertLess(optimizer.relative_residual, 0.02)
            self.assertTrue(optimizer.converged)
            before = accuracy(model)
            hard_prune(model, plan)
            self.assertAlmostEqual(accuracy(model), before, delta=0.02)

    def test_converges_in_few_steps_and_in_many(self):
        for epochs in (1, 40):
            model = network()
            plan = SparsityPlan.uniform(model, filters=0.5)
            optimizer = ADMMWrapper(keras.optimizers.Adam(3e-3), plan)
            fit(model, optimizer, epochs)
            self.assertTrue(optimizer.converged)

    def test_weights_keep_to_their_constraints(self):
        model = network()
        constraint = keras.constraints.NonNeg()
        model.get_layer("second").kernel.constraint = constraint
        plan = SparsityPlan.uniform(model, filters=0.5)
        fit(model, ADMMWrapper(keras.optimizers.Adam(1e-2), plan))
        kernel = keras.ops.convert_to_numpy(model.get_layer("second").kernel)
        self.assertGreaterEqual(kernel.min(), 0.0)

    def test_what_loses_nothing_hides_nothing(self):
        keras.utils.set_random_seed(0)
        inputs = x = keras.Input((12,))
        for number in range(12):  # none of which can lose a channel
            x = x + layers.Dense(12, name=f"stays{number}")(x)
        x = layers.Dense(24, name="loses")(x)
        model = keras.Model(inputs, layers.Dense(4)(x))
        plan = SparsityPlan.uniform(model, 0.5, round_to=12)
        optimizer = ADMMWrapper("adam", plan)
        optimizer.build(model.trainable_variables)
        kernels = optimizer.kernels()
        found = optimizer.residuals()
        away = [
            found[key]["primal"]
            / np.linalg.norm(keras.ops.convert_to_numpy(kernels[key]))
            for key in found
            if found[key]["primal"]
        ]
        self.assertLen(away, 2)  # the one that loses, and its reader
        expected = np.sqrt(np.mean(np.square(away)))
        self.assertGreaterEqual(optimizer.relative_residual, expected - 1e-4)

    def test_a_ramp_is_waited_for(self):
        model = network()
        plan = SparsityPlan.uniform(model, filters=0.5)
        ramp = keras.optimizers.schedules.PolynomialDecay(0.0, 60, 1.0, 3)
        optimizer = ADMMWrapper(keras.optimizers.Adam(3e-3), plan, ramp=ramp)
        fit(model, optimizer, 20)
        self.assertTrue(optimizer.converged)


class StepsTest(parameterized.TestCase):
    def test_fit_tells_how_many_steps_there_are(self):
        model = network()
        plan = SparsityPlan.uniform(model, filters=0.5)
        optimizer = ADMMWrapper("adam", plan)
        fit(model, optimizer, 10)  # of 16 steps
        self.assertEqual(optimizer.update_every, 3)
        self.assertEqual(optimizer.num_updates, 53)
        fit(model, optimizer, 20)
        self.assertEqual(optimizer.update_every, 6)
        self.assertTrue(optimizer.converged)

    def test_steps_are_counted_where_keras_does_not_know_them(self):
        model = network()
        plan = SparsityPlan.uniform(model, filters=0.5)
        optimizer = ADMMWrapper(keras.optimizers.Adam(3e-3), plan)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss)
        x, y = problem()

        def batches():
            while True:
                for i in range(0, 256, 16):
                    yield x[i : i + 16], y[i : i + 16]

        progress = ADMMProgress()
        progress.set_model(model)
        progress.set_params({"epochs": 10, "steps": None})
        progress.on_train_begin()
        for epoch in range(10):
            progress.on_epoch_begin(epoch)
            for batch in itertools.islice(batches(), 16):
                model.train_on_batch(*batch)
        self.assertEqual(optimizer.update_every, 9 * 16 // 50)
        self.assertTrue(optimizer.converged)

    @unittest.skipUnless(ON_TENSORFLOW, "data sets of TensorFlow")
    def test_data_that_run_out_make_no_step(self):
        """Of unknown length, of which TensorFlow begins a step too many."""
        import tensorflow as tf

        x, y = problem(80)
        for rho in ("auto", 0.1):
            data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
            data = data.filter(lambda a, b: True)
            model = network()
            plan = SparsityPlan.uniform(model, filters=0.5)
            optimizer = ADMMWrapper("adam", plan, rho, update_every=6)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(optimizer, loss)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of data that run out
                model.fit(
                    data, epochs=12, verbose=0, callbacks=[ADMMProgress()]
                )
            self.assertEqual(optimizer.num_steps, 60)
            duals = [r["dual"] for r in optimizer.residuals().values()]
            self.assertGreater(min(duals), 0.0)

    def test_fewer_steps_than_are_accumulated_in_an_epoch(self):
        model = network()
        plan = SparsityPlan.uniform(model, filters=0.5)
        sgd = keras.optimizers.SGD(0.1, gradient_accumulation_steps=20)
        optimizer = ADMMWrapper(sgd, plan)
        fit(model, optimizer, 20)  # of 16 batches, 16 steps in all
        self.assertFalse(optimizer.lacks_steps)
        self.assertGreaterEqual(optimizer.num_updates, 15)

    def test_says_where_nobody_told_how_many_steps_there_are(self):
        model = network()
        plan = SparsityPlan.uniform(model, filters=0.5)
        optimizer = ADMMWrapper("adam", plan)
        fit(model, optimizer, 4, [])
        self.assertTrue(optimizer.lacks_steps)
        with self.assertWarnsRegex(UserWarning, "ADMMProgress.*`steps=`"):
            hard_prune(model, plan)

    def test_a_number_cannot_follow(self):
        optimizer = ADMMWrapper(
            "adam", SparsityPlan.uniform(network(), filters=0.5)
        )
        with self.assertRaisesRegex(TypeError, "rho='auto', which finds it"):
            optimizer.rho = 0.1

    def test_steps_of_ones_own_stand(self):
        model = network()
        plan = SparsityPlan.uniform(model, filters=0.5)
        optimizer = ADMMWrapper("adam", plan, steps=500)
        fit(model, optimizer, 2)
        self.assertEqual(optimizer.update_every, 10)
        self.assertFalse(optimizer.converged)

    def test_going_on_to_the_same_end_plans_nothing_anew(self):
        model = network()
        plan = SparsityPlan.uniform(model, filters=0.5)
        optimizer = ADMMWrapper("adam", plan, update_every=1)
        optimizer.expect_steps(20)
        optimizer.build(model.trainable_variables)
        grads = [0 * v.value for v in model.trainable_variables]
        for _ in range(5):
            optimizer.apply(grads)
        before = values(optimizer.variables)
        optimizer.expect_steps(15)
        for one, other in zip(before, values(optimizer.variables)):
            np.testing.assert_array_equal(one, other)
        optimizer.expect_steps(40)
        self.assertEqual(optimizer.update_every, 1)
        self.assertEqual(optimizer._residual_plan.end, 45)

    def test_bad_steps_are_refused(self):
        plan = SparsityPlan.uniform(network(), filters=0.5)
        with self.assertRaisesRegex(ValueError, "epochs times the steps"):
            ADMMWrapper("adam", plan, steps=0)
        with self.assertRaisesRegex(ValueError, "Leave one of them out"):
            ADMMWrapper("adam", plan, rho=0.1, steps=100)
        with self.assertRaisesRegex(ValueError, "at least 1"):
            ADMMWrapper("adam", plan).expect_steps(0)

    def test_saved_in_the_middle_it_goes_on_as_it_would_have(self):
        ends = []
        for stop in (False, True):
            model = network()
            plan = SparsityPlan.uniform(model, filters=0.5)
            optimizer = ADMMWrapper("adam", plan, steps=160)
            x, y = problem()
            fit(model, optimizer, 4, [])
            if stop:
                with tempfile.TemporaryDirectory() as folder:
                    path = os.path.join(folder, "model.keras")
                    model.save(path)
                    model = keras.models.load_model(path)
            model.fit(x, y, 16, 6, shuffle=False, verbose=0)
            self.assertEqual(model.optimizer.num_updates, 53)
            ends.append(values(model.optimizer.variables))
        for one, other in zip(*ends, strict=True):
            np.testing.assert_array_equal(one, other)

    @parameterized.parameters(1, 3)
    def test_killed_and_run_again_it_ends_as_it_would_have(self, killed_in):
        class Killed(Exception):
            pass

        def kill(epoch, logs):
            if epoch == killed_in:
                raise Killed

        ends = []
        for kills in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "admm.ckpt")
                for again in (True, False) if kills else (False,):
                    model = network()
                    plan = SparsityPlan.uniform(model, filters=0.5)
                    keras.utils.set_random_seed(5)
                    callbacks = [ADMMProgress(), AtomicCheckpoint(path)]
                    if again:
                        callbacks.append(
                            keras.callbacks.LambdaCallback(on_epoch_begin=kill)
                        )
                    model.compile(ADMMWrapper("adam", plan), "mse")
                    x, _ = problem()
                    try:
                        model.fit(
                            x,
                            x[:, :4],
                            batch_size=16,
                            epochs=5,
                            shuffle=False,
                            verbose=0,
                            callbacks=callbacks,
                        )
                    except Killed:
                        pass
            ends.append(values(model.variables + model.optimizer.variables))
        for one, other in zip(*ends, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_says_where_it_has_not_converged(self):
        model = network()
        plan = SparsityPlan.uniform(model, filters=0.5)
        with contextlib.redirect_stdout(io.StringIO()) as text:
            fit(model, ADMMWrapper("adam", plan, steps=1000), 2)
        self.assertRegex(
            text.getvalue(), "not converged.*relative 0.*Train for more steps"
        )
        with self.assertWarnsRegex(UserWarning, "for more steps"):
            hard_prune(model, plan)


if __name__ == "__main__":
    absltest.main()
