"""`costs`: counts of weights, in three ways, and of MACs."""

from __future__ import annotations

import pathlib
import tempfile
import warnings

import keras
import numpy as np
from keras import layers

from keras_prm.analysis.trace import trace
from keras_prm.equivalence import number_checks
from keras_prm.reports.costs import Costs
from keras_prm.utils import keras_graph
from keras_prm.utils import keras_hooks
from keras_prm.utils import variable_keys

_CONVOLUTIONS = (
    layers.Conv1D,
    layers.Conv1DTranspose,
    layers.Conv2D,
    layers.Conv2DTranspose,
    layers.Conv3D,
    layers.Conv3DTranspose,
    layers.ConvLSTM1D,
    layers.ConvLSTM2D,
    layers.ConvLSTM3D,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)


def costs(model: keras.Model) -> Costs:
    """Counts a model.

    Args:
        model: A built functional or Sequential model.

    Returns:
        A `Costs`.

    Raises:
        TypeError: The model is subclassed.
        ValueError: The model is not built.
    """
    graph = trace(model)
    convolutions = convolution_kernels(model)
    return Costs(
        sum(map(_nonzero, convolutions)),
        sum(map(_nonzero, model.weights)),
        sum(map(_num_elements, model.weights)),
        sum(map(_num_elements, convolutions)),
        graph.macs,
        graph.macs_note,
        sum(_nonzero(w) for w in model.weights if len(w.shape) > 1),
    )


def convolution_kernels(model):
    """The kernels that the paper counts, a list of `keras.Variable`."""
    found = {
        id(weight): weight
        for _, leaf in variable_keys.layer_paths(model)
        for layer in keras_hooks.sublayers(leaf)
        if isinstance(layer, _CONVOLUTIONS)
        for weight in layer.weights
        if weight.name.endswith("kernel")
    }
    return list(found.values())


def saved_bytes(model):
    """Bytes of the model as a `.keras` file, without optimizer state."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        keras_graph.plain(model).save(path)
        return path.stat().st_size


def try_saved_bytes(model):
    """`(saved_bytes(model), "")`, or `(None, why)` if it cannot be saved."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of lambdas
            return saved_bytes(model), ""
    except Exception as error:
        return None, number_checks.one_line(error)[:300]


def _num_elements(variable):
    return int(np.prod(variable.shape))


def _nonzero(variable):
    return int(np.count_nonzero(keras.ops.convert_to_numpy(variable)))
