"""Training of one network on images: what all phases share."""

import sys

import keras
import numpy as np

import keras_prm
from examples.common import augmentation
from examples.study import distillation


class Trainer:
    """Trains networks on one data set by one recipe.

    Args:
        recipe: The `PhaseRecipe`.
        data: dict of the `ByteSplit`s `"train"`, `"valid"` and `"test"`.
        seed: Seed of weights, order and crops.
        checkpoint_every: Epochs from one checkpoint to the next.
        workers: Threads that read batches ahead, if more than 1.
    """

    def __init__(self, recipe, data, seed, checkpoint_every=1, workers=1):
        self.recipe = recipe
        self.data = data
        self.seed = seed
        self.checkpoint_every = checkpoint_every
        self.workers = workers
        self.num_steps = len(self.batches())

    def batches(self, logits=None, hole=0):
        """The training images; with a teacher's `logits`, as targets too."""
        return augmentation.CropsAndFlips(
            self.data["train"],
            self.recipe.batch_size,
            self.recipe.pixels,
            self.seed,
            logits=logits,
            hole=hole,
            workers=self.workers,
            flips=self.recipe.flips,
        )

    def sgd(self, training, rate):
        """SGD with momentum and weight decay.

        Args:
            training: The `Training` that it is for.
            rate: The learning rate, or its schedule.
        """
        momentum = 0.9
        optimizer = keras.optimizers.SGD(
            rate,
            momentum=momentum,
            nesterov=True,
            # Keras' decay does not pass through the momentum, which would
            # make this much of it.
            weight_decay=training.weight_decay / (1 - momentum),
        )
        optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
        return optimizer

    def falling_sgd(self, training, warmup=0.2):
        """SGD whose learning rate rises for a while, and falls to 0.

        Args:
            training: The `Training` that it is for.
            warmup: Share of the steps in which it rises.
        """
        steps = training.epochs * self.num_steps
        rising = max(1, int(warmup * steps))
        rate = keras.optimizers.schedules.CosineDecay(
            0.0,
            max(1, steps - rising),
            warmup_target=training.rate,
            warmup_steps=rising,
        )
        return self.sgd(training, rate)

    def rho(self, admm):
        """ADMM's penalty by the step, one factor higher each epoch."""
        return keras.optimizers.schedules.ExponentialDecay(
            admm.rho, self.num_steps, admm.growth, staircase=True
        )

    def fit(
        self, model, optimizer, training, folder, callbacks=(), logits=None
    ):
        """Trains a model; goes on where it was cut off, exits if it diverges.

        Args:
            model: An `augmentation.augmented` model, compiled here.
            optimizer: Its optimizer.
            training: The `Training` that says how long.
            folder: Where checkpoint and log are kept, a path.
            callbacks: More Keras callbacks.
            logits: A teacher's answers, see `CropsAndFlips`, or None.
        """
        batches = self.batches(logits, training.hole)
        model.compile(
            optimizer,
            self._loss(logits),
            metrics=[
                distillation.accuracy if logits is not None else "accuracy"
            ],
        )
        folder.mkdir(parents=True, exist_ok=True)
        masks = [
            c.masks
            for c in callbacks
            if isinstance(c, keras_prm.StructuredMask)
        ]
        model.fit(
            batches,
            epochs=training.epochs,
            shuffle=False,  # `batches` are, by seed and epoch alone
            validation_data=augmentation.InOrder(
                self.data["valid"],
                500,
                self.recipe.pixels,
                hole=training.hole,
                workers=self.workers,
            ),
            callbacks=[
                *callbacks,
                keras_prm.AtomicCheckpoint(
                    folder / "training.ckpt",
                    *masks,
                    every=self.checkpoint_every,
                    set_epoch=batches.set_epoch,
                ),
                keras.callbacks.CSVLogger(folder / "log.csv", append=True),
                _StopWhereLossIsNotFinite(),
            ],
            verbose=1 if sys.stdout.isatty() else 2,
        )
        if not all(np.isfinite(w).all() for w in model.get_weights()):
            raise SystemExit(
                f"Training in {folder} has diverged: weights are not finite. "
                "Lower its learning rate in the recipe, and choose another "
                "--output_dir, or delete the folder of the point."
            )

    def _loss(self, logits):
        if logits is None:
            return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        taught = self.recipe.distillation
        return distillation.Distillation(taught.weight, taught.temperature)


class _StopWhereLossIsNotFinite(keras.callbacks.Callback):
    """`TerminateOnNaN` by the epoch: that one waits for each step of a GPU."""

    def on_epoch_end(self, epoch, logs=None):
        if not np.isfinite(logs["loss"]):
            self.model.stop_training = True
