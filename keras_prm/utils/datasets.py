"""Users' data, as arrays and as batches."""

from __future__ import annotations

import itertools
import types
from functools import partial
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_prm.utils import validation

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

NUM_SAMPLES = 256
_UNKNOWN_SIZE = 32


def uniform(specs, num_rows):
    """Random samples in [-1, 1), the same each time.

    Args:
        specs: list of `(shape, dtype)`, one per input; the first axis of the
            shape is that of the rows, 32 stands in for unknown sizes.
        num_rows: int.

    Returns:
        list of arrays `(num_rows, ...)`. Integers are 0 and 1, which are
        valid indices nearly everywhere.
    """
    rng = np.random.default_rng(0)
    samples = []
    for shape, dtype in specs:
        sizes = [size or _UNKNOWN_SIZE for size in shape[1:]]
        if np.issubdtype(dtype, np.integer):
            array = rng.integers(0, 2, (num_rows, *sizes))
        else:
            array = rng.uniform(-1, 1, (num_rows, *sizes))
        samples.append(array.astype(dtype))
    return samples


def first_rows(model, data, name, purpose, is_finite=True):
    """The first samples of a user's data, checked.

    Args:
        model: A functional model.
        data: What `batches` takes, or a function that returns it.
        name: The argument that it comes from, for errors.
        purpose: What it is for, after "Cannot", for errors.
        is_finite: bool, whether NaN and infinity are refused.

    Returns:
        list of arrays, one per input of the model, at most 256 rows.

    Raises:
        TypeError: `data` is none of these.
        ValueError: There are none, they do not fit, or are not finite.
    """
    parts, num = [], 0
    if isinstance(data, types.FunctionType | types.MethodType | partial):
        data = data()
    if not validation.is_iterable(data):
        raise TypeError(
            f"Cannot {purpose}: expected samples, or a function that "
            f"returns some. Received: {name} of, or returning, "
            f"{type(data).__name__}. Pass an array, or batches of arrays."
        )
    for batch in batches(data, len(model.inputs)):
        previous = parts[0] if parts else None
        parts.append(
            as_arrays(
                model, batch, name, previous, NUM_SAMPLES, purpose, is_finite
            )
        )
        num += len(parts[-1][0])
        if num >= NUM_SAMPLES:
            break
    if not num:
        raise ValueError(
            f"Cannot {purpose}: {name} is empty. Pass "
            "some hundred typical samples; a generator can be read only once."
        )
    return [np.concatenate(x)[:NUM_SAMPLES] for x in zip(*parts)]


def whole(data, num_inputs):
    """The inputs of all samples at once; `None` if `data` are batches.

    As `fit` reads them, a tuple is `(x, y)` or `(x, y, sample_weight)`, and a
    list holds the inputs of a model that has several. A list of arrays for a
    model of one input is a list of batches.

    Args:
        data: See `batches`.
        num_inputs: How many inputs the model has.
    """
    if isinstance(data, dict) or hasattr(data, "shape"):
        return data
    if not isinstance(data, (list, tuple)):
        return None
    if num_inputs == len(data) > 1 and all(hasattr(x, "shape") for x in data):
        return list(data)
    is_fit = isinstance(data, tuple) and 1 <= len(data) <= 3
    return data[0] if is_fit and not isinstance(data[0], tuple) else None


def batches(data, num_inputs):
    """The inputs of each batch of a user's data.

    Args:
        data: Array, dict or list of arrays, a tuple `(x, y, ...)` of all
            samples, or an iterable of batches, which may be `(x, y, ...)`.
        num_inputs: How many inputs the model has.

    Returns:
        An iterable of what the model takes.
    """
    arrays = whole(data, num_inputs)
    if arrays is not None:
        return [arrays]
    if isinstance(data, keras.utils.PyDataset):
        data = _numbered(data)
    # PyTorch's loaders make lists of what others make tuples of.
    pairs = (tuple, list) if num_inputs == 1 else tuple
    return (x[0] if isinstance(x, pairs) and x else x for x in data)


def labeled_batches(data, size, name, refuse):
    """Yields `(x, y)` or `(x, y, sample_weight)`, a batch at a time.

    Unlike `batches`, which is for inputs alone, it takes a list of arrays for
    all samples, too, as there are labels in it.

    Args:
        data: An iterable of batches: a list, `tf.data.Dataset`,
            `keras.utils.PyDataset`, ...; or a tuple or list `(x, y)` or
            `(x, y, sample_weight)` of all samples.
        size: int, rows of the batches that all samples are cut into.
        name: The argument that it comes from, for errors.
        refuse: A function from what was received, a str, to an exception.

    Yields:
        tuples of two or three, without weights that are `None`.

    Raises:
        ValueError: The data never end, or there is not one label for each
            sample.
        Exception: What `refuse` returns, where they are of another form.
    """
    check_ends(data)
    if _is_samples(data):
        found = _cut_batches(data, size, name, refuse)
    elif isinstance(data, keras.utils.PyDataset):
        found = _numbered(data)
    elif isinstance(data, dict):
        raise refuse(f"a dict of {list(data)}, without labels"[:200])
    elif _goes_through(data):
        found = data
    else:
        text = " ".join(repr(data).split())
        raise refuse(f"{text[:150]} (of type {type(data).__name__})")
    for batch in found:
        kind = type(batch).__name__
        if not isinstance(batch, (tuple, list)):
            raise refuse(f"a batch of type {kind}")
        batch = _without_weights_of_none(batch)
        if not 2 <= len(batch) <= 3:
            labels = ", without labels" if len(batch) < 2 else ""
            raise refuse(f"a {kind} of {len(batch)}{labels}")
        x, y, *weights = batch
        if y is None and weights:
            raise refuse("weights of labels that are None")
        if isinstance(y, list) and y and not any(map(np.ndim, _arrays(y))):
            y = np.asarray(y)  # a list of numbers
        if not any(map(np.ndim, _arrays(x))) or not all(
            map(np.ndim, _arrays(y))
        ):
            raise refuse("single samples; call `data.batch(32)`")
        yield x, y, *weights


