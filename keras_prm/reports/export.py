"""`ExportReport`: what `export_litert` wrote."""

from __future__ import annotations

import collections
import dataclasses

from keras_prm.reports.base import Report

# What each mode is to store weights as.
_WANTED = {"float16": "float16", "dynamic_range": "int8", "int8": "int8"}
# Entries below which TensorFlow's converter leaves a weight of a
# dynamic-range file as it is.
_DYNAMIC_RANGE_ENTRIES = 1024


@dataclasses.dataclass(frozen=True)
class ExportReport(Report):
    """What was written, and how far it is from the model. `print` shows it.

    Args:
        path: Path of the file.
        quantize: `"float32"`, `"float16"`, `"dynamic_range"` or `"int8"`.
        num_bytes: Size of the file.
        num_samples: Samples the file was compared on; 0 if it was not.
        max_abs_error: Largest difference from any of the model's outputs;
            None if not compared.
        max_rel_error: The largest of each output's `max_abs_error`, divided
            by the largest absolute value of that output.
        tolerance: The tolerance that was kept; None if there was none.
        scores: `Scores` on `evaluation_data`; None without.
        weights: What the file stores its weights as, tuple of `Weight`.
        inputs: What the file takes, tuple of `Port`.
        outputs: What it returns, tuple of `Port`.
        float_operations: Operations that compute in floating point, dict
            from name to their number; see `LiteRTModel.float_operations`.
        compared_on: What the file was compared on, for people; `""` if it was
            not.
        problems: tuple of str, what the comparison cannot vouch for, of which
            `export_litert` has warned.
    """

    path: str
    quantize: str
    num_bytes: int
    num_samples: int = 0
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    tolerance: float | None = None
    scores: Scores | None = None
    weights: tuple[StoredWeight, ...] = ()
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    float_operations: dict[str, int] = dataclasses.field(default_factory=dict)
    compared_on: str = ""
    problems: tuple[str, ...] = ()

    @property
    def metric(self) -> str | None:
        """Name of the metric on `evaluation_data`, or None."""
        return self.scores and self.scores.metric

    @property
    def model_score(self) -> float | None:
        """The model's metric on `evaluation_data`, or None."""
        return self.scores and self.scores.model

    @property
    def file_score(self) -> float | None:
        """The file's metric on `evaluation_data`, or None."""
        return self.scores and self.scores.file

    def __str__(self):
        text = f"{self.path}: {self.quantize}, {self.num_bytes / 1e3:,.1f} kB"
        lines = [f"{text}, {self._errors()}{self._scores()}"]
        if self.quantize != "float32" and self.weights:
            lines.append(f"  weights: {self._weights()}")
        if self.quantize == "int8":
            for name, ports in (("in", self.inputs), ("out", self.outputs)):
                lines.append(f"  {name}puts: {', '.join(map(str, ports))}")
            lines.append(f"  {self._arithmetic()}")
        return "\n".join(lines)

    def _weights(self):
        """How many weights are stored as what, and why not as asked."""
        counts = collections.Counter(w.dtype for w in self.weights)
        wanted = _WANTED[self.quantize]
        parts = [f"{counts.pop(wanted, 0)} of {len(self.weights)} in {wanted}"]
        parts += [f"{n} in {dtype}" for dtype, n in sorted(counts.items())]
        text = ", ".join(parts)
        others = [w for w in self.weights if w.dtype != wanted]
        small = [w for w in others if w.size < _DYNAMIC_RANGE_ENTRIES]
        if self.quantize == "dynamic_range" and small:
            text += (
                f" ({len(small)} of under {_DYNAMIC_RANGE_ENTRIES:,} entries, "
                "which this mode leaves; quantize='int8' stores them in int8)"
            )
        return text

    def _arithmetic(self):
        if not self.float_operations:
            return "integers only, between the inputs and the outputs"
        names = [f"{name} ({n})" for name, n in self.float_operations.items()]
        return f"not integer-only: {', '.join(names)} in floating point"

    def _errors(self):
        if not self.num_samples:
            return "not compared with the model"
        kept = "no limit" if self.tolerance is None else f"{self.tolerance:g}"
        return (
            f"max error {self.max_abs_error:.2g} (relative "
            f"{self.max_rel_error:.2g}, tolerance {kept}) on "
            f"{self.compared_on or f'{self.num_samples} samples'}"
            f"{''.join(f'; {problem}' for problem in self.problems)}"
        )

    def _scores(self):
        if self.scores is None:
            return ""
        return (
            f"; {self.metric} of the model {self.model_score:.4f}, of the "
            f"file {self.file_score:.4f} on {self.scores.num_samples} samples"
        )


@dataclasses.dataclass(frozen=True)
class StoredWeight:
    """A constant of two or more axes, such as a kernel, as it is stored.

    Args:
        name: Its name in the file.
        operation: Name of the operation that reads it, such as `"CONV_2D"`.
        dtype: `"float32"`, `"float16"`, `"int8"`, ...
        shape: As it is laid out in the file.
        num_bytes: Bytes of its data.
    """

    name: str
    operation: str
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int

    @property
    def size(self) -> int:
        """How many entries it has."""
        size = 1
        for n in self.shape:
            size *= n
        return size


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or an output of a file.

    Args:
        name: Its name, for callers of the file.
        dtype: What is passed there: `"float32"`, `"int8"`, `"uint8"`, ...
        scale: float; of integers `q` that stand for `scale * (q -
            zero_point)`. 0.0 for numbers that stand for themselves.
        zero_point: int.
    """

    name: str
    dtype: str
    scale: float = 0.0
    zero_point: int = 0

    def __str__(self):
        text = f"{self.name} {self.dtype}"
        if self.scale:
            text += f" (scale {self.scale:.6g}, zero point {self.zero_point})"
        return text


@dataclasses.dataclass(frozen=True)
class Scores:
    """One metric of a model and of its file, on the same data.

    Args:
        metric: Its name.
        model: The model's figure.
        file: The file's.
        num_samples: How many samples both are of.
    """

    metric: str
    model: float
    file: float
    num_samples: int
