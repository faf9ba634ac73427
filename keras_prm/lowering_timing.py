"""Choosing a lowering for each layer by what LiteRT needs on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import platform
import tempfile
import time
import warnings

import keras
import numpy as np
from absl import logging
from keras import ops

from keras_prm import conversion
from keras_prm import export
from keras_prm import litert
from keras_prm import lowering_search
from keras_prm import samples
from keras_prm import timing
from keras_prm.lowering_search import Choice

# A lowering has to need at most this share of the dense layer's time: what is
# nearly as fast is not worth a custom layer.
_PAYS = 0.9

_KNOWN = {}


@dataclasses.dataclass(frozen=True)
class AutoLowering(lowering_search.Lowerer):
    """`lowering="auto"` with options: per layer, what LiteRT runs fastest.

    The layer is converted with its dense kernel and with each lowering that
    the cost model finds promising, and all are timed in turn, on this
    machine. What was measured once is remembered as long as the process
    lives, and in a file if one is named.

    Args:
        num_threads: int, threads of the interpreter. Default 1.
        seconds: float, time after which no further layer is measured; the
            others are chosen by the cost model. Default 60.
        runs: int, rounds that are timed for each layer. Default 30.
        cache: Path of a JSON file in which measurements are kept, or `None`.

    Raises:
        ValueError: A number is not positive.

    Example:

    ```python
    keras_prm.strip(model, lowering=keras_prm.AutoLowering(num_threads=4))
    ```
    """

    num_threads: int = 1
    seconds: float = 60.0
    runs: int = 30
    cache: str | os.PathLike | None = None

    def __post_init__(self):
        numbers = (self.num_threads, self.seconds, self.runs)
        if not all(n > 0 for n in numbers):
            raise ValueError(
                "Cannot measure lowerings. Expected num_threads, seconds and "
                f"runs above 0. Received: {self}"
            )

    def choose(self, sites):
        """A `Choice` for every `ColumnSite`.

        Raises:
            ValueError: Keras does not run on TensorFlow, whose converter this
                needs, or the cache is no such file.
            ImportError: `ai-edge-litert` is not installed.
        """
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                "Cannot measure lowerings: the converter needs TensorFlow. "
                f"Received: backend={keras.backend.backend()!r}. Use "
                "lowering='model', which measures nothing, or load the model "
                "in a process under KERAS_BACKEND=tensorflow."
            )
        known = self._read()
        start = time.monotonic()
        choices = []
        for site in sites:
            if None in site.space:
                choices.append(lowering_search.undecided(site))
            elif time.monotonic() - start > self.seconds:
                choices.append(lowering_search.ModelLowering().choose_one(site))
            else:
                choices.append(self._measured(site, known))
        self._write(known)
        return choices

    def accepts(self, lowered, dense):
        """Whether a whole model needs no more time than it did before."""
        inputs = [x[:1] for x in samples.random(dense)]
        names = conversion.input_names(dense)
        with tempfile.TemporaryDirectory() as folder:
            models = []
            for number, model in enumerate((dense, lowered)):
                path = pathlib.Path(folder) / f"{number}.tflite"
                export.export_litert(model, path, check=False)
                models.append(litert.LiteRTModel(path, self.num_threads, names))
            before, after = timing.latency(models, inputs, runs=self.runs)
        return after <= before

    def _measured(self, site, known):
        options = lowering_search.promising(site)
        if not options:
            return Choice(site, None, reason="no lowering is promising")
        key = _signature(site, options, self.num_threads)
        if key not in known:
            known[key] = self._times(site, options)
        dense, *others = known[key]
        best = int(np.argmin(others))
        if others[best] <= _PAYS * dense:
            return Choice(site, options[best], dense, others[best], "measured")
        reason = f"'{options[best].name}' takes {others[best]:.0f} us"
        return Choice(site, None, dense, dense, reason)

    def _times(self, site, options):
        """µs of the dense layer and of each lowering."""
        files = [converted(site, option) for option in (None, *options)]
        rng = np.random.default_rng(0)
        shape = (1, *site.space, site.array.shape[-2])
        inputs = rng.uniform(-1, 1, shape).astype("float32")
        seconds = timing.latency(
            files, inputs, runs=self.runs, num_threads=self.num_threads
        )
        return [1e6 * s for s in seconds]

    def _read(self):
        if self.cache is None or not os.path.exists(self.cache):
            return _KNOWN
        try:
            found = json.loads(pathlib.Path(self.cache).read_text())
            rows = {key: list(map(float, row)) for key, row in found.items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise ValueError(
                "Cannot read what lowerings took. Expected a file that "
                "`AutoLowering(cache=...)` wrote; delete it to measure anew. "
                f"Received: cache={str(self.cache)!r} ({error})"
            ) from error
        return {**rows, **_KNOWN}

    def _write(self, known):
        if self.cache is not None:
            pathlib.Path(self.cache).write_text(json.dumps(known))


def forget():
    """Forgets what was measured in this process."""
    _KNOWN.clear()


def converted(site, lowering=None):
    """A layer as the bytes of a LiteRT file, without bias and activation."""
    import tensorflow as tf

    kernel = site.array.astype("float32")
    layer, gather = site.layer, None
    options = {}
    if site.window:
        options = {
            "strides": layer.strides,
            "padding": layer.padding,
            "dilation_rate": layer.dilation_rate,
            "data_format": "channels_last",
        }
    if lowering is not None:
        kernel = lowering.kernel(kernel)
        gather = lowering.adapters("layer", "float32")[0]
        if not lowering.keeps_window:
            options = {"padding": "valid", "data_format": "channels_last"}

    def run(x):
        x = x if gather is None else gather(x)
        if not site.window:
            return ops.matmul(x, kernel)
        if options["padding"] == "causal":
            reach = (kernel.shape[0] - 1) * options["dilation_rate"][0]
            x = ops.pad(x, [(0, 0), (reach, 0), (0, 0)])
            return ops.conv(x, kernel, **{**options, "padding": "valid"})
        return ops.conv(x, kernel, **options)

    shape = (1, *site.space, site.array.shape[-2])
    function = tf.function(run, autograph=False)
    traced = function.get_concrete_function(tf.TensorSpec(shape, tf.float32))
    with _quiet():
        # Without a module to track it converts seven times as fast, and logs
        # that it had rather have one.
        converter = tf.lite.TFLiteConverter.from_concrete_functions([traced])
        return converter.convert()


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


def _signature(site, options, num_threads):
    """What a measurement depends on: sizes and columns, not weights."""
    layer = site.layer
    window = [
        getattr(layer, name, None)
        for name in ("strides", "padding", "dilation_rate")
    ]
    parts = [
        (site.array.shape, site.space, window, num_threads),
        [(option.name, option.columns) for option in options],
        (platform.machine(), os.cpu_count(), litert.version()),
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()
