"""Hard pruning: setting to zero what a plan removes."""

from __future__ import annotations

import warnings

import keras
import numpy as np

from keras_prm import backends
from keras_prm import graph
from keras_prm import plan_projections
from keras_prm import ranking
from keras_prm import topology
from keras_prm.masks import Masks
from keras_prm.masks import apply_masks
from keras_prm.masks import dead_vectors
from keras_prm.optimizers import find_wrapper
from keras_prm.structures import KernelMask


def hard_prune(model, plan, score=None, data=None, optimizer=None):
    """Sets what the plan removes to zero. Works in place.

    The structures that go are those the `ADMMWrapper` holds, where the model
    was compiled with one for the same plan and trained for an update at
    least, and to the end of its ramp; else those whose removal is nearest to
    the weights. A filter that goes takes its bias and its
    BatchNormalization gamma and beta along, so that its channel is zero and
    not merely constant, and the columns that read it go too.

    With a `score` those of the lowest scores go, as many as ever. Filters
    that can only fall together add up theirs, each kernel's divided by
    their mean; columns are scored in the filters that stay. What is zero
    already goes first. The patterns `"channels"` and `"window"` add up the
    scores of columns; of negative ones the least becomes 0 before.

    Args:
        model: A built functional or Sequential model.
        plan: The `SparsityPlan`, made for this model.
        score: A function of `keras_prm.scores`, or one of your own; `None`
            leaves the choice to ADMM or to the nearest kernel.
        data: Batches `(x, y)` or `(x, y, sample_weight)` for a score that
            reads gradients (`taylor`): any iterable of them, of which all
            are taken and held in memory, so pass `train.take(50)` of a
            large one; or a tuple of the arrays of all samples. The model
            has to be compiled with its loss.
        optimizer: The `ADMMWrapper` that trained the model, where the model
            is not compiled with it, as in distillation. Defaults to
            `model.optimizer`. Has no say where there is a `score`.

    Returns:
        The `Masks`, to be held by `StructuredMask` while training on.

    Raises:
        TypeError: `plan` is no plan, `score` no function, `data` no batches,
            `optimizer` no ADMMWrapper, or the model is subclassed.
        ValueError: The plan was made for another model, a weight is NaN or
            infinite, or the score cannot be computed. Nothing has been
            changed then.

    Warns:
        UserWarning: The wrapper is for another plan, or has not come so far;
            or the plan removes nothing.

    Example:

    ```python
    masks = keras_prm.hard_prune(
        model, plan, score=keras_prm.scores.taylor, data=(x_train, y_train)
    )
    ```

    Reference:
        - [Ma et al., 2019](https://arxiv.org/abs/1905.00136).
    """
    masks = masks_for(model, plan, score, data, optimizer)
    if not plan.kernels:
        warnings.warn(
            "The plan removes nothing, and nothing was pruned. Give "
            "`SparsityPlan.uniform` or `explicit` fractions above 0. "
            f"The plan leaves alone: {plan.skipped}",
            stacklevel=2,
        )
    apply_masks(model, masks)
    return masks


def masks_for(model, plan, score=None, data=None, optimizer=None):
    """As `hard_prune`, but only returns the `Masks`."""
    check_is_plan(plan)
    trace = graph.trace(model)
    weights = {w.key: w for w in trace.weights.values()}
    _check_plan(plan, trace, weights)
    topology.finite_arrays(model)
    if score is None and data is not None:
        raise ValueError(
            "`data` are for a score that reads gradients, and there is no "
            "score. Pass `score=keras_prm.scores.taylor`, or no `data`. "
            "Received: score=None"
        )
    if score is None:
        masks = _support(_wrapper(model, optimizer), plan, weights)
    else:
        masks = ranking.support(model, trace, plan, score, data)
    dead = np.zeros(trace.num_classes, bool)
    for kernel in plan.kernels:
        filters = masks[kernel.key].filters
        if weights[kernel.key].out_ids is not None:
            ids = weights[kernel.key].out_ids[~filters]
            dead[trace.classes[ids]] = True
    return Masks(masks, dead_vectors(trace, dead))


def check_is_plan(plan):
    """Raises a `TypeError` for what is no `SparsityPlan`."""
    if not hasattr(plan, "kernels") or not hasattr(plan, "groups"):
        raise TypeError(
            "Expected a `SparsityPlan`, as `SparsityPlan.uniform(model, ...)` "
            f"makes it. Received: plan={plan!r} (of type "
            f"{type(plan).__name__})"
        )


def _check_plan(plan, trace, weights):
    bad = [
        (k.key, k.shape)
        for k in plan.kernels
        if k.key not in weights
        or tuple(weights[k.key].variable.shape) != tuple(k.shape)
    ]
    if not bad:
        bad = _differently_tied(plan, trace, weights)
    if bad:
        raise ValueError(
            "The plan was made for another model. Make one for this model "
            "with `SparsityPlan.uniform(model, ...)`. Received a plan with "
            f"kernels that the model does not have so: {bad}"
        )


def _differently_tied(plan, trace, weights):
    """Kernels whose channels the plan and the model tie in other ways."""
    planned, found = {}, {}
    bad = []
    for kernel in plan.kernels:
        sides = zip(
            (kernel.in_classes, kernel.out_classes),
            (weights[kernel.key].in_ids, weights[kernel.key].out_ids),
        )
        pairs = [
            (number, int(c))
            for numbers, ids in sides
            if ids is not None
            for number, c in zip(numbers, trace.classes[ids])
            if number >= 0
        ]
        if any(
            planned.setdefault(number, c) != c
            or found.setdefault(c, number) != number
            for number, c in pairs
        ):
            bad.append((kernel.key, kernel.shape))
    return bad


def _wrapper(model, optimizer):
    """The `ADMMWrapper` whose support is asked for; `None` if none is."""
    if optimizer is None:
        return find_wrapper(getattr(model, "optimizer", None))
    wrapper = find_wrapper(optimizer)
    if wrapper is None:
        raise TypeError(
            "`optimizer` must be the `ADMMWrapper` that trained the model, "
            f"or hold it. Received: optimizer={optimizer!r}. To choose by "
            "the weights alone, leave it out."
        )
    return wrapper


def _support(wrapper, plan, weights):
    """dict from key to `KernelMask`: the wrapper's support, or W's."""
    if wrapper is not None:
        if wrapper.plan == plan and wrapper.settled:
            return wrapper.masks()
        warnings.warn(
            "The model is compiled with ADMM, but for another plan, or not "
            "trained for a single update, or not to the end of its ramp: "
            "what goes is chosen by the weights alone. To use what ADMM "
            "found, pass `model.optimizer.plan`.",
            stacklevel=4,
        )
    kernels = [
        keras.ops.convert_to_tensor(weights[k.key].variable)
        for k in plan.kernels
    ]
    project = backends.compiled(
        lambda kernels: plan_projections.project_plan(kernels, plan)
    )
    channels, columns = project(kernels)
    found = {}
    for kernel, column in zip(plan.kernels, columns):
        filters = plan_projections.kernel_filters(kernel, channels)
        found[kernel.key] = KernelMask(
            keras.ops.convert_to_numpy(filters) > 0.5,
            keras.ops.convert_to_numpy(column) > 0.5,
            kernel.axes,
        )
    return found
