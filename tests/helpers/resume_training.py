"""A training of two phases, to be killed and run again by `resume_test`.

    python -m tests.helpers.resume_training FOLDER

Checkpoints and, in the end, all variables as `result.npz` go to the folder.
Prints a line whenever a step begins and whenever a file is being saved.
"""

import os
import pathlib
import sys
import time
from unittest import mock

import keras
import numpy as np
from keras import layers

from examples.common import image_data
from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.plans.plan import SparsityPlan
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.training.checkpoint import AtomicCheckpoint
from keras_prm.training.structured_mask import StructuredMask

EPOCHS = 3
STEPS = 4
# In each phase: its steps, and for each epoch file and folder.
EVENTS = EPOCHS * (STEPS + 2)
PAUSE = 0.1

_fsync = os.fsync


def make_model():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(6, 3, name="conv"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(8, activation="relu", name="dense"),
            layers.Dropout(0.3, seed=1),
            layers.Dense(3, name="logits"),
        ]
    )


def make_batches():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4 * STEPS, 8, 8, 1)).astype("float32")
    split = image_data.Split(x, rng.integers(0, 3, 4 * STEPS))
    return image_data.RandomShifts(split, batch_size=4)


class Report(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        print("step", flush=True)


def slow_fsync(descriptor):
    """Long enough to be killed in between writing and renaming."""
    print("save", flush=True)
    time.sleep(PAUSE)
    _fsync(descriptor)


def train(folder):
    keras.utils.set_random_seed(0)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    model = make_model()
    plan = SparsityPlan.explicit(
        model, {"conv": {"filters": 0.5}, "dense": {"columns": 0.3}}
    )
    wrapper = ADMMWrapper("adam", plan, rho=0.1, update_every=3)
    fit(model, wrapper, folder / "admm.ckpt")
    print("next phase", flush=True)
    masks = hard_prune(model, plan)
    adam = keras.optimizers.Adam(use_ema=True, ema_momentum=0.5)
    fit(model, adam, folder / "retrain.ckpt", masks)
    variables = [*model.variables, *model.optimizer.variables]
    arrays = [keras.ops.convert_to_numpy(v) for v in variables]
    np.savez(folder / "result.npz", *arrays)


def fit(model, optimizer, path, masks=None):
    batches = make_batches()
    callbacks = [
        Report(),
        AtomicCheckpoint(path, masks, set_epoch=batches.set_epoch),
    ]
    if masks is not None:
        callbacks.insert(0, StructuredMask(masks))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
    model.fit(batches, epochs=EPOCHS, verbose=0, callbacks=callbacks)


if __name__ == "__main__":
    with mock.patch.object(os, "fsync", slow_fsync):
        train(pathlib.Path(sys.argv[1]))
