"""State of a training: what it is, and putting it back."""

from __future__ import annotations

import itertools
import random
import re
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_prm.plans.plan import SparsityPlan
from keras_prm.pruning.masks import Masks
from keras_prm.training import trainers
from keras_prm.training.training_settings import brief
from keras_prm.training.training_settings import optimizer_settings
from keras_prm.training.training_settings import other_flags
from keras_prm.training.training_settings import settings
from keras_prm.utils import keras_hooks
from keras_prm.utils import signatures
from keras_prm.utils import validation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def collect(model, masks):
    """The state of a training between two steps.

    Args:
        model: A compiled model, whatever it trains: its optimizers are
            built, but for those that nothing has used.
        masks: The `Masks` it is trained under, or `None`.

    Returns:
        `(description, arrays)`: a dict that `json` can write, and one array
        per variable, the model's first, its seed generators among them, and
        then the optimizers'.
    """
    plans = [plan.get_config() for plan in _plans(model)]
    description = {
        "model": _signatures(model.variables),
        "optimizer": _optimizers_signatures(model),
        "plan": plans[0] if plans else None,
        "plans": plans,
        "masks": None if masks is None else masks.to_json(),
        "built_on": _built_on(model),
        "settings": settings(model),
        "optimizers": optimizer_settings(model),
    }
    return description, [
        np.asarray(keras.ops.convert_to_numpy(v)) for v in _all_variables(model)
    ]


def check_fits(model, masks, description, path):
    """Refuses the state of another training.

    Raises:
        ValueError: Model, plan, optimizer or masks are not those that
            `description` is of; what differs is named, and how to go on.
    """
    found = _differences(description["model"], _signatures(model.variables))
    if found:
        _refuse(path, "with another model", found)
    found = other_flags(model, description)
    if found:
        _refuse(path, "with other layers frozen", found)
    found = _other_kinds(model, description)
    if found:
        _refuse(path, "with another kind of `rho`", found)
    _build(model, description.get("built_on"))
    plans, stored = _plans(model), _stored_plans(description)
    if bool(stored) != bool(plans):
        what = "with an `ADMMWrapper`" if stored else "without a plan"
        _refuse(path, what, _with_and_without(stored, model))
    found = _other_plans(stored, plans)
    if found:
        _refuse(path, "with another plan", found)
    received = _optimizers_signatures(model)
    if "built_on" not in description:  # of a version that kept one alone
        received = _optimizer_signatures(model.optimizer)
    found = _differences(description["optimizer"], received, separator="_")
    if found:
        _refuse(path, "with another optimizer", found)
    stored = description["masks"] and Masks.from_json(description["masks"])
    if stored != masks and _masks_text(stored) != _masks_text(masks):
        expected, received = _masks_name(stored), _masks_name(masks)
        differ = f"Expected {expected}. Received: masks={received}"
        _refuse(path, "with other masks", differ)


def restore(model, arrays):
    """Assigns what `collect` collected. Works in place on `model`.

    Args:
        model: The compiled model; `check_fits` has built its optimizers.
        arrays: One array per variable of the model and of its optimizers.
    """
    variables = _all_variables(model)
    if len(arrays) < len(variables):  # of a version that kept one optimizer
        variables = [*model.variables, *model.optimizer.variables]
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def finite(arrays):
    """Whether no array holds NaN or infinity."""
    return all(
        np.isfinite(array.astype("float32")).all()
        for array in arrays
        if not np.issubdtype(array.dtype, np.integer)
    )


def _numpy_state() -> Any:
    return np.random.get_state()


def random_state():
    """The states of Python's, NumPy's and torch's global generators."""
    kind, keys, *rest = _numpy_state()
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


def _plans(model):
    """The plans of all `ADMMWrapper`s whose variables are in a file."""
    found = trainers.wrappers_in(trainers.all_optimizers(model))
    return [wrapper.plan for wrapper in found]


def _stored_plans(description):
    """The plans in a file; the first alone of an earlier version."""
    configs = description.get("plans")
    if configs is None:
        configs = [description["plan"]] if description["plan"] else []
    return [SparsityPlan.from_config(config) for config in configs]


