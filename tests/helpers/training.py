"""A small model, its plan and its data, for tests of training."""

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.plans.plan import SparsityPlan
from keras_prm.plans.records import ChannelGroup
from keras_prm.plans.records import KernelPlan
from tests.helpers import numpy_projection

BACKEND = keras.backend.backend()
ON_TENSORFLOW = BACKEND == "tensorflow"
ON_JAX = BACKEND == "jax"
ON_TORCH = BACKEND == "torch"


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
    return model.fit(x, y, epochs=epochs, **kwargs)


def batches():
    """The batches of an epoch of `train`, in its order."""
    x, y = make_data()
    return [(x[i : i + 8], y[i : i + 8]) for i in range(0, len(x), 8)]


def wrapper(model, inner=None, **kwargs):
    """An `ADMMWrapper` that updates at every third step."""
    kwargs = {"rho": 0.1, "update_every": 3} | kwargs
    inner = inner or keras.optimizers.Adam(0.01)
    return ADMMWrapper(inner, make_plan(model), **kwargs)


def build(make=functional, inner=None, compile_kwargs=None, **kwargs):
    """A model that is compiled with a `wrapper`."""
    keras.utils.set_random_seed(1)
    model = make()
    model.compile(
        wrapper(model, inner, **kwargs), "mse", **(compile_kwargs or {})
    )
    return model


def values(variables):
    return [ops.convert_to_numpy(v) for v in variables]


def assert_same(one, other, **tolerance):
    """Lists of arrays are equal, to the bit without a tolerance."""
    assert len(one) == len(other), (len(one), len(other))
    for a, b in zip(one, other, strict=True):
        if tolerance:
            np.testing.assert_allclose(a, b, **tolerance)
        else:
            np.testing.assert_array_equal(a, b)


def compiled_apply(optimizer, variables):
    """`optimizer.apply`, compiled where the backend compiles."""
    optimizer.build(variables)
    if ON_TENSORFLOW:
        import tensorflow as tf

        return tf.function(lambda grads: optimizer.apply(grads, variables))
    if ON_TORCH:
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


def gradients(variables, num_steps):
    """Random gradients for so many steps."""
    rng = np.random.default_rng(0)
    return [
        [rng.normal(size=v.shape).astype("float32") for v in variables]
        for _ in range(num_steps)
    ]


class Textbook:
    """ADMM with `z` and `u` kept apart, in NumPy (Boyd et al., 3.1.1).

    Args:
        kernels: The planned kernels, a list of arrays.
        plan: Their plan.
        rho: The penalty's weight.
    """

    def __init__(self, kernels, plan, rho):
        self.plan = plan
        self.restart(kernels, rho)

    def restart(self, w, rho):
        self.z = self.project(w)
        self.u = [np.zeros_like(x) for x in w]
        self.rho = rho

    def project(self, kernels):
        self.channels, columns = numpy_projection.project(kernels, self.plan)
        channels = np.append(self.channels, 1.0)
        self.masks = [
            m[..., None] * channels[np.asarray(k.out_classes)]
            for k, m in zip(self.plan.kernels, columns, strict=True)
        ]
        return [w * m for w, m in zip(kernels, self.masks, strict=True)]

    def update(self, w, rho=None):
        """`z` and `u`; a change of `rho` rescales `u`."""
        a = [x + u for x, u in zip(w, self.u, strict=True)]
        self.z = self.project(a)
        ratio = 1.0 if rho is None else self.rho / rho
        self.u = [ratio * (x - z) for x, z in zip(a, self.z, strict=True)]
        self.rho = self.rho if rho is None else rho

    def penalized(self, grads, variables):
        """Gradients plus `rho * (w - z + u)` on the planned kernels."""
        grads = list(grads)
        for kernel, z, u in zip(self.plan.kernels, self.z, self.u, strict=True):
            w = ops.convert_to_numpy(variables[kernel.index])
            grads[kernel.index] = grads[kernel.index] + self.rho * (w - z + u)
        return grads
