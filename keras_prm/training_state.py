"""All that a training goes on from: what it is, and putting it back."""

from __future__ import annotations

import itertools
import json
import random
import re

import keras
import numpy as np

from keras_prm.masks import Masks
from keras_prm.optimizers import find_wrapper
from keras_prm.plans import SparsityPlan


def collect(model, masks):
    """The state of a training between two steps.

    Args:
        model: A compiled model whose optimizer is built.
        masks: The `Masks` it is trained under, or `None`.

    Returns:
        `(description, arrays)`: a dict that `json` can write, and one array
        per variable, the model's first, its seed generators among them, and
        then the optimizer's.
    """
    plan = plan_of(model.optimizer)
    description = {
        "model": _signatures(model.variables),
        "optimizer": _optimizer_signatures(model.optimizer),
        "plan": None if plan is None else plan.get_config(),
        "masks": None if masks is None else masks.to_json(),
    }
    return description, [
        np.asarray(keras.ops.convert_to_numpy(v)) for v in _variables(model)
    ]


def check(model, masks, description, path):
    """Refuses the state of another training.

    Raises:
        ValueError: Model, plan, optimizer or masks are not those that
            `description` is of; what differs is named, and how to go on.
    """
    found = _differences(description["model"], _signatures(model.variables))
    if found:
        _refuse(path, "another model", found)
    plan = plan_of(model.optimizer)
    received = None if plan is None else plan.get_config()
    stored = description["plan"]
    if stored is not None:
        # Defaults for what the plans of older files do not have.
        stored = SparsityPlan.from_config(stored).get_config()
    if _unnumbered(json.dumps(stored)) != _unnumbered(json.dumps(received)):
        _refuse(path, "another plan", _plans_differ(stored, received))
    found = _differences(
        description["optimizer"], _optimizer_signatures(model.optimizer)
    )
    if found:
        _refuse(path, "another optimizer", found)
    stored = description["masks"] and Masks.from_json(description["masks"])
    if stored != masks and _text(stored) != _text(masks):
        differ = f"Expected {_name(stored)}. Received: masks={_name(masks)}"
        _refuse(path, "other masks", differ)


def restore(model, arrays):
    """Assigns what `collect` collected. Works in place on `model`.

    Args:
        model: The compiled model; its optimizer is built.
        arrays: One array per variable of the model and of its optimizer.
    """
    for variable, array in zip(_variables(model), arrays, strict=True):
        variable.assign(array)


def finite(arrays):
    """Whether no array holds NaN or infinity."""
    return all(
        np.isfinite(array.astype("float32")).all()
        for array in arrays
        if not np.issubdtype(array.dtype, np.integer)
    )


def random_state():
    """The states of Python's, NumPy's and torch's global generators."""
    kind, keys, *rest = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": [kind, keys.tolist(), *rest],
    }
    if keras.backend.backend() == "torch":
        import torch

        state["torch"] = torch.get_rng_state().tolist()
    return state


def set_random_state(state):
    """Sets the generators to what `random_state` returned."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state(tuple(state["numpy"]))
    if "torch" in state and keras.backend.backend() == "torch":
        import torch

        torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))


def plan_of(optimizer):
    """The plan of the `ADMMWrapper` in an optimizer; `None` if none is."""
    wrapper = find_wrapper(optimizer)
    return None if wrapper is None else wrapper.plan


def _variables(model):
    return [*model.variables, *model.optimizer.variables]


def _signatures(variables):
    """What a variable is known by."""
    return [
        [_unnumbered(v.path), list(v.shape), str(v.dtype)] for v in variables
    ]


def _optimizer_signatures(optimizer):
    """Its kind, that of the one inside it, and their variables."""
    kinds, inner = [], optimizer
    while inner is not None:
        kinds.append([type(inner).__name__, [], "optimizer"])
        inner = getattr(inner, "inner_optimizer", None)
    # Their paths depend on where Keras builds them.
    rows = _signatures(optimizer.variables)
    return kinds + [[row[0].split("/")[-1], *row[1:]] for row in rows]


def _unnumbered(text):
    """Names less the numbers that Keras makes up."""
    return re.sub(r"_\d+(?=[_/\"]|$)", "", text)


def _text(masks):
    return masks and _unnumbered(masks.to_json())


def _differences(stored, received):
    """The first three variables that differ, in words; empty if none do."""
    found = [
        f"#{i}: expected {_in_words(a)}, received {_in_words(b)}"
        for i, (a, b) in enumerate(itertools.zip_longest(stored, received))
        if a != b
    ]
    if not found:
        return ""
    return f"{len(found)} variables differ. {'; '.join(found[:3])}"


def _in_words(signature):
    if signature is None:
        return "none"
    name, shape, dtype = signature
    return f"{name} {tuple(shape)} {dtype}"


def _plans_differ(stored, received):
    if stored is None or received is None:
        expected = "no plan" if stored is None else "a plan"
        return f"Expected an optimizer with {expected}. Received the other"
    return "Its kernels or groups, or their targets, differ"


def _name(masks):
    if masks is None:
        return "None"
    return f"masks of {len(masks.kernels)} kernels"


def _refuse(path, what, found):
    raise ValueError(
        f"Cannot resume: {path} is the checkpoint of a training with {what}. "
        f"{found}. Nothing was changed. Train what it was written for, give "
        "`AtomicCheckpoint` another path, or delete the file to train from "
        "the beginning."
    )
