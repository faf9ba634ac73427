"""Which score prunes best: one table of test accuracies, at equal plan.

    python -m benchmarks.scores --table=docs/scores.md

A small LeNet-5 with BatchNormalization learns scikit-learn's digits; from
there each method goes its own way to the same plan. *One-shot*: `hard_prune`
by the score, then masked training. *Iterative*: `IterativePruning` with a
cubic ramp in the first half of as many epochs. *ADMM*: `ADMMWrapper` in the
first half of them, `hard_prune`, masked training in the second half. So all
train equally long, with the same optimizer and batches, and the only thing
that differs is what goes, and when. Nothing was tuned on the test split, nor
any method on its own; ADMM, whose weights take long to arrive at the plan,
has the least of so few epochs (see `examples/lenet5.py`).
"""

import os
import pathlib
import platform
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from absl import app
from absl import flags
from keras import layers

import keras_prm
from examples.common import image_data
from keras_prm.reports import tables

FLAGS = flags.FLAGS
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights and data.")
flags.DEFINE_integer("dense_epochs", 12, "Epochs before all pruning.", 1)
flags.DEFINE_integer("epochs", 12, "Epochs of each method.", 4)
flags.DEFINE_integer("batch_size", 64, "Images per step.", 1)
flags.DEFINE_float("filters", 0.8, "Fraction of the filters to remove.")
flags.DEFINE_float("rho", 1e-2, "ADMM's penalty.")
flags.DEFINE_string("table", None, "Markdown file to write the table to.")

SCORES = {
    "L1 norm": keras_prm.scores.l1_norm,
    "L2 norm": keras_prm.scores.l2_norm,
    "BatchNorm gamma": keras_prm.scores.batch_norm_gamma,
    "geometric median": keras_prm.scores.geometric_median,
    "Taylor": keras_prm.scores.taylor,
    "random": None,
}
COLUMNS = ("method", "score", "at once", "median", "lowest", "highest")


def lenet5(input_shape):
    """A LeNet-5 of 12, 24 and 96 filters; gamma has an L1 penalty."""
    inputs = x = keras.Input(input_shape)
    for name, filters in (("conv1", 12), ("conv2", 24)):
        x = layers.Conv2D(filters, 5, use_bias=False, name=name)(x)
        x = _norm()(x)
        x = layers.MaxPooling2D(2)(layers.ReLU()(x))
    x = layers.Dense(96, use_bias=False, name="fc1")(layers.Flatten()(x))
    x = layers.ReLU()(_norm()(x))
    return keras.Model(inputs, layers.Dense(10, name="logits")(x))


def _norm():
    # Liu et al. ask for it; all methods start from the same weights.
    penalty = keras.regularizers.L1(1e-4)
    return layers.BatchNormalization(momentum=0.9, gamma_regularizer=penalty)


class Random:
    """A score that knows nothing: what pruning costs whatever goes."""

    def __init__(self, seed):
        self.seeds = keras.random.SeedGenerator(seed)

    def __call__(self, structures):
        shape = (len(structures.weights),)
        return keras.random.uniform(shape, seed=self.seeds)


