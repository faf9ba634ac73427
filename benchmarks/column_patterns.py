"""What it costs in accuracy to train columns into a pattern.

    python -m benchmarks.column_patterns --data=cifar10.npz

A small VGG with BatchNormalization learns images, such as CIFAR-10's. From
these weights, every `column_pattern` gets the same budget: ADMM, `hard_prune`,
masked retraining. The first convolution and the output layer are left alone.
The table has the accuracies, and how many columns stayed: some patterns keep
fewer than the plan lets them.

All is written to `--output_dir`: `dense.keras`, `<pattern>.keras` (pruned, not
stripped) and a line of `results.jsonl` per pattern. What is there is not made
again, and a training that was killed goes on from its last epoch. Settle the
recipe by the validation split; for another one take another directory, with
the same `dense.keras` in it.
"""

import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app
from absl import flags
from keras import layers

import keras_prm
from examples.common import image_data

FLAGS = flags.FLAGS
flags.DEFINE_string("data", None, "Path of an .npz file, as for lenet5.")
flags.DEFINE_string("output_dir", "runs/column_patterns", "For all results.")
flags.DEFINE_integer("seed", 0, "Seed of weights, batches and splits.")
flags.DEFINE_integer("num_train", 20_000, "Training images.", 1)
flags.DEFINE_integer("batch_size", 128, "Images per step.", 1)
flags.DEFINE_integer("dense_epochs", 16, "Epochs before all pruning.", 1)
flags.DEFINE_list(
    "patterns", ["free", "channels", "window", "per_channel"], "Which to train."
)
flags.DEFINE_float("columns", 0.8, "Fraction of the columns to remove.")
flags.DEFINE_integer("admm_epochs", 3, "Epochs of ADMM.", 1)
flags.DEFINE_integer("retrain_epochs", 8, "Epochs of retraining.", 1)
flags.DEFINE_float("admm_rate", 1e-3, "Learning rate of ADMM.", 0.0)
flags.DEFINE_float("retrain_rate", 2e-3, "The same, first, of retraining.", 0.0)
flags.DEFINE_float("rho", 1e-3, "ADMM's penalty in the first step.", 0.0)
flags.DEFINE_float("last_rho", 1.0, "The same in the last step.", 0.0)
flags.DEFINE_integer("updates", 4, "Updates of ADMM per epoch.", 1)
flags.mark_flag_as_required("data")

# Filters of the convolutions, by blocks; each ends in a pooling by 2.
BLOCKS = ((32, 32), (64, 64), (128, 128), (256,))
UNPLANNED = ("conv1_1", "logits")
STAGES = ("ADMM", "pruned", "retrained")


class Flipped(image_data.RandomShifts):
    """Batches in random order, every other image mirrored at random."""

    def __init__(self, split, batch_size, seed):
        super().__init__(split, batch_size, pixels=0, seed=seed)

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        rng = np.random.default_rng((self.seed, self.epoch, index))
        mirrored = rng.random((len(x), 1, 1, 1)) < 0.5
        return np.where(mirrored, x[:, :, ::-1], x), y


def vgg(input_shape, num_classes):
    """About 43 million MACs on 32x32x3 images, 0.6 million weights."""
    inputs = x = keras.Input(input_shape)
    for block, widths in enumerate(BLOCKS, 1):
        for place, filters in enumerate(widths, 1):
            name = f"conv{block}_{place}"
            conv = layers.Conv2D(
                filters, 3, padding="same", use_bias=False, name=name
            )
            x = layers.BatchNormalization(momentum=0.9)(conv(x))
            x = layers.ReLU()(x)
        if block < len(BLOCKS):
            x = layers.MaxPooling2D(2)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(num_classes, name="logits")(x))


