import functools
import os
import tempfile

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers
from keras import ops

from keras_prm.optimizers import ADMMWrapper
from keras_prm.plans import SparsityPlan
from keras_prm.projections import kernel_filters
from keras_prm.projections import project_plan
from keras_prm.structures import ChannelGroup
from keras_prm.structures import KernelPlan

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
ON_JAX = keras.backend.backend() == "jax"


def functional():
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="relu", name="first")(inputs)
    return keras.Model(inputs, layers.Dense(3, name="second")(x))


def sequential():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu"),
            layers.Dense(3),
        ]
    )


def nested():
    """Two models whose layers have the same names, one after the other."""

    def block(name, size, units):
        inputs = keras.Input((size,))
        outputs = layers.Dense(units, name="dense")(inputs)
        return keras.Model(inputs, outputs, name=name)

    inputs = keras.Input((6,))
    x = block("one", 6, 8)(inputs)
    return keras.Model(inputs, block("two", 8, 3)(x))


def make_plan(model):
    """Of a model of two dense layers: half of all, on both axes."""
    classes = tuple(range(8))
    kernels = [
        KernelPlan("first/kernel", 0, (6, 8), (-1,) * 6, classes, 0.5),
        KernelPlan("second/kernel", 2, (8, 3), classes, (-1,) * 3, 0.25),
    ]
    variables = [(v.name, v.shape) for v in model.trainable_variables]
    return SparsityPlan(kernels, [ChannelGroup("first", 0, 8, 4)], variables)


def make_data(num_samples=64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num_samples, 6)).astype("float32")
    return x, np.tanh(x @ rng.normal(size=(6, 3))).astype("float32")


def train(model, epochs=1, **kwargs):
    x, y = make_data()
    kwargs = {"batch_size": 8, "shuffle": False, "verbose": 0} | kwargs
    model.fit(x, y, epochs=epochs, **kwargs)


def build(make=functional, inner=None, compile_kwargs=None, **kwargs):
    keras.utils.set_random_seed(1)
    model = make()
    inner = inner or keras.optimizers.Adam(0.01)
    kwargs = {"rho": 0.1, "update_every": 3} | kwargs
    optimizer = ADMMWrapper(inner, make_plan(model), **kwargs)
    model.compile(optimizer, "mse", **(compile_kwargs or {}))
    return model


def values(variables):
    return [ops.convert_to_numpy(v) for v in variables]


def compiled_apply(optimizer, variables):
    """`optimizer.apply`, compiled; eager branches compile at each call."""
    optimizer.build(variables)
    if ON_TENSORFLOW:
        import tensorflow as tf

        return tf.function(lambda grads: optimizer.apply(grads, variables))
    if not ON_JAX:
        return lambda grads: optimizer.apply(grads, variables)
    import jax

    stateless = jax.jit(optimizer.stateless_apply)

    def apply(grads):
        state = [v.value for v in optimizer.variables]
        weights, state = stateless(state, grads, [v.value for v in variables])
        for variable, value in zip(variables, weights, strict=True):
            variable.assign(value)
        for variable, value in zip(optimizer.variables, state, strict=True):
            variable.assign(value)

    return apply


@functools.cache
def trained_eagerly():
    model = build(compile_kwargs={"run_eagerly": True})
    train(model)
    return values(model.variables)


class OptimizerTest(parameterized.TestCase):
    def assert_same(self, one, other, **tolerance):
        self.assertEqual(len(one), len(other))
        for a, b in zip(one, other, strict=True):
            if tolerance:
                np.testing.assert_allclose(a, b, **tolerance)
            else:
                np.testing.assert_array_equal(a, b)


