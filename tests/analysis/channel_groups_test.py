"""Which classes are alike, and what goes with them, on made-up traces."""

import types

import numpy as np
from absl.testing import absltest

from keras_prm.analysis.channel_groups import Box
from keras_prm.analysis.channel_groups import ClassTable
from keras_prm.dependency.values import Weight


def table_of(classes, pinned, *shapes):
    """A table of kernels `(in, out)` whose inputs are of these classes."""
    ids = np.arange(len(classes))
    weights = {
        number: Weight(
            np.zeros(shape), f"{number}/kernel", [ids, None], "kernel"
        )
        for number, shape in enumerate(shapes)
    }
    graph = types.SimpleNamespace(
        classes=np.array(classes),
        num_classes=max(classes) + 1,
        pinned=pinned,
        weights=weights,
        products=[],
    )
    return ClassTable(graph)


class ClassTableTest(absltest.TestCase):
    def test_alike_have_equally_many_positions(self):
        """Class 1 stands at two positions, 0 and 2 at one each."""
        table = table_of([0, 1, 1, 2], {}, (4, 5), (4, 7))
        self.assertEqual(list(table.labels), [0, 1, 0])
        self.assertEqual(table.sizes, [2, 1])
        positions = [[m.positions for m in row] for row in table.members]
        self.assertEqual(positions, [[1, 1], [2, 2]])
        self.assertEqual(table.each(table.weights), {0: 5 + 7, 1: 2 * (5 + 7)})
        self.assertEqual(
            table.whole(table.weights), {0: 2 * (5 + 7), 1: 2 * (5 + 7)}
        )
        self.assertEqual(table.name(0), "input of 0+1")
        self.assertEqual(table.free(), 4 * (5 + 7))

    def test_alike_are_pinned_for_the_same_reason(self):
        pinned = {1: "one", 2: "two", 4: "one"}
        table = table_of([0, 1, 2, 3, 4], pinned, (5, 2))
        self.assertEqual(list(table.labels), [0, 1, 2, 0, 1])
        self.assertEqual(table.pinned, ["", "one", "two"])
        self.assertEqual(table.free(), 2 * 2)

    def test_classes_without_weights_have_no_row(self):
        table = table_of([0, 1], {}, (2, 3))
        table.graph.num_classes, table.graph.pinned = 4, {3: "why"}
        table = ClassTable(table.graph)
        self.assertEqual(list(table.labels), [0, 0, -1, -1])
        self.assertEqual(table.sizes, [2])


class BoxTest(absltest.TestCase):
    def test_an_entry_that_two_axes_lose_goes_once(self):
        box = Box((3, 4, 5), {}, 3 * 4 * 5)
        self.assertEqual(box.part({1: 1}), 3 * 5)
        self.assertEqual(box.part({1: 1, 2: 2}), 3 * (4 * 5 - 3 * 3))
        self.assertEqual(box.part({}), 0)

    def test_unknown(self):
        self.assertIsNone(Box((3,), {}, None).part({0: 1}))


if __name__ == "__main__":
    absltest.main()
