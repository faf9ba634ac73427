"""Small models to train, and a callback that looks for leaks meanwhile."""

import keras
import numpy as np
from keras import layers

from keras_prm.utils import variable_keys
from tests.helpers import zoo

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
ON_TORCH = keras.backend.backend() == "torch"
# Whatever makes a step soon: XLA takes long on TensorFlow, eager code on JAX.
JIT = keras.backend.backend() == "jax"


def block(units, name, size):
    return keras.Sequential(
        [
            keras.Input((size,)),
            layers.Dense(units, name="dense"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(),
        ],
        name=name,
    )


def nested():
    """Two blocks whose layers have the same names."""
    x = inputs = keras.Input((6,))
    x = block(6, "two", 8)(block(8, "one", 6)(x))
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


def flat(**kwargs):
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, name="a", activation="relu", **kwargs),
            layers.Dense(6, name="b"),
            layers.Dense(3, name="out"),
        ]
    )


def make(build=flat, **kwargs):
    keras.utils.set_random_seed(0)
    model = build(**kwargs)
    zoo.randomize(model)
    return model


def make_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 6)).astype("float32")
    return x, rng.normal(size=(32, 3)).astype("float32")


def train(model, *callbacks, **kwargs):
    kwargs = {"batch_size": 4, "verbose": 0, "shuffle": False} | kwargs
    return model.fit(*make_data(), callbacks=[*callbacks], **kwargs)


def leaks(model, masks):
    """Keys of variables that are not zero where they are masked."""
    variables = variable_keys.variables_by_key(model)
    found = []
    for key, factors in masks.factors().items():
        array = keras.ops.convert_to_numpy(variables[key])
        keep = np.ones(array.shape, bool)
        for factor in factors:
            keep = keep & factor
        if array[~keep].any():
            found.append(key)
    return found


class Watch(keras.callbacks.Callback):
    """Looks at the weights whenever anybody can."""

    def __init__(self, masks, look=leaks):
        super().__init__()
        self.masks = masks
        self.look = look
        self.found = []
        self.num_looks = 0

    def _look(self, *args, **kwargs):
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        self.num_looks += 1
        self.found += self.look(self.model, self.masks)

    on_train_batch_begin = on_train_batch_end = _look
    on_epoch_begin = on_epoch_end = _look
    on_test_begin = on_test_batch_end = _look


def sgd(**kwargs):
    return keras.optimizers.SGD(0.002, momentum=0.9, **kwargs)


def adam(**kwargs):
    return keras.optimizers.Adam(0.02, **kwargs)
