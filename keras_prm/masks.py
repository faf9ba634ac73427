"""Structured masks: making them, reading them back, keeping them."""

from __future__ import annotations

import contextlib
import json
import pathlib
import warnings

import keras
import numpy as np

from keras_prm import graph
from keras_prm import projections
from keras_prm import topology
from keras_prm.structures import KernelMask


class Masks:
    """Which structures of a model are kept.

    Stored as vectors, never in the shape of a weight, under keys that
    survive saving and loading the model.

    Args:
        kernels: dict from key to `KernelMask`.
        vectors: dict from key to a bool array `(channels,)`: the biases and
            BatchNormalization's gamma and beta, False where the channel is
            dead.
    """

    def __init__(self, kernels, vectors=None):
        self.kernels = dict(kernels)
        self.vectors = dict(vectors or {})

    def factors(self):
        """The masks as arrays that broadcast against their variables.

        Returns:
            dict from key to a tuple of bool arrays, whose product with the
            variable is the masked variable.
        """
        found = {key: (mask,) for key, mask in self.vectors.items()}
        for key, mask in self.kernels.items():
            found[key] = (mask.columns[..., None], mask.filters)
        return found

    def to_json(self):
        """A JSON string that `from_json` reads."""
        return json.dumps(
            {
                "kernels": {
                    key: {
                        "filters": mask.filters.astype(int).tolist(),
                        "columns": mask.columns.astype(int).tolist(),
                    }
                    for key, mask in self.kernels.items()
                },
                "vectors": {
                    key: mask.astype(int).tolist()
                    for key, mask in self.vectors.items()
                },
            }
        )

    @classmethod
    def from_json(cls, text):
        """Reads what `to_json` wrote."""
        data = json.loads(text)
        if not isinstance(data, dict) or {*data} != {"kernels", "vectors"}:
            raise ValueError(
                "These are no masks. Expected what `Masks.save` wrote. "
                f"Received: {text[:80]!r}"
            )
        kernels = {
            key: KernelMask(
                np.array(mask["filters"], bool), np.array(mask["columns"], bool)
            )
            for key, mask in data["kernels"].items()
        }
        vectors = {
            key: np.array(mask, bool) for key, mask in data["vectors"].items()
        }
        return cls(kernels, vectors)

    def save(self, path):
        """Writes the masks to `path` as JSON."""
        pathlib.Path(path).write_text(self.to_json())

    @classmethod
    def load(cls, path):
        """Reads masks that `save` wrote."""
        return cls.from_json(pathlib.Path(path).read_text())

    def __eq__(self, other):
        if not isinstance(other, Masks):
            return False
        # Parsed again, since the order of the keys means nothing.
        return json.loads(self.to_json()) == json.loads(other.to_json())

    __hash__ = None

    def __str__(self):
        lines = ["filters kept      columns kept      kernel"]
        for key, mask in self.kernels.items():
            f, c = mask.filters, mask.columns
            lines.append(
                f"{f.sum():5} of {f.size:5}    {c.sum():5} of {c.size:5}    "
                f"{key}"
            )
        return "\n".join(lines)


def hard_prune(model, plan):
    """Sets what the plan removes to zero. Works in place.

    The structures that go are those the `ADMMWrapper` holds, where the model
    was compiled with one for the same plan, else those whose removal is
    nearest to the weights. A filter that goes takes its bias and its
    BatchNormalization gamma and beta along, so that its channel is zero and
    not merely constant, and the columns that read it go too.

    Args:
        model: A built functional or Sequential model.
        plan: The `SparsityPlan`, made for this model.

    Returns:
        The `Masks`, to be held by `StructuredMask` while training on.

    Raises:
        TypeError: `plan` is no plan, or the model is subclassed.
        ValueError: The plan was made for another model, or a weight is NaN
            or infinite. Nothing has been changed then.

    Reference:
        - [Ma et al., 2019](https://arxiv.org/abs/1905.00136).
    """
    trace = graph.trace(model)
    weights = {w.key: w for w in trace.weights.values()}
    _check_plan(plan, trace, weights)
    topology.check_finite(model)
    masks = _support(model, plan, weights)
    dead = np.zeros(trace.num_classes, bool)
    for kernel in plan.kernels:
        filters = masks[kernel.key].filters
        if weights[kernel.key].ids[-1] is not None:
            ids = weights[kernel.key].ids[-1][~filters]
            dead[trace.classes[ids]] = True
    found = Masks(masks, _dead_vectors(trace, dead))
    apply_masks(model, found)
    return found


