"""What the examples of distributed training share: all but the engine.

    python examples/distributed/mirrored.py
    python examples/distributed/multi_worker.py
    python examples/distributed/data_parallel.py
    python examples/distributed/data_parallel.py --model_parallel

Each trains a small network on scikit-learn's digits with ADMM, prunes it,
trains on what is left, and rebuilds it smaller. `docs/distribution.md` says
what differs from engine to engine.
"""

import contextlib

import keras
from absl import flags
from absl import logging
from keras import layers

import keras_prm
from examples.common import image_data

UPDATE_EVERY = 4

FLAGS = flags.FLAGS
flags.DEFINE_integer("seed", 0, "Seed of weights, batches and splits.")
flags.DEFINE_integer("batch_size", 64, "Global batch: of all devices.", 1)
flags.DEFINE_integer("admm_epochs", 40, "Epochs of ADMM.", 1)
flags.DEFINE_integer("retrain_epochs", 30, "Epochs of retraining.", 1)
flags.DEFINE_float("rho", 0.1, "ADMM's penalty.", 0.0)
flags.DEFINE_float("filters", 0.5, "Fraction of the filters to remove.")
flags.DEFINE_float("columns", 0.3, "Fraction of the columns to remove.")
flags.DEFINE_bool("quick", False, "Everything in a short form, as a test.")


class Engine:
    """A way to train on several devices; here, on one.

    Attributes:
        prints: Whether this process is the one that prints.
    """

    prints = True

    def scope(self):
        """Where models and optimizers are made."""
        return contextlib.nullcontext()

    def fit(self, model, split, epochs, masks=None):
        """Trains; what `masks` hide stays zero."""
        callback = (
            keras_prm.StructuredMask(masks)
            if masks
            else keras_prm.ADMMProgress()
        )
        model.fit(
            split.x,
            split.y,
            batch_size=FLAGS.batch_size,
            epochs=epochs,
            callbacks=[callback],
            verbose=2,
        )

    def strip(self, model):
        return keras_prm.strip(model)

    def say(self, text):
        if self.prints:
            print(text, flush=True)

    def describe(self, model):
        """Says where the weights are."""


def make_model():
    """Widths that two and four devices divide."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, activation="relu", name="conv"),
            layers.MaxPooling2D(2, name="pool"),
            layers.Flatten(name="flatten"),
            layers.Dense(64, activation="relu", name="hidden"),
            layers.Dense(10, name="logits"),
        ],
        name="digits",
    )


def compile_model(engine, model, plan=None):
    """With ADMM where there is a plan. An optimizer is made in the scope."""
    with engine.scope():
        optimizer = keras.optimizers.Adam(2e-3)
        if plan is not None:
            optimizer = keras_prm.ADMMWrapper(
                optimizer, plan, rho=FLAGS.rho, update_every=UPDATE_EVERY
            )
        model.compile(
            optimizer,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )


def load():
    """Digits. All batches are full, so that all devices get equal parts."""
    data = image_data.load("digits", FLAGS.seed, smallest=8)
    train = data["train"]
    size = 4 * FLAGS.batch_size if FLAGS.quick else len(train.y)
    size -= size % FLAGS.batch_size
    data["train"] = image_data.Split(train.x[:size], train.y[:size])
    return data


def accuracy(model, split):
    logits = keras.ops.convert_to_numpy(model(split.x, training=False))
    return float((logits.argmax(axis=-1) == split.y).mean())


def run(engine):
    """ADMM, hard pruning, masked retraining and unused path removal."""
    logging.set_verbosity(logging.WARNING)
    keras.utils.set_random_seed(FLAGS.seed)
    data = load()
    with engine.scope():
        model = make_model()
        plan = keras_prm.SparsityPlan.uniform(
            model, filters=FLAGS.filters, columns=FLAGS.columns
        )
    engine.say(plan)
    compile_model(engine, model, plan)
    epochs = 1 if FLAGS.quick else FLAGS.admm_epochs
    engine.say(f"\n== ADMM: {epochs} epochs")
    engine.fit(model, data["train"], epochs)
    engine.describe(model)
    scores = {"ADMM": accuracy(model, data["test"])}

    masks = keras_prm.hard_prune(model, plan)
    engine.say(f"\n== Hard pruning\n{masks}")
    scores["hard prune"] = accuracy(model, data["test"])

    compile_model(engine, model)
    epochs = 1 if FLAGS.quick else FLAGS.retrain_epochs
    engine.say(f"\n== Masked retraining: {epochs} epochs")
    engine.fit(model, data["train"], epochs, masks)
    if keras_prm.masks_of(model) != masks:
        raise SystemExit("A weight that was pruned came back.")
    scores["retrain"] = accuracy(model, data["test"])

    small = engine.strip(model)
    scores["strip"] = accuracy(small, data["test"])
    engine.say("\n     stage   weights   test accuracy")
    for stage, score in scores.items():
        count = (small if stage == "strip" else model).count_params()
        engine.say(f"{stage:>10}   {count:7,}   {score:.4f}")