def _is_samples(data):
    """Whether data are all samples at once: no part of them is a batch."""
    if not isinstance(data, (list, tuple)):
        return False
    is_pair = isinstance(data, tuple) and data
    is_pair = is_pair and not isinstance(data[0], tuple)
    return is_pair or any(hasattr(x, "shape") for x in data)


def _goes_through(data):
    is_text = isinstance(data, (str, bytes))
    return validation.is_iterable(data) and not (
        is_text or hasattr(data, "shape")
    )


def check_ends(data):
    """Refuses data that are known to go on forever.

    Raises:
        ValueError: They do.
    """
    remedy, is_endless = "give it a `num_batches`", False
    if isinstance(data, keras.utils.PyDataset):
        is_endless = data.num_batches is None
    elif callable(cardinality := _cardinality(data)):
        is_endless = int(cardinality()) == -1
        remedy = "pass a part of it, such as `data.take(100)`"
    if is_endless:
        raise ValueError(
            f"The data never end. Expected a {type(data).__name__} that does: "
            f"{remedy}. Received: an endless one"
        )


def _cardinality(data) -> Callable[[], Any] | None:
    """What a data set of TensorFlow's tells its size by."""
    return getattr(data, "cardinality", None)


def _numbered(data):
    """The batches of a `PyDataset`, in order."""
    size = data.num_batches
    return map(
        data.__getitem__, itertools.count() if size is None else range(size)
    )


def _cut_batches(data, size, name, refuse):
    data = _without_weights_of_none(data)
    if any(isinstance(x, (str, bytes)) for x in _arrays(data)):
        raise refuse("words; make arrays of them")
    if not all(map(np.ndim, _arrays(data))):
        raise refuse("lists of numbers; make arrays of them")
    if not 2 <= len(data) <= 3:
        yield data  # to be refused
        return
    rows = [len(x) for x in _arrays(data)]
    if len(set(rows)) > 1:
        raise ValueError(
            f"The arrays in `{name}` differ in their number of samples. Pass "
            f"one label for each sample. Received: {rows} samples"
        )
    for start in range(0, rows[0], size):
        part = slice(start, start + size)
        yield _each(lambda x: x[part], data)


def _each(function, batch):
    """What becomes of each array of a structure; `None` stays `None`."""
    return keras.tree.map_structure(
        lambda x: None if x is None else function(x), batch
    )


def _arrays(batch):
    """All that a batch is made of; `None` stands for labels not needed."""
    return [x for x in keras.tree.flatten(batch) if x is not None]


def _without_weights_of_none(batch):
    return tuple(batch[:2] if len(batch) == 3 and batch[2] is None else batch)


def as_arrays(
    model,
    batch,
    what,
    previous=None,
    limit=None,
    purpose="export to LiteRT",
    is_finite=True,
):
    """One batch of inputs as arrays, checked.

    Args:
        model: A functional model.
        batch: Array, or dict or list of arrays.
        what: Name of the argument that the batch comes from, for errors.
        previous: An earlier batch, whose unknown sizes this one must have.
        limit: int, rows after which it is cut off; None: nowhere.
        purpose: What it is for, after "Cannot", for errors.
        is_finite: bool, whether NaN and infinity are refused.

    Returns:
        list of arrays of the inputs' dtypes, one per input of the model;
        of Python's objects for words.

    Raises:
        ValueError: They do not fit, are no numbers, or are not finite.
    """
    _check_keys(model, batch, what, purpose)
    arrays = [to_numpy(x) for x in in_order(model, batch)]
    arrays = [x[:limit] if x.ndim else x for x in arrays]
    shapes = [x.shape for x in arrays]
    expected = [(None, *x.shape[1:]) for x in previous or model.inputs]
    if (
        len(shapes) != len(expected)
        or not all(map(_fits_input, shapes, expected))
        or len({shape[0] for shape in shapes}) > 1
    ):
        raise ValueError(
            f"Cannot {purpose}: {what} does not fit the inputs "
            f"{[x.name for x in model.inputs]}. Expected shapes, rows "
            f"first: {expected}. Received: {shapes}. "
            f"{_advice(shapes, expected)}"
        )
    return _cast(model, arrays, what, purpose, is_finite)


