"""Checks of arguments, and arguments that were renamed."""

import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

import keras_prm
from keras_prm.utils import validation


@validation.renamed(path="filepath")
def write(filepath, number=1):
    return filepath, number


class ValidationTest(parameterized.TestCase):
    @parameterized.parameters(
        (1, True),
        (np.int64(3), True),
        (0, False),
        (True, False),
        (1.0, False),
        ("1", False),
        (None, False),
    )
    def test_whole_numbers(self, value, is_whole):
        self.assertEqual(validation.is_whole(value), is_whole)
        if is_whole:
            validation.check_whole("every", value, "epochs", "Pass 1.")
        else:
            message = "`every` counts epochs .* Received: every=.*Pass 1."
            with self.assertRaisesRegex(ValueError, message):
                validation.check_whole("every", value, "epochs", "Pass 1.")

    @parameterized.parameters(True, "1", None, 1j)
    def test_real_numbers(self, value):
        validation.check_real("rho", np.float32(1), "a float", "Pass 0.1.")
        message = "`rho` must be a float. Received: rho=.*Pass 0.1."
        with self.assertRaisesRegex(TypeError, message):
            validation.check_real("rho", value, "a float", "Pass 0.1.")

    def test_renamed(self):
        self.assertEqual(write("a", number=2), ("a", 2))
        self.assertEqual(write(filepath="a"), ("a", 1))
        message = "`path` of `write` is called `filepath` now"
        with self.assertWarnsRegex(DeprecationWarning, message):
            self.assertEqual(write(path="a"), ("a", 1))
        with self.assertRaisesRegex(TypeError, "Pass `filepath` alone"):
            write(path="a", filepath="b")

    def test_the_public_ones(self):
        """Files that do not exist, so that nothing is read or written."""
        for load in (keras_prm.Masks.load, keras_prm.SparsityPlan.load):
            with self.assertWarnsRegex(DeprecationWarning, "`filepath` now"):
                with self.assertRaises(FileNotFoundError):
                    load(path="no such file")
        with self.assertWarnsRegex(DeprecationWarning, "`filepath` now"):
            callback = keras_prm.AtomicCheckpoint(path="a.ckpt")
        self.assertEqual(callback.path.name, "a.ckpt")
        with self.assertWarnsRegex(DeprecationWarning, "`time_budget` now"):
            lowering = keras_prm.AutoLowering(seconds=5)
        self.assertEqual(lowering.time_budget, 5)
        with self.assertWarnsRegex(DeprecationWarning, "`time_budget` now"):
            self.assertEqual(lowering.seconds, 5)


if __name__ == "__main__":
    absltest.main()
