"""Training on several devices, and in several processes, at once.

The number of devices cannot change once a backend runs, so the cases of each
engine, `*_cases.py` of this folder, run in processes of their own, whatever the
backend of this one.
"""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

import keras
import pytest
from absl.testing import absltest
from absl.testing import parameterized

ROOT = pathlib.Path(__file__).absolute().parent.parent.parent
TIMEOUT = 300
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def free_addresses(number):
    """Addresses of this machine that nobody listens at."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    finally:
        for one in sockets:
            one.close()


def cluster(number):
    """The `TF_CONFIG` of each worker."""
    workers = {"worker": free_addresses(number)}
    return [
        json.dumps(
            {"cluster": workers, "task": {"type": "worker", "index": index}}
        )
        for index in range(number)
    ]


def run_all(commands, timeout=TIMEOUT):
    """Runs Python once per command, all at the same time.

    As soon as one fails, or after `timeout` seconds, all are killed, with
    whatever they have started.

    Args:
        commands: list of `(arguments, environment)`.
        timeout: In seconds.

    Returns:
        list of `(exit status, output)`.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder, str(i)) for i in range(len(commands))]
        jobs = []
        try:
            for path, command in zip(paths, commands, strict=True):
                with path.open("wb") as output:
                    jobs.append(start(*command, output))
            end = time.monotonic() + timeout
            while time.monotonic() < end and is_going_well(jobs):
                time.sleep(0.1)
        finally:
            for job in jobs:
                kill(job)
        outputs = [path.read_text(errors="replace") for path in paths]
        return [(j.returncode, o) for j, o in zip(jobs, outputs, strict=True)]


def start(arguments, environment, output):
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
        | environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def is_going_well(jobs):
    """Whether some still run and none has failed."""
    states = [job.poll() for job in jobs]
    return None in states and not any(states)


def kill(job):
    """Kills a process and whatever it has started."""
    try:
        os.killpg(job.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    job.wait()


def cases(module, backend, **environment):
    """The command that runs one of the `*_cases.py` of this folder."""
    return (
        [
            *("-W", "error::UserWarning"),
            # As in pyproject.toml: few train until ADMM has converged.
            *("-W", "ignore:The weights are not near what ADMM:UserWarning"),
            *("-m", f"tests.integration.{module}"),
        ],
        {"KERAS_BACKEND": backend} | environment,
    )


def example(name, *flags):
    """An example in its short form; without columns it is traced faster."""
    return (
        [f"examples/{name}.py", "--quick", "--columns=0", *flags],
        {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )


class RunAllTest(parameterized.TestCase):
    def test_a_failure_ends_the_others(self):
        results = run_all(
            [
                (["-c", "import time; time.sleep(100)"], {}),
                (["-c", "raise SystemExit(3)"], {}),
            ]
        )
        statuses = [status for status, _ in results]
        self.assertEqual(statuses, [-signal.SIGKILL, 3])

    def test_a_timeout_ends_all(self):
        ((status, output),) = run_all(
            [
                (
                    [
                        "-c",
                        "import time; print(1, flush=True); time.sleep(100)",
                    ],
                    {},
                )
            ],
            timeout=3,
        )
        self.assertEqual((status, output), (-signal.SIGKILL, "1\n"))


@absltest.skipUnless(ON_TENSORFLOW, "runs every backend by itself, once")
class DistributionTest(parameterized.TestCase):
    def succeed(self, *commands):
        """The outputs of commands that must not fail."""
        results = run_all(commands)
        for (arguments, _), (status, output) in zip(commands, results):
            # The first that is not 0 may be one that had to be killed.
            bad = [o for s, o in results if s not in (0, -signal.SIGKILL)]
            self.assertEqual(status, 0, (arguments, *bad, output))
        return [output for _, output in results]

    def test_several_devices(self):
        self.succeed(
            cases("mirrored_cases", "tensorflow"),
            cases(
                "keras_distribution_cases",
                "jax",
                JAX_DISABLE_MOST_OPTIMIZATIONS="1",
            ),
        )

    @pytest.mark.slow
    def test_several_processes(self):
        outputs = self.succeed(
            *(
                cases("multi_worker_cases", "tensorflow", TF_CONFIG=config)
                for config in cluster(2)
            )
        )
        digests = [re.findall("digest of .*", output) for output in outputs]
        self.assertLen(digests[0], 2)
        self.assertEqual(digests[0], digests[1])

    @pytest.mark.slow
    def test_examples(self):
        outputs = self.succeed(
            example("distributed/mirrored"),
            example("distributed/multi_worker"),
            example("distributed/data_parallel", "--model_parallel"),
        )
        for output in outputs:
            table = output.split("test accuracy\n")[1]
            self.assertRegex(table, r"\A +ADMM +19,466 ")
            self.assertRegex(table, r"\n +strip +5,\d{3} ")
        self.assertIn("CPU:1", outputs[0])
        self.assertEqual(outputs[1].count("== ADMM"), 1)
        self.assertIn("hidden_kernel_target: (None, 'model')", outputs[2])
        self.assertIn("logits_kernel_target: ('model', None)", outputs[2])


if __name__ == "__main__":
    absltest.main()
