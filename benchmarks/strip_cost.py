"""What `strip` costs, next to a copy of the model, and how it grows.

    python -m benchmarks.strip_cost

First, one pruned model is stripped and copied (`clone_model` and
`set_weights`, without removing anything) in turn; medians over the rounds.
Second, models of one kind and several depths are stripped; what they hold is
counted in weights and in channels, those of all tensors of the trace
together. An exponent of 1 in the fit of seconds to weights and channels on
logarithmic scales says that `strip` is linear in the size of the model.
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
from keras_prm import graph

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
    application_models.randomise(model, np.random.default_rng(FLAGS.seed))
    plan = keras_prm.SparsityPlan.uniform(model, filters=FLAGS.filters)
    keras_prm.hard_prune(model, plan)
    return model


def copy(model):
    """What any rebuilding of a model has to do at least."""
    result = keras.models.clone_model(model)
    result.set_weights(model.get_weights())
    return result


def seconds(functions, model):
    """Seconds per call, `(rounds, functions)`; who is first alternates."""
    times = np.zeros((FLAGS.rounds, len(functions)))
    for number in range(-1, FLAGS.rounds):
        for turn in range(len(functions)):
            i = (turn + number) % len(functions)
            gc.collect()
            start = time.perf_counter()
            result = functions[i](model)
            if number >= 0:
                times[number, i] = time.perf_counter() - start
            del result
    return times


def num_channels(model):
    """Channels of all tensors of the trace together."""
    values = graph.trace(model).values
    return sum(
        len(ids) for value in values for ids in value.ids if ids is not None
    )


def exponent(sizes, times):
    """Slope of log(times) over log(sizes)."""
    return np.polyfit(np.log(sizes), np.log(times), 1)[0]


def compare_with_copy():
    model = pruned(FLAGS.model)
    times = seconds((keras_prm.strip, copy), model)
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
    print("\nmodel             layers      weights  channels  seconds  us/unit")
    rows = []
    for name in FLAGS.models:
        model = pruned(name)
        time_taken = np.median(seconds((keras_prm.strip,), model))
        weights, channels = model.count_params(), num_channels(model)
        rows.append((len(model.layers), weights, channels, time_taken))
        print(
            f"{name:16}  {rows[-1][0]:6}  {weights:11,}  {channels:8,}  "
            f"{time_taken:7.3f}  {1e6 * time_taken / (weights + channels):7.4f}"
        )
        del model
        keras.utils.clear_session()
    print_fits(np.array(rows, float))


def print_fits(rows):
    """Exponents by family, since depth and width grow together in each."""
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
