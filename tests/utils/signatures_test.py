"""Weights found again in another build of the same network."""

import copy
import json
import pickle
import tempfile

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.inlining.as_functional import as_functional
from keras_prm.plans.plan import SparsityPlan
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.pruning.masks import Masks
from keras_prm.pruning.masks import apply_masks
from keras_prm.pruning.masks import masks_of
from keras_prm.training.checkpoint import AtomicCheckpoint
from keras_prm.training.iterative_pruning import IterativePruning
from keras_prm.training.mask_constraint import enforced
from keras_prm.training.progress import ADMMProgress
from keras_prm.utils import signatures


def plain():
    hidden = [layers.Dense(6, activation="relu") for _ in range(3)]
    return keras.Sequential([keras.Input((6,)), *hidden, layers.Dense(2)])


def nested():
    def tower():
        return keras.Sequential([keras.Input((6,)), layers.Dense(6)])

    return keras.Sequential(
        [keras.Input((6,)), tower(), tower(), layers.Dense(2)]
    )


def shared():
    inputs = keras.Input((6,))
    layer = layers.Dense(6, activation="relu")
    x = layer(layer(layers.Dense(6)(inputs)))
    return keras.Model(inputs, layers.Dense(2)(x))


def wrapped():
    inputs = keras.Input((6,))
    x = layers.Reshape((2, 3))(inputs)
    x = layers.TimeDistributed(layers.Dense(6))(x)
    x = layers.Bidirectional(layers.LSTM(3))(x)
    return keras.Model(inputs, layers.Dense(2)(layers.Dense(6)(x)))


class Block(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.one, self.two = layers.Dense(6), layers.Dense(6)

    def call(self, x):
        return self.two(self.one(x))


def opened():
    inputs = keras.Input((6,))
    return as_functional(keras.Model(inputs, layers.Dense(2)(Block()(inputs))))


BUILDS = (plain, nested, shared, wrapped, opened)


def named(names, **kwargs):
    chain = [layers.Dense(6, name=name, **kwargs) for name in names]
    return keras.Sequential([keras.Input((6,)), *chain])


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(16, 6)), rng.normal(size=(16, 2))


def data_of(units):
    return data()[0], np.zeros((16, units), "float32")


