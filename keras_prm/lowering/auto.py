"""`AutoLowering`: a lowering for each layer by what LiteRT needs here."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import platform
import tempfile
import time
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_prm.equivalence import random_inputs
from keras_prm.equivalence import tolerances
from keras_prm.litert import conversion
from keras_prm.litert import runtime
from keras_prm.litert import timing
from keras_prm.litert.export import export_litert
from keras_prm.litert.model import LiteRTModel
from keras_prm.lowering import layer_timing
from keras_prm.lowering import strategies
from keras_prm.lowering.strategies import Choice
from keras_prm.utils import validation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keras_prm.lowering.methods import SparseKernel

# A lowering has to need at most this share of the dense layer's time: what is
# nearly as fast is not worth a custom layer.
_PAYS = 0.9

_KNOWN = {}


@dataclasses.dataclass(frozen=True)
class AutoLowering(strategies.Lowerer):
    """`lowering="auto"` with options: per layer, what LiteRT runs fastest.

    The layer is converted with its dense kernel and with each lowering that
    the cost model finds promising, and all are timed in turn, on this
    machine. What was measured once is remembered as long as the process
    lives, and in a file if one is named.

    Args:
        num_threads: int, threads of the interpreter. Default 1.
        quantize: How the model will be exported: None (default) or `"float32"`,
            `"float16"`, `"dynamic_range"` or `"int8"`. A processor may be so
            fast at int8 that nothing is gained by leaving columns out.
        time_budget: float, time after which no further layer is measured; the
            others are chosen by the cost model. Two exports of the whole
            model, to time it, come on top. Default 60.
        runs: int, rounds that are timed for each layer. Default 30.
        cache: Path of a file in which measurements are kept, lines of JSON,
            or `None`; one file for each machine.

    Raises:
        ValueError: A number is not whole or not positive, or `quantize` is
            unknown.

    Example:

    ```python
    keras_prm.strip(model, lowering=keras_prm.AutoLowering(num_threads=4))
    ```
    """

    num_threads: int = 1
    quantize: str | None = None
    time_budget: float = 60.0
    runs: int = 30
    cache: str | os.PathLike[str] | None = None

    seconds = validation.former_name("seconds", "time_budget")

    def __post_init__(self):
        if self.quantize is None:
            object.__setattr__(self, "quantize", "float32")
        whole = all(map(validation.is_whole, (self.num_threads, self.runs)))
        is_time = validation.is_real(self.time_budget) and self.time_budget > 0
        if not whole or not is_time:
            raise ValueError(
                "Cannot measure lowerings. Expected whole numbers of threads "
                "and runs, and seconds, all of them above 0. Received: "
                f"{self}"
            )
        if not tolerances.is_mode(self.quantize):
            raise ValueError(
                "Cannot measure lowerings: unknown quantization. Expected one "
                f"of {list(tolerances.FILE_TOLERANCES)}. Received: "
                f"quantize={self.quantize!r}"
            )

    def check(self) -> None:
        """Raises unless it can measure.

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
        runtime.interpreter_class()
        if self.cache is not None:
            layer_timing.check_cache(self.cache)

    def choose(self, kernels: Sequence[SparseKernel]) -> list[Choice]:
        """A `Choice` for every `SparseKernel`, by what is measured.

        Args:
            kernels: list of `SparseKernel`; measured in this order, until
                `time_budget` seconds have passed. The others are left to the
                cost model.

        Returns:
            list of `Choice`, in the same order.
        """
        if self.cache is not None:
            _KNOWN.update(layer_timing.remembered(self.cache))
        start = time.monotonic()
        choices = []
        for sparse in kernels:
            if None in sparse.space:
                choices.append(strategies.undecided(sparse))
            elif time.monotonic() - start > self.time_budget:
                choices.append(self._unmeasured(sparse))
            else:
                choices.append(self._measured(sparse))
        return choices

    def objection(self, lowered: keras.Model, dense: keras.Model) -> str:
        """Whether a whole model needs more time than it did before.

        Args:
            lowered: The model in which layers are lowered.
            dense: The same model before.
        """
        is_fixed = dense.inputs[0].shape[0] is not None
        # Recurrent layers want a batch size that is known.
        for batch_size in (None,) if is_fixed else (None, 1):
            try:
                before, after = self._whole(
                    dense, lowered, batch_size=batch_size
                )
            except ValueError as error:
                problem = f"LiteRT does not take the whole model: {error}"
            else:
                is_slower = "the layer is faster, but the whole model is not"
                return "" if after <= before else is_slower
        return problem

    def _whole(self, *models, batch_size):
        """Seconds that whole models need for one sample, a list."""
        inputs = random_inputs.random(models[0], 8)
        names = conversion.input_names(models[0])
        with tempfile.TemporaryDirectory() as folder:
            files = []
            for number, model in enumerate(models):
                path = pathlib.Path(folder) / f"{number}.tflite"
                export_litert(
                    model,
                    path,
                    self.quantize,
                    inputs,
                    check=False,
                    batch_size=batch_size,
                )
                files.append(LiteRTModel(path, self.num_threads, names))
            one = [x[:1] for x in inputs]
            return timing.latency(files, one, runs=self.runs)

    def _unmeasured(self, sparse):
        if self.quantize in ("float32", "float16"):
            return strategies.ModelLowering().choose_one(sparse)
        return Choice(sparse, None, reason="no time was left to measure it")

    def _measured(self, sparse):
        options = strategies.promising(sparse, self.num_threads)
        if not options:
            return Choice(sparse, None, reason="no lowering is promising")
        key = _timing_key(sparse, options, (self.num_threads, self.quantize))
        if len(_KNOWN.get(key, ())) != 1 + len(options):
            _KNOWN[key] = self._times(sparse, options)
            if self.cache is not None:
                layer_timing.remember(self.cache, {key: _KNOWN[key]})
        dense, *others = _KNOWN[key]
        best = int(np.argmin(others))
        if others[best] <= _PAYS * dense:
            return Choice(
                sparse, options[best], dense, others[best], "measured"
            )
        reason = f"'{options[best].name}' takes {others[best]:.0f} us"
        return Choice(sparse, None, dense, dense, reason)

    def _times(self, sparse, options):
        """µs of the dense layer and of each lowering."""
        files = [
            layer_timing.converted(sparse, option, self.quantize or "float32")
            for option in (None, *options)
        ]
        inputs = layer_timing.inputs_of(
            (1, *sparse.space, sparse.array.shape[-2])
        )
        seconds = timing.latency(
            files, inputs, runs=self.runs, num_threads=self.num_threads
        )
        return [1e6 * s for s in seconds]


# Around what `dataclass` has written.
_renamed = validation.renamed(seconds="time_budget")
AutoLowering.__init__ = _renamed(AutoLowering.__init__)


def _timing_key(sparse, options, how):
    """What a measurement depends on: sizes and columns, not weights."""
    layer = sparse.layer
    window = [
        getattr(layer, name, None)
        for name in ("strides", "padding", "dilation_rate")
    ]
    parts = [
        (sparse.array.shape, sparse.space, window, how),
        [(option.name, option.columns) for option in options],
        (platform.machine(), os.cpu_count(), runtime.version()),
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()
