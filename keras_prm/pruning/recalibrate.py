"""`recalibrate`: BatchNormalization's statistics anew after pruning."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_prm.utils import datasets
from keras_prm.utils import keras_graph
from keras_prm.utils import keras_hooks
from keras_prm.utils import replay
from keras_prm.utils import training_argument
from keras_prm.utils import validation
from keras_prm.utils import variable_keys

if TYPE_CHECKING:
    from typing import Any

_STATISTICS = (
    *("moving_mean", "moving_variance"),
    *("moving_stddev", "renorm_mean", "renorm_stddev"),
)
_NOISE = ("rate", "stddev", "dropout", "recurrent_dropout")


def recalibrate(
    model: keras.Model,
    data: Any,
    batch_size: int = 32,
    max_batches: int | None = None,
) -> int:
    """Measures BatchNormalization's statistics anew. Works in place.

    Pruning changes the activations that the moving means and variances
    describe. This replaces them by the average over the batches of `data`, or
    over all calls where a layer is called several times, each weighted by its
    number of rows, with dropout, noise and random augmentation switched off;
    inside of other layers, too, such as `TimeDistributed`.
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
        TypeError: The model is subclassed, or there are no arrays in `data`.
        ValueError: There is no batch in `data`, they never end,
            `batch_size` or `max_batches` is below 1, a layer is called
            inside of what the backend compiles, or the statistics come out
            NaN or infinite. The model is as before then.

    Warns:
        UserWarning: A layer of your own draws random numbers, and nothing
            switches it off.

    Example:

    ```python
    masks = keras_prm.hard_prune(model, plan)
    keras_prm.recalibrate(model, x_train, max_batches=50)
    ```
    """
    view = keras_graph.functional(model)
    parts = _parts(model)
    norms = measured_layers(model)
    advice = "Pass, for example, `batch_size=128`."
    validation.check_whole("batch_size", batch_size, "samples", advice)
    if max_batches is not None:
        advice = "Pass None for all batches."
        validation.check_whole("max_batches", max_batches, "batches", advice)
    count = 0
    renormed = [layer for layer in norms if getattr(layer, "renorm", False)]
    run = _Pass(view, norms)
    with (
        _without_noise(parts.values()),
        _temporarily(norms, "momentum", lambda layer: 0.0),
        _temporarily(renormed, "renorm_momentum", lambda layer: 0.0),
        _temporarily(norms, "activity_regularizer", run.observer),
    ):
        for x in _input_batches(model, data, batch_size, max_batches):
            if _num_rows(x):
                run(x)
                count += 1
    if not count:
        raise ValueError(
            "There is no batch to measure on. Pass at least one batch of "
            "training inputs (an iterator that is used up has none left)."
        )
    run.assign()
    return count


def measured_layers(model):
    """The BatchNormalization layers that would update their statistics."""
    return [
        layer
        for layer in _parts(model).values()
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
    ]


def _parts(model):
    """All layers inside of a model, by their `id`."""
    return {
        id(part): part
        for _, layer in variable_keys.layer_paths(model)
        for part in keras_hooks.sublayers(layer)
    }


def _input_batches(model, data, batch_size, max_batches):
    """Yields inputs of the model, a batch at a time."""
    if max_batches is None:
        datasets.check_ends(data)
    arrays = datasets.whole(data, len(model.inputs))
    if arrays is not None:
        _check_arrays(arrays)
        size = len(keras.tree.flatten(arrays)[0])
        source = (
            keras.tree.map_structure(lambda a: a[i : i + batch_size], arrays)
            for i in range(0, size, batch_size)
        )
    elif validation.is_iterable(data):
        source = datasets.batches(data, len(model.inputs))
    else:
        source = [data]
    for x in itertools.islice(source, max_batches):
        _check_arrays(x)
        yield x


def _num_rows(data):
    """The rows of arrays; `None` if there are no arrays.

    Others among them, such as a number in a dict, are none of the model's.
    """
    arrays = keras.tree.flatten(data)
    rows = [x.shape[0] for x in arrays if len(getattr(x, "shape", ()))]
    return rows[0] if rows else None


def _check_arrays(data):
    if _num_rows(data) is None:
        raise TypeError(
            "Expected training inputs: an array, a dict or list of arrays as "
            "the model takes them, or batches of these. "
            f"Received: a {type(data).__name__}, {repr(data)[:100]}"
        )


class _Pass(keras.StatelessScope):
    """A forward pass of training that changes nothing, and what it measures.

    Every update of a layer of momentum 0 is the statistic of one call, and
    its `observer` then sees how many rows that call had; but where another
    layer runs its `call` alone, as `TimeDistributed` does, with the rows of
    the batch. A layer that is called several times is updated as often.

    Args:
        view: A functional model.
        norms: The layers whose statistics are measured.
    """

    def __init__(self, view, norms):
        super().__init__()
        self.view = view
        # In the order and the types that the layers take.
        self._inputs = keras.Model(view.input, view.inputs, name=view.name)
        self._random = _random_layers(view, set(map(id, norms)))
        self._statistics = {
            id(v): v for layer in norms for v in _statistics(layer)
        }
        self._latest = {}  # of the call that is going on
        self._batch_rows = 1
        self._sums = {}
        # The first update is to have all the weight, but 0 * NaN is NaN.
        self._undefined = [
            (v, array)
            for v in self._statistics.values()
            if not np.isfinite(array := keras.ops.convert_to_numpy(v)).all()
        ]
        for variable, array in self._undefined:
            super().add_update((variable, _tensor(np.zeros_like(array))))

    def __call__(self, x):
        """Runs a batch `x`, a structure of arrays as the model takes it."""
        self._forward(x)
        unmoved = [
            pair for pair in self._undefined if id(pair[0]) not in self._sums
        ]
        self._undefined = []
        if unmoved:  # layers that are not trained compute with what they have
            self._sums.clear()
            for variable, array in unmoved:
                super().add_update((variable, _tensor(array)))
            self._forward(x)

    def assign(self):
        """Makes the means over all calls the model's statistics.

        Raises:
            ValueError: They are not finite.
        """
        means = {
            number: np.asarray(total / rows)
            for number, (rows, total) in self._sums.items()
        }
        if not all(np.isfinite(mean).all() for mean in means.values()):
            raise ValueError(
                "The data make statistics that are NaN or infinite. Remove "
                "the samples that are not finite. The model is as before."
            )
        for number, mean in means.items():
            self._statistics[number].assign(mean)

    def add_update(self, update):
        """Keeps an update to itself; overrides Keras' own."""
        variable, value = update
        if id(variable) not in self._statistics:
            super().add_update(update)
            return
        try:
            array = keras.ops.convert_to_numpy(value)
        except Exception as error:
            raise ValueError(
                f"Cannot measure the statistics of '{variable.path}': its "
                "layer is called inside of a function, a loop or a branch "
                "that the backend compiles, where numbers are not known. "
                "Call it outside of what is compiled. Received: "
                f"{type(value).__name__}"
            ) from error
        self._weigh([variable], self._batch_rows)  # nobody has seen it
        self._latest[id(variable)] = array.astype("float64")

    def observer(self, layer):
        """A regularizer that weights what a call has measured by its rows.

        Keras calls it with what the layer has put out, and does without the
        loss in a scope like this one.
        """

        def observe(outputs):
            rows = (tuple(outputs.shape) or (1,))[0]
            self._weigh(_statistics(layer), rows)
            return keras.ops.zeros(())

        return observe

    def _weigh(self, variables, rows):
        """Adds what the last call has measured, if it did."""
        for variable in variables:
            value = self._latest.pop(id(variable), None)
            if value is not None:
                before, total = self._sums.get(id(variable), (0, 0.0))
                self._sums[id(variable)] = before + rows, total + rows * value

    def _forward(self, x):
        inputs = self._inputs(keras.tree.map_structure(_tensor, x))
        inputs = keras.tree.flatten(inputs)
        self._batch_rows = inputs[0].shape[0]
        with self:
            replay.outputs(self.view, inputs, self._call)
        self._weigh(self._statistics.values(), self._batch_rows)

    def _call(self, node, args, kwargs):
        operation = node.operation
        if not isinstance(operation, keras.layers.Layer):
            return operation(*args, **kwargs)
        training = id(operation) not in self._random
        args, kwargs = training_argument.replaced(
            operation, args, kwargs, training
        )
        with keras_hooks.call_context(operation, training):
            return operation(*args, **kwargs)


