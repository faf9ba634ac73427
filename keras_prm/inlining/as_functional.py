"""`as_functional`: a flat model in place of one whose inside is hidden."""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING

import keras
from keras import tree

from keras_prm.analysis.liveness import KeepEverything
from keras_prm.analysis.trace import trace
from keras_prm.equivalence import model_state
from keras_prm.equivalence import number_checks
from keras_prm.inlining import inliner
from keras_prm.inlining.symbolic_inputs import arrays_among
from keras_prm.inlining.symbolic_inputs import symbolic_inputs
from keras_prm.rebuild import model_classes
from keras_prm.rebuild import slim_model
from keras_prm.utils import datasets
from keras_prm.utils import keras_graph
from keras_prm.utils import training_argument

if TYPE_CHECKING:
    from typing import Any


def as_functional(model: keras.Model, inputs: Any = None) -> keras.Model:
    """Rewrites a model as a functional one of plain layers.

    `SparsityPlan`, `strip` and all others here reach what Keras shows of a
    model, which is the calls of a functional one. A subclassed model hides
    them in its `call`, and so does a layer of yours, or of another library,
    that is made of layers: a residual block, an encoder. Here such a `call` is
    run on symbolic tensors, and what it calls becomes part of one flat model.
    Layers are named by where they were: `conv` of the block `stage1` becomes
    `stage1_conv`. The result is compared with the model on random inputs.

    What stays closed is named in a warning: a block that multiplies by
    weights of its own rather than a layer's, that does not take symbolic
    tensors (it calls `tf`, or asks for values), that computes otherwise in
    training than at inference but by its layers, or tells these another
    `training` than its own, that adds a loss, or that reads a mask of
    timesteps. `register_rule` is for these.

    Args:
        model: A `keras.Model` of any kind that has its weights. It is not
            changed.
        inputs: What the model takes, its `call`'s first argument: a batch of
            arrays to try the result on, or, for a subclassed model whose
            sizes are not to be fixed, a `keras.Input`, or a list or dict of
            either. Defaults to random numbers, for a subclassed model in
            float32 and of the shape that it was built with.

    Returns:
        A new functional model with copies of the weights that its outputs
        depend on, not compiled. It trains as the model does, but for a
        `train_step`, `compute_loss` or the like of the model's own.

    Raises:
        TypeError: `model` is no `keras.Model`, or a subclassed one whose
            `call` cannot be opened; the message says why. Or a layer
            cannot be copied.
        ValueError: It has no weights yet, or `inputs` are missing or do not
            fit.
        RuntimeError: The result does not compute the same: the `call` depends
            on something that is no tensor and changes.

    Warns:
        UserWarning: Something stays closed; or the model does not take random
            numbers, so that nothing was compared; or it is a subclassed one
            that has trained BatchNormalization or Dropout as at inference,
            since its `call` takes no `training`.

    Example:

    ```python
    model = keras_prm.as_functional(my_subclassed_model)
    plan = keras_prm.SparsityPlan.uniform(model, filters=0.5)
    ```
    """
    keras_graph.check_is_new(model)
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Expected a keras.Model. "
            f"Received: model={model!r} (of type {type(model).__name__})"
        )
    if not model.built:
        raise ValueError(
            f"The model '{model.name}' has no weights yet. Call it on a batch "
            "first."
        )
    arrays = arrays_among(inputs)
    is_seen = keras_graph.is_model(model)
    if is_seen and arrays is None and inputs is not None:
        raise ValueError(
            f"The model '{model.name}' has inputs of its own. Give arrays "
            f"to try it on, or nothing. Received: inputs={inputs!r}"
        )
    if is_seen:
        inputs = keras_graph.functional(model).input
    else:
        inputs = symbolic_inputs(model, inputs)
    inlined = _inlined(model, inputs)
    found = inlined.model
    _compare(model, found, arrays, inlined.targets)
    if inlined.closed:
        warnings.warn(
            f"as_functional leaves {len(inlined.closed)} layers of "
            f"'{model.name}' closed, whose inside no plan reaches: "
            f"{_by_reason(inlined.closed)}",
            stacklevel=2,
        )
    model_classes.warn_of_lost(
        "as_functional", model, inlined.reason, stacklevel=2
    )
    is_told = is_seen or "training" in training_argument.parameters(model)
    if not is_told and inlined.depends_on_training:
        warnings.warn(
            f"The `call` of '{model.name}' takes no `training`: `fit` ran its "
            "layers as at inference, BatchNormalization and Dropout too. The "
            "functional form trains these as they are meant.",
            stacklevel=2,
        )
    return found


