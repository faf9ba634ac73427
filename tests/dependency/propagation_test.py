"""Single steps, apart from any model."""

import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.dependency.propagation import Affine
from keras_prm.dependency.propagation import Moments
from keras_prm.dependency.values import Value

NAN = np.nan


class Facts:
    """As much of a `Liveness` as these steps ask for."""

    def __init__(self, constants, wanted):
        self.values = [
            Value(n, (None, len(wanted)), [None] * 2, "") for n in (0, 1)
        ]
        self.constants = {(0, 1): np.array(constants)}
        self.uses = [np.zeros(len(wanted), bool), np.array(wanted)]

    def constant(self, value, axis):
        return self.constants[value.number, axis]

    def used(self, value, axis):
        return self.uses[value.number]

    def array(self, variable):
        return np.array(variable)

    def ends(self):
        return [(value, 1) for value in self.values]


class StepsTest(parameterized.TestCase):
    def test_a_scale_of_zero_is_constant_whatever_comes_in(self):
        facts = Facts([NAN, NAN, 3.0], [True, True, False])
        step = Affine(*facts.ends(), lambda read: (read([0.0, 2.0, 2.0]), 1.0))
        step.propagate_constants(facts)
        np.testing.assert_array_equal(facts.constants[1, 1], [1.0, NAN, 7.0])
        step.propagate_uses(facts)
        np.testing.assert_array_equal(facts.uses[0], [False, True, False])

    def test_moments_read_all_of_a_group(self):
        facts = Facts([NAN, NAN, 3.0, 3.0], [False, True, False, False])
        step = Moments(*facts.ends(), 2, lambda c: c - 3.0)
        step.propagate_constants(facts)
        np.testing.assert_array_equal(facts.constants[1, 1], [NAN, NAN, 0, 0])
        step.propagate_uses(facts)
        np.testing.assert_array_equal(facts.uses[0], [True, True, False, False])


if __name__ == "__main__":
    absltest.main()
