"""BatchNormalization's statistics, measured anew after pruning."""

from __future__ import annotations

import contextlib

import keras
import numpy as np

from keras_prm import topology

_NOISE = {"rate": 0.0, "stddev": 0.0}


def recalibrate(model, data, batch_size=32, max_batches=None):
    """Measures BatchNormalization's statistics anew. Works in place.

    Pruning changes the activations that the moving means and variances
    describe. This replaces them by the average over the batches of `data`,
    with dropout and noise switched off. Weights do not change; layers that
    are frozen (`trainable=False`) keep their statistics.

    Args:
        model: A built functional or Sequential model.
        data: Training inputs: an array or a nested structure of arrays, or
            an iterable of batches such as a `tf.data.Dataset`; of batches
            `(x, y, ...)` only `x` is used.
        batch_size: Samples per batch where `data` are arrays.
        max_batches: Stop after so many batches; `None` takes all.

    Returns:
        Number of batches that were used.

    Raises:
        TypeError: The model is subclassed.
        ValueError: There is no batch in `data`.

    Example:

    ```python
    masks = keras_prm.hard_prune(model, plan)
    keras_prm.recalibrate(model, x_train, max_batches=50)
    ```
    """
    topology.functional(model)
    layers = [layer for _, layer in topology.layer_paths(model)]
    norms = [
        layer
        for layer in layers
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
    ]
    count = 0
    with _quiet(layers), _restored(norms, "momentum"):
        for x in _batches(data, batch_size, max_batches):
            for layer in norms:
                layer.momentum = count / (count + 1)
            model(x, training=True)
            count += 1
    if not count:
        raise ValueError(
            "There is no batch to measure on. Pass at least one batch of "
            "training inputs (an iterator that is used up has none left)."
        )
    return count


def _batches(data, batch_size, max_batches):
    leaves = keras.tree.flatten(data)
    if all(hasattr(x, "shape") for x in leaves) and leaves:
        size = len(leaves[0])
        source = (
            keras.tree.map_structure(lambda a: a[i : i + batch_size], data)
            for i in range(0, size, batch_size)
        )
    else:
        source = (b[0] if isinstance(b, tuple) else b for b in data)
    for number, x in enumerate(source):
        if max_batches is not None and number >= max_batches:
            return
        yield keras.tree.map_structure(
            lambda a: keras.ops.convert_to_tensor(np.asarray(a)), x
        )


@contextlib.contextmanager
def _restored(layers, name, value=None):
    before = [(layer, getattr(layer, name)) for layer in layers]
    try:
        if value is not None:
            for layer in layers:
                setattr(layer, name, value)
        yield
    finally:
        for layer, old in before:
            setattr(layer, name, old)


@contextlib.contextmanager
def _quiet(layers):
    """Switches off whatever draws random numbers while training."""
    with contextlib.ExitStack() as stack:
        for name, value in _NOISE.items():
            noisy = [
                layer
                for layer in layers
                if hasattr(layer, "seed_generator")
                and isinstance(getattr(layer, name, None), (int, float))
            ]
            stack.enter_context(_restored(noisy, name, value))
        yield
