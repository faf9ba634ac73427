"""The alternating direction method of multipliers, on plain tensors.

Minimize `loss(w)` over the kernels `w` that lie in a structured set `S`:

    w  <- a few steps on  loss(w) + rho / 2 * ||w - z + u||^2
    z  <- projection of  w + u  onto S
    u  <- w + u - z

A projection onto structured sparsity is a 0/1 mask `m`: with `a = w + u`,
`z = m * a` and `u = (1 - m) * a`. The two never overlap, so their difference

    t  =  z - u  =  m * a - (1 - m) * a

holds both: `z = m * t`, `u = -(1 - m) * t`. It is the only buffer, and it is
what the penalty pulls `w` to: its gradient is `rho * (w - t)`.
"""

from __future__ import annotations

from typing import Any
from typing import NamedTuple

import keras
from keras import ops

from keras_prm.plans.projections import kernel_filters
from keras_prm.plans.projections import project_plan
from keras_prm.plans.records import KernelMask
from keras_prm.plans.records import KernelPlan
from keras_prm.utils import kernel_layout

_TINY = 1e-30


class State(NamedTuple):
    """What ADMM remembers between two updates.

    Args:
        targets: List of tensors `t`, one per kernel, of its shape.
        channels: 0/1 float32 `(plan.num_classes,)`.
        columns: List of 0/1 float32 `(..., in)`, one per kernel.
        rho: float32 scalar, the penalty's weight until the next update.
        share: float32 scalar, how much of the plan `z` keeps to, in [0, 1].
        dual: float32 `(num_kernels,)`: `rho * ||z - previous z||`.
    """

    targets: list[Any]
    channels: Any
    columns: list[Any]
    rho: Any
    share: Any
    dual: Any


def kernel_mask(kernel: KernelPlan, channels, columns):
    """The kernel's mask `m`, 0/1 float32 in its shape."""
    mask = columns[..., None] * kernel_filters(kernel, channels)
    return kernel_layout.from_matrix(mask, kernel.axes)


def start(kernels, plan, rho, share=1.0) -> State:
    """`z` is the projection of `w`, and `u` is 0.

    Args:
        kernels: List of tensors `w`, in the order of `plan.kernels`.
        plan: The `SparsityPlan`.
        rho: The penalty's weight.
        share: How much of the plan is in force, in [0, 1].
    """
    channels, columns = project_plan(kernels, plan, share)
    rho, share = (ops.cast(value, "float32") for value in (rho, share))
    zero = ops.zeros((len(kernels),))
    state = State(kernels, channels, columns, rho, share, zero)
    return state._replace(targets=sparse_parts(plan, state))


def update(
    kernels,
    state: State,
    plan,
    rho,
    rescale,
    share=1.0,
    restart=False,
    dual_step=None,
) -> State:
    """One update of `z` and `u`, and the change to the next `rho`.

    `u` is the scaled dual variable; the unscaled one, `rho * u`, is what
    must not jump when `rho` does. So `u` is multiplied by the ratio of the
    old `rho` to the new one. A new stage starts afresh instead.

    Args:
        kernels: List of tensors `w`, in the order of `plan.kernels`.
        state: The `State` to go on from.
        plan: The `SparsityPlan`.
        rho: The penalty's weight from now on.
        rescale: Whether to rescale `u` when `rho` changes; if False, start
            afresh then. Where the old or the new `rho` is 0, nothing pulls
            `w` to `z`, `u` would only grow, and all starts afresh.
        share: How much of the plan is in force from now on, in [0, 1].
        restart: Whether to start afresh though `rho` may stay.
        dual_step: The part of its step that `u` takes, in [0, 1], where `w`
            has come only a part of its way; `None` is the whole step.

    Returns:
        The new `State`; the old one where a kernel is not finite.
    """
    rho, share = (ops.cast(value, "float32") for value in (rho, share))
    changed = ops.not_equal(rho, state.rho)
    afresh = ops.equal(ops.minimum(rho, state.rho), 0.0)
    afresh = ops.logical_or(afresh, restart)
    if not rescale:
        afresh = ops.logical_or(changed, afresh)
    ratio = state.rho / ops.where(rho > 0, rho, 1.0)
    ratio = ops.where(afresh, 0.0, ops.where(changed, ratio, 1.0))

    z = sparse_parts(plan, state)
    # a = w + u, and u = z - t
    a = [
        ops.where(afresh, w, w + (z_ - t))
        for w, t, z_ in zip(kernels, state.targets, z, strict=True)
    ]
    channels, columns = project_plan(a, plan, share)
    targets = [
        _reflect(a_, kernel_mask(kernel, channels, m), ratio)
        for kernel, a_, m in zip(plan.kernels, a, columns, strict=True)
    ]
    if dual_step is not None:
        targets = [
            _short_of(t, w, kernel_mask(kernel, channels, m), ratio, dual_step)
            for kernel, t, w, m in zip(
                plan.kernels, targets, kernels, columns, strict=True
            )
        ]
    new = State(targets, channels, columns, rho, share, state.dual)
    new_z = sparse_parts(plan, new)
    new = new._replace(dual=state.rho * distances(new_z, z))
    finite = ops.isfinite(ops.sum(distances(kernels, new_z)))
    return keras.tree.map_structure(
        lambda one, other: ops.where(finite, one, other), new, state
    )


