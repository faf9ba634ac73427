"""What a budget may say."""

import dataclasses
import math

from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.budgets.budget import Budget


class BudgetTest(parameterized.TestCase):
    def test_keeps_what_is_given(self):
        budget = Budget(macs=0.5, parameters=500_000)
        self.assertEqual(budget.bounds(), {"macs": 0.5, "parameters": 500_000})
        with self.assertRaises(dataclasses.FrozenInstanceError):
            budget.macs = 0.3
        self.assertEqual(Budget(latency_ms=0.2).bounds(), {"latency_ms": 0.2})

    def test_bounds_go_by_name(self):
        with self.assertRaises(TypeError):
            Budget(0.5)

    def test_nothing(self):
        for arguments in ({}, {"quantize": "int8"}, {"target": "host"}):
            with self.assertRaisesRegex(ValueError, r"Give it at least one of"):
                Budget(**arguments)

    @parameterized.parameters(0, -0.5, math.nan, math.inf, -math.inf)
    def test_no_bound(self, value):
        for name in ("macs", "parameters", "conv_weights", "file_bytes"):
            with self.assertRaisesRegex(ValueError, "share of the dense model"):
                Budget(**{name: value})
        with self.assertRaisesRegex(ValueError, "positive and finite"):
            Budget(latency_ms=value)

    def test_no_number(self):
        for value in (True, "0.5", [0.5], {"a": 1}):
            with self.assertRaisesRegex(TypeError, "to be numbers: a share"):
                Budget(macs=value)

    def test_latency_is_a_share(self):
        with self.assertRaisesRegex(ValueError, "use `latency_ms`"):
            Budget(latency=3.0)
        with self.assertRaisesRegex(ValueError, "not both"):
            Budget(latency=0.5, latency_ms=3)

    def test_unknown_words(self):
        with self.assertRaisesRegex(ValueError, "'dynamic_range' or 'int8'"):
            Budget(latency=0.5, quantize="int4")
        with self.assertRaisesRegex(ValueError, "no such target"):
            Budget(latency=0.5, target="moon")

    def test_of_which_file_when_there_is_none(self):
        for arguments in ({"quantize": "int8"}, {"target": "host"}):
            with self.assertRaisesRegex(ValueError, "say of which file"):
                Budget(macs=0.5, **arguments)


if __name__ == "__main__":
    absltest.main()
