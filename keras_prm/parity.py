"""The one rule by which outputs of two models count as equal.

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
# functions. The float32 files of tests/zoo.py need 1.4e-6, nine models of
# keras.applications with random weights 2.7e-6, but 2.6e-4 has been met too.
FILE_TOLERANCES = {
    "float32": 1e-3,
    "float16": 1e-2,
    "dynamic_range": None,
    "int8": None,
}

_SMALLEST_PEAK = 1e-6


def is_mode(quantize):
    """Whether it names a way to store weights, a key of `FILE_TOLERANCES`."""
    return isinstance(quantize, str) and quantize in FILE_TOLERANCES


def errors(expected, actual):
    """How far one output is from what it should be.

    Args:
        expected: Array `y`.
        actual: Array `z`.

    Returns:
        `(max |z - y|, max |z - y| / max |y|)`, floats. Both are infinite
        where the shapes differ or either array holds NaN or infinity.

    Example:

    ```python
    absolute, relative = errors(model.predict(x), file.predict(x))
    ```
    """
    if expected.shape != actual.shape:
        return np.inf, np.inf
    if not (np.isfinite(expected).all() and np.isfinite(actual).all()):
        return np.inf, np.inf
    expected = expected.astype(float)
    absolute = float(np.abs(actual.astype(float) - expected).max(initial=0))
    peak = float(np.abs(expected).max(initial=0))
    return absolute, absolute / max(peak, _SMALLEST_PEAK)