class Experiment:
    """The data, and where the results are."""

    def __init__(self):
        self.folder = pathlib.Path(FLAGS.output_dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = image_data.load(FLAGS.data, FLAGS.seed)
        train = self.data["train"]
        size = FLAGS.num_train
        self.train = image_data.Split(train.x[:size], train.y[:size])

    def batches(self):
        return Flipped(self.train, FLAGS.batch_size, FLAGS.seed)

    def fit(self, model, optimizer, epochs, name, masks=None):
        """Trains with a progress bar; goes on where it was cut off."""
        model.compile(
            optimizer,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            # XLA's convolutions are several times slower on a CPU.
            jit_compile=False,
        )
        batches = self.batches()
        valid = self.data["valid"]
        path = self.folder / "checkpoints" / f"{name}.ckpt"
        path.parent.mkdir(exist_ok=True)
        callbacks = [] if masks is None else [keras_prm.StructuredMask(masks)]
        print(f"\n== {name}: {epochs} epochs", flush=True)
        model.fit(
            batches,
            epochs=epochs,
            validation_data=(valid.x, valid.y),
            validation_batch_size=500,
            callbacks=[
                *callbacks,
                keras_prm.AtomicCheckpoint(
                    path, masks, set_epoch=batches.set_epoch
                ),
            ],
            verbose=2,
        )

    def steps(self, epochs):
        return epochs * -(-len(self.train.y) // FLAGS.batch_size)

    def accuracy(self, model, split):
        """Accuracy in per cent."""
        data = self.data[split]
        logits = model.predict(data.x, batch_size=500, verbose=0)
        return 100 * float((logits.argmax(axis=-1) == data.y).mean())

    def scores(self, model):
        found = {s: self.accuracy(model, s) for s in ("valid", "test")}
        print(found, flush=True)
        return found

    def dense(self):
        """The path of the dense model, trained if it is not there."""
        path = self.folder / "dense.keras"
        if not path.exists():
            keras.utils.set_random_seed(FLAGS.seed)
            shape = self.train.x.shape[1:]
            model = vgg(shape, int(self.train.y.max()) + 1)
            steps = self.steps(FLAGS.dense_epochs)
            adam = keras.optimizers.Adam(cosine(2e-3, steps))
            self.fit(model, adam, FLAGS.dense_epochs, "dense")
            model.save(path)
        return path

    def admm(self, plan):
        """The optimizer of ADMM; its penalty grows from update to update."""
        every = max(1, self.steps(1) // FLAGS.updates)
        rho = keras.optimizers.schedules.ExponentialDecay(
            FLAGS.rho,
            self.steps(FLAGS.admm_epochs),
            FLAGS.last_rho / FLAGS.rho,
        )
        adam = keras.optimizers.Adam(FLAGS.admm_rate)
        return keras_prm.ADMMWrapper(adam, plan, rho=rho, update_every=every)

    def prune(self, pattern):
        """Trains one pattern; what `results.jsonl` says of it."""
        keras.utils.set_random_seed(FLAGS.seed)
        model = keras.models.load_model(self.dense())
        plan = keras_prm.SparsityPlan.uniform(
            model,
            columns=FLAGS.columns,
            exclude=UNPLANNED,
            column_pattern=pattern,
        )
        print(plan)
        scores = {}
        epochs = FLAGS.admm_epochs
        self.fit(model, self.admm(plan), epochs, f"{pattern}-admm")
        scores["ADMM"] = self.scores(model)
        masks = keras_prm.hard_prune(model, plan)
        scores["pruned"] = self.scores(model)
        epochs = FLAGS.retrain_epochs
        adam = keras.optimizers.Adam(
            cosine(FLAGS.retrain_rate, self.steps(epochs))
        )
        self.fit(model, adam, epochs, f"{pattern}-retrain", masks)
        scores["retrained"] = self.scores(model)
        model.save(self.folder / f"{pattern}.keras")
        planned = [masks.kernels[k.key].columns for k in plan.kernels]
        kept = sum(int(columns.sum()) for columns in planned)
        return {
            "pattern": pattern,
            "columns": kept,
            "of": sum(columns.size for columns in planned),
            **scores,
            "flags": {
                flag.name: flag.value
                for flag in FLAGS.get_flags_for_module(__name__)
            },
        }

    def results(self):
        """All results so far, by pattern."""
        path = self.folder / "results.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return {row["pattern"]: row for row in map(json.loads, lines)}

    def run(self, pattern):
        """Trains one pattern, unless its result is there."""
        if pattern not in self.results():
            row = self.prune(pattern)
            print(row, flush=True)
            with (self.folder / "results.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")


def cosine(start, steps):
    """A learning rate that falls from `start` to 0."""
    return keras.optimizers.schedules.CosineDecay(start, steps)


def table(dense, results):
    """Markdown: accuracies in per cent after each stage."""
    lines = [
        "| pattern | columns kept | "
        + " | ".join(f"{s} {stage}" for stage in STAGES for s in dense)
        + " |",
        "|---" * (2 + 2 * len(STAGES)) + "|",
        f"| dense | 100.0 % |{'  |' * (2 * len(STAGES) - 2)} "
        + " | ".join(f"{value:.2f}" for value in dense.values())
        + " |",
    ]
    for pattern, row in results.items():
        cells = [row[stage][s] for stage in STAGES for s in dense]
        lines.append(
            f"| {pattern} | {100 * row['columns'] / row['of']:.1f} % | "
            + " | ".join(f"{value:.2f}" for value in cells)
            + " |"
        )
    return "\n".join(lines)


def main(argv):
    del argv
    experiment = Experiment()
    dense = experiment.scores(keras.models.load_model(experiment.dense()))
    for pattern in FLAGS.patterns:
        experiment.run(pattern)
    print(table(dense, experiment.results()))


if __name__ == "__main__":
    app.run(main)
