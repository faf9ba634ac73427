"""The memory that a LiteRT file takes."""

import pathlib
import subprocess
import sys
import tempfile
from unittest import mock

import keras
import numpy as np
from absl.testing import absltest

from keras_prm.litert import peak_memory
from keras_prm.litert.model import LiteRTModel
from tests.helpers.litert_files import file_of
from tests.helpers.litert_files import quantized
from tests.helpers.litert_files import spec

TELLS = sys.platform in ("linux", "darwin")


def product(width):
    """Multiplies 1000 numbers with a constant matrix of 4 * width kB."""
    matrix = np.random.default_rng(0).normal(size=(1000, width))
    matrix = matrix.astype("float32")
    return file_of(lambda x: x @ matrix, spec(None, 1000))


class PeakMemoryTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        if keras.backend.backend() != "tensorflow":
            self.skipTest("the files are made by TensorFlow")
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.path = pathlib.Path(folder) / "model.tflite"

    def measured(self, content, x, num_threads=1):
        self.path.write_bytes(content)
        tensors = LiteRTModel(content).load(x)
        return peak_memory.peak_memory(self.path, tensors, num_threads)

    @absltest.skipUnless(TELLS, "not on this operating system")
    def test_weights_and_activations_count(self):
        x = np.zeros((1, 1000), "float32")
        tiny = self.measured(product(1), x)
        self.assertGreater(tiny, 0)
        self.assertLess(tiny, 20e6)
        large = product(10_000)
        weights = self.measured(large, x)
        self.assertGreater(weights, tiny + 40e6)
        self.assertLess(weights, tiny + 2.5 * 40e6)
        # 1000 rows of 10,000 numbers are 40 MB more.
        rows = self.measured(large, np.repeat(x, 1000, axis=0), num_threads=2)
        self.assertGreater(rows, weights + 38e6)

    @absltest.skipUnless(TELLS, "not on this operating system")
    def test_memory_of_this_process_does_not_count(self):
        held = np.ones(25_000_000)  # 200 MB, in this process' peak
        x = held[:1000].astype("float32")[None]
        self.assertLess(self.measured(product(1), x), 20e6)

    def test_quantized_inputs(self):
        found = self.measured(quantized("int8"), np.zeros((2, 3), "float32"))
        self.assertEqual(found is not None, TELLS)

    def test_the_process_imports_no_keras(self):
        self.path.write_bytes(product(1))
        inputs = self.path.with_suffix(".npz")
        tensors = LiteRTModel(self.path).load(np.zeros((1, 1000)))
        np.savez(inputs, **{str(i): array for i, array in tensors.items()})
        code = (
            "import runpy, sys; program, *arguments = sys.argv[1:]; "
            "runpy.run_path(program)['main'](*arguments); "
            "print({'keras', 'keras_prm', 'tensorflow'} & set(sys.modules))"
        )
        arguments = [peak_memory.__file__, self.path, inputs, "1"]
        found = subprocess.run(
            [sys.executable, "-P", "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
        )
        self.assertEqual(found.stdout.splitlines()[1:], ["set()"], found.stderr)

    def test_unknown_on_other_systems(self):
        with mock.patch.object(sys, "platform", "win32"):
            self.assertIsNone(peak_memory._peak())

    def test_the_process_fails(self):
        self.path.write_bytes(b"no such thing" * 10)
        with self.assertRaisesRegex(ValueError, "pass memory=False"):
            peak_memory.peak_memory(self.path, {})


if __name__ == "__main__":
    absltest.main()