def _other_plans(stored, received):
    """Which plans are others than those in a file, in words.

    How many there are is seen by the optimizers that they belong to.
    """
    bad = [
        [kernel.key for kernel in plan.kernels][:3]
        for former, plan in zip(stored, received)
        if former.digest() != plan.digest()
    ]
    if not bad:
        return ""
    return (
        "Its kernels or groups, or their targets, differ. "
        f"Received: other plans for the kernels {bad}"
    )


def _other_kinds(model, description):
    """Where `rho` is a number and was none, or was one, in words."""
    pairs = zip(description.get("settings", ()), settings(model))
    for stored, received in pairs:
        one, other = stored.get("rho"), received["rho"]
        if "rho" in stored and validation.is_real(one) != validation.is_real(
            other
        ):
            return (
                f"Expected rho={brief(one)}. Received: rho={brief(other)}. "
                "A number and what sets `rho` by itself cannot follow one "
                "another within a training"
            )
    return ""


def _built_on(model):
    """On which variables each optimizer is built, by their positions."""
    places = {id(v): i for i, v in enumerate(model.variables)}
    return [
        [places[id(v)] for v in keras_hooks.trained_by(x) if id(v) in places]
        if x.built
        else None
        for x in trainers.all_optimizers(model)
    ]


def _build(model: keras.Model, built_on: Sequence[Sequence[int] | None] | None):
    """Builds what a step would build first. Does nothing to what is built.

    Args:
        model: The compiled model.
        built_on: What `_built_on` returned; `None` of older files.
    """
    variables = model.variables
    optimizers = trainers.all_optimizers(model)
    if built_on is None:
        built_on = [None for _ in optimizers]
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
    for optimizer, places in zip(optimizers, built_on):
        if places is not None and not optimizer.built:
            optimizer.build([variables[i] for i in places])


def _all_variables(model):
    return [
        *model.variables,
        *(v for x in trainers.all_optimizers(model) for v in x.variables),
    ]


def _signatures(variables):
    """What a variable is known by."""
    return [
        [_unnumbered(v.path), list(v.shape), str(v.dtype)] for v in variables
    ]


def _optimizers_signatures(model):
    found = trainers.all_optimizers(model)
    return [row for x in found for row in _optimizer_signatures(x)]


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


def _masks_text(masks):
    if masks is None:
        return None
    return _unnumbered(Masks(masks.kernels, masks.vectors).to_json())


def _differences(stored, received, separator="/"):
    """The first three variables that differ, in words; empty if none do.

    Other names of layers do not count, unless they tell that layers have
    changed places.
    """
    rows = list(itertools.zip_longest(stored, received))
    differing = [
        i
        for i, (a, b) in enumerate(rows)
        if _without_layer(a, separator) != _without_layer(b, separator)
    ]
    if not differing:
        differing = _first_moved_place(rows)
    found = [
        f"#{i}: expected {_in_words(rows[i][0])}, "
        f"received {_in_words(rows[i][1])}"
        for i in differing
    ]
    if not found:
        return ""
    return f"{len(found)} variables differ. {'; '.join(found[:3])}"


def _without_layer(signature, separator):
    if signature is None:
        return None
    name, shape, dtype = signature
    return name.split(separator)[-1], list(shape), dtype


def _first_moved_place(rows):
    """The first variable of a layer that changed places; or an empty list."""
    owners = [[row[0].split("/")[-2:-1] for row in pair] for pair in rows]
    expected, received = (
        ["/".join(pair[side]) for pair in owners] for side in (0, 1)
    )
    place = signatures.moved(expected, received, expected)
    return [] if place is None else [place]


def _in_words(signature):
    if signature is None:
        return "none"
    name, shape, dtype = signature
    return f"{name} {tuple(shape)} {dtype}"


def _with_and_without(stored, model):
    """That one of two phases has an `ADMMWrapper`, in words."""
    expected = "one and its plan" if stored else "no `ADMMWrapper`"
    kinds = [type(x).__name__ for x in trainers.all_optimizers(model)]
    return (
        f"Expected {expected}, as another phase of the script has it: each "
        f"phase needs a path of its own. Received: optimizer={kinds}"
    )


def _masks_name(masks):
    if masks is None:
        return "None"
    return f"masks of {len(masks.kernels)} kernels"


def _refuse(path, what, found):
    raise ValueError(
        f"Cannot resume: {path} is the checkpoint of a training {what}. "
        f"{found}. Nothing was changed. Train what it was written for, give "
        "`AtomicCheckpoint` another path, or delete the file to train from "
        "the beginning."
    )
