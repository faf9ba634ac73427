"""`IterativePruning`: more and more of a plan, epoch by epoch."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from keras import ops

from keras_prm.plans.plan_fit import check_is_plan
from keras_prm.plans.plan_fit import fitted_plan
from keras_prm.plans.plan_fit import is_made_for
from keras_prm.plans.plan_fit import plan_fits
from keras_prm.pruning import scores
from keras_prm.pruning.hard_prune import masks_for
from keras_prm.pruning.hard_prune import warn_of_frozen
from keras_prm.pruning.masks import pruned
from keras_prm.training import trainers
from keras_prm.training.structured_mask import StructuredMask
from keras_prm.utils import validation

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import keras

    from keras_prm.plans.plan import SparsityPlan
    from keras_prm.pruning.masks import Masks


class IterativePruning(StructuredMask):
    """Prunes at the begin of epochs and holds what is pruned at zero.

    Each time the structures of the lowest `score` go, as many as the share
    of the plan that is then in force asks for, and the others train on with
    the masks held as `StructuredMask` holds them, at every step. What is
    pruned stays pruned: each pruning only removes more. (So a kernel can end
    with fewer columns than the plan leaves it, where its strongest columns
    read channels that fell later.)

    ```python
    ramp = keras.optimizers.schedules.PolynomialDecay(
        0.0, decay_steps=10, end_learning_rate=1.0, power=3
    )
    pruning = keras_prm.IterativePruning(plan, keras_prm.scores.l1_norm, ramp)
    model.fit(x, y, epochs=30, callbacks=[pruning])
    small = keras_prm.strip(model)
    ```

    This ramp is the cubic one of Zhu and Gupta: with `t` the epochs so far,
    the share `1 - (1 - t / 10)^3` is in force, most of it soon, and all of it
    from the begin of epoch 10 on, the eleventh. `power=1` makes it linear.

    Put callbacks that bring weights back, such as
    `EarlyStopping(restore_best_weights=True)`, before this one, and let them
    begin when the ramp has ended (`start_from_epoch`): weights of an epoch
    with less pruned would only be cut.

    A step is compiled anew after each pruning. With
    `keras.callbacks.SwapEMAWeights`, and if `fit` is interrupted, what
    `StructuredMask` says holds here too. Calling `fit` again with the same
    callback keeps what is pruned; give it `initial_epoch`, else the ramp
    begins anew.

    Args:
        plan: The `SparsityPlan` to arrive at.
        score: A function of `keras_prm.scores`, or one of your own. Defaults
            to `l2_norm`.
        ramp: A `LearningRateSchedule`, or another function, of the number of
            the epoch that returns the share of the plan, in [0, 1]. `None`
            has the whole plan in force at once.
        every: Prunes at epochs whose number is a multiple of this. Defaults
            to 1.
        data: Batches for scores that read gradients, see `hard_prune`. They
            are gone through at each pruning, so an iterator will not do.
        masks: `Masks` of what is pruned from the start, such as those that
            `hard_prune` returned. Defaults to those of the filters and
            columns that are zero when training begins; `Masks({})` lets
            these grow again.
        model: The network that the plan is for, where `fit` is another
            model's, such as a GAN that it is a part of. Defaults to `None`,
            which takes the only network inside that the plan fits.

    Attributes:
        masks: The `Masks` in force; after `fit` those that the model has.

    Raises:
        TypeError: `plan` is no `SparsityPlan`, or `ramp` no function.
        ValueError: `every` is below 1; when `fit` begins, the ramp leaves
            [0, 1] in one of its epochs, or what `hard_prune` raises.

    Warns:
        UserWarning: Kernels of the plan are frozen; or at the end of `fit`
            the ramp had not come to its end.

    Reference:
        - [Zhu and Gupta, 2017](https://arxiv.org/abs/1710.01878), the ramp.
    """

    def __init__(
        self,
        plan: SparsityPlan,
        score: scores.Score | None = None,
        ramp: Callable[[int], Any] | None = None,
        every: int = 1,
        data: Any = None,
        masks: Masks | None = None,
        model: keras.Model | None = None,
    ) -> None:
        check_is_plan(plan)
        _check_schedule(ramp, every)
        super().__init__(model=model)
        self.plan = plan
        self.score = scores.l2_norm if score is None else score
        self.ramp = ramp
        self.every = every
        self.data = data
        self._first_masks = masks
        self._pruned_model = None
        self._share = 0.0
        self._begins = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._pruned_model is not self.model:
            self._pruned_model = self.model
            self.masks = self._first_masks
            if self.masks is None:
                self.masks, _ = pruned(self._find())
            self._share = 0.0
        self._check_plan(self._find())
        self._begins = True
        super().on_train_begin(logs)

    def _check_plan(self, network):
        """Raises now what a pruning of a later epoch would raise."""
        plan = fitted_plan(network, self.plan)
        keys = [kernel.key for kernel in plan.kernels]
        warn_of_frozen(network, keys, stacklevel=2)
        if self.data is None:
            masks_for(network, self.plan, self.score)

    def on_epoch_begin(
        self,
        epoch: int,
        logs: dict[str, Any] | None = None,
    ) -> None:
        super().on_epoch_begin(epoch, logs)
        if self._begins:
            self._begins = False
            for later in range(epoch, self.params["epochs"]):
                self._share_at(later)
        # Not only at its multiples: a resumed `fit` may begin in between.
        share = self._share_at(epoch - epoch % self.every)
        if share > self._share:
            masks = masks_for(
                self.student, self.plan.at_share(share), self.score, self.data
            )
            if not self._share and epoch:
                # Resumed: a callback before this one has pruned already.
                masks = masks & pruned(self.student)[0]
            if self.masks is not None:
                masks = self.masks & masks
            self.masks = masks
            self._hold(self.masks)
            self._share = share

    def _find(self):
        return trainers.network_of(
            self.model,
            self.network,
            lambda model: plan_fits(model, self.plan),
            "fit the plan",
            owns=lambda model: is_made_for(model, self.plan),
        )

    def _share_at(self, epoch):
        if self.ramp is None:
            return 1.0
        share = float(ops.convert_to_numpy(self.ramp(epoch)))
        if not -1e-6 <= share <= 1 + 1e-6:  # schedules are in float32
            raise ValueError(
                "A ramp must return the share of the plan that is in force, "
                "in [0, 1]. Use a schedule from 0.0 to 1.0, such as "
                "`PolynomialDecay(0.0, decay_steps=10, "
                "end_learning_rate=1.0)`. "
                f"Received: {share} at epoch {epoch}"
            )
        return min(max(share, 0.0), 1.0)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_end(logs)
        if self._share < 1:
            warnings.warn(
                f"Only a share of {self._share:.3g} of the plan was in force "
                "at the end of training. Train for more epochs (`fit` again "
                "with `initial_epoch`), or make the ramp shorter; prunings "
                f"are every {self.every} epochs.",
                stacklevel=2,
            )


def _check_schedule(ramp, every):
    if ramp is not None and not callable(ramp):
        raise TypeError(
            "Expected `ramp` to be a `LearningRateSchedule` of the number of "
            "the epoch. For the whole plan at once, leave it out. "
            f"Received: ramp={ramp!r}"
        )
    advice = "Pass 1 to prune at each."
    validation.check_whole("every", every, "epochs", advice)
