"""Timing jobs in turn."""

import itertools
from unittest import mock

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.litert import timing
from keras_prm.litert.model import LiteRTModel
from tests.helpers.litert_files import double
from tests.helpers.litert_files import file_of
from tests.helpers.litert_files import spec


class Jobs:
    """Jobs that take as many seconds as they are told, and a clock.

    Args:
        costs: list of functions from a job's number of calls to seconds.
    """

    def __init__(self, costs):
        self.now = 100.0
        self.order = []
        self.costs = costs
        self.calls = [lambda i=i: self._call(i) for i in range(len(costs))]

    def _call(self, i):
        self.now += self.costs[i](self.order.count(i))
        self.order.append(i)

    def clock(self):
        return self.now


def timed(jobs, *arguments):
    with mock.patch.object(timing.time, "perf_counter", jobs.clock):
        return timing.rounds(jobs.calls, *arguments)


class RoundsTest(parameterized.TestCase):
    def test_seconds_by_round_and_job(self):
        # The warmup calls are the first two of each job.
        jobs = Jobs([lambda n: n, lambda n: 10 * n])
        found = timed(jobs, 3, 2)
        np.testing.assert_allclose(found, [[2, 20], [3, 30], [4, 40]])

    def test_every_round_starts_with_another_job(self):
        jobs = Jobs([lambda n: 1] * 3)
        timed(jobs, 4, 2)
        expected = "120 201 012 120 201 012".replace(" ", "")
        self.assertEqual("".join(map(str, jobs.order)), expected)

    def test_no_warmup(self):
        jobs = Jobs([lambda n: n + 1])
        np.testing.assert_allclose(timed(jobs, 2), [[1], [2]])


class LatencyTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        if keras.backend.backend() != "tensorflow":
            self.skipTest("the files are made by TensorFlow")

    def test_latency(self):
        small = file_of(double, spec(None, 3))
        models = [small, LiteRTModel(small), small]
        clock = mock.Mock(side_effect=itertools.count())
        rows = np.zeros((2, 3), "float32")
        with mock.patch.object(timing.time, "perf_counter", clock):
            found = timing.latency(models, rows, runs=15, warmup=2)
        self.assertEqual(found, [1, 1, 1])

    def test_numbers_of_numpy(self):
        found = timing.latency(
            [file_of(double, spec(None, 3))],
            np.zeros((1, 3), "float32"),
            *np.array([1, 1, 1], "uint8"),
        )
        self.assertLen(found, 1)

    def test_no_list_or_no_runs(self):
        for models, runs in ((b"abc", 5), ([b"abc"], 0)):
            with self.assertRaisesRegex(ValueError, r"pass `\[model\]`"):
                timing.latency(models, np.zeros((1, 3)), runs=runs)

    @parameterized.parameters(
        {"runs": "5"}, {"runs": 2.5}, {"runs": True}, {"warmup": -1}
    )
    def test_numbers_that_are_not_whole(self, **numbers):
        with self.assertRaisesRegex(ValueError, "whole numbers of runs"):
            timing.latency([b"abc"], np.zeros((1, 3)), **numbers)


if __name__ == "__main__":
    absltest.main()
