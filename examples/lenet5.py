r"""LeNet-5 from dense to a small `.tflite` file, stage by stage.

    python examples/lenet5.py                              # real digits
    python examples/lenet5.py --dataset=mnist              # by TFDS
    python examples/lenet5.py --dataset=path/to/mnist.npz

Trains the 20-50-500 LeNet-5, drives it to structured sparsity with ADMM,
prunes, retrains, purifies on the validation split, strips and exports it,
then leaves out the empty columns as well, and quantizes the result to int8.
The test split is only ever measured on, nothing is chosen by it.
"""

import json
import os
import pathlib
import platform
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if not __package__:
    sys.path.insert(0, str(pathlib.Path(__file__).absolute().parent.parent))

import keras
from absl import app
from absl import flags
from absl import logging

import keras_prm
from examples.common import image_data
from examples.common.networks import lenet5
from keras_prm.pipeline import report

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "dataset", "digits", "'digits', the path of an .npz file, or a TFDS name."
)
flags.DEFINE_string("output_dir", "runs/lenet5", "Where results are written.")
flags.DEFINE_integer("seed", 0, "Seed of weights, batches and splits.")
flags.DEFINE_integer("batch_size", 64, "Images per training step.", 1)
flags.DEFINE_integer("shift", 3, "Images are shifted by up to this.", 0)
flags.DEFINE_integer("dense_epochs", 40, "Epochs of dense training.", 1)
flags.DEFINE_integer("admm_epochs", 60, "Epochs of ADMM.", 1)
flags.DEFINE_integer("retrain_epochs", 150, "Epochs of retraining.", 1)
flags.DEFINE_float("rho", 3e-3, "ADMM's penalty in the first epoch.", 0.0)
flags.DEFINE_float("rho_growth", 1.1, "Factor on rho from epoch to epoch.")
flags.DEFINE_float(
    "max_drop",
    0.0,
    "What purify may cost, mean log likelihood of the validation labels.",
    lower_bound=0.0,
)
flags.DEFINE_string(
    "plan",
    '{"conv1": {"filters": 0.75}, "conv2": {"filters": 0.8, "columns": 0.2}, '
    '"fc1": {"filters": 0.92, "columns": 0.4}, "logits": {"columns": 0.2}}',
    "Fractions to remove by layer, as JSON.",
)
flags.DEFINE_enum(
    "lowering",
    "smallest",
    ["none", "auto", "model", "smallest"],
    "What `strip` makes of empty columns in the last stage.",
)
flags.DEFINE_bool("quick", False, "Everything in a short form, as a test.")


class Run:
    """One run: the data, the model, and what was measured so far."""

    def __init__(self, data, folder):
        self.data = data
        self.folder = folder
        self.stages = []
        self.batches = image_data.RandomShifts(
            data["train"], FLAGS.batch_size, FLAGS.shift, FLAGS.seed
        )
        self.steps = len(self.batches)
        num_classes = int(max(s.y.max() for s in data.values())) + 1
        self.model = lenet5(data["train"].x.shape[1:], num_classes)

    def compile(self, optimizer):
        self.model.compile(
            optimizer,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )

    def fit(self, title, epochs, callbacks=()):
        """Trains with a progress bar; accuracy on the validation split."""
        epochs = 1 if FLAGS.quick else epochs
        print(f"\n== {title}: {epochs} epochs of {self.steps} steps")
        valid = self.data["valid"]
        self.model.fit(
            self.batches,
            epochs=epochs,
            validation_data=(valid.x, valid.y),
            callbacks=list(callbacks),
        )

    def logits(self, model, split):
        """What a model, compiled or not, says of one split."""
        return model.predict(self.data[split].x, batch_size=256, verbose=0)

    def score(self, model, split):
        """Accuracy on one split."""
        answers = self.logits(model, split).argmax(axis=-1)
        return float((answers == self.data[split].y).mean())

    def log_likelihood(self, model):
        """Mean log probability of the validation labels.

        What purification is held to: it feels damage long before the
        accuracy on some hundred images does.
        """
        losses = keras.losses.sparse_categorical_crossentropy(
            self.data["valid"].y, self.logits(model, "valid"), from_logits=True
        )
        return -float(keras.ops.mean(losses))

    def measure(self, stage, model=None, file_name=None):
        """Measures the model as it is now and adds a row to the table."""
        model = model or self.model
        file_name = file_name or f"stages/{len(self.stages)}.tflite"
        scores = {s: self.score(model, s) for s in ("valid", "test")}
        path = self.folder / file_name
        self.stages.append(report.measure(stage, model, scores, path))
        print(
            f"{stage}: " + ", ".join(f"{k} {v:.4f}" for k, v in scores.items())
        )


