"""How a point of a frontier is trained: one network, one seed, one recipe."""

import json
import os

import keras
import numpy as np

import keras_prm
from examples import distillation
from examples import image_data
from examples import networks


class Trainer:
    """Trains a network densely, and its pruned forms.

    Args:
        recipe: The `Recipe`.
        data: dict of the `Split`s `"train"`, `"valid"` and `"test"`.
        folder: Where the dense network and its answers are kept, a path.
        seed: Seed of weights, batches and shifts.
    """

    def __init__(self, recipe, data, folder, seed):
        self.recipe = recipe
        self.data = data
        self.folder = folder
        self.seed = seed
        self.num_steps = -(-len(data["train"].y) // recipe.batch_size)

    def dense(self):
        """The dense network, at the recipe's precision."""
        model = self._network(self.recipe.precision)
        model.set_weights(self.dense_in_float32().get_weights())
        return model

    def dense_in_float32(self):
        """The dense network; trained if it was not yet."""
        return self.cached(
            "dense", lambda: (self.in_float32(self._dense()), [])
        )[0]

    def _dense(self):
        recipe = self.recipe
        model = self._network(recipe.precision)
        batches = image_data.RandomShifts(
            self.data["train"], recipe.batch_size, recipe.shift, self.seed
        )
        adam = keras.optimizers.Adam(
            self.falling(recipe.dense_rate, recipe.dense_epochs)
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self._fit(model, batches, recipe.dense_epochs, adam, loss)
        return model

    def cached(self, name, make):
        """A model and its account, made once and read from then on."""
        path = self.folder / f"{name}.keras"
        account = self.folder / f"{name}.json"
        if not path.exists():
            model, stages = make()
            _save_whole(lambda p: p.write_text(json.dumps(stages)), account)
            _save_whole(model.save, path)
        return (
            keras.models.load_model(path, compile=False),
            json.loads(account.read_text()),
        )

    def in_float32(self, model):
        """A copy in full precision of a network at full width."""
        copy = self._network("float32")
        copy.set_weights(model.get_weights())
        return copy

    def teacher_logits(self):
        """The dense network's answers to the shifted training images."""
        path = self.folder / "teacher_logits.npy"
        if not path.exists():
            logits = distillation.teacher_logits(
                self.dense_in_float32(), self.data["train"], self.recipe.shift
            )
            _save_whole(lambda p: np.save(p, logits), path)
        return np.load(path)

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

    def fit(
        self, model, optimizer, epochs, callbacks=(), taught=True, penalty=None
    ):
        """Trains a network, taught by the dense one.

        Args:
            model: The network, compiled here.
            optimizer: Its optimizer.
            epochs: How long.
            callbacks: Keras callbacks.
            taught: Whether the dense network's answers are in the loss.
            penalty: None, or a function whose value is added to the loss.
        """
        recipe = self.recipe
        batches = distillation.TaughtShifts(
            self.data["train"],
            self.teacher_logits(),
            recipe.batch_size,
            self.seed,
        )
        loss = distillation.Distillation(
            recipe.distillation if taught else 0.0, recipe.temperature
        )
        if penalty is not None:
            loss = _penalised(loss, penalty)
        self._fit(model, batches, epochs, optimizer, loss, callbacks)

    def retrain(self, model, epochs, taught=True):
        """Trains what is left; what is zero stays zero."""
        adam = keras.optimizers.Adam(
            self.falling(self.recipe.retrain_rate, epochs)
        )
        mask = keras_prm.StructuredMask(keras_prm.masks_of(model))
        self.fit(model, adam, epochs, [mask], taught)

    def _network(self, precision):
        keras.utils.set_random_seed(self.seed)
        train = self.data["train"]
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(precision)
        try:
            return networks.NETWORKS[self.recipe.network](
                train.x.shape[1:], int(train.y.max()) + 1
            )
        finally:
            keras.config.set_dtype_policy(policy)

    def _fit(self, model, batches, epochs, optimizer, loss, callbacks=()):
        on_tensorflow = keras.backend.backend() == "tensorflow"
        model.compile(
            optimizer,
            loss,
            steps_per_execution=10,
            # XLA's convolutions are several times slower on a CPU.
            jit_compile=False if on_tensorflow else "auto",
        )
        model.fit(batches, epochs=epochs, callbacks=list(callbacks), verbose=0)


def _penalised(loss, penalty):
    def penalised(y_true, y_pred):
        return loss.call(y_true, y_pred) + penalty()

    return penalised


def logits_of(model, split):
    """A model's logits on a split."""
    return model.predict(split.x, batch_size=500, verbose=0)


def accuracy(model, split):
    """Share of a split that a model gets right, in [0, 1]."""
    return float((logits_of(model, split).argmax(-1) == split.y).mean())


def log_likelihood(model, split):
    """Mean log probability of a split's labels.

    It feels damage long before the accuracy on some thousand images does.
    """
    losses = keras.losses.sparse_categorical_crossentropy(
        split.y, logits_of(model, split), from_logits=True
    )
    return -float(keras.ops.mean(losses))


def _save_whole(save, path):
    """Saves so that at no moment half a file is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{os.getpid()}-{path.name}")
    save(part)
    part.replace(path)
