"""`tf.distribute.MultiWorkerMirroredStrategy`; run by `distribution_test`.

Every worker runs this file, with its own `TF_CONFIG`, and prints a digest of
what it holds, which `distribution_test` compares. As all workers must reach
every step together, there is one test.
"""

import hashlib

import keras
import tensorflow as tf
from absl.testing import absltest

from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.pruning.masks import masks_of
from keras_prm.rebuild.strip import strip
from keras_prm.training.mask_constraint import enforced
from tests.helpers import distributed
from tests.helpers.distributed import arrays


def train(strategy, model, epochs, watch=lambda model: None):
    """A loop of one's own. Keras divides losses by the number of replicas."""
    x, y = distributed.make_data()
    size = distributed.BATCH // strategy.num_replicas_in_sync
    worker = getattr(strategy.cluster_resolver, "task_id", 0)

    loss_of = keras.losses.MeanSquaredError()

    def replica_step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, training=True))
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        model.optimizer.apply(gradients, variables)

    @tf.function
    def step(x, y):
        strategy.run(replica_step, args=(x, y))

    for _ in range(epochs):
        for first in range(0, len(x), distributed.BATCH):
            rows = slice(first + size * worker, first + size * (worker + 1))
            step(tf.constant(x[rows]), tf.constant(y[rows]))
            watch(model)


def run_loop(strategy):
    """Both phases, with a loop instead of `fit`."""
    run = distributed.start(strategy.scope())
    supports = distributed.Supports()
    supports.set_model(run.model)
    train(strategy, run.model, 3, lambda _: supports.on_train_batch_end(0))
    run.supports = supports.seen
    run.note()
    run.masks = hard_prune(run.model, run.plan)
    with strategy.scope():
        run.model.compile(distributed.sgd(), "mse")
    with enforced(run.model, run.masks):
        train(strategy, run.model, 1)
    return run


def digest(found):
    data = b"".join(array.tobytes() for array in found)
    return hashlib.sha256(data).hexdigest()


class MultiWorkerTest(distributed.DistributedTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # TensorFlow wants it before any other operation.
        cls.strategy = tf.distribute.MultiWorkerMirroredStrategy()

    def test_all_in_one_order(self):
        self.assertEqual(
            self.strategy.num_replicas_in_sync, distributed.NUM_DEVICES
        )
        run = run_loop(self.strategy)
        print("digest of weights:", digest(arrays(run.model.variables)))
        print("digest of ADMM:", digest(run.trained))
        self.assert_masked(run)
        self.assertEqual(masks_of(run.model), run.masks)
        small = strip(run.model)
        x, _ = distributed.make_data()
        self.assert_close(arrays([small(x)]), arrays([run.model(x)]))
        self.check_that_fit_fails()
        if self.strategy.cluster_resolver.task_id == 0:
            single = run_loop(tf.distribute.get_strategy())
            self.assert_same_run(single, run)

    def check_that_fit_fails(self):
        """Where it does not, docs/distribution.md is wrong."""
        with self.strategy.scope():
            model = distributed.make_model()
            model.compile("sgd", "mse")
        with self.assertRaisesRegex(ValueError, "Attempt to convert a value"):
            distributed.fit(model, 1)


if __name__ == "__main__":
    absltest.main()
