"""The rule of what counts as equal."""

import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.equivalence import tolerances


class ErrorsTest(parameterized.TestCase):
    @parameterized.parameters(1e6, 1.0, 1e-3)
    def test_relative_to_the_largest_output(self, peak):
        y = peak * np.array([[0.0, -1.0], [0.5, 0.25]])
        z = y + peak * np.array([[0.0, 0.0], [-0.01, 0.002]])
        absolute, relative = tolerances.errors(y, z)
        self.assertAlmostEqual(absolute / peak, 0.01)
        self.assertAlmostEqual(relative, 0.01)

    def test_tiny_outputs_are_measured_against_a_millionth(self):
        y, z = np.array([0.0, 1e-9]), np.array([1e-9, 1e-9])
        absolute, relative = tolerances.errors(y, z)
        self.assertAlmostEqual(absolute, 1e-9)
        self.assertAlmostEqual(relative, 1e-3)

    def test_no_rows_are_equal(self):
        self.assertEqual(tolerances.errors(np.ones(0), np.ones(0)), (0, 0))

    def test_small_types_are_compared_exactly(self):
        y = np.array([0, 255], "uint8")
        self.assertEqual(tolerances.errors(y, y[::-1]), (255, 1))
        self.assertEqual(tolerances.errors(y > 0, y < 1), (1, 1))

    @parameterized.parameters(np.nan, np.inf, -np.inf)
    def test_what_is_not_finite_agrees_with_its_like_alone(self, value):
        y, z = np.array([1.0, value]), np.array([1.0, 1.0])
        for pair in ((y, z), (z, y), (y, np.array([1.0, -np.inf + value]))):
            if not np.array_equal(*pair, equal_nan=True):
                self.assertEqual(tolerances.errors(*pair), (np.inf, np.inf))
        self.assertEqual(tolerances.errors(y, y), (0.0, 0.0))
        absolute, relative = tolerances.errors(y, np.array([1.5, value]))
        self.assertEqual((absolute, relative), (0.5, 0.5))

    def test_what_is_undefined_is_counted(self):
        y = np.ones((32, 3))
        self.assertEqual(tolerances.undefined([y]), "")
        y[4] = np.nan
        found = tolerances.undefined([y])
        self.assertEqual(found, "3 of 96 outputs are NaN in both")
        y[5, 0] = -np.inf
        self.assertStartsWith(
            tolerances.undefined([y, y[:1]]),
            "4 of 99 outputs are NaN or infinite",
        )

    def test_words(self):
        y, z = np.array([["a"], ["b"]], object), np.array([[b"a"], [b"b"]])
        self.assertEqual(tolerances.errors(y, z), (0, 0))
        self.assertEqual(tolerances.errors(y, z[::-1]), (np.inf, np.inf))

    def test_nor_are_other_shapes(self):
        y, z = np.ones((2, 1)), np.ones((2, 3))
        self.assertEqual(tolerances.errors(y, z), (np.inf, np.inf))


class UntestedTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("zeros", np.zeros((4, 2)), "the same for all"),
        ("saturated", np.tile([0.0, 1.0], (4, 1)), "the same for all"),
        ("rounding", 1 + 1e-9 * np.arange(4.0)[:, None], "the same for all"),
        ("nan", np.full((4, 2), np.nan), "NaN or infinite throughout"),
        ("labels", np.full(4, 7), "the same for all"),
        ("words", np.full(4, "a"), "the same for all"),
        ("some_nan", np.array([[np.nan, 1.0]] * 4), "the same for all"),
    )
    def test_dead(self, output, message):
        self.assertRegex(tolerances.why_untested([output]), message)

    @parameterized.named_parameters(
        ("small", 1e-4 * np.arange(4.0)[:, None]),
        ("labels", np.array([7, 7, 7, 8])),
        ("words", np.array(["a", "b"])),
        ("some_nan", np.array([[np.nan, 1.0], [np.nan, 2.0]])),
        ("nan_first", np.array([[np.nan], [1.0], [2.0]])),
    )
    def test_alive(self, output):
        self.assertEqual(tolerances.why_untested([output]), "")
        # One output that reacts is enough.
        self.assertEqual(tolerances.why_untested([np.ones((2, 1)), output]), "")

    def test_no_output_may_be_undefined(self):
        outputs = [np.arange(4.0), np.full(4, np.inf)]
        self.assertRegex(
            tolerances.why_untested(outputs), "output 1 is NaN or inf"
        )


if __name__ == "__main__":
    absltest.main()
