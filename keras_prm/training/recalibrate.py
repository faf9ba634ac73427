"""BatchNormalization's statistics, measured anew after pruning."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import warnings
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_prm.equivalence import model_state
from keras_prm.utils import datasets
from keras_prm.utils import keras_graph
from keras_prm.utils import variable_keys

if TYPE_CHECKING:
    from typing import Any

_NOISE = ("rate", "stddev", "dropout", "recurrent_dropout")


def recalibrate(
    model: keras.Model,
    data: Any,
    batch_size: int = 32,
    max_batches: int | None = None,
) -> int:
    """Measures BatchNormalization's statistics anew. Works in place.

    Pruning changes the activations that the moving means and variances
    describe. This replaces them by the average over the batches of `data`,
    each as heavy as it has rows, with dropout, noise and random augmentation
    switched off; inside of other layers, too, such as `TimeDistributed`.
    Weights do not change. Layers that would not update their statistics in
    training keep them: those that are frozen (`trainable=False`), called with
    `training=False` by the layer around them, or not reached.

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
        Number of batches that were used; those without a row are not.

    Raises:
        TypeError: The model is subclassed, or `data` are no data.
        ValueError: There is no batch in `data`, `batch_size` is below 1, or
            the statistics come out NaN or infinite. The model is as before
            then.

    Warns:
        UserWarning: A layer of your own draws random numbers, and nothing
            switches it off.

    Example:

    ```python
    masks = keras_prm.hard_prune(model, plan)
    keras_prm.recalibrate(model, x_train, max_batches=50)
    ```
    """
    keras_graph.functional(model)
    layers = {
        id(part): part
        for _, layer in variable_keys.layer_paths(model)
        for part in keras_graph.sublayers(layer)
    }
    layers = [*layers.values()]
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
    with _quiet(layers, norms), _kept(model, norms), _averaging(norms):
        for x in _batches(model, data, batch_size, max_batches):
            if keras.tree.flatten(x)[0].shape[0]:
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
    arrays = datasets.whole(data, len(model.inputs))
    if arrays is None:
        source = datasets.batches(data, len(model.inputs))
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


@contextlib.contextmanager
def _averaging(norms):
    """Lets moving statistics become the mean of all updates, by their rows.

    A layer that is called several times in a forward pass, be it shared or
    inside of `TimeDistributed`, is updated as often.
    """

    def averaged(layer):
        call, momentum, seen = layer.call, layer.momentum, 0
        signature = inspect.signature(call)

        def counted(*args, **kwargs):
            nonlocal seen
            if not signature.bind(*args, **kwargs).arguments.get("training"):
                return call(*args, **kwargs)
            if not seen:
                _forget_what_is_not_finite(layer)
            rows = (args[0] if args else kwargs["inputs"]).shape[0] or 1
            layer.momentum = seen / (seen + rows)
            seen += rows
            try:
                return call(*args, **kwargs)
            finally:
                layer.momentum = momentum

        return counted

    with _calls(norms, averaged):
        yield


def _forget_what_is_not_finite(layer):
    """The first update is to have all the weight, but 0 * NaN is NaN."""
    for variable in (layer.moving_mean, layer.moving_variance):
        if not np.isfinite(keras.ops.convert_to_numpy(variable)).all():
            variable.assign(np.zeros(variable.shape))


@contextlib.contextmanager
def _calls(layers, change):
    """Gives layers other `call`s: what `change(layer)` returns."""
    before = [(layer, vars(layer).get("call")) for layer in layers]
    try:
        for layer in layers:
            layer.call = change(layer)
        yield
    finally:
        for layer, own in before:
            vars(layer).pop("call", None)  # and the class' is in force again
            if own is not None:
                layer.call = own


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
    others |= {id(v): v for v in model_state.states(model)}
    for variable in statistics:
        others.pop(id(variable), None)
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
def _zeroed(layers, name):
    before = [(layer, getattr(layer, name)) for layer in layers]
    try:
        for layer in layers:
            setattr(layer, name, 0.0)
        yield
    finally:
        for layer, old in before:
            setattr(layer, name, old)


@contextlib.contextmanager
def _quiet(layers, norms):
    """Switches off whatever draws random numbers while training.

    By its rate where it has one, since recurrent layers read that
    themselves; else by calling it as at inference, unless statistics inside
    of it would then stand still.
    """
    random = [layer for layer in layers if _draws(layer)]
    rated = [
        [x for x in random if isinstance(vars(x).get(name), (int, float))]
        for name in _NOISE
    ]
    done = {id(layer) for found in rated for layer in found}
    norms = {id(layer) for layer in norms}
    others = [layer for layer in random if id(layer) not in done]
    at_rest = [
        layer
        for layer in others
        if "training" in inspect.signature(layer.call).parameters
        and not any(id(x) in norms for x in keras_graph.sublayers(layer))
    ]
    loud = [x.name for x in others if all(x is not y for y in at_rest)]
    if loud:
        warnings.warn(
            "Statistics are measured with random numbers: nothing switches "
            f"these layers off. Received: random layers {loud}. Give their "
            "`call` a `training` argument, or hold their randomness in a "
            "layer of its own, such as `keras.layers.Dropout`.",
            stacklevel=5,
        )
    with contextlib.ExitStack() as stack:
        for name, found in zip(_NOISE, rated, strict=True):
            stack.enter_context(_zeroed(found, name))
        stack.enter_context(_calls(at_rest, _at_inference))
        yield


def _draws(layer):
    """Whether a layer has a generator of random numbers."""
    kind = keras.random.SeedGenerator
    return any(isinstance(value, kind) for value in vars(layer).values())


def _at_inference(layer):
    call, signature = layer.call, inspect.signature(layer.call)

    def quiet(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.arguments["training"] = False
        return call(*bound.args, **bound.kwargs)

    return quiet
