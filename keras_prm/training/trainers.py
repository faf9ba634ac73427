"""Networks and optimizers inside of what `fit` trains.

The model of `fit` may be the network itself; a model that holds it, to any
depth, such as a GAN, a VAE or a Keras `Distiller`; or a functional model that
it is a layer of. It may train with several optimizers.
"""

from __future__ import annotations

import keras

from keras_prm.admm.attachment import find_wrapper
from keras_prm.utils import keras_graph
from keras_prm.utils import keras_hooks


def network_of(trainer, model, fits, what, prefers=None, owns=None):
    """The network inside of a trainer that a callback is about.

    Args:
        trainer: The model of `fit`.
        model: The network, where the user named it, else `None`.
        fits: A function of a built functional or Sequential model that says
            whether it may be the one.
        what: What is sought, for the message: "fits these masks", say.
        prefers: A function as `fits`, which decides between several.
        owns: A function as `fits`, which says whether it is the very one
            that something was made for, and goes before all others.

    Returns:
        `model`, or the trainer itself, or a `Distiller`'s student, or the
        only network inside that fits. Networks that train and that stand in
        no other one that fits are preferred. Where there is none to choose
        from, the trainer or student, of which others say what is wrong.

    Raises:
        TypeError: `model` is no model.
        ValueError: Several networks fit, or none of several, or the trainer
            has nothing of `model`.
    """
    if model is not None:
        check_network(trainer, model)
        return model
    student = student_of(trainer)
    if _is_visible(student) and fits(student):
        return student
    inside = networks(trainer)
    found = _outermost([m for m in inside if fits(m)])
    for better in (owns or fits, _trains_at_all, prefers or fits):
        found = [m for m in found if better(m)] or found
    if len(found) == 1:
        return found[0]
    if not found and (_is_visible(student) or not inside):
        return student
    raise ValueError(
        f"Cannot tell which network inside of '{trainer.name}' is meant: "
        f"{len(found) or 'none'} of them {what}. Name it with `model=`. "
        "Received: model=None, and "
        f"{_models_by_place(trainer, found or inside)}"
    )


def student_of(trainer):
    """What a Keras `Distiller` trains; any other model is its own."""
    student = getattr(trainer, "student", None)
    return student if isinstance(student, keras.Model) else trainer


def _trains_at_all(model):
    return bool(model.trainable_variables)


