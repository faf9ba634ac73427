"""The wrapper in what a model trains with, and whether it trains its plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.plans.plan_fit import fitted_plan
from keras_prm.utils import keras_graph
from keras_prm.utils import keras_hooks
from keras_prm.utils import signatures
from keras_prm.utils import variable_keys

if TYPE_CHECKING:
    from typing import Any


def planned_variables(wrapper, models):
    """The variables that a wrapper's plan is about, in its order.

    Args:
        wrapper: An `ADMMWrapper`.
        models: Where they are sought, one after the other, if it is not
            built.

    Returns:
        list of variables; empty if the plan was made for none of the models.
    """
    if wrapper.built:
        return wrapper.planned_variables()
    for model in models:
        try:
            plan = fitted_plan(model, wrapper.plan)
        except (TypeError, ValueError):
            continue
        variables = variable_keys.variables_by_key(model)
        return [variables[kernel.key] for kernel in plan.kernels]
    return []


def check_trains(wrapper, model):
    """Raises, before training, if a wrapper's plan is not of its network.

    An optimizer is given variables alone: which of equal shapes are frozen,
    and what is tied to what, only the model tells. Does nothing to models
    that the plan was not made for, such as one that trains such a one inside.

    Args:
        wrapper: An `ADMMWrapper`.
        model: The model that it trains, or one around it.

    Raises:
        ValueError: It trains other kernels than its plan names, or the
            channels of these are tied to other ones.
    """
    wrapper.check_attached(model)
    weights = wrapper.plan.weights
    made_for = [id(row.source and row.source()) for row in weights]
    alike = []
    for network in keras_hooks.sublayers(model):
        if not (keras_graph.is_model(network) and network.built):
            continue
        own = signatures.signatures(network)
        is_own = made_for == [id(row.source()) for row in own]
        if not is_own and not signatures.counterparts(weights, own)[1]:
            alike.append(network)
    if wrapper.built:
        alike = [
            network for network in alike if _trains_any_of(wrapper, network)
        ]
    if len(alike) == 1:
        wrapper.check_attached(alike[0])
        fitted_plan(alike[0], wrapper.plan)


def _trains_any_of(wrapper, model):
    own = {id(variable) for variable in model.variables}
    return any(id(v) in own for v in wrapper.planned_variables())


def find_wrapper(optimizer: Any) -> ADMMWrapper | None:
    """The `ADMMWrapper` in an optimizer, however deep; `None` if none is."""
    if optimizer is None or isinstance(optimizer, ADMMWrapper):
        return optimizer
    inside = [getattr(optimizer, "inner_optimizer", None)]
    inside += getattr(optimizer, "optimizers", ())
    found = (find_wrapper(o) for o in inside)
    return next((wrapper for wrapper in found if wrapper is not None), None)


def build_if_given_weights(optimizer, variables):
    """Builds an optimizer whose saved state waits for its variables.

    What is read from `.h5`, or by `load_weights` before any training, would
    else not be there until the first step. Does nothing to others.

    Args:
        optimizer: An optimizer, which may hold an `ADMMWrapper`; or `None`.
        variables: The trainable variables of the model that it trains.
    """
    wrapper = find_wrapper(optimizer)
    if wrapper is not None and wrapper.is_given_weights:
        optimizer.build(variables)
