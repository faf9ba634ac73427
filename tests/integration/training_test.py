"""The ways in which people train, each with ADMM in it."""

import functools

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers
from keras import ops

from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.plans.plan import SparsityPlan
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.training.mask_constraint import enforced
from keras_prm.training.structured_mask import StructuredMask
from keras_prm.utils import variable_keys
from tests.helpers.training import ON_TENSORFLOW
from tests.helpers.training import ON_TORCH
from tests.helpers.training import Textbook
from tests.helpers.training import assert_same
from tests.helpers.training import batches
from tests.helpers.training import build
from tests.helpers.training import compiled_apply
from tests.helpers.training import functional
from tests.helpers.training import gradients
from tests.helpers.training import make_data
from tests.helpers.training import make_plan
from tests.helpers.training import train
from tests.helpers.training import values
from tests.helpers.training import wrapper

schedules = keras.optimizers.schedules


def adam(**kwargs):
    return keras.optimizers.Adam(0.05, **kwargs)


def sgd(**kwargs):
    return keras.optimizers.SGD(0.05, momentum=0.9, **kwargs)


class InnerOptimizerTest(parameterized.TestCase):
    """The wrapper is the inner optimizer on the penalized gradients."""

    @parameterized.named_parameters(
        ("adam", adam, 1),
        ("momentum", sgd, 1),
        ("nesterov", lambda: sgd(nesterov=True), 1),
        ("rmsprop", lambda: keras.optimizers.RMSprop(0.01), 1),
        ("muon", lambda: keras.optimizers.Muon(0.01), 1),
        ("decoupled_decay", lambda: keras.optimizers.AdamW(0.05), 1),
        ("decay", lambda: sgd(weight_decay=0.1), 1),
        ("clipnorm", lambda: sgd(clipnorm=0.5), 1),
        ("clipvalue", lambda: adam(clipvalue=0.1), 1),
        ("global_clipnorm", lambda: sgd(global_clipnorm=0.5), 1),
        ("ema", lambda: adam(use_ema=True, ema_momentum=0.9), 1),
        (
            "ema_overwrites",
            lambda: sgd(use_ema=True, ema_overwrite_frequency=3),
            1,
        ),
        (
            "schedule",
            lambda: keras.optimizers.Adam(schedules.CosineDecay(0.05, 10)),
            1,
        ),
        (
            "several",
            lambda: keras.optimizers.MultiOptimizer(
                keras.optimizers.OptimizerMap(sgd(), {"first/.*": adam()})
            ),
            1,
        ),
        ("accumulation", lambda: sgd(gradient_accumulation_steps=2), 2),
        ("adam_accumulation", lambda: adam(gradient_accumulation_steps=3), 3),
    )
    def test_follows_the_inner_optimizer(self, make_inner, micro_steps):
        keras.utils.set_random_seed(1)
        ours = functional().trainable_variables
        keras.utils.set_random_seed(1)
        theirs = functional().trainable_variables
        plan = make_plan(functional())
        optimizer = ADMMWrapper(make_inner(), plan, rho=0.3, update_every=2)
        bare = make_inner()
        steps = gradients(ours, 6 * micro_steps)
        apply, apply_bare = (
            compiled_apply(*pair)
            for pair in ((optimizer, ours), (bare, theirs))
        )
        indices = [k.index for k in plan.kernels]
        book = Textbook([values(theirs)[i] for i in indices], plan, 0.3)
        for step, grads in enumerate(steps, 1):
            apply([ops.convert_to_tensor(g) for g in grads])
            pulled = book.penalized(grads, theirs)
            apply_bare([ops.convert_to_tensor(g, "float32") for g in pulled])
            if step % (2 * micro_steps) == 0:
                book.update([values(theirs)[i] for i in indices])
            assert_same(values(ours), values(theirs), atol=2e-5)
        self.assertEqual(int(optimizer.iterations), int(bare.iterations))
        for key, mask in zip(optimizer.masks().values(), book.masks):
            np.testing.assert_array_equal(key.full(), mask > 0)

    def test_coupled_decay_is_a_regularizer(self):
        """Keras' coupled weight decay is part of the loss."""

        def decayed(rho):
            keras.utils.set_random_seed(1)
            inputs = keras.Input((6,))
            decay = keras.regularizers.L2(0.5)
            x = layers.Dense(8, kernel_regularizer=decay, name="first")(inputs)
            model = keras.Model(inputs, layers.Dense(3, name="second")(x))
            model.compile(wrapper(model, sgd(), rho=rho), "mse")
            train(model, 2)
            return model

        model, other = decayed(0.1), build(inner=sgd())
        train(other, 2)
        norms = [
            np.linalg.norm(values(m.trainable_variables)[0])
            for m in (model, other)
        ]
        self.assertLess(norms[0], 0.8 * norms[1])


