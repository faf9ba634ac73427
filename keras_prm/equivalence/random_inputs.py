"""Random inputs that a model can take, the same each time."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from keras_prm.equivalence import input_domains
from keras_prm.equivalence.input_domains import Domain
from keras_prm.utils import keras_graph

NUM_ROWS = 32
# Sizes that stand in for unknown ones, and intervals for real numbers of
# which no layer tells the range; taken in turn until a model can do with them.
_SIZES = (32, 64, 128, 256)
_INTERVALS = (
    (-1.0, 1.0),
    (0.0, 1.0),
    (0.0, 255.0),
    (1.0, 10.0),
    (-1.0, 0.0),
    (0.1, 0.9),
)
_MOST_ROWS = 4096
_MOST_ENTRIES = 2**16


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Random inputs.

    Args:
        arrays: list of arrays, one per input of the model.
        text: What they are, for people; by input if there are several.
    """

    arrays: list
    text: str


def random(model, num_rows=NUM_ROWS):
    """The first inputs that `attempts` makes; a list of arrays."""
    return next(attempts(model, num_rows)).arrays


def attempts(model, num_rows=NUM_ROWS, seed=0):
    """Random inputs by what the first layers of a model take.

    Args:
        model: A functional or Sequential model.
        num_rows: At least so many rows; up to 4,096 short ones where it
            takes them to have every index of a table once.
        seed: int.

    Yields:
        `Drawn`: first those that are likeliest to be in range. The last row
        of each is zeros: a black image, an empty sequence. Others differ in
        the interval of real numbers of which no layer tells it, in whether
        their sequences end in steps of zeros, and in sizes that the model
        leaves open.
    """
    specs = [(x.shape, x.dtype) for x in model.inputs]
    names = [keras_graph.input_layer(x).name for x in model.inputs]
    return of_specs(
        specs, names, input_domains.input_domains(model), num_rows, seed
    )


def of_specs(specs, names, domains=None, num_rows=NUM_ROWS, seed=0):
    """As `attempts`, without a model.

    Args:
        specs: list of `(shape, dtype)`, the first axis that of the rows.
        names: list of the inputs' names.
        domains: list of `Domain`, None where it is not known.
        num_rows: int.
        seed: int.
    """
    domains = domains or [None] * len(specs)
    for size in _SIZES if any(None in s[1:] for s, _ in specs) else (1,):
        inputs = [
            ([n or size for n in shape[1:]], str(dtype))
            for shape, dtype in specs
        ]
        # What a layer takes may still be too much for one behind it.
        trust = [("real", "integer", "word"), ("integer", "word"), ()]
        before = None
        for kinds in trust:
            known = [d if d and d.kind in kinds else None for d in domains]
            if known != before:
                for found in _variants(inputs, known):
                    drawn = _drawn(found, names, num_rows, seed)
                    if size == 1:
                        yield drawn
                        continue
                    text = f"{drawn.text}; open sizes are {size}"
                    yield dataclasses.replace(drawn, text=text)
            before = known


def _variants(inputs, domains):
    """`(domain, shape, dtype)` of each input, for each guess at the ranges."""
    free = [
        domain is None and "float" in dtype
        for domain, (_, dtype) in zip(domains, inputs)
    ]
    steps = [x and len(shape) == 2 for x, (shape, _) in zip(free, inputs)]
    for interval in _INTERVALS if any(free) else _INTERVALS[:1]:
        for padded in (True, False) if any(steps) else (False,):
            yield [
                (
                    domain or _default(dtype, interval, padded and is_steps),
                    shape,
                    dtype,
                )
                for domain, is_steps, (shape, dtype) in zip(
                    domains, steps, inputs
                )
            ]


def _default(dtype, interval, padded):
    """The domain of an input of which no layer tells it."""
    if dtype in ("string", "object") or dtype[:2] == "|S":
        return Domain("word", values=("a", "b", "c"))
    if "float" in dtype:
        return Domain("real", *interval, padded=padded)
    if dtype == "uint8":
        return Domain("real", 0, 255)
    return Domain("integer", 0, 1)  # valid indices nearly everywhere


