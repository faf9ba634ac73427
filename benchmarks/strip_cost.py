"""What `strip` costs, next to a copy of the model, and how it grows.

    python -m benchmarks.strip_cost

First, one pruned model is stripped and copied (`clone_model` and
`set_weights`, without removing anything) in turn; medians over the rounds.
Second, models of one kind and several depths are stripped; what they hold is
counted in layers, in weights, and in channels, those of all tensors of the
trace together. The fits take the lowest time of each model, which other work
on the machine disturbs least: a power of the size for each family, of which
an exponent of 1 says that `strip` is linear, and for all models together a
sum, so much per channel (or layer) and so much per weight.
"""

import gc
import os
import platform
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app
from absl import flags

import keras_prm
from benchmarks import application_models
from keras_prm.analysis.trace import trace

FLAGS = flags.FLAGS
flags.DEFINE_string("model", "ResNet50", "What is compared with its copy.")
flags.DEFINE_list(
    "models",
    "ResNet50,ResNet101,ResNet152,DenseNet121,DenseNet169,DenseNet201".split(
        ","
    ),
    "What is compared by size.",
)
flags.DEFINE_float("filters", 0.5, "Fraction of filters that is pruned.")
flags.DEFINE_integer("rounds", 7, "Rounds that are timed, after one more.")
flags.DEFINE_integer("seed", 0, "Seed of the weights.")


def pruned(name):
    """An application with random weights, a fraction of its filters zero."""
    model = application_models.build(name)
    application_models.randomize(model, np.random.default_rng(FLAGS.seed))
    plan = keras_prm.SparsityPlan.uniform(model, filters=FLAGS.filters)
    keras_prm.hard_prune(model, plan)
    return model


def copy(model):
    """What any rebuilding of a model has to do at least."""
    result = keras.models.clone_model(model)
    result.set_weights(model.get_weights())
    return result


def seconds(jobs):
    """Seconds per call, `(rounds, jobs)`; all in turn, the first rotates."""
    times = np.zeros((FLAGS.rounds, len(jobs)))
    for number in range(-1, FLAGS.rounds):
        for turn in range(len(jobs)):
            i = (turn + number) % len(jobs)
            function, model = jobs[i]
            gc.collect()
            start = time.perf_counter()
            result = function(model)
            if number >= 0:
                times[number, i] = time.perf_counter() - start
            del result
    return times


def num_channels(model):
    """Channels of all tensors of the graph together."""
    values = trace(model).values
    return sum(
        len(ids) for value in values for ids in value.ids if ids is not None
    )


def exponent(sizes, times):
    """Slope of log(times) over log(sizes)."""
    return np.polyfit(np.log(sizes), np.log(times), 1)[0]


def compare_with_copy():
    model = pruned(FLAGS.model)
    times = seconds([(keras_prm.strip, model), (copy, model)])
    ratios = times[:, 0] / times[:, 1]
    print(f"\n{FLAGS.model}, {FLAGS.filters:.0%} of the filters pruned")
    print("              seconds    lowest   highest")
    for name, column in (
        ("strip", times[:, 0]),
        ("copy", times[:, 1]),
        ("ratio", ratios),
    ):
        print(
            f"{name:10}  {np.median(column):9.3f} {column.min():9.3f} "
            f"{column.max():9.3f}"
        )


def compare_sizes():
    print(
        "\nmodel        layers      weights  channels   median   lowest"
        "  ms/layer  us/(weight + channel)"
    )
    models = [pruned(name) for name in FLAGS.models]
    times = seconds([(keras_prm.strip, model) for model in models])
    rows = [
        (len(m.layers), m.count_params(), num_channels(m), lowest)
        for m, lowest in zip(models, times.min(axis=0))
    ]
    for name, row, median in zip(FLAGS.models, rows, np.median(times, axis=0)):
        num_layers, weights, channels, lowest = row
        print(
            f"{name:11}  {num_layers:6}  {weights:11,}  {channels:8,}  "
            f"{median:7.3f}  {lowest:7.3f}  {1e3 * lowest / num_layers:8.2f}  "
            f"{1e6 * lowest / (weights + channels):8.4f}"
        )
    print_powers(np.array(rows, float))
    print_sums(np.array(rows, float))


def print_powers(rows):
    """Exponents by family: in each, all sizes grow together."""
    families = np.array([name.rstrip("0123456789V") for name in FLAGS.models])
    for family in dict.fromkeys(families):
        num_layers, weights, channels, times = rows[families == family].T
        if len(times) > 1:
            print(
                f"{family}: seconds ~ layers^{exponent(num_layers, times):.2f}"
                f", channels^{exponent(channels, times):.2f}"
                f", (weights + channels)^"
                f"{exponent(weights + channels, times):.2f}"
            )


def print_sums(rows):
    """`seconds = a * channels + b * weights`; relative least squares."""
    num_layers, weights, channels, times = rows.T
    for name, counts in (("channel", channels), ("layer", num_layers)):
        sizes = np.stack([counts, weights], axis=1) / times[:, None]
        factors = np.linalg.lstsq(sizes, np.ones(len(times)))[0]
        off = np.abs(sizes @ factors - 1).max()
        print(
            f"all: {1e6 * factors[0]:.3g} us per {name} and "
            f"{1e6 * factors[1]:.3g} us per weight; no model is off by more "
            f"than {off:.0%}"
        )


def main(argv):
    del argv
    backend = keras.backend.backend()
    print(
        f"{platform.machine()} with {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, Keras {keras.__version__}, {backend}, "
        f"seed {FLAGS.seed}, medians of {FLAGS.rounds} rounds"
    )
    compare_with_copy()
    compare_sizes()


if __name__ == "__main__":
    app.run(main)