@functools.cache
def trained_by_fit():
    """Weights, ADMM's variables included, after one epoch of `fit`."""
    model = build()
    train(model)
    return values(model.variables) + values(model.optimizer.variables)


class LoopTest(parameterized.TestCase):
    """However the steps are made, they are the same steps."""

    def assert_like_fit(self, model):
        found = values(model.variables) + values(model.optimizer.variables)
        assert_same(found, trained_by_fit(), atol=1e-5)

    @parameterized.named_parameters(
        ("eager", {"run_eagerly": True}),
        ("compiled", {"jit_compile": True}),
        ("not_compiled", {"jit_compile": False}),
        ("many_steps", {"steps_per_execution": 4}),
        ("many_steps_xla", {"steps_per_execution": 4, "jit_compile": True}),
        ("automatic", {"steps_per_execution": 8, "jit_compile": "auto"}),
    )
    def test_fit(self, compile_kwargs):
        if ON_TORCH and "steps_per_execution" in compile_kwargs:
            self.skipTest("Keras has no steps_per_execution on PyTorch.")
        model = build(compile_kwargs=compile_kwargs)
        train(model)
        self.assert_like_fit(model)

    def test_train_on_batch(self):
        model = build()
        for x, y in batches():
            model.train_on_batch(x, y)
        self.assert_like_fit(model)

    def test_a_train_step_of_ones_own(self):
        class Mine(keras.Model):
            def train_step(self, *args, **kwargs):
                self.__class__.num_traces += 1
                return super().train_step(*args, **kwargs)

        Mine.num_traces = 0

        def make():
            plain = functional()
            return Mine(plain.input, plain.output)

        model = build(make)
        train(model)
        self.assertGreater(Mine.num_traces, 0)
        self.assert_like_fit(model)

    def test_a_raw_loop(self):
        model = build()
        step = raw_step(model)
        for x, y in batches():
            step(x, y)
        self.assert_like_fit(model)

    def test_a_raw_loop_with_masks(self):
        model = build()
        train(model)
        masks = hard_prune(model, model.optimizer.plan)
        model.compile(adam(), "mse")
        model.optimizer.build(model.trainable_variables)
        before = values(model.variables)
        with enforced(model, masks):
            step = raw_step(model)
            for x, y in batches():
                step(x, y)
                kernel = values(model.variables)[0]
                keep = masks.kernels["first/kernel"].full()
                self.assertFalse(np.any(kernel[~keep]))
        self.assertTrue(np.any(before[0] != values(model.variables)[0]))


def raw_step(model):
    """A training step by hand, compiled where the backend compiles."""
    optimizer, variables = model.optimizer, model.trainable_variables
    if ON_TENSORFLOW:
        import tensorflow as tf

        @tf.function
        def step(x, y):
            with tf.GradientTape() as tape:
                loss = ops.mean(ops.square(model(x, training=True) - y))
            optimizer.apply(tape.gradient(loss, variables), variables)

        return step
    if ON_TORCH:

        def step(x, y):
            for variable in variables:
                variable.value.grad = None
            y = ops.convert_to_tensor(y)
            ops.mean(ops.square(model(x, training=True) - y)).backward()
            # Without `torch.no_grad()`, which a user may forget.
            optimizer.apply([v.value.grad for v in variables], variables)

        return step
    return jax_step(model)


def jax_step(model):
    import jax

    optimizer, variables = model.optimizer, model.trainable_variables
    optimizer.build(variables)

    def loss_of(weights, others, x, y):
        outputs, others = model.stateless_call(weights, others, x)
        return ops.mean(ops.square(outputs - y)), others

    @jax.jit
    def pure_step(weights, others, state, x, y):
        gradient = jax.value_and_grad(loss_of, has_aux=True)
        (_, others), grads = gradient(weights, others, x, y)
        weights, state = optimizer.stateless_apply(state, grads, weights)
        return weights, others, state

    groups = (variables, model.non_trainable_variables, optimizer.variables)

    def step(x, y):
        state = [[v.value for v in group] for group in groups]
        for group, new in zip(groups, pure_step(*state, x, y), strict=True):
            for variable, value in zip(group, new, strict=True):
                variable.assign(value)

    return step


class MixedPrecisionTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.addCleanup(
            keras.config.set_dtype_policy, keras.config.dtype_policy()
        )

    def test_skipped_steps_do_not_count(self):
        """A scale of 2^40 overflows; it is halved until it does not."""
        keras.config.set_dtype_policy("mixed_float16")
        keras.utils.set_random_seed(1)
        model = functional()
        inner = wrapper(model, update_every=2)
        model.compile(
            keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**40),
            "mse",
        )
        inner.build(model.trainable_variables)
        start = values(inner.variables)
        taken, before = [], values(model.variables)
        for _ in range(6):
            for x, y in batches():
                model.train_on_batch(x, y)
                if int(inner.iterations) == 0:
                    assert_same(values(inner.variables), start)
                    assert_same(values(model.variables), before)
                taken.append(int(inner.iterations))
        self.assertGreater(taken.count(0), 8)
        self.assertGreater(taken[-1], 8)
        halvings = 40 - np.log2(float(model.optimizer.dynamic_scale.value))
        self.assertEqual(taken[-1] + halvings, 48)
        self.assertGreater(inner.residuals()["first/kernel"]["dual"], 0)

    @parameterized.parameters("mixed_float16", "mixed_bfloat16")
    def test_policies(self, policy):
        keras.config.set_dtype_policy(policy)
        model = build()
        scaled = isinstance(
            model.optimizer, keras.optimizers.LossScaleOptimizer
        )
        self.assertEqual(scaled, policy == "mixed_float16")
        train(model, 6)
        inner = model.optimizer.inner_optimizer if scaled else model.optimizer
        keras.config.set_dtype_policy("float32")
        plain = build()
        train(plain, 6)
        assert_same(values(model.variables), values(plain.variables), atol=0.1)
        for found, expected in zip(
            inner.residuals().values(), plain.optimizer.residuals().values()
        ):
            self.assertAlmostEqual(
                found["primal"], expected["primal"], delta=0.1
            )


class ModelTest(parameterized.TestCase):
    def test_a_frozen_layer(self):
        keras.utils.set_random_seed(1)
        x = inputs = keras.Input((6,))
        for name, units in (("frozen", 7), ("free", 8)):
            x = layers.Dense(units, activation="relu", name=name)(x)
        model = keras.Model(inputs, layers.Dense(3, name="out")(x))
        model.get_layer("frozen").trainable = False
        plan = SparsityPlan.uniform(model, filters=0.5, columns=0.3)
        self.assertNotIn("frozen/kernel", [k.key for k in plan.kernels])
        model.compile(ADMMWrapper(adam(), plan, rho=1.0, update_every=2), "mse")
        before = values(model.get_layer("frozen").variables)
        train(model, 4)
        assert_same(values(model.get_layer("frozen").variables), before)
        masks = hard_prune(model, plan)
        self.assertEqual(masks.kernels["free/kernel"].filters.sum(), 4)

    def test_distillation(self):
        keras.utils.set_random_seed(1)
        teacher, student = functional(), functional()
        distiller = keras.distillation.Distiller(
            teacher,
            student,
            distillation_losses=keras.distillation.LogitsDistillation(),
            student_loss_weight=0.5,
        )
        plan = make_plan(student)
        distiller.compile(
            ADMMWrapper(adam(), plan, rho=1.0, update_every=2), "mse"
        )
        before = values(teacher.variables)
        train(distiller, 6)
        optimizer = distiller.optimizer
        assert_same(values(teacher.variables), before)
        self.assertEqual(int(optimizer.iterations), 48)
        support = optimizer.masks()
        masks = hard_prune(student, plan, optimizer=optimizer)
        for key, mask in masks.kernels.items():
            np.testing.assert_array_equal(mask.full(), support[key].full())
        # The student is masked, though another model trains it.
        for callbacks in ([StructuredMask(masks)], [StructuredMask()]):
            with self.assertWarnsRegex(UserWarning, "with a bare optimizer"):
                train(distiller, 1, callbacks=callbacks)
            self.assert_masked(student, masks)
        with self.assertWarnsRegex(UserWarning, "with a bare optimizer"):
            with enforced(student, masks, compiled=distiller):
                train(distiller, 1)
                self.assert_masked(student, masks)
        train(distiller, 1)
        with self.assertRaises(AssertionError):
            self.assert_masked(student, masks)
        if ON_TENSORFLOW:
            with self.assertWarnsRegex(UserWarning, "compiled=other"):
                with enforced(student, masks):
                    train(distiller, 1)
            self.assert_masked(student, masks)

    def assert_masked(self, model, masks):
        variables = variable_keys.variables_by_key(model)
        for key, mask in masks.kernels.items():
            kernel = ops.convert_to_numpy(variables[key])
            np.testing.assert_array_equal(kernel[mask.full() == 0], 0)

    def test_one_of_several_optimizers(self):
        keras.utils.set_random_seed(1)
        model = functional()
        both = keras.optimizers.OptimizerMap(
            sgd(), {"first/.*": wrapper(model)}
        )
        with self.assertRaisesRegex(ValueError, "MultiOptimizer inside ADMM"):
            model.compile(keras.optimizers.MultiOptimizer(both), "mse")
            train(model)

    def test_learning_rate_on_a_plateau(self):
        model = build()
        reduce = keras.callbacks.ReduceLROnPlateau(
            monitor="loss", factor=0.5, patience=0, min_delta=1e9
        )
        train(model, 3, callbacks=[reduce])
        self.assertAlmostEqual(
            float(ops.convert_to_numpy(model.optimizer.learning_rate)),
            0.01 / 4,
            places=6,
        )


