r"""ADMM on several devices with JAX: `keras.distribution`.

    python examples/distributed/data_parallel.py
    python examples/distributed/data_parallel.py --model_parallel

Takes all accelerators; where there is at most one, the CPU as `--devices`
devices. `DataParallel` keeps all weights on each device and parts the
batches. With `--model_parallel` the weights are parted: the kernel of
`hidden` by its outputs, that of `logits` by its inputs.
"""

import os
import pathlib
import sys

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if not __package__:
    sys.path.insert(0, str(pathlib.Path(__file__).absolute().parents[2]))

import jax
import keras
from absl import app
from absl import flags

import keras_prm
from examples.distributed import training

FLAGS = flags.FLAGS
flags.DEFINE_integer("devices", 2, "Devices to make of the CPU.", 1)
flags.DEFINE_bool("model_parallel", False, "Part the weights, not the data.")


def list_devices():
    """All accelerators, or parts of a CPU."""
    # Before JAX is first asked for its devices.
    jax.config.update("jax_num_cpu_devices", FLAGS.devices)
    devices = keras.distribution.list_devices()
    if len(devices) > 1:
        return devices
    return keras.distribution.list_devices("cpu")


def make_distribution(devices):
    if not FLAGS.model_parallel:
        return keras.distribution.DataParallel(devices=devices)
    mesh = keras.distribution.DeviceMesh(
        (1, len(devices)), ("batch", "model"), devices
    )
    layouts = keras.distribution.LayoutMap(mesh)
    # A model that was loaded or stripped has paths without its name.
    layouts["(.*/)?hidden/kernel"] = (None, "model")
    layouts["(.*/)?hidden/bias"] = ("model",)
    layouts["(.*/)?logits/kernel"] = ("model", None)
    return keras.distribution.ModelParallel(
        layout_map=layouts, batch_dim_name="batch"
    )


class KerasDistribution(training.Engine):
    """`fit` works as it is; what is made is laid out by the distribution."""

    def __init__(self):
        self.distribution = make_distribution(list_devices())
        keras.distribution.set_distribution(self.distribution)

    def strip(self, model):
        # What is left of a kernel need not be divisible by the devices.
        keras.distribution.set_distribution(None)
        return keras_prm.strip(model)

    def describe(self, model):
        """Kernels, and the copies ADMM pulls them to, lie alike."""
        optimizer = model.optimizer
        names = ("kernel", "target")
        for variable in model.trainable_variables + optimizer.variables:
            if variable.name.endswith(names):
                spec = variable.value.sharding.spec
                self.say(f"{variable.path}: {tuple(spec)}")


def main(argv):
    del argv
    training.run(KerasDistribution())


if __name__ == "__main__":
    app.run(main)
