"""Groups of channel classes that are alike, and what one is worth."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from keras_prm.reports.explanation import Member


@dataclasses.dataclass(frozen=True, eq=False)
class Box:
    """A product of axes with as many weights, or MACs, for each entry.

    Args:
        shape: The lengths of the axes.
        classes: dict from axis to the channel class of every position.
        total: What all its entries count together; `None` if unknown.
    """

    shape: tuple[int, ...]
    classes: dict[int, np.ndarray]
    total: int | None

    def counts(self, labels):
        """How many positions have a label: dict of dicts, label and axis."""
        found = {}
        for axis, classes in self.classes.items():
            pairs = np.unique(labels[classes], return_counts=True)
            for label, count in zip(*(part.tolist() for part in pairs)):
                found.setdefault(label, {})[axis] = count
        return found

    def part(self, counts):
        """What goes with so many positions by axis, each entry once."""
        if self.total is None:
            return None
        left = [n - counts.get(axis, 0) for axis, n in enumerate(self.shape)]
        full = max(1, math.prod(self.shape))
        return self.total - self.total * math.prod(left) // full


class ClassTable:
    """The channel classes of a graph, those that are alike put together.

    Alike are classes that have equally many positions on each axis of each
    weight, and are pinned for the same reason or not at all. *Rows* of them
    are numbered in the order of the model; what has no weights has no row.

    Args:
        graph: A finished `DependencyGraph`.

    Attributes:
        weights: list of `Box`, one per weight of the graph.
        products: list of `Box`, one per product with a kernel, counting MACs.
        labels: int array, the row of each class; -1 for none.
        sizes: list with the number of classes of each row.
        pinned: list with the reason why a row has to stay, `""` if not.
        members: list with a list of `Member` for each row.
    """

    def __init__(self, graph):
        self.graph = graph
        boxes = {i: weight_box(graph, w) for i, w in graph.weights.items()}
        self.weights = list(boxes.values())
        self.products = [
            product_box(graph, product, boxes[id(kernel)])
            for product in graph.products
            for kernel in product.kernels
        ]
        self.labels = self._label()
        rows, first, sizes = np.unique(
            self.labels, return_index=True, return_counts=True
        )
        self.sizes = sizes[rows >= 0].tolist()
        self.pinned = [
            graph.pinned.get(number, "") for number in first[rows >= 0].tolist()
        ]
        self.members = self._members()

    def name(self, row):
        """The layers that make a row's channels, joined by `+`.

        Where no kernel makes them, `"input of"` and who reads them.
        """
        made = {m.path for m in self.members[row] if m.side == "out"}
        read = {m.path for m in self.members[row]}
        if made:
            return "+".join(sorted(made))
        return "input of " + "+".join(sorted(read))

    def each(self, boxes):
        """What goes with ONE class of a row: dict from row to a number."""
        return self._sums(boxes, self.sizes)

    def whole(self, boxes):
        """What goes with all classes of a row: dict from row to a number."""
        return self._sums(boxes, [1] * len(self.sizes))

    def free(self):
        """Weights that some class which is not pinned has a part in."""
        free = np.ones(self.graph.num_classes, int)
        free[list(self.graph.pinned)] = 0
        parts = (b.part(b.counts(free).get(1, {})) for b in self.weights)
        return sum(part for part in parts if part is not None)

    def _sums(self, boxes, divisors):
        """Sums over boxes; None, which is unknown, makes the sum unknown."""
        found = {}
        for box in boxes:
            for row, counts in box.counts(self.labels).items():
                if row >= 0:
                    of = {a: n // divisors[row] for a, n in counts.items()}
                    found.setdefault(row, []).append(box.part(of))
        return {
            row: None if None in parts else sum(parts)
            for row, parts in found.items()
        }

    def _members(self):
        members = [[] for _ in self.sizes]
        for weight, box in zip(self.graph.weights.values(), self.weights):
            for row, counts in box.counts(self.labels).items():
                members[row] += [
                    Member(
                        weight.key,
                        axis,
                        side(weight, axis),
                        n // self.sizes[row],
                    )
                    for axis, n in counts.items()
                ]
        return members

    def _label(self):
        """Starts from the reasons and splits by one axis after the other."""
        labels, reasons = np.zeros(self.graph.num_classes, int), {}
        for number, reason in self.graph.pinned.items():
            labels[number] = reasons.setdefault(reason, len(reasons) + 1)
        start = _split(labels, self.products, len(reasons) + 1)
        _split(labels, self.weights, start)
        return _renumbered(labels, start)


def side(weight, axis):
    """Whether a weight makes the channels on an axis or reads them."""
    if weight.role != "kernel":
        return "vector"
    read, made = (a % len(weight.ids) for a in weight.axes)
    return "out" if axis >= made and axis != read else "in"


def _split(labels, boxes, size):
    """Gives new labels, from `size` on, to classes that boxes tell apart."""
    for box in boxes:
        for positions in box.classes.values():
            classes, counts = np.unique(positions, return_counts=True)
            pairs = labels[classes] * (counts.max(initial=0) + 1) + counts
            found, inverse = np.unique(pairs, return_inverse=True)
            labels[classes] = size + inverse.reshape(-1)
            size += len(found)
    return size


def _renumbered(labels, start):
    """Numbers labels by where they first stand; what is below `start`: -1."""
    found, first = np.unique(labels, return_index=True)
    found, first = found[found >= start], first[found >= start]
    number = np.full(labels.max(initial=start) + 1, -1)
    number[found[np.argsort(first)]] = np.arange(len(found))
    return number[labels]


def _tracked(graph, ids):
    """The classes on those axes that have any, by axis."""
    return {a: graph.classes[i] for a, i in enumerate(ids) if i is not None}


def weight_box(graph, weight):
    """The `Box` of a weight, which counts its entries."""
    shape = tuple(weight.variable.shape)
    return Box(shape, _tracked(graph, weight.ids), math.prod(shape))


def product_box(graph, product, kernel):
    """The `Box` of a kernel times the positions that it is applied at.

    Positions may be channels too, of an axis that the layer carries on.
    """
    value = product.targets[0][0]
    made = [axis for _, axis in product.targets]
    others = _tracked(graph, value.ids)
    others = {a: c for a, c in others.items() if a not in made}
    classes = dict(kernel.classes)
    classes.update(enumerate(others.values(), start=len(kernel.shape)))
    total = None if product.macs is None else product.macs * kernel.total
    shape = (*kernel.shape, *(value.shape[axis] for axis in others))
    return Box(shape, classes, total)
