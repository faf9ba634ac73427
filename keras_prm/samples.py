"""Samples to calibrate and check a LiteRT file with."""

from __future__ import annotations

import keras
import numpy as np

NUM_SAMPLES = 256
_NUM_RANDOM_SAMPLES = 8
_UNKNOWN_SIZE = 32


def random(model):
    """Eight random samples: list of arrays, one per input of the model."""
    specs = [(x.shape, x.dtype) for x in model.inputs]
    return uniform(specs, _NUM_RANDOM_SAMPLES)


def uniform(specs, num_rows):
    """Random samples in [-1, 1), the same each time.

    Args:
        specs: list of `(shape, dtype)`, one per input; the first axis of the
            shape is that of the rows, 32 stands in for unknown sizes.
        num_rows: int.

    Returns:
        list of arrays `(num_rows, ...)`. Integers are all 0, a valid index.
    """
    rng = np.random.default_rng(0)
    samples = []
    for shape, dtype in specs:
        sizes = [size or _UNKNOWN_SIZE for size in shape[1:]]
        array = rng.uniform(-1, 1, (num_rows, *sizes))
        samples.append(array.astype(dtype))
    return samples


def representative(model, data):
    """The first samples of a user's data, checked.

    Args:
        model: A functional model.
        data: Array, dict or list of arrays, or an iterable of batches.

    Returns:
        list of arrays, one per input of the model, at most 256 rows.

    Raises:
        ValueError: There are none, they do not fit, or are not finite.
    """
    parts, num = [], 0
    for batch in _batches(data, len(model.inputs)):
        parts.append(_as_arrays(model, batch, parts[0] if parts else None))
        num += len(parts[-1][0])
        if num >= NUM_SAMPLES:
            break
    if not num:
        raise ValueError(
            "Cannot export to LiteRT: representative_data is empty. Pass "
            "some hundred typical samples; a generator can be read only once."
        )
    return [np.concatenate(x)[:NUM_SAMPLES] for x in zip(*parts)]


def _batches(data, num_inputs):
    is_list = isinstance(data, (list, tuple)) and num_inputs > 1
    if isinstance(data, dict) or hasattr(data, "shape"):
        return [data]
    if is_list and all(hasattr(x, "shape") for x in data):
        return [list(data)]
    if isinstance(data, keras.utils.PyDataset):
        data = map(data.__getitem__, range(len(data)))
    return (x[0] if isinstance(x, tuple) else x for x in data)


def _as_arrays(model, batch, previous):
    known = [x.name for x in model.inputs]
    if isinstance(batch, dict) and set(batch) == set(known):
        batch = [batch[name] for name in known]
    elif isinstance(batch, dict):
        # Keras sorts its keys, as `flatten` does.
        known = getattr(model, "input", None)
        known = sorted(known) if isinstance(known, dict) else []
        batch = batch if sorted(batch) == known else []
    arrays = [np.asarray(x)[:NUM_SAMPLES] for x in keras.tree.flatten(batch)]
    shapes = [x.shape for x in arrays]
    expected = [(None, *x.shape[1:]) for x in previous or model.inputs]
    if (
        len(shapes) != len(expected)
        or not all(map(_fits, shapes, expected))
        or len({shape[0] for shape in shapes}) > 1
    ):
        raise ValueError(
            "Cannot export to LiteRT: representative_data does not fit the "
            f"inputs {[x.name for x in model.inputs]}. Expected shapes, rows "
            f"first: {expected}. Received: {shapes}. Pass batches: arrays, "
            "or dicts or lists of arrays."
        )
    if not all(np.isfinite(x).all() for x in arrays):
        raise ValueError(
            "Cannot export to LiteRT: representative_data holds NaN or "
            "infinite values. Remove the samples that have them."
        )
    return [x.astype(y.dtype) for x, y in zip(arrays, model.inputs)]


def _fits(shape, expected):
    return len(shape) == len(expected) and all(
        wanted in (None, size) for size, wanted in zip(shape, expected)
    )
