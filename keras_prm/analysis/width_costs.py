"""Costs of a model by its widths: what a plan leaves, in microseconds.

A weight has as many entries as the product of its axes' lengths, a kernel
multiplies as often as that times the positions that it is applied at. An axis
is as long as the channel classes on it that stay. So each cost is a sum of
products of widths, and each width is affine in the numbers that groups keep:

    cost = sum over terms of   coefficient * product of its widths
    width = fixed + sum over groups of   positions per class * classes kept

What is counted: *parameters*, entries of all weights that are stored, those
of layers that no rule describes included; *macs*, multiply-accumulates per
sample of layers with a kernel, as `costs` counts them; *conv_weights*, entries
of convolution kernels. Of a kernel that loses columns as well, the share that
stays counts in all three, not rounded, and without the indices of
`GatherColumns`: what `strip(lowering="fewest_parameters")` leaves. A `strip`
without a lowering stores removed columns as zeros, and computes with them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from keras_prm.analysis.channel_groups import product_box
from keras_prm.analysis.channel_groups import weight_box
from keras_prm.analysis.costs import convolution_kernels
from keras_prm.analysis.structural_liveness import fates

if TYPE_CHECKING:
    from typing import Any

NAMES = ("parameters", "macs", "conv_weights")


@dataclasses.dataclass(frozen=True, eq=False)
class WidthCosts:
    """Costs as a function of the number of classes that each group keeps.

    Plain arrays; costs come in the order of `NAMES`.

    Args:
        sizes: int array `(groups,)`, how many classes there are.
        fixed: float array `(widths,)`, positions that stay in any case.
        per_class: float array `(widths, groups)`, positions per class kept.
        factors: int array `(terms, axes)`, the widths that are multiplied.
        coefficients: float array `(costs, terms)`.
        dense: int array `(costs,)`, of the model as it is.
        column_rows: int array, one entry per kernel of the plan: the width
            that stands for the share of its columns that stays; -1 for none.
        exact: Whether the classes of each group are alike, so that it does
            not matter which of them stay. Where they are not, what goes with
            each of them at least is counted, so that no cost is higher than
            is said.
        stuck: float array `(groups,)`, the share of the classes of a group
            that `strip` cannot take out though their filters went.
        macs_note: Why MACs are unknown, and count as 0; `""` if they are not.
    """

    sizes: np.ndarray
    fixed: np.ndarray
    per_class: np.ndarray
    factors: np.ndarray
    coefficients: np.ndarray
    dense: np.ndarray
    column_rows: np.ndarray
    exact: bool
    stuck: np.ndarray
    macs_note: str = ""

    def evaluate(self, kept: Any, numpy: Any = np) -> Any:
        """The costs where each group keeps so many classes.

        Args:
            kept: `(..., groups)`, an array or a tensor; need not be whole.
            numpy: `numpy`; or `keras.ops` for tensors, also inside of a
                compiled step, which computes in float32.

        Returns:
            `(..., costs)`.
        """
        product = math.prod(self._factors(kept, numpy))
        return _product(product, self.coefficients, numpy)

    def with_columns(self, removed: Any) -> WidthCosts:
        """The same, where each kernel loses another fraction of its columns.

        Args:
            removed: float array, one entry per kernel of the plan.
        """
        rows, fixed = self.column_rows, self.fixed.copy()
        stays = 1 - np.asarray(removed, float)
        fixed[rows[rows >= 0]] = stays[rows >= 0]
        return dataclasses.replace(self, fixed=fixed)

    def at(self, kept: Any) -> dict[str, int | None]:
        """The costs by name, whole numbers; `None` for what is unknown."""
        return self._named(self.evaluate(np.asarray(kept, float)))

    def whole(self) -> dict[str, int | None]:
        """The costs of the model as it is, by name."""
        return self._named(self.dense)

    def _named(self, values):
        counts = map(int, np.rint(values).tolist())
        found: dict[str, int | None] = dict(zip(NAMES, counts))
        if self.macs_note:
            found["macs"] = None
        return found

    def _factors(self, kept, numpy):
        """The widths that each term multiplies, by their place in it."""
        per_class = _constant(self.per_class.T, numpy)
        fixed = _constant(self.fixed, numpy)
        widths = numpy.add(numpy.matmul(kept, per_class), fixed)
        return [
            numpy.take(widths, column.astype("int32"), axis=-1)
            for column in self.factors.T
        ]

    def to_config(self) -> dict[str, Any]:
        """It as lists and numbers, for JSON."""
        config = {
            name: np.asarray(getattr(self, name)).tolist() for name in _ARRAYS
        }
        rows, groups = np.nonzero(self.per_class)
        values = self.per_class[rows, groups].tolist()
        config["per_class"] = [rows.tolist(), groups.tolist(), values]
        return config | {"exact": self.exact, "macs_note": self.macs_note}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WidthCosts:
        """What `to_config` told."""
        arrays = {
            name: np.array(config[name], dtype)
            for name, dtype in _ARRAYS.items()
        }
        shape = len(arrays["fixed"]), len(arrays["sizes"])
        per_class = np.zeros(shape)
        rows, groups, values = config["per_class"]
        per_class[np.array(rows, int), np.array(groups, int)] = values
        return cls(
            per_class=per_class,
            exact=bool(config["exact"]),
            macs_note=str(config["macs_note"]),
            **arrays,
        )


_ARRAYS = {
    "sizes": int,
    "fixed": float,
    "factors": int,
    "coefficients": float,
    "dense": int,
    "column_rows": int,
    "stuck": float,
}


def _product(vectors, matrix, numpy):
    """`vectors @ matrix.T`.

    Of tensors as sums of products: what devices call a product of float32
    may be one of 10 bits.
    """
    if numpy is np:
        return np.matmul(vectors, matrix.T)
    terms = vectors[..., None, :] * _constant(matrix, numpy)
    return numpy.sum(terms, axis=-1)


def _constant(array, numpy):
    return array if numpy is np else array.astype("float32")


def width_costs(model, graph, members, kernels=()):
    """The `WidthCosts` of a model whose groups of channels compete.

    Args:
        model: The model, of which the statistics are read.
        graph: Its `DependencyGraph`.
        members: list with the classes of each group, an int array.
        kernels: The `KernelPlan`s of the plan, which say what columns go.
    """
    trainable = {id(v) for v in model.trainable_variables}
    terms = _Terms(graph, members, fates(graph, trainable, members))
    columns = {k.key: terms.columns(k.columns) for k in kernels if k.columns}
    convolutions = convolution_kernels(model)
    kinds = {id(v) for v in convolutions}
    boxes = {n: weight_box(graph, w) for n, w in graph.weights.items()}
    places = {n: columns.get(w.key, ()) for n, w in graph.weights.items()}
    for number, box in boxes.items():
        terms.add(box, np.array([1, 0, number in kinds]), places[number])
    for product in () if graph.macs_note else graph.products:
        for kernel in product.kernels:
            box = product_box(graph, product, boxes[id(kernel)])
            terms.add(box, np.array([0, 1, 0]), places[id(kernel)])
    sizes = {id(v): math.prod(v.shape) for v in model.weights}
    conv = sum(math.prod(v.shape) for v in convolutions)
    rest = sum(n for key, n in sizes.items() if key not in boxes)
    hidden = sum(math.prod(v.shape) for v in convolutions if id(v) not in boxes)
    terms.add_constant(np.array([rest, 0, hidden]))
    dense = np.array([sum(sizes.values()), graph.macs or 0, conv])
    rows = [*map(int, (columns.get(k.key, (-1,))[0] for k in kernels))]
    return terms.record(dense, np.array(rows, int), graph.macs_note)


class _Terms:
    """Products of widths while they are collected, those alike added up."""

    def __init__(self, graph, members, fates):
        self._fates = fates
        self._sizes = np.array([len(c) for c in members], int)
        self._groups = np.full(graph.num_classes, -1)
        for group, classes in enumerate(members):
            self._groups[classes] = group
        self._widths = {}
        self._shares = {}
        self._terms = {}
        self._exact = not (fates.stuck % 1).any() and not fates.unread.any()

    def columns(self, removed):
        """Makes a width of the share of a kernel's columns that stays."""
        number = len(self._widths)
        self._widths["columns", number] = number
        self._shares[number] = 1.0 - removed
        return (number,)

    def add(self, box, weights, places=()):
        """Adds a `Box`, with the weight of its total in each cost.

        Args:
            box: The `Box`.
            weights: int array `(costs,)`.
            places: Widths that it is multiplied by beside its own.
        """
        places = list(places)
        number = (box.total or 0) / max(1, math.prod(box.shape))
        for axis, size in enumerate(box.shape):
            if axis in box.classes:
                size, slopes = width = self._width(box.classes[axis])
                if slopes:
                    row = self._widths.setdefault(width, len(self._widths))
                    places.append(row)
                    continue
            number *= size
        key = tuple(sorted(places))
        self._terms[key] = self._terms.get(key, 0.0) + number * weights

    def add_constant(self, amounts):
        """Adds what no plan changes."""
        self._terms[()] = self._terms.get((), 0.0) + amounts

    def _width(self, classes):
        """An axis as `(fixed, ((group, positions per class), ...))`."""
        groups, slopes = self._groups[classes], []
        fixed = float((~self._fates.goes[classes[groups < 0]]).sum())
        for group in np.unique(groups[groups >= 0]).tolist():
            size, each = int(self._sizes[group]), self._least(classes, group)
            stuck = float(self._fates.stuck[group])
            # What not every class has a position for stays in any case.
            fixed += int((groups == group).sum()) - each * size
            fixed += each * stuck * size
            stays = 1 - float(self._fates.unread[group]) - stuck
            slopes.append((group, each * stays))
        return fixed, tuple(slopes)

    def _least(self, classes, group):
        """How many positions of an axis go at least with a class of a group."""
        own = classes[self._groups[classes] == group]
        found, counts = np.unique(own, return_counts=True)
        is_whole = len(found) == self._sizes[group]
        self._exact &= bool(is_whole and (counts == counts[0]).all())
        return int(counts.min()) if is_whole else 0

    def record(self, dense, column_rows, macs_note):
        """The `WidthCosts` of what was added."""
        one = len(self._widths)  # a width of 1 fills up short products
        fixed = np.ones(one + 1)
        per_class = np.zeros((one + 1, len(self._sizes)))
        for (start, slopes), row in self._widths.items():
            if row in self._shares:
                fixed[row] = self._shares[row]
                continue
            fixed[row] = start
            for group, each in slopes:
                per_class[row, group] = each
        most = max(1, *map(len, self._terms))
        factors = [[*key, *[one] * (most - len(key))] for key in self._terms]
        return WidthCosts(
            self._sizes,
            fixed,
            per_class,
            np.array(factors, int),
            np.array([*self._terms.values()]).T,
            dense,
            column_rows,
            self._exact,
            self._fates.stuck,
            macs_note,
        )
