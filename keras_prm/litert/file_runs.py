"""Runs of a LiteRT file to compare it, even if it fails on some inputs."""

from __future__ import annotations

from keras_prm.equivalence import tolerances
from keras_prm.litert import runtime
from keras_prm.litert.model import LiteRTModel


class FileRuns:
    """A LiteRT file that begins anew at each run, whatever state it keeps.

    Args:
        path: Path of the file.
        input_names: See `LiteRTModel`.
    """

    def __init__(self, path, input_names):
        first = LiteRTModel(path, input_names=input_names)
        self.precision = first.precision
        self._content, self._names = first.content, input_names

    def run(self, arrays):
        """Its outputs, a list of arrays; or, a string, what failed."""
        file = LiteRTModel(self._content, input_names=self._names)
        try:
            found = file.predict(arrays if len(arrays) > 1 else arrays[0])
        except RuntimeError as error:
            return runtime.failure(error)
        return found if isinstance(found, list) else [found]

    def takes(self, arrays):
        """Whether it runs on them."""
        return not isinstance(self.run(arrays), str)


def without_failing_zeros(file, probe):
    """What a file makes of inputs, and what of a row of zeros.

    Args:
        file: `FileRuns`.
        probe: `probing.Probe`.

    Returns:
        `(probe, found, failure)`: the inputs, without the row of zeros if the
        file fails on it; the file's outputs, or what failed; and what fails
        on the row of zeros, `""` if nothing does.
    """
    found = file.run(probe.arrays)
    if probe.zeros is None:
        return probe, found, ""
    failure = _failure_on_zeros(file, probe, found)
    if failure and probe.has_zeros:
        probe = probe.without_zeros()
        found = file.run(probe.arrays)
    return probe, found, failure


def _failure_on_zeros(file, probe, found):
    """What fails on the row of zeros alone, `""` if nothing does."""
    if probe.has_zeros and not isinstance(found, str):
        zeros = [y[-1:] for y in found]
    else:
        zeros = file.run(probe.zeros)
    if isinstance(zeros, str):
        return zeros
    if probe.is_finite_on_zeros and tolerances.undefined(zeros):
        return "it returns NaN or infinity, and the model does not"
    return ""


def problems(probe, failure):
    """What a comparison cannot vouch for, as sentences; see `ExportReport`.

    Args:
        probe: `probing.Probe`.
        failure: What fails on a row of zeros, `""` if nothing does.
    """
    if failure:
        yield (
            "it fails on a row of zeros, such as a black image or an empty "
            f"sequence: {failure}. Keep such inputs from it, or export with "
            "another `quantize`; a divisor that may be 0 wants something "
            "added, of a size that int8 can hold"
        )
    if probe.problem:
        yield (
            f"it is untested: {probe.problem}. Pass other `inputs`, or look "
            "whether the model is dead"
        )
