"""`Certificate`: how far candidates are from a model."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_prm.reports import tables
from keras_prm.reports.base import Report
from keras_prm.reports.costs import Costs


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far one candidate is from the model on one set of inputs.

    Args:
        candidate: `"stripped"`, `"litert"`, or `"saved"`: the stripped model
            as a process of its own loads it.
        inputs: `"random"` or `"given"`; `"zeros"` where a file fails on a
            row of zeros and on no other.
        samples: How many samples were compared.
        max_abs_error: Largest absolute difference of any output.
        max_rel_error: The largest of each output's error, divided by the
            largest absolute value of that output; see `tolerances`.
        tolerance: Largest `max_rel_error` that counts as rounding; `None`
            for a quantized file, which is not judged.
        note: What else there is to say, such as where both are NaN.
        untested: Why agreement says nothing; `""` where it does.
        failure: Which operation of the file failed, or why the saved model
            could not be loaded; `""` if nothing did.
    """

    candidate: str
    inputs: str
    samples: int
    max_abs_error: float
    max_rel_error: float
    tolerance: float | None
    note: str = ""
    untested: str = ""
    failure: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was tested and is no more than `tolerance` off."""
        return self.is_equal and not self.untested

    @property
    def is_equal(self) -> bool:
        """Whether the error is one of rounding, or not judged but finite.

        It is infinite where shapes differ, where one is NaN or infinite and
        the other is not, and where the file fails.
        """
        if self.tolerance is None:
            return bool(np.isfinite(self.max_rel_error))
        return self.max_rel_error <= self.tolerance


@dataclasses.dataclass(frozen=True)
class Certificate(Report):
    """What `verify` found. `print` shows it; `bool` is `ok`.

    Args:
        comparisons: Tuple of `Comparison`.
        before: `Costs` of the model.
        after: `Costs` of the stripped model.
        keras_bytes: Bytes of `.keras` files of both, without optimizer;
            `None` for one that cannot be saved, of which `remarks` tell why.
        litert_bytes: Bytes of the LiteRT file; `None` without one.
        saved_bytes: Bytes of the `.keras` file that was loaded again; `None`
            without one.
        inputs: What the models were compared on, for people.
        remarks: What else one has to know of the model, sentences.
        is_random: Whether the model itself does not compute the same twice.
    """

    comparisons: tuple[Comparison, ...]
    before: Costs
    after: Costs
    keras_bytes: tuple[int | None, int | None]
    litert_bytes: int | None
    saved_bytes: int | None = None
    inputs: str = ""
    remarks: tuple[str, ...] = ()
    is_random: bool = False

    @property
    def ok(self) -> bool:
        """Whether everything was tested and equals the model up to rounding.

        A quantized LiteRT file is only held to be of finite error.
        """
        return all(c.ok for c in self.comparisons)

    @property
    def max_abs_error(self) -> float:
        """Largest error of the stripped model on any inputs."""
        return max(
            c.max_abs_error
            for c in self.comparisons
            if c.candidate == "stripped"
        )

    def __bool__(self):
        return self.ok

    def __str__(self):
        lines = [*self._verdicts()]
        if self.inputs:
            lines.append(f"Compared on {self.inputs}.")
        rows = [("candidate", "inputs", "samples", "max abs error")]
        errors = ["max rel error"]
        for c in self.comparisons:
            error = "" if c.failure else f"{c.max_abs_error:.2e}"
            rows.append((c.candidate, c.inputs, str(c.samples), error))
            fails = f"fails: {c.failure}"
            errors.append(fails if c.failure else f"{c.max_rel_error:.2e}")
        lines += tables.aligned(rows, errors)
        lines += dict.fromkeys(
            f"Note: {c.note}." for c in self.comparisons if c.note
        )
        rows, ratios = [("", "before", "after")], ["ratio"]
        for name, before, after in self._sizes():
            rows.append((name, tables.number(before), tables.number(after)))
            ratio = f"{before / after:.1f}x" if before and after else ""
            ratios.append(ratio)
        lines += tables.aligned(rows, ratios)
        if note := self.before.macs_note or self.after.macs_note:
            lines.append(f"MACs are unknown: {note}.")
        lines += [f"Note: {remark}" for remark in self.remarks]
        return "\n".join(lines)

    def _verdicts(self):
        names = {"stripped": "stripped model", "litert": "LiteRT file"}
        names["saved"] = "saved model"
        if self.saved_bytes is not None:
            names["saved"] += f" of {self.saved_bytes:,} bytes"
        for candidate, name in names.items():
            found = [c for c in self.comparisons if c.candidate == candidate]
            if found:
                verdict = _verdict(found, self.is_random)
                yield f"The {name} {verdict}."

    def _sizes(self):
        yield "parameters", self.before.parameters, self.after.parameters
        yield (
            "CONV kernels",
            self.before.conv_parameters,
            self.after.conv_parameters,
        )
        yield "MACs", self.before.macs, self.after.macs
        yield ".keras bytes", *self.keras_bytes
        if self.litert_bytes is not None:
            yield ".tflite bytes", None, self.litert_bytes


def _verdict(comparisons, is_random):
    """What is said of one candidate."""
    limit = f"tolerance {comparisons[0].tolerance}, relative"
    verdict = "is equal up to rounding"
    if comparisons[0].tolerance is None:
        verdict, limit = "is quantized", "not judged"
    failed = [c for c in comparisons if c.failure]
    if failed and failed[0].candidate == "saved":
        return f"is NOT LOADED: {failed[0].failure}"
    if failed:
        places = {"random": "random inputs", "given": "the inputs given"}
        where = places.get(failed[0].inputs, "a row of zeros")
        return f"FAILS on {where}: {failed[0].failure}"
    if not all(c.is_equal for c in comparisons):
        verdict = "is DIFFERENT"
        if is_random:
            verdict = "is not comparable: random at inference"
    elif any(c.untested for c in comparisons):
        reason = next(c.untested for c in comparisons if c.untested)
        return f"is UNTESTED: {reason}. Pass other `inputs`"
    return f"{verdict} ({limit})"
