"""Whole stripped networks on LiteRT: time, bytes, and where the rest went.

    python -m benchmarks.networks --part=filters
    python -m benchmarks.networks --part=columns
    python -m benchmarks.networks --part=int8

`filters` prunes half of the filters of each layer of ResNet-18 (32x32) and
MobileNetV2 (224x224), by their norms at random weights, strips, and compares
with the dense network and with one that was built by hand with the widths
that are left: how far the stripped one is from that, and how much of the
saved multiply-accumulates turns up as saved time. `columns` empties columns
of the same ResNet-18 at random, or takes a pruned model's file (`--models=
path.keras`), and shows each `lowering`. `int8` compares the
files of the filters part, and their outputs on random images.

The networks of a table are timed in turn, in one run. `again` is a second
copy of the first: the noise.
"""

import os
import pathlib
import platform
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app
from absl import flags

import keras_prm
from benchmarks import application_models
from benchmarks import step_models
from keras_prm.reports import tables

FLAGS = flags.FLAGS
flags.DEFINE_enum("part", "filters", ["filters", "columns", "int8"], "Which.")
flags.DEFINE_list(
    "models", "resnet18,mobilenetv2", "Networks; files of models for columns."
)
flags.DEFINE_float("filters", 0.5, "Fraction of the filters to remove.")
flags.DEFINE_float("columns", 0.8, "Fraction of the columns to remove.")
flags.DEFINE_integer("round_to", 8, "Widths are multiples of this.")
flags.DEFINE_list("threads", "1,2", "Numbers of threads.")
flags.DEFINE_string("quantize", "float32", "How columns' files are quantized.")
flags.DEFINE_integer("runs", 50, "Rounds that are timed.")
flags.DEFINE_integer("seed", 0, "Seed of weights and masks.")


def network(name):
    keras.utils.set_random_seed(FLAGS.seed)
    if name == "resnet18":
        model = step_models.make(name, keras)
    else:
        model = application_models.build("MobileNetV2")
    application_models.randomize(model, np.random.default_rng(FLAGS.seed))
    return model


def pruned(model, columns=0.0):
    plan = keras_prm.SparsityPlan.uniform(
        model, filters=FLAGS.filters, columns=0.0, round_to=FLAGS.round_to
    )
    keras_prm.hard_prune(model, plan)
    rng = np.random.default_rng(FLAGS.seed)
    for layer in model.layers if columns else ():
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel.shape[0] > 1:
            kernel = keras.ops.convert_to_numpy(layer.kernel)
            live = np.flatnonzero(kernel.any(axis=-1))
            gone = rng.permutation(live)[: int(columns * len(live))]
            kernel = kernel.reshape(-1, kernel.shape[-1]).copy()
            kernel[gone] = 0
            layer.kernel.assign(kernel.reshape(layer.kernel.shape))
    return model


def by_hand(model, small):
    """The network's own code, with the widths of the stripped one."""

    def clone(layer):
        config = layer.get_config()
        if "filters" in config:
            config["filters"] = small.get_layer(layer.name).filters
        return type(layer).from_config(config)

    built = keras.models.clone_model(model, clone_function=clone)
    application_models.randomize(built, np.random.default_rng(1))
    return built


def images(model, number):
    rng = np.random.default_rng(FLAGS.seed)
    shape = (number, *model.input_shape[1:])
    return rng.uniform(-1, 1, shape).astype("float32")


def measure(models, quantize=None):
    """Times models, the first of them twice."""
    first = next(iter(models.values()))
    models = {**models, "again": first}
    return keras_prm.benchmark(
        models,
        images(first, 16),
        quantize=quantize,
        num_threads=tuple(map(int, FLAGS.threads)),
        runs=FLAGS.runs,
    )


def filters(name):
    model = network(name)
    dense = keras_prm.costs(model)
    small = keras_prm.strip(pruned(model))
    left = keras_prm.costs(small)
    report = measure(
        {"dense": model, "stripped": small, "by hand": by_hand(model, small)}
    )
    print(report)
    saved = dense.macs / left.macs
    print(f"{name}: {dense.macs:,} -> {left.macs:,} MACs ({saved:.2f}x)")
    for threads in map(int, FLAGS.threads):
        rows = {r.model: r for r in report.rows if r.num_threads == threads}
        faster = rows["stripped"].speedup
        ratio = rows["stripped"].median / rows["by hand"].median
        print(
            f"{threads} thread(s): {faster:.2f}x faster, "
            f"{faster / saved:.0%} of the reduction; {ratio:.3f} of the time "
            "of the network built by hand"
        )


def columns(name):
    if name.endswith(".keras"):
        model = keras.saving.load_model(name, compile=False)
    else:
        model = pruned(network(name), FLAGS.columns)
    ways = {name: name for name in ("none", "model", "auto", "smallest")}
    ways["auto"] = keras_prm.AutoLowering(quantize=FLAGS.quantize)
    forms = {name: keras_prm.strip(model, way) for name, way in ways.items()}
    print(measure(forms, FLAGS.quantize))
    rows = [("lowering", "stored weights", "nonzero weights", "MACs")]
    for lowering, small in forms.items():
        found = keras_prm.costs(small)
        numbers = found.parameters, found.weights, found.macs
        rows.append((lowering, *(f"{n:,}" for n in numbers)))
    print(tables.markdown(rows))


def int8(name):
    small = keras_prm.strip(pruned(network(name)))
    samples = images(small, 64)
    rows, sizes = [("file", "kB", "ratio", "error / largest output")], []
    with tempfile.TemporaryDirectory() as folder:
        for mode in ("float32", "float16", "dynamic_range", "int8"):
            path = pathlib.Path(folder) / f"{mode}.tflite"
            report = keras_prm.export_litert(
                small, path, mode, samples, tolerance=np.inf
            )
            sizes.append(report.num_bytes)
            rows.append(
                (
                    f"{name} {mode}",
                    f"{report.num_bytes / 1e3:,.0f}",
                    f"{sizes[0] / sizes[-1]:.2f}x",
                    f"{report.max_rel_error:.1e}",
                )
            )
    print(tables.markdown(rows))


def main(argv):
    del argv
    print(
        f"{platform.machine()} with {os.cpu_count()} cores, Keras "
        f"{keras.__version__}, seed {FLAGS.seed}"
    )
    part = {"filters": filters, "columns": columns, "int8": int8}[FLAGS.part]
    for name in FLAGS.models:
        print(f"\n{name}", flush=True)
        part(name)


if __name__ == "__main__":
    app.run(main)
