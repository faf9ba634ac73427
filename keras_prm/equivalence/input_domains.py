"""Domains of a model's inputs: ranges, indices, words.

Read backwards from each input: through what passes values on, through
constant factors and sums, into models and wrappers, to the first layer that
says what it expects.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import layers

from keras_prm.utils import keras_graph
from keras_prm.utils import keras_hooks

if TYPE_CHECKING:
    from typing import Any

# Values go through these, or some of them do; subclasses and operations of
# `keras.ops` go by the same names.
_CARRIERS = frozenset(
    "Reshape Flatten Ravel Permute Transpose Swapaxes Moveaxis Cast "
    "ExpandDims Squeeze Concatenate Stack Vstack Hstack Split Unstack "
    "Identity Dropout BaseDropout GaussianNoise ZeroPadding1D ZeroPadding2D "
    "ZeroPadding3D Cropping1D Cropping2D Cropping3D Pad Masking RepeatVector "
    "Repeat Tile Roll Flip Resizing Resize CenterCrop BasePooling MaxPool "
    "BaseImagePreprocessingLayer Copy StopGradient".split()
)
_ANY = 2**31 - 1  # the end of integers of which nothing is known
_UNKNOWN_WORD = "zzz"


@dataclasses.dataclass(frozen=True, eq=False)
class Domain:
    """What an input may be.

    Args:
        kind: `"real"`, `"integer"` or `"word"`.
        low: Smallest value; a float, or an array that broadcasts to the input.
        high: Largest value, itself included where they are integers.
        values: tuple to choose from instead; words, or integers.
        length: How many words make a text; 0: each is one for itself.
        padded: Whether zeros stand at the end of a sequence and nowhere else.
    """

    kind: str
    low: Any = 0
    high: Any = 1
    values: tuple = ()
    length: int = 0
    padded: bool = False

    @property
    def is_finite(self):
        """Whether both ends are numbers to draw between."""
        with np.errstate(all="ignore"):  # so must be the way from one to both
            return bool(np.isfinite(np.subtract(self.high, self.low)).all())

    def __str__(self):
        if self.kind == "word":
            return "texts of its words" if self.length else "its words"
        if self.values:
            return f"{len(self.values)} integers of its vocabulary"
        ends = np.asarray(self.high)
        low, high = np.min(self.low), np.max(ends[ends < _ANY], initial=0)
        if self.kind == "real":
            high = np.max(self.high)
            return f"[{low:.4g}, {high:.4g})"
        zeros = ", zeros at the end" if self.padded else ""
        return f"integers {low} to {high}{zeros}"


def input_domains(model):
    """The `Domain` of each input, a list; None where no layer tells.

    Args:
        model: A functional or Sequential model.
    """
    view = keras_graph.functional(model)
    readers = _readers_by_tensor(view)
    with np.errstate(all="ignore"):  # such ends say nothing
        domains = [_domain(x, readers) for x in view.inputs]
    return [d if d and d.is_finite else None for d in domains]


def _readers_by_tensor(view):
    """dict from `id(tensor)` to the calls that take it."""
    found = {}
    for node in keras_graph.nodes(view):
        for x in {id(x): x for x in node.inputs}.values():
            found.setdefault(id(x), []).append(node)
    return found


def _domain(x, readers, scale=1.0, offset=0.0):
    """The domain of `y` if `x = scale * y + offset`."""
    if id(x) not in readers:
        return _usual(scale, offset)
    found = [
        _of_call(node, x, readers, scale, offset) for node in readers[id(x)]
    ]
    return _meet([domain for domain in found if domain is not None])


def _of_call(node, x, readers, scale, offset):
    layer = node.operation
    while isinstance(layer, (layers.TimeDistributed, layers.Bidirectional)):
        is_timed = isinstance(layer, layers.TimeDistributed)
        layer = layer.layer if is_timed else layer.forward_layer
    if keras_graph.is_model(layer):
        return _of_model(node, layer, x, scale, offset)
    domain, step = _asked(layer, node, x), _affine(layer, node, x)
    if domain is not None:
        usual = _usual(scale, offset) if domain.kind == "real" else None
        return usual or _before(domain, scale, offset)
    if type(layer).__name__ == "GetItem":
        return _of_part(node, x, readers, scale, offset)
    if step is None and not _carries(layer):
        return _usual(scale, offset)
    if step is not None:
        return _of_scaled(node, step, readers, scale, offset)
    found = [_domain(y, readers, scale, offset) for y in node.outputs]
    return _meet([domain for domain in found if domain is not None])


def _of_scaled(node, step, readers, scale, offset):
    """The domain of a tensor by that of itself times and plus constants."""
    whole = step[0] * scale, step[0] * offset + step[1]
    if np.all(np.abs(step[0]) < 2):
        return _domain(node.outputs[0], readers, *whole)
    # Up to what is scaled down again further on.
    domain = _domain(node.outputs[0], readers)
    return _before(domain, *whole) if domain else _usual(*whole)


def _of_part(node, x, readers, scale, offset):
    """The domain of a tensor by that of a part of it, one column say."""
    found = [_domain(y, readers, scale, offset) for y in node.outputs]
    domain, shape = _meet([d for d in found if d is not None]), x.shape[1:]
    if domain is None or domain.values or domain.kind == "word":
        return domain
    index = node.arguments.args[1] if len(node.arguments.args) > 1 else ()
    is_known = isinstance(index, tuple) and index[:1] == (slice(None),)
    if domain.kind != "integer" or not is_known or None in shape:
        return domain
    low, high = np.zeros(shape, int), np.full(shape, _ANY)
    try:
        low[index[1:]], high[index[1:]] = domain.low, domain.high
    except (IndexError, ValueError, TypeError):
        return domain
    return dataclasses.replace(domain, low=low, high=high)


def _of_model(node, model, x, scale, offset):
    view = keras_graph.functional(model)
    fed, readers = node.inputs, _readers_by_tensor(view)
    if node.operation is model:
        fed = keras_graph.fed(node, view)
    found = [
        _domain(inner, readers, scale, offset)
        for inner, outer in zip(view.inputs, fed)
        if outer is x
    ]
    return _meet([domain for domain in found if domain is not None])


def _meet(domains):
    """The domain in all of some; words and integers before real numbers."""
    for kind in ("word", "integer"):
        found = [d for d in domains if d.kind == kind]
        chosen = [d for d in found if d.values]
        if chosen:
            return chosen[0]
        if found:
            low, high = found[0].low, found[0].high
            for other in found[1:]:
                low, high = _intersection((low, high), (other.low, other.high))
            padded = any(d.padded for d in found)
            return Domain(kind, low, high, padded=padded)
    return domains[0] if domains else None


def _intersection(one, other):
    """The interval that two have in common, position by position."""
    try:
        return np.maximum(one[0], other[0]), np.minimum(one[1], other[1])
    except ValueError:  # of other layouts
        return (
            max(np.max(one[0]), np.max(other[0])),
            min(np.min(one[1]), np.min(other[1])),
        )


def _carries(operation):
    return any(kind.__name__ in _CARRIERS for kind in type(operation).__mro__)


def _before(domain, scale, offset):
    """The domain of `y` where `scale * y + offset` has to be in `domain`."""
    if domain.values or (np.all(scale == 1) and np.all(offset == 0)):
        return domain
    ends = [(end - offset) / scale for end in (domain.low, domain.high)]
    low, high = np.minimum(*ends), np.maximum(*ends)
    if domain.kind == "integer":
        low, high = (
            f(x).astype(int) for f, x in ((np.ceil, low), (np.floor, high))
        )
        return Domain("integer", low, np.maximum(low, high))
    return Domain("real", low, high)


def _usual(scale, offset):
    """The domain of `y` by how it is scaled: bytes are, to be small numbers.

    `scale * y + offset` is taken to begin at 0, or to lie around it.
    """
    if np.all((np.abs(scale) > 0.5) & (np.abs(scale) < 2)) and np.all(
        np.abs(offset) <= 1
    ):
        return None
    if np.all(offset == 0):
        ends = np.zeros_like(scale), 1 / scale
    elif np.all(offset * np.sign(scale) < 0):
        ends = np.zeros_like(scale), -2 * offset / scale
    else:
        ends = (-1 - offset) / scale, (1 - offset) / scale
    return Domain("real", np.minimum(*ends), np.maximum(*ends))


def _affine(operation, node, x):
    """`(scale, offset)` of what multiplies and adds constants, or None."""
    if isinstance(operation, layers.Rescaling):
        return _factor(operation.scale, operation.offset)
    name, args = type(operation).__name__, node.arguments.args
    names = ("Add", "Subtract", "Multiply", "Divide", "TrueDivide")
    if name not in names or len(args) != 2 or len(node.inputs) != 1:
        return None
    is_first = args[0] is x
    try:
        other = keras.ops.convert_to_numpy(args[1] if is_first else args[0])
        other = np.asarray(other, float)
    except (TypeError, ValueError):
        return None
    one, sign = np.ones_like(other), 1.0 if is_first else -1.0
    if name == "Add":
        return one, other
    if name == "Subtract":
        return sign * one, -sign * other
    if name == "Multiply":
        return _factor(other, 0.0)
    return _factor(np.where(other, 1 / other, 0.0), 0.0) if is_first else None


def _factor(scale, offset):
    """`(scale, offset)` as arrays; times 0 is as good as not scaled at all."""
    scale, offset = np.broadcast_arrays(*map(np.float64, (scale, offset)))
    return np.where(scale, scale, 1.0), np.where(scale, offset, 0.0)


def _asked(layer, node, x):
    """The `Domain` that a layer or operation tells of what it takes."""
    name = type(layer).__name__
    for kinds, rule in _RULES:
        if isinstance(layer, kinds):
            return rule(layer)
    if name == "OneHot":
        return Domain("integer", 0, layer.num_classes - 1)
    if name == "Take" and node.inputs[-1] is x and len(node.inputs) == 1:
        table = node.arguments.args[0]
        shape = getattr(table, "shape", ())
        if len(node.arguments.args) > 1 and len(shape) and table is not x:
            return Domain("integer", 0, shape[layer.axis or 0] - 1)
    if isinstance(layer, keras.Layer) and "int" in x.dtype:
        tables = [
            _embedding(part)
            for part in keras_hooks.sublayers(layer)
            if isinstance(part, layers.Embedding)
        ]
        return _meet(tables)  # of words and of positions, say
    return None


def _embedding(layer):
    high = layer.input_dim - 1
    padded = layer.mask_zero and high > 0
    return Domain("integer", 0, high, padded=padded)


def _normalization(layer):
    if layer.invert:
        return Domain("real", -2.0, 2.0)
    mean, variance = (
        keras.ops.convert_to_numpy(v) for v in (layer.mean, layer.variance)
    )
    return _around(mean, variance)


def _batch_normalization(layer):
    return _around(
        keras.ops.convert_to_numpy(layer.moving_mean),
        keras.ops.convert_to_numpy(layer.moving_variance),
    )


def _around(mean, variance):
    reach = 2 * np.sqrt(np.maximum(variance, 0))
    low, high = mean - reach, mean + reach
    if -0.25 * np.max(high) < np.min(low) < 0:  # bytes, or other magnitudes
        low = np.maximum(low, 0.0)
    return Domain("real", low, high)


def _lookup(layer):
    vocabulary = layer.get_vocabulary(include_special_tokens=False)
    if layer.invert:
        return Domain("integer", 0, layer.vocabulary_size() - 1)
    is_word = isinstance(layer, layers.StringLookup)
    cast = str if is_word else int
    values: list[Any] = [cast(word) for word in vocabulary]
    if layer.num_oov_indices:
        values.append(
            _unknown_word(values) if is_word else max(values, default=0) + 1
        )
    return Domain("word" if is_word else "integer", values=tuple(values))


def _texts(layer):
    words = [str(w) for w in layer.get_vocabulary(False)]
    longest = layer.get_config().get("output_sequence_length") or 8
    is_split = layer.get_config().get("split") is not None
    length = min(longest, 8) if is_split else 0
    return Domain("word", values=(*words, _unknown_word(words)), length=length)


def _unknown_word(words):
    found = _UNKNOWN_WORD
    while found in words:
        found += "z"
    return found


def _discretization(layer):
    edges = np.asarray(layer.bin_boundaries or [0.0], float)
    reach = max(1.0, np.ptp(edges) / max(1, len(edges)))
    return Domain("real", edges.min() - reach, edges.max() + reach)


def _hashing(layer):
    number = 4 * getattr(layer, "num_bins", 8)
    return Domain("integer", 0, number)


_RULES = (
    (layers.Embedding, _embedding),
    (layers.Normalization, _normalization),
    (layers.BatchNormalization, _batch_normalization),
    (layers.CategoryEncoding, lambda x: Domain("integer", 0, x.num_tokens - 1)),
    (layers.TextVectorization, _texts),
    ((layers.StringLookup, layers.IntegerLookup), _lookup),
    (layers.Discretization, _discretization),
    ((layers.Hashing, layers.HashedCrossing), _hashing),
)
