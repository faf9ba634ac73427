"""What the cases of `distribution_test` share: a model, runs, comparisons.

A run is ADMM training with several updates whose support changes, then hard
pruning, then masked retraining. On every engine it is compared with the same
run on one device, with the same global batches in the same order.
"""

import dataclasses
from typing import Any

import keras
import numpy as np
from absl.testing import parameterized
from keras import layers

from keras_prm import ADMMProgress
from keras_prm import ADMMWrapper
from keras_prm import SparsityPlan
from keras_prm import StructuredMask
from keras_prm import hard_prune
from keras_prm.utils import variable_keys

NUM_DEVICES = 2
BATCH = 8
ATOL = 1e-5


def make_model():
    """A small convolutional model, the same at every call.

    BatchNormalization would see one replica's part of a batch. Its
    statistics are those of the global batch on TensorFlow if it is
    `synchronized`, and on JAX as it is.
    """
    keras.utils.set_random_seed(1)
    on_tensorflow = keras.backend.backend() == "tensorflow"
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(6, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(synchronized=on_tensorflow, name="norm"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(4, name="out"),
        ]
    )


def make_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 6, 6, 1)).astype("float32")
    y = np.tanh(x.reshape(64, -1) @ rng.normal(size=(36, 4)))
    return x, y.astype("float32")


def sgd():
    return keras.optimizers.SGD(0.05, momentum=0.9)


def arrays(variables):
    return [keras.ops.convert_to_numpy(v) for v in variables]


def wrapper_of(model):
    optimizer = model.optimizer
    while not isinstance(optimizer, ADMMWrapper):
        optimizer = optimizer.inner_optimizer
    return optimizer


def admm_variables(model, endings=("",)):
    """The variables of the wrapper itself, by the ends of their names."""
    wrapper = wrapper_of(model)
    inner = {id(v) for v in wrapper.inner_optimizer.variables}
    return [
        v
        for v in wrapper.variables
        if id(v) not in inner and v.name.endswith(endings)
    ]


def support_of(model):
    masks = wrapper_of(model).masks().values()
    return b"".join(mask.full().tobytes() for mask in masks)


class Supports(keras.callbacks.Callback):
    """Collects the supports of `z`, one per change."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        support = support_of(self.model)
        if self.seen[-1:] != [support]:
            self.seen.append(support)


@dataclasses.dataclass
class Run:
    """A model and what was seen of its training."""

    model: Any
    plan: Any
    supports: list = dataclasses.field(default_factory=list)
    trained: list = dataclasses.field(default_factory=list)
    residuals: dict = dataclasses.field(default_factory=dict)
    masks: Any = None

    def note(self):
        """Notes the state at the end of the ADMM training."""
        variables = self.model.variables + admm_variables(self.model)
        self.trained = arrays(variables)
        self.residuals = wrapper_of(self.model).residuals()


def start(scope, inner=None, scaled=False, rho=0.3):
    """A model compiled for ADMM in the scope of an engine."""
    with scope:
        model = make_model()
        plan = SparsityPlan.uniform(model, filters=0.5, columns=0.3)
        optimizer = ADMMWrapper(inner or sgd(), plan, rho=rho, update_every=2)
        if scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, 8.0)
        model.compile(optimizer, "mse")
    return Run(model, plan)


def fit(model, epochs, *callbacks):
    model.fit(
        *make_data(),
        batch_size=BATCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )


def run_fit(scope, between=lambda run: None, **kwargs):
    """Both phases with `fit`.

    Args:
        scope: Makes the scope of an engine.
        between: Is shown the `Run` two epochs before the end of ADMM, and
            may exchange its model.
        **kwargs: As `start` takes them.
    """
    run = start(scope(), **kwargs)
    supports = Supports()
    fit(run.model, 2, supports, ADMMProgress())
    between(run)
    fit(run.model, 1, supports, ADMMProgress())
    run.supports = supports.seen
    run.note()
    run.masks = hard_prune(run.model, run.plan)
    with scope():
        run.model.compile(sgd(), "mse")
    fit(run.model, 1, StructuredMask(run.masks))
    return run


def copies(variable):
    """What each device holds of a variable: list of `(where, array)`."""
    value = variable.value
    if hasattr(value, "addressable_shards"):
        shards = value.addressable_shards
        return [(shard.index, np.asarray(shard.data)) for shard in shards]
    replicas = getattr(value, "values", [value])
    return [(..., replica.numpy()) for replica in replicas]


class DistributedTest(parameterized.TestCase):
    def assert_same_run(self, one, other):
        self.assertEqual(one.supports, other.supports)
        self.assertGreater(len(set(one.supports)), 3)
        self.assert_close(one.trained, other.trained)
        self.assertEqual(list(one.residuals), list(other.residuals))
        for key, pair in one.residuals.items():
            for kind, value in pair.items():
                self.assertGreater(value, 0)
                self.assertAlmostEqual(
                    value, other.residuals[key][kind], places=4
                )
        self.assertEqual(one.masks, other.masks)
        self.assert_close(
            arrays(one.model.variables), arrays(other.model.variables)
        )

    def assert_close(self, one, other):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, atol=ATOL, rtol=ATOL)

    def assert_copies_agree(self, variables, number=NUM_DEVICES):
        """What several devices hold of a variable is the same to the bit."""
        for variable in variables:
            found = copies(variable)
            self.assertLen(found, number, variable.path)
            first = {str(where): array for where, array in reversed(found)}
            for where, array in found:
                np.testing.assert_array_equal(array, first[str(where)])

    def assert_masked(self, run):
        """On no device is anything that is masked not zero."""
        self.assertNotEmpty(run.masks.kernels)
        self.assertNotEmpty(run.masks.vectors)
        variables = variable_keys.variables_by_key(run.model)
        for key, factors in run.masks.factors().items():
            variable = variables[key]
            keep = np.ones(variable.shape, bool)
            for factor in factors:
                keep = keep & factor
            self.assertFalse(keep.all(), key)
            for where, array in copies(variable):
                self.assertFalse(array[~keep[where]].any(), key)
                self.assertTrue(array.any(), key)
