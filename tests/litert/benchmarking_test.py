"""The command line of `benchmark`."""

import contextlib
import io
import os
import pathlib
import subprocess
import sys
import tempfile
from unittest import mock

import keras
from absl import flags
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm import benchmarking
from tests.helpers.litert_files import double
from tests.helpers.litert_files import file_of
from tests.helpers.litert_files import spec


def run(*arguments):
    """What the command line prints."""
    values = flags.FlagValues()
    benchmarking.define_flags(values)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        benchmarking.main(values(["program", *map(str, arguments)]), values)
    return output.getvalue()


class CommandLineTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        if keras.backend.backend() != "tensorflow":
            self.skipTest("the files are made by TensorFlow")
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.paths = [pathlib.Path(folder) / f"{x}.tflite" for x in "ab"]
        for path in self.paths:
            path.write_bytes(file_of(double, spec(None, 3)))

    def test_flags_go_to_benchmark(self):
        with mock.patch.object(benchmarking, "benchmark") as benchmark:
            benchmark.return_value = "the table"
            text = run("a", "b", "--num_threads=1,2", "--runs=7", "--nomemory")
        self.assertEqual(text, "the table\n")
        benchmark.assert_called_once_with(
            ["a", "b"],
            num_threads=[1, 2],
            runs=7,
            warmup=5,
            batch_size=1,
            memory=False,
        )

    def test_no_files(self):
        with self.assertRaisesRegex(SystemExit, "Pass the paths of one"):
            run("--runs=2")

    @parameterized.parameters(
        ("--num_threads=x", "num_threads='x'. Pass such as"),
        ("none.tflite", "Check the paths"),
    )
    def test_errors_are_one_message(self, argument, message):
        with self.assertRaisesRegex(SystemExit, message):
            run(self.paths[0], argument)

    def test_no_flags_on_import(self):
        self.assertNotIn("num_threads", flags.FLAGS)

    def test_as_a_program(self):
        # Any backend will do, this one starts fast.
        command = [sys.executable, "-W", "error", "-m"]
        command += ["keras_prm.benchmarking", *map(str, self.paths)]
        found = subprocess.run(
            [*command, "--num_threads=1,2", "--runs=2", "--nomemory"],
            env={**os.environ, "KERAS_BACKEND": "numpy"},
            capture_output=True,
            text=True,
        )
        rows = [x for x in found.stdout.splitlines() if x.startswith("|")]
        self.assertLen(rows, 2 + 2 * 2, found.stderr)
        self.assertStartsWith(rows[2], "|     a |       1 |")
        self.assertStartsWith(rows[5], "|     b |       2 |")


if __name__ == "__main__":
    absltest.main()
