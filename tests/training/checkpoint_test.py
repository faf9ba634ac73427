import contextlib
import errno
import os
import pathlib
import random
import resource
import tempfile
from unittest import mock

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.admm.rho_schedules import ResidualBalancing
from keras_prm.plans.plan import SparsityPlan
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.training import checkpoint
from keras_prm.training import checkpoint_files
from keras_prm.training.checkpoint import AtomicCheckpoint
from keras_prm.training.structured_mask import StructuredMask
from keras_prm.utils import console

BACKEND = keras.backend.backend()
# Tracing takes TensorFlow longer than nine steps do.
HOW = {"run_eagerly": BACKEND == "tensorflow", "jit_compile": False}
EPOCHS = 3
STEPS = 3


def make(units=6):
    """Dropout inside and outside of a nested model, and moving statistics."""
    block = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(units, name="inner"),
            layers.BatchNormalization(),
            layers.Dropout(0.4, seed=7),
        ],
        name="block",
    )
    x = inputs = keras.Input((5,))
    x = layers.Dropout(0.2)(layers.Dense(8, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(3)(block(x)))


def make_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8 * STEPS, 5)).astype("float32")
    return x, rng.normal(size=(8 * STEPS, 3)).astype("float32")


class Crash(keras.callbacks.Callback):
    """Fails at a step, counted from the beginning of `fit`."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def admm(model, inner="adam", filters=0.5):
    targets = {"block/inner": {"filters": filters, "columns": 0.3}}
    plan = SparsityPlan.explicit(model, targets)
    inner = keras.optimizers.get(inner)
    return ADMMWrapper(inner, plan, rho=0.1, update_every=2)


def averaging(model, **kwargs):
    return keras.optimizers.SGD(
        0.05, momentum=0.9, use_ema=True, ema_momentum=0.7, **kwargs
    )


def scheduled(model):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    return keras.optimizers.RMSprop(schedule, gradient_accumulation_steps=2)


def compiled(optimizer=averaging, seed=0):
    keras.utils.set_random_seed(seed)
    model = make()
    model.compile(optimizer(model), "mse", **HOW)
    return model


def pruned(optimizer=averaging):
    """What a script comes to again whenever it retrains, and its masks."""
    keras.utils.set_random_seed(0)
    model = make()
    plan = SparsityPlan.uniform(model, filters=0.5, columns=0.4)
    masks = hard_prune(model, plan)
    model.compile(optimizer(model), "mse", **HOW)
    return model, masks


def fit(model, *callbacks, **kwargs):
    kwargs = {"epochs": EPOCHS, "batch_size": 8, "verbose": 0} | kwargs
    # Where TensorFlow shuffles no one can tell.
    kwargs = {"shuffle": BACKEND != "tensorflow"} | kwargs
    if "x" not in kwargs:
        kwargs["x"], kwargs["y"] = make_data()
    return model.fit(callbacks=[*callbacks], **kwargs)


def state(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


class Rows(keras.utils.PyDataset):
    """Its order is a function of the epoch."""

    def __init__(self):
        super().__init__()
        self.data = make_data()
        self.epochs = []
        self.set_epoch(99)

    def set_epoch(self, epoch):
        self.epochs.append(epoch)
        self.order = np.random.default_rng(epoch).permutation(8 * STEPS)

    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        rows = self.order[8 * index : 8 * index + 8]
        return self.data[0][rows], self.data[1][rows]


class CheckpointTestCase(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.folder = pathlib.Path(folder).resolve()
        self.path = self.folder / "run" / "training.ckpt"

    def assert_same(self, one, other):
        self.assertEqual(len(one), len(other))
        for a, b in zip(one, other):
            self.assertEqual(a.dtype, b.dtype)
            self.assertEqual(a.tobytes(), b.tobytes())

    def assert_files(self, *names):
        self.assertCountEqual(os.listdir(self.path.parent), names)

    def written(self, optimizer=averaging):
        """A model that was trained; its file is written."""
        model = compiled(optimizer)
        fit(model, AtomicCheckpoint(self.path), epochs=1)
        return model


class ResumeTest(CheckpointTestCase):
    def check(self, run):
        """`run(path, seed, *callbacks)` trains a new model and returns it.

        Crashes in the second epoch, and goes on in a model with other
        weights and seeds.
        """
        expected = state(run(self.folder / "whole.ckpt", 0))
        with self.assertRaises(KeyboardInterrupt):
            run(self.path, 0, Crash(STEPS + 1))
        self.assertEqual(AtomicCheckpoint.read(self.path)["epoch"], 1)
        self.assert_same(state(run(self.path, 1)), expected)
        # It is finished now, and a repetition trains no more.
        self.assert_same(state(run(self.path, 2, Crash(1))), expected)

    @parameterized.named_parameters(
        ("averages", averaging),
        (
            "averages_overwrite",
            lambda m: averaging(m, ema_overwrite_frequency=2),
        ),
        ("schedule_and_accumulation", scheduled),
        (
            "admm",
            lambda m: keras.optimizers.LossScaleOptimizer(
                admm(m, averaging(m)), initial_scale=8.0, dynamic_growth_steps=4
            ),
        ),
    )
    def test_bit_for_bit(self, optimizer):
        def run(path, seed, *callbacks):
            model = compiled(optimizer, seed)
            fit(model, *callbacks, AtomicCheckpoint(path))
            return model

        self.check(run)

    @parameterized.named_parameters(
        ("mask_first", lambda mask, swap, own: [mask, own]),
        ("zeros", lambda mask, swap, own: [StructuredMask(), own]),
        ("mask_last", lambda mask, swap, own: [own, mask]),
        ("swap_first", lambda mask, swap, own: [swap, mask, own]),
        ("swap_last", lambda mask, swap, own: [own, swap, mask]),
    )
    def test_in_any_order(self, order):
        """Averages are swapped in as an epoch ends, and out as one begins."""

        def run(path, seed, *callbacks):
            model, masks = pruned(
                lambda m: averaging(m, ema_overwrite_frequency=2)
            )
            keras.utils.set_random_seed(seed)
            own = AtomicCheckpoint(path, masks)
            swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
            used = order(StructuredMask(masks), swap, own)
            fit(model, *callbacks, *used, validation_data=make_data())
            return model

        self.check(run)

    @parameterized.parameters(False, True)
    def test_learning_rate_that_depends_on_the_epoch(self, last):
        def run(path, seed, *callbacks):
            model = compiled(seed=seed)
            used = [
                AtomicCheckpoint(path),
                keras.callbacks.LearningRateScheduler(lambda e: 0.1 / (1 + e)),
            ]
            fit(model, *callbacks, *(used[::-1] if last else used))
            return model

        self.check(run)

    @parameterized.parameters(False, True)
    def test_data_that_depend_on_the_epoch(self, shuffle):
        """Batches that Keras shuffles too are shuffled by Python's `random`."""

        def run(path, seed, *callbacks):
            model = compiled(seed=seed)
            rows = Rows()
            own = AtomicCheckpoint(path, set_epoch=rows.set_epoch)
            fit(model, *callbacks, own, x=rows, shuffle=shuffle)
            return model

        self.check(run)

    def test_more_epochs_are_as_good_as_one_training(self):
        """Were it not for averages, which the end puts into the weights."""
        model = compiled(scheduled)
        fit(model, AtomicCheckpoint(self.folder / "whole.ckpt"))
        self.written(scheduled)
        other = compiled(scheduled, seed=1)
        history = fit(other, AtomicCheckpoint(self.path))
        self.assertEqual(history.epoch, [1, 2])
        self.assert_same(state(other), state(model))
        with self.assertWarnsRegex(UserWarning, "asked for 2.*Delete the fil"):
            fit(other, AtomicCheckpoint(self.path), epochs=2)

    def test_the_next_fit_begins_at_the_beginning(self):
        """Keras would go on at the epoch that it was once told."""
        self.written()
        model = compiled()
        fit(model, AtomicCheckpoint(self.path), epochs=2)
        self.assertEqual(fit(model, epochs=2).epoch, [0, 1])
        fit(model, AtomicCheckpoint(self.path), epochs=2)
        self.assertEqual(fit(model, epochs=2).epoch, [0, 1])

    def test_the_next_fit_after_one_that_never_began(self):
        """A callback behind this one raises before the first epoch."""

        class Bad(keras.callbacks.Callback):
            def on_train_begin(self, logs=None):
                raise ZeroDivisionError

        model = keras.Sequential([keras.Input((5,)), layers.Dense(3)])
        model.compile("sgd", "mse", **HOW)
        fit(model, AtomicCheckpoint(self.path), epochs=1, batch_size=24)
        with self.assertRaises(ZeroDivisionError):
            fit(model, AtomicCheckpoint(self.path), Bad(), batch_size=24)
        self.assertEqual(fit(model, epochs=1, batch_size=24).epoch, [0])

    def test_stopped_early(self):
        class Stop(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                self.model.stop_training = epoch == 0

            def on_train_end(self, logs=None):
                kernel = self.model.trainable_variables[0]
                kernel.assign(np.zeros(kernel.shape))

        model = compiled()
        fit(model, Stop(), AtomicCheckpoint(self.path))
        other = compiled(seed=1)
        self.assertEqual(fit(other, AtomicCheckpoint(self.path)).epoch, [])
        self.assert_same(state(other), state(model))
        history = fit(other, AtomicCheckpoint(self.path), epochs=EPOCHS + 1)
        self.assertEqual(history.epoch, [1, 2, 3])

    @parameterized.parameters(False, True)
    def test_stopped_within_an_epoch(self, is_before):
        class Stop(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                self.model.stop_training = self.model.optimizer.iterations == (
                    STEPS + 2
                )

        whole = compiled()
        fit(whole, AtomicCheckpoint(self.path))
        self.path.unlink()
        model = compiled()
        callbacks = [Stop(), AtomicCheckpoint(self.path)]
        fit(model, *(callbacks if is_before else callbacks[::-1]))
        self.assertEqual(AtomicCheckpoint.read(self.path)["epoch"], 1)
        other = compiled(seed=1)
        history = fit(other, AtomicCheckpoint(self.path))
        self.assertEqual(history.epoch, list(range(1, EPOCHS)))
        self.assert_same(state(other), state(whole))

    def test_every(self):
        model = compiled()
        own = AtomicCheckpoint(self.path, every=2)
        for step, epochs in ((2 * STEPS, None), (2 * STEPS + 1, 2)):
            with self.assertRaises(KeyboardInterrupt):
                fit(model, own, Crash(step))
            self.assertEqual(self.path.exists(), epochs is not None)
        self.assertEqual(AtomicCheckpoint.read(self.path)["epoch"], 2)
        fit(compiled(), own)
        self.assertEqual(AtomicCheckpoint.read(self.path)["epoch"], 3)

    def test_set_epoch_is_told_of_every_epoch(self):
        rows = Rows()
        own = AtomicCheckpoint(self.path, set_epoch=rows.set_epoch)
        model = compiled()
        with self.assertRaises(KeyboardInterrupt):
            fit(model, own, Crash(STEPS + 1), x=rows)
        fit(compiled(seed=1), own, x=rows)
        self.assertEqual(rows.epochs, [99, 0, 1, 1, 2])

    def test_keras_that_begins_elsewhere(self):
        self.written()
        with mock.patch.object(checkpoint, "_begin_fit_at"):
            with self.assertRaisesRegex(RuntimeError, "use one that keras_prm"):
                fit(compiled(), AtomicCheckpoint(self.path))

    def test_every_seed_generator_is_in_it(self):
        model = self.written()
        header, arrays = checkpoint_files.read(self.path)
        seeds = [
            array
            for (path, *_), array in zip(header["model"], arrays)
            if path.endswith("seed_generator_state")
        ]
        drops = [model.layers[2], model.get_layer("block").layers[-1]]
        self.assert_same(
            seeds,
            [keras.ops.convert_to_numpy(d.seed_generator.state) for d in drops],
        )
        # On torch one without a seed of its own draws from torch's generator.
        self.assertEqual(seeds[1].tolist(), [7, STEPS])

    def test_it_says_where_it_goes_on(self):
        """Epochs count from 1, and what is done is said to be done."""
        for epochs, message in (
            (1, ""),
            (2, f"resuming at epoch 2 of 2 from {self.path}"),
            (2, "all is done after 2 of 2 epochs"),
        ):
            with mock.patch.object(console, "print_message") as said:
                fit(compiled(), AtomicCheckpoint(self.path), epochs=epochs)
            lines = " ".join(call.args[0] for call in said.call_args_list)
            self.assertIn(message, lines)
            self.assertEqual(bool(message), bool(lines))

    def test_other_settings_are_said(self):
        fit(compiled(admm), AtomicCheckpoint(self.path), epochs=1)
        model = compiled(admm)
        plan = model.optimizer.plan
        ramp = keras.optimizers.schedules.PolynomialDecay(0.0, 9, 1.0)
        model.compile(
            ADMMWrapper("adam", plan, rho=0.2, update_every=3, ramp=ramp),
            "mse",
            **HOW,
        )
        message = r"update_every=3 \(in the file 2\), ramp=Poly.*Set them as"
        with mock.patch.object(console, "print_message") as said:
            with self.assertWarnsRegex(UserWarning, message):
                fit(model, AtomicCheckpoint(self.path))
        lines = " ".join(call.args[0] for call in said.call_args_list)
        self.assertIn("rho=0.1, as in the file", lines)
        self.assertAlmostEqual(model.optimizer.rho, 0.1, places=6)

    def test_a_learning_rate_of_the_script_is_said(self):
        """Once, and not where a callback has changed it since."""

        def sgd(rate, momentum=0.5):
            return lambda _: keras.optimizers.SGD(rate, momentum)

        lower = keras.callbacks.LearningRateScheduler(lambda epoch: 0.0625)
        fit(compiled(sgd(0.25)), AtomicCheckpoint(self.path), lower, epochs=1)
        message = (
            "learning_rate=0.0625, as in the file; the script's "
            "learning_rate=0.5 is not used. Set `optimizer.learning_rate`"
        )
        for rate, epochs, is_said in ((0.25, 2, 0), (0.5, 3, 1), (0.5, 4, 0)):
            model = compiled(sgd(rate))
            with mock.patch.object(console, "print_message") as said:
                fit(model, AtomicCheckpoint(self.path), epochs=epochs)
            lines = " ".join(call.args[0] for call in said.call_args_list)
            self.assertEqual(message in lines, bool(is_said), lines)
            self.assertEqual(float(model.optimizer.learning_rate), 0.0625)
        with self.assertWarnsRegex(
            UserWarning, r"momentum=0.75 \(in the file 0.5\). Set them as"
        ):
            model = compiled(sgd(0.5, 0.75))
            fit(model, AtomicCheckpoint(self.path), epochs=5)

    def test_another_batch_size_is_said(self):
        fit(compiled(), AtomicCheckpoint(self.path), epochs=1)
        with self.assertWarnsRegex(
            UserWarning, r"6 steps per epoch \(in the file 3; the batch size"
        ):
            fit(compiled(), AtomicCheckpoint(self.path), batch_size=4)

    def test_a_file_of_before_there_were_several_optimizers(self):
        fit(compiled(admm), AtomicCheckpoint(self.path), epochs=1)
        header, arrays = checkpoint_files.read(self.path)
        new = ("flags", "learning_rates", "steps", "optimizers")
        for name in ("built_on", "settings", "arrays", *new):
            del header[name]
        checkpoint_files.write(self.path, header, arrays)
        model = compiled(admm)
        fit(model, AtomicCheckpoint(self.path))
        whole = compiled(admm)
        fit(whole)
        self.assert_same(state(model), state(whole))

    def test_masks_of_another_network(self):
        model, masks = pruned()
        other = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
        with self.assertRaisesRegex(ValueError, "Use masks made for this netw"):
            fit(model, AtomicCheckpoint(self.path, masks, model=other))

    def test_a_training_that_diverges_leaves_the_good_file(self):
        class Diverge(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                weights = [0 * w + np.nan for w in self.model.get_weights()]
                self.model.set_weights(weights)

        self.written()
        old = self.path.read_bytes()
        with self.assertWarnsRegex(UserWarning, "NaN.*smaller learning rate"):
            fit(compiled(), AtomicCheckpoint(self.path), Diverge(), epochs=2)
        self.assertEqual(self.path.read_bytes(), old)
        self.assertEqual(AtomicCheckpoint.read(self.path)["epoch"], 1)

    def test_read(self):
        model, masks = pruned(admm)
        plan = model.optimizer.plan
        fit(model, AtomicCheckpoint(self.path, masks), epochs=2)
        self.assertEqual(
            AtomicCheckpoint.read(str(self.path)),
            {"epoch": 2, "masks": masks, "plan": plan},
        )
        model = compiled()
        fit(model, AtomicCheckpoint(self.folder / "other"), epochs=1)
        self.assertEqual(
            AtomicCheckpoint.read(self.folder / "other"),
            {"epoch": 1, "masks": None, "plan": None},
        )


class RefusalTest(CheckpointTestCase):
    def assert_refused(self, message, model, masks=None, error=ValueError):
        """Neither the model nor the file is touched."""
        model.optimizer.build(model.trainable_variables)
        weights, seen = state(model), self.path.read_bytes()
        rng = random.getstate(), np.random.get_state()[1].tolist()
        with self.assertRaisesRegex(error, f"(?s){message}"):
            # Without a shuffle nothing is drawn before.
            fit(model, AtomicCheckpoint(self.path, masks), shuffle=False)
        self.assert_same(state(model), weights)
        self.assertEqual(
            (random.getstate(), np.random.get_state()[1].tolist()), rng
        )
        self.assertEqual(self.path.read_bytes(), seen)
        self.assert_files(self.path.name)

    def test_another_model(self):
        self.written()
        keras.utils.set_random_seed(0)
        model = make(units=7)
        model.compile(averaging(model), "mse", **HOW)
        self.assert_refused(
            "another model. 7 variables differ. "
            r"#3: expected block/inner/kernel \(8, 6\) float32, received "
            r"block/inner/kernel \(8, 7\) float32; #4.*; #5.*delete the file",
            model,
        )

    def test_another_plan(self):
        self.written(admm)
        model = compiled(lambda m: admm(m, filters=0.2))
        self.assert_refused("another plan.*or delete the file", model)
        self.assert_refused(
            r"with an `ADMMWrapper`. Expected one.*a path of its own.*\['SGD",
            compiled(),
        )

    def test_a_plan_where_there_was_none(self):
        self.written()
        self.assert_refused(
            "without a plan. Expected no `ADMMWrapper`.*a path of its own",
            compiled(admm),
        )

    @parameterized.parameters(True, False)
    def test_other_flags(self, is_built):
        """Named as such, though the plan is another by then, too."""
        self.written(admm)
        keras.utils.set_random_seed(0)
        model = make()
        model.layers[1].trainable = False
        model.compile(admm(model), "mse", **HOW)
        if is_built:
            model.optimizer.build(model.trainable_variables)
        with self.assertRaisesRegex(
            ValueError,
            "other layers frozen. Set `trainable` on layers as it was. "
            "Received: trained then and frozen now: .*dense.*/kernel",
        ):
            fit(model, AtomicCheckpoint(self.path), shuffle=False)

    def test_what_another_backup_has_resumed(self):
        """`BackupAndRestore` sets the epoch before this one looks."""

        class Backup(keras.callbacks.Callback):
            def on_train_begin(self, logs=None):
                self.model._initial_epoch = 1

        model = keras.Sequential([keras.Input((5,)), layers.Dense(3)])
        model.compile("sgd", "mse", **HOW)
        own = AtomicCheckpoint(self.path)
        found = fit(model, Backup(), own, epochs=2, batch_size=24)
        self.assertEqual(found.epoch, [1])

    def test_flags_that_a_training_toggles(self):
        """A train step may leave them as they were, or as it needs them."""

        class Toggle(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                self.model.layers[-1].trainable = True

            def on_train_end(self, logs=None):
                self.model.layers[-1].trainable = False

        def make(is_frozen):
            hidden = layers.Dense(4, name="hidden", trainable=not is_frozen)
            chain = [keras.Input((5,)), hidden, layers.Dense(3, name="out")]
            model = keras.Sequential(chain)
            model.compile("sgd", "mse", **HOW)
            return model

        def run(model, epochs):
            own = AtomicCheckpoint(self.path)
            return fit(model, Toggle(), own, epochs=epochs, batch_size=24)

        first = make(False)
        run(first, 1)
        for epochs in (2, 3):  # from the end of one, and from the begin of it
            model = first if epochs == 2 else make(False)
            self.assertEqual(run(model, epochs).epoch, [epochs - 1])
        other = make(True)
        with self.assertRaisesRegex(
            ValueError, r"Set `trainable` .*frozen now: .*hidden/kernel"
        ):
            run(other, 4)

    def test_another_kind_of_rho(self):
        self.written(admm)
        model = compiled(
            lambda m: ADMMWrapper("adam", admm(m).plan, ResidualBalancing())
        )
        self.assert_refused(
            "another kind of `rho`. Expected rho=0.1. Received: rho=Residual"
            ".*delete the file",
            model,
        )

    def test_another_optimizer(self):
        self.written(lambda model: keras.optimizers.Adam())
        message = "another optimizer. {}: expected Adam.* received {}.*or del"
        self.assert_refused(
            message.format("1 variables differ. #0", "AdamW"),
            compiled(lambda model: keras.optimizers.AdamW()),
        )
        self.assert_refused(message.format(".*#0", "SGD"), compiled())

    def test_other_masks(self):
        model, masks = pruned()
        fit(model, AtomicCheckpoint(self.path, masks), epochs=1)
        unpruned = make()
        plan = SparsityPlan.uniform(unpruned, filters=0.2)
        other = hard_prune(unpruned, plan)
        for received in (None, other):
            self.assert_refused(
                "other masks. Expected masks of 3 ker.*give `AtomicCheckpoint`",
                pruned()[0],
                received,
            )

    def test_model_without_weights(self):
        self.written()
        model = keras.Sequential([layers.Dense(3)])
        model.compile("sgd", "mse", **HOW)
        # The other backends build it before callbacks begin.
        message = "Build it before" if BACKEND == "tensorflow" else "another m"
        with self.assertRaisesRegex(ValueError, message):
            fit(model, AtomicCheckpoint(self.path))

    def test_no_checkpoint(self):
        model = self.written()
        np.savez(self.folder / "other.npz", a=np.zeros(3))
        np.save(self.folder / "other.npy", np.zeros(3))
        pickled = np.array([{}], dtype=object)
        np.savez(self.folder / "pickled.npz", header=pickled)
        contents = [p.read_bytes() for p in self.folder.glob("*.np?")]
        for content in (b"", b"no zip", *contents):
            self.path.write_bytes(content)
            self.assert_refused("is no checkpoint.*Delete it to train", model)

    def test_truncated_or_damaged(self):
        """At every place it is either noticed or does not matter."""
        model = self.written()
        whole = self.path.read_bytes()
        expected = checkpoint_files.read(self.path)
        sizes = np.linspace(0, len(whole) - 1, 40).astype(int)
        for size in sizes:
            self.path.write_bytes(whole[:size])
            with self.assertRaisesRegex(ValueError, "or is damaged.*Delete it"):
                checkpoint_files.read(self.path)
        self.assert_refused("is damaged", model)
        noticed = 0
        for place in np.linspace(0, len(whole) - 1, 300).astype(int):
            damaged = bytearray(whole)
            damaged[place] ^= 0x41
            self.path.write_bytes(damaged)
            try:
                header, arrays = checkpoint_files.read(self.path)
            except ValueError as error:
                self.assertRegex(
                    str(error), "(Delete it to train|Use that ver)"
                )
                noticed += 1
            else:
                self.assertEqual(header, expected[0])
                self.assert_same(arrays, expected[1])
        self.assertGreater(noticed, 150)

    def test_format_of_another_version(self):
        with mock.patch.object(checkpoint_files, "FORMAT", 9):
            model = self.written()
        self.assert_refused(
            "of format 1. Received: .*, of format 9, .*Use that version", model
        )

    def test_path_is_a_folder(self):
        self.path.mkdir(parents=True)
        with self.assertRaisesRegex(ValueError, "Name a file in it, such as"):
            fit(compiled(), AtomicCheckpoint(self.path))

    def test_folder_that_cannot_be_written_to(self):
        (self.folder / "run").write_text("A file.")
        with self.assertRaisesRegex(OSError, "Give `AtomicCheckpoint` a path"):
            fit(compiled(), AtomicCheckpoint(self.path))

    @parameterized.parameters(
        (dict(masks={}), TypeError, "as `hard_prune` or `masks_of` return"),
        (dict(every=0), ValueError, "Pass, for example, `every=1`"),
        (dict(every=1.5), ValueError, "Pass, for example, `every=1`"),
        (dict(every=True), ValueError, "Pass, for example, `every=1`"),
        (dict(set_epoch=3), TypeError, "`set_epoch=data.set_epoch`"),
    )
    def test_arguments(self, arguments, error, message):
        with self.assertRaisesRegex(error, message):
            AtomicCheckpoint(self.path, **arguments)


class FileTest(CheckpointTestCase):
    def setUp(self):
        super().setUp()
        checkpoint_files.prepare(self.path)
        self.arrays = [np.arange(9000.0), np.float32(3), np.zeros((0, 2), bool)]
        checkpoint_files.write(self.path, {"epoch": 1}, self.arrays)

    def assert_old(self):
        header, arrays = checkpoint_files.read(self.path)
        self.assertEqual(header["epoch"], 1)
        self.assert_same(arrays, [np.asarray(a) for a in self.arrays])
        self.assert_files(self.path.name)

    @parameterized.parameters(
        *("float16", "bfloat16", "float8_e4m3fn", "int8", "uint32", "bool")
    )
    def test_dtypes(self, dtype):
        array = np.random.default_rng(0).normal(size=(2, 3)).astype(dtype)
        arrays = [array, array[0, 0], array[:0], array.T]
        checkpoint_files.write(self.path, {}, [np.asarray(a) for a in arrays])
        _, found = checkpoint_files.read(self.path)
        self.assertEqual([a.shape for a in found], [a.shape for a in arrays])
        self.assert_same(found, [np.asarray(a) for a in arrays])

    @parameterized.product(
        what=["open", "savez", "fsync", "replace"],
        error=[OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()],
    )
    def test_the_old_file_outlives_a_failure(self, what, error):
        target = {"open": checkpoint_files, "savez": np}.get(what, os)
        with mock.patch.object(target, what, side_effect=error, create=True):
            with self.assertRaises(type(error)):
                checkpoint_files.write(self.path, {"epoch": 2}, self.arrays)
        self.assert_old()

    @parameterized.parameters(0, 1, 100, 5000, 70000)
    def test_the_old_file_outlives_a_full_disk(self, size):
        with disk_of(size):
            with self.assertRaises(OSError):
                checkpoint_files.write(self.path, {"epoch": 2}, self.arrays)
        self.assert_old()

    def test_files_of_killed_processes_are_removed(self):
        folder = self.path.parent
        for name in (".training.ckpt.71.tmp", ".other.ckpt.71.tmp", "a.tmp"):
            (folder / name).write_bytes(b"")
        checkpoint_files.prepare(self.path)
        self.assert_files(self.path.name, ".other.ckpt.71.tmp", "a.tmp")

    def test_full_disk_does_not_end_a_training(self):
        model = compiled()
        with self.assertRaises(KeyboardInterrupt):
            self.path.unlink()
            fit(model, AtomicCheckpoint(self.path), Crash(STEPS + 1))
        old = self.path.read_bytes()
        with mock.patch.object(
            os, "fsync", side_effect=OSError(errno.ENOSPC, "No space left")
        ):
            with self.assertWarnsRegex(
                UserWarning, "No space left. Training goes on.*Free some space"
            ):
                history = fit(compiled(), AtomicCheckpoint(self.path))
        self.assertEqual(history.epoch, [1, 2])
        self.assertEqual(self.path.read_bytes(), old)
        self.assert_files(self.path.name)


@contextlib.contextmanager
def disk_of(size):
    """No file can grow beyond `size` bytes meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


if __name__ == "__main__":
    absltest.main()
