"""Structured masks: as records, as files, read back from a model."""

from __future__ import annotations

import json
import pathlib
import weakref
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_prm.analysis.trace import trace
from keras_prm.analysis.trace import warn_of_quantized
from keras_prm.plans.records import KernelMask
from keras_prm.reports import tables
from keras_prm.utils import atomic_files
from keras_prm.utils import keras_graph
from keras_prm.utils import kernel_layout
from keras_prm.utils import signatures
from keras_prm.utils import validation
from keras_prm.utils import variable_keys
from keras_prm.utils.signatures import Signature

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from collections.abc import Mapping

PARTS = ("kernels", "vectors")


class Masks:
    """Which structures of a model are kept.

    Stored as vectors, never in the shape of a weight, under keys that
    survive saving and loading the model.

    Args:
        kernels: dict from key to `KernelMask`.
        vectors: dict from key to a bool array in the variable's shape: the
            biases and BatchNormalization's gamma and beta, False where the
            channel is dead.
        weights: tuple of `Signature`, one per weight of the model they are
            of, by which they fit another build of the same network; without,
            they go by names.
    """

    def __init__(
        self,
        kernels: Mapping[str, KernelMask],
        vectors: Mapping[str, np.ndarray] | None = None,
        weights: Iterable[Signature] = (),
    ) -> None:
        self.kernels = dict(kernels)
        self.vectors = dict(vectors or {})
        self.weights = tuple(weights)
        self._held_in = None

    def note_held_in(self, model: keras.Model) -> None:
        """Remembers that a training has held the masks in a model.

        Args:
            model: The model that is trained.
        """
        self._held_in = weakref.ref(model)

    def were_held_in(self, model: keras.Model) -> bool:
        """Whether a training of this process has held them in a model.

        Args:
            model: The model that is asked about.
        """
        return self._held_in is not None and self._held_in() is model

    def __getstate__(self):
        # Weak references can be neither pickled nor copied.
        return {**vars(self), "_held_in": None}

    def named_as(self, model: keras.Model) -> Masks:
        """The masks under the keys that their weights have in a model.

        Args:
            model: Another build of the network that they are of.

        Raises:
            ValueError: The model is another than the one that they are of.
        """
        keys = [*self.kernels, *self.vectors]
        if not self.weights:
            return self
        names, difference = signatures.known_as(self.weights, model, keys)
        if difference:
            raise ValueError(
                "The masks are of another model. Use masks made for this "
                "network; `masks_of(model)` reads them from its zeros. "
                f"Received masks of a model that differs: {difference}"
            )
        return self._renamed(names, signatures.signatures(model))

    def _renamed(self, names, weights):
        return Masks(
            {names.get(key, key): mask for key, mask in self.kernels.items()},
            {names.get(key, key): mask for key, mask in self.vectors.items()},
            weights,
        )

    def _as_named_in(self, other):
        """The masks by the keys of `other`, where the models are alike."""
        names, difference = signatures.counterparts(self.weights, other.weights)
        return self if difference else self._renamed(names, other.weights)

    def factors(self) -> dict[str, tuple[np.ndarray, ...]]:
        """The masks as arrays that broadcast against their variables.

        Returns:
            dict from key to a tuple of bool arrays, whose product with the
            variable is the masked variable.
        """
        found: dict[str, tuple[np.ndarray, ...]] = {
            key: (mask,) for key, mask in self.vectors.items()
        }
        for key, mask in self.kernels.items():
            found[key] = mask.factors()
        return found

    def to_json(self) -> str:
        """A JSON string that `from_json` reads."""
        return json.dumps(
            {
                "kernels": {
                    key: {
                        "filters": mask.filters.astype(int).tolist(),
                        "columns": mask.columns.astype(int).tolist(),
                        "axes": list(mask.axes),
                    }
                    for key, mask in self.kernels.items()
                },
                "vectors": {
                    key: mask.astype(int).tolist()
                    for key, mask in self.vectors.items()
                },
                "weights": [row.to_list() for row in self.weights],
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Masks:
        """Reads what `to_json` wrote.

        Args:
            text: JSON text, as `to_json` writes it.

        Raises:
            ValueError: There are no masks in it.
        """
        data = validation.json_object(text)
        if {*data} - {"weights"} != {*PARTS} or not all(
            isinstance(data[part], dict) for part in PARTS
        ):
            raise ValueError(
                "These are no masks. Expected what `Masks.save` wrote. "
                f"Received: {text[:80]!r}"
            )
        kernels = {
            key: KernelMask(
                np.array(mask["filters"], bool),
                np.array(mask["columns"], bool),
                tuple(mask.get("axes", kernel_layout.STANDARD)),
            )
            for key, mask in data["kernels"].items()
        }
        vectors = {
            key: np.array(mask, bool) for key, mask in data["vectors"].items()
        }
        weights = [Signature.from_list(r) for r in data.get("weights", ())]
        return cls(kernels, vectors, weights)

    @validation.renamed(path="filepath")
    def save(self, filepath: str | os.PathLike[str]) -> None:
        """Writes the masks to `filepath` as JSON.

        Args:
            filepath: Path of the file; folders on the way to it are made.

        Raises:
            OSError: It cannot be written; an older file is as it was.
        """
        atomic_files.write_text(filepath, self.to_json())

    @classmethod
    @validation.renamed(path="filepath")
    def load(cls, filepath: str | os.PathLike[str]) -> Masks:
        """Reads masks that `save` wrote.

        Args:
            filepath: Path of the file.

        Raises:
            ValueError: There are no masks in the file.
            FileNotFoundError: There is no such file.
        """
        text = pathlib.Path(filepath).read_bytes().decode(errors="replace")
        return cls.from_json(text)

    def __and__(self, other: Masks) -> Masks:
        """The masks that keep what both keep.

        Raises:
            ValueError: They are of different models.
        """
        self._check_same_model(other)
        other = other._as_named_in(self)
        models = {m.weights for m in (self, other) if m.kernels or m.vectors}
        weights = models.pop() if len(models) == 1 else ()
        kernels = {**self.kernels, **other.kernels}
        vectors = {**self.vectors, **other.vectors}
        for key in self.kernels.keys() & other.kernels.keys():
            one, two = self.kernels[key], other.kernels[key]
            kernels[key] = KernelMask(
                one.filters & two.filters, one.columns & two.columns, two.axes
            )
        for key in self.vectors.keys() & other.vectors.keys():
            vectors[key] = self.vectors[key] & other.vectors[key]
        return Masks(kernels, vectors, weights)

    def _check_same_model(self, other):
        if not (self.weights and other.weights):
            return  # of a file of before: they go by names
        difference = signatures.counterparts(self.weights, other.weights)[1]
        if difference:
            raise ValueError(
                "The masks are of different models, and hold for none "
                "together. Combine masks of one network. "
                f"Received masks of models that differ: {difference}"
            )

    def __eq__(self, other):
        if not isinstance(other, Masks):
            return False
        mine, others = (
            json.loads(masks.to_json())
            for masks in (self, other._as_named_in(self))
        )
        # Parsed again, since the order of the keys means nothing.
        return all(mine[part] == others[part] for part in PARTS)

    def __str__(self):
        rows = [["filters kept", "of", "columns kept", "of"]]
        for mask in self.kernels.values():
            pair = (mask.filters, mask.columns)
            rows.append([str(n) for x in pair for n in (x.sum(), x.size)])
        return "\n".join(tables.aligned(rows, ["kernel", *self.kernels]))


def masks_of(model: keras.Model) -> Masks:
    """Reads the masks back from the zeros of a model.

    Args:
        model: A built functional or Sequential model, pruned by whomever.

    Returns:
        The `Masks` of all filters and columns that are zero. The bias, gamma
        and beta of a channel are masked where they are zero and all filters
        that write the channel are.

    Raises:
        TypeError: The model is subclassed.
        ValueError: The model is not built.

    Warns:
        UserWarning: Layers are quantized, whose zeros are not read.
    """
    graph = trace(model)
    what = "The masks are without some layers"
    warn_of_quantized(graph, what, stacklevel=2)
    return _masks_of_zeros(model, graph, _kernel_zeros(graph))


def pruned(model, graph=None):
    """The zeros of a model that a pruning may have left, and those it cannot.

    A plan leaves a part of every kernel, so a kernel that is zero throughout
    was initialized so and is to be trained. Nor does it prune columns that
    are no channels, such as the rows of an `Embedding`.

    Args:
        model: A built functional or Sequential model.
        graph: The model's `DependencyGraph`, if it is at hand.

    Returns:
        `(masks, blank)`: `Masks`, and the keys of the kernels that are zero
        throughout, which the masks leave alone.
    """
    graph = graph or trace(model)
    kernels, blank = {}, []
    named = {w.key: w for w in graph.weights.values()}
    for key, mask in _kernel_zeros(graph).items():
        weight = named[key]
        if not mask.full().any():
            blank.append(key)
            continue
        filters, columns = mask.filters, mask.columns
        if weight.out_ids is None:
            filters = np.ones_like(filters)
        if weight.in_ids is None or not weight.prunes_columns:
            columns = np.ones_like(columns)
        kernels[key] = KernelMask(filters, columns, mask.axes)
    masks = _masks_of_zeros(model, graph, kernels)
    left = {
        key: mask
        for key, mask in masks.kernels.items()
        if not (mask.filters.all() and mask.columns.all())
    }
    return Masks(left, masks.vectors, masks.weights), blank


def _kernel_zeros(graph):
    """dict from the key of each kernel to the `KernelMask` of its zeros."""
    found = {}
    for weight in graph.weights.values():
        if weight.role != "kernel":
            continue
        live = keras.ops.convert_to_numpy(weight.variable) != 0
        live = kernel_layout.to_matrix(live, weight.axes)
        spatial = tuple(range(live.ndim - 1))
        found[weight.key] = KernelMask(
            np.any(live, axis=spatial), np.any(live, axis=-1), weight.axes
        )
    return found


def _masks_of_zeros(model, graph, kernels):
    """The `Masks` of kernels' zeros, and of the vectors that fall with them.

    Args:
        model: The model.
        graph: The model's `DependencyGraph`.
        kernels: dict from key to `KernelMask`; one that is not in it counts
            as live.
    """
    found, writes = {}, np.zeros(graph.num_classes, bool)
    writers = np.zeros(graph.num_classes, bool)
    for weight in graph.weights.values():
        if weight.role != "kernel":
            continue
        mask = kernels.get(weight.key)
        if mask and not (mask.filters.all() and mask.columns.all()):
            found[weight.key] = mask
        whole = weight.out_ids is None
        ids = weight.in_ids if whole else weight.out_ids
        if ids is not None:
            classes = graph.classes[ids]
            writers[classes] = True
            writes[classes[_live_channels(mask, len(ids), whole)]] = True
    vectors = {}
    for key, keep in dead_vectors(graph, writers & ~writes).items():
        value = keras.ops.convert_to_numpy(
            next(w for w in graph.weights.values() if w.key == key).variable
        )
        keep = keep | (value != 0)
        if not keep.all():
            vectors[key] = keep
    return Masks(found, vectors, signatures.signatures(model))


def _live_channels(mask, size, by_inputs):
    """Which channels a kernel writes: by its filters, or by its inputs."""
    if mask is None:
        return np.ones(size, bool)
    if not by_inputs:
        return mask.filters
    return mask.columns.any(axis=tuple(range(mask.columns.ndim - 1)))


def apply_masks(model, masks):
    """Sets everything that is masked to zero. Works in place.

    Returns:
        Whether anything was not zero before.

    Raises:
        ValueError: The masks do not fit the model; nothing is changed then.
    """
    changes = False
    for variable, factors in fitting(model, masks):
        before = array = keras.ops.convert_to_numpy(variable)
        for factor in factors:
            array = np.where(factor, array, np.zeros((), array.dtype))
        changes = changes or not np.array_equal(array, before)
        variable.assign(array)
    return changes


def masks_fit(model, masks):
    """Whether masks have a variable of their shape each in a model."""
    check_are_masks(masks)
    try:
        fitting(model, masks)
    except (TypeError, ValueError):
        return False
    return True


def check_are_masks(masks):
    """Raises a `TypeError` for what is no `Masks`."""
    if not isinstance(masks, Masks):
        raise TypeError(
            "Expected `masks` as `hard_prune` or `masks_of` return them. "
            f"Received: masks={masks!r} (of type {type(masks).__name__})"
        )


def fitting(model, masks):
    """Pairs of a variable and its mask factors.

    Raises:
        TypeError: `masks` are no `Masks`.
        ValueError: A mask has no variable in the model, or another shape.
    """
    check_are_masks(masks)
    keras_graph.functional(model)
    masks = masks.named_as(model)
    variables = variable_keys.variables_by_key(model)
    pairs, bad = [], {}
    for key, factors in masks.factors().items():
        variable = variables.get(key)
        shape = np.broadcast_shapes(*(f.shape for f in factors))
        if variable is None or tuple(variable.shape) != shape:
            bad[key] = shape
        else:
            pairs.append((variable, factors))
    if bad:
        raise ValueError(
            "The masks do not fit the model. Use masks made for this very "
            "model; `masks_of(model)` reads them from its zeros. "
            f"Received masks without a variable of their shape: {bad}"
        )
    return pairs


def dead_vectors(graph, dead):
    """Masks of all vectors, False on the positions of dead classes."""
    found = {}
    for weight in graph.weights.values():
        if weight.role == "vector":
            keep = ~weight.touched(dead[graph.classes])
            if not keep.all():
                found[weight.key] = keep
    return found
