from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.pruning.thresholds import Thresholds


class ThresholdsTest(parameterized.TestCase):
    @parameterized.parameters(
        {"filter": -0.1}, {"column": float("nan")}, {"share": 1.5}
    )
    def test_out_of_range(self, **bounds):
        with self.assertRaisesRegex(ValueError, "0 keeps all"):
            Thresholds(**bounds)


if __name__ == "__main__":
    absltest.main()
