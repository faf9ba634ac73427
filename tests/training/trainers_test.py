"""Networks that are trained inside of other models."""

import os
import tempfile

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.plans.plan import SparsityPlan
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.pruning.masks import masks_of
from keras_prm.training import checkpoint_state
from keras_prm.training import trainers
from keras_prm.training.checkpoint import AtomicCheckpoint
from keras_prm.training.iterative_pruning import IterativePruning
from keras_prm.training.mask_constraint import enforced
from keras_prm.training.mask_constraint import release_masks
from keras_prm.training.progress import ADMMProgress
from keras_prm.training.structured_mask import StructuredMask
from keras_prm.training.tensorboard import SparsityTensorBoard
from tests.helpers.training import ON_TENSORFLOW
from tests.helpers.watching import JIT
from tests.helpers.watching import leaks


def net(units=8, name=None):
    """From 4 numbers to 1, over a hidden layer."""
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(units, activation="relu", name="hidden"),
            layers.Dense(1, name="out"),
        ],
        name=name,
    )


class Sums(keras.Model):
    """Trains all that its parts have with the one optimizer."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = parts

    def call(self, x):
        return sum(part(x) for part in self.parts)


class Trainer(keras.Model):
    """Holds models in whatever way, and trains some of them."""

    def __init__(self, *trained, **held):
        super().__init__(name="trainer")
        for name, value in held.items():
            setattr(self, name, value)
        self._trained = list(trained)

    def call(self, x):
        return sum(model(x) for model in self._trained)


def pair(model, other=None):
    other = other or net(6)
    return Trainer(model, other, nets=[other, model])


def in_dict(model):
    other = net(6)
    return Trainer(model, other, nets={"g": model, "other": other})


def two_levels(model):
    return Trainer(Trainer(model, inner=model))


def functional(model):
    """A functional model, of which the network is a layer."""
    x = keras.Input((4,))
    return keras.Model(x, layers.Dense(1, name="head")(model(x)))


def beside_a_copy(model):
    """A copy that does not train, as in BYOL, has the same masks."""
    copy = keras.models.clone_model(model)
    copy.trainable = False
    return Trainer(model, copy=copy, pair=(model, copy))


HOLDERS = {
    "attribute": lambda model: Trainer(model, net=model),
    "list": pair,
    "dict": in_dict,
    "two_levels": two_levels,
    "functional": functional,
    "beside_a_copy": beside_a_copy,
}


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 4)).astype("float32")
    return x, x.sum(1, keepdims=True)


def fit(trainer, *callbacks, epochs=1, **kwargs):
    return trainer.fit(
        *data(),
        batch_size=8,
        epochs=epochs,
        callbacks=[*callbacks],
        verbose=0,
        shuffle=False,
        **kwargs,
    )


def compiled(trainer, optimizer="adam"):
    trainer.compile(optimizer, "mse", jit_compile=JIT)
    return trainer


def num_zeros(model):
    return sum(
        int((keras.ops.convert_to_numpy(layer.kernel) == 0).sum())
        for layer in model.layers
    )


class TrainersTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        keras.utils.set_random_seed(0)
        self.net = net()
        self.plan = SparsityPlan.uniform(self.net, filters=0.5)

    @parameterized.named_parameters(
        (f"{name}_{named}", name, named)
        for name in HOLDERS
        for named in (False,) + (True,) * (name == "dict")
    )
    def test_masks_hold(self, name, named):
        trainer = compiled(HOLDERS[name](self.net))
        masks = hard_prune(self.net, self.plan)
        before = self.net.get_weights()
        callback = StructuredMask(masks, model=self.net if named else None)
        fit(trainer, callback, epochs=2)
        own = {id(v) for v in callback.student.weights}
        self.assertContainsSubset({id(v) for v in self.net.weights}, own)
        self.assertEqual(leaks(self.net, masks), [])
        self.assertFalse(np.array_equal(before[0], self.net.get_weights()[0]))
        self.assertTrue(all(v.constraint is None for v in trainer.weights))

    def test_zeros_are_those_of_the_only_network_that_has_some(self):
        trainer = compiled(pair(self.net))
        masks = hard_prune(self.net, self.plan)
        fit(trainer, StructuredMask())
        self.assertEqual(leaks(self.net, masks), [])

    @parameterized.parameters(False, True)
    def test_pruning_while_training(self, named):
        trainer = compiled(pair(self.net))
        model = self.net if named else None
        fit(trainer, IterativePruning(self.plan, model=model))
        # 4 of 8 filters of 4 inputs, and their inputs to the next kernel.
        self.assertEqual(num_zeros(self.net), 4 * 4 + 4)

    def test_two_networks_take_two_callbacks(self):
        other = net(6)
        trainer = compiled(pair(self.net, other))
        pairs = [
            (model, hard_prune(model, SparsityPlan.uniform(model, filters=0.5)))
            for model in (self.net, other)
        ]
        fit(trainer, *(StructuredMask(masks) for _, masks in pairs))
        for model, masks in pairs:
            self.assertEqual(leaks(model, masks), [])

    def test_several_that_fit(self):
        twin = net(name="twin")
        trainer = compiled(Trainer(self.net, twin, net=self.net, twin=twin))
        message = r"2 of them fit the plan. Name it with `model=`.*trainer.twin"
        plan = SparsityPlan.from_config(self.plan.get_config())  # of no model
        with self.assertRaisesRegex(ValueError, message):
            fit(trainer, IterativePruning(plan))
        masks = hard_prune(self.net, self.plan)
        fit(trainer, StructuredMask(masks))  # only one has the zeros
        self.assertEqual(leaks(self.net, masks), [])

    def test_none_that_fits(self):
        masks = hard_prune(self.net, self.plan)
        other = net(6)
        trainer = compiled(Trainer(other, other=other))
        with self.assertRaisesRegex(ValueError, "none of them.*`model=`"):
            fit(trainer, StructuredMask(masks))

    @parameterized.parameters(
        StructuredMask, ADMMProgress, lambda model: IterativePruning(None)
    )
    def test_what_is_no_model(self, make):
        with self.assertRaisesRegex(TypeError, "Expected"):
            fit(compiled(Trainer(self.net)), make(model="net"))

    @parameterized.parameters(
        *("mask", "zeros", "iterative", "progress", "checkpoint", "block")
    )
    def test_a_network_that_is_not_trained(self, what):
        """One built alike, which the trainer does not have."""
        masks = hard_prune(self.net, self.plan)
        trainer = compiled(Trainer(net(), net=net()))
        before = trainer.get_weights()
        message = "shows nothing of.*Name the network that is trained"
        folder = self.enterContext(tempfile.TemporaryDirectory())
        path = os.path.join(folder, "file")
        make = {
            "mask": lambda: StructuredMask(masks, model=self.net),
            "zeros": lambda: StructuredMask(model=self.net),
            "iterative": lambda: IterativePruning(self.plan, model=self.net),
            "progress": lambda: ADMMProgress(model=self.net),
            "checkpoint": lambda: AtomicCheckpoint(path, model=self.net),
        }
        with self.assertRaisesRegex(ValueError, message):
            if what == "block":
                with enforced(self.net, masks, compiled=trainer):
                    pass
            else:
                fit(trainer, make[what]())
        for old, new in zip(before, trainer.get_weights()):
            np.testing.assert_array_equal(old, new)
        self.assertTrue(all(v.constraint is None for v in self.net.weights))

    def test_networks_that_share_what_no_one_trains(self):
        norm = keras.layers.Normalization(mean=0.0, variance=1.0)
        inputs = keras.Input((4,))
        one, other = (
            keras.Model(inputs, keras.layers.Dense(2)(norm(inputs)))
            for _ in range(2)
        )
        with self.assertRaisesRegex(ValueError, "shows nothing of"):
            trainers.check_network(other, one)
        one.layers[-1].trainable = False  # as in a GAN
        part = keras.Model(one.inputs, one.outputs)
        trainers.check_network(one, part)

    def test_a_network_of_layers_that_are_trained(self):
        """Though the trainer does not hold the model that is named."""
        masks = hard_prune(self.net, self.plan)
        part = keras.Model(self.net.inputs, self.net.layers[0].output)
        trainer = compiled(Trainer(self.net))
        trainers.check_network(trainer, part)
        with enforced(part, masks_of(part), compiled=trainer):
            pass
        self.assertEqual(leaks(self.net, masks), [])

    def test_release_masks_of_a_trainer(self):
        class Stop(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                raise KeyboardInterrupt

        masks = hard_prune(self.net, self.plan)
        trainer = compiled(Trainer(self.net))
        with self.assertRaises(KeyboardInterrupt):
            fit(trainer, StructuredMask(masks), Stop())
        self.assertIsNotNone(self.net.layers[0].kernel.constraint)
        release_masks(trainer)
        self.assertIsNone(self.net.layers[0].kernel.constraint)

    def test_optimizers_are_found_wherever_they_are(self):
        trainer = Trainer(self.net)
        sgd, adam, rms = (
            keras.optimizers.get(n) for n in ("sgd", "adam", "rmsprop")
        )
        trainer.pair = {"a": [ADMMWrapper(adam, self.plan)], "inner": adam}
        trainer.b_optimizer = rms
        trainer.compile(sgd, "mse")
        found = trainers.optimizers(trainer)
        self.assertEqual(found, [sgd, rms, trainer.pair["a"][0]])


if ON_TENSORFLOW:
    import tensorflow as tf

    class TwoSteps(Trainer):
        """Trains two networks with an optimizer each, as a GAN does."""

        def compile(self, g_optimizer, d_optimizer):
            super().compile(loss="mse", jit_compile=False)
            self.g_optimizer = g_optimizer
            self.d_optimizers = [d_optimizer]

        def train_step(self, data):
            x, y = data
            for model, optimizer in (
                (self.g, self.g_optimizer),
                (self.d, self.d_optimizers[0]),
            ):
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
                variables = model.trainable_variables
                gradients = tape.gradient(loss, variables)
                optimizer.apply_gradients(zip(gradients, variables))
            return {"loss": loss}


@absltest.skipUnless(ON_TENSORFLOW, "The train steps are TensorFlow's.")
class TwoOptimizersTest(parameterized.TestCase):
    def make(self, both=False):
        keras.utils.set_random_seed(0)
        g, d = net(name="g"), net(name="d")
        trainer = TwoSteps(g, g=g, d=d)
        admm = [
            ADMMWrapper(
                keras.optimizers.Adam(1e-2),
                SparsityPlan.uniform(model, filters=0.5),
                rho=0.5,
                update_every=2,
            )
            for model in (g, d)
        ]
        trainer.compile(admm[0], admm[1] if both else keras.optimizers.SGD())
        return trainer

    def test_the_only_wrapper_is_found(self):
        trainer, progress = self.make(), ADMMProgress()
        with tempfile.TemporaryDirectory() as folder:
            board = SparsityTensorBoard(folder, images_every=0)
            history = fit(trainer, progress, board, epochs=2).history
        self.assertLen(history["primal_residual"], 2)
        self.assertEqual(trainer.g_optimizer.num_updates, 2)

    def test_several_wrappers(self):
        trainer = self.make(both=True)
        with self.assertRaisesRegex(ValueError, "with `model=`"):
            fit(trainer, ADMMProgress())
        # The twins can be told apart once their first step has built them.
        both = [ADMMProgress(model=m) for m in (trainer.g, trainer.d)]
        history = fit(trainer, *both).history
        for name in ("g", "d"):
            self.assertIn(f"{name}_primal_residual", history)
        self.assertNotEqual(
            history["g_primal_residual"], history["d_primal_residual"]
        )

    def test_a_wrapper_of_another_network(self):
        trainer = self.make()
        fit(trainer)
        with self.assertRaisesRegex(ValueError, "holds one as an attribute"):
            fit(trainer, ADMMProgress(model=trainer.d))

    def test_a_killed_training_is_resumed_whole(self):
        whole = self.make(both=True)
        fit(whole, epochs=3)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "gan.ckpt")
            fit(self.make(both=True), AtomicCheckpoint(path), epochs=2)
            resumed = self.make(both=True)
            fit(resumed, AtomicCheckpoint(path, model=resumed.g), epochs=3)
        optimizers = [whole.g_optimizer, resumed.g_optimizer]
        self.assertEqual(*(o.num_updates for o in optimizers))
        for one, other in zip(
            [*whole.variables, *optimizers[0].variables],
            [*resumed.variables, *optimizers[1].variables],
            strict=True,
        ):
            np.testing.assert_array_equal(one, other, one.path)


class StateOfSeveralPlansTest(parameterized.TestCase):
    """A file of a trainer is of the plans of all its wrappers."""

    def make(self, held, *filters):
        keras.utils.set_random_seed(0)
        nets = [net(name=f"net{i}") for i, _ in enumerate(filters)]
        wrappers = [
            ADMMWrapper("sgd", SparsityPlan.uniform(model, filters=share))
            for model, share in zip(nets, filters)
        ]
        trainer = Trainer(*nets, nets=nets)
        if held == "multi":
            rules = {f"net{i}/.*": x for i, x in enumerate(wrappers)}
            rules = keras.optimizers.OptimizerMap(keras.optimizers.SGD(), rules)
            trainer.compile(keras.optimizers.MultiOptimizer(rules), "mse")
            trainer.optimizer.build(trainer.trainable_variables)
        elif held == "inside":
            compiled(trainer)
        else:
            compiled(trainer, wrappers[0])
            trainer.others = wrappers[1:]
        for model, wrapper in zip(nets, wrappers):
            wrapper.build(model.trainable_variables)
            if held == "inside":
                compiled(model, wrapper)
        return trainer

    @parameterized.parameters("attributes", "multi", "inside")
    def test_each_is_compared(self, held):
        first = self.make(held, 0.5, 0.5)
        description, _ = checkpoint_state.collect(first, None)
        checkpoint_state.check_fits(first, None, description, "p")
        other = self.make(held, 0.5, 0.75)
        message = "another plan. .*another path"
        with self.assertRaisesRegex(ValueError, message):
            checkpoint_state.check_fits(other, None, description, "p")

    def test_a_file_of_before_has_the_first_alone(self):
        first = self.make("attributes", 0.5, 0.5)
        description, _ = checkpoint_state.collect(first, None)
        del description["plans"]
        other = self.make("attributes", 0.5, 0.75)
        checkpoint_state.check_fits(other, None, description, "p")
        other = self.make("attributes", 0.75, 0.5)
        with self.assertRaisesRegex(ValueError, "another plan"):
            checkpoint_state.check_fits(other, None, description, "p")


class EqualNetworksTest(parameterized.TestCase):
    """Two that are built alike: a plan and masks know which they are of."""

    @parameterized.product(is_masks=[True, False], place=[0, 1])
    def test_is_the_one_it_was_made_for(self, is_masks, place):
        parts = [net(name="a"), net(name="b")]
        model = Sums(*parts)
        plan = SparsityPlan.uniform(parts[place], filters=0.5)
        if is_masks:
            callback = StructuredMask(hard_prune(parts[place], plan))
        else:
            callback = IterativePruning(plan)
        model.compile("sgd", "mse", jit_compile=JIT)
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(8, 4)), rng.normal(size=(8, 1))
        model.fit(x, y, verbose=0, callbacks=[callback])
        pruned = [len(masks_of(part).kernels) > 0 for part in parts]
        self.assertEqual(pruned, [place == 0, place == 1])

    def test_one_optimizer_for_two_networks(self):
        parts = [net(name="a"), net(6, name="b")]
        plan = SparsityPlan.uniform(parts[0], filters=0.5)
        model = Sums(*parts)
        model.compile(ADMMWrapper("sgd", plan), "mse", jit_compile=JIT)
        message = "4 variables of others .* an optimizer of its own"
        with self.assertRaisesRegex(ValueError, message):
            model.fit(np.ones((8, 4)), np.ones((8, 1)), verbose=0)


if __name__ == "__main__":
    absltest.main()
