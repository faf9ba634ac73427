"""BatchNormalization's statistics, measured anew after pruning."""

from __future__ import annotations

import contextlib
import itertools

import keras
import numpy as np

from keras_prm import samples
from keras_prm import topology

_NOISE = ("rate", "stddev", "dropout", "recurrent_dropout")


def recalibrate(model, data, batch_size=32, max_batches=None):
    """Measures BatchNormalization's statistics anew. Works in place.

    Pruning changes the activations that the moving means and variances
    describe. This replaces them by the average over the batches of `data`,
    each as heavy as it has rows, with dropout and noise switched off; inside
    of other layers, too, such as `TimeDistributed`. Weights do not change;
    layers that are frozen (`trainable=False`) keep their statistics.

    Args:
        model: A built functional or Sequential model.
        data: Training inputs: an array, a dict or list of arrays as the
            model takes them, or an iterable of batches such as a
            `tf.data.Dataset`. Of batches `(x, y, ...)` only `x` is used. Of
            a model with one input, a tuple of arrays is `(x, y, ...)`, and a
            list is one of batches.
        batch_size: Samples per batch where `data` are arrays. Defaults to 32.
        max_batches: Stop after so many batches; `None` takes all.

    Returns:
        Number of batches that were used.

    Raises:
        TypeError: The model is subclassed, or `data` are no data.
        ValueError: There is no batch in `data`, `batch_size` is below 1, or
            the statistics come out NaN or infinite. The model is as before
            then.

    Example:

    ```python
    masks = keras_prm.hard_prune(model, plan)
    keras_prm.recalibrate(model, x_train, max_batches=50)
    ```
    """
    topology.functional(model)
    layers = [
        part
        for _, layer in topology.layer_paths(model)
        for part in topology.sublayers(layer)
    ]
    norms = [
        layer
        for layer in layers
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
    ]
    if batch_size < 1:
        raise ValueError(
            f"Expected `batch_size` >= 1. Received: batch_size={batch_size}"
        )
    count = 0
    with _quiet(layers), _kept(model, norms), _averaging(norms):
        for x in _batches(model, data, batch_size, max_batches):
            model(x, training=True)
            count += 1
        if not count:
            raise ValueError(
                "There is no batch to measure on. Pass at least one batch of "
                "training inputs (an iterator that is used up has none left)."
            )
    return count


def _batches(model, data, batch_size, max_batches):
    """Yields inputs of the model as tensors, a batch at a time."""
    arrays = _whole(model, data)
    if arrays is None:
        source = samples.batches(data, len(model.inputs))
    else:
        size = len(keras.tree.flatten(arrays)[0])
        source = (
            keras.tree.map_structure(lambda a: a[i : i + batch_size], arrays)
            for i in range(0, size, batch_size)
        )
    for x in itertools.islice(source, max_batches):
        yield keras.tree.map_structure(
            lambda a: keras.ops.convert_to_tensor(np.asarray(a)), x
        )


def _whole(model, data):
    """The arrays of all samples, or `None` if `data` are batches.

    For a model with one input, a tuple of arrays is `(x, y, ...)` and a
    list is one of batches.
    """
    if hasattr(data, "shape") or isinstance(data, dict):
        return data
    if isinstance(data, (list, tuple)):
        is_arrays = all(hasattr(a, "shape") for a in data)
        if is_arrays and len(model.inputs) == len(data) > 1:
            return data
        if isinstance(data, tuple):
            return data[0]
    return None


@contextlib.contextmanager
def _averaging(norms):
    """Lets moving statistics become the mean of all updates, by their rows.

    A layer that is called several times in a forward pass, be it shared or
    inside of `TimeDistributed`, is updated as often.
    """

    def averaged(layer):
        call, seen = layer.call, 0

        def counted(*args, **kwargs):
            nonlocal seen
            rows = (args[0] if args else kwargs["inputs"]).shape[0] or 1
            layer.momentum = seen / (seen + rows)
            seen += rows
            return call(*args, **kwargs)

        return counted

    with _restored(norms, "momentum"):
        for layer in norms:
            # What is there has no weight, but NaN stays NaN without any.
            layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))
            layer.moving_variance.assign(np.ones(layer.moving_variance.shape))
            layer.call = averaged(layer)
        try:
            yield
        finally:
            for layer in norms:
                del vars(layer)["call"]  # and the class' is in force again


@contextlib.contextmanager
def _kept(model, norms):
    """Brings back all but the statistics, and these too if they are NaN.

    Layers such as `SpectralNormalization` change in each forward pass of
    training.
    """
    statistics = [
        v for layer in norms for v in (layer.moving_mean, layer.moving_variance)
    ]
    others = {id(v): v for v in model.variables}
    for variable in statistics:
        del others[id(variable)]
    before = [
        (v, keras.ops.convert_to_numpy(v).copy())
        for v in (*statistics, *others.values())
    ]
    undone = before
    try:
        yield
        after = [keras.ops.convert_to_numpy(v) for v in statistics]
        if not all(np.isfinite(a).all() for a in after):
            raise ValueError(
                "The data make statistics that are NaN or infinite. Remove "
                "the samples that are not finite. The model is as before."
            )
        undone = before[len(statistics) :]
    finally:
        for variable, old in undone:
            if not np.array_equal(keras.ops.convert_to_numpy(variable), old):
                variable.assign(old)


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
        for name in _NOISE:
            noisy = [
                layer
                for layer in layers
                if "seed_generator" in vars(layer)
                and isinstance(vars(layer).get(name), (int, float))
            ]
            stack.enter_context(_restored(noisy, name, 0.0))
        yield
