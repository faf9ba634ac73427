r"""ADMM in several processes: `tf.distribute.MultiWorkerMirroredStrategy`.

    python examples/distributed/multi_worker.py

Starts the second of two workers by itself, on this machine. To use several
machines, set `TF_CONFIG` on each, as TensorFlow describes, and start this
script on all of them.

Keras' `fit` fails under this strategy, with any optimizer: see
`docs/distribution.md`. The loop below takes its place.
"""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if not __package__:
    sys.path.insert(0, str(pathlib.Path(__file__).absolute().parents[2]))

import tensorflow as tf
from absl import app
from absl import flags

import keras_prm
from examples.distributed import training

FLAGS = flags.FLAGS
flags.DEFINE_integer("workers", 2, "Processes, without TF_CONFIG.", 1)


@contextlib.contextmanager
def other_workers():
    """Starts all workers but this one, unless someone else has done so."""
    if "TF_CONFIG" in os.environ:
        yield
        return
    configs = [
        json.dumps({"cluster": cluster, "task": {"type": "worker", "index": i}})
        for cluster in [{"worker": free_addresses(FLAGS.workers)}]
        for i in range(FLAGS.workers)
    ]
    os.environ["TF_CONFIG"] = configs[0]
    others = [
        subprocess.Popen(
            [sys.executable, *sys.argv],
            env=os.environ | {"TF_CONFIG": config},
            stdin=subprocess.DEVNULL,
        )
        for config in configs[1:]
    ]
    try:
        yield
        for other in others:
            other.wait(timeout=60)
    finally:
        for other in others:
            other.kill()
            other.wait()


def free_addresses(number):
    sockets = [socket.socket() for _ in range(number)]
    with contextlib.ExitStack() as stack:
        for one in map(stack.enter_context, sockets):
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]


class MultiWorker(training.Engine):
    """Every worker runs the whole script, and takes its part of a batch."""

    def __init__(self):
        self.strategy = tf.distribute.MultiWorkerMirroredStrategy()
        self.prints = self.strategy.cluster_resolver.task_id == 0

    def scope(self):
        return self.strategy.scope()

    def fit(self, model, split, epochs, masks=None):
        batches = self.batches(split)
        holding = contextlib.nullcontext()
        if masks:
            holding = keras_prm.enforced(model, masks)
        with holding:
            # Made here, so that it is traced with the masks in place.
            step = self.make_step(model)
            for epoch in range(epochs):
                losses = [float(step(x, y)) for x, y in batches]
                loss = sum(losses) / len(losses)
                self.say(f"epoch {epoch + 1}/{epochs}: loss {loss:.4f}")

    def batches(self, split):
        """The same order on every worker; each takes its parts."""

        def parts(context):
            size = context.get_per_replica_batch_size(FLAGS.batch_size)
            data = tf.data.Dataset.from_tensor_slices((split.x, split.y))
            data = data.shuffle(len(split.y), seed=FLAGS.seed).batch(size)
            return data.shard(
                context.num_input_pipelines, context.input_pipeline_id
            )

        return self.strategy.distribute_datasets_from_function(parts)

    def make_step(self, model):
        def replica_step(x, y):
            with tf.GradientTape() as tape:
                # Keras divides it by the number of replicas.
                loss = model.loss(y, model(x, training=True))
            variables = model.trainable_variables
            model.optimizer.apply(tape.gradient(loss, variables), variables)
            return loss

        @tf.function
        def step(x, y):
            losses = self.strategy.run(replica_step, args=(x, y))
            return self.strategy.reduce("SUM", losses, axis=None)

        return step

    def describe(self, model):
        for key, pair in model.optimizer.residuals().items():
            self.say(f"{key}: primal residual {pair['primal']:.3f}")


def main(argv):
    del argv
    tf.get_logger().setLevel("WARNING")
    with other_workers():
        training.run(MultiWorker())


if __name__ == "__main__":
    app.run(main)
