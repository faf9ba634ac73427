"""What leaving out empty columns is worth on LiteRT, layer by layer.

    python -m benchmarks.columns
    python -m benchmarks.columns --models=free.keras,per_channel.keras

The first times 3x3 convolutions with random columns, those of `--cases`, with
every lowering; the second the layers of models that were trained with empty
columns, as they are once `strip` has sorted their channels. `dense` is the
time with all zeros stored, `again` a second copy of it: the noise. The other
columns are how many times faster a lowering is; `model` is the one that the
cost model takes (1.00 where it keeps the dense kernel), `bound` a 1x1
convolution over K channels that are already there. All of a row are timed in
turn, in one run.

    python -m benchmarks.columns --fit

times layers of random sizes and prints the coefficients of
`keras_prm/lowering/cost_model.py` that fit them best, and how well they do.
"""

import dataclasses
import os
import platform

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app
from absl import flags
from keras import layers

import keras_prm
from keras_prm.litert import runtime
from keras_prm.lowering import cost_model
from keras_prm.lowering import layer_timing
from keras_prm.lowering import methods
from keras_prm.lowering import strategies
from tests.helpers import lowering_models

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "cases",
    "32x64x64x144,32x64x64x115,32x64x16x58,32x64x16x30,16x128x64x230,"
    "16x128x128x230,16x128x32x100,8x256x64x230,8x256x256x460,4x512x64x200,"
    "4x512x512x921",
    "Height and width, inputs, filters and live columns, joined by x.",
)
flags.DEFINE_list("models", [], "Paths of pruned models, instead of cases.")
flags.DEFINE_list("threads", "1,2", "Numbers of threads.")
flags.DEFINE_integer("runs", 60, "Rounds that are timed.")
flags.DEFINE_integer("seed", 0, "Seed of masks and weights.")
flags.DEFINE_bool("fit", False, "Fit the cost model instead.")
flags.DEFINE_integer("num_fitted", 60, "Layers to fit it to.")

NAMES = (
    "channels by gather",
    "channels by pointwise",
    "channels by slices",
    "columns by gather",
    "columns by pointwise",
    "columns by slices",
    "columns by patches",
)


def random_site(rng, size, inputs, filters, live, strides=1, in_order=True):
    """A 3x3 convolution with random columns, channels sorted if `in_order`."""
    layer = layers.Conv2D(filters, 3, strides=strides, padding="same")
    mask = np.zeros(9 * inputs, bool)
    mask[rng.permutation(len(mask))[:live]] = True
    mask = mask.reshape(3, 3, inputs)
    if in_order:
        counts = mask.sum(axis=(0, 1))
        mask = mask[..., np.argsort(-counts, kind="stable")]
    kernel = rng.normal(size=(3, 3, inputs, filters)).astype("float32")
    kernel *= mask[..., None]
    return methods.SparseKernel(layer, "kernel", kernel, (size, size))


