"""Lowering of the empty columns of a stripped model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from keras_prm.analysis.liveness import KeepEverything
from keras_prm.analysis.trace import trace
from keras_prm.equivalence import tolerances
from keras_prm.lowering import methods
from keras_prm.lowering import strategies
from keras_prm.lowering.auto import AutoLowering
from keras_prm.lowering.gather_columns import GatherColumns
from keras_prm.rebuild import attachments
from keras_prm.rebuild import channel_order
from keras_prm.rebuild import model_classes
from keras_prm.rebuild import slim_model
from keras_prm.rebuild.layer_edits import EditFinder
from keras_prm.utils import keras_graph
from keras_prm.utils import variable_keys

LOWERERS = {
    "auto": AutoLowering,
    "model": strategies.ModelLowering,
    "fewest_parameters": strategies.FewestParametersLowering,
    "smallest": strategies.SmallestLowering,
}


def lowerer_of(lowering, quantize=None):
    """The `Lowerer` that a user means, `None` for `"none"`.

    Args:
        lowering: A name, or a `Lowerer`.
        quantize: How the file will be quantized, as `export_litert` is told;
            None: not at all, or as a `Lowerer` says itself.

    Raises:
        ValueError: There is none of this name, `quantize` is unknown, or a
            `Lowerer` says something else.
    """
    if quantize is not None and not tolerances.is_mode(quantize):
        raise ValueError(
            "Unknown quantization of the file. Expected None or one of "
            f"{list(tolerances.FILE_TOLERANCES)}. Received: "
            f"quantize={quantize!r}"
        )
    if isinstance(lowering, strategies.Lowerer):
        own = getattr(lowering, "quantize", None)
        if quantize not in (None, own):
            raise ValueError(
                "A lowering of one's own says itself how the file will be "
                f"quantized. Received: lowering={lowering!r}, quantize="
                f"{quantize!r}. Pass quantize to the lowering alone, as "
                f"`AutoLowering(quantize={quantize!r})`."
            )
        return lowering
    if isinstance(lowering, str) and lowering in LOWERERS:
        return LOWERERS[lowering](quantize=quantize)
    if not isinstance(lowering, str) or lowering != "none":
        raise ValueError(
            f"Unknown lowering. Expected one of {['none', *LOWERERS]}, an "
            "`AutoLowering(...)`, or an object of a class of your own that "
            "derives from `keras_prm.lowering.Lowerer`. "
            f"Received: lowering={lowering!r}"
        )
    return None


def lower(model, lowerer):
    """Leaves out what columns of zeros are left in a model.

    Args:
        model: A functional model that nobody else holds: the channels inside
            may change places.
        lowerer: The `Lowerer` that decides.

    Returns:
        `(model, choices, reorderings)`: a new functional model, or the same
        one as it was if no layer is lowered; a list of `Choice`, one per
        layer with empty columns; a list of the `Reordering`s of its weights.
    """
    graph = trace(model)
    everything = KeepEverything(graph)
    found = _sparse_kernels(graph, model, everything)
    moved = _reorder(graph, model, found)
    if moved:
        everything = KeepEverything(graph)
        found = _sparse_kernels(graph, model, everything)
    choices = _checked(lowerer.choose(found), found, lowerer)
    lowered = {
        id(c.kernel.layer): c.lowering
        for c in choices
        if c.lowering is not None
    }
    if lowered:
        rebuilder = slim_model.ModelRebuilder(everything, lowered)
        view = keras_graph.functional(model)
        small = rebuilder.model(view, is_root=True, origin=model)
        _note_files(small, model, lowerer.files())
        objection = lowerer.objection(small, model)
        if not objection:
            attachments.warn(model, rebuilder.slimmer.changes, stacklevel=3)
            for lost in rebuilder.lost:
                model_classes.warn_of_lost("strip", *lost, stacklevel=3)
            return small, choices, moved
        choices = [_given_up(choice, objection) for choice in choices]
    for reordering in reversed(moved):
        reordering.undo()
    return model, choices, []


def _checked(choices, kernels, lowerer):
    """A `Choice` for every kernel, of those that a strategy has made.

    What it says nothing of stays as it is.
    """
    if not isinstance(choices, Iterable):
        raise TypeError(
            f"`{type(lowerer).__name__}.choose` has to return a list of "
            f"`Choice`. Received: {choices!r}"
        )
    layers = {id(sparse.layer): sparse for sparse in kernels}
    found = {}
    for choice in choices:
        if (
            not isinstance(choice, strategies.Choice)
            or id(getattr(choice.kernel, "layer", None)) not in layers
            or not isinstance(choice.lowering, (methods.Lowering, type(None)))
            or (choice.lowering and not choice.lowering.covers(choice.kernel))
        ):
            raise TypeError(
                f"`{type(lowerer).__name__}` has to choose among what there "
                "is. Expected a `Choice(sparse, lowering)` for each of "
                f"{[sparse.key for sparse in kernels]}, with one of "
                "`candidates(sparse)`, which leaves no live column out, or "
                f"None. Received: {_brief(choice)}"
            )
        found[id(choice.kernel.layer)] = choice
    return [
        found.get(number)
        or strategies.Choice(sparse, None, reason="it was not chosen for")
        for number, sparse in layers.items()
    ]


def _brief(choice):
    """What a strategy has returned, without the numbers in a kernel."""
    if isinstance(choice, strategies.Choice):
        key = getattr(choice.kernel, "key", choice.kernel)
        choice = f"Choice({key!r}, {choice.lowering!r})"
    return str(choice)[:200]


def _note_files(small, model, files):
    """Notes in what was put before layers which files it was chosen for."""
    known = {path for path, _ in variable_keys.layer_paths(model)}
    for path, layer in variable_keys.layer_paths(small):
        if isinstance(layer, GatherColumns) and path not in known:
            layer.chosen_for = files


def _given_up(choice, reason):
    if choice.lowering is None:
        return choice
    return dataclasses.replace(
        choice, lowering=None, time=choice.dense, reason=reason
    )


def _sparse_kernels(graph, model, everything):
    """The layers with empty columns that can be lowered."""
    contractions = {}
    for contraction in graph.contractions:
        contractions.setdefault(id(contraction.layer), []).append(contraction)
    finder = EditFinder(everything)
    masked = _masked(keras_graph.functional(model))
    found = []
    for own in contractions.values():
        layer, kernel = own[0].layer, own[0].kernel
        if not methods.is_eligible(layer) or not finder.may_change(layer):
            continue
        if id(layer) in masked:
            continue
        if getattr(layer, "kernel", None) is not kernel:
            continue
        key, array = graph.weights[id(kernel)].key, everything.array(kernel)
        sparse = methods.sparse_kernel_of(own, key, array)
        if sparse is not None:
            found.append(sparse)
    return found


def _masked(view):
    """Ids of the layers that are called on tensors with a mask."""
    found = set()
    for node in keras_graph.nodes(view):
        is_masked = any(map(keras_graph.is_masked, node.inputs))
        if keras_graph.is_model(node.operation):
            inner = keras_graph.functional(node.operation)
            found |= _masked(inner)
            inside = [x for _, x in variable_keys.layer_paths(inner)]
        else:
            inside = [node.operation]
        found.update(id(x) for x in inside if is_masked)
    return found


def _reorder(graph, model, kernels):
    """Sorts channels by their live columns, in place."""
    order = channel_order.ChannelOrder(graph, model)
    weights = {weight.key: weight for weight in graph.weights.values()}
    moved, seen = [], set()
    for sparse in kernels:
        ids = weights[sparse.key].in_ids
        names = frozenset(graph.classes[ids].tolist())
        if names & seen:
            continue
        counts = sparse.live.reshape(-1, sparse.live.shape[-1]).sum(axis=0)
        ranks = np.argsort(-counts, kind="stable")
        if (ranks == np.arange(len(ranks))).all():
            continue
        found = order.reorderings(ids, ranks)
        if found is not None:
            seen |= names
            for reordering in found:
                reordering.apply()
            moved += found
    return moved