def masks_of(model):
    """Reads the masks back from the zeros of a model.

    Args:
        model: A built functional or Sequential model, pruned by whomever.

    Returns:
        The `Masks` of all filters and columns that are zero. The bias, gamma
        and beta of a channel are masked where they are zero and all filters
        that write the channel are.
    """
    trace = graph.trace(model)
    kernels, writes = {}, np.zeros(trace.num_classes, bool)
    writers = np.zeros(trace.num_classes, bool)
    for weight in trace.weights.values():
        if weight.role != "kernel":
            continue
        live = keras.ops.convert_to_numpy(weight.variable) != 0
        spatial = tuple(range(live.ndim - 1))
        mask = KernelMask(live.any(axis=spatial), live.any(axis=-1))
        if not (mask.filters.all() and mask.columns.all()):
            kernels[weight.key] = mask
        axis = -1 if weight.ids[-1] is not None else -2
        if weight.ids[axis] is not None:
            others = tuple(i for i in range(live.ndim) if i != live.ndim + axis)
            classes = trace.classes[weight.ids[axis]]
            writers[classes] = True
            writes[classes[live.any(axis=others)]] = True
    vectors = {}
    for key, keep in _dead_vectors(trace, writers & ~writes).items():
        value = keras.ops.convert_to_numpy(
            next(w for w in trace.weights.values() if w.key == key).variable
        )
        keep = keep | (value != 0)
        if not keep.all():
            vectors[key] = keep
    return Masks(kernels, vectors)


def apply_masks(model, masks):
    """Sets everything that is masked to zero. Works in place.

    Raises:
        ValueError: The masks do not fit the model; nothing is changed then.
    """
    for variable, factors in fitting(model, masks):
        array = keras.ops.convert_to_numpy(variable)
        for factor in factors:
            array = np.where(factor, array, np.zeros((), array.dtype))
        variable.assign(array)


def fitting(model, masks):
    """Pairs of a variable and its mask factors.

    Raises:
        TypeError: `masks` are no `Masks`.
        ValueError: A mask has no variable in the model, or another shape.
    """
    if not isinstance(masks, Masks):
        raise TypeError(
            "Expected `masks` as `hard_prune` or `masks_of` return them. "
            f"Received: masks={masks!r} (of type {type(masks).__name__})"
        )
    topology.functional(model)
    variables = topology.variables_by_key(model)
    pairs, bad = [], {}
    for key, factors in masks.factors().items():
        variable = variables.get(key)
        shape = np.broadcast_shapes(*(f.shape for f in factors))
        if variable is None or tuple(variable.shape) != shape:
            bad[key] = shape
        else:
            pairs.append((variable, factors))
    if bad:
        raise ValueError(
            "The masks do not fit the model. Use masks made for this very "
            "model; `masks_of(model)` reads them from its zeros. "
            f"Received masks without a variable of their shape: {bad}"
        )
    return pairs


@keras.saving.register_keras_serializable(package="keras_prm")
class MaskConstraint(keras.constraints.Constraint):
    """Sets what is masked to zero, after another constraint.

    Args:
        factors: Bool arrays that broadcast against the variable.
        inner: The constraint to apply first, or `None`.
    """

    def __init__(self, factors, inner=None):
        self.factors = [np.asarray(f, bool) for f in factors]
        self.inner = inner

    def __call__(self, w):
        if self.inner is not None:
            w = self.inner(w)
        for factor in self.factors:
            # A product would keep NaN and infinity alive.
            w = keras.ops.where(factor, w, keras.ops.zeros_like(w))
        return w

    def get_config(self):
        return {
            "factors": [f.astype(int).tolist() for f in self.factors],
            "inner": keras.saving.serialize_keras_object(self.inner),
        }

    @classmethod
    def from_config(cls, config):
        inner = keras.saving.deserialize_keras_object(config["inner"])
        return cls(config["factors"], inner)


