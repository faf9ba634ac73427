"""Callbacks: masks that hold during `fit`, and ADMM's progress."""

from __future__ import annotations

import keras
import numpy as np

from keras_prm import masks as masks_module


class StructuredMask(keras.callbacks.Callback):
    """Keeps what is pruned at zero while `fit` trains the rest.

    For the duration of `fit` every masked variable has a constraint, which
    Keras applies inside the compiled step after every update, so that no
    step ever sees a weight that should be zero. A constraint of your own is
    applied before it and restored at the end; a later `fit` without the
    callback is free again.

    With `keras.callbacks.SwapEMAWeights`, put this callback after it.

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
        self._held = None
        self._active = None

    def on_train_begin(self, logs=None):
        self._leave()
        self._held = self.masks
        if self._held is None:
            self._held = masks_module.masks_of(self.model)
        self._active = masks_module.enforced(self.model, self._held)
        self._active.__enter__()

    def on_epoch_end(self, epoch, logs=None):
        masks_module.apply_masks(self.model, self._held)

    def on_test_begin(self, logs=None):
        if self._active is not None:
            masks_module.apply_masks(self.model, self._held)

    def on_train_end(self, logs=None):
        self._leave()

    def _leave(self):
        if self._active is not None:
            self._active.__exit__(None, None, None)
            self._active = None


class ADMMProgress(keras.callbacks.Callback):
    """Reports how far the weights are from the structured set.

    Adds to the logs of every epoch, and so to `History`, the progress bar
    and TensorBoard:

    * `primal_residual`: ‖W − Z‖ over all planned kernels, which goes
      to 0 as the weights reach the set;
    * `dual_residual`: rho ‖Z' − Z‖ of the last update, which goes to 0 as
      the set's nearest point stands still.

    Needs a model compiled with `ADMMWrapper`.

    Attributes:
        history: list with one dict per epoch, from kernel key to
            `{"primal": float, "dual": float}`.
    """

    def __init__(self):
        super().__init__()
        self.history = []

    def on_epoch_end(self, epoch, logs=None):
        wrapper = _find_wrapper(self.model.optimizer)
        residuals = wrapper.residuals()
        self.history.append(residuals)
        if logs is not None:
            for kind in ("primal", "dual"):
                values = [r[kind] for r in residuals.values()]
                logs[f"{kind}_residual"] = float(np.linalg.norm(values))


def _find_wrapper(optimizer):
    while optimizer is not None and not hasattr(optimizer, "residuals"):
        optimizer = getattr(optimizer, "inner_optimizer", None)
    if optimizer is None:
        raise ValueError(
            "ADMMProgress needs a model that is compiled with "
            "`keras_prm.ADMMWrapper(optimizer, plan)`."
        )
    return optimizer