def follow_textbook(weights, gradients, plan, rho_of, every, restart=False):
    """ADMM on SGD with a step of 0.1, `z` and `u` kept apart, in NumPy."""

    def project(kernels):
        channels, columns = project_plan(kernels, plan)
        return [
            w
            * np.asarray(m)[..., None]
            * np.asarray(kernel_filters(k, channels))
            for k, w, m in zip(plan.kernels, kernels, columns, strict=True)
        ]

    indices = [k.index for k in plan.kernels]
    w, rho = list(weights), rho_of(0)
    z = project([w[i] for i in indices])
    u = [np.zeros_like(x) for x in z]
    for step, grads in enumerate(gradients, 1):
        w = [a - np.float32(0.1) * g for a, g in zip(w, grads, strict=True)]
        for n, i in enumerate(indices):
            pull = rho * (weights[i] - z[n] + u[n])
            w[i] = (w[i] - 0.1 * pull).astype("float32")
        weights = w
        if step % every == 0:
            kernels = [w[i] for i in indices]
            changed = rho_of(step) != rho
            if changed and restart:
                z, u = project(kernels), [0 * x for x in z]
            else:
                a = [x + y for x, y in zip(kernels, u, strict=True)]
                z = project(a)
                ratio = rho / rho_of(step)
                u = [ratio * (x - y) for x, y in zip(a, z, strict=True)]
            rho = rho_of(step)
        yield w, z, rho


