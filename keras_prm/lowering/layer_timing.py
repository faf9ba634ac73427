"""Single layers as LiteRT files to be timed, and a cache of times."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import warnings

import numpy as np
from absl import logging
from keras import ops


def converted(sparse, lowering=None, mode="float32"):
    """A layer as the bytes of a LiteRT file, without bias and activation.

    Args:
        sparse: The `SparseKernel`; its sizes are known.
        lowering: A `Lowering`, or `None` for the dense kernel.
        mode: How it is quantized, see `export_litert`.
    """
    import tensorflow as tf

    kernel = sparse.array.astype("float32")
    layer, gather = sparse.layer, None
    options = {}
    if sparse.window:
        options = {
            "strides": layer.strides,
            "padding": layer.padding,
            "dilation_rate": layer.dilation_rate,
            "data_format": "channels_last",
        }
    if lowering is not None:
        kernel = lowering.kernel(kernel)
        gather = lowering.layers_before("layer", "float32")[0]
        if not lowering.keeps_window:
            options = {"padding": "valid", "data_format": "channels_last"}

    def run(x):
        x = x if gather is None else gather(x)
        if not sparse.window:
            return ops.matmul(x, kernel)
        if options["padding"] == "causal":
            reach = (kernel.shape[0] - 1) * options["dilation_rate"][0]
            x = ops.pad(x, [(0, 0), (reach, 0), (0, 0)])
            return ops.conv(x, kernel, **{**options, "padding": "valid"})
        return ops.conv(x, kernel, **options)

    shape = (1, *sparse.space, sparse.array.shape[-2])
    function = tf.function(run, autograph=False)
    traced = function.get_concrete_function(tf.TensorSpec(shape, tf.float32))
    with _quiet():
        # Without a module to track it converts seven times as fast, and logs
        # that it had rather have one.
        converter = tf.lite.TFLiteConverter.from_concrete_functions([traced])
        _set_quantization(converter, mode, shape)
        return converter.convert()


def _set_quantization(converter, mode, shape):
    import tensorflow as tf

    if mode != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if mode == "int8":
        sample = inputs_of(shape)
        converter.representative_dataset = lambda: [[sample]]


def inputs_of(shape):
    """Random inputs, in [-1, 1)."""
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, shape).astype("float32")


@contextlib.contextmanager
def _quiet():
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)


def check_cache(path):
    """Raises unless measurements can be kept in a file.

    Raises:
        TypeError: `path` is no path.
        ValueError: It is a folder, in none, or the file of something else.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            "Cannot keep what lowerings took. Expected the path of a file, or "
            f"None. Received: cache={path!r}"
        )
    path = pathlib.Path(path)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ValueError(
            "Cannot keep what lowerings took. Expected the path of a file in "
            f"a folder that exists. Received: cache={str(path)!r}"
        )
    remembered(path)


def remembered(path):
    """dict from key to list of microseconds; empty where there is no file.

    Raises:
        ValueError: The file holds something else.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return {}
    try:
        lines = map(json.loads, path.read_text().splitlines())
        return {
            key: list(map(float, row))
            for rows in lines
            for key, row in rows.items()
        }
    except (ValueError, AttributeError, TypeError, OSError) as error:
        raise ValueError(
            "Cannot read what lowerings took. Expected a file that "
            "`AutoLowering(cache=...)` wrote; delete it to measure anew. "
            f"Received: cache={str(path)!r} ({error})"
        ) from error


def remember(path, rows):
    """Adds rows, in one line: processes that add at once lose none."""
    line = f"{json.dumps(rows)}\n".encode()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, line)
    finally:
        os.close(file)