def check_network(trainer, model):
    """Raises if a network that was named is not inside of its trainer.

    Another model of the same layers is, and so is any that shares weights.

    Raises:
        TypeError: `model` is no model.
        ValueError: The trainer has neither the model nor a weight of it.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            "`model` is the network that the callback is about, inside of "
            "the model of `fit`. Expected a built functional or Sequential "
            f"model, or None. Received: model={model!r} (of type "
            f"{type(model).__name__})"
        )
    if any(model is inner for inner in models(trainer)):
        return
    if not _trained_ids(trainer) & _trained_ids(model):
        raise ValueError(
            f"The model that is trained, '{trainer.name}', shows nothing of "
            f"'{model.name}': neither is it a layer or an attribute, nor are "
            "weights of it, and a network that is built alike will not do. "
            "Name the network that is trained, and let the model of `fit` "
            f"hold it as an attribute. Received: model={model!r}"
        )


def _trained_ids(model):
    """Ids of what is trained in a model, or would be if it were not frozen."""
    return {
        id(variable)
        for layer in keras_hooks.sublayers(model)
        for variable in (
            layer.trainable_variables if layer.trainable else layer.variables
        )
    }


def _is_visible(model):
    return keras_graph.is_model(model) and bool(model.built)


def models(trainer):
    """The trainer and all models that it holds, at any depth."""
    return [
        layer
        for layer in keras_hooks.sublayers(trainer)
        if isinstance(layer, keras.Model)
    ]


def networks(trainer):
    """The built functional and Sequential models inside of a trainer."""
    return [m for m in models(trainer) if m is not trainer and _is_visible(m)]


def _outermost(found):
    """Models less those that others of them hold."""
    held = {
        id(inner)
        for model in found
        for inner in keras_hooks.sublayers(model)
        if inner is not model
    }
    return [model for model in found if id(model) not in held]


def _models_by_place(trainer, found):
    """Models by the names they have in the trainer."""
    rows = []
    for model in found:
        owners = [
            f"{owner.name}.{name}"
            for owner in models(trainer)
            for name, value in keras_graph.attributes(owner)
            if value is model and not name.startswith("__")
        ]
        place = f" ({owners[0]})" if owners else ""
        rows.append(f"'{model.name}'{place}")
    return f"the networks {', '.join(rows)}"


def optimizers(trainer):
    """The optimizers that a model has: its own, and what it holds besides.

    Args:
        trainer: A model, which may hold optimizers as attributes, in lists
            and in dicts.

    Returns:
        list of optimizers, that of `compile` first, the others by the names
        of their attributes, less those that stand inside of others.
    """
    held = [
        x
        for name, value in sorted(vars(trainer).items())
        if name != "optimizer"
        for x in _flat(value)
        if isinstance(x, keras.optimizers.Optimizer)
    ]
    held.insert(0, getattr(trainer, "optimizer", None))
    inside = {id(x) for optimizer in held for x in inner_optimizers(optimizer)}
    found = {id(x): x for x in held if x is not None and id(x) not in inside}
    return list(found.values())


def _flat(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [x for part in value for x in _flat(part)]
    return [value]


def all_optimizers(trainer):
    """Those of a trainer, then those of the models inside of it."""
    found = [x for model in models(trainer) for x in optimizers(model)]
    return list({id(x): x for x in found}.values())


def inner_optimizers(optimizer):
    """The optimizers inside of an optimizer, at any depth."""
    inside = [getattr(optimizer, "inner_optimizer", None)]
    inside += getattr(optimizer, "optimizers", ())
    for part in inside:
        if part is not None:
            yield part
            yield from inner_optimizers(part)


def wrapper_of(trainer, model, fits):
    """The `ADMMWrapper` that trains a network inside of a trainer.

    Args:
        trainer: The model of `fit`.
        model: The network, where the user named it, else `None`.
        fits: A function of a model and a plan that says whether the plan may
            be the model's, asked of wrappers that are not built.

    Returns:
        The wrapper, `None` if there is none. One of the trainer's own goes
        before those of models inside, which may be of earlier trainings.

    Raises:
        TypeError: `model` is no model.
        ValueError: Several would do, or the trainer has nothing of `model`.
    """
    found = wrappers(trainer)
    if model is not None:
        check_network(trainer, model)
        found = [w for w in found if trains(w, model, fits)]
        found = [w for w in found if w.built] or found[:1]
    if len(found) > 1:
        raise ValueError(
            f"'{trainer.name}' trains with {len(found)} ADMMWrappers: name "
            "the network that is meant with `model=`. Received: "
            f"model={model and model.name!r}, and wrappers of the kernels "
            f"{[[k.key for k in w.plan.kernels][:3] for w in found]}"
        )
    return found[0] if found else None


def wrappers(trainer):
    """The `ADMMWrapper`s of a trainer; else those of the models inside."""
    return wrappers_in(optimizers(trainer)) or wrappers_in(
        all_optimizers(trainer)
    )


def wrappers_in(optimizers):
    """All `ADMMWrapper`s that are among optimizers or inside of them."""
    held = [part for x in optimizers for part in (x, *inner_optimizers(x))]
    found = [x for x in held if find_wrapper(x) is x]
    return list({id(x): x for x in found}.values())


def trains(wrapper, model, fits):
    """Whether a wrapper trains a network, or may do so when it is built."""
    if not wrapper.built:
        return fits(model, wrapper.plan)
    own = {id(variable) for variable in model.variables}
    return any(id(v) in own for v in wrapper.planned_variables())