class IterationTest(OptimizerTest):
    @parameterized.named_parameters(
        ("constant", lambda step: 0.2, 0.2, "rescale", 84),
        (
            "rescaled",
            lambda step: 0.1 + 0.02 * min(step, 20),
            keras.optimizers.schedules.PolynomialDecay(0.1, 20, 0.5),
            "rescale",
            30,
        ),
        (
            "staged",
            lambda step: 0.1 if step <= 9 else 0.5,
            keras.optimizers.schedules.PiecewiseConstantDecay([9], [0.1, 0.5]),
            "restart",
            30,
        ),
    )
    def test_follows_the_textbook(self, rho_of, rho, rho_change, num_steps):
        keras.utils.set_random_seed(0)
        variables = functional().trainable_variables
        plan = make_plan(functional())
        optimizer = ADMMWrapper(
            keras.optimizers.SGD(0.1),
            plan,
            rho=rho,
            update_every=2,
            rho_change=rho_change,
        )
        rng = np.random.default_rng(0)
        gradients = [
            [rng.normal(size=v.shape).astype("float32") for v in variables]
            for _ in range(num_steps)
        ]
        textbook = follow_textbook(
            values(variables),
            gradients,
            plan,
            rho_of,
            2,
            rho_change == "restart",
        )
        apply = compiled_apply(optimizer, variables)
        supports = set()
        for grads, (w, z, rho_now) in zip(gradients, textbook, strict=True):
            apply([ops.convert_to_tensor(g) for g in grads])
            self.assert_same(values(variables), w, atol=2e-5)
            masks = [m.full() for m in optimizer.masks().values()]
            self.assert_same(masks, [x != 0 for x in z])
            residuals = optimizer.residuals()
            for kernel, x in zip(plan.kernels, z, strict=True):
                primal = np.linalg.norm(w[kernel.index] - x)
                self.assertAlmostEqual(
                    residuals[kernel.key]["primal"], primal, places=4
                )
            self.assertAlmostEqual(
                float(optimizer._current_rho.numpy()), rho_now, places=6
            )
            supports.add(b"".join(m.tobytes() for m in masks))
        self.assertGreater(len(supports), num_steps // 4)

    @parameterized.named_parameters(
        ("adam", lambda: keras.optimizers.Adam(0.01)),
        ("sgd", lambda: keras.optimizers.SGD(0.01, momentum=0.9)),
    )
    def test_rho_zero_is_the_bare_optimizer(self, make_inner):
        wrapped = build(inner=make_inner(), rho=0)
        train(wrapped, 3)
        keras.utils.set_random_seed(1)
        bare = functional()
        bare.compile(make_inner(), "mse")
        train(bare, 3)
        self.assert_same(values(bare.variables), values(wrapped.variables))

    def test_weights_reach_the_plan(self):
        model = build(inner=keras.optimizers.SGD(0.1), rho=1.0, update_every=5)
        train(model, 1)
        before = model.optimizer.residuals()
        train(model, 20)
        after = model.optimizer.residuals()
        for key in before:
            self.assertLess(after[key]["primal"], 0.2 * before[key]["primal"])

    @parameterized.product(
        jit_compile=(True, False), steps_per_execution=(1, 4)
    )
    def test_compiles(self, jit_compile, steps_per_execution):
        model = build(
            compile_kwargs={
                "jit_compile": jit_compile,
                "steps_per_execution": steps_per_execution,
            }
        )
        train(model)
        self.assert_same(values(model.variables), trained_eagerly(), atol=1e-4)
        self.assertEqual(int(model.optimizer.iterations), 8)

    def test_unplanned_and_missing_gradients(self):
        model = build()
        optimizer = model.optimizer
        optimizer.build(model.trainable_variables)
        before = values(model.trainable_variables)
        grads = [
            None,
            *(ops.zeros(v.shape) for v in model.trainable_variables[1:]),
        ]
        with self.assertWarnsRegex(UserWarning, "Gradients do not exist"):
            optimizer.apply(grads, model.trainable_variables)
        after = values(model.trainable_variables)
        for i in (0, 1, 3):
            np.testing.assert_array_equal(before[i], after[i])
        self.assertTrue(np.any(before[2] != after[2]))


class InnerOptimizerTest(OptimizerTest):
    def test_gradient_accumulation(self):
        def sgd(steps):
            return keras.optimizers.SGD(0.1, gradient_accumulation_steps=steps)

        whole = build(inner=sgd(None), update_every=2)
        train(whole, 3, batch_size=16)
        parts = build(inner=sgd(2), update_every=2)
        train(parts, 3, batch_size=8)
        self.assertEqual(int(parts.optimizer.iterations), 12)
        self.assert_same(
            values(whole.variables), values(parts.variables), atol=1e-5
        )
        for key, mask in whole.optimizer.masks().items():
            np.testing.assert_array_equal(
                mask.full(), parts.optimizer.masks()[key].full()
            )

    def test_loss_scale_factor(self):
        plain = build(inner=keras.optimizers.SGD(0.1))
        scaled = build(
            inner=keras.optimizers.SGD(0.1, loss_scale_factor=1024.0)
        )
        train(plain)
        train(scaled)
        self.assertEqual(scaled.optimizer.loss_scale_factor, 1024.0)
        self.assert_same(
            values(plain.variables), values(scaled.variables), atol=1e-6
        )
        scaled.optimizer.loss_scale_factor = 2.0
        self.assertEqual(
            scaled.optimizer.inner_optimizer.loss_scale_factor, 2.0
        )

    def test_mixed_precision(self):
        model = build()
        inner = model.optimizer
        outer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
        model.compile(outer, "mse")
        train(model, 2)
        plain = build()
        train(plain, 2)
        self.assertEqual(int(inner.iterations), 16)
        self.assert_same(
            values(model.variables), values(plain.variables), atol=1e-4
        )

    def test_mixed_precision_policy(self):
        self.addCleanup(
            keras.config.set_dtype_policy, keras.config.dtype_policy()
        )
        keras.config.set_dtype_policy("mixed_float16")
        model = build(
            inner=keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5)
        )
        self.assertIsInstance(
            model.optimizer, keras.optimizers.LossScaleOptimizer
        )
        train(model, 2, callbacks=[keras.callbacks.SwapEMAWeights()])
        wrapper = model.optimizer.inner_optimizer
        self.assertEqual(int(wrapper.iterations), 16)
        self.assertTrue(
            np.isfinite(wrapper.residuals()["first/kernel"]["dual"])
        )

    def test_ema_is_finalised(self):
        model = build(
            inner=keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
        )
        train(model)
        self.assert_same(
            values(model.trainable_variables),
            values(model.optimizer._model_variables_moving_average),
        )

    def test_learning_rate(self):
        model = build()
        model.optimizer.learning_rate = 0.25
        inner = model.optimizer.inner_optimizer
        self.assertEqual(float(inner.learning_rate.numpy()), 0.25)
        self.assertEqual(float(model.optimizer.learning_rate.numpy()), 0.25)

    def test_takes_a_name(self):
        optimizer = ADMMWrapper("adam", make_plan(functional()))
        self.assertIsInstance(optimizer.inner_optimizer, keras.optimizers.Adam)

    @parameterized.parameters("float16", "bfloat16")
    def test_low_precision_weights(self, dtype):
        self.addCleanup(
            keras.config.set_dtype_policy, keras.config.dtype_policy()
        )
        keras.config.set_dtype_policy(dtype)
        model = build(inner=keras.optimizers.SGD(0.1))
        train(model)
        for target in model.optimizer._targets:
            self.assertEqual(target.dtype, dtype)
        dual = model.optimizer.residuals()["first/kernel"]["dual"]
        self.assertTrue(np.isfinite(dual))
        self.assertGreater(dual, 0)

    def test_keeps_the_state_of_a_built_optimizer(self):
        model = functional()
        model.compile(keras.optimizers.Adam(0.01), "mse")
        train(model)
        inner = model.optimizer
        model.compile(ADMMWrapper(inner, make_plan(model)), "mse")
        train(model)
        self.assertEqual(int(inner.iterations), 16)


