"""The rule of what counts as equal."""

import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm import parity


class ErrorsTest(parameterized.TestCase):
    @parameterized.parameters(1e6, 1.0, 1e-3)
    def test_relative_to_the_largest_output(self, peak):
        y = peak * np.array([[0.0, -1.0], [0.5, 0.25]])
        z = y + peak * np.array([[0.0, 0.0], [-0.01, 0.002]])
        absolute, relative = parity.errors(y, z)
        self.assertAlmostEqual(absolute / peak, 0.01)
        self.assertAlmostEqual(relative, 0.01)

    def test_tiny_outputs_are_measured_against_a_millionth(self):
        y, z = np.array([0.0, 1e-9]), np.array([1e-9, 1e-9])
        absolute, relative = parity.errors(y, z)
        self.assertAlmostEqual(absolute, 1e-9)
        self.assertAlmostEqual(relative, 1e-3)

    def test_no_rows_are_equal(self):
        self.assertEqual(parity.errors(np.ones(0), np.ones(0)), (0, 0))

    def test_small_types_are_compared_exactly(self):
        y = np.array([0, 255], "uint8")
        self.assertEqual(parity.errors(y, y[::-1]), (255, 1))
        self.assertEqual(parity.errors(y > 0, y < 1), (1, 1))

    @parameterized.parameters(np.nan, np.inf, -np.inf)
    def test_what_is_not_finite_is_no_parity(self, value):
        y, z = np.array([1.0, value]), np.array([1.0, 1.0])
        for pair in ((y, z), (z, y), (y, y)):
            self.assertEqual(parity.errors(*pair), (np.inf, np.inf))

    def test_nor_are_other_shapes(self):
        y, z = np.ones((2, 1)), np.ones((2, 3))
        self.assertEqual(parity.errors(y, z), (np.inf, np.inf))


if __name__ == "__main__":
    absltest.main()