class Contest:
    """One seed: the data, the plan, and the weights all start from."""

    def __init__(self, seed):
        self.seed = seed
        keras.utils.set_random_seed(seed)
        self.data = image_data.load("digits", seed)
        self.model = lenet5(self.data["train"].x.shape[1:])
        self.plan = keras_prm.SparsityPlan.uniform(self.model, FLAGS.filters)
        self.compile()
        self.fit(FLAGS.dense_epochs)
        self.start = self.model.get_weights()
        # Gradients of the samples that are trained on.
        self.batches = (self.data["train"].x, self.data["train"].y)

    def compile(self, wrap=lambda optimizer: optimizer):
        self.model.compile(
            wrap(keras.optimizers.Adam(1e-3)),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )

    def restart(self, wrap=lambda optimizer: optimizer):
        self.model.set_weights(self.start)
        keras.utils.set_random_seed(self.seed)
        self.compile(wrap)

    def fit(self, epochs, callbacks=()):
        train = self.data["train"]
        self.model.fit(
            train.x,
            train.y,
            batch_size=FLAGS.batch_size,
            epochs=epochs,
            callbacks=list(callbacks),
            verbose=0,
        )

    def accuracy(self):
        """Test accuracy in per cent."""
        test = self.data["test"]
        logits = self.model(test.x, training=False)
        labels = keras.ops.convert_to_numpy(keras.ops.argmax(logits, axis=-1))
        return 100 * float((labels == test.y).mean())

    def score(self, name):
        """The score, and the data it needs."""
        if SCORES[name] is None:
            return Random(self.seed), None
        return SCORES[name], self.batches if name == "Taylor" else None

    def dense(self):
        self.restart()
        before = self.accuracy()
        self.fit(FLAGS.epochs)
        return before, self.accuracy()

    def one_shot(self, name):
        self.restart()
        masks = keras_prm.hard_prune(self.model, self.plan, *self.score(name))
        return self.retrained(masks, FLAGS.epochs)

    def iterative(self, name):
        self.restart()
        score, data = self.score(name)
        ramp = keras.optimizers.schedules.PolynomialDecay(
            0.0, FLAGS.epochs // 2, end_learning_rate=1.0, power=3
        )
        pruning = keras_prm.IterativePruning(self.plan, score, ramp, data=data)
        self.fit(FLAGS.epochs, [pruning])
        return None, self.accuracy()

    def admm(self, name):
        del name
        steps = -(-len(self.data["train"].y) // FLAGS.batch_size)
        options = {"rho": FLAGS.rho, "update_every": max(1, steps // 3)}
        self.restart(
            lambda optimizer: keras_prm.ADMMWrapper(
                optimizer, self.plan, **options
            )
        )
        half = FLAGS.epochs // 2
        self.fit(half)
        masks = keras_prm.hard_prune(self.model, self.plan)
        self.compile()
        return self.retrained(masks, FLAGS.epochs - half)

    def retrained(self, masks, epochs):
        """Accuracy as soon as the masks are applied, and in the end."""
        before = self.accuracy()
        self.fit(epochs, [keras_prm.StructuredMask(masks)])
        return before, self.accuracy()


def methods():
    """`(method, score)` of every row of the table."""
    rows = [("dense", "")]
    rows += [("one-shot", name) for name in SCORES]
    rows += [("iterative", name) for name in SCORES]
    return [*rows, ("ADMM", "")]


def run(contest, method, name):
    if method == "dense":
        return contest.dense()
    function = {
        "one-shot": contest.one_shot,
        "iterative": contest.iterative,
        "ADMM": contest.admm,
    }[method]
    return function(name)


def table(results):
    """The results as Markdown: medians over the seeds, and the range."""
    rows = [COLUMNS]
    for (method, name), pairs in results.items():
        before = [a for a, _ in pairs if a is not None]
        after = [b for _, b in pairs]
        at_once = f"{statistics.median(before):.2f}" if before else ""
        numbers = (statistics.median(after), min(after), max(after))
        rows.append([method, name, at_once, *(f"{n:.2f}" for n in numbers)])
    return tables.markdown(rows, pad=False)


def document(results):
    """The table, and how it came about."""
    command = ".venv/bin/python -m benchmarks.scores --table=docs/scores.md"
    return "\n\n".join(
        [
            "# Scores compared",
            f"Test accuracy in per cent on 360 digits (one is 0.28 points), "
            f"{FLAGS.filters:.0%} of the filters of each layer removed, "
            f"{FLAGS.epochs} epochs for each method after the same "
            f"{FLAGS.dense_epochs}, *at once* without any after pruning. "
            f"Median and range over the seeds {', '.join(FLAGS.seeds)}. "
            "A score is worth what it is better than *random*; where the "
            "ranges overlap, this run does not tell methods apart. "
            "`benchmarks/scores.py` says how each method spends its epochs. "
            "So few are not what ADMM is for: it has not converged, as the "
            "accuracy at once shows. `examples/lenet5.py` gives it 60.",
            table(results),
            "The column patterns `channels` and `window` add scores up, "
            "in float32. Where a score of your own is negative, the least "
            "of a kernel becomes 0 first, so one that is far below the "
            "others makes these equal: bound such a score from below. "
            "`free` and `per_channel` only compare.",
            f"{platform.machine()} with {os.cpu_count()} cores, "
            f"{keras.backend.backend()}, Keras {keras.__version__}.",
            f"    {command}",
        ]
    )


def main(argv):
    del argv
    results = {row: [] for row in methods()}
    for seed in FLAGS.seeds:
        contest = Contest(int(seed))
        for row, pairs in results.items():
            pairs.append(run(contest, *row))
            print(f"seed {seed}: {' '.join(row)}: {pairs[-1]}", flush=True)
    print(document(results))
    if FLAGS.table:
        pathlib.Path(FLAGS.table).write_text(document(results) + "\n")


if __name__ == "__main__":
    app.run(main)