class SavingTest(OptimizerTest):
    @parameterized.parameters(
        0.5, keras.optimizers.schedules.PiecewiseConstantDecay([9], [0.1, 0.5])
    )
    def test_config_round_trip(self, rho):
        optimizer = ADMMWrapper(
            keras.optimizers.SGD(0.1, momentum=0.9, clipnorm=1.0),
            make_plan(functional()),
            rho=rho,
            update_every=7,
            rho_change="restart",
            name="mine",
        )
        config = keras.optimizers.serialize(optimizer)
        copy = keras.optimizers.deserialize(config)
        self.assertIsInstance(copy, ADMMWrapper)
        self.assertEqual(copy.plan, optimizer.plan)
        self.assertEqual(keras.optimizers.serialize(copy), config)
        self.assertEqual(copy.inner_optimizer.clipnorm, 1.0)

    @parameterized.parameters(functional, sequential, nested)
    def test_continues_after_saving(self, make):
        rho = keras.optimizers.schedules.PolynomialDecay(0.1, 20, 0.5)
        whole = build(make, rho=rho)
        train(whole, 2)
        train(whole, 2)

        parts = build(make, rho=rho)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = os.path.join(folder.name, "model.keras")
        for _ in range(2):
            train(parts, 2)
            parts.save(path)
            parts = keras.models.load_model(path)
        self.assert_same(values(whole.variables), values(parts.variables))
        self.assert_same(
            values(whole.optimizer.variables),
            values(parts.optimizer.variables),
        )
        self.assertEqual(
            whole.optimizer.residuals(), parts.optimizer.residuals()
        )


