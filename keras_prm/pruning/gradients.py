"""Gradients of a compiled model's loss, a batch at a time.

The one place where each backend differentiates in its own way. The forward
pass runs in a `keras.StatelessScope`, which keeps whatever it would assign
(metrics, seeds, statistics) from the model.
"""

from __future__ import annotations

import keras
import numpy as np

from keras_prm.utils import datasets

BATCH_SIZE = 32


def gradient_batches(data, size=BATCH_SIZE, name="data", expected=""):
    """A list of batches `(x, y)` or `(x, y, sample_weight)`.

    Args:
        data: As `datasets.labeled_batches` takes them.
        size: int, rows of the batches that all samples are cut into; 32, as
            `fit` does.
        name: The argument that it comes from, for errors.
        expected: What else that may be, for errors, as "a function, or ".

    Raises:
        TypeError: `data` is none of these.
        ValueError: There is no batch in it.
    """

    def refuse(received):
        return TypeError(
            f"Expected `{name}` to be {expected}an iterable of batches (x, y) "
            "or (x, y, sample_weight), or such a tuple of all samples; "
            "several inputs go into a list or dict, not a tuple. "
            f"Received: {name}={received}"
        )

    found = list(datasets.labeled_batches(data, size, name, refuse))
    if not found:
        raise ValueError(
            f"There is no batch in `{name}`. Pass at least one batch (x, y); "
            "an iterator that is used up has none left, so for several "
            "prunings pass a list or a data set."
        )
    return found


def per_batch(model, variables, data):
    """Yields the gradients of the loss on each batch.

    The loss is that of `model.compile`, penalties included, with
    `training=False`. Nothing in the model is changed.

    Args:
        model: A compiled model.
        variables: list of `keras.Variable`s of the model.
        data: list of batches, as `gradient_batches` returns them.

    Yields:
        list of float32 arrays, of the shapes of the variables.

    Raises:
        ValueError: The model is not compiled, or the backend has none.
    """
    if not model.compiled:
        raise ValueError(
            f"The model '{model.name}' is not compiled, so there is no loss "
            "to take gradients of. Call `model.compile(optimizer, loss)` "
            f"first. Received: model={model!r}"
        )
    backend = keras.backend.backend()
    if backend not in _DIFFERENTIATE:
        raise ValueError(
            f"Cannot take gradients: Keras runs on '{backend}'. Expected one "
            f"of {[*_DIFFERENTIATE]}. Set `KERAS_BACKEND` to one of them, or "
            "choose by weights alone, such as `keras_prm.scores.l1_norm`. "
            f"Received: backend={backend!r}"
        )
    differentiate = _DIFFERENTIATE[backend]
    for batch in data:
        if batch[1] is None and model.loss is not None:
            raise ValueError(
                f"The loss of the model '{model.name}' needs labels. Pass "
                "batches (x, y). Received: labels that are None"
            )
        batch = keras.tree.map_structure(_tensor, tuple(batch))
        found = differentiate(
            lambda values: _loss(model, variables, values, *batch),
            [keras.ops.convert_to_tensor(v) for v in variables],
        )
        yield [keras.ops.convert_to_numpy(g).astype("float32") for g in found]


def _tensor(array):
    if array is None or keras.ops.is_tensor(array):
        return array
    return keras.ops.convert_to_tensor(np.asarray(array))


def _loss(model, variables, values, x, y, sample_weight=None):
    # All of them, since penalties on those that are not there would fail.
    pairs = [(v, keras.ops.convert_to_tensor(v)) for v in model.variables]
    pairs += zip(variables, values, strict=True)
    with keras.StatelessScope(pairs, collect_losses=True):
        y_pred = model(x, training=False)
        return model.compute_loss(x, y, y_pred, sample_weight, training=False)


def _tensorflow(loss, values):
    import tensorflow as tf

    zero = tf.UnconnectedGradients.ZERO
    values = [tf.convert_to_tensor(v) for v in values]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        result = loss(values)
    found = tape.gradient(result, values, unconnected_gradients=zero)
    return [tf.convert_to_tensor(g) for g in found]  # of IndexedSlices too


def _jax(loss, values):
    import jax

    return jax.grad(loss)(values)


def _torch(loss, values):
    import torch

    values = [v.detach().clone().requires_grad_() for v in values]
    with torch.enable_grad():
        result = loss(values)
    found = torch.autograd.grad(result, values, allow_unused=True)
    return [
        torch.zeros_like(v) if g is None else g for v, g in zip(values, found)
    ]


_DIFFERENTIATE = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
