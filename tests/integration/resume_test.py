"""A training that is killed and run again ends as if it had not been.

Kills one twice by pytest, and as many as one likes as often by

    python -m tests.integration.resume_test --num_kills=20 --kill_seed=1
"""

import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
from absl import flags
from absl.testing import absltest

from tests.helpers import resume_training

flags.DEFINE_integer("num_kills", 2, "How often to kill, two per training.")
flags.DEFINE_integer("kill_seed", 0, "Which moments.")


def start(folder):
    folder.mkdir(exist_ok=True)
    with open(folder / "errors.txt", "w") as errors:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.helpers.resume_training",
                str(folder),
            ],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )


def finish(folder, process):
    """All variables as they are in the end."""
    process.communicate()
    if process.returncode:
        raise AssertionError((folder / "errors.txt").read_text()[-3000:])
    with np.load(folder / "result.npz") as data:
        return [data[name] for name in data.files]


def kill(folder, process, phase, event, delay):
    """Kills at an event of a phase, counted from the process's first.

    Returns:
        What it was doing; `None` if there was no such event.
    """
    with process.stdout as lines:
        for line in map(str.strip, lines):
            if line == "next phase":
                phase -= 1
            elif phase == 0:
                event -= 1
                if event == 0:
                    time.sleep(delay)
                    process.kill()
                    break
    code = process.wait()
    if code not in (0, -signal.SIGKILL):
        raise AssertionError((folder / "errors.txt").read_text()[-3000:])
    return line if code else None


class ResumeTest(absltest.TestCase):
    @pytest.mark.slow
    def test_ends_as_if_it_had_not_been_killed(self):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        folder = pathlib.Path(folder)
        whole = start(folder / "whole")
        rng = random.Random(flags.FLAGS["kill_seed"].value)
        results, kills = [], []
        while len(kills) < flags.FLAGS["num_kills"].value:
            run = folder / str(len(results))
            for phase in (0, 1):
                event = rng.randint(1, resume_training.EVENTS)
                delay = rng.uniform(0, resume_training.PAUSE)
                doing = kill(run, start(run), phase, event, delay)
                if doing:  # On a busy machine it may have been faster.
                    kills.append((phase, event, doing))
                    print("Killed:", *kills[-1], file=sys.stderr, flush=True)
            results.append(finish(run, start(run)))
        expected = finish(folder / "whole", whole)
        self.assertNotEmpty(expected)
        for result in results:
            self.assertEqual(len(result), len(expected))
            for one, other in zip(result, expected):
                self.assertEqual(one.dtype, other.dtype)
                self.assertEqual(one.tobytes(), other.tobytes())


if __name__ == "__main__":
    absltest.main()
