"""What ADMM has come to: the state of `ADMMWrapper`, to be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from keras_prm.admm import iteration
from keras_prm.admm import planned_rho
from keras_prm.admm.optimizer_wrapper import OptimizerWrapper

if TYPE_CHECKING:
    from typing import Any

    from keras_prm.plans.plan import SparsityPlan
    from keras_prm.plans.records import KernelMask


class ReadableADMM(OptimizerWrapper):
    """The part of `ADMMWrapper` that reads its state and changes nothing.

    Attributes:
        plan: The `SparsityPlan`.
        update_every: Applied steps from one update to the next.
    """

    plan: SparsityPlan
    update_every: Any
    _admm: iteration.ADMMVariables
    _first_step: keras.Variable | None
    _planned_steps: int | None
    _residual_plan: planned_rho.ResidualPlan | None

    def planned_variables(self) -> list[keras.Variable]:
        """The kernels that the plan is about, in its order: variables."""
        self._check_built()
        return [self._trainable_variables[k.index] for k in self.plan.kernels]

    def kernels(self) -> dict[str, keras.Variable]:
        """The variables it trains: dict from kernel key to variable."""
        keys = [kernel.key for kernel in self.plan.kernels]
        return dict(zip(keys, self.planned_variables(), strict=True))

    def _kernels(self):
        return [ops.convert_to_tensor(v) for v in self.planned_variables()]

    def _num_steps(self):
        """Applied steps since the wrapper was built."""
        if self._first_step is None:
            return 0
        step = ops.convert_to_tensor(self.iterations)
        return step - ops.cast(self._first_step, step.dtype)

    @property
    def current_rho(self) -> float:
        """The penalty's weight since the last update, a float."""
        self._check_built()
        return float(ops.convert_to_numpy(self._admm.rho))

    @property
    def current_share(self) -> float:
        """The share of the plan that `z` keeps to, a float in [0, 1]."""
        self._check_built()
        return float(ops.convert_to_numpy(self._admm.share))

    @property
    def lacks_steps(self) -> bool:
        """Whether `"auto"` plans without knowing how many steps there are."""
        plan = self._residual_plan
        if plan is None or self._planned_steps is not None:
            return False
        return not plan.is_told  # before it was saved

    @property
    def num_steps(self) -> int:
        """How many steps were applied since the wrapper was built."""
        # A variable on several devices has no `int`.
        return int(ops.convert_to_numpy(self._num_steps()))

    @property
    def num_updates(self) -> int:
        """How many updates of `z` and `u` there were."""
        if self._residual_plan is not None:
            return self._residual_plan.num_updates(
                self.num_steps, self.update_every
            )
        return self.num_steps // self.update_every

    @property
    def settled(self) -> bool:
        """Whether `z` is the whole plan's, after at least one update."""
        if not self.built or not self.num_updates:
            return False
        return self.current_share > 1 - 1e-6

    @property
    def channels(self) -> np.ndarray:
        """Which channel classes `z` keeps: bool array `(num_classes,)`."""
        self._check_built()
        return ops.convert_to_numpy(self._admm.channels) > 0

    def chosen_plan(self) -> SparsityPlan:
        """The plan with the widths that `z` has now, as a fixed one.

        Of a plan of `allocation="learned"` it says what ADMM has found:
        `print(optimizer.chosen_plan().costs())`. `hard_prune` is given the
        plan that the wrapper was made with all the same.
        """
        channels = self.channels
        kept = [
            int(channels[group.start : group.start + group.size].sum())
            for group in self.plan.groups
        ]
        return self.plan.with_kept(kept)

    def masks(self) -> dict[str, KernelMask]:
        """The support of `z`: dict from kernel key to `KernelMask`."""
        self._check_built()
        return self._admm.masks()

    def residuals(self) -> dict[str, dict[str, float]]:
        """How far ADMM is from agreement, for each kernel.

        Returns:
            dict from kernel key to `{"primal": ||w - z||, "dual": rho *
            ||z - previous z||}`, floats: `primal` of the weights as they are
            now, `dual` as of the last update. Both shrink to 0.
        """
        self._check_built()
        return self._admm.residuals(self._kernels())

    @property
    def relative_residual(self) -> float:
        """How far the kernels are from `z`, in proportion to them, a float.

        `||w - z|| / ||w||` of all kernels together, or the root of its mean
        square over the kernels that lose something, whichever is larger. It
        goes to 0; below 0.02 ADMM has converged, and pruning costs next to
        nothing.
        """
        self._check_built()
        found = iteration.relative_residual(
            self._kernels(), self.plan, self._admm.read()
        )
        return float(ops.convert_to_numpy(found))

    @property
    def converged(self) -> bool:
        """Whether the kernels have arrived at their sparse copies."""
        return self.settled and self.relative_residual <= planned_rho.CONVERGED

    def _check_built(self):
        if not self.built:
            raise ValueError(
                f"Optimizer {self.name!r} holds no masks yet: it is not "
                "built. Train the model for a step, or call "
                "`optimizer.build(model.trainable_variables)`, first."
            )
