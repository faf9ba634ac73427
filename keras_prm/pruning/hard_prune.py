"""`hard_prune`: what a plan removes is set to zero."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_prm.admm.attachment import build_if_given_weights
from keras_prm.admm.attachment import find_wrapper
from keras_prm.admm.optimizer_checks import check_attached
from keras_prm.analysis.trace import trace
from keras_prm.plans import projections
from keras_prm.plans.plan_fit import check_is_plan
from keras_prm.plans.plan_fit import fitted_plan
from keras_prm.plans.plan_forms import advice
from keras_prm.plans.records import KernelMask
from keras_prm.pruning import gradients
from keras_prm.pruning import recalibrate
from keras_prm.pruning import selection
from keras_prm.pruning.masks import Masks
from keras_prm.pruning.masks import apply_masks
from keras_prm.pruning.masks import dead_vectors
from keras_prm.pruning.masks import fitting
from keras_prm.pruning.masks import pruned
from keras_prm.utils import backend
from keras_prm.utils import console
from keras_prm.utils import signatures
from keras_prm.utils import variable_keys

if TYPE_CHECKING:
    from typing import Any

    from keras_prm.admm.optimizer import ADMMWrapper
    from keras_prm.plans.plan import SparsityPlan
    from keras_prm.pruning import scores

# Above it what the weights and ADMM's copies of them differ in is too much.
MOST_RESIDUAL = 0.1
_STATISTICS_STAY = (
    "hard_prune: BatchNormalization's statistics are still those of the "
    "network before. Training on renews them; else pass `data=`, training "
    "batches, or call `keras_prm.recalibrate(model, data)`."
)


def hard_prune(
    model: keras.Model,
    plan: SparsityPlan,
    score: scores.Score | None = None,
    data: Any = None,
    optimizer: ADMMWrapper | bool | None = None,
    keep_zeros: bool = True,
) -> Masks:
    """Sets what the plan removes to zero. Works in place.

    The structures that go are those the `ADMMWrapper` holds, where the model
    was compiled with one for the same plan and trained for an update at
    least, and to the end of its ramp; else those whose removal is nearest to
    the weights. A filter that goes takes its bias and its
    BatchNormalization gamma and beta along, so that its channel is zero and
    not merely constant, and the columns that read it go too.

    Filters and columns that are zero already, as an earlier pruning left
    them, stay zero: the masks hold them too. A kernel that is zero
    throughout was initialized so, is named in a warning unless it is frozen,
    and trains on; zeros that make up no filter or column train on as well,
    since masks are of structures.

    With a `score` those of the lowest scores go, as many as ever. Filters
    that can only fall together add up theirs, each kernel's divided by
    their mean; columns are scored in the filters that stay. What is zero
    already goes first. The patterns `"channels"` and `"window"` add up the
    scores of columns; of negative ones the least becomes 0 before.

    Args:
        model: A built functional or Sequential model.
        plan: The `SparsityPlan`, made for this model or for another build
            of the same network.
        score: A function of `keras_prm.scores`, or one of your own; `None`
            leaves the choice to ADMM or to the nearest kernel.
        data: Batches `(x, y)` or `(x, y, sample_weight)` of training data:
            any iterable of them, or a tuple of the arrays of all samples;
            without a score `x` alone will do. BatchNormalization's statistics
            are measured anew on it after pruning, by `recalibrate`: those
            that are there belong to the network before. A score that reads
            gradients (`taylor`) takes them on it, with the loss of
            `model.compile`; with a score all batches are held in memory, so
            pass `train.take(50)` of a large data set. Defaults to `None`:
            the statistics stay, and a printed line says so; training on
            renews them as well.
        optimizer: The `ADMMWrapper` that trained the model, where the model
            is not compiled with it, as in distillation. Defaults to
            `model.optimizer`. `False` leaves the choice to the weights as
            they are. Has no say where there is a `score`.
        keep_zeros: Whether the masks hold filters and columns that are zero
            before. Defaults to True.

    Returns:
        The `Masks`, to be held by `StructuredMask` while training on.

    Raises:
        TypeError: `plan` is no plan, `score` no function, `data` no batches,
            `optimizer` no ADMMWrapper, or the model is subclassed.
        ValueError: The plan was made for another model, the wrapper trained
            another model or other kernels, a weight is NaN or infinite, or
            the score cannot be computed. Nothing has been changed then.

    Warns:
        UserWarning: The wrapper is for another plan, has made no update yet
            or is within its ramp; the weights are far from what it found,
            with a relative primal residual above 0.1; a kernel that
            trains is zero throughout; kernels were frozen after planning; or
            the plan removes nothing.

    Example:

    ```python
    masks = keras_prm.hard_prune(
        model, plan, score=keras_prm.scores.taylor, data=(x_train, y_train)
    )
    ```

    Reference:
        - [Ma et al., 2019](https://arxiv.org/abs/1905.00136).
    """
    check_is_plan(plan)
    graph = trace(model)
    if score is not None and data is not None:
        data = gradients.gradient_batches(data)  # an iterator is read once
    read = None if score is None else data
    masks = masks_for(model, plan, score, read, optimizer, graph)
    if not plan.kernels:
        warnings.warn(
            f"The plan removes nothing, and nothing was pruned. {advice(plan)}",
            stacklevel=2,
        )
    warn_of_frozen(model, masks.kernels, stacklevel=2)
    if keep_zeros:
        masks = masks & _zeros_before(model, graph)
    norms = recalibrate.measured_layers(model)
    if norms and data is not None:
        _prune_and_recalibrate(model, masks, data)
    else:
        changes = apply_masks(model, masks)
        if norms and changes:
            console.print_message(_STATISTICS_STAY)
    return masks


def _prune_and_recalibrate(model, masks, data):
    """Both or neither: whatever is wrong with the data shows in the second."""
    variables = [variable for variable, _ in fitting(model, masks)]
    before = [keras.ops.convert_to_numpy(v) for v in variables]
    apply_masks(model, masks)
    try:
        recalibrate.recalibrate(model, data)
    except BaseException:
        for variable, array in zip(variables, before, strict=True):
            variable.assign(array)
        raise


def masks_for(model, plan, score=None, data=None, optimizer=None, graph=None):
    """The `Masks` of what `hard_prune` takes away by the plan, and no more.

    Changes nothing. `graph` is the model's, if it is at hand.
    """
    check_is_plan(plan)
    graph = graph or trace(model)
    plan = fitted_plan(model, plan, graph)
    weights = {w.key: w for w in graph.weights.values()}
    variable_keys.finite_arrays(model)
    if score is None:
        wrapper, place = _wrapper(model, optimizer)
        masks = _support(wrapper, place, plan, weights)
    else:
        masks = selection.support(model, graph, plan, score, data)
    dead = np.zeros(graph.num_classes, bool)
    for kernel in plan.kernels:
        filters = masks[kernel.key].filters
        ids = weights[kernel.key].out_ids
        if ids is not None:
            dead[graph.classes[ids[~filters]]] = True
    vectors = dead_vectors(graph, dead)
    return Masks(masks, vectors, signatures.signatures(model))


def _zeros_before(model, graph):
    masks, blank = pruned(model, graph)
    trained = {id(v) for v in model.trainable_variables}
    weights = {w.key: w.variable for w in graph.weights.values()}
    blank = [key for key in blank if id(weights[key]) in trained]
    if blank:
        warnings.warn(
            "Some kernels are zero throughout, as an initializer of zeros "
            "leaves them, and are not kept so: they train on, but for what "
            "the plan removes of them. To hold them at zero, take `masks & "
            f"keras_prm.masks_of(model)`. Received: only zeros in {blank}",
            stacklevel=3,
        )
    return masks


def removes_more(plan, kept):
    """Whether a plan would remove anything that is kept.

    Args:
        plan: A `SparsityPlan`.
        kept: A bool array for each of its kernels, of their shapes.
    """
    masks = _nearest(plan, [keep.astype("float32") for keep in kept])
    found = zip(kept, masks.values(), strict=True)
    return any((keep & ~mask.full()).any() for keep, mask in found)


def _wrapper(model, optimizer):
    """The `ADMMWrapper` whose support is asked for, and where it is.

    Returns:
        `(wrapper, place)`: `None` if there is none; what a user would write
        to get at it.
    """
    place = "optimizer"
    if optimizer is False:
        return None, ""
    if optimizer is None:
        place = "model.optimizer"
        optimizer = getattr(model, "optimizer", None)
        wrapper = find_wrapper(optimizer)
    else:
        wrapper = find_wrapper(optimizer)
        if wrapper is None:
            raise TypeError(
                "`optimizer` must be the `ADMMWrapper` that trained the "
                f"model, or hold it. Received: optimizer={optimizer!r}. To "
                "choose by the weights alone, pass `optimizer=False`."
            )
    build_if_given_weights(optimizer, model.trainable_variables)
    while wrapper is not None and optimizer is not wrapper:
        inner = getattr(optimizer, "inner_optimizer", None)
        if inner is None:
            return wrapper, "wrapper"  # one of several
        optimizer, place = inner, f"{place}.inner_optimizer"
    return wrapper, place


def _support(wrapper, place, plan, weights):
    """dict from key to `KernelMask`: the wrapper's support, or W's."""
    if wrapper is not None:
        _check_trained(wrapper, plan, weights)
        reason = _not_held(wrapper, plan, place)
        if not reason:
            # Its own plan may be of another build, with other names.
            keys = [kernel.key for kernel in plan.kernels]
            masks = dict(zip(keys, wrapper.masks().values(), strict=True))
            _check_agreement(wrapper, plan, weights, masks)
            return masks
        warnings.warn(
            f"What goes is chosen by the weights alone: {reason} To choose "
            "so without this warning, pass `optimizer=False`.",
            stacklevel=4,
        )
    return _nearest(plan, [weights[k.key].variable for k in plan.kernels])


def _check_agreement(wrapper, plan, weights, masks):
    """Warns where the weights are far from those that ADMM prunes well."""
    arrays = {
        k.key: keras.ops.convert_to_numpy(weights[k.key].variable)
        for k in plan.kernels
    }
    sizes = {key: _norm(array) for key, array in arrays.items()}
    primal = [r["primal"] for r in wrapper.residuals().values()]
    found = dict(zip(arrays, primal, strict=True))
    total = math.hypot(*found.values()) / (math.hypot(*sizes.values()) or 1.0)
    if total <= MOST_RESIDUAL:
        return
    if not _share_lost(arrays, masks):
        return  # what ADMM has chosen is zero already
    relative = {key: found[key] / (sizes[key] or 1.0) for key in found}
    worst = sorted(relative, key=lambda key: relative[key], reverse=True)[:3]
    nearest = _nearest(plan, list(arrays.values()))
    warnings.warn(
        "The weights are not near what ADMM prunes to: the primal residual "
        f"||W - Z|| / ||W|| is {total:.2g}, and pruning is cheap below "
        f"{MOST_RESIDUAL}. Either ADMM has not converged, or these are not "
        "the weights it ended with, as after `load_weights` or "
        "`EarlyStopping(restore_best_weights=True)`. Its choice takes away "
        f"{_share_lost(arrays, masks):.0%} of the weights' norm, one made for "
        f"the weights as they are {_share_lost(arrays, nearest):.0%}. "
        f"{_remedy(wrapper)}, without going back to "
        "earlier weights; or choose anew by the weights: this call prunes in "
        "place, so put those of before back, by a `model.set_weights(before)` "
        "of what `model.get_weights()` returned, or from the model's file, "
        "and call `hard_prune(model, plan, optimizer=False)`. "
        "Received: the largest primal residuals "
        f"{ ({key: float(f'{relative[key]:.2g}') for key in worst}) }",
        stacklevel=5,
    )


def _remedy(wrapper):
    """What to do about weights that are far from what ADMM prunes to."""
    if wrapper.lacks_steps:
        return (
            "ADMM did not know how many steps it had: train on with "
            "`callbacks=[keras_prm.ADMMProgress()]`, or make the wrapper with "
            "`steps=`"
        )
    if wrapper.rho == "auto":
        return "Train on, for more steps"
    return "Train on, for more steps or with rho='auto'"


def _share_lost(arrays, masks):
    """How much of the norm of all kernels masks take away."""
    lost = [_norm(np.where(masks[k].full(), 0, a)) for k, a in arrays.items()]
    whole = [_norm(array) for array in arrays.values()]
    return math.hypot(*lost) / (math.hypot(*whole) or 1.0)


def _norm(array):
    return float(np.linalg.norm(array.astype("float32")))


def _nearest(plan, kernels):
    """dict from key to `KernelMask`: what is nearest to some kernels."""
    kernels = [keras.ops.convert_to_tensor(kernel) for kernel in kernels]
    project = backend.compiled(
        lambda kernels: projections.project_plan(kernels, plan)
    )
    channels, columns = project(kernels)
    found = {}
    for kernel, column in zip(plan.kernels, columns):
        filters = projections.kernel_filters(kernel, channels)
        found[kernel.key] = KernelMask(
            keras.ops.convert_to_numpy(filters) > 0.5,
            keras.ops.convert_to_numpy(column) > 0.5,
            kernel.axes,
        )
    return found


def _check_trained(wrapper, plan, weights):
    """Raises if a wrapper trained other kernels than those of a plan."""
    if not wrapper.built:
        return
    trained = wrapper.kernels()
    own = {id(weight.variable) for weight in weights.values()}
    foreign = [key for key, v in trained.items() if id(v) not in own]
    if foreign:
        raise ValueError(
            "The ADMMWrapper trained another model. Pass the optimizer that "
            "trained this one, or compile this one anew to choose by its "
            f"weights alone. Received: optimizer={wrapper.name!r}, which "
            f"trained kernels that the model does not have: {foreign}"
        )
    if wrapper.plan.digest() == plan.digest():
        keys = [kernel.key for kernel in plan.kernels]
        variables = {w.key: w.variable for w in weights.values()}
        check_attached(trained.values(), keys, variables)


def _not_held(wrapper, plan, place):
    """Why a wrapper has no support for a plan; `""` if it has."""
    if wrapper.plan.digest() != plan.digest():
        return (
            "ADMM trained for another plan. To use what it found, pass "
            f"`{place}.plan`."
        )
    if not wrapper.built or not wrapper.num_updates:
        return (
            "ADMM has made no update yet. Train for at least "
            f"{wrapper.update_every} applied steps, or give ADMMWrapper a "
            "smaller `update_every`."
        )
    if not wrapper.settled:
        return (
            f"ADMM's ramp has come to a share of {wrapper.current_share:.3g} "
            "of the plan. Train to the end of the ramp, or make it shorter."
        )
    return ""


def warn_of_frozen(model, keys, stacklevel):
    """Warns where kernels that are pruned are not trained any more."""
    trainable = {id(v) for v in model.trainable_variables}
    variables = variable_keys.variables_by_key(model)
    frozen = [key for key in keys if id(variables[key]) not in trainable]
    if frozen:
        warnings.warn(
            "The plan prunes kernels that were frozen after it was made. To "
            "leave them as they are, make the plan anew, now that "
            "`trainable` is set. "
            f"Received: {frozen} that are not trainable",
            stacklevel=stacklevel + 1,
        )
