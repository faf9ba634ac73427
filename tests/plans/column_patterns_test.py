"""Patterns of columns and boxes of a window, against all written out."""

import itertools

import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import ops

from keras_prm.plans.column_patterns import PATTERNS
from keras_prm.plans.column_patterns import Boxes
from keras_prm.plans.column_patterns import most_of_one_area
from keras_prm.plans.column_patterns import pick_columns
from keras_prm.plans.column_patterns import window_size
from tests.helpers.arrays import compile_function
from tests.helpers.arrays import normal
from tests.helpers.patterns import NOT_FREE
from tests.helpers.patterns import is_feasible
from tests.helpers.projecting import project_columns

SHAPES = ((2, 2, 2), (3, 1, 3), (4, 2), (5,))


def pick(energies, live, keep, pattern):
    """0/1 array; `live` and `keep` are tensors, as in a training step."""
    picked = pick_columns(
        ops.convert_to_tensor(energies, "float32"),
        ops.convert_to_tensor(live, "float32"),
        ops.convert_to_tensor(keep, "int32"),
        pattern,
    )
    return ops.convert_to_numpy(picked)


def supports(shape):
    """Every support of a kernel but the empty one."""
    for bits in itertools.product((False, True), repeat=int(np.prod(shape))):
        if any(bits):
            yield np.array(bits).reshape(shape)


def cases():
    """Random energies `(..., in)`, channels that live, columns to keep."""
    for shape in SHAPES:
        rng = np.random.default_rng(len(shape))
        for _ in range(3):
            live = rng.permutation(shape[-1]) >= rng.integers(0, 2)
            number = int(live.sum() * np.prod(shape[:-1]))
            keep = int(rng.integers(1, number + 1))
            yield rng.exponential(size=shape), live.astype("float32"), keep


