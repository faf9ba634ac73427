"""Leaving out empty columns: exact whichever way, and what is reported."""

import dataclasses
import itertools
import tempfile

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.analysis.costs import costs
from keras_prm.analysis.trace import trace
from keras_prm.lowering import Choice
from keras_prm.lowering import Lowerer
from keras_prm.lowering import Lowering
from keras_prm.lowering import candidates
from keras_prm.lowering.gather_columns import GatherColumns
from keras_prm.rebuild import channel_order
from keras_prm.rebuild.strip import strip
from tests.helpers import zeros
from tests.helpers import zoo
from tests.helpers.lowering_models import NAMES
from tests.helpers.lowering_models import Drawn
from tests.helpers.lowering_models import Forced
from tests.helpers.lowering_models import chain
from tests.helpers.lowering_models import empty_columns
from tests.helpers.lowering_models import num_lowered

# The models of the zoo compile anew on the others, and some do not run there.
on_tensorflow = absltest.skipIf(
    keras.backend.backend() != "tensorflow", "takes long elsewhere"
)


class ExactTest(parameterized.TestCase):
    def check(self, model, lowering):
        x = zoo.inputs_of(model)
        small, report = strip(model, lowering, return_report=True)
        self.assertLess(zeros.max_error(model, small, x), 1e-5)
        return small, report

    @parameterized.parameters(*NAMES)
    def test_every_lowering(self, name):
        small, report = self.check(empty_columns(chain()), Forced(name))
        self.assertGreater(num_lowered(small), 0)
        self.assertIn(name, [row.name for row in report.lowered])

    @parameterized.parameters(
        *itertools.product(
            NAMES[3:], ("same", "valid"), ((2, 1), (3, 1), (1, 2), ((2, 1), 1))
        )
    )
    def test_steps(self, name, padding, steps):
        model = empty_columns(chain(*steps, padding))
        _, report = self.check(model, Forced(name))
        row = next(r for r in report.lowered if r.key == "b/kernel")
        odd = steps[0] == (2, 1) and name != "columns by patches"
        self.assertEqual(row.name, "dense" if odd else name)

    @on_tensorflow
    @parameterized.parameters(*zoo.MODELS)
    def test_zoo(self, name):
        """Every model, columns and lowerings at random."""
        model = empty_columns(zoo.make(name), seed=1)
        self.check(model, Drawn(1))

    @parameterized.parameters("sequence", "shared", "nested", "residual")
    def test_model_by_the_cost_model(self, name):
        self.check(empty_columns(zoo.make(name), 0.1), "model")

    @parameterized.parameters("columns by slices", "columns by gather")
    def test_causal(self, name):
        x = inputs = keras.Input((20, 4))
        for i in range(3):
            x = layers.Conv1D(
                6, 3, padding="causal", dilation_rate=2**i, name=f"c{i}"
            )(x)
        model = keras.Model(inputs, x)
        zoo.randomize(model)
        small, _ = self.check(empty_columns(model), Forced(name))
        self.assertGreater(num_lowered(small), 0)

    def test_argument_is_not_changed(self):
        model = empty_columns(chain())
        before = [w.copy() for w in model.get_weights()]
        strip(model, "smallest")
        for old, new in zip(before, model.get_weights()):
            np.testing.assert_array_equal(old, new)

    def test_sizes_that_are_not_known(self):
        x = inputs = keras.Input((None, None, 3))
        x = layers.Conv2D(8, 3, strides=2, padding="same", name="a")(x)
        x = layers.Conv2D(8, 3, padding="same", name="b")(x)
        x = layers.GlobalAveragePooling2D()(x)
        model = keras.Model(inputs, layers.Dense(2)(x))
        zoo.randomize(model)
        empty_columns(model)
        x = np.random.default_rng(0).normal(size=(2, 9, 11, 3))
        for lowering in ("smallest", "model", Forced("columns by patches")):
            small, report = strip(model, lowering, return_report=True)
            self.assertLess(
                zeros.max_error(model, small, x.astype("float32")), 1e-5
            )
            if lowering == "model":
                self.assertIn("not known", report.lowered[0].reason)

    def test_masks_of_timesteps_keep_their_layers(self):
        inputs = keras.Input((6, 4))
        x = layers.Masking()(inputs)
        x = layers.Dense(5, name="d")(x)
        x = layers.LSTM(3)(x)
        model = keras.Model(inputs, x)
        zoo.randomize(model)
        empty_columns(model)
        small, report = strip(model, "smallest", return_report=True)
        self.assertEqual(report.lowered, ())
        x = zoo.inputs_of(model)
        x[:, 3:] = 0
        self.assertLess(zeros.max_error(model, small, x), 1e-5)

    def test_two_layers_of_equal_names(self):
        """Keras wants names to differ, those of adapters as well."""
        model = chain()
        clash = layers.Activation("linear", name="b_columns")
        x = clash(model.output)
        model = empty_columns(keras.Model(model.input, x))
        small, _ = self.check(model, Forced("columns by gather"))
        self.assertIn("b__columns", [layer.name for layer in small.layers])

    def test_stripping_again(self):
        model = empty_columns(chain())
        small = strip(model, "smallest")
        again, report = self.check(small, "none")
        self.assertEqual(again.count_params(), small.count_params())
        self.assertEqual(report.skipped, ())

    def test_stripping_again_with_a_dead_channel(self):
        """Columns fall with the channel that they read."""
        small = strip(empty_columns(chain()), Forced("columns by gather"))
        for name in ("a", "n", "e"):
            for variable in small.get_layer(name).variables:
                if "variance" not in variable.name:
                    zeros.edit(variable, ..., slice(0, 2))
        again, _ = self.check(small, "none")
        before = small.get_layer("b_columns").columns
        after = again.get_layer("b_columns").columns
        self.assertLess(len(after), len(before))
        self.assertLess(again.count_params(), small.count_params())

    def test_half_precision(self):
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_float16")
        try:
            model = empty_columns(chain())
        finally:
            keras.config.set_dtype_policy(policy)
        small = strip(model, "smallest")
        x = zoo.inputs_of(model)
        self.assertLess(zeros.max_error(model, small, x), 4e-3)

    def test_trains_on(self):
        small = strip(empty_columns(chain()), "smallest")
        small.compile("sgd", "mse")
        x = zoo.inputs_of(small)
        y = np.ones((len(x), 3))
        losses = [small.train_on_batch(x, y) for _ in range(4)]
        self.assertLess(losses[-1], losses[0])


