"""Tests of what purification calls small."""

import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.pruning.thresholds import Thresholds
from keras_prm.pruning.thresholds import medians
from keras_prm.pruning.thresholds import num_live
from keras_prm.pruning.thresholds import small_channels
from keras_prm.pruning.thresholds import small_filters

# One kernel position, four inputs in two channels, three filters.
KERNEL = np.array(
    [[[[1.0, 0, 2], [3, 0, 0], [0, 0, 0], [0, 0, 1]]]]  # (1, 1, in, out)
)
CHANNEL_OF = np.array([0, 0, 1, 1])


class EnergiesTest(parameterized.TestCase):
    def test_medians_are_of_what_is_not_zero(self):
        column, channel, filter_ = medians(KERNEL, CHANNEL_OF, 2)
        self.assertEqual(column, np.median([1 + 4, 9, 1]))
        self.assertEqual(channel, np.median([(5 + 9) / 2, (0 + 1) / 2]))
        self.assertEqual(filter_, np.median([1 + 9, 4 + 1]))

    def test_medians_of_nothing(self):
        found = medians(np.zeros((1, 1, 4, 3)), CHANNEL_OF, 2)
        self.assertEqual(found, (0.0, 0.0, 0.0))

    @parameterized.parameters(
        # Live columns of channel 1: the one of energy 1, where that counts.
        (Thresholds(1.0, 0.6, 0.6, 0), True),
        (Thresholds(1.0, 0.5, 0.6, 0), False),
        (Thresholds(1.1, 0.5, 0.6, 0), True),
        (Thresholds(1.1, 0.5, 0.5, 0), False),
    )
    def test_channel_falls_if_share_and_energy_are_small(self, limits, falls):
        found = small_channels(KERNEL, CHANNEL_OF, 2, limits)
        self.assertEqual(found.tolist(), [False, falls])

    def test_strongest_and_empty_channels_do_not_fall(self):
        kernel = np.array([[[[0.0], [2.0], [3.0]]]])
        limits = Thresholds(1e9, 1.0, 1e9, 1e9)
        found = small_channels(kernel, np.arange(3), 3, limits)
        self.assertEqual(found.tolist(), [False, True, False])

    def test_small_filters(self):
        found = small_filters(KERNEL, Thresholds(filter=5.1))
        self.assertEqual(found.tolist(), [False, False, True])
        found = small_filters(KERNEL, Thresholds(filter=5.0))
        self.assertFalse(found.any())
        found = small_filters(KERNEL, Thresholds(filter=1e9))
        self.assertEqual(found.tolist(), [False, False, True])

    @parameterized.parameters(0.5, 1.0, 10.0, 1e3)
    def test_bound_on_columns_stops_at_the_median(self, strength):
        found = Thresholds(0.5, 0.4, 0.2, 0.3).absolute(strength, (2, 3, 5))
        self.assertEqual(found.column, 2 * min(0.5 * strength, 1.0))
        self.assertEqual(found.share, 0.4)
        self.assertAlmostEqual(found.channel, 3 * 0.2 * strength)
        self.assertAlmostEqual(found.filter, 5 * 0.3 * strength)

    def test_column_at_the_median_is_live_though_filters_fell(self):
        """Bounds of a time when every column held twice the energy."""
        limits = Thresholds(1.0, 0.5, 3.0, 0).absolute(1e3, (2.0, 2.0, 2.0))
        kernel = np.ones((3, 3, 4, 1))
        found = small_channels(kernel, np.arange(4), 4, limits)
        self.assertFalse(found.any())

    def test_bounds_follow_what_is_left(self):
        self.assertEqual(num_live(KERNEL), (3, 2))
        limits = Thresholds(1.0, 0.5, 3.0, 7.0)
        found = limits.for_what_is_left((2, 1), (8, 3))
        self.assertEqual(found, Thresholds(1 / 3, 0.5, 1.0, 7 / 4))
        self.assertEqual(limits.for_what_is_left((8, 3), (8, 3)), limits)
        endless = Thresholds(np.inf, 1.0, np.inf, np.inf)
        self.assertEqual(endless.for_what_is_left((0, 0), (8, 3)), endless)


if __name__ == "__main__":
    absltest.main()