def hold(model, masks):
    """Applies masks and puts a constraint on every masked variable.

    Returns:
        list of `MaskConstraint`, to be given to `release_masks`.
    """
    pairs = fitting(model, masks)
    apply_masks(model, masks)
    held = []
    for variable, factors in pairs:
        variable.constraint = MaskConstraint(factors, variable.constraint)
        held.append(variable.constraint)
    retrace(model)
    return held


def release_masks(model, held=None):
    """Takes mask constraints off a model, so that all weights train again.

    Not needed after `StructuredMask` or `enforced`, which clean up behind
    them, except where `fit` was interrupted: Keras does not tell callbacks
    then.

    Args:
        model: A built functional or Sequential model.
        held: The `MaskConstraint`s to take off; `None` takes off all.
    """
    mine = None if held is None else {id(constraint) for constraint in held}
    for variable in topology.variables_by_key(model).values():
        constraint = getattr(variable, "constraint", None)
        if isinstance(constraint, MaskConstraint):
            variable.constraint = _without(constraint, mine)
    retrace(model)


def _without(constraint, mine):
    """A chain of constraints less some, wherever in it they are by now."""
    if not isinstance(constraint, MaskConstraint):
        return constraint
    constraint.inner = _without(constraint.inner, mine)
    if mine is None or id(constraint) in mine:
        return constraint.inner
    return constraint


@contextlib.contextmanager
def enforced(model, masks):
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

    Example:

    ```python
    with keras_prm.enforced(model, masks):
        for x, y in batches:
            model.train_on_batch(x, y)
    ```
    """
    held = hold(model, masks)
    try:
        yield
    finally:
        release_masks(model, held)
    # Averages of weights (EMA) are taken before constraints are applied.
    apply_masks(model, masks)


def retrace(model):
    """Makes a compiled model trace its training step anew."""
    if model.compiled and model.train_function is not None:
        model.make_train_function(force=True)


def _dead_vectors(trace, dead):
    """Masks of all vectors, False on the positions of dead classes."""
    found = {}
    for weight in trace.weights.values():
        if weight.role == "vector":
            keep = ~dead[trace.classes[weight.ids[0]]]
            if not keep.all():
                found[weight.key] = keep
    return found


def _check_plan(plan, trace, weights):
    if not hasattr(plan, "kernels") or not hasattr(plan, "groups"):
        raise TypeError(
            "Expected a `SparsityPlan`, as `SparsityPlan.uniform(model, ...)` "
            f"makes it. Received: plan={plan!r} (of type "
            f"{type(plan).__name__})"
        )
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
            weights[kernel.key].ids[-2:],
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


def _support(model, plan, weights):
    """dict from key to `KernelMask`: the wrapper's support, or W's."""
    optimizer = getattr(model, "optimizer", None)
    while optimizer is not None:
        if hasattr(optimizer, "plan"):
            if optimizer.plan == plan and optimizer.built:
                return optimizer.masks()
            warnings.warn(
                "The model is compiled with ADMM, but for another plan or "
                "not trained yet: what goes is chosen by the weights alone. "
                "To use what ADMM found, pass `model.optimizer.plan`.",
                stacklevel=3,
            )
        optimizer = getattr(optimizer, "inner_optimizer", None)
    kernels = [
        keras.ops.convert_to_tensor(weights[k.key].variable)
        for k in plan.kernels
    ]
    channels, columns = projections.project_plan(kernels, plan)
    found = {}
    for kernel, column in zip(plan.kernels, columns):
        filters = projections.kernel_filters(kernel, channels)
        found[kernel.key] = KernelMask(
            keras.ops.convert_to_numpy(filters) > 0.5,
            keras.ops.convert_to_numpy(column) > 0.5,
        )
    return found