@dataclasses.dataclass(frozen=True)
class _Inlined:
    """A model and what became of the one that it stands for.

    Args:
        model: The functional model, of copies of all layers.
        targets: dict from `id(variable)` to what became of it.
        reason: Why it is not of the class of the other one, or `""`.
        closed: dict from the paths of the layers that were not looked into,
            though they hold others, to why.
        depends_on_training: Whether some layer computes otherwise then.
    """

    model: keras.Model
    targets: dict
    reason: str
    closed: dict
    depends_on_training: bool


def _inlined(model, inputs):
    """The `_Inlined` of a model.

    A layer that shares others with one that has to stay closed may have to
    stay closed, too; this shows when it is copied.
    """
    to_close = set()
    while True:
        one = inliner.Inliner(to_close)
        outputs = _inline(one, model, inputs)
        try:
            with one.renamed(inputs, outputs) as operations:
                shared = keras.Model(inputs, outputs, name=model.name)
                found, targets, reason = _copied(shared, model)
            _check_variables(model, shared, found)
        except TypeError:
            more = one.half_opened() - {id(model)}
            if more <= to_close:
                raise
            to_close |= more
        else:
            depends = map(training_argument.depends_on_training, operations)
            return _Inlined(found, targets, reason, one.closed, any(depends))


def _inline(one, model, inputs):
    if keras_graph.is_model(model):
        view = keras_graph.functional(model)
        tensors = {id(x): x for x in view.inputs}
        one.model(view, tensors)
        return tree.map_structure(lambda x: tensors[id(x)], view.output)
    try:
        return one.layer(model, (inputs,), {}, "")
    except ValueError as reason:
        raise TypeError(
            f"Cannot rewrite the subclassed model '{model.name}' of type "
            f"{type(model).__name__} as a functional one: {reason}. Change "
            "its `call`, or write `keras.Model(inputs, outputs)`."
        ) from reason


def _by_reason(closed):
    """Why layers are closed, those for one reason together."""
    paths = {}
    for path, reason in closed.items():
        paths.setdefault(reason, []).append(f"'{path}'")
    return "; ".join(f"{', '.join(p)}: {why}" for why, p in paths.items())


def _copied(view, model):
    """A model of copies of all layers.

    Returns:
        The new model; what became of each variable; why it is not of the
        class of the model that it stands for, or `""`.
    """
    rebuilder = slim_model.ModelRebuilder(
        KeepEverything(trace(view), may_edit=False)
    )
    with model_state.random_numbers_kept():
        found = rebuilder.model(view, is_root=True, origin=model)
    reason = next((why for m, why in rebuilder.lost if m is model), "")
    return found, rebuilder.slimmer.targets, reason


def _check_variables(model, shared, found):
    """As many weights as are used, and none of them the model's own."""
    # What no layer holds is of the class, which `shared` has not got.
    extra = {id(v) for v in model_classes.own_weights(found)}
    counts = [
        tuple(
            len([v for v in variables if id(v) not in extra])
            for variables in (m.weights, m.trainable_weights)
        )
        for m in (shared, found)
    ]
    own = set(map(id, model.variables)) & set(map(id, found.variables))
    if counts[0] != counts[1] or own:
        raise TypeError(
            f"Cannot rewrite '{model.name}' as a functional model: a layer in "
            "it holds others that are called elsewhere, and would not share "
            "their weights. Expected (weights, trainable ones): "
            f"{counts[0]}. Received: {counts[1]}"
        )


def _compare(model, found, inputs, targets):
    """Compares on numbers, with the weights as they are and near them."""
    states: list[Any] = [((), ())]
    pairs = number_checks.perturbed(model.weights)
    used = [(w, value) for w, value in pairs if id(w) in targets]
    states.append((pairs, [(targets[id(w)], value) for w, value in used]))
    try:
        if inputs is None:
            specs = [(x.shape, x.dtype) for x in found.inputs]
            arrays = datasets.uniform(specs, 2)
            structure = keras_graph.functional(found).input
            inputs = tree.pack_sequence_as(structure, arrays)
        expected = [
            number_checks.stateless(_model_at_inference, (model, inputs), state)
            for state, _ in states
        ]
        number_checks.check_outputs(expected[0])
    except Exception as error:
        warnings.warn(
            f"as_functional could not try '{model.name}', and has not "
            "compared what it computes. Give it `inputs`, a batch of real "
            f"ones. {number_checks.one_line(error)}",
            stacklevel=3,
        )
        return
    for outputs, (_, state) in zip(expected, states):
        results = number_checks.stateless(
            _model_at_inference, (found, inputs), state
        )
        if not number_checks.are_close(outputs, results):
            raise RuntimeError(
                f"The functional form of '{model.name}' does not compute the "
                "same: its `call` depends on something that is no tensor and "
                "changes."
            )


def _model_at_inference(model, inputs):
    return model(inputs, training=False)