class SizeTest(parameterized.TestCase):
    def test_stored_weights_are_the_live_ones(self):
        """K columns of their filters each, where a layer is lowered."""
        model = empty_columns(chain(), 0.2)
        for kernel in zeros.kernels(model):
            live = np.array(keras.ops.convert_to_numpy(kernel)).any(-1)
            self.assertLess(live.sum(), live.size)
        small, report = strip(model, "smallest", return_report=True)
        lowered = [row for row in report.lowered if row.name != "dense"]
        self.assertGreaterEqual(len(lowered), 2)
        for row in report.rows:
            if row.key in [other.key for other in lowered]:
                self.assertEqual(row.zeros_after, 0, row.key)
        biases = sum(
            int(np.prod(w.shape)) for w in small.weights if len(w.shape) == 1
        )
        kernels = {row.key: row.after for row in report.rows}
        live = 0
        for row in lowered:
            self.assertEqual(row.indices, row.live)
            live += row.live * kernels[row.key][-1]
        dense = set(kernels) - {row.key for row in lowered}
        live += sum(int(np.prod(kernels[key])) for key in dense)
        self.assertEqual(small.count_params(), live + biases)
        self.assertEqual(report.weights_after, live + biases)

    def test_fewest_parameters(self):
        model = empty_columns(chain())
        fewest, report = strip(model, "fewest_parameters", return_report=True)
        counts = {
            name: costs(strip(model, name)).parameters
            for name in ("none", "model", "smallest")
        }
        found = costs(fewest)
        self.assertLess(found.parameters, counts["none"])
        self.assertLessEqual(found.parameters, min(counts.values()))
        # It is for files of any kind, and none is held to be a mistake.
        gathers = [x for x in fewest.layers if isinstance(x, GatherColumns)]
        self.assertEqual({x.chosen_for for x in gathers} or {()}, {()})
        for row in report.lowered:
            self.assertIn("fewest parameters", row.verdict)

    def test_report_names_all_layers_and_why(self):
        _, report = strip(
            empty_columns(chain()), "smallest", return_report=True
        )
        text = str(report)
        self.assertRegex(text, "columns live +of +indices +kernel")
        for row in report.lowered:
            self.assertRegex(text, rf"{row.live} .* {row.size} .*{row.key}")
            self.assertIn("smallest", row.verdict)

    def test_channels_say_where_they_came_from(self):
        """Sorted channels are in `kept`, in their new order."""
        model = empty_columns(chain())
        small, report = strip(
            model, Forced("columns by slices"), return_report=True
        )
        kept = np.array(report.kept["a/kernel"][-1])
        self.assertFalse((np.diff(kept) > 0).all())
        old = keras.ops.convert_to_numpy(model.get_layer("a").kernel)
        new = keras.ops.convert_to_numpy(small.get_layer("a").kernel)
        rows = report.kept["a/kernel"][-2]
        old = old if rows is None else np.take(old, rows, -2)
        columns = list(small.get_layer("a_columns").columns)
        np.testing.assert_array_equal(
            old[..., kept].reshape(-1, len(kept))[columns], new[0, 0]
        )
        self.assertEqual(report.kept_channels["a"], tuple(kept.tolist()))

    def test_a_bias_that_is_new(self):
        """It takes up a constant, and has no place in the old model."""
        x = inputs = keras.Input((6, 6, 3))
        x = layers.Conv2D(6, 3, name="a")(x)
        x = layers.Conv2D(6, 1, use_bias=False, name="b")(x)
        model = keras.Model(inputs, layers.Conv2D(4, 3, name="c")(x))
        zoo.randomize(model)
        zeros.edit(model.get_layer("a").kernel, ..., 0)  # emits its bias
        kernel = model.get_layer("c").kernel
        live = np.arange(6) > np.arange(9)[:, None] % 4
        array = np.array(keras.ops.convert_to_numpy(kernel))
        kernel.assign(array * live.reshape(3, 3, 6, 1))
        small, report = strip(
            model, Forced("columns by slices"), return_report=True
        )
        self.assertTrue(small.get_layer("b").use_bias)
        self.assertNotIn("b/bias", report.kept)

    def test_levels(self):
        """Sorted channels come as one slice per level."""
        model = empty_columns(chain(), 0.5)
        small = strip(model, Forced("columns by slices"))
        layer = small.get_layer("c_columns")
        channels = layer.input.shape[-1]
        counts = np.bincount(np.array(layer.columns) % channels)
        self.assertTrue((np.diff(counts) <= 0).all())
        reads = np.array(layer.columns) % channels
        starts = np.flatnonzero(np.diff(reads) != 1) + 1
        self.assertLen(starts, counts.max() - 1)
        self.assertTrue((reads[starts] == 0).all())


