"""Training the networks of a frontier: one recipe, one seed."""

import keras

import keras_prm
from examples.common import image_data
from examples.common import networks
from examples.study import distillation
from examples.study import measuring


class Trainer:
    """Trains a network densely, and its pruned forms.

    Args:
        recipe: The `Recipe`.
        data: dict of the `Split`s `"train"`, `"valid"` and `"test"`.
        seed: Seed of weights, batches and shifts.

    Attributes:
        epoch: The number of the next epoch, from the dense network on: each
            epoch on the way to a point has an order and shifts of its own.
        teacher: What the dense network says of the training images, as
            `distillation.teacher_logits` returns it; None: nobody teaches.
        say: Called with a line of text from time to time while it trains.
    """

    def __init__(self, recipe, data, seed):
        self.recipe = recipe
        self.data = data
        self.seed = seed
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
            model = networks.NETWORKS[self.recipe.network](
                train.x.shape[1:], int(train.y.max()) + 1
            )
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
        return keras.optimizers.schedules.ExponentialDecay(
            self.recipe.rho,
            self.num_steps,
            self.recipe.rho_growth,
            staircase=True,
        )

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
        self,
        model,
        optimizer,
        epochs,
        callbacks=(),
        taught=True,
        penalty=None,
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
            loss = _penalised(loss, penalty)
        model.compile(optimizer, loss, steps_per_execution=10)
        callbacks = [*callbacks, self._progress(epochs)]
        model.fit(batches, epochs=epochs, callbacks=callbacks, verbose=0)

    def account(self, stage, model):
        """What a model holds and how well it does, never on the test split."""
        return measuring.account(stage, model, self.data["valid"])

    def _progress(self, epochs, every=20):
        def line(epoch, logs):
            done = epoch + 1
            if done % every == 0 or done == epochs:
                self.say(f"epoch {done} of {epochs}, loss {logs['loss']:.4f}")

        return keras.callbacks.LambdaCallback(on_epoch_end=line)

    def _lesson(self, taught):
        """Batches, and the loss for their targets."""
        recipe, train = self.recipe, self.data["train"]
        if self.teacher is None or not taught:
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            batches = image_data.RandomShifts(
                train, recipe.batch_size, recipe.shift, self.seed
            )
            return batches, loss
        return (
            distillation.TaughtShifts(
                train, self.teacher, recipe.batch_size, self.seed
            ),
            distillation.Distillation(recipe.distillation, recipe.temperature),
        )


def _penalised(loss, penalty):
    def penalised(y_true, y_pred):
        return loss(y_true, y_pred) + penalty()

    return penalised
