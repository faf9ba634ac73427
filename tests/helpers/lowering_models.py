"""Models with empty columns, and a lowering that is forced on them."""

import keras
import numpy as np
from keras import layers

from keras_prm.lowering import methods
from keras_prm.lowering import strategies
from keras_prm.lowering.gather_columns import GatherColumns
from keras_prm.rebuild.strip import strip
from tests.helpers import zeros
from tests.helpers import zoo

NAMES = (
    "channels by gather",
    "channels by pointwise",
    "channels by slices",
    "columns by gather",
    "columns by pointwise",
    "columns by slices",
    "columns by patches",
)


class Forced(strategies.Lowerer):
    """Takes the lowering of one name wherever a layer has it."""

    def __init__(self, name):
        self.name = name

    def choose_one(self, sparse):
        for option in methods.candidates(sparse):
            if option.name == self.name:
                return strategies.Choice(sparse, option, reason="forced")
        return strategies.Choice(sparse, None, reason="not to be had")


class Drawn(strategies.Lowerer):
    """Takes any lowering of each layer, by chance, whether it pays or not."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)

    def choose_one(self, sparse):
        options = methods.candidates(sparse)
        option = options[self.rng.integers(len(options))]
        return strategies.Choice(sparse, option, reason="drawn")


def empty_columns(model, share=0.3, seed=0):
    """Zeroes all but a share of the columns of each kernel, one at least."""
    rng = np.random.default_rng(seed)
    for kernel in zeros.kernels(model):
        live = rng.random(kernel.shape[:-1]) < share
        live.flat[rng.integers(live.size)] = True
        value = np.array(keras.ops.convert_to_numpy(kernel))
        kernel.assign(value * live[..., None])
    return model


def chain(strides=1, dilation=1, padding="same"):
    """Convolutions, a sum whose channels two read, Dense behind Flatten."""
    options = {
        "strides": strides,
        "dilation_rate": dilation,
        "padding": padding,
    }
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((12, 11, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="a")(x)
    x = layers.BatchNormalization(name="n")(x)
    y = layers.Conv2D(8, 3, padding="same", name="e")(x)
    x = layers.Add(name="sum")([x, layers.ReLU()(y)])
    x = layers.Conv2D(9, 3, name="b", activation="tanh", **options)(x)
    x = layers.Conv2D(7, (1, 3), name="c", use_bias=False)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(6, activation="relu", name="d")(x)
    model = keras.Model(inputs, layers.Dense(3, name="out")(x))
    zoo.randomize(model)
    return model


def num_lowered(model):
    """How many layers have a `GatherColumns` before them."""
    return sum(isinstance(layer, GatherColumns) for layer in model.layers)


class _Listener(strategies.Lowerer):
    """Lowers nothing, and remembers what it was asked about."""

    def __init__(self):
        self.kernels = []

    def choose_one(self, sparse):
        self.kernels.append(sparse)
        return strategies.Choice(sparse, None)


def sparse_kernels(model):
    """The `SparseKernel`s that a strategy is asked about."""
    listener = _Listener()
    strip(model, lowering=listener)
    return listener.kernels
