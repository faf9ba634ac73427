"""The scores, against values a reader can check."""

import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.pruning import scores
from keras_prm.pruning.scores import KernelRows

# Three filters of two weights each.
WEIGHTS = np.array([[3, -4], [0, 1], [-2, 0]], "float32")
GRADIENTS = np.array([[1, 1], [7, -2], [0.5, 9]], "float32")
GAMMA = np.array([0.5, 2, 1], "float32")


class ScoresTest(parameterized.TestCase):
    @parameterized.parameters(
        (scores.l1_norm, [3 + 4, 0 + 1, 2 + 0]),
        (scores.l2_norm, [5, 1, 2]),
        (scores.batch_norm_gamma, [0.5, 2, 1]),
        # Their differences are (3, -5), (5, -4) and (2, 1).
        (
            scores.geometric_median,
            [
                np.sqrt(9 + 25) + np.sqrt(25 + 16),
                np.sqrt(9 + 25) + np.sqrt(4 + 1),
                np.sqrt(25 + 16) + np.sqrt(4 + 1),
            ],
        ),
        # 3*1 - 4*1, 0*7 - 1*2 and -2*0.5 + 0*9, squared.
        (scores.taylor, [(-1) ** 2, (-2) ** 2, (-1) ** 2]),
    )
    def test_by_hand(self, score, expected):
        before = WEIGHTS.copy()
        found = score(KernelRows(WEIGHTS, GRADIENTS, GAMMA))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        self.assertEqual(found.shape, (3,))
        np.testing.assert_array_equal(WEIGHTS, before)

    def test_equal_filters_are_no_distance_apart(self):
        weights = np.full((2, 5), 1 / 3, "float32")
        found = scores.geometric_median(KernelRows(weights))
        np.testing.assert_array_equal(found, [0, 0])

    @parameterized.parameters(
        (scores.taylor, "gradients"), (scores.batch_norm_gamma, "gamma")
    )
    def test_what_is_not_there(self, score, name):
        with self.assertRaisesRegex(ValueError, rf"\(weights, {name}=...\)"):
            score(KernelRows(WEIGHTS))


if __name__ == "__main__":
    absltest.main()
