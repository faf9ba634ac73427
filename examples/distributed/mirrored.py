r"""ADMM on the devices of one machine: `tf.distribute.MirroredStrategy`.

    python examples/distributed/mirrored.py

Takes all GPUs; where there is at most one, the CPU as `--devices` devices,
which is no faster and shows that all works.
"""

import os
import pathlib
import sys

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if not __package__:
    sys.path.insert(0, str(pathlib.Path(__file__).absolute().parents[2]))

import tensorflow as tf
from absl import app
from absl import flags

from examples.distributed import training

FLAGS = flags.FLAGS
flags.DEFINE_integer("devices", 2, "Devices to make of the CPU.", 1)


def make_strategy():
    """All GPUs, or a CPU that is parted before TensorFlow runs."""
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * FLAGS.devices
    )
    return tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(FLAGS.devices)]
    )


class Mirrored(training.Engine):
    """`fit` works as it is; models and optimizers are made in the scope."""

    def __init__(self):
        self.strategy = make_strategy()

    def scope(self):
        return self.strategy.scope()

    def describe(self, model):
        kernel = model.get_layer("hidden").kernel.value
        places = [replica.device for replica in kernel.values]
        self.say(f"Copies of hidden/kernel on {places}")


def main(argv):
    del argv
    tf.get_logger().setLevel("WARNING")
    training.run(Mirrored())


if __name__ == "__main__":
    app.run(main)