class RefusalTest(OptimizerTest):
    @parameterized.named_parameters(
        ("clipnorm", {"clipnorm": 1.0}),
        ("weight_decay", {"weight_decay": 0.1}),
        ("learning_rate", {"learning_rate": 0.1}),
        ("accumulation", {"gradient_accumulation_steps": 2}),
        ("ema", {"use_ema": True}),
    )
    def test_arguments_of_the_inner_optimizer(self, kwargs):
        name = next(iter(kwargs))
        with self.assertRaisesRegex(
            ValueError, f"Set `{name}` on the inner optimizer"
        ):
            ADMMWrapper("sgd", make_plan(functional()), **kwargs)

    def test_wrapping_twice(self):
        plan = make_plan(functional())
        with self.assertRaisesRegex(ValueError, "Wrap its `inner_optimizer`"):
            ADMMWrapper(ADMMWrapper("sgd", plan), plan)

    def test_loss_scale_inside(self):
        inner = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
        with self.assertRaisesRegex(
            ValueError, "Put LossScaleOptimizer around ADMMWrapper"
        ):
            ADMMWrapper(inner, make_plan(functional()))

    def test_another_model(self):
        optimizer = ADMMWrapper("sgd", make_plan(functional()))
        other = keras.Sequential([keras.Input((6,)), layers.Dense(9)])
        with self.assertRaisesRegex(
            ValueError, r"4 differ\. #0.*\(6, 9\).*after setting `trainable`"
        ):
            optimizer.build(other.trainable_variables)

    def test_frozen_layer(self):
        model = functional()
        optimizer = ADMMWrapper("sgd", make_plan(model))
        model.get_layer("first").trainable = False
        with self.assertRaisesRegex(ValueError, "after setting `trainable`"):
            optimizer.build(model.trainable_variables)

    def test_nan(self):
        model = functional()
        kernel = model.get_layer("second").kernel
        kernel.assign(np.full(kernel.shape, np.nan))
        optimizer = ADMMWrapper("sgd", make_plan(model))
        with self.assertRaisesRegex(
            ValueError, r"\['second/kernel'\]. Load or initialise"
        ):
            optimizer.build(model.trainable_variables)

    @parameterized.parameters("masks", "residuals")
    def test_not_built(self, method):
        optimizer = ADMMWrapper("sgd", make_plan(functional()))
        with self.assertRaisesRegex(ValueError, "optimizer.build"):
            getattr(optimizer, method)()
        with self.assertRaisesRegex(ValueError, "optimizer.build"):
            _ = optimizer.channels


@absltest.skipUnless(ON_TENSORFLOW, "tf.function, IndexedSlices")
class TensorFlowTest(OptimizerTest):
    def test_builds_inside_a_traced_loop(self):
        import tensorflow as tf

        model = build()
        x, y = make_data()

        @tf.function
        def step():
            with tf.GradientTape() as tape:
                loss = keras.ops.mean((model(x) - y) ** 2)
            variables = model.trainable_variables
            gradients = tape.gradient(loss, variables)
            model.optimizer.apply(gradients, variables)

        for _ in range(4):
            step()
        self.assertEqual(int(model.optimizer.iterations), 4)
        self.assertGreater(
            model.optimizer.residuals()["first/kernel"]["dual"], 0
        )

    def test_sparse_gradients(self):
        inputs = keras.Input((2,), dtype="int32")
        x = layers.Embedding(5, 4)(inputs)
        model = keras.Model(inputs, layers.Dense(1)(layers.Flatten()(x)))
        classes = tuple(range(4))
        plan = SparsityPlan(
            [KernelPlan("e", 0, (5, 4), (-1,) * 5, classes)],
            [ChannelGroup("e", 0, 4, 2)],
            [(v.name, v.shape) for v in model.trainable_variables],
        )
        model.compile(ADMMWrapper("sgd", plan, rho=1.0, update_every=2), "mse")
        before = values(model.variables)[0]
        model.fit(np.array([[0, 1]]), np.ones((1, 1)), epochs=4, verbose=0)
        # The penalty acts on the rows without a gradient too.
        self.assertTrue(np.any(before[2:] != values(model.variables)[0][2:]))


class PlanRefusalTest(parameterized.TestCase):
    def test_the_plan_comes_second(self):
        plan = SparsityPlan((), (), ())
        with self.assertRaisesRegex(TypeError, "ADMMWrapper.optimizer, plan"):
            ADMMWrapper(plan, keras.optimizers.SGD(0.1))

    def test_a_plan_that_removes_nothing(self):
        plan = SparsityPlan((), (), (), [("out", "an output", 3)])
        with self.assertRaisesRegex(ValueError, "fractions above 0.*output"):
            ADMMWrapper("sgd", plan)


if __name__ == "__main__":
    absltest.main()
