"""ADMM as textbooks print it: `z` and `u` kept in full, another projection.

What `keras_prm.ADMMWrapper` is compared with. It keeps one buffer per kernel
and projects filters and columns jointly; here are two buffers, a penalty in
the loss, and a projection of one's choice.
"""

import dataclasses

import keras
from keras import ops

import keras_prm
from keras_prm.admm import iteration
from keras_prm.plans import projections


def joint(kernels, plan):
    """Filters and columns together, as `ADMMWrapper` projects."""
    return _masks(plan, *projections.project_plan(kernels, plan))


def filters_first(kernels, plan):
    """Filters by all of their columns; columns next, in those filters."""
    filters_only = keras_prm.SparsityPlan(
        [dataclasses.replace(k, columns=0.0) for k in plan.kernels],
        plan.groups,
        plan.variables,
    )
    live = joint(kernels, filters_only)
    # Of what is live, the plan keeps all filters: nothing else has energy.
    return joint([w * m for w, m in zip(kernels, live)], plan)


def _masks(plan, channels, columns):
    """0/1 arrays in the shapes of the kernels."""
    return [
        iteration.kernel_mask(kernel, channels, column)
        for kernel, column in zip(plan.kernels, columns)
    ]


class TextbookADMM(keras.callbacks.Callback):
    """Scaled ADMM, updated at the end of each epoch.

        loss + rho / 2 ||w - z + u||^2,  z = P(w + u),  u = u + w - z

    and `u` is rescaled as `rho` changes. `penalty` belongs in the loss, which
    reads `rho`, `z` and `u` as they are: not on JAX, which would freeze them.

    Args:
        model: The model that is trained.
        plan: The `SparsityPlan`.
        rho: Function from the number of the epoch to the penalty's weight.
        project: `joint` or `filters_first`.

    Raises:
        ValueError: Keras runs on JAX.
    """

    def __init__(self, model, plan, rho, project=joint):
        super().__init__()
        if keras.backend.backend() == "jax":
            raise ValueError(
                "JAX freezes what a loss reads. Use TensorFlow or PyTorch "
                "for the textbook's ADMM. Received: backend='jax'"
            )
        self.plan = plan
        self.schedule = rho
        self.project = project
        self.w = [model.trainable_variables[k.index] for k in plan.kernels]
        values = [ops.convert_to_tensor(w.value) for w in self.w]
        self.rho = _variable(float(rho(0)))
        self.z = [
            _variable(w * m) for w, m in zip(values, project(values, plan))
        ]
        self.u = [_variable(ops.zeros(w.shape)) for w in values]

    def penalty(self):
        """What the loss grows by, a scalar."""
        distances = [
            ops.sum(ops.square(w.value - z + u))
            for w, z, u in zip(self.w, self.z, self.u)
        ]
        return self.rho / 2 * sum(distances)

    def on_epoch_end(self, epoch, logs=None):
        a = [w.value + u for w, u in zip(self.w, self.u)]
        rho = float(self.schedule(epoch + 1))
        for kernel, mask, z, u in zip(
            a, self.project(a, self.plan), self.z, self.u
        ):
            z.assign(kernel * mask)
            u.assign((kernel - z) * (self.rho / rho))
        self.rho.assign(rho)

    def prune(self, model):
        """Sets to zero what `z` does not hold. Works in place."""
        for w, z in zip(self.w, self.z):
            w.assign(ops.where(ops.equal(z, 0), 0.0, w.value))
        keras_prm.hard_prune(model, self.plan)


def _variable(value):
    return keras.Variable(value, trainable=False, dtype="float32")
