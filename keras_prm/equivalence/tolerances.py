"""Tolerances: the one rule by which outputs of two models count as equal.

For each output `y` of the model, and `z` of what is compared with it:

    max |z - y| <= tolerance * max |y|

Both maxima go over all samples and positions. An output that is nowhere
larger than 1e-6 is measured against 1e-6. A class probability of 1e-3 and a
regression of 1e6 are thus held to the same number of digits.
"""

from __future__ import annotations

import numpy as np

# Of rounding, by the coarsest type a Keras model computes in.
MODEL_TOLERANCES = {"bfloat16": 3e-2, "float16": 4e-3, "float32": 1e-4}

# Of a `.tflite` file, by what its weights are stored as; None: any figure.
# LiteRT's kernels sum in another order than Keras' and approximate some
# functions. The float32 files of tests/helpers/zoo.py need 1.4e-6, nine models
# of keras.applications with random weights 2.7e-6, but 2.6e-4 was met, too.
FILE_TOLERANCES = {
    "float32": 1e-3,
    "float16": 1e-2,
    "dynamic_range": None,
    "int8": None,
}

_SMALLEST_PEAK = 1e-6
_ROUNDING = 1e-6  # between rows, of one and the same thing
_WORDS = "OSU"


def is_mode(quantize):
    """Whether it names a way to store weights, a key of `FILE_TOLERANCES`."""
    return isinstance(quantize, str) and quantize in FILE_TOLERANCES


def errors(expected, actual):
    """How far one output is from what it should be.

    Args:
        expected: Array `y`.
        actual: Array `z`.

    Returns:
        `(max |z - y|, max |z - y| / max |y|)`, floats. NaN in both at one
        place is agreement there, as is infinity of one sign; both figures are
        infinite where only one array is so, or the shapes differ.

    Example:

    ```python
    absolute, relative = errors(model.predict(x), file.predict(x))
    ```
    """
    if expected.shape != actual.shape:
        return np.inf, np.inf
    if expected.dtype.kind in _WORDS or actual.dtype.kind in _WORDS:
        same = _words(expected) == _words(actual)
        return (0.0, 0.0) if np.all(same) else (np.inf, np.inf)
    wide = complex if "c" in expected.dtype.kind + actual.dtype.kind else float
    expected, actual = expected.astype(wide), actual.astype(wide)
    finite = np.isfinite(expected) & np.isfinite(actual)
    alike = (expected == actual) | (np.isnan(expected) & np.isnan(actual))
    if not (finite | alike).all():
        return np.inf, np.inf
    expected, actual = expected[finite], actual[finite]
    absolute = float(np.abs(actual - expected).max(initial=0))
    peak = float(np.abs(expected).max(initial=0))
    return absolute, absolute / max(peak, _SMALLEST_PEAK)


def is_finite(output):
    """Where an output is finite, a boolean array; words are."""
    if output.dtype.kind in _WORDS:
        return np.ones(output.shape, bool)
    return np.isfinite(output)


def undefined(outputs):
    """How many numbers of some outputs are NaN or infinite, for people."""
    total = sum(y.size for y in outputs)
    found = [y[~is_finite(y)] for y in outputs]
    number, kinds = sum(y.size for y in found), []
    if any(np.isnan(y).any() for y in found if y.size):
        kinds.append("NaN")
    if any(np.isinf(y).any() for y in found if y.size):
        kinds.append("infinite")
    if not number:
        return ""
    return f"{number} of {total} outputs are {' or '.join(kinds)} in both"


def why_untested(outputs):
    """Why agreement with some outputs would say nothing; `""` if it would.

    Args:
        outputs: list of arrays `(rows, ...)`, what a model computes.
    """
    found = why_undefined(outputs)
    if found or any(_reacts(y) for y in outputs):
        return found
    return "the outputs are the same for all of these inputs"


def constant_outputs(outputs):
    """Which of several outputs are the same for all rows, for people."""
    found = [str(number) for number, y in enumerate(outputs) if not _reacts(y)]
    if not found or len(outputs) == 1 or len(outputs[0]) < 2:
        return ""
    return f"outputs {', '.join(found)} are the same"


def why_undefined(outputs):
    """The part of `why_untested` that is true of a single row as well."""
    undefined = [
        number
        for number, y in enumerate(outputs)
        if y.size and not is_finite(y).any()
    ]
    if not undefined:
        return ""
    one = f"output {undefined[0]} is" if len(outputs) > 1 else "the output is"
    return f"{one} NaN or infinite throughout"


def _reacts(output):
    """Whether an output is not the same for all rows, but for rounding."""
    if output.ndim == 0 or not output.size:
        return False
    if output.dtype.kind in _WORDS:
        return bool((output != output[:1]).any())
    array = output.astype(complex if output.dtype.kind == "c" else float)
    array = np.where(np.isfinite(array), array, np.nan)
    with np.errstate(invalid="ignore"):
        first = _first_finite(array)
        spread = np.abs(array - first)
        peak = max(np.nanmax(np.abs(array), initial=0), _SMALLEST_PEAK)
    return bool(np.nanmax(spread, initial=0) > _ROUNDING * peak)


def _first_finite(array):
    """At each position of a row the first number that is no NaN, `(1, ...)`."""
    if not len(array):
        return array
    rows = np.argmin(np.isnan(array), axis=0, keepdims=True)
    return np.take_along_axis(array, rows, axis=0)


def _words(array):
    return np.vectorize(_decoded, otypes=[object])(array)


def _decoded(word):
    return word.decode(errors="replace") if isinstance(word, bytes) else word


def is_random(compute, limit):
    """Whether a model does not compute the same twice.

    Args:
        compute: Computes its outputs, a list of arrays, of the same inputs at
            each call.
        limit: Largest relative error that counts as rounding.
    """
    pairs = zip(compute(), compute(), strict=True)
    return any(limit < errors(*pair)[1] < np.inf for pair in pairs)
