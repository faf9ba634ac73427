"""Training of networks on images: a small one often, a large one long."""

import sys

import keras
import numpy as np

import keras_prm
from examples.common import augmentation
from examples.common import image_data
from examples.study import distillation
from examples.study import measuring


class Trainer:
    """Trains networks on one data set by one recipe.

    Args:
        recipe: The recipe.
        data: dict of the `Split`s `"train"`, `"valid"` and `"test"`.
        seed: Seed of weights, order and crops.

    Attributes:
        num_steps: Steps of an epoch.
    """

    num_steps: int

    def __init__(self, recipe, data, seed):
        self.recipe = recipe
        self.data = data
        self.seed = seed

    def account(self, stage, model):
        """What a model holds and how well it does, never on the test split."""
        top = getattr(self.recipe, "top", None)
        return measuring.account(stage, model, self.data["valid"], top)

    def by_epoch(self, first, growth):
        """ADMM's penalty by the step, one factor higher each epoch."""
        return keras.optimizers.schedules.ExponentialDecay(
            first, self.num_steps, growth, staircase=True
        )

    def admm(self, optimizer, plan, rho):
        """ADMM around an optimizer, updated once an epoch."""
        return keras_prm.ADMMWrapper(
            optimizer, plan, rho=rho, update_every=self.num_steps
        )


def loss_of(is_taught, weight, temperature):
    """The loss of labels, or of labels and a teacher's answers."""
    if is_taught:
        return distillation.Distillation(weight, temperature)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class FrontierTrainer(Trainer):
    """Trains a small network densely, and its pruned forms.

    Its recipe is a `FrontierRecipe`.

    Attributes:
        epoch: The number of the next epoch, from the dense network on: each
            epoch on the way to a point has an order and shifts of its own.
        teacher: What the dense network says of the training images, as
            `distillation.teacher_logits` returns it; None: nobody teaches.
        say: Called with a line of text from time to time while it trains.
    """

    def __init__(self, recipe, data, seed):
        super().__init__(recipe, data, seed)
        self.epoch = 0
        self.teacher = None
        self.say = lambda text: None
        self.num_steps = -(-len(data["train"].y) // recipe.batch_size)

    def dense(self):
        """Trains the dense network; in full precision."""
        recipe = self.recipe
        model = self.network(recipe.precision)
        adam = keras.optimizers.Adam(
            self.falling(recipe.dense_rate, recipe.dense_epochs)
        )
        self.fit(model, adam, recipe.dense_epochs)
        self.epoch = 0
        return self.in_float32(model)

    def network(self, precision, weights=None):
        """The network at full width."""
        keras.utils.set_random_seed(self.seed)
        train = self.data["train"]
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(precision)
        try:
            model = self.recipe.build(train.image_shape, int(train.y.max()) + 1)
        finally:
            keras.config.set_dtype_policy(policy)
        if weights is not None:
            model.set_weights(weights)
        return model

    def in_float32(self, model):
        """A copy in full precision of a network at full width."""
        return self.network("float32", model.get_weights())

    @property
    def rho(self):
        """ADMM's penalty by the step, one factor higher each epoch."""
        return self.by_epoch(self.recipe.rho, self.recipe.rho_growth)

    def falling(self, rate, epochs):
        """A learning rate that falls from `rate` to 0, as a cosine."""
        return keras.optimizers.schedules.CosineDecay(
            rate, self.num_steps * epochs
        )

    def retrain(self, model, epochs, taught=True):
        """Trains what is left; what is zero stays zero."""
        adam = keras.optimizers.Adam(
            self.falling(self.recipe.retrain_rate, epochs)
        )
        mask = keras_prm.StructuredMask(keras_prm.masks_of(model))
        self.fit(model, adam, epochs, [mask], taught)

    def fit(
        self, model, optimizer, epochs, callbacks=(), taught=True, penalty=None
    ):
        """Trains a network for the next epochs.

        Args:
            model: The network, compiled here.
            optimizer: Its optimizer.
            epochs: How many.
            callbacks: Keras callbacks.
            taught: Whether the teacher's answers are in the loss, where
                there is a teacher.
            penalty: None, or a function whose value is added to the loss.
        """
        batches, loss = self._lesson(taught)
        batches.set_epoch(self.epoch)
        self.epoch += epochs
        if penalty is not None:
            loss = _penalized(loss, penalty)
        model.compile(optimizer, loss, steps_per_execution=10)
        callbacks = [*callbacks, self._progress(epochs)]
        model.fit(batches, epochs=epochs, callbacks=callbacks, verbose=0)

    def _progress(self, epochs, every=20):
        def line(epoch, logs):
            done = epoch + 1
            if done % every == 0 or done == epochs:
                self.say(f"epoch {done} of {epochs}, loss {logs['loss']:.4f}")

        return keras.callbacks.LambdaCallback(on_epoch_end=line)

    def _lesson(self, taught):
        """Batches, and the loss for their targets."""
        recipe, train = self.recipe, self.data["train"]
        taught = taught and self.teacher is not None
        if taught:
            batches = distillation.TaughtShifts(
                train, self.teacher, recipe.batch_size, self.seed
            )
        else:
            batches = image_data.RandomShifts(
                train, recipe.batch_size, recipe.shift, self.seed
            )
        return batches, loss_of(taught, recipe.distillation, recipe.temperature)


def _penalized(loss, penalty):
    def penalized(y_true, y_pred):
        return loss(y_true, y_pred) + penalty()

    return penalized


class PhaseTrainer(Trainer):
    """Trains a large network; goes on where it was cut off.

    Its recipe is a `PhaseRecipe`, its splits are `ByteSplit`s.

    Args:
        recipe: As of `Trainer`, like `data` and `seed`.
        checkpoint_every: Epochs from one checkpoint to the next.
        workers: Threads that read batches ahead, if more than 1.
    """

    def __init__(self, recipe, data, seed, checkpoint_every=1, workers=1):
        super().__init__(recipe, data, seed)
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
        taught, is_taught = self.recipe.distillation, logits is not None
        model.compile(
            optimizer,
            loss_of(is_taught, taught.weight, taught.temperature),
            metrics=[distillation.accuracy if is_taught else "accuracy"],
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


class _StopWhereLossIsNotFinite(keras.callbacks.Callback):
    """`TerminateOnNaN` by the epoch: that one waits for each step of a GPU."""

    def on_epoch_end(self, epoch, logs=None):
        if not np.isfinite(logs["loss"]):
            self.model.stop_training = True
