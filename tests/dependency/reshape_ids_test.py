"""Where ids go in a reshape, against tracking every single element."""

import math

import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.dependency import reshape_ids


def random_shape(rng, size):
    """A random shape of a given size, ones included."""
    shape = []
    while size > 1:
        divisors = [d for d in range(1, size + 1) if size % d == 0]
        shape.append(int(rng.choice(divisors)))
        size //= shape[-1]
    return shape or [1]


def classes_of(num, ties):
    root = np.arange(num)
    for a, b in ties:
        low, high = sorted((root[a], root[b]))
        root[root == high] = low
    return root


class BlocksTest(parameterized.TestCase):
    @parameterized.parameters(
        # Rows: before, after, the blocks.
        ((6, 4, 8), (192,), [((0, 1, 2), (0,))]),
        ((6, 4, 8), (24, 8), [((0, 1), (0,)), ((2,), (1,))]),
        ((6, 4), (6, 2, 2), [((0,), (0,)), ((1,), (1, 2))]),
        ((4, 6), (6, 4), [((0, 1), (0, 1))]),
        ((1, 5), (5,), [((0, 1), (0,))]),
        ((5,), (5, 1), [((0,), (0,)), ((), (1,))]),
    )
    def test_known(self, source, target, expected):
        found = reshape_ids.blocks(source, target)
        if source[0] == 1:  # Where a 1 goes is a matter of taste.
            self.assertEqual(_covered(found), _covered(expected))
        else:
            self.assertEqual([(tuple(a), tuple(b)) for a, b in found], expected)

    def test_random_blocks_cover_all_axes_in_order(self):
        rng = np.random.default_rng(0)
        for _ in range(300):
            size = int(rng.choice([1, 6, 24, 36]))
            source, target = random_shape(rng, size), random_shape(rng, size)
            found = reshape_ids.blocks(source, target)
            self.assertEqual(
                _covered(found),
                (list(range(len(source))), list(range(len(target)))),
            )
            for a, b in found:
                self.assertEqual(
                    math.prod(source[i] for i in a),
                    math.prod(target[i] for i in b),
                )


def _covered(blocks):
    return [i for a, _ in blocks for i in a], [i for _, b in blocks for i in b]


class CarryTest(parameterized.TestCase):
    def test_flatten_repeats_the_ids(self):
        axis, ids, ties, old, new = reshape_ids.carry(
            np.array([7, 8, 9]), 1, (2, 3), (6,)
        )
        self.assertEqual(axis, 0)
        np.testing.assert_array_equal(ids, [7, 8, 9, 7, 8, 9])
        np.testing.assert_array_equal(*ties)
        order = np.argsort(new)
        np.testing.assert_array_equal(old[order], [0, 1, 2, 0, 1, 2])

    def test_flatten_and_back_is_the_identity(self):
        ids = np.array([3, 1, 4, 2])
        _, flat, *_ = reshape_ids.carry(ids, 2, (2, 3, 4), (24,))
        axis, back, ties, *_ = reshape_ids.carry(flat, 0, (24,), (2, 3, 4))
        self.assertEqual(axis, 2)
        np.testing.assert_array_equal(back, ids)
        np.testing.assert_array_equal(*ties)

    def test_takes_the_axis_that_ties_least(self):
        """Rows 000011, 112222, 333344, 445555: along axis 1 all would tie."""
        axis, ids, ties, *_ = reshape_ids.carry(np.arange(6), 0, (6, 4), (4, 6))
        self.assertEqual(axis, 0)
        np.testing.assert_array_equal(ids, [0, 1, 3, 4])
        self.assertLen(set(classes_of(6, zip(*ties))), 2)

    def test_a_block_that_vanishes(self):
        axis, ids, *_ = reshape_ids.carry(np.array([5]), 0, (1,), ())
        self.assertIsNone(axis)

    def test_random_reshapes(self):
        """Removing classes before a reshape removes the same elements.

        Brute force: every element carries its own number. Whatever classes
        go, cutting the source and reshaping must be reshaping and cutting
        the target, element by element.
        """
        rng, moved = np.random.default_rng(0), 0
        for _ in range(1500):
            size = int(rng.choice([4, 6, 8, 12, 24, 36]))
            source, target = random_shape(rng, size), random_shape(rng, size)
            axis = int(rng.integers(len(source)))
            num = source[axis]
            ids = rng.permutation(num)
            if rng.random() < 0.3:  # Some ids stand at several positions.
                ids = ids // 2
            new_axis, new_ids, ties, old, new = reshape_ids.carry(
                ids, axis, source, target
            )
            classes = classes_of(num, zip(*ties))
            gone = rng.random(num) < 0.4
            keep_old = ~gone[classes[ids]]
            keep_new = ~gone[classes[new_ids]]
            elements = np.arange(size).reshape(source)
            small = np.compress(keep_old, elements, axis)
            large = elements.reshape(target)
            expected = np.compress(keep_new, large, new_axis)
            np.testing.assert_array_equal(small.ravel(), expected.ravel())
            moved += 0 < small.size < size
            self._check_moves(elements, axis, target, new_axis, old, new)
        self.assertGreater(moved, 200)

    def _check_moves(self, elements, axis, target, new_axis, old, new):
        position = np.indices(elements.shape)[axis].reshape(target)
        place = np.indices(target)[new_axis]
        expected = set(zip(position.ravel(), place.ravel()))
        self.assertEqual(set(zip(old, new)), expected)


class ResolveTest(parameterized.TestCase):
    @parameterized.parameters(
        ((6, 4), (8, 3), [8, 3]),
        ((6, 4), (-1, 3), [8, 3]),
        ((6, 4), (None, 3), [8, 3]),
        ((None, 4), (-1, 2), None),
        ((6, 4), (None, -1), None),
    )
    def test_known(self, source, target, expected):
        self.assertEqual(reshape_ids.resolve(source, target), expected)


if __name__ == "__main__":
    absltest.main()