class LoadTest(absltest.TestCase):
    def test_saves_and_loads(self):
        model = empty_columns(chain())
        small = strip(model, "smallest")
        with tempfile.TemporaryDirectory() as folder:
            small.save(f"{folder}/small.keras")
            loaded = keras.saving.load_model(f"{folder}/small.keras")
        x = zoo.inputs_of(model)
        np.testing.assert_array_equal(
            loaded.predict(x, verbose=0), small.predict(x, verbose=0)
        )

    def test_none_has_stock_layers_only(self):
        small = strip(empty_columns(chain()))
        modules = {type(layer).__module__ for layer in small.layers}
        self.assertTrue(all(m.startswith("keras.") for m in modules), modules)


class StrategyTest(parameterized.TestCase):
    """Strategies of one's own that go wrong."""

    @parameterized.named_parameters(
        ("none", lambda sparse: None, "Received: None"),
        ("lowering", lambda sparse: candidates(sparse)[0], "Received: Low"),
        ("name", lambda sparse: Choice(sparse, "gather"), "Received: Choice"),
        (
            "live",
            lambda sparse: Choice(
                sparse, Lowering("gather", (0,), True, {}, sparse.window)
            ),
            "no live column",
        ),
        ("other", lambda sparse: Choice(None, None), "Received: Choice"),
    )
    def test_no_choice(self, choose, received):
        strategy = Lowerer()
        strategy.choose_one = choose
        model = empty_columns(chain())
        with self.assertRaisesRegex(TypeError, "Lowerer. has to.*" + received):
            strip(model, strategy)

    def test_nothing_at_all(self):
        strategy = Lowerer()
        strategy.choose = lambda kernels: None
        with self.assertRaisesRegex(TypeError, "return a list of `Choice`"):
            strip(empty_columns(chain()), strategy)

    def test_what_a_strategy_may_do(self):
        """Choices in any order, made one by one, and for some layers only."""
        strategy, model = Lowerer(), empty_columns(chain())

        def choose(kernels):
            for sparse in reversed(kernels[:2]):
                lowering = candidates(sparse)[0]
                window = [*lowering.window]
                lowering = dataclasses.replace(lowering, window=window)
                yield Choice(dataclasses.replace(sparse), lowering)

        strategy.choose = choose
        small, report = strip(model, strategy, return_report=True)
        names = [row.name for row in report.lowered]
        self.assertGreater(len(names), 2)
        self.assertEqual(names.count("dense"), len(names) - 2)
        x = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:]))
        self.assertLess(zeros.max_error(model, small, x), 1e-5)

    def test_a_class_in_place_of_an_object(self):
        with self.assertRaisesRegex(ValueError, "derives from .*Lowerer"):
            strip(empty_columns(chain()), Lowerer)


