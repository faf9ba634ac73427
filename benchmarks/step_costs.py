"""What ADMM adds to a training step, everywhere, by one command.

    .venv/bin/python -m benchmarks.step_costs

Runs `benchmarks.step_cost` for both models on every backend that is
installed, each in a process of its own, and `benchmarks.step_cost_tfmot`
with the Python of `--tfmot_python`, if that is given; see there how to make
its environment. Takes about half an hour on two cores. Nothing else should
run on the machine meanwhile.
"""

import importlib.util
import os
import subprocess
import sys

from absl import app
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "tfmot_python", None, "A Python with tensorflow-model-optimization."
)

# ResNet-18 takes about a second a step, and XLA minutes to compile a copy.
SETTINGS = {
    "lenet5": ["--copies=3", "--rounds=150"],
    "resnet18": ["--copies=1", "--rounds=40", "--warmup=4"],
}
# Without XLA, JAX runs operation by operation, which nobody trains with.
WAYS = {
    "tensorflow": ("--jit=off", "--jit=on"),
    "jax": ("--jit=on",),
    "torch": ("--jit=off",),
}


def run(python, module, arguments, **environment):
    """Runs a benchmark and prints its lines as they come."""
    command = [python, "-m", module, *arguments]
    variables = " ".join(f"{k}={v}" for k, v in environment.items())
    print(f"\n$ {variables} {' '.join(command)}", flush=True)
    subprocess.run(
        command,
        env={**os.environ, **environment},
        check=True,
        stderr=subprocess.DEVNULL,
    )


def main(argv):
    del argv
    installed = [name for name in WAYS if importlib.util.find_spec(name)]
    for model, settings in SETTINGS.items():
        arguments = [f"--model={model}", *settings]
        for backend in installed:
            for way in WAYS[backend]:
                run(
                    sys.executable,
                    "benchmarks.step_cost",
                    [*arguments, way],
                    KERAS_BACKEND=backend,
                )
        if FLAGS.tfmot_python:
            run(FLAGS.tfmot_python, "benchmarks.step_cost_tfmot", arguments)


if __name__ == "__main__":
    app.run(main)
