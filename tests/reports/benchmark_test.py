"""What a benchmark reports."""

import json

import numpy as np
from absl.testing import absltest

from keras_prm.reports import benchmark

# Seconds of eleven rounds, so that percentiles 10 and 90 are whole rounds.
DENSE = np.array([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110]) * 1e-5
# Half as long in each round.
SMALL = DENSE / 2


def report(**changes):
    rows = (
        benchmark.row_of("dense", 2, DENSE, DENSE, 1_728_312, 5e6),
        benchmark.row_of("small", 2, SMALL, DENSE, 31_476, None),
    )
    settings = {"num_cores": 4, "litert_version": "2.3.0", "batch_size": 8}
    settings |= {"runs": 11, "warmup": 3, "machine": "x86_64", **changes}
    return benchmark.BenchmarkReport(rows, **settings)


class BenchmarkReportTest(absltest.TestCase):
    def test_times(self):
        row = report().rows[0]
        found = (row.minimum, row.low, row.median, row.high)
        np.testing.assert_allclose(found, DENSE[[0, 1, 5, 9]])
        self.assertEqual((row.model, row.num_threads), ("dense", 2))
        self.assertEqual((row.file_bytes, row.peak_bytes), (1_728_312, 5e6))

    def test_ratios_are_paired_within_a_round(self):
        # The medians say 1.0; in most rounds, the first takes half as long.
        first = np.array([1.0, 1.0, 1.0, 4.0, 2.0])
        other = np.array([2.0, 2.0, 2.0, 1.0, 4.0])
        row = benchmark.row_of("b", 1, other, first, 10)
        self.assertEqual(np.median(first) / row.median, 0.5)
        self.assertEqual(row.speedup, 0.5)
        first = first[[3, 4, 0, 1, 2]]  # Other partners, the same medians.
        row = benchmark.row_of("b", 1, other, first, 10)
        ratios = np.sort([4 / 2, 2 / 2, 1 / 2, 1 / 1, 1 / 4])
        self.assertEqual(row.speedup, ratios[2])
        self.assertNotEqual(row.speedup, np.median(first) / row.median)
        self.assertAlmostEqual(row.speedup_low, 0.6 * 0.25 + 0.4 * 0.5)
        self.assertAlmostEqual(row.speedup_high, 0.6 * 2 + 0.4 * 1)

    def test_more_than_one_is_faster(self):
        row = report().rows[1]
        found = (row.speedup_low, row.speedup, row.speedup_high)
        np.testing.assert_allclose(found, 2)

    def test_text(self):
        expected = """
x86_64, 4 cores, LiteRT 2.3.0, batch size 8, 11 runs after 3 to warm up

| model | threads | median µs |   10–90 % | min µs | faster |    10–90 % | peak kB | file kB |
|------:|--------:|----------:|----------:|-------:|-------:|-----------:|--------:|--------:|
| dense |       2 |       600 | 200–1,000 |    100 |  1.00x | 1.00–1.00x |   5,000 |   1,728 |
| small |       2 |       300 |   100–500 |   50.0 |  2.00x | 2.00–2.00x |         |      31 |

faster: than dense at as many threads, median of the ratios within a round
"""  # noqa: E501
        self.assertEqual(str(report()), expected.strip())
        self.assertIn("x86_64, ? cores", str(report(num_cores=None)))

    def test_plain_data(self):
        data = report().to_dict()
        self.assertEqual(json.loads(json.dumps(data)), data)
        self.assertEqual(data["litert_version"], "2.3.0")
        self.assertEqual(data["rows"][1]["file_bytes"], 31_476)
        self.assertLen(data["rows"], 2)


if __name__ == "__main__":
    absltest.main()