class OrderTest(parameterized.TestCase):
    def moved(self, model, name):
        graph = trace(model)
        weights = {w.key: w for w in graph.weights.values()}
        ids = weights[f"{name}/kernel"].in_ids
        order = np.arange(len(ids))[::-1]
        return channel_order.ChannelOrder(graph, model).reorderings(ids, order)

    @parameterized.parameters(("b", True), ("c", True), ("a", False))
    def test_which_may_move(self, name, expected):
        """The inputs of the model stay in their order."""
        found = self.moved(chain(), name)
        self.assertEqual(found is not None, expected)

    def test_moving_changes_nothing(self):
        model = chain()
        x = zoo.inputs_of(model)
        before = model.predict(x, verbose=0)
        for name in "bc":
            for reordering in self.moved(model, name):
                reordering.apply()
        after = model.predict(x, verbose=0)
        np.testing.assert_allclose(after, before, atol=1e-5)

    @on_tensorflow
    @parameterized.parameters(*zoo.MODELS)
    def test_zoo(self, name):
        """What may move in any model, moved, changes nothing."""
        model = zoo.make(name)
        x = zoo.inputs_of(model)
        before = keras.tree.flatten(model(x))
        graph = trace(model)
        order = channel_order.ChannelOrder(graph, model)
        seen = set()
        for weight in graph.weights.values():
            ids = weight.in_ids if weight.role == "kernel" else None
            if ids is None:
                continue
            names = frozenset(graph.classes[ids].tolist())
            if names & seen:
                continue
            seen |= names
            found = order.reorderings(ids, np.arange(len(ids))[::-1])
            for reordering in found or ():
                reordering.apply()
        after = keras.tree.flatten(model(x))
        for old, new in zip(before, after):
            new, old = map(keras.ops.convert_to_numpy, (new, old))
            scale = max(1.0, np.abs(old).max())
            np.testing.assert_allclose(new / scale, old / scale, atol=1e-5)

    def test_a_concatenation_stays(self):
        x = inputs = keras.Input((6, 6, 2))
        x = layers.Conv2D(4, 3, name="a")(x)
        x = layers.Concatenate()([x, x])
        model = keras.Model(inputs, layers.Conv2D(2, 3, name="b")(x))
        self.assertIsNone(self.moved(model, "b"))


if __name__ == "__main__":
    absltest.main()
