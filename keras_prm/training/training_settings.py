"""Settings of a training, which a script may change between its runs."""

from __future__ import annotations

import json

import keras

from keras_prm.training import trainers
from keras_prm.utils import validation


def settings(model):
    """What a script says of ADMM and its file does not hold.

    Returns:
        list with a dict per `ADMMWrapper`, of what `json` can write.
    """
    return [
        {
            "update_every": wrapper.update_every,
            "rho_change": wrapper.rho_change,
            "ramp": _config_for_json(wrapper.ramp),
            "rho": _config_for_json(wrapper.rho),
        }
        for wrapper in trainers.wrappers(model)
    ]


def rhos(model):
    """The numbers `rho` that are set, of each `ADMMWrapper` that has one."""
    found = [wrapper.rho for wrapper in trainers.wrappers(model)]
    return [float(rho) for rho in found if validation.is_real(rho)]


def flags(model):
    """What is trained at this moment and what not.

    Returns:
        set with a pair of each variable's `id` and of whether it is trained.
    """
    trained = {id(v) for v in model.trainable_variables}
    return {(id(v), id(v) in trained) for v in model.variables}


def flags_to_list(model, seen):
    """Flags that were seen in a training, as `json` can write them."""
    return [
        [flag for flag in (False, True) if (id(v), flag) in seen]
        for v in model.variables
    ]


def flags_from_list(model, description):
    """The flags that were seen until a file was written, as `flags` has them.

    A GAN freezes and thaws its discriminator at every step: a training may
    begin with what it had at the begin of an earlier one, or at the end.
    """
    rows = zip(model.variables, description.get("flags", ()))
    return {(id(v), flag) for v, seen in rows for flag in seen}


def other_flags(model, description):
    """What is frozen otherwise than when a file was written, in words."""
    if "flags" not in description:  # of an earlier version
        return ""
    known = flags_from_list(model, description)
    variables = model.variables
    places = {id(v): i for i, v in enumerate(variables)}
    other = flags(model) - known
    changes = {
        what: {places[number] for number, now in other if now == is_trained}
        for what, is_trained in (
            ("trained then and frozen now", False),
            ("frozen then and trained now", True),
        )
    }
    found = [
        f"{what}: {[variables[i].path for i in sorted(places)]}"
        for what, places in changes.items()
        if places
    ]
    if not found:
        return ""
    return f"Set `trainable` on layers as it was. Received: {'; '.join(found)}"


def learning_rates(model):
    """The learning rates that are set as numbers, of each optimizer."""
    return [
        float(keras.ops.convert_to_numpy(x.learning_rate))
        if validation.is_real(row["learning_rate"])
        else None
        for x, row in zip(
            trainers.all_optimizers(model), optimizer_settings(model)
        )
    ]


def optimizer_settings(model):
    """What each optimizer is made with, less names and plans."""
    return [_settings_of(x) for x in trainers.all_optimizers(model)]


def _settings_of(optimizer):
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        return _settings_of(inner)
    config = _config_for_json(optimizer)
    config = config.get("config") if isinstance(config, dict) else None
    left_out = ("name", "optimizers")  # whose rates may have been set anew
    rows = {k: v for k, v in (config or {}).items() if k not in left_out}
    return {"learning_rate": None, **rows}


def changed_settings(model, description):
    """What differs from the `settings` of a file, in words."""
    found = []
    pairs = zip(description.get("optimizers", ()), optimizer_settings(model))
    for stored, received in pairs:
        for name in filter(received.__contains__, stored):
            one, other = stored[name], received[name]
            # A number is among the variables, and may have been set anew.
            if (
                name == "learning_rate"
                and validation.is_real(one)
                and validation.is_real(other)
            ):
                continue
            if _sorted_json(one) != _sorted_json(other):
                one, other = brief(one), brief(other)
                found.append(f"{name}={other} (in the file {one})")
    pairs = zip(description.get("settings", ()), settings(model))
    for stored, received in pairs:
        for name, value in stored.items():
            # A number is among the variables, and may have been set anew.
            if name == "rho" and validation.is_real(value):
                continue
            if _sorted_json(value) != _sorted_json(received[name]):
                one, other = brief(value), brief(received[name])
                found.append(f"{name}={other} (in the file {one})")
    return found


def _config_for_json(value):
    """What `json` can write of a number, a rule or a schedule."""
    try:
        config = keras.saving.serialize_keras_object(value)
    except NotImplementedError:  # a schedule that nobody can save
        return type(value).__name__
    return json.loads(json.dumps(config, default=_float_or_type))


def _float_or_type(value):
    try:
        return float(value)
    except (TypeError, ValueError):
        return type(value).__name__


def _sorted_json(value):
    return json.dumps(value, sort_keys=True)


def brief(value):
    """A setting as text: a class with what it is made of, or a value."""
    if isinstance(value, dict) and "class_name" in value:
        config = value.get("config") or {}
        inside = ", ".join(f"{k}={v}" for k, v in config.items() if k != "name")
        return f"{value['class_name']}({inside})"
    return repr(value)