class Probe(layers.Layer):
    """Counts how often Python runs it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.num_calls = 0

    def call(self, x):
        self.num_calls += 1
        return x


@absltest.skipIf(ON_TORCH, "PyTorch does not trace.")
class TracingTest(parameterized.TestCase):
    @parameterized.parameters({}, {"jit_compile": True})
    def test_each_phase_is_traced_once(self, **compile_kwargs):
        probe, model = probed()
        ramp = schedules.PolynomialDecay(0.0, 12, 1.0, power=3)
        rho = schedules.PolynomialDecay(0.1, 20, 0.5)
        # What the probe may do to channels is unknown: columns alone.
        plan = SparsityPlan.uniform(model, columns=0.5)
        optimizer = ADMMWrapper(
            adam(), plan, rho=rho, update_every=3, ramp=ramp
        )
        model.compile(optimizer, "mse", **compile_kwargs)

        def calls(*callbacks, epochs):
            before = probe.num_calls
            train(model, epochs, callbacks=list(callbacks))
            return probe.num_calls - before

        calls(epochs=1)
        self.assertEqual(calls(epochs=3), 0)
        self.assertTrue(optimizer.settled)
        masks = hard_prune(model, plan)
        model.compile(adam(), "mse", **compile_kwargs)
        # `fit` makes its step anew when masks come, whatever it trains.
        calls(StructuredMask(masks), epochs=1)
        held = calls(StructuredMask(masks), epochs=1)
        self.assertEqual(calls(StructuredMask(masks), epochs=4), held)


def probed():
    """A model that counts how often it is traced."""
    keras.utils.set_random_seed(1)
    probe = Probe()
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="relu", name="first")(inputs)
    x = layers.Dense(3, name="second")(probe(x))
    return probe, keras.Model(inputs, x)


class BadGradientTest(parameterized.TestCase):
    def test_nan_does_not_reach_the_state(self):
        model = build(inner=keras.optimizers.SGD(0.1), update_every=2)
        train(model)
        x, y = make_data()
        y[20] = np.nan
        callbacks = [keras.callbacks.TerminateOnNaN()]
        history = model.fit(
            x, y, batch_size=8, epochs=3, verbose=0, callbacks=callbacks
        )
        self.assertTrue(np.isnan(history.history["loss"][-1]))
        self.assertLen(history.history["loss"], 1)
        self.assertTrue(np.isnan(values(model.variables)[0]).any())
        after = model.optimizer._admm
        for variable in [*after.targets, *after.columns, after.channels]:
            self.assertTrue(np.isfinite(values([variable])[0]).all())
        # With good weights, training goes on.
        model.set_weights(
            [np.full(w.shape, 0.1, "float32") for w in model.get_weights()]
        )
        train(model, 2)
        self.assertTrue(np.isfinite(values(model.variables)[0]).all())


if __name__ == "__main__":
    absltest.main()
