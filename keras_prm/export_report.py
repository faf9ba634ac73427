"""What `export_litert` wrote, as a record."""

from __future__ import annotations

import dataclasses

from keras_prm.file_scores import Scores


@dataclasses.dataclass(frozen=True)
class ExportReport:
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
    """

    path: str
    quantize: str
    num_bytes: int
    num_samples: int = 0
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    tolerance: float | None = None
    scores: Scores | None = None

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
        return f"{text}, {self._errors()}{self._scores()}"

    def _errors(self):
        if not self.num_samples:
            return "not compared with the model"
        kept = "no limit" if self.tolerance is None else f"{self.tolerance:g}"
        return (
            f"max error {self.max_abs_error:.2g} (relative "
            f"{self.max_rel_error:.2g}, tolerance {kept}) on "
            f"{self.num_samples} samples"
        )

    def _scores(self):
        if self.scores is None:
            return ""
        return (
            f"; {self.metric} of the model {self.model_score:.4f}, of the "
            f"file {self.file_score:.4f} on {self.scores.num_samples} samples"
        )