def _advice(shapes, expected):
    """How to mend what does not fit, by what is wrong with it."""
    own = [wanted[1:] for wanted in expected]
    if len(shapes) == len(own) and all(map(_fits_input, shapes, own)):
        return (
            "Rows come first: `x[None]` for a single sample, `np.stack(xs)` "
            "for a list of them, `data.batch(32)` for a data set of them."
        )
    if len(shapes) == len(expected) and all(map(_fits_input, shapes, expected)):
        return "Pass as many rows of each input."
    return (
        "Pass batches: arrays, or dicts or lists of arrays; labels beside "
        "them in a tuple, `(x, y)`."
    )


def _check_keys(model, batch, what, purpose):
    """Refuses a dict of other inputs than the model's."""
    if not isinstance(batch, dict) or in_order(model, batch):
        return
    own = getattr(model, "input", None)
    names = own if isinstance(own, dict) else [x.name for x in model.inputs]
    missing = [name for name in names if name not in batch]
    unknown = [name for name in batch if name not in names]
    raise ValueError(
        f"Cannot {purpose}: {what} is a dict of other inputs than the "
        f"model's. Expected the keys {list(names)}. Received: "
        f"{list(batch)}; missing: {missing}, unknown: {unknown}. Pass an "
        "array for each input, by its name."
    )


def in_order(model, batch):
    """Inputs as a list in the order of a model's; none where names differ.

    Args:
        model: A functional model.
        batch: Array, list, or dict by the keys the model was made with, or by
            the names of its inputs.
    """
    if not isinstance(batch, dict):
        return keras.tree.flatten(batch)
    own = getattr(model, "input", None)
    if isinstance(own, dict) and set(batch) == set(own):
        # Like the model's, in which Keras sorts the keys unless it is ordered.
        return keras.tree.flatten(type(own)((key, batch[key]) for key in own))
    names = [x.name for x in model.inputs]
    if isinstance(own, dict) or set(batch) != set(names):
        return []
    return [batch[name] for name in names]


def _cast(model, arrays, what, purpose, is_finite):
    """The arrays in the dtypes of the model's inputs, which can hold them."""
    dtypes = {x.name: str(y.dtype) for x, y in zip(model.inputs, arrays)}
    words = [x.dtype == "string" for x in model.inputs]
    if any(
        (x.dtype.kind not in "OSU") if word else x.dtype.kind in "OSUMmc"
        for x, word in zip(arrays, words)
    ):
        expected = "no strings" if all(words) else "no real numbers"
        if any(words) and not all(words):
            expected = "no real numbers, or no strings where they are expected"
        raise ValueError(
            f"Cannot {purpose}: {what} holds {expected}. "
            f"Received: dtypes {dtypes}. Convert it as for "
            "`model.predict`, to float32 for instance."
        )
    with np.errstate(all="ignore"):  # what they warn of is refused below
        cast = [
            x.astype(object if word else y.dtype, copy=False)
            for x, y, word in zip(arrays, model.inputs, words)
        ]
    numbers = [
        (x.name, x.dtype, y, z)
        for x, y, z, word in zip(model.inputs, arrays, cast, words)
        if not word
    ]
    if is_finite and not all(
        np.isfinite(array).all() for *_, y, z in numbers for array in (y, z)
    ):
        raise ValueError(
            f"Cannot {purpose}: {what} holds NaN or infinite values, "
            f"or has them as {[x.dtype for x in model.inputs]}. Remove the "
            "samples that have them."
        )
    cut = {
        name: dtype
        for name, dtype, y, z in numbers
        if "int" in dtype and not (y == z).all()
    }
    if cut:
        raise ValueError(
            f"Cannot {purpose}: {what} holds fractions, or numbers out "
            f"of range, where integers are expected: {cut}. Received: dtypes "
            f"{dtypes}. Pass integers that fit."
        )
    return cast


def to_numpy(x):
    """A tensor of any backend, or what NumPy takes, as an array."""
    if isinstance(x, np.ndarray):
        return x
    if hasattr(x, "detach"):  # PyTorch's, on whatever device
        return x.detach().cpu().numpy()
    return np.asarray(x)


def _fits_input(shape, expected):
    return len(shape) == len(expected) and all(
        wanted in (None, size) for size, wanted in zip(shape, expected)
    )


def portions(arrays, size, is_fixed=False):
    """Slices of equally long arrays, all of the same number of rows.

    Args:
        arrays: list of arrays `(rows, ...)`.
        size: int, rows per slice; fewer if there are fewer.
        is_fixed: bool, whether there may not be fewer.

    Yields:
        `(list of arrays, int)`: a slice, and how many of its rows count. The
        last row of all is repeated in place of those that are missing.
    """
    rows = len(arrays[0])
    size = size if is_fixed else min(size, rows)
    for start in range(0, rows, size):
        picked = np.minimum(np.arange(start, start + size), rows - 1)
        yield [x[picked] for x in arrays], min(size, rows - start)