def _statistics(layer):
    """The variables that a BatchNormalization measures; none if not built."""
    found = [getattr(layer, name, None) for name in _STATISTICS]
    return [x for x in found if isinstance(x, keras.Variable)]


def _tensor(array):
    return keras.ops.convert_to_tensor(np.asarray(array))


def _random_layers(view, norms):
    """Ids of the layers to be called as at inference, since they are random.

    Those that draw random numbers, also inside, and have no rate to be set
    to 0; but for those with statistics inside, which would stand still.
    """
    found, loud = set(), []
    for node in keras_graph.all_nodes(view):
        layer = node.operation
        parts = keras_hooks.sublayers(layer) if _is_layer(layer) else ()
        drawing = [x for x in parts if _draws(x) and not _rates(x)]
        if not drawing:
            continue
        takes = "training" in training_argument.parameters(layer)
        if takes and norms.isdisjoint(map(id, parts)):
            found.add(id(layer))
        else:
            loud += [x.name for x in drawing]
    if loud:
        warnings.warn(
            "Statistics are measured with random numbers: nothing switches "
            f"these layers off. Received: random layers {loud}. Give their "
            "`call` a `training` argument, or hold their randomness in a "
            "layer of its own, such as `keras.layers.Dropout`.",
            stacklevel=4,
        )
    return found


def _is_layer(operation):
    return isinstance(operation, keras.layers.Layer)


def _draws(layer):
    """Whether a layer has a generator of random numbers."""
    kind = keras.random.SeedGenerator
    return any(isinstance(value, kind) for value in vars(layer).values())


def _rates(layer):
    """Names of its attributes that say how much noise there is."""
    return [
        name
        for name in _NOISE
        if isinstance(vars(layer).get(name), (int, float))
    ]


@contextlib.contextmanager
def _without_noise(layers):
    """Sets to 0 how much noise there is; recurrent layers read that, too."""
    with contextlib.ExitStack() as stack:
        for name in _NOISE:
            noisy = [x for x in layers if _draws(x) and name in _rates(x)]
            stack.enter_context(_temporarily(noisy, name, lambda layer: 0.0))
        yield


@contextlib.contextmanager
def _temporarily(layers, name, value):
    """For a while, an attribute of each layer is `value(layer)`."""
    before = [(layer, getattr(layer, name)) for layer in layers]
    try:
        for layer in layers:
            setattr(layer, name, value(layer))
        yield
    finally:
        for layer, old in before:
            setattr(layer, name, old)
