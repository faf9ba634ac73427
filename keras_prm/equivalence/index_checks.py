"""Checks of indices against the tables of a model."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from keras_prm.equivalence import probing
from keras_prm.utils import keras_graph
from keras_prm.utils import keras_hooks


def check_indices(model, arrays, name, purpose):
    """Refuses indices that an `Embedding` has no row for.

    Backends differ in what they make of them: an error of their own, NaN, or
    zeros. Those from -rows to -1 count from the end on all of them.

    Args:
        model: A functional or Sequential model.
        arrays: list of arrays, one per input.
        name: The argument that they come from, for errors.
        purpose: What they are for, after "Cannot", for errors.

    Raises:
        ValueError: There are some.
    """
    view = keras_graph.functional(model)
    names = [keras_graph.input_layer(x).name for x in view.inputs]
    for layer, sources, found in _indices(view, arrays, [*names]):
        rows = layer.input_dim
        wrong = ~((found >= -rows) & (found < rows))  # NaN is wrong as well
        if wrong.any():
            raise ValueError(
                f"Cannot {purpose}: {name} holds numbers that are no rows of "
                f"the table '{layer.name}'. Expected, for the input "
                f"{' or '.join(map(repr, sources))}, indices that come to 0 "
                f"to {rows - 1}, of its {rows} rows. Received: "
                f"{found[wrong][0].item()}, and {int(wrong.sum())} of "
                f"{found.size} outside. Pass indices of the table, or give "
                "it more rows, by `input_dim`."
            )


def _indices(view, arrays, names):
    """`(Embedding, names of inputs, its indices)`, those that can be had.

    Args:
        view: A functional model.
        arrays: list of arrays, one per input.
        names: What to call each input; of the outermost model.
    """
    sources = {id(x): {n} for x, n in zip(view.inputs, names)}
    for node in keras_graph.nodes(view):
        come_from = set()
        for x in node.inputs:
            come_from |= sources.get(id(x), set())
        sources.update((id(y), come_from) for y in node.outputs)
        layer = node.operation
        if isinstance(layer, layers.Embedding):
            values = _tensor_values(view, node.inputs, arrays)
            if values is not None:
                yield layer, sorted(come_from), values[0]
        elif keras_graph.is_model(layer) and _has_tables(layer):
            inner = keras_graph.functional(layer)
            outer = keras_graph.fed(node, inner)
            values = _tensor_values(view, outer, arrays)
            if values is not None:
                own = [" or ".join(sorted(sources[id(x)])) for x in outer]
                yield from _indices(inner, values, own)


def _has_tables(model):
    parts = keras_hooks.sublayers(model)
    return any(isinstance(part, layers.Embedding) for part in parts)


def _tensor_values(view, tensors, arrays):
    """What tensors of a model hold; `None` if that cannot be computed."""
    places = {id(x): array for x, array in zip(view.inputs, arrays)}
    if all(id(x) in places for x in tensors):
        return [places[id(x)] for x in tensors]
    try:
        part = keras.Model(view.inputs, [*tensors])
        return [np.asarray(x) for x in probing.run_model(part, arrays)]
    except Exception:
        return None
