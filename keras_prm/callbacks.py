"""The callback that makes masks hold during `fit`."""

from __future__ import annotations

import keras

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

    A layer that gets other variables in mid-training, because it is built
    anew, quantised or given LoRA weights, would compute with what no mask
    holds. That is an error at the next epoch or evaluation; no weight is
    changed then, and the masks are taken off.

    Under a Keras `Distiller`, `distiller.fit(callbacks=[...])`, it is the
    student that is masked.

    Args:
        masks: The `Masks` that `hard_prune` returned; `None` takes those of
            the model's zeros when training begins.

    Raises:
        TypeError: In `fit`: `masks` are no `Masks`, or the model is
            subclassed.
        ValueError: In `fit`: the masks do not fit the model, or a masked
            layer got other variables.

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
        self._weights = None

    def on_train_begin(self, logs=None):
        self._remove_leftovers()
        masks = self.masks
        if masks is None:
            masks = masks_module.masks_of(self.student)
        self._hold(masks)

    @property
    def student(self):
        """The model that is masked: that of `fit`, or a `Distiller`'s."""
        return enforcing.student_of(self.model)

    def _hold(self, masks):
        """Holds masks from now on, in place of those held so far."""
        before, self._used = self._held, masks
        self._held = enforcing.hold(self.student, masks)
        enforcing.retrace(self.model)
        self._weights = enforcing.weights_by_layer(self.student)
        for constraint in self._held:
            constraint.training = self.model.history
        if before:
            enforcing.release_masks(self.model, before)

    def _remove_leftovers(self):
        """Takes off what a training that was interrupted left behind."""
        left = []
        for variable in self.student.trainable_variables:
            link = variable.constraint
            while isinstance(link, enforcing.MaskConstraint):
                if link.training not in (None, self.model.history):
                    left.append(link)
                link = link.inner
        if left:
            enforcing.release_masks(self.model, left)

    def _check(self):
        """Raises where a variable is no longer the one that is held."""
        try:
            enforcing.check_weights(
                self.student, self._used, self._held, self._weights
            )
        except ValueError:
            self._held = None
            enforcing.retrace(self.model)
            raise

    def on_epoch_begin(self, epoch, logs=None):
        self._check()

    def on_epoch_end(self, epoch, logs=None):
        self._check()
        masks_module.apply_masks(self.student, self._used)

    def on_test_begin(self, logs=None):
        if self._held is not None:
            self._check()
            masks_module.apply_masks(self.student, self._used)

    def on_train_end(self, logs=None):
        self._check()
        enforcing.release_masks(self.model, self._held)
        masks_module.apply_masks(self.student, self._used)
        self._held = None
        self._weights = None
