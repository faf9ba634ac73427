"""Boxes of a window, against all of them written out."""

import itertools

import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import ops

from keras_prm.plans.column_patterns import Boxes
from keras_prm.plans.column_patterns import most_of_one_area

WINDOWS = ((), (1,), (3,), (3, 3), (2, 3, 1), (4, 5))


def written_out(window):
    """Every box as bool `(number of taps,)`, the smallest first."""
    sides = [itertools.combinations(range(n + 1), 2) for n in window]
    found = []
    for box in itertools.product(*sides):
        inside = np.zeros(window, bool)
        inside[tuple(slice(a, b) for a, b in box)] = True
        found.append(inside.reshape(-1))
    return np.stack(sorted(found, key=np.sum))


class BoxesTest(parameterized.TestCase):
    @parameterized.parameters(*WINDOWS)
    def test_inside(self, *window):
        expected = written_out(window)
        boxes = Boxes(window)
        np.testing.assert_array_equal(boxes.areas, expected.sum(axis=1))
        found = boxes.inside(np.arange(len(expected), dtype="int32"))
        np.testing.assert_array_equal(ops.convert_to_numpy(found), expected)

    @parameterized.parameters(*WINDOWS)
    def test_sums(self, *window):
        expected = written_out(window)
        taps = np.random.default_rng(0).uniform(size=expected.shape[1])
        taps = taps.astype("float32")
        found = ops.convert_to_numpy(
            Boxes(window).sums(ops.convert_to_tensor(taps))
        )
        np.testing.assert_allclose(found, expected @ taps, rtol=1e-5)

    @parameterized.parameters(*WINDOWS)
    def test_of_area(self, *window):
        boxes = Boxes(window)
        lengths = []
        for area in range(int(np.prod(window)) + 1):
            numbers, exist = map(
                ops.convert_to_numpy, boxes.of_area(np.int32(area))
            )
            self.assertTrue((numbers < len(boxes.areas)).all())
            np.testing.assert_array_equal(
                numbers[exist], np.flatnonzero(boxes.areas == area)
            )
            lengths.append(np.count_nonzero(exist))
        self.assertLen(numbers, max(lengths))
        self.assertEqual(most_of_one_area(window), max(lengths))


if __name__ == "__main__":
    absltest.main()
