"""Rules of attention: whole heads go, and dimensions of all heads."""

from __future__ import annotations

import math

import keras
import numpy as np

from keras_prm.dependency import constants
from keras_prm.rules.axes import contract
from keras_prm.rules.base import pin
from keras_prm.rules.base import read_others

_MASKS = ("query_mask", "value_mask", "key_mask", "attention_mask")
ARGUMENTS = ("query", "value", "key", "use_causal_mask", *_MASKS)


def _variables_by_projection(layer):
    """The variables by the projection they belong to and their name."""
    return {tuple(v.path.split("/")[-2:]): v for v in layer.weights}


def multi_head(call):
    """Attention: queries and keys share dimensions, all share the heads."""
    own = _variables_by_projection(call.layer)
    if len(own["attention_output", "kernel"].shape) != 3:
        pin(call, "its output has several axes")
    elif call.layer.attention_axes not in (None, (1,)):
        pin(call, "it attends along axes of its own")
    else:
        _attention(call, own)


def group_query(call):
    """Attention whose groups of heads share keys and values."""
    own = _variables_by_projection(call.layer)
    found = _attention(call, own)
    if found is not None:  # One argument holds several widths.
        query, value = found
        call.graph.tie(query.ids[-1], value.ids[-1])
        read = call.value_of(call.argument("query", 0))
        call.graph.tie(read.ids[-1], call.outputs[0].ids[-1])


def _attention(call, own):
    tensors = [call.argument(name, i) for i, name in enumerate(ARGUMENTS[:3])]
    if tensors[2] is None:
        tensors[2] = tensors[1]
    masks = [call.argument(name, 3 + i) for i, name in enumerate(_MASKS)]
    masks = [mask for mask in masks if hasattr(mask, "shape")]
    if ("gate", "kernel") in own or len(call.outputs) > 1:
        pin(call, "it is gated, or returns its scores")
        return None
    if any(len(mask.shape) > 3 for mask in masks):
        pin(call, "its mask has an axis of heads")
        return None
    for mask in masks:
        if isinstance(mask, keras.KerasTensor):
            call.read_all(call.value_of(mask), "it is a mask")
    query, value, key = (
        _project(call, own, name, call.value_of(x))
        for name, x in zip(("query", "value", "key"), tensors)
    )
    repeats = query.shape[-2] // key.shape[-2]
    heads = np.repeat(np.arange(key.shape[-2]), repeats)
    for other in (key, value):
        call.graph.tie(query.ids[-2], other.ids[-2][heads])
        groups = query.ids[-2].reshape(-1, repeats)
        call.graph.tie(np.repeat(groups[:, 0], repeats), query.ids[-2])
    if keras.backend.backend() == "jax" and query.shape[-1] == value.shape[-1]:
        # Its attention takes values of no other width than keys.
        call.graph.tie(query.ids[-1], value.ids[-1])
    _scores(call, query, key)
    _combine(call, own, query, key, value, heads)
    return query, value


def _project(call, own, name, x):
    """The heads of a tensor, `(..., heads, dim)`."""
    kernel = own[name, "kernel"]
    last = len(x.shape) - 1
    read_others(call, x, last, "attention mixes its positions")
    heads = call.graph.value((*x.shape[:-1], *kernel.shape[1:]), call.path)
    call.graph.contraction(
        call,
        [(x, last)],
        [(heads, last), (heads, last + 1)],
        kernel,
        own.get((name, "bias")),
        axes=((0,), (1, 2)),
        prunes_columns=False,
    )
    return heads


def _scores(call, query, key):
    """Queries times keys, summed over their dimensions."""
    contract(call, [(x, len(x.shape) - 1) for x in (query, key)])


def _combine(call, own, query, key, value, heads):
    """Values, weighed by the scores of their head, through the output."""
    kernel = own["attention_output", "kernel"]
    out = call.outputs[0]
    shape = (*query.shape[:-1], value.shape[-1])
    mixed = call.graph.value(shape, call.path)
    every = np.arange(len(heads))
    mixed.ids[-2] = query.ids[-2]
    call.graph.positionwise(
        [
            (value, len(value.shape) - 2, heads),
            (query, len(query.shape) - 2, every),
            (key, len(key.shape) - 2, heads),
        ],
        (mixed, len(shape) - 2, every),
        lambda v, q, k: np.where(v == 0, 0.0, np.nan),
    )
    call.move(
        (value, len(value.shape) - 1),
        (mixed, len(shape) - 1),
        constants.zero_stays,
    )
    call.graph.contraction(
        call,
        [(mixed, len(shape) - 2), (mixed, len(shape) - 1)],
        [(out, len(out.shape) - 1)],
        kernel,
        own.get(("attention_output", "bias")),
        axes=((0, 1), (2,)),
        prunes_columns=False,
    )


def resize_multi_head(layer, size, shape):
    """The numbers of heads, their widths, and a changed output's."""
    own = _variables_by_projection(layer)
    query, out = own["query", "kernel"], own["attention_output", "kernel"]
    config = {
        "num_heads": size(query, 1),
        "key_dim": size(query, 2),
        "value_dim": size(own["value", "kernel"], 2),
    }
    widths = (size(query, 0), size(out, 2))
    if widths != (query.shape[0], out.shape[2]):
        config["output_shape"] = (widths[1],)
    return config


def resize_group_query(layer, size, shape):
    """The numbers of heads of both kinds and their one width."""
    own = _variables_by_projection(layer)
    query = own["query", "kernel"]
    return {
        "num_query_heads": size(query, 1),
        "num_key_value_heads": size(own["key", "kernel"], 1),
        "head_dim": size(query, 2),
    }


def keep_the_scale(layer, size):
    """Scores are divided by the root of the number of dimensions."""
    own = _variables_by_projection(layer)
    kernel = own["query", "kernel"]
    factor = math.sqrt(size(kernel, 2) / kernel.shape[2])
    return [(v, factor) for name, v in own.items() if name[0] == "query"]
