"""Random kernels, what a mask keeps of them, and compiled functions."""

import keras
import numpy as np


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def energy(kernel, filters, columns):
    """What is kept of the squared norm."""
    mask = np.asarray(columns)[..., None] * np.asarray(filters)
    return float(np.sum(np.square(kernel) * mask))


def compile_function(function):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function
