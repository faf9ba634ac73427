"""Constraints that keep masked weights at zero inside of the step."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_prm.admm.attachment import planned_variables
from keras_prm.pruning.hard_prune import removes_more
from keras_prm.pruning.masks import apply_masks
from keras_prm.pruning.masks import fitting
from keras_prm.pruning.masks import masks_fit
from keras_prm.training import trainers
from keras_prm.utils import keras_graph
from keras_prm.utils import variable_keys

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Iterator

    from keras_prm.pruning.masks import Masks

# What becomes of masked weights that are not zero when a training begins.
ZEROED = "are set to zero again, and what they learned is lost"


class MaskConstraint(keras.constraints.Constraint):
    """Sets what is masked to zero, after another constraint.

    Args:
        factors: Bool arrays that broadcast against the variable.
        inner: The constraint to apply first, or `None`.

    Attributes:
        training: The `keras.callbacks.History` of the `fit` it was put on
            for, by which a later one knows what was left behind.
    """

    def __init__(self, factors, inner=None):
        self.factors = [np.asarray(f, bool) for f in factors]
        self.inner = inner
        self.training = None

    def __call__(self, w):
        if self.inner is not None:
            w = self.inner(w)
        w = keras.ops.convert_to_tensor(w)  # JAX cannot take a variable here
        for factor in self.factors:
            # A product would keep NaN and infinity alive.
            w = keras.ops.where(factor, w, keras.ops.zeros_like(w))
        return w


def hold(model, masks):
    """Applies masks and puts a constraint on every masked variable.

    Compiled steps do not know of them before `retrace`.

    Returns:
        list of `MaskConstraint`, to be given to `release_masks`.
    """
    pairs = fitting(model, masks)
    apply_masks(model, masks)
    held = []
    for variable, factors in pairs:
        variable.constraint = MaskConstraint(factors, variable.constraint)
        held.append(variable.constraint)
    masks.note_held_in(model)
    return held


def advice_on_changes(model, masks, fate):
    """What to do about masked weights that others have trained since.

    Args:
        model: A built functional or Sequential model.
        masks: `Masks`, which may have been held in it before.
        fate: What becomes of these weights now.

    Returns:
        Sentences; `""` where the masks were not held in the model before, or
        all that is masked is still zero.
    """
    if not (masks_fit(model, masks) and masks.were_held_in(model)):
        return ""
    number = num_leaks(model, masks)
    if not number:
        return ""
    return (
        f"{number} weights that were zero when the training before ended are "
        f"not now, and {fate}: something else has changed them since, such as "
        "the training of another model that shares the layers, or weights "
        "that were loaded. Mask them there, too, `StructuredMask(masks, "
        "model=model)`, or leave it at that if it was meant."
    )


def release_masks(
    model: keras.Model,
    held: Iterable[MaskConstraint] | None = None,
) -> None:
    """Takes mask constraints off a model, so that all weights train again.

    Not needed after `StructuredMask` or `enforced`, which clean up behind
    them, except where `fit` was interrupted: Keras does not tell callbacks
    then.

    Args:
        model: A built functional or Sequential model, or one that trains it,
            such as a Keras `Distiller`.
        held: The `MaskConstraint`s to take off; `None` takes off all.
    """
    keras_graph.check_is_new(model)
    _take_off(model.variables, held)
    retrace(model)


def left_over(model, training):
    """Constraints that an interrupted `fit` has left on variables.

    Args:
        model: The model of `fit`.
        training: The `History` of the `fit` that runs now.

    Returns:
        list of `MaskConstraint`, those of frozen layers among them.
    """
    found = []
    for variable in model.variables:
        link = getattr(variable, "constraint", None)
        while isinstance(link, MaskConstraint):
            if link.training not in (None, training):
                found.append(link)
            link = link.inner
    return found


def _take_off(variables, held):
    mine = None if held is None else {id(constraint) for constraint in held}
    for variable in variables:
        constraint = getattr(variable, "constraint", None)
        if isinstance(constraint, MaskConstraint):
            variable.constraint = _without(constraint, mine)


def _without(constraint, mine):
    """A chain of constraints less some, wherever in it they are by now."""
    if not isinstance(constraint, MaskConstraint):
        return constraint
    constraint.inner = _without(constraint.inner, mine)
    if mine is None or id(constraint) in mine:
        return constraint.inner
    return constraint


def weights_by_layer(model):
    """What `check_weights` compares: the weights of each layer, by path."""
    return {
        path: list(layer.weights)
        for path, layer in variable_keys.layer_paths(model)
    }


def check_weights(model, masks, held, before):
    """Masked layers must still have the weights that are held.

    A layer that is built anew, quantized or given LoRA weights in
    mid-training computes with variables that no constraint holds.

    Args:
        model: A built functional or Sequential model.
        masks: Its `Masks`.
        held: What `hold` returned; taken off before the error is raised.
        before: What `weights_by_layer` returned when they were put on.

    Raises:
        ValueError: A masked layer has other weights now; no weight is
            changed then.
    """
    now = weights_by_layer(model)
    changed = tuple(
        f"{path}/"
        for path, weights in before.items()
        if {id(v) for v in weights} != {id(v) for v in now.get(path, ())}
    )
    bad = [key for key in masks.factors() if key.startswith(changed)]
    if not bad:
        return
    # Variables that the model has lost are held, too.
    _take_off((v for weights in before.values() for v in weights), held)
    release_masks(model, held)
    raise ValueError(
        "Masked layers have other variables than when their masks were put "
        "on: a layer was built anew, quantized or given LoRA weights in "
        "mid-training, and no mask holds there. No weight was changed, and "
        "the masks were taken off. Change layers between trainings only, "
        "then compile the model anew and train with masks that are made for "
        "it as it is, `keras_prm.masks_of(model)`. "
        f"Received: other variables under the masks of {bad}"
    )


def advice_on_admm(trainer, network, masks):
    """What an `ADMMWrapper` does where masks hold all that it removes.

    Args:
        trainer: The model that is trained.
        network: The masked model: the trainer, or one inside of it.
        masks: Its `Masks`, under the keys of its weights.

    Returns:
        What is wrong with it, and the way out; `""` if nothing is.
    """
    variables = variable_keys.variables_by_key(network)
    own = {id(variable) for variable in variables.values()}
    kept = {
        id(variables[key]): mask.full() for key, mask in masks.kernels.items()
    }
    found = []
    for wrapper in trainers.wrappers_in(trainers.optimizers(trainer)):
        # The plan may be of a larger model, with kernels that have no mask.
        planned = planned_variables(wrapper, (network, trainer))
        if any(id(v) in own for v in planned):
            keep = [kept.get(id(v), np.ones(v.shape, bool)) for v in planned]
            found.append(removes_more(wrapper.plan, keep))
    if all(found):
        return ""
    return (
        "The masks hold all that the plan of the ADMMWrapper removes, and its "
        "penalty still pulls at the weights that are left, to what they were. "
        "Compile the model with a bare optimizer to train under masks: "
        "`model.compile(keras.optimizers.Adam(1e-3), ...)`."
    )


@contextlib.contextmanager
def enforced(
    model: keras.Model,
    masks: Masks,
    compiled: keras.Model | None = None,
) -> Iterator[None]:
    """Keeps masked weights at zero inside a `with` block.

    For `train_on_batch` and loops of your own; with `fit`, use the callback
    `StructuredMask`. While the block runs, every masked variable has a
    constraint, which Keras' optimizers apply inside the compiled step after
    every update. A constraint that was there is applied first, and restored
    at the end.

    A function of your own that is already compiled (`tf.function`,
    `jax.jit`) has to be compiled anew inside the block, and again after it.

    Args:
        model: A built functional or Sequential model.
        masks: Its `Masks`.
        compiled: The model that trains it, where that is another one: a
            Keras `Distiller`, or a model that it is a part of.

    Warns:
        UserWarning: An `ADMMWrapper` still trains for what the masks have
            removed; or something else has changed masked weights since they
            were held before; or at the end of the block masked weights are
            not zero. They are set to zero, and what was trained with them is
            lost: a step that was compiled outside of it does not know the
            masks.

    Raises:
        TypeError: `masks` are no `Masks`, or the model is subclassed.
        ValueError: The masks do not fit the model, or `compiled` has
            nothing of it; or, at the end, a masked layer got other variables
            inside the block.

    Example:

    ```python
    with keras_prm.enforced(model, masks):
        for x, y in batches:
            model.train_on_batch(x, y)
    ```
    """
    trainer = model if compiled is None else compiled
    if trainer is not model:
        trainers.check_network(trainer, model)
    if changes := advice_on_changes(model, masks, ZEROED):
        warnings.warn(changes, stacklevel=3)
    held = hold(model, masks)
    try:
        masks = masks.named_as(model)
        retrace(trainer)
        before = weights_by_layer(model)
        if advice := advice_on_admm(trainer, model, masks):
            warnings.warn(advice, stacklevel=3)
        yield
    finally:
        release_masks(model, held)
        retrace(trainer)
    check_weights(model, masks, held, before)
    # Averages of weights (EMA) are taken before constraints are applied.
    if not averages(trainer) and num_leaks(model, masks):
        warnings.warn(
            f"{num_leaks(model, masks)} masked weights were not zero at the "
            "end of the block, and are now. A step that was compiled outside "
            "of it does not know the masks: compile functions of your own "
            "inside, and where another model trains this one, name it, "
            "`enforced(model, masks, compiled=other)`.",
            stacklevel=3,
        )
    apply_masks(model, masks)


def averages(trainer):
    """Whether an optimizer puts averages into the weights."""
    return any(
        getattr(part, "use_ema", False)
        for optimizer in trainers.all_optimizers(trainer)
        for part in (optimizer, *trainers.inner_optimizers(optimizer))
    )


def num_leaks(model, masks):
    """How many weights are not zero under their masks."""
    found = 0
    for variable, factors in fitting(model, masks):
        keep = np.ones(variable.shape, bool)
        for factor in factors:
            keep &= factor
        array = keras.ops.convert_to_numpy(variable)
        found += int(np.count_nonzero(array[~keep]))
    return found


def retrace(model):
    """Makes a model, and those inside, trace their training steps anew."""
    for each in trainers.models(model):
        if each.compiled and each.train_function is not None:
            each.make_train_function(force=True)
