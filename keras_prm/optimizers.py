"""ADMM as a wrapper around any Keras optimizer."""

from __future__ import annotations

import contextlib

import keras
from keras import ops

from keras_prm import admm
from keras_prm.optimizer_checks import check_arguments
from keras_prm.optimizer_checks import check_finite
from keras_prm.optimizer_checks import check_inner
from keras_prm.optimizer_checks import check_variables
from keras_prm.projections import kernel_filters
from keras_prm.structures import KernelMask


@keras.saving.register_keras_serializable(package="keras_prm")
class ADMMWrapper(keras.optimizers.Optimizer):
    """Trains towards structured sparsity with ADMM.

    The inner optimizer minimises the loss plus a quadratic penalty that
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

    Args:
        inner_optimizer: The optimizer to wrap, or its name. Learning rate,
            weight decay, clipping, EMA and gradient accumulation are set
            there.
        plan: The `SparsityPlan` of the model that will be trained.
        rho: The penalty's weight: a float >= 0, or a `LearningRateSchedule`
            of the number of applied steps, read at each update and constant
            in between. Defaults to `1e-2`.
        update_every: Applied steps from one update to the next. Defaults to
            100.
        rho_change: What happens to `u` when a schedule changes `rho`.
            `"rescale"` multiplies it by the old `rho` over the new one;
            `"restart"` begins afresh from the projection of `w`, for `rho`
            in stages. Defaults to `"rescale"`.
        name: Name of the optimizer.
        **kwargs: Refused; they belong to the inner optimizer.

    Raises:
        TypeError: If an argument is of a kind that cannot work here.
        ValueError: If an argument is out of range or of the inner optimizer;
            in `build`, if the plan was not made for these variables, or if
            they are not finite.

    References:
        - [Boyd et al., 2011](https://doi.org/10.1561/2200000016)
        - [arXiv:1905.00136](https://arxiv.org/abs/1905.00136)
    """

    def __init__(
        self,
        inner_optimizer,
        plan,
        rho=1e-2,
        update_every=100,
        rho_change="rescale",
        name=None,
        **kwargs,
    ):
        if isinstance(inner_optimizer, str):
            inner_optimizer = keras.optimizers.get(inner_optimizer)
        check_inner(inner_optimizer, ADMMWrapper)
        check_arguments(plan, rho, update_every, rho_change, kwargs)
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        self.plan = plan
        self.rho = rho
        self.update_every = int(update_every)
        self.rho_change = rho_change

    def build(self, variables):
        if self.built:
            return
        check_variables(variables, self.plan)
        kernels = [variables[k.index] for k in self.plan.kernels]
        with _outside_of_graphs():
            if not self.inner_optimizer.built:
                self.inner_optimizer.build(variables)
            check_finite(kernels, self.plan)
            kernels = [ops.convert_to_tensor(v) for v in kernels]
            state = admm.start(kernels, self.plan, self._next_rho())
            self._add_state(state, variables)
        super().build(variables)

    def _add_state(self, state, variables):
        self._targets = [
            self.add_variable_from_reference(
                variables[k.index], name="target", initializer=_constant(t)
            )
            for k, t in zip(self.plan.kernels, state.targets, strict=True)
        ]
        self._columns = [
            self._add_like(columns, f"{k.key}_columns".replace("/", "_"))
            for k, columns in zip(self.plan.kernels, state.columns, strict=True)
        ]
        self._channels = self._add_like(state.channels, "channels")
        self._current_rho = self._add_like(state.rho, "rho")
        self._dual = self._add_like(state.dual, "dual_residuals")

    def _add_like(self, tensor, name):
        return self.add_variable(
            tensor.shape, _constant(tensor), dtype="float32", name=name
        )

    def _state(self):
        variables = admm.State(
            targets=list(self._targets),
            channels=self._channels,
            columns=list(self._columns),
            rho=self._current_rho,
            dual=self._dual,
        )
        return variables, keras.tree.map_structure(
            ops.convert_to_tensor, variables
        )

    def _kernels(self):
        variables = self._trainable_variables
        return [
            ops.convert_to_tensor(variables[k.index]) for k in self.plan.kernels
        ]

    def _next_rho(self):
        return self.rho(self.iterations) if callable(self.rho) else self.rho

    def apply(self, grads, trainable_variables=None):
        variables = list(trainable_variables or self._trainable_variables)
        if not self.built and variables:
            self.build(variables)
        if self.built:
            grads = self._add_penalty(grads, variables)
        # A copy, since the variable itself is about to count on.
        before = ops.copy(self.iterations)
        self.inner_optimizer.apply(grads, trainable_variables)
        self._update_if_due(before)

    def _add_penalty(self, grads, variables):
        """Adds `rho * (w - t)` to the gradients of the planned kernels."""
        self._check_variables_are_known(variables)
        # The inner optimizer divides by the loss scale and sums over the
        # replicas; neither is meant for the penalty.
        weight = self._current_rho * (self.loss_scale_factor or 1.0)
        weight = weight / _num_replicas()
        indices = [kernel.index for kernel in self.plan.kernels]
        targets = dict(zip(indices, self._targets, strict=True))
        penalised = []
        for grad, w in zip(grads, variables, strict=True):
            t = targets.get(self._get_variable_index(w))
            if grad is not None and t is not None:
                grad = ops.add(grad, ops.cast(weight, w.dtype) * (w - t))
            penalised.append(grad)
        return penalised

    def _update_if_due(self, before):
        step = ops.convert_to_tensor(self.iterations)
        # While gradients accumulate the step stands still.
        due = ops.logical_and(
            ops.not_equal(step, before), ops.equal(step % self.update_every, 0)
        )
        variables, state = self._state()
        # Branches that assign fail on JAX: they return, and we assign.
        new_state = ops.cond(due, lambda: self._update(state), lambda: state)
        keras.tree.map_structure(
            lambda variable, value: variable.assign(value), variables, new_state
        )

    def _update(self, state):
        return admm.update(
            self._kernels(),
            state,
            self.plan,
            rho=self._next_rho(),
            rescale=self.rho_change == "rescale",
        )

    @property
    def variables(self):
        return self._variables + self.inner_optimizer.variables

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def loss_scale_factor(self):
        return self.inner_optimizer.loss_scale_factor

    @loss_scale_factor.setter
    def loss_scale_factor(self, loss_scale_factor):
        # The base constructor sets None before there is an inner optimizer.
        if hasattr(self, "inner_optimizer"):
            self.inner_optimizer.loss_scale_factor = loss_scale_factor

    @property
    def _model_variables_moving_average(self):
        # `SwapEMAWeights` looks for it below a `LossScaleOptimizer`.
        return self.inner_optimizer._model_variables_moving_average

    def apply_gradients(self, grads_and_vars):
        super().apply_gradients(grads_and_vars)
        return self.iterations

    def exclude_from_weight_decay(self, *args, **kwargs):
        self.inner_optimizer.exclude_from_weight_decay(*args, **kwargs)

    def scale_loss(self, loss):
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list):
        self.inner_optimizer.finalize_variable_values(var_list)

    @property
    def channels(self):
        """Which channel classes `z` keeps: bool array `(num_classes,)`."""
        self._check_built()
        return ops.convert_to_numpy(self._channels) > 0

    def masks(self):
        """The support of `z`: dict from kernel key to `KernelMask`."""
        self._check_built()
        return {
            k.key: KernelMask(
                filters=ops.convert_to_numpy(
                    kernel_filters(k, self._channels) > 0
                ),
                columns=ops.convert_to_numpy(columns) > 0,
                axes=k.axes,
            )
            for k, columns in zip(self.plan.kernels, self._columns, strict=True)
        }

    def residuals(self):
        """How far ADMM is from agreement, for each kernel.

        Returns:
            dict from kernel key to `{"primal": ||w - z||, "dual": rho *
            ||z - previous z||}`, floats: `primal` of the weights as they are
            now, `dual` as of the last update. Both shrink to 0.
        """
        self._check_built()
        _, state = self._state()
        z = admm.sparse_parts(self.plan, state)
        primal = admm.distances(self._kernels(), z)
        pairs = zip(
            ops.convert_to_numpy(primal),
            ops.convert_to_numpy(state.dual),
            strict=True,
        )
        return {
            k.key: {"primal": float(p), "dual": float(d)}
            for k, (p, d) in zip(self.plan.kernels, pairs, strict=True)
        }

    def _check_built(self):
        if not self.built:
            raise ValueError(
                f"Optimizer {self.name!r} holds no masks yet: it is not "
                "built. Train the model for a step, or call "
                "`optimizer.build(model.trainable_variables)`, first."
            )

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "inner_optimizer": serialize(self.inner_optimizer),
            "plan": serialize(self.plan),
            "rho": serialize(self.rho),
            "update_every": self.update_every,
            "rho_change": self.rho_change,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for name in ("inner_optimizer", "plan", "rho"):
            config[name] = keras.saving.deserialize_keras_object(
                config[name], custom_objects=custom_objects
            )
        return cls(**config)


def _constant(tensor):
    return keras.initializers.Constant(ops.convert_to_numpy(tensor))


def _num_replicas():
    """How many replicas train under the current TensorFlow strategy."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def _outside_of_graphs():
    """Where values are concrete, though a `tf.function` is being traced."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.init_scope()
