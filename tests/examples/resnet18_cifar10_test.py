"""ResNet-18's command, in small, as one would call it."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np
import pytest
from absl.testing import absltest

import keras_prm

SCRIPT = pathlib.Path(__file__).absolute().parent.parent.parent / "examples"
SCRIPT /= "resnet18_cifar10.py"


def command(folder, *arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, "--quick", "--dataset=digits", *arguments],
        cwd=folder,
        env=os.environ | {"KERAS_BACKEND": keras.backend.backend()},
        capture_output=True,
        text=True,
        check=False,
    )


class CommandTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory())
        )

    @pytest.mark.slow
    def test_a_slim_network_from_dense_to_a_file(self):
        found = command(self.folder, "--output_dir=out")
        self.assertEqual(found.returncode, 0, found.stderr)
        path = self.folder / "out" / "20x"
        summary = json.loads((path / "summary.json").read_text())
        self.assertTrue(summary["exact"])
        self.assertGreater(summary["conv_ratio"], 15)
        # Five epochs of a slim network: some of ten digits it knows.
        self.assertGreater(summary["test_accuracy"], 0.25)
        x = np.zeros((3, 32, 32, 1), "float32")
        for name in ("small.tflite", "int8.tflite"):
            self.assertEqual(
                keras_prm.LiteRTModel(path / name)(x).shape, (3, 10)
            )

    @pytest.mark.slow
    def test_names_that_are_not_known(self):
        found = command(self.folder, "train", "--points=70x")
        self.assertEqual(found.returncode, 1)
        self.assertIn("no ['70x', 'train']", found.stderr)
        self.assertIn("dense, teach, prune", found.stderr)


if __name__ == "__main__":
    absltest.main()
