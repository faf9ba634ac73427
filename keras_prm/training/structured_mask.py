"""`StructuredMask`: masks that hold during `fit`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import keras

from keras_prm.pruning.masks import apply_masks
from keras_prm.pruning.masks import masks_fit
from keras_prm.pruning.masks import masks_of
from keras_prm.training import mask_constraint
from keras_prm.training import trainers
from keras_prm.utils import signatures
from keras_prm.utils import variable_keys

if TYPE_CHECKING:
    from typing import Any

    from keras_prm.pruning.masks import Masks


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
    them off, as does the next `fit` with a `StructuredMask` of its own, from
    layers that are frozen meanwhile, too.

    A layer that gets other variables in mid-training, because it is built
    anew, quantized or given LoRA weights, would compute with what no mask
    holds. That is an error at the next epoch or evaluation; no weight is
    changed then, and the masks are taken off.

    Where another model trains the network, as in a GAN, a VAE or
    distillation, `trainer.fit(callbacks=[...])`, the network inside is
    masked: that of `model`, or the only one that the masks fit, a Keras
    `Distiller`'s student before all. Two networks take a callback each.

    Args:
        masks: The `Masks` that `hard_prune` returned; `None` takes those of
            the model's zeros when training begins.
        model: The network that the masks are for, where `fit` is another
            model's. Defaults to `None`, which finds it.

    Raises:
        TypeError: In `fit`: `masks` are no `Masks`, `model` is no model, or
            the network is subclassed.
        ValueError: In `fit`: the masks do not fit the model, or several
            networks inside of it, or `model` is none of these, or a masked
            layer got other variables.

    Warns:
        UserWarning: In `fit`, once: an `ADMMWrapper` still trains for what
            the masks have removed; the masks leave nothing of a kernel; or
            something else than this `fit` changed masked weights, in the
            meantime or since the `fit` before that held the same masks.

    Example:

    ```python
    masks = keras_prm.hard_prune(model, plan)
    model.fit(x, y, callbacks=[keras_prm.StructuredMask(masks)])
    ```
    """

    def __init__(
        self,
        masks: Masks | None = None,
        model: keras.Model | None = None,
    ) -> None:
        super().__init__()
        self.masks = masks
        self.network = model
        self.student = None
        self._used = None
        self._held = None
        self._weights = None
        self._warned = set()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        left = mask_constraint.left_over(self.model, self.model.history)
        if left:
            mask_constraint.release_masks(self.model, left)
        self._warned = set()
        self.student = self._find()
        self._warn_of_changes()
        masks = self.masks
        if masks is None:
            masks = masks_of(self.student)
        self._held = None
        try:
            self._hold(masks)
            self._warn_of_admm()
        except Exception:  # Keras does not tell of the end then
            mask_constraint.release_masks(self.model, self._held or [])
            raise

    def _find(self):
        """The network that is masked: that of `fit`, or one inside of it."""
        masks, own = self.masks, trainers.student_of(self.model)

        def fits_in(model):
            if masks is None:
                return model is own or bool(masks_of(model).kernels)
            return masks_fit(model, masks)

        def is_pruned_so(model):
            return masks is None or not mask_constraint.num_leaks(model, masks)

        def owns(model):
            return masks is not None and signatures.are_of(
                masks.weights, masks.kernels, model
            )

        what = "have zeros" if masks is None else "fit the masks"
        return trainers.network_of(
            self.model, self.network, fits_in, what, is_pruned_so, owns
        )

    def _hold(self, masks):
        """Holds masks from now on, in place of those held so far."""
        before, student = self._held, self.student
        self._held = mask_constraint.hold(student, masks)
        self._used = masks = masks.named_as(student)
        masks.note_held_in(student)
        mask_constraint.retrace(self.model)
        self._weights = mask_constraint.weights_by_layer(student)
        for constraint in self._held:
            constraint.training = self.model.history
        if before:
            mask_constraint.release_masks(self.model, before)
        self._warn_of_dead_kernels(masks)

    def _warn_of_admm(self):
        advice = mask_constraint.advice_on_admm(
            self.model, self.student, self._used
        )
        if advice:
            self._warn(advice)

    def _warn_of_changes(self):
        """What another training has done to the weights since the last one."""
        masks, fate = self.masks, mask_constraint.ZEROED
        if masks is None:
            masks, fate = self._used, "are not held any more"
        if masks is not None:
            advice = mask_constraint.advice_on_changes(
                self.student, masks, fate
            )
            if advice:
                self._warn(advice)

    def _warn_of_dead_kernels(self, masks):
        variables = variable_keys.variables_by_key(self.student)
        trained = {id(v) for v in self.student.trainable_variables}
        dead = [
            key
            for key, mask in masks.kernels.items()
            if not mask.full().any() and id(variables[key]) in trained
        ]
        if dead:
            self._warn(
                "The masks leave nothing of some kernels, which stay zero. "
                "If they are zero since they were initialized so, as the "
                "last of a residual branch may be, let them train: "
                "`del masks.kernels[key]`, where `masks = masks_of(model)`. "
                f"Received: masks without an entry for {dead}"
            )

    def _warn(self, text):
        if text not in self._warned:
            self._warned.add(text)
            warnings.warn(text, stacklevel=2)

    def _check(self):
        """Raises where a variable is no longer the one that is held."""
        try:
            mask_constraint.check_weights(
                self.student, self._used, self._held, self._weights
            )
        except ValueError:
            self._held = None
            mask_constraint.retrace(self.model)
            raise

    def on_epoch_begin(
        self,
        epoch: int,
        logs: dict[str, Any] | None = None,
    ) -> None:
        self._check()

    def on_epoch_end(
        self,
        epoch: int,
        logs: dict[str, Any] | None = None,
    ) -> None:
        self._check()
        # Averages of weights (EMA) are taken before constraints are applied.
        averaged = mask_constraint.averages(self.model)
        if not averaged and mask_constraint.num_leaks(self.student, self._used):
            self._warn(
                "Masked weights were not zero at the end of an epoch, and are "
                "now: something else than this `fit` changed them, such as "
                "the training of another model that shares the layers, or "
                "weights that a callback loaded. Mask them there, too: "
                "`with keras_prm.enforced(model, masks, compiled=other):`."
            )
        apply_masks(self.student, self._used)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._held is not None:
            self._check()
            apply_masks(self.student, self._used)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._check()
        mask_constraint.release_masks(self.model, self._held)
        apply_masks(self.student, self._used)
        self._held = None
        self._weights = None
