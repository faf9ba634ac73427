"""Callbacks: masks that hold during `fit`, and ADMM's progress."""

from __future__ import annotations

import warnings

import keras
import numpy as np

from keras_prm import enforcing
from keras_prm import masks as masks_module


class StructuredMask(keras.callbacks.Callback):
    """Keeps what is pruned at zero while `fit` trains the rest.

    For the duration of `fit` every masked variable has a constraint, which
    Keras applies inside the compiled step after every update, so that no
    step ever sees a weight that should be zero. A constraint of your own is
    applied before it and restored at the end; a later `fit` without the
    callback is free again.

    With `keras.callbacks.SwapEMAWeights`, put this callback after it. If
    `fit` is interrupted, by an exception or by Ctrl-C, Keras does not tell
    its callbacks and the masks stay: `keras_prm.release_masks(model)` takes
    them off, as does the next `fit` with a `StructuredMask` of its own.

    Args:
        masks: The `Masks` that `hard_prune` returned; `None` takes those of
            the model's zeros when training begins.

    Example:

    ```python
    masks = keras_prm.hard_prune(model, plan)
    model.fit(x, y, callbacks=[keras_prm.StructuredMask(masks)])
    ```
    """

    def __init__(self, masks=None):
        super().__init__()
        self.masks = masks
        self._used = None
        self._held = None

    def on_train_begin(self, logs=None):
        self._remove_leftovers()
        masks = self.masks
        if masks is None:
            masks = masks_module.masks_of(self.model)
        self._hold(masks)

    def _hold(self, masks):
        """Holds masks from now on, in place of those held so far."""
        before, self._used = self._held, masks
        self._held = enforcing.hold(self.model, masks)
        for constraint in self._held:
            constraint.training = self.model.history
        if before:
            enforcing.release_masks(self.model, before)

    def _remove_leftovers(self):
        """Takes off what a training that was interrupted left behind."""
        left = []
        for variable in self.model.trainable_variables:
            link = variable.constraint
            while isinstance(link, enforcing.MaskConstraint):
                if link.training not in (None, self.model.history):
                    left.append(link)
                link = link.inner
        if left:
            enforcing.release_masks(self.model, left)

    def on_epoch_end(self, epoch, logs=None):
        masks_module.apply_masks(self.model, self._used)

    def on_test_begin(self, logs=None):
        if self._held is not None:
            masks_module.apply_masks(self.model, self._used)

    def on_train_end(self, logs=None):
        enforcing.release_masks(self.model, self._held)
        masks_module.apply_masks(self.model, self._used)
        self._held = None


class ADMMProgress(keras.callbacks.Callback):
    """Reports how far the weights are from the structured set.

    Adds to the logs of every epoch, and so to `History`, the progress bar
    and TensorBoard:

    * `primal_residual`: ‖W − Z‖ / ‖W‖ over all planned kernels. It goes to 0
      as the weights reach the set; while it is above about 0.1, pruning
      will hurt: raise `rho`, or train longer. It may rise at first.
    * `dual_residual`: rho ‖Z' − Z‖ of the last update, which goes to 0 as
      the set's nearest point stands still.

    Needs a model compiled with `ADMMWrapper`, and warns at the end of a
    training that was too short for a single update.

    Attributes:
        history: list with one dict per epoch, from kernel key to
            `{"primal": float, "dual": float}`, as `ADMMWrapper.residuals`
            returns them.
    """

    def __init__(self):
        super().__init__()
        self.history = []

    def on_epoch_end(self, epoch, logs=None):
        wrapper = _find_wrapper(self.model.optimizer)
        residuals = wrapper.residuals()
        self.history.append(residuals)
        if logs is not None:
            primal = _norm(r["primal"] for r in residuals.values())
            size = _norm(
                np.linalg.norm(keras.ops.convert_to_numpy(v))
                for v in (
                    self.model.trainable_variables[k.index]
                    for k in wrapper.plan.kernels
                )
            )
            logs["primal_residual"] = primal / size if size else 0.0
            logs["dual_residual"] = _norm(r["dual"] for r in residuals.values())

    def on_train_end(self, logs=None):
        wrapper = _find_wrapper(self.model.optimizer)
        steps = int(wrapper.iterations)
        if steps < wrapper.update_every:
            warnings.warn(
                f"ADMM was never updated: {steps} steps, and the first "
                f"update comes after {wrapper.update_every}. Train longer, "
                "or give ADMMWrapper a smaller `update_every`.",
                stacklevel=2,
            )


def _norm(values):
    return float(np.linalg.norm(list(values)))


def _find_wrapper(optimizer):
    while optimizer is not None and not hasattr(optimizer, "residuals"):
        optimizer = getattr(optimizer, "inner_optimizer", None)
    if optimizer is None:
        raise ValueError(
            "ADMMProgress needs a model that is compiled with "
            "`keras_prm.ADMMWrapper(optimizer, plan)`."
        )
    return optimizer