class Around(keras.Model):
    """A model that trains another one."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def call(self, x):
        return self.network(x)


def compiled(model, plan):
    optimizer = ADMMWrapper("sgd", plan, rho=0.1, update_every=1)
    model.compile(optimizer, "mse")
    return model


def through_json(plan):
    return SparsityPlan.from_config(json.loads(json.dumps(plan.get_config())))


class AnotherBuildTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        keras.utils.set_random_seed(1)

    @parameterized.product(build=BUILDS, saved=(False, True))
    def test_trains_and_prunes(self, build, saved):
        first = build()
        plan = SparsityPlan.uniform(first, filters=0.5, columns=0.25)
        if saved:
            plan = through_json(plan)
        model = compiled(build(), plan)
        model.fit(*data(), batch_size=8, verbose=0)
        held = list(model.optimizer.masks().values())
        keys = {row.key for row in signatures.signatures(model)}
        # No warning: what goes is what ADMM holds, whichever plan is given.
        for again in (plan, SparsityPlan.uniform(model, 0.5, 0.25)):
            masks = hard_prune(model, again)
            self.assertContainsSubset(masks.kernels, keys)
            found = list(masks.kernels.values())
            self.assertLen(found, len(held))
            for mask, expected in zip(found, held, strict=True):
                np.testing.assert_array_equal(mask.full(), expected.full())

    @parameterized.product(build=BUILDS, saved=(False, True))
    def test_masks(self, build, saved):
        first, other = build(), build()
        other.set_weights(first.get_weights())
        masks = hard_prune(first, SparsityPlan.uniform(first, 0.5, 0.25))
        if saved:
            masks = Masks.from_json(masks.to_json())
        with enforced(other, masks):
            pass
        for a, b in zip(first.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        self.assertEqual(masks_of(other), masks_of(first))
        both = masks & masks_of(other)
        self.assertEqual(both, masks)
        self.assertEqual(both.weights, masks.weights)

    def test_iterative_pruning(self):
        plan = SparsityPlan.uniform(plain(), filters=0.5)
        model = plain()
        model.compile("sgd", "mse")
        callback = IterativePruning(plan)
        model.fit(*data(), verbose=0, callbacks=[callback])
        filters = [m.filters.sum() for m in callback.masks.kernels.values()]
        self.assertEqual(filters, [3, 3, 3, 2])

    def test_checkpoint(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = f"{folder.name}/a.ckpt"
        first = plain()
        plan = SparsityPlan.uniform(first, filters=0.5)
        compiled(first, plan)
        first.fit(*data(), verbose=0, callbacks=[AtomicCheckpoint(path)])
        # Named by hand, and the plan made anew.
        model = keras.Sequential(
            [
                keras.Input((6,)),
                *[
                    layers.Dense(6, activation="relu", name=n)
                    for n in ("x", "y", "z")
                ],
                layers.Dense(2),
            ]
        )
        compiled(model, SparsityPlan.uniform(model, filters=0.5))
        model.fit(*data(), verbose=0, callbacks=[AtomicCheckpoint(path)])
        pairs = zip(first.get_weights(), model.get_weights(), strict=True)
        for a, b in pairs:
            np.testing.assert_array_equal(a, b)

    @parameterized.parameters("keras", "h5")
    def test_saved_with_its_wrapper(self, ending):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = f"{folder.name}/model.{ending}"
        model = plain()
        # The plan is of yet another build.
        plan = SparsityPlan.uniform(plain(), filters=0.5)
        optimizer = ADMMWrapper("adam", plan, rho=0.5, update_every=3)
        model.compile(optimizer, keras.losses.MeanSquaredError())
        how = {"batch_size": 4, "shuffle": False, "verbose": 0}
        model.fit(*data(), **how)
        model.save(path)
        loaded = keras.models.load_model(path)
        model.fit(*data(), **how)
        loaded.fit(*data(), **how)
        variables = [
            [*m.weights, *m.optimizer.variables] for m in (model, loaded)
        ]
        for a, b in zip(*variables, strict=True):
            np.testing.assert_array_equal(
                keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b)
            )

    @parameterized.parameters(
        copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))
    )
    def test_copies_of_plan_and_masks(self, copied):
        model = plain()
        plan = SparsityPlan.uniform(model, filters=0.5)
        self.assertEqual(copied(plan), plan)
        masks = copied(hard_prune(model, copied(plan)))
        apply_masks(plain(), masks)


class OtherModelTest(parameterized.TestCase):
    def test_first_difference(self):
        plan = SparsityPlan.uniform(plain(), filters=0.5)
        other = keras.Sequential(
            [keras.Input((6,)), layers.Dense(6), layers.Dense(7, name="wide")]
        )
        message = (
            r"expected kernel of Dense 'dense.*' \(6, 6\), received kernel of "
            r"Dense 'wide' \(6, 7\)"
        )
        masks = hard_prune(plain(), plan)
        with self.assertRaisesRegex(ValueError, f"Make one for.*{message}"):
            hard_prune(other, plan)
        with self.assertRaisesRegex(ValueError, f"`masks_of.*{message}"):
            apply_masks(other, masks)
        with self.assertRaisesRegex(ValueError, f"{message}. Make the plan"):
            compiled(other, plan).optimizer.build(other.trainable_variables)

    def test_another_class_of_equal_shape(self):
        def model(layer):
            return keras.Sequential([keras.Input((4, 3)), layer])

        plan = SparsityPlan.uniform(model(layers.Conv1D(2, 3)), columns=0.5)
        other = model(layers.Conv1DTranspose(2, 3))
        with self.assertRaisesRegex(ValueError, "received .*Conv1DTranspose"):
            hard_prune(other, plan)

    def test_layers_that_changed_places(self):
        plan = SparsityPlan.explicit(named("abc"), {"b": {"columns": 0.5}})
        model = named("bac")
        # By position the optimizer would train another one.
        with self.assertRaisesRegex(
            ValueError, "'a'.* received .*'b'.*Make the plan"
        ):
            ADMMWrapper("sgd", plan).build(model.trainable_variables)
        # Whoever has the model goes by the names that somebody gave.
        self.assertEqual([*hard_prune(model, plan).kernels], ["b/kernel"])

    def test_names_of_ones_own_fit_in_a_bigger_model(self):
        small = named("abc")
        masks = hard_prune(small, SparsityPlan.uniform(small, columns=0.5))
        masks = Masks.from_json(masks.to_json())
        bigger = named("abcd")
        apply_masks(bigger, masks)
        self.assertContainsSubset(masks.kernels, masks_of(bigger).kernels)
        # Those that Keras made up tell nothing.
        other = keras.Sequential([keras.Input((6,)), layers.Dense(6)])
        masks = hard_prune(other, SparsityPlan.uniform(other, columns=0.5))
        masks = Masks.from_json(masks.to_json())
        more = keras.Sequential(
            [keras.Input((6,)), layers.Dense(6), layers.Dense(6)]
        )
        with self.assertRaisesRegex(ValueError, "`masks_of"):
            apply_masks(more, masks)

    def test_the_very_weights_in_a_bigger_model(self):
        small = plain()
        plan = SparsityPlan.uniform(small, columns=0.5)
        bigger = keras.Model(
            small.inputs, layers.Dense(3)(small.layers[-1].output)
        )
        apply_masks(bigger, hard_prune(small, plan))
        hard_prune(bigger, plan)


class TrainableTest(parameterized.TestCase):
    @parameterized.parameters(
        (names, same, saved)
        for names in ("abcd", ("h_1", "h_2", "h_3", "h_4"), None)
        # Other made-up names: see `test_where_only_the_model_tells`.
        for same in ((True, False) if names else (True,))
        for saved in (True, False)
    )
    def test_flags_that_change_after_planning(self, names, same, saved):
        """`b` is trained where `a` was planned, of equal shape."""

        def build():
            return named(names or (None,) * 4)

        model = build()
        model.layers[0].trainable = False
        plan = SparsityPlan.uniform(model, columns=0.5)
        if saved:
            plan = through_json(plan)
        model = model if same else build()
        model.layers[0].trainable = True
        model.layers[1].trainable = False
        with self.assertRaisesRegex(
            ValueError, "trained then and are not now.*Set `trainable` on"
        ):
            ADMMWrapper("sgd", plan).build(model.trainable_variables)

    @parameterized.parameters("part", "optimizers", "another_build")
    def test_a_part_of_what_was_planned(self, trained):
        """An optimizer cannot tell who leaves variables out."""
        model = named("abc")
        plan = SparsityPlan.uniform(model, filters=0.5)
        if trained == "another_build":
            model = named("abc")
        part = keras.Model(model.inputs, model.layers[1].output)
        wrapper = ADMMWrapper("sgd", plan)
        optimizer, variables = wrapper, part.trainable_variables
        if trained == "optimizers":
            rules = {"(.*/)?[ab]/.*": wrapper}
            optimizer = keras.optimizers.MultiOptimizer(
                keras.optimizers.OptimizerMap(keras.optimizers.SGD(), rules)
            )
            variables = model.trainable_variables
        message = (
            r"\['c/kernel', 'c/bias'\] are trainable, and it is not given.*"
            "from the model that is trained.*any MultiOptimizer inside ADMM"
        )
        if trained == "another_build":
            message = "'c/bias'.*make the plan anew from the model that is tr"
        with self.assertRaisesRegex(ValueError, message):
            optimizer.build(variables)

    @parameterized.parameters(True, False)
    def test_layers_that_were_made_in_another_order(self, is_new_session):
        def build(order):
            made = {key: layers.Dense(16) for key in order}
            inputs = keras.Input((16,))
            outputs = layers.Dense(4)(made["b"](made["a"](inputs)))
            return keras.Model(inputs, outputs)

        keras.backend.clear_session()
        model = build("ab")
        plan = SparsityPlan.uniform(model, filters=0.5)
        masks = hard_prune(model, plan)
        if is_new_session:
            keras.backend.clear_session()
        other = build("ba")
        ADMMWrapper("sgd", plan).build(other.trainable_variables)
        apply_masks(other, masks)
        again = hard_prune(other, SparsityPlan.from_config(plan.get_config()))
        self.assertLen(again.kernels, len(masks.kernels))

    def test_numbers_that_do_not_run_on_alike(self):
        """The second of four is frozen in place of the first."""

        def build():
            return named((None,) * 4)

        model = build()
        model.layers[0].trainable = False
        plan = SparsityPlan.uniform(model, columns=0.5)
        model = build()
        model.layers[1].trainable = False
        with self.assertRaisesRegex(ValueError, "after setting `trainable`"):
            ADMMWrapper("sgd", plan).build(model.trainable_variables)
        model.layers[1].trainable = True
        model.layers[0].trainable = False
        ADMMWrapper("sgd", plan).build(model.trainable_variables)

    @parameterized.parameters(
        (frozen, stem, saved)
        for stem, several in (("dense", 4), ("block_{}_dense", 3))
        for frozen in range(several)
        for saved in (True, False)
    )
    def test_numbers_from_elsewhere(self, frozen, stem, saved):
        """Another session has made a layer before: all numbers are higher."""

        def build(first):
            names = [
                stem.format(n) if "{" in stem else f"{stem}_{n}"
                for n in range(first, first + 4)
            ]
            model = named([name.removesuffix("_0") for name in names])
            model.layers[frozen].trainable = False
            return model

        plan = SparsityPlan.uniform(build(0), columns=0.5)
        if saved:
            plan = through_json(plan)
        model = compiled(build(1), plan)
        model.fit(*data_of(6), verbose=0, callbacks=[ADMMProgress()])
        masks = hard_prune(model, plan, optimizer=False)
        left_out = signatures.signatures(model)[2 * frozen].key
        self.assertLen(masks.kernels, 3)
        self.assertNotIn(left_out, masks.kernels)

    @parameterized.parameters("progress", "checkpoint", "around")
    def test_other_ties(self, asked):
        """Equal weights, and a sum that ties what was free."""

        def build(is_tied):
            inputs = keras.Input((6,))
            x = layers.Dense(6)(inputs)
            y = layers.Dense(6)(x)
            x = layers.Add()([x, y]) if is_tied else y
            return keras.Model(inputs, layers.Dense(6)(x))

        plan = SparsityPlan.uniform(build(False), filters=0.5)
        model = build(True)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        callback = ADMMProgress()
        if asked == "checkpoint":
            callback = AtomicCheckpoint(f"{folder.name}/a.ckpt")
        trainer = model
        if asked == "around":
            trainer = Around(model)
        compiled(trainer, plan)
        with self.assertRaisesRegex(ValueError, "tied to other ones"):
            trainer.fit(*data_of(6), verbose=0, callbacks=[callback])

    @parameterized.parameters("progress", "checkpoint", "hard_prune")
    def test_where_only_the_model_tells(self, asked):
        """Made-up names in another build: the last is frozen, not the first."""
        model = named((None,) * 4)
        model.layers[0].trainable = False
        plan = SparsityPlan.uniform(model, columns=0.5)
        model = named((None,) * 4)
        model.layers[3].trainable = False
        compiled(model, plan)
        if asked == "hard_prune":
            model.optimizer.build(model.trainable_variables)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        callback = {
            "progress": ADMMProgress(),
            "checkpoint": AtomicCheckpoint(f"{folder.name}/a.ckpt"),
        }.get(asked)
        with self.assertRaisesRegex(ValueError, "Make the plan anew, with"):
            if callback is None:
                hard_prune(model, plan)
            callback.set_model(model)
            callback.on_train_begin()

    def test_a_frozen_backbone(self):
        def build(frozen):
            model = nested()
            model.layers[frozen].trainable = False
            return model

        plan = SparsityPlan.uniform(build(0), filters=0.5, columns=0.5)
        model = compiled(build(0), plan)
        model.fit(*data(), batch_size=8, verbose=0)
        hard_prune(model, plan)
        self.assertTrue(np.all(model.layers[0].get_weights()[0] != 0))
        # In the same model identity tells.
        model = build(0)
        plan = SparsityPlan.uniform(model, columns=0.5)
        model.layers[0].trainable = True
        model.layers[1].trainable = False
        with self.assertRaisesRegex(ValueError, "make the plan anew"):
            ADMMWrapper("sgd", plan).build(model.trainable_variables)

    @parameterized.parameters("hard_prune", "iterative")
    def test_freezing_after_planning_warns(self, by):
        model = plain()
        plan = SparsityPlan.uniform(model, columns=0.5)
        model.layers[1].trainable = False
        key = signatures.signatures(model)[2].key
        message = rf"make the plan anew, now that.*\['{key}'\]"
        with self.assertWarnsRegex(UserWarning, message) as caught:
            if by == "hard_prune":
                hard_prune(model, plan)
            else:
                model.compile("sgd", "mse")
                callback = IterativePruning(plan)
                model.fit(*data(), verbose=0, callbacks=[callback])
        self.assertLen(caught.warnings, 1)


class SavedStateTest(parameterized.TestCase):
    @parameterized.parameters("keras", "h5", "weights.h5")
    def test_hard_prune_before_any_training(self, ending):
        """What ADMM holds decides, as before it was saved."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = f"{folder.name}/model.{ending}"
        model, plan = self.trained()
        is_whole = ending != "weights.h5"
        (model.save if is_whole else model.save_weights)(path)
        if is_whole:
            loaded = keras.models.load_model(path)
        else:
            loaded = plain()
            loaded.compile(self.optimizer(plan), "mse")
            # Keras says so of the inner optimizer, which the wrapper keeps.
            with self.assertWarnsRegex(UserWarning, "Skipping variable"):
                loaded.load_weights(path)
        with self.assertWarnsRegex(UserWarning, "not near what ADMM"):
            expected = hard_prune(model, plan)
        with self.assertWarnsRegex(UserWarning, "not near what ADMM"):
            masks = hard_prune(loaded, plan)
        pairs = zip(masks.kernels.values(), expected.kernels.values())
        for mask, other in pairs:
            np.testing.assert_array_equal(mask.full(), other.full())
        pairs = zip(model.optimizer.variables, loaded.optimizer.variables)
        for one, other in pairs:
            np.testing.assert_array_equal(
                keras.ops.convert_to_numpy(one),
                keras.ops.convert_to_numpy(other),
            )

    def test_saved_again_before_any_training(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        model, _ = self.trained()
        model.save(f"{folder.name}/model.h5")
        loaded = keras.models.load_model(f"{folder.name}/model.h5")
        loaded.save(f"{folder.name}/again.keras")
        with self.assertWarnsRegex(UserWarning, "Skipping variable"):
            again = keras.models.load_model(f"{folder.name}/again.keras")
        self.assertEqual(again.optimizer.num_updates, 2)
        pairs = zip(
            model.optimizer.variables, again.optimizer.variables, strict=True
        )
        for one, other in pairs:
            np.testing.assert_array_equal(
                keras.ops.convert_to_numpy(one),
                keras.ops.convert_to_numpy(other),
            )

    def test_progress_counts_from_what_was_saved(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        model, _ = self.trained()
        model.save(f"{folder.name}/model.h5")
        loaded = keras.models.load_model(f"{folder.name}/model.h5")
        progress = ADMMProgress()
        progress.set_model(loaded)
        progress.on_train_begin()
        self.assertEqual(loaded.optimizer.num_updates, 2)
        self.assertEqual(progress._updates, 2)

    def test_state_of_another_inner_optimizer(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = f"{folder.name}/model.weights.h5"
        model, plan = self.trained()
        model.save_weights(path)
        loaded = plain()
        loaded.compile(ADMMWrapper("sgd", plan), "mse")
        with self.assertWarnsRegex(UserWarning, "Skipping variable"):
            loaded.load_weights(path)
        with self.assertWarnsRegex(UserWarning, "inner one that was saved"):
            loaded.optimizer.build(loaded.trainable_variables)

    def optimizer(self, plan):
        return ADMMWrapper("adam", plan, rho=2.0, update_every=2)

    def trained(self):
        """A model that ADMM prunes otherwise than its weights say."""
        keras.utils.set_random_seed(1)
        model = plain()
        plan = SparsityPlan.uniform(model, filters=0.5)
        loss = keras.losses.MeanSquaredError()
        model.compile(self.optimizer(plan), loss)
        model.fit(*data(), batch_size=4, shuffle=False, verbose=0)
        for variable in model.trainable_variables:
            variable.assign(np.flip(keras.ops.convert_to_numpy(variable)))
        return model, plan


class WrapperTest(parameterized.TestCase):
    @parameterized.parameters(True, False)
    def test_an_optimizer_of_another_model(self, given):
        model, other = plain(), plain()
        plan = SparsityPlan.uniform(model, filters=0.5)
        optimizer = compiled(other, plan).optimizer
        other.fit(*data(), verbose=0)
        before = model.get_weights()
        if not given:
            model.compile(optimizer, "mse")
        with self.assertRaisesRegex(ValueError, "Pass the optimizer that"):
            hard_prune(model, plan, optimizer=optimizer if given else None)
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_one_cause_at_a_time(self):
        model = plain()
        plan = SparsityPlan.uniform(model, filters=0.5)
        ramp = keras.optimizers.schedules.PolynomialDecay(0.25, 100, 1.0)
        causes = (
            (
                "no update yet. Train for at least 9 applied",
                {"update_every": 9},
            ),
            ("share of 0.2.* to the end of the ramp", {"ramp": ramp}),
        )
        for message, arguments in causes:
            arguments = {"update_every": 1} | arguments
            model.compile(ADMMWrapper("sgd", plan, **arguments), "mse")
            model.fit(*data(), verbose=0)
            with self.assertWarnsRegex(UserWarning, message) as caught:
                hard_prune(model, plan)
            self.assertEqual(caught.filename, __file__)
        other = SparsityPlan.uniform(model, filters=0.3)
        with self.assertWarnsRegex(
            UserWarning, "another plan.*pass `model.optimizer.plan`"
        ):
            hard_prune(model, other)


if __name__ == "__main__":
    absltest.main()