def cosine(start, steps):
    """A learning rate that falls from `start` to 0."""
    return keras.optimizers.schedules.CosineDecay(start, steps)


def train_dense(run):
    steps = run.steps * FLAGS.dense_epochs
    run.compile(keras.optimizers.Adam(cosine(2e-3, steps)))
    run.fit("Dense training", FLAGS.dense_epochs)
    run.measure("dense")


def train_admm(run, plan):
    """W is drawn to the plan's set; rho grows once an epoch."""
    rho = keras.optimizers.schedules.ExponentialDecay(
        FLAGS.rho, run.steps, FLAGS.rho_growth, staircase=True
    )
    adam = keras.optimizers.Adam(1e-3)
    run.compile(
        keras_prm.ADMMWrapper(adam, plan, rho=rho, update_every=run.steps)
    )
    progress = keras_prm.ADMMProgress(verbose=1)
    run.fit("ADMM", FLAGS.admm_epochs, [progress])
    run.measure("ADMM")
    return progress.history


def prune_and_retrain(run, plan):
    masks = keras_prm.hard_prune(run.model, plan)
    run.measure("hard prune")
    steps = run.steps * FLAGS.retrain_epochs
    run.compile(keras.optimizers.Adam(cosine(2e-3, steps)))
    run.fit(
        "Masked retraining",
        FLAGS.retrain_epochs,
        [keras_prm.StructuredMask(masks)],
    )
    run.measure("retrain")
    run.model.save(run.folder / "stages" / "retrained.keras")


def purify(run):
    found = keras_prm.purify(
        run.model,
        evaluate=run.log_likelihood,
        max_drop=FLAGS.max_drop,
    )
    print(f"\n== Purification\n{found}")
    run.measure("purify")


def strip_and_export(run):
    small, found = keras_prm.strip(run.model, return_report=True)
    print(f"\n== Unused path removal\n{found}")
    small.save(run.folder / "small.keras")
    run.measure("strip", small, "small.tflite")
    certificate = keras_prm.verify(
        run.model,
        small,
        run.folder / "small.tflite",
        inputs=run.data["test"].x,
    )
    print(f"\n== Certificate\n{certificate}")
    return certificate


def lower(run):
    """The same model without the columns that are zero, as small as can be."""
    lowered, found = keras_prm.strip(
        run.model, lowering=FLAGS.lowering, return_report=True
    )
    print("\n== Columns")
    for row in found.lowered:
        print(f"{row.key}: {row.live} of {row.size} columns, {row.verdict}")
    lowered.save(run.folder / "columns.keras")
    run.measure("columns", lowered, "columns.tflite")
    # What is smallest in float32 need not be in int8.
    lowered, found = keras_prm.strip(
        run.model,
        lowering=FLAGS.lowering,
        quantize="int8",
        return_report=True,
    )
    test = run.data["test"]
    print(
        keras_prm.export_litert(
            lowered,
            run.folder / "int8.tflite",
            "int8",
            representative_data=run.data["train"].x[:256],
            evaluation_data=(test.x, test.y),
            report=found,
        )
    )


def main(argv):
    del argv
    logging.set_verbosity(logging.WARNING)
    keras.utils.set_random_seed(FLAGS.seed)
    folder = pathlib.Path(FLAGS.output_dir)
    try:
        (folder / "stages").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(
            f"Cannot write to {folder} ({error}). Choose --output_dir."
        ) from None
    run = Run(image_data.load(FLAGS.dataset, FLAGS.seed), folder)
    run.model.summary()
    try:
        targets = json.loads(FLAGS.plan)
        plan = keras_prm.SparsityPlan.explicit(run.model, targets)
    except (TypeError, ValueError) as error:
        raise SystemExit(f"--plan is of no use: {error}") from None
    print(plan)
    train_dense(run)
    history = train_admm(run, plan)
    prune_and_retrain(run, plan)
    purify(run)
    certificate = strip_and_export(run)
    lower(run)
    stages = report.with_latency(run.stages, run.data["test"].x[:1])
    report.picture(folder / "masks.png", run.model, history)
    (folder / "summary.json").write_text(
        json.dumps(
            {
                "flags": {
                    flag.name: flag.value
                    for flag in FLAGS.get_flags_for_module(__name__)
                },
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "exact": certificate.ok,
                "max_abs_error": certificate.max_abs_error,
                "stages": report.rows(stages),
            },
            indent=2,
        )
    )
    print(f"\n{report.table(stages)}")
    print(
        "\nWrote small.keras, small.tflite, columns.keras, columns.tflite, "
        f"int8.tflite, summary.json and masks.png to {folder}. Latency: "
        "median of one image, one thread."
    )


if __name__ == "__main__":
    app.run(main)
