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
        self._used = self.masks
        if self._used is None:
            self._used = masks_module.masks_of(self.model)
        self._held = enforcing.hold(self.model, self._used)
        for constraint in self._held:
            constraint.training = self.model.history

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