def balance(kernels, state: State, plan, rule) -> State:
    """Changes `rho` by the residuals, and rescales `u` with it.

    Args:
        kernels: List of tensors `w`, in the order of `plan.kernels`.
        state: The `State` after an update.
        plan: The `SparsityPlan`.
        rule: A `ResidualBalancing`.
    """
    z = sparse_parts(plan, state)
    primal = ops.norm(distances(kernels, z))
    rho = rule.next(state.rho, primal, ops.norm(state.dual))
    return with_rho(state, plan, rho)


def with_rho(state: State, plan, rho) -> State:
    """Another `rho`, with `u` rescaled so that `rho * u` does not jump."""
    z = sparse_parts(plan, state)
    ratio = state.rho / rho
    # u = z - t, and t = z - u
    targets = [
        z_ - ops.cast(ratio, t.dtype) * (z_ - t)
        for z_, t in zip(z, state.targets, strict=True)
    ]
    return state._replace(targets=targets, rho=rho)


def sparse_parts(plan, state: State):
    """`z`, the feasible iterate: list of tensors, one per kernel."""
    entries = zip(plan.kernels, state.targets, state.columns, strict=True)
    return [
        t * ops.cast(kernel_mask(kernel, state.channels, m), t.dtype)
        for kernel, t, m in entries
    ]


def _reflect(a, mask, ratio):
    """`t = m * a - (1 - m) * a`, with `u` rescaled by `ratio`."""
    return a * ops.cast(mask - ratio * (1.0 - mask), a.dtype)


def _short_of(t, w, mask, ratio, dual_step):
    """`t`, with `u` that has gone only a part of its last step, by `w`."""
    missing = (1.0 - mask) * (ratio * (1.0 - dual_step))
    return t + ops.cast(missing, t.dtype) * w


def relative_residual(kernels, plan, state: State):
    """How far `w` is from `z`, in proportion to `w`: float32 scalar.

    The larger one of two: of all kernels together, and the root of the mean
    square over the kernels that lose something, so that none of these hides
    behind a large one, or behind many that stay as they are.

    Args:
        kernels: List of tensors `w`, in the order of `plan.kernels`.
        plan: The `SparsityPlan`.
        state: The `State`.
    """
    away = ops.square(distances(kernels, sparse_parts(plan, state)))
    size = ops.square(distances(kernels, [ops.zeros_like(w) for w in kernels]))
    whole = ops.sum(away) / ops.maximum(ops.sum(size), _TINY)
    loses = [
        1.0 - ops.min(kernel_filters(kernel, state.channels)) * ops.min(columns)
        for kernel, columns in zip(plan.kernels, state.columns, strict=True)
    ]
    loses = ops.stack(loses)
    mean = ops.sum(loses * away / (size + _TINY))
    mean = mean / ops.maximum(ops.sum(loses), 1.0)
    return ops.sqrt(ops.maximum(whole, mean))


def distances(tensors, others):
    """`||a - b||` of each pair, float32 `(num_pairs,)`."""
    pairs = zip(tensors, others, strict=True)
    squares = [
        ops.sum(ops.square(ops.cast(a - b, "float32"))) for a, b in pairs
    ]
    return ops.sqrt(ops.stack(squares)) if squares else ops.zeros((0,))


class ADMMVariables:
    """ADMM's state as variables of an optimizer.

    Args:
        optimizer: The `keras.optimizers.Optimizer` that will own them.
        plan: The `SparsityPlan`.
        kernels: The planned kernels, in its order: list of variables.
        state: The `iteration.State` to begin with.
    """

    def __init__(self, optimizer, plan, kernels, state):
        self.plan = plan

        def like(tensor, name):
            return optimizer.add_variable(
                tensor.shape, _constant(tensor), dtype="float32", name=name
            )

        self.targets = [
            optimizer.add_variable_from_reference(
                kernel, name="target", initializer=_constant(target)
            )
            for kernel, target in zip(kernels, state.targets, strict=True)
        ]
        self.columns = [
            like(columns, f"{kernel.key}_columns".replace("/", "_"))
            for kernel, columns in zip(plan.kernels, state.columns, strict=True)
        ]
        self.channels = like(state.channels, "channels")
        self.rho = like(state.rho, "rho")
        self.share = like(state.share, "share")
        self.dual = like(state.dual, "dual_residuals")

    def _as_state(self):
        return State(
            targets=list(self.targets),
            channels=self.channels,
            columns=list(self.columns),
            rho=self.rho,
            share=self.share,
            dual=self.dual,
        )

    def read(self):
        """The `iteration.State` as it is now, of tensors."""
        return keras.tree.map_structure(ops.convert_to_tensor, self._as_state())

    def assign(self, state):
        """Sets all variables to another `iteration.State`."""
        keras.tree.map_structure(
            lambda variable, value: variable.assign(value),
            self._as_state(),
            state,
        )

    def masks(self):
        """The support of `z`: dict from kernel key to `KernelMask`."""
        return {
            k.key: KernelMask(
                filters=ops.convert_to_numpy(kernel_filters(k, self.channels))
                > 0,
                columns=ops.convert_to_numpy(columns) > 0,
                axes=k.axes,
            )
            for k, columns in zip(self.plan.kernels, self.columns, strict=True)
        }

    def residuals(self, kernels):
        """`ADMMWrapper.residuals`, of kernels as tensors."""
        state = self.read()
        z = sparse_parts(self.plan, state)
        primal = ops.convert_to_numpy(distances(kernels, z))
        dual = ops.convert_to_numpy(state.dual)
        return {
            k.key: {"primal": float(p), "dual": float(d)}
            for k, p, d in zip(self.plan.kernels, primal, dual, strict=True)
        }


def _constant(tensor):
    return keras.initializers.Constant(ops.convert_to_numpy(tensor))
