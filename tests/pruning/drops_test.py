import math

import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.pruning import drops


class ShareTest(parameterized.TestCase):
    @parameterized.parameters(
        (0.9, 10_000, 0.003),
        (0.5, 100, 0.05),
        (1.0, 100, math.sqrt(0.99 * 0.01 / 100)),  # as if one were wrong
        (0.0, 100, math.sqrt(0.99 * 0.01 / 100)),
        (1.0, 1, 0.5),
    )
    def test_error(self, share, num_samples, error):
        self.assertAlmostEqual(drops.share_error(share, num_samples), error)

    @parameterized.parameters(
        ((0.102, 0.36), 500),
        ((0.98, 0.1), 50),  # at least
        ((0.983, 0.1), 1000),
        ((1 / 3, 0.9375), 48),
        ((1.0, 0.0), 1),
        ((0.9, 1.1), None),
        ((-0.2, 0.3), None),
        ((0.7342178523, 0.2718281828), None),
        ((float("nan"), 0.5), None),
        ((float("-inf"), 0.5), None),
    )
    def test_common_count(self, values, count):
        self.assertEqual(drops.common_count(values), count)
        values = [np.float32(v) for v in values]
        self.assertEqual(drops.common_count(values), count)


class FunctionTest(parameterized.TestCase):
    def test_errors_add_up(self):
        answers = iter([(0.9, 0.03), (0.8, 0.04)])
        scorer = drops.FunctionScorer(lambda model: next(answers))
        drop = scorer.drop(scorer(None), scorer(None))
        self.assertAlmostEqual(drop.value, 0.1)
        self.assertAlmostEqual(drop.error, 0.05)

    def test_error_of_a_share(self):
        scorer = drops.FunctionScorer(lambda model: 0.9, num_samples=10_000)
        self.assertAlmostEqual(scorer(None).error, 0.003)

    def test_nothing_is_known_of_a_bare_number(self):
        scorer = drops.FunctionScorer(lambda model: np.float32(0.5))
        score = scorer(None)
        self.assertIsNone(score.error)
        self.assertIsNone(scorer.drop(score, score).error)


if __name__ == "__main__":
    absltest.main()
