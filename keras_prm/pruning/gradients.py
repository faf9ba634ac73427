"""Gradients of a compiled model's loss, a batch at a time.

The one place where each backend differentiates in its own way. The forward
pass runs in a `keras.StatelessScope`, which keeps whatever it would assign
(metrics, seeds, statistics) from the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

BATCH_SIZE = 32


def gradient_batches(data, size=BATCH_SIZE, name="data", expected=""):
    """A list of batches `(x, y)` or `(x, y, sample_weight)`.

    Args:
        data: An iterable of batches: a list, `tf.data.Dataset`,
            `keras.utils.PyDataset`, ...; or a tuple or list `(x, y)` or
            `(x, y, sample_weight)` of all samples, which is cut into batches
            of 32 as `fit` does.
        size: int, or into batches of so many.
        name: The argument that it comes from, for errors.
        expected: What else that may be, for errors, as "a function, or ".

    Raises:
        TypeError: `data` is none of these.
        ValueError: There is no batch in it.
    """

    def no_batches(received):
        return TypeError(
            f"Expected `{name}` to be {expected}an iterable of batches (x, y) "
            "or (x, y, sample_weight), or such a tuple of all samples; "
            "several inputs go into a list or dict, not a tuple. "
            f"Received: {name}={received}"
        )

    if _is_samples(data):
        found = _cut_batches(data, size, name, no_batches)
    elif isinstance(data, keras.utils.PyDataset):
        found = [data[i] for i in range(data.num_batches or 0)]
    elif isinstance(data, dict):
        raise no_batches(f"a dict of {list(data)}, without labels"[:200])
    elif _is_iterable(data):
        _check_ends(data)
        found = list(data)
    else:
        raise no_batches(f"{data!r} (of type {type(data).__name__})"[:200])
    for batch in found:
        if not isinstance(batch, (tuple, list)):
            raise no_batches(f"a batch of type {type(batch).__name__}")
        if not 2 <= len(batch) <= 3:
            raise no_batches(
                f"a {type(batch).__name__} of {len(batch)}, without labels"
                if len(batch) < 2
                else f"a {type(batch).__name__} of {len(batch)}"
            )
        arrays = [a for a in keras.tree.flatten(batch[:2]) if a is not None]
        if not all(map(np.ndim, arrays)):
            raise no_batches("single samples; call `data.batch(32)`")
    if not found:
        raise ValueError(
            f"There is no batch in `{name}`. Pass at least one batch (x, y); "
            "an iterator that is used up has none left, so for several "
            "prunings pass a list or a data set."
        )
    return found


def _is_samples(data):
    """Whether data are all samples at once: no part of them is a batch."""
    if isinstance(data, list):
        return any(hasattr(x, "shape") for x in data)
    return isinstance(data, tuple) and data and not isinstance(data[0], tuple)


def _is_iterable(data):
    is_text = isinstance(data, (str, bytes))
    return hasattr(data, "__iter__") and not (is_text or hasattr(data, "shape"))


def _check_ends(data):
    """Refuses a `tf.data.Dataset` that is known to go on forever."""
    cardinality: Callable[[], Any] | None
    cardinality = getattr(data, "cardinality", None)
    if callable(cardinality) and int(cardinality()) == -1:
        raise ValueError(
            "The data never end. Pass a part of them, such as "
            "`data.take(100)`, or leave out `repeat()`. "
            f"Received: a {type(data).__name__} of infinite cardinality"
        )


def _cut_batches(data, size, name, no_batches):
    data = tuple(x for x in data if x is not None)  # stands for no weights
    if any(isinstance(x, (str, bytes)) for x in keras.tree.flatten(data)):
        raise no_batches("words; make arrays of them")
    if not all(map(np.ndim, keras.tree.flatten(data))):
        raise no_batches("lists of numbers; make arrays of them")
    rows = [len(x) for x in keras.tree.flatten(data)]
    if len(set(rows)) > 1:
        raise ValueError(
            f"The arrays in `{name}` differ in their number of samples. Pass "
            f"one label for each sample. Received: {rows} samples"
        )
    return [
        keras.tree.map_structure(lambda a: a[i : i + size], data)
        for i in range(0, rows[0] if rows else 0, size)
    ]


def per_batch(model, variables, data):
    """Yields the gradients of the loss on each batch.

    The loss is that of `model.compile`, penalties included, with
    `training=False`. Nothing in the model is changed.

    Args:
        model: A compiled model.
        variables: list of `keras.Variable`s of the model.
        data: list of batches, as `batches` returns them.

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
