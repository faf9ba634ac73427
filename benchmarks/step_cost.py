"""What ADMMWrapper adds to a training step of LeNet-5.

    python benchmarks/step_cost.py

Copies of one model are trained on the same batches, one step of each in
turn: two groups with the bare optimizer, one with `ADMMWrapper` around it.
Where a copy happens to lie in memory moves its time by some per cent, so each
group has several, and a group's time is the mean over them. The ratio of the
two bare groups is the floor: what the machine alone makes of equal work.
Medians over all rounds, and a bootstrap interval of 95 %.
"""

import os
import platform
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app
from absl import flags
from keras import layers

import keras_prm

FLAGS = flags.FLAGS
flags.DEFINE_integer("batch_size", 64, "Images per step.")
flags.DEFINE_integer("copies", 5, "Models in each group.")
flags.DEFINE_integer("rounds", 200, "Rounds that are timed.")
flags.DEFINE_integer("warmup", 30, "Rounds before them.")
flags.DEFINE_integer("update_every", 100, "Steps between updates of Z and U.")
flags.DEFINE_enum("optimizer", "adam", ["adam", "sgd"], "The inner optimizer.")
flags.DEFINE_integer("seed", 0, "Seed of weights and data.")


def lenet5():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(20, 5, activation="relu", name="conv1"),
            layers.MaxPooling2D(2),
            layers.Conv2D(50, 5, activation="relu", name="conv2"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(500, activation="relu", name="fc1"),
            layers.Dense(10, name="logits"),
        ]
    )


def compiled(kind, jit_compile):
    """A model whose optimizer is bare or wrapped."""
    keras.utils.set_random_seed(FLAGS.seed)
    model = lenet5()
    optimizer = keras.optimizers.get(
        {"class_name": FLAGS.optimizer, "config": {"learning_rate": 1e-3}}
    )
    if kind == "ADMM":
        plan = keras_prm.SparsityPlan.uniform(model, filters=0.5, columns=0.5)
        optimizer = keras_prm.ADMMWrapper(
            optimizer, plan, update_every=FLAGS.update_every
        )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, jit_compile=jit_compile)
    return model


def seconds(models, batches):
    """Seconds per step, `(rounds, models)`; the first place rotates."""
    times = np.zeros((FLAGS.rounds, len(models)))
    for number in range(-FLAGS.warmup, FLAGS.rounds):
        x, y = batches[number % len(batches)]
        for turn in range(len(models)):
            i = (turn + number) % len(models)
            start = time.perf_counter()
            models[i].train_on_batch(x, y)
            if number >= 0:
                times[number, i] = time.perf_counter() - start
    return times


def ratio(times, over, under, rng):
    """Median ratio within a round, with an interval of 95 %."""
    ratios = times[:, over] / times[:, under]
    draws = rng.choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return np.median(ratios), low, high


def amortised(times, over, under):
    """Ratio of the means, which hold the steps that update Z and U.

    The slowest hundredth of the rounds is left out, the same ones for all,
    except that rounds with an update always stay.
    """
    total = times.sum(axis=1)
    due = (np.arange(len(times)) + FLAGS.warmup + 1) % FLAGS.update_every == 0
    keep = due | (total <= np.percentile(total, 99))
    return times[keep, over].mean() / times[keep, under].mean()


def main(argv):
    del argv
    rng = np.random.default_rng(FLAGS.seed)
    batches = [
        (
            rng.random((FLAGS.batch_size, 28, 28, 1), "float32"),
            rng.integers(0, 10, FLAGS.batch_size),
        )
        for _ in range(8)
    ]
    print(
        f"LeNet-5, batch {FLAGS.batch_size}, {FLAGS.optimizer}, seed "
        f"{FLAGS.seed}, {keras.backend.backend()}, {platform.machine()} with "
        f"{os.cpu_count()} cores"
    )
    print("jit    pair        ms/step  ratio  95 % interval   mean ratio")
    for jit_compile in (False, True):
        names = ("bare", "bare", "ADMM") * FLAGS.copies
        models = [compiled(kind, jit_compile) for kind in names]
        times = seconds(models, batches)
        times = times.reshape(len(times), FLAGS.copies, 3).mean(axis=1)
        for name, i in (("bare/bare", 1), ("ADMM/bare", 2)):
            middle, low, high = ratio(times, i, 0, rng)
            median = 1e3 * np.median(times[:, i])
            print(
                f"{jit_compile!s:5}  {name}  {median:8.2f}"
                f"  {middle:.3f}  {low:.3f} - {high:.3f}   "
                f"{amortised(times, i, 0):.3f}"
            )


if __name__ == "__main__":
    app.run(main)