def _drawn(inputs, names, num_rows, seed):
    rng = np.random.default_rng(seed)
    entries = sum(math.prod(shape) for _, shape, _ in inputs)
    limit = min(_MOST_ROWS, _MOST_ENTRIES // max(1, entries))
    wanted = max(_rows_of(domain, shape) for domain, shape, _ in inputs)
    rows = max(num_rows, min(wanted, limit))
    arrays = [
        _drawn_values(rng, d, (rows, *shape), t) for d, shape, t in inputs
    ]
    for array in arrays:
        array[-1:] = "" if array.dtype == object else 0
    texts = [_drawn_from(d, shape, t, rows) for d, shape, t in inputs]
    if len(set(texts)) > 1:
        texts = [f"{name}: {text}" for name, text in zip(names, texts)]
    return Drawn(arrays, "; ".join(dict.fromkeys(texts)))


def _drawn_from(domain, shape, dtype, rows):
    """What an input is drawn from, and whether all of it is."""
    if domain.kind == "real" and "int" in dtype:  # both ends are drawn
        limits = np.iinfo(dtype)
        low, high = (
            int(np.clip(np.round(end), limits.min, limits.max))
            for end in (np.min(domain.low), np.max(domain.high))
        )
        return f"integers {low} to {high}"
    if _rows_of(domain, shape) <= rows:
        return str(domain)
    each = math.prod(shape) * max(1, domain.length)
    return f"{domain}, of which {rows * each:,} at most are tried"


def _rows_of(domain, shape):
    """How many rows it takes to have every value once."""
    if domain.kind == "real":
        return 0
    sizes = np.asarray(domain.high) - domain.low + 1
    if sizes.ndim:  # each position has a range of its own
        return int(np.max(sizes[sizes < 2**31 - 1], initial=0)) + 1
    number = len(domain.values) or int(sizes)
    # Half of the rows have no padding, and the last one is zeros.
    share = 2 if domain.padded else 1
    each = max(1, math.prod(shape)) * max(1, domain.length)
    return share * -(-number // each) + 1


def _drawn_values(rng, domain, shape, dtype):
    if domain.kind == "real":
        array = _real(rng, domain, shape)
        if "int" in dtype:
            array = np.round(array)
    else:
        array = _discrete(rng, domain, shape)
    if dtype in ("string", "object") or dtype[:2] == "|S":
        return array.astype(str).astype(object)
    if "int" in dtype:
        limits = np.iinfo(dtype)
        array = np.clip(array, limits.min, limits.max)
    return array.astype(dtype)


def _real(rng, domain, shape):
    low, high = np.asarray(domain.low), np.asarray(domain.high)
    try:
        array = rng.uniform(low, high, shape)
    except ValueError:  # of another layout, after it was reshaped
        array = rng.uniform(low.min(), high.max(), shape)
    if domain.padded:
        array[shape[0] // 2 :, shape[1] // 2 :] = 0
    return array


def _discrete(rng, domain, shape):
    """Integers or words, each once before any comes again."""
    kept = _steps(rng, shape) if domain.padded else np.ones(shape, bool)
    kept[-1:] = False  # where zeros will be
    if shape[0] == 1:
        kept[:] = True
    if not domain.values:
        return _integers(rng, domain, kept)
    length = max(1, domain.length)
    picked = _covering(rng, len(domain.values), int(kept.sum()) * length)
    values = np.array(domain.values, dtype=object)[picked]
    if domain.length:
        rows = values.reshape(-1, length)
        values = np.array([" ".join(row) for row in rows], dtype=object)
    array = np.full(shape, domain.values[0], dtype=object)
    array[kept] = values
    return array


def _integers(rng, domain, kept):
    """Integers where a mask says so, each once before any comes again."""
    array, low, high = np.zeros(kept.shape, "int64"), domain.low, domain.high
    try:
        low, high = (np.broadcast_to(x, kept.shape) for x in (low, high))
    except ValueError:  # of another layout, after it was reshaped
        low = np.broadcast_to(np.max(low), kept.shape)
        high = np.broadcast_to(np.min(high), kept.shape)
    if domain.padded:
        low = np.maximum(low, 1)
    ends = np.stack([low, high], -1)[kept]
    for first, last in np.unique(ends, axis=0):
        here = kept & (low == first) & (high == last)
        size = max(1, last - first + 1) if last < 2**31 - 1 else 2
        array[here] = first + _covering(rng, size, int(here.sum()))
    return array


def _steps(rng, shape):
    """Which steps are no padding: all in half of the rows, else the first."""
    kept = np.ones(shape, bool)
    if len(shape) > 1:
        lengths = rng.integers(1, shape[1] + 1, shape[0])
        lengths[: -(-shape[0] // 2)] = shape[1]
        steps = np.arange(shape[1]) < lengths[:, None]
        kept &= steps.reshape(steps.shape + (1,) * (len(shape) - 2))
    return kept


def _covering(rng, size, count):
    """So many of the integers below `size`, spread evenly if they are few."""
    if count < size:
        return rng.permutation(np.linspace(0, size - 1, count).astype("int64"))
    times = -(-count // size)
    blocks = [rng.permutation(size) for _ in range(times)]
    return np.concatenate(blocks)[:count]
