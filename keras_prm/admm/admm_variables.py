"""The variables in which an optimizer keeps ADMM's state."""

from __future__ import annotations

import keras
from keras import ops

from keras_prm.admm import iteration
from keras_prm.plans.plan_projections import kernel_filters
from keras_prm.plans.records import KernelMask


class ADMMVariables:
    """ADMM's state as variables of an optimizer.

    Args:
        optimizer: The `keras.optimizers.Optimizer` that will own them.
        plan: The `SparsityPlan`.
        kernels: The planned kernels, in its order: list of variables.
        state: The `admm.State` to begin with.
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
        return iteration.State(
            targets=list(self.targets),
            channels=self.channels,
            columns=list(self.columns),
            rho=self.rho,
            share=self.share,
            dual=self.dual,
        )

    def read(self):
        """The `admm.State` as it is now, of tensors."""
        return keras.tree.map_structure(ops.convert_to_tensor, self._as_state())

    def assign(self, state):
        """Sets all variables to another `admm.State`."""
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
        z = iteration.sparse_parts(self.plan, state)
        primal = ops.convert_to_numpy(iteration.distances(kernels, z))
        dual = ops.convert_to_numpy(state.dual)
        return {
            k.key: {"primal": float(p), "dual": float(d)}
            for k, p, d in zip(self.plan.kernels, primal, dual, strict=True)
        }


def _constant(tensor):
    return keras.initializers.Constant(ops.convert_to_numpy(tensor))
