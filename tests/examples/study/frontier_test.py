"""The command that makes a frontier, as one would call it."""

import json
import pathlib
import subprocess
import sys
import tempfile

import pytest
from absl.testing import absltest

ROOT = pathlib.Path(__file__).absolute().parents[3]


def frontier(folder, *flags):
    """Runs the command on the digits; what it printed."""
    return subprocess.run(
        [sys.executable, "-m", "examples.study.frontier", "--quick"]
        + [f"--output_dir={folder}", "--processes=1", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


class FrontierTest(absltest.TestCase):
    @pytest.mark.slow
    def test_makes_what_is_wanted_and_says_so(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        found = frontier(folder, "--methods=one_shot", "--points=20x")
        self.assertEqual(found.returncode, 0, found.stderr)
        self.assertIn("1 results wanted, 0 known, 1 at a time.", found.stdout)
        self.assertIn("filters by magnitude, at once", found.stdout)
        path = folder / "one_shot" / "20x" / "seed0"
        summary = json.loads((path / "summary.json").read_text())
        self.assertGreater(summary["stored_ratio"], 15)
        self.assertTrue((path / "small.tflite").exists())
        self.assertTrue((folder / "frontier.md").exists())
