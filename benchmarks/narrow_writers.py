"""What it costs on LiteRT to put the channels of a narrow writer back.

    python -m benchmarks.narrow_writers

A convolution whose filters are partly zero is followed by a sum with another
tensor, so that all channels of the sum live. Its filters can stay stored, as
zeros (`dense`), or go, and the channels that are left are put back in place:

    pad      zeros after them; they have to be contiguous
    concat   the same with a tensor of zeros
    take     a zero channel after them, and a gather; any channels
    one-hot  a 1x1 convolution with a one-hot kernel; any channels

All ways of a row are timed in turn in one run. Times are medians, the other
columns ratios to `dense`, of which `again` is a second copy: the noise. Two
figures `a-b` are the lowest and the highest of the repeats. `weights` is the
size with the one-hot kernel, relative to the dense kernel; the last column
tells where `strip` goes that way (`keras_prm/rebuild/narrowing.py` holds the
rule).
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
from keras import layers
from keras import ops

import keras_prm
from keras_prm.rebuild import narrowing

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "cases",
    "56x64x256x1,32x64x64x1,16x128x128x1,8x256x256x1,4x512x512x1,"
    "32x64x64x3,16x128x128x3,14x256x256x3,8x256x256x3,7x512x512x3",
    "Height and width, inputs, filters and kernel size, joined by x.",
)
flags.DEFINE_list("dead", "0.25,0.5,0.75,0.9", "Fractions of zero filters.")
flags.DEFINE_list("threads", "1,2", "Numbers of threads.")
flags.DEFINE_string("quantize", None, "As in `export_litert`.")
flags.DEFINE_integer("runs", 60, "Rounds per repeat.")
flags.DEFINE_integer("repeats", 3, "Repeats; their range is printed.")
flags.DEFINE_integer("seed", 0, "Seed of the weights.")


def dense(x, live, conv):
    return conv(x, len(live))


def pad(x, live, conv):
    y = conv(x, live.sum())
    return ops.pad(y, [(0, 0)] * 3 + [(0, int((~live).sum()))])


def concat(x, live, conv):
    y = conv(x, live.sum())
    zero = ops.zeros_like(y[..., :1])
    zero = ops.repeat(zero, int((~live).sum()), axis=-1)
    return layers.Concatenate()([y, zero])


def take(x, live, conv):
    y = ops.pad(conv(x, live.sum()), [(0, 0)] * 3 + [(0, 1)])
    places = np.where(live, np.cumsum(live) - 1, live.sum())
    return ops.take(y, places.tolist(), axis=-1)


def one_hot(x, live, conv):
    kernel = np.eye(len(live), dtype="float32")[live]
    put = layers.Conv2D(len(live), 1, use_bias=False)
    y = put(conv(x, live.sum()))
    put.set_weights([kernel[None, None]])
    return y


WAYS = {
    "dense": dense,
    "again": dense,
    "pad": pad,
    "concat": concat,
    "take": take,
    "one-hot": one_hot,
}


def model(way, case, live):
    """The writer, the way its channels are put back, the sum."""
    size, inputs, filters, window = case

    def conv(x, width):
        layer = layers.Conv2D(
            int(width),
            window,
            padding="same",
            kernel_initializer=keras.initializers.RandomNormal(seed=FLAGS.seed),
        )
        return layers.BatchNormalization()(layer(x))

    x = keras.Input((size, size, inputs), name="x")
    other = keras.Input((size, size, filters), name="other")
    y = layers.Add()([WAYS[way](x, live, conv), other])
    return keras.Model([x, other], layers.ReLU()(y))


def files(case, live, data, folder):
    """One LiteRT file per way."""
    found = []
    for way in WAYS:
        path = pathlib.Path(folder) / f"{way}.tflite"
        keras_prm.export_litert(
            model(way, case, live), path, FLAGS.quantize, data, check=False
        )
        found.append(path)
    return found


def print_row(case, fraction, folder):
    rng = np.random.default_rng(FLAGS.seed)
    size, inputs, filters, window = case
    live = rng.permutation(filters) >= round(fraction * filters)
    arrays = {
        "x": rng.random((1, size, size, inputs), "float32"),
        "other": rng.random((1, size, size, filters), "float32"),
    }
    paths = files(case, live, arrays, folder)
    stored = window**2 * inputs * filters
    put = live.sum() * (window**2 * inputs + filters)
    allowed = narrowing.RULE.allows(
        window**2 * inputs, filters, int(live.sum()), size**2
    )
    for threads in map(int, FLAGS.threads):
        times = np.array(
            [
                keras_prm.latency(
                    paths, arrays, runs=FLAGS.runs, num_threads=threads
                )
                for _ in range(FLAGS.repeats)
            ]
        )
        ratios = times[:, 1:] / times[:, :1]
        cells = zip(ratios.min(axis=0), ratios.max(axis=0))
        print(
            f"{size:3}  {inputs:4}->{filters:<4} {window}x{window}  "
            f"{fraction:4}  {threads:7}  {1e6 * np.median(times[:, 0]):8.0f}  "
            + "  ".join(f"{low:4.2f}-{high:4.2f}" for low, high in cells)
            + f"  {put / stored:7.2f}  {'yes' if allowed else 'no'}",
            flush=True,
        )


def main(argv):
    del argv
    print(
        f"{platform.machine()} with {os.cpu_count()} cores, Keras "
        f"{keras.__version__}, medians of {FLAGS.runs} rounds, "
        f"{FLAGS.repeats} repeats"
    )
    print(
        "H=W  in -> out  window  dead  threads  dense us  "
        + "  ".join(f"{way:>9}" for way in list(WAYS)[1:])
        + "  weights  strip"
    )
    for text in FLAGS.cases:
        for fraction in map(float, FLAGS.dead):
            with tempfile.TemporaryDirectory() as folder:
                print_row(tuple(map(int, text.split("x"))), fraction, folder)


if __name__ == "__main__":
    app.run(main)