class ExactTest(parameterized.TestCase):
    @parameterized.parameters(*PATTERNS)
    def test_best_of_all_supports(self, pattern):
        for energies, live, keep in cases():
            picked = pick(energies, live, keep, pattern)
            self.assertTrue(is_feasible(picked > 0, live, keep, pattern))
            best = max(
                energies[support].sum()
                for support in supports(energies.shape)
                if is_feasible(support, live, keep, pattern)
            )
            found = (energies * picked).sum()
            self.assertAlmostEqual(found, best, 4, f"{energies} {live} {keep}")

    @parameterized.parameters(*PATTERNS)
    def test_as_many_as_there_may_be(self, pattern):
        for energies, live, keep in cases():
            number = pick(energies, live, keep, pattern).sum()
            if pattern in ("free", "per_channel"):
                self.assertEqual(number, keep)
            elif pattern == "channels":
                taps = int(np.prod(energies.shape[:-1]))
                self.assertEqual(number, taps * max(1, keep // taps))
            else:
                self.assertBetween(number, 1, keep)

    @parameterized.parameters(*PATTERNS)
    def test_all_is_kept_of_what_lives(self, pattern):
        live = np.array([1.0, 0.0, 1.0])
        picked = pick(np.ones((3, 2, 3)), live, 12, pattern)
        np.testing.assert_array_equal(picked, np.ones((3, 2, 1)) * live)

    @parameterized.parameters(*PATTERNS)
    def test_nothing_lives(self, pattern):
        picked = pick(np.ones((3, 2, 3)), np.zeros(3), 0, pattern)
        self.assertEqual(picked.sum(), 0)

    def test_fewer_never_allow_more(self):
        """What a growing ramp relies on."""
        live = np.ones(2)
        for support in supports((2, 2, 2)):
            for pattern in NOT_FREE:
                allowed = [
                    is_feasible(support, live, keep, pattern)
                    for keep in range(1, 9)
                ]
                self.assertEqual(allowed, sorted(allowed))


class ExamplesTest(parameterized.TestCase):
    """Two taps by three channels, by hand."""

    energies = np.array([[9.0, 8.0, 1.0], [7.0, 2.0, 6.0]])

    @parameterized.parameters(
        # 9 + 8 + 7
        ("free", 3, [[1, 1, 0], [1, 0, 0]]),
        # 9 + 7, of 16, 10 and 7; a third column makes no channel.
        ("channels", 3, [[1, 0, 0], [1, 0, 0]]),
        # One of 16, though it has more than one column.
        ("channels", 1, [[1, 0, 0], [1, 0, 0]]),
        # 9 + 8 + 1, of 18 and 15
        ("window", 3, [[1, 1, 1], [0, 0, 0]]),
        ("window", 2, [[1, 1, 0], [0, 0, 0]]),
        # ceil(4 / 3) taps are both
        ("window", 4, [[1, 1, 0], [1, 0, 1]]),
        # 9, 8 and 6
        ("per_channel", 3, [[1, 1, 0], [0, 0, 1]]),
        ("per_channel", 2, [[1, 1, 0], [0, 0, 0]]),
    )
    def test_support(self, pattern, keep, expected):
        picked = pick(self.energies, np.ones(3), keep, pattern)
        np.testing.assert_array_equal(picked, expected)

    @parameterized.parameters(
        # Less the first channel: 10 and 7.
        ("channels", 2, [[0, 1, 0], [0, 1, 0]]),
        # 8 + 1, of 9 and 8
        ("window", 2, [[0, 1, 1], [0, 0, 0]]),
        ("per_channel", 2, [[0, 1, 0], [0, 0, 1]]),
        ("free", 3, [[0, 1, 0], [0, 1, 1]]),
    )
    def test_dead_channels_do_not_count(self, pattern, keep, expected):
        picked = pick(self.energies, np.array([0, 1, 1]), keep, pattern)
        np.testing.assert_array_equal(picked, expected)

    def test_a_box_that_does_not_exist(self):
        # No box of 5 of 9 taps: 4 is the most, and 4 channels times 4.
        kernel = normal((3, 3, 4, 2))
        columns = ops.convert_to_numpy(project_columns(kernel, 20, "window"))
        self.assertEqual(columns.sum(), 16)
        self.assertEqual(columns.any(axis=-1).sum(), 4)

    def test_a_smaller_box_of_more_energy(self):
        # 3 in a row have 9 + 9 + 9, any 2x2 at most 9 + 9 + 1 + 1.
        energies = np.ones((3, 3, 1))
        energies[1] = 9
        picked = pick(energies, np.ones(1), 4, "window")
        expected = np.zeros((3, 3, 1))
        expected[1] = 1
        np.testing.assert_array_equal(picked, expected)

    @parameterized.parameters(*PATTERNS)
    def test_negative_ones_go_first_and_add_nothing(self, pattern):
        # Added up, the first channel and the first tap were worth less.
        energies = np.array([[3.0, -1e6], [-1e6, 2.0]])
        picked = pick(energies, np.ones(2), 2, pattern)
        expected = {
            "free": [[1, 0], [0, 1]],
            "channels": [[1, 0], [1, 0]],
            "window": [[1, 1], [0, 0]],
            "per_channel": [[1, 0], [0, 1]],
        }
        np.testing.assert_array_equal(picked, expected[pattern])

    @parameterized.parameters(*PATTERNS)
    def test_a_kernel_of_one_tap_has_one_set(self, pattern):
        energies = normal((7,)) ** 2
        for keep in (1, 4):
            np.testing.assert_array_equal(
                pick(energies, np.ones(7), keep, pattern),
                pick(energies, np.ones(7), keep, "free"),
            )


class LargeWindowTest(parameterized.TestCase):
    @parameterized.parameters(1, 5, 17, 18, 35, 40, 60)
    def test_best_of_all_boxes(self, keep):
        rng = np.random.default_rng(keep)
        energies = rng.exponential(size=(6, 5, 3))
        live = np.array([1.0, 0.0, 1.0])
        best = 0.0
        for rows in itertools.combinations(range(7), 2):
            for columns in itertools.combinations(range(6), 2):
                box = energies[slice(*rows), slice(*columns)][..., live > 0]
                if box[..., 0].size <= -(-keep // 2):
                    best = max(best, np.sort(box.reshape(-1))[-keep:].sum())
        picked = pick(energies, live, keep, "window")
        self.assertTrue(is_feasible(picked > 0, live, keep, "window"))
        self.assertAlmostEqual((energies * picked).sum(), best, 4)

    def test_what_is_sorted(self):
        # Of 2 taps lie 3 * 2 in a row, and as many stand.
        self.assertEqual(window_size((3, 3, 4)), 12 * 9 * 4)
        self.assertEqual(window_size((4,)), 4)
        # All boxes, 18,496 of them, were 22 times as many.
        self.assertEqual(window_size((16, 16, 1)), 854 * 256)


class CompiledTest(parameterized.TestCase):
    @parameterized.parameters(*PATTERNS)
    def test_compiles(self, pattern):
        compiled = compile_function(
            lambda *args: pick_columns(*args, pattern=pattern)
        )
        for energies, live, keep in cases():
            tensors = [
                ops.convert_to_tensor(energies, "float32"),
                ops.convert_to_tensor(live, "float32"),
                ops.convert_to_tensor(keep, "int32"),
            ]
            np.testing.assert_array_equal(
                ops.convert_to_numpy(compiled(*tensors)),
                pick(energies, live, keep, pattern),
            )


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
