"""Private parts of Keras that are read, each in one place.

A test stands for each of them, so that a new Keras that moves one fails there.
"""

from __future__ import annotations

import contextlib


def raw_nodes(view):
    """Keras' nodes of a functional model, each after those it needs."""
    depths = view._nodes_by_depth
    return [
        node for depth in sorted(depths, reverse=True) for node in depths[depth]
    ]


def origin(x):
    """The Keras node that made a `KerasTensor`."""
    history = x._keras_history
    return history.operation._inbound_nodes[history.node_index]


def timestep_mask(x):
    """The mask of timesteps that goes along with a tensor, or `None`."""
    return getattr(x, "_keras_mask", None)


def set_timestep_mask(x, mask):
    """Lets a tensor carry a mask of timesteps; JAX's arrays cannot."""
    try:
        x._keras_mask = mask
    except AttributeError:
        pass


def sublayers(layer):
    """A layer and those inside of it, such as attention's projections."""
    return list(layer._flatten_layers())


@contextlib.contextmanager
def call_context(layer, training):
    """What Keras tells layers of training that are called in a `call`.

    Args:
        layer: The layer whose `call` it is, not called by Keras itself.
        training: bool or `None`.
    """
    context = layer._get_call_context()
    before = getattr(context, "training", None)
    try:
        context.training = training
        yield
    finally:
        context.training = before
        layer._maybe_reset_call_context()


def lookup_of(layer):
    """The layer that looks words up for one such as `TextVectorization`."""
    return getattr(layer, "_lookup_layer", layer)


def lambda_shape(layer):
    """The `output_shape` that a `Lambda` was made with."""
    return layer._output_shape


def initial_epoch(model):
    """The epoch at which every `fit` of a model begins, or `None`."""
    return getattr(model, "_initial_epoch", None)


def set_initial_epoch(model, epoch):
    """Sets that, as Keras' own `BackupAndRestore` does.

    Keras asks for `model._initial_epoch or initial_epoch`.
    """
    model._initial_epoch = epoch


def trained_by(optimizer):
    """The variables that a built optimizer trains, a list."""
    return optimizer._trainable_variables


def check_known(optimizer, variables):
    """Raises a ValueError if an optimizer was built for other variables."""
    optimizer._check_variables_are_known(variables)


def averages_of(optimizer):
    """Its exponential moving averages (EMA) of the variables it trains."""
    return optimizer._model_variables_moving_average


def rate_of(optimizer):
    """Its learning rate as it was set: a variable, or the schedule itself."""
    return optimizer._learning_rate
