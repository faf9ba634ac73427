"""`ADMMWrapper`: ADMM around any Keras optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from keras_prm.admm import iteration
from keras_prm.admm import planned_rho
from keras_prm.admm.iteration import ADMMVariables
from keras_prm.admm.optimizer_checks import USUAL_INTERVAL
from keras_prm.admm.optimizer_checks import check_arguments
from keras_prm.admm.optimizer_checks import check_attached
from keras_prm.admm.optimizer_checks import check_finite
from keras_prm.admm.optimizer_checks import check_inner
from keras_prm.admm.optimizer_checks import check_same_kind
from keras_prm.admm.optimizer_checks import check_same_variables
from keras_prm.admm.optimizer_checks import check_saved_plan
from keras_prm.admm.optimizer_checks import check_variables
from keras_prm.admm.optimizer_state import ReadableADMM
from keras_prm.admm.rho_schedules import ResidualBalancing
from keras_prm.admm.rho_schedules import RhoStages
from keras_prm.utils import backend
from keras_prm.utils import keras_graph
from keras_prm.utils import keras_hooks
from keras_prm.utils import signatures
from keras_prm.utils import validation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Schedule = keras.optimizers.schedules.LearningRateSchedule
    Rho = float | str | Schedule | ResidualBalancing

    from keras_prm.plans.plan import SparsityPlan

# Keras shows the begin of the config where it does not know the class.
NEEDS = "`import keras_prm` before loading"


@keras.saving.register_keras_serializable(package="keras_prm")
class ADMMWrapper(ReadableADMM):
    """Trains towards structured sparsity with ADMM.

    The inner optimizer minimizes the loss plus a quadratic penalty that
    pulls each planned kernel to a sparse copy of itself. Every
    `update_every` applied steps the copy is projected anew from the kernel
    and from the running sum of their differences, so that the two agree in
    the end and pruning then costs little.

    With kernels `w`, sparse copies `z` and scaled duals `u`:

    ```
    each step      w  <- inner step on  loss(w) + rho/2 * ||w - z + u||^2
    each update    z  <- projection of  w + u  onto the plan
                   u  <- w + u - z
    ```

    `w` is trained and stays dense; `z` is sparse and feasible. After
    training, `keras_prm.hard_prune` sets `w` on the support of `z`.

    ```python
    plan = keras_prm.SparsityPlan.uniform(model, filters=0.5)
    optimizer = keras_prm.ADMMWrapper(keras.optimizers.Adam(1e-3), plan)
    model.compile(optimizer, loss="sparse_categorical_crossentropy")
    ```

    Everything happens inside the compiled train step; no callback is needed.
    The inner optimizer sees the sum of both gradients, so its clipping and
    its moments act on the penalty too. For mixed precision put
    `LossScaleOptimizer` around this wrapper; `model.compile` does.

    Sparsity may grow while training, as in gradual magnitude pruning: `ramp`
    is a schedule of the share of the plan that is in force. The usual cubic
    ramp over 10,000 steps is

    ```python
    ramp = keras.optimizers.schedules.PolynomialDecay(
        0.0, decay_steps=10_000, end_learning_rate=1.0, power=3
    )
    ```

    and `power=1` is the linear one.

    Steps are counted from where the wrapper is built, though the inner
    optimizer may have counted before.

    Args:
        inner_optimizer: The optimizer to wrap, or its name. Learning rate,
            weight decay, clipping, EMA and gradient accumulation are set
            there.
        plan: The `SparsityPlan` of the model that will be trained.
        rho: The penalty's weight. `"auto"` finds it: the weights arrive at
            their sparse copies within the steps that there are, whatever the
            optimizer, the learning rate and the scale of the weights. Else
            a float >= 0; a `LearningRateSchedule` of the number of applied
            steps, such as `keras_prm.RhoStages`; or a
            `keras_prm.ResidualBalancing`. It changes at updates only. A
            float may be set anew between epochs: `optimizer.rho = 3e-2`,
            on the wrapper itself, holds from the next update on. Defaults
            to `"auto"`.
        update_every: Applied steps from one update to the next. `"auto"`
            makes fifty updates in the steps of a plan, and one every 100
            steps where `rho` is not `"auto"`. Defaults to `"auto"`.
        rho_change: What happens to `u` when `rho` changes. `"rescale"`
            multiplies it by the old `rho` over the new one; `"restart"`
            begins afresh from the projection of `w`. Defaults to
            `"restart"` for `RhoStages`, else to `"rescale"`.
        ramp: `None`, or a `LearningRateSchedule` of the number of applied
            steps whose value, in [0, 1], is the share of the plan in force:
            of the structures that each group and kernel is to lose, so many
            are removed from `z`. Read at each update; before the first one
            it is that of step 0. Defaults to `None`, the whole plan.
        steps: How many applied steps ADMM has, for `rho="auto"` to plan
            with. Defaults to `None`: `keras_prm.ADMMProgress` tells it when
            `fit` begins; without that callback it plans for 1,000 steps.
        name: Name of the optimizer.
        **kwargs: Refused; they belong to the inner optimizer.

    Raises:
        TypeError: If an argument is of a kind that cannot work here.
        ValueError: If an argument is out of range or of the inner optimizer;
            in `build`, if the plan was not made for these variables, if the
            inner optimizer is built on others, or if they are not finite;
            on loading, if the saved state is of another plan.

    References:
        - [Boyd et al., 2011](https://doi.org/10.1561/2200000016)
        - [arXiv:1905.00136](https://arxiv.org/abs/1905.00136)
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer | str,
        plan: SparsityPlan,
        rho: Rho = "auto",
        update_every: int | str = "auto",
        rho_change: str | None = None,
        ramp: keras.optimizers.schedules.LearningRateSchedule | None = None,
        name: str | None = None,
        steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(inner_optimizer, str):
            inner_optimizer = keras.optimizers.get(inner_optimizer)
        check_inner(inner_optimizer, ADMMWrapper)
        if rho_change is None:
            staged = isinstance(rho, RhoStages)
            rho_change = "restart" if staged else "rescale"
        check_arguments(plan, rho, update_every, rho_change, ramp, kwargs)
        planned_rho.check_steps(steps, rho)
        super().__init__(inner_optimizer, name=name)
        self.plan = plan
        # The number, or None where it is found.
        self._interval = None if update_every == "auto" else int(update_every)
        self.steps = steps
        self._planned_steps = steps
        self._residual_plan = None
        self.rho_change = rho_change
        self.ramp = ramp
        self._rho = rho
        self._rho_setting = None
        self._first_step = None

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Builds the inner optimizer, and ADMM's state from the kernels.

        Does nothing if it is built. Keras calls it before the first step; a
        raw loop on JAX has to.

        Args:
            variables: List of the model's `trainable_variables`, in order.

        Raises:
            ValueError: They are not those that the plan was made for, the
                inner optimizer is built on others, or a planned kernel is
                not finite.
        """
        # Keras builds what it reads from `.h5` on no variables at all.
        if self.built or not variables:
            return
        check_variables(variables, self.plan)
        kernels = [variables[k.index] for k in self.plan.kernels]
        with backend.outside_of_graphs():
            if not self.inner_optimizer.built:
                self.inner_optimizer.build(variables)
            check_same_variables(self.inner_optimizer, variables)
            check_finite(kernels, self.plan)
            kernels = [ops.convert_to_tensor(v) for v in kernels]
            rho, share = self._next_rho(), self._next_share()
            start = backend.compiled(
                lambda kernels: iteration.start(kernels, self.plan, rho, share)
            )
            self._admm = self._add_state(start(kernels), variables)
        super().build(variables)

    def _add_state(self, state, variables):
        constant = keras.initializers.Constant
        if validation.is_real(self._rho):
            self._rho_setting = self.add_variable(
                (), constant(self._rho), "float32", name="rho_setting"
            )
        self._first_step = self.add_variable(
            (),
            constant(int(ops.convert_to_numpy(self.iterations))),
            "int",
            name="first_step",
        )
        kernels = [variables[k.index] for k in self.plan.kernels]
        found = ADMMVariables(self, self.plan, kernels, state)
        if self._rho == "auto":
            steps = self._planned_steps or planned_rho.UNKNOWN_STEPS
            self._residual_plan = planned_rho.ResidualPlan(self, steps)
        return found

    def check_attached(self, model: keras.Model) -> None:
        """Raises if the plan names other kernels of a model than it trains.

        An optimizer is given variables and no model. Where a plan of another
        build left some frozen, it cannot always tell which.

        Args:
            model: The model that is trained. One that is built otherwise
                than the one that the plan was made for, or trains another
                one inside, is left alone.
        """
        if not keras_graph.is_model(model):
            return
        if self.built:
            variables = self._trainable_variables
        else:  # what the first step builds it on
            variables = model.trainable_variables
        if len(variables) != len(self.plan.variables):
            return
        own = signatures.signatures(model)
        names, difference = signatures.counterparts(self.plan.weights, own)
        if not difference:
            kernels = self.plan.kernels
            keys = [names[kernel.key] for kernel in kernels]
            trained = [variables[kernel.index] for kernel in kernels]
            known = {row.key: row.source() for row in own}
            check_attached(trained, keys, known)

    @property
    def rho(
        self,
    ) -> Rho:
        """The penalty's weight as it was set: float, schedule or rule."""
        if self._rho_setting is None or not validation.is_real(self._rho):
            return self._rho
        value = float(ops.convert_to_numpy(self._rho_setting))
        return self._rho if value == np.float32(self._rho) else value

    @rho.setter
    def rho(self, rho: float) -> None:
        check_same_kind(self._rho, rho)
        self._rho = rho
        if self._rho_setting is not None:
            self._rho_setting.assign(rho)

    @property
    def update_every(self) -> int:
        """Applied steps from one update to the next, an int."""
        if self._interval is not None:
            return self._interval
        if self._rho != "auto":
            return USUAL_INTERVAL
        if self._residual_plan is not None:
            return int(ops.convert_to_numpy(self._residual_plan.interval()))
        return planned_rho.update_interval(
            self._planned_steps or planned_rho.UNKNOWN_STEPS
        )

    def expect_steps(self, steps: int) -> None:
        """Tells how many applied steps are to come: what `"auto"` plans with.

        `keras_prm.ADMMProgress` does so when `fit` begins; a training loop of
        one's own may. The plan begins anew from where the weights stand, but
        where it ends at that very step anyway, as after resuming. Does
        nothing where `rho` is not `"auto"`, or `steps=` was given.

        Args:
            steps: The number of steps, at least 1.
        """
        if self._rho != "auto" or self.steps is not None:
            return
        validation.check_whole("steps", steps, "steps", "Pass at least 1.")
        self._planned_steps = steps
        if not self.built:
            return
        step = self.num_steps
        if step + steps == self._residual_plan.end:
            return
        num_updates, residual = self.num_updates, self.relative_residual
        self._residual_plan.begin(step, steps, residual, num_updates)
        if not num_updates:
            self._admm.rho.assign(planned_rho.first_rho(steps))

    def _next_rho(self):
        if self._rho == "auto":
            if self.built:
                return ops.convert_to_tensor(self._admm.rho)
            steps = self._planned_steps or planned_rho.UNKNOWN_STEPS
            return planned_rho.first_rho(steps)
        if isinstance(self._rho, ResidualBalancing):
            return self._admm.rho if self.built else self._rho.initial
        if self._rho_setting is not None:
            return ops.convert_to_tensor(self._rho_setting)
        if not callable(self._rho):
            return self._rho
        return ops.maximum(self._rho(self._num_steps()), 0.0)

    def _next_share(self):
        if self.ramp is None:
            return 1.0
        return ops.clip(self.ramp(self._num_steps()), 0.0, 1.0)

    def _begins_stage(self):
        """Whether another stage was in force at the update before."""
        stages = self._rho
        if not isinstance(stages, RhoStages) or self.rho_change != "restart":
            return False
        step = self._num_steps()
        before = stages.stage(step - self.update_every)
        return ops.not_equal(stages.stage(step), before)

    def apply(
        self,
        grads: Sequence[Any],
        trainable_variables: Sequence[keras.Variable] | None = None,
    ) -> None:
        """Makes a step of the inner optimizer, and ADMM's update if it is due.

        Adds `rho * (w - z + u)` to the gradients of the planned kernels
        first; with `rho="auto"` it moves the kernels by `rho` of the way to
        `z - u` afterwards. Every `update_every` applied steps `z` and `u`
        follow.

        Args:
            grads: List of gradients, one tensor per variable, of its shape;
                `None` where there is none.
            trainable_variables: The variables they are of; defaults to those
                that the wrapper was built with.

        Raises:
            ValueError: The variables are not those that the plan was made
                for.
        """
        if len(grads) == 0:
            return
        variables = list(trainable_variables or self._trainable_variables)
        if not self.built and variables:
            self.build(variables)
        self._check_built()
        with backend.without_gradients(), backend.after(list(grads)):
            targets = self._targets(grads, variables)
            if self._rho != "auto":
                grads = self._add_penalty(grads, variables, targets)
            # A copy, since the variable itself is about to count on.
            before = ops.copy(self.iterations)
            given = None if trainable_variables is None else variables
            self.inner_optimizer.apply(grads, given)
            # While gradients accumulate the step stands still.
            stepped = ops.not_equal(self.iterations, before)
            if self._rho == "auto":
                self._pull(variables, targets, stepped)
            self._update_if_due(stepped)

    def _targets(self, grads, variables):
        """The target `t` of each variable, `None` where nothing pulls it."""
        self._check_variables_are_known(variables)
        indices = [kernel.index for kernel in self.plan.kernels]
        targets = dict(zip(indices, self._admm.targets, strict=True))
        return [
            None
            if grad is None
            else targets.get(self._get_variable_index(variable))
            for grad, variable in zip(grads, variables, strict=True)
        ]

    def _add_penalty(self, grads, variables, targets):
        """Adds `rho * (w - t)` to the gradients of the planned kernels."""
        # The inner optimizer divides by the loss scale and sums over the
        # replicas; neither is meant for the penalty.
        weight = self._admm.rho * (self.loss_scale_factor or 1.0)
        weight = weight / backend.num_replicas()
        return [
            grad if t is None else backend.add_pull(grad, weight, w, t)
            for grad, w, t in zip(grads, variables, targets, strict=True)
        ]

    def _pull(self, variables, targets, stepped):
        """Moves the planned kernels by `rho` of their way to `t`."""
        weight = self._admm.rho * ops.cast(stepped, "float32")
        for w, t in zip(variables, targets, strict=True):
            if t is not None:
                backend.pull(weight, w, t)
                if w.constraint is not None:
                    w.assign(w.constraint(w))
        # What `fit` may end with: they would come to `z` long after.
        if self.inner_optimizer.use_ema:
            averages = keras_hooks.averages_of(self.inner_optimizer)
            for w, t in zip(variables, targets, strict=True):
                if t is not None:
                    index = self._get_variable_index(w)
                    backend.pull(weight, averages[index], t)

    def _update_if_due(self, stepped):
        due = ops.logical_and(stepped, self._ends_interval())
        known = backend.known(due)
        if known is False:
            return
        state = self._admm.read()
        if known:
            state = self._update(state)
        else:
            # Branches that assign fail on JAX: they return, and we assign.
            state = ops.cond(due, lambda: self._update(state), lambda: state)
        self._admm.assign(state)

    def _ends_interval(self):
        """Whether the step that was made is one with an update."""
        step = self._num_steps()
        if self._residual_plan is not None:
            return self._residual_plan.is_due(step, self._steps_apart())
        return ops.equal(step % self.update_every, 0)

    def _steps_apart(self):
        """`update_every`, which may be a tensor."""
        if self._interval is None and self._residual_plan is not None:
            return self._residual_plan.interval()
        return self.update_every

    def _update(self, state):
        kernels = self._kernels()
        apart, part = self._steps_apart(), None
        if self._residual_plan is not None:
            part = planned_rho.dual_step(state.rho, apart)
        state = iteration.update(
            kernels,
            state,
            self.plan,
            rho=self._next_rho(),
            rescale=self.rho_change == "rescale",
            share=self._next_share(),
            restart=self._begins_stage(),
            dual_step=part,
        )
        if self._residual_plan is not None:
            rho = planned_rho.next_rho(
                state.rho,
                iteration.relative_residual(kernels, self.plan, state),
                self._residual_plan.wanted(self._num_steps() + apart),
            )
            return iteration.with_rho(state, self.plan, rho)
        if isinstance(self._rho, ResidualBalancing):
            state = iteration.balance(kernels, state, self.plan, self._rho)
        return state

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            "needs": NEEDS,
            "name": self.name,
            "inner_optimizer": serialize(self.inner_optimizer),
            "plan": serialize(self.plan),
            "rho": serialize(self.rho),
            "update_every": self._interval or "auto",
            "rho_change": self.rho_change,
            "ramp": serialize(self.ramp),
            "steps": self.steps,
        }

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        store["plan"] = np.frombuffer(self.plan.digest(), "uint8")

    def load_own_variables(self, store: Any) -> None:
        saved = {name: store[name] for name in store.keys()}
        check_saved_plan(saved.pop("plan", None), self.plan)
        super().load_own_variables(saved)

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        custom_objects: dict[str, Any] | None = None,
    ) -> ADMMWrapper:
        config = {k: v for k, v in config.items() if k != "needs"}
        for name in ("inner_optimizer", "plan", "rho", "ramp"):
            config[name] = keras.saving.deserialize_keras_object(
                config[name], custom_objects=custom_objects
            )
        return cls(**config)