def bound(sparse, number):
    """A 1x1 convolution over as many channels as there are live columns."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(1, 1, number, sparse.array.shape[-1]))
    point = layers.Conv2D(sparse.array.shape[-1], 1)
    kernel = kernel.astype("float32")
    return methods.SparseKernel(point, "kernel", kernel, sparse.new_space)


def times(sparse, files, threads):
    """Seconds of files that all take its input."""
    rng = np.random.default_rng(0)
    shape = (1, *sparse.space, sparse.array.shape[-2])
    inputs = rng.uniform(-1, 1, shape).astype("float32")
    return keras_prm.latency(
        files, inputs, runs=FLAGS.runs, num_threads=threads
    )


def print_row(sparse, threads, label):
    options = {option.name: option for option in methods.candidates(sparse)}
    choice = strategies.ModelLowering().choose_one(sparse)
    files = [layer_timing.converted(sparse) for _ in range(2)]
    names = [name for name in NAMES if name in options]
    files += [layer_timing.converted(sparse, options[n]) for n in names]
    seconds = times(sparse, files, threads)
    live = int(sparse.live.sum())
    low = bound(sparse, live)
    limit = times(low, [layer_timing.converted(low)], threads)[0]
    ratio = {n: seconds[0] / s for n, s in zip(["again", *names], seconds[1:])}
    ratio["bound"] = seconds[0] / limit
    ratio["model"] = ratio[choice.lowering.name] if choice.lowering else 1.0
    used = sparse.live.reshape(-1, sparse.live.shape[-1]).any(axis=0).sum()
    cells = [
        f"{ratio[n]:{_width(n)}.2f}" if n in ratio else " " * _width(n)
        for n in ("again", *NAMES, "model", "bound")
    ]
    print(
        f"{label:18}  {live:5}/{sparse.live.size:<5}  {used:4}  {threads:7}  "
        f"{1e6 * seconds[0]:8.0f}  " + "  ".join(cells),
        flush=True,
    )


def _width(name):
    return max(5, len(_short(name)))


def _short(name):
    return name.replace("channels by ", "ch ").replace("columns by ", "")


def fit(rng):
    """Prints the coefficients that explain random layers best."""
    from scipy.optimize import nnls

    names, rows = (
        [f.name for f in dataclasses.fields(cost_model.CostModel)],
        [],
    )
    measured, groups, kinds = [], [], []
    for number in range(FLAGS.num_fitted):
        size = int(rng.choice([4, 7, 8, 14, 16, 28, 32, 56]))
        inputs, filters = rng.choice([16, 32, 48, 64, 96, 128, 256, 512], 2)
        if size**2 * 9 * inputs * filters > 150e6:
            continue
        live = int(max(1, rng.uniform(0.03, 0.6) * 9 * inputs))
        strides = int(rng.choice([1, 1, 1, 2]))
        sparse = random_site(
            rng, size, inputs, filters, live, strides, bool(rng.integers(2))
        )
        options = [None, *methods.candidates(sparse)]
        files = [layer_timing.converted(sparse, o) for o in options]
        for option, seconds in zip(
            options, times(sparse, files, int(FLAGS.threads[0]))
        ):
            sizes = cost_model.operation_counts(sparse, option)
            rows.append([sizes[name] for name in names])
            measured.append(1e6 * seconds)
            groups.append(number)
            kinds.append("dense" if option is None else option.name)
        print(f"{number + 1} layers", flush=True)
    rows, measured = np.array(rows), np.array(measured)
    found, _ = nnls(rows / measured[:, None], np.ones(len(rows)))
    print({name: round(float(c), 3) for name, c in zip(names, found)})
    ratio = rows @ found / measured
    print("predicted / measured, median and 10-90 %:")
    for kind in ("dense", *NAMES):
        own = ratio[np.array(kinds) == kind]
        if len(own):
            low, middle, high = np.quantile(own, [0.1, 0.5, 0.9])
            print(f"  {kind:22} {middle:.2f}  {low:.2f}-{high:.2f}")
    lost = []
    for group in np.unique(groups):
        own = np.array(groups) == group
        picked = measured[own][np.argmin((rows @ found)[own])]
        lost.append(picked / measured[own].min())
    print(
        f"time of the pick / best: median {np.median(lost):.2f}, highest "
        f"{max(lost):.2f}"
    )


def model_kernels(path):
    """The layers with empty columns of a trained model, stripped."""
    model = keras.saving.load_model(path, compile=False)
    return lowering_models.sparse_kernels(model)


def main(argv):
    del argv
    rng = np.random.default_rng(FLAGS.seed)
    print(
        f"{platform.machine()} with {os.cpu_count()} cores, Keras "
        f"{keras.__version__}, LiteRT {runtime.version()}, medians "
        f"of {FLAGS.runs} rounds, seed {FLAGS.seed}"
    )
    if FLAGS.fit:
        fit(rng)
        return
    heads = [_short(n) for n in ("again", *NAMES, "model", "bound")]
    heads = [f"{h:>{max(5, len(h))}}" for h in heads]
    print(
        f"{'layer':18}  live/all     used  threads  dense us  "
        + "  ".join(heads)
    )
    labeled = []
    for text in FLAGS.cases if not FLAGS.models else ():
        size, inputs, filters, live = map(int, text.split("x"))
        sparse = random_site(rng, size, inputs, filters, live)
        labeled.append((f"{size}, {inputs} -> {filters}", sparse))
    for path in FLAGS.models:
        for sparse in model_kernels(path):
            name = f"{os.path.basename(path)[:9]} {sparse.layer.name[:8]}"
            labeled.append((name, sparse))
    for threads in map(int, FLAGS.threads):
        for label, sparse in labeled:
            print_row(sparse, threads, label)


if __name__ == "__main__":
    app.run(main)
