"""`strip`: the same function from a smaller model, for any weights."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers
from keras import ops

from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.analysis.costs import costs
from keras_prm.inlining.as_functional import as_functional
from keras_prm.plans.plan import SparsityPlan
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.pruning.masks import masks_of
from keras_prm.rebuild.strip import strip
from tests.helpers import zoo
from tests.helpers.zeros import PATTERNS
from tests.helpers.zeros import borders
from tests.helpers.zeros import both_with_vectors
from tests.helpers.zeros import edit
from tests.helpers.zeros import everything
from tests.helpers.zeros import filters
from tests.helpers.zeros import max_error
from tests.helpers.zeros import num_nodes
from tests.helpers.zeros import outputs_of
from tests.helpers.zeros import shapes
from tests.helpers.zeros import zero_filters


class ZooTest(parameterized.TestCase):
    @parameterized.parameters(*zoo.MODELS)
    def test_is_exact_and_reads_only(self, name):
        model, x = zoo.make(name), None
        x = zoo.inputs_of(model)
        model.compile("sgd", loss="mse")
        optimizer, original = model.optimizer, model.get_weights()
        for number, pattern in enumerate(PATTERNS):
            with self.subTest(pattern.__name__):
                model.set_weights(original)
                pattern(model, np.random.default_rng(number))
                config = model.get_config()
                nodes = num_nodes(model)
                weights = model.get_weights()

                small = strip(model)

                self.assertLess(max_error(model, small, x), 1e-5)
                self.assertLessEqual(small.count_params(), model.count_params())
                self.assertEqual(model.get_config(), config)
                self.assertEqual(num_nodes(model), nodes)
                self.assertIs(model.optimizer, optimizer)
                self.assertTrue(model.compiled)
                self.assertFalse(small.compiled)
                for old, new in zip(weights, model.get_weights()):
                    np.testing.assert_array_equal(old, new)

    @parameterized.parameters(*zoo.MODELS)
    def test_what_a_plan_removes_is_gone(self, name):
        model = zoo.make(name)
        plan = SparsityPlan.uniform(model, filters=0.5, columns=0.3)
        masks = hard_prune(model, plan)
        small, report = strip(model, return_report=True)
        self.assertLess(max_error(model, small, zoo.inputs_of(model)), 1e-5)
        after = {row.key: row.after for row in report.rows}
        for kernel in plan.kernels:
            shape, mask = after[kernel.key], masks.kernels[kernel.key]
            if shape is not None:
                width = shape[kernel.axes[1]]
                self.assertLessEqual(width, mask.filters.sum(), kernel.key)
        if plan.num_classes:
            self.assertLess(small.count_params(), model.count_params())

    @parameterized.parameters("int8", "int4", "float8")
    def test_quantized_layers(self, mode):
        model = keras.Sequential(
            [keras.Input((8,)), *map(keras.layers.Dense, (8, 4))]
        )
        hard_prune(model, SparsityPlan.uniform(model, filters=0.5))
        for layer in model.layers:
            layer.quantize(mode)
        x = np.random.default_rng(0).normal(size=(4, 8))
        advice = "Plan, prune, purify and strip before `model.quantize"
        with self.assertWarnsRegex(UserWarning, f"nothing to remove.*{advice}"):
            small = strip(model)
        np.testing.assert_array_equal(small(x), model(x))
        small = as_functional(model)
        np.testing.assert_array_equal(small(x), model(x))
        with self.assertWarnsRegex(UserWarning, advice):
            plan = SparsityPlan.uniform(model, filters=0.5)
        with self.assertWarnsRegex(UserWarning, "before `model.quantize`. R"):
            hard_prune(model, plan)
        with self.assertWarnsRegex(UserWarning, advice):
            masks_of(model)

    @parameterized.parameters(*zoo.MODELS)
    def test_an_unpruned_model_comes_back_the_same(self, name):
        model = zoo.make(name)
        with self.assertWarnsRegex(UserWarning, "nothing to remove.*, 0 of"):
            small, report = strip(model, return_report=True)
        self.assertEqual(shapes(small), shapes(model))
        for old, new in zip(model.get_weights(), small.get_weights()):
            np.testing.assert_array_equal(old, new)
        x = zoo.inputs_of(model)
        for want, have in zip(outputs_of(model, x), outputs_of(small, x)):
            np.testing.assert_array_equal(want, have)
        self.assertEqual(report.weights_before, report.weights_after)
        for row in report.rows:
            self.assertEqual(row.before, row.after)
            self.assertEqual((row.zeros_before, row.zeros_after), (0, 0))

    @parameterized.parameters("depthwise", "residual", "nested", "reshapes")
    def test_is_deterministic_and_a_fixed_point(self, name):
        model = zoo.make(name)
        both_with_vectors(model, np.random.default_rng(0))
        small, again = strip(model), strip(model)
        twice = strip(small)
        self.assertLess(small.count_params(), model.count_params())
        self.assertEqual(shapes(twice), shapes(small))
        for a, b, c in zip(*(m.get_weights() for m in (small, again, twice))):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, c)


class GoldenTest(parameterized.TestCase):
    def test_lenet5_of_the_paper(self):
        """45.54x -> 231.82x by unused path removal alone.

        LeNet-5 has 5*5*1*20 weights in conv1 and 5*5*20*50 in conv2. Here
        conv1 is dense, conv2 keeps 6 filters and, of two input channels, the
        5 positions of the window's diagonal.
        """
        model = zoo.make("lenet5")
        support = np.zeros((5, 5, 20, 50), bool)
        for channel in (3, 11):
            support[range(5), range(5), channel, 7:13] = True
        edit(model.get_layer("conv2").kernel, ~support)
        before = costs(model)
        self.assertEqual(before.conv_parameters, 5 * 5 * 1 * 20 + 25 * 20 * 50)
        self.assertEqual(before.conv_parameters, 25500)
        self.assertEqual(before.conv_weights, 5 * 5 * 1 * 20 + 5 * 2 * 6)
        self.assertAlmostEqual(25500 / before.conv_weights, 45.54, 2)

        small = strip(model)

        # conv1 keeps the two filters that conv2 reads: 18 * 25 weights go.
        after = costs(small)
        self.assertEqual(small.get_layer("conv1").filters, 2)
        self.assertEqual(after.conv_weights, 5 * 5 * 1 * 2 + 5 * 2 * 6)
        self.assertAlmostEqual(25500 / after.conv_weights, 231.82, 2)
        self.assertEqual(
            shapes(small),
            {
                "conv1/kernel": (5, 5, 1, 2),
                "conv1/bias": (2,),
                "conv2/kernel": (5, 5, 2, 6),
                "conv2/bias": (6,),
                "fc1/kernel": (4 * 4 * 6, 500),
                "fc1/bias": (500,),
                "fc2/kernel": (500, 10),
                "fc2/bias": (10,),
            },
        )
        self.assertLess(max_error(model, small, zoo.inputs_of(model)), 1e-5)

    def test_flatten_then_dense(self):
        """A dead filter takes its 2*3 rows of the dense kernel with it."""
        inputs = keras.Input((4, 5, 2))
        x = layers.Conv2D(4, 3, name="conv")(inputs)
        x = layers.Dense(5, name="fc")(layers.Flatten()(x))
        model = keras.Model(inputs, x)
        zoo.randomize(model)
        zero_filters(model, conv=[1])
        edit(model.get_layer("conv").bias, [1])
        small = strip(model)
        rows = ops.convert_to_numpy(model.get_layer("fc").kernel)
        kept = rows.reshape(2 * 3, 4, 5)[:, [0, 2, 3]].reshape(2 * 3 * 3, 5)
        np.testing.assert_array_equal(small.get_layer("fc").kernel, kept)


def _residual():
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    y = layers.Conv2D(4, 3, padding="same", name="a")(x)
    y = layers.BatchNormalization(name="bn")(y)
    y = layers.Conv2D(4, 3, padding="same", name="b")(y)
    x = layers.Add(name="sum")([x, y])
    x = layers.Conv2D(2, 1, name="out")(x)
    model = keras.Model(inputs, x)
    zoo.randomize(model)
    return model


class DeathTest(parameterized.TestCase):
    def names(self, model):
        return [layer.name for layer in model.layers[1:]]

    def check(self, model):
        small = strip(model)
        self.assertLess(max_error(model, small, zoo.inputs_of(model)), 1e-5)
        return small

    def test_a_dead_branch_vanishes_whole(self):
        model = _residual()
        edit(model.get_layer("b").kernel, ...)
        edit(model.get_layer("b").bias, ...)
        self.assertEqual(self.names(self.check(model)), ["stem", "out"])

    def test_a_raw_sum_loses_its_branch_too(self):
        inputs = keras.Input((5,))
        dead = layers.Dense(4, name="dead")(inputs)
        total = layers.Dense(4, name="live")(inputs) + dead
        model = keras.Model(inputs, layers.Dense(2, name="out")(total))
        zoo.randomize(model)
        edit(model.get_layer("dead").kernel, ...)
        edit(model.get_layer("dead").bias, ...)
        self.assertEqual(self.names(self.check(model)), ["live", "out"])

    def test_a_constant_branch_stays_if_it_is_not_zero(self):
        model = _residual()
        edit(model.get_layer("b").kernel, ...)
        small = self.check(model)
        self.assertIn("b", self.names(small))
        # It reads one channel of its input, since a width of 0 is illegal.
        self.assertEqual(tuple(small.get_layer("b").kernel.shape)[2:], (1, 4))

    def test_dead_stem(self):
        model = _residual()
        edit(model.get_layer("stem").kernel, ...)
        edit(model.get_layer("stem").bias, ...)
        small = self.check(model)
        self.assertEqual(self.names(small), ["stem", "a", "bn", "b", "out"])

    @parameterized.parameters("mlp", "residual", "in_and_out", "nested")
    def test_a_model_that_is_constant(self, name):
        model = zoo.make(name)
        everything(model, None)
        small = self.check(model)
        x = zoo.inputs_of(model)
        other = keras.tree.map_structure(lambda a: a + 1, x)
        for a, b in zip(outputs_of(small, x), outputs_of(small, other)):
            np.testing.assert_array_equal(a, b)
        if name != "in_and_out":  # There inputs and outputs fix all widths.
            self.assertLess(small.count_params(), model.count_params() / 2)

    def test_an_unconnected_input_stays_an_input(self):
        u, v = keras.Input((4,), name="u"), keras.Input((3,), name="v")
        x = layers.Dense(4, name="a")(u)
        y = layers.Dense(4, name="b")(v)
        z = layers.Dense(2, name="out")(layers.Add()([x, y]))
        model = keras.Model([u, v], z)
        zoo.randomize(model)
        edit(model.get_layer("b").kernel, ...)
        edit(model.get_layer("b").bias, ...)
        small = self.check(model)
        self.assertEqual([x.name for x in small.inputs], ["u", "v"])
        self.assertNotIn("b", self.names(small))

    def test_a_sum_of_two_types_keeps_its_type(self):
        inputs = keras.Input((4,))
        x, y = (
            layers.Dense(3, name=n, dtype="mixed_bfloat16")(inputs)
            for n in "ab"
        )
        model = keras.Model(inputs, layers.Add(dtype="float32")([x, y]))
        zoo.randomize(model)
        edit(model.get_layer("b").kernel, ...)
        edit(model.get_layer("b").bias, ...)
        self.check(model)


class KeptTest(parameterized.TestCase):
    def test_is_not_compiled_though_the_model_is(self):
        model = zoo.make("mlp")
        plan = SparsityPlan.uniform(model, filters=0.5)
        model.compile(ADMMWrapper(keras.optimizers.SGD(0.1), plan), "mse")
        model.fit(np.ones((4, 12)), np.ones((4, 3)), verbose=0)
        filters(model, np.random.default_rng(0))
        small = strip(model)
        self.assertFalse(small.compiled)
        self.assertIsInstance(model.optimizer, ADMMWrapper)
        self.assertLess(max_error(model, small, zoo.inputs_of(model)), 1e-5)

    def test_names_structures_and_flags(self):
        model = zoo.make("in_and_out")
        model.get_layer("a").trainable = False
        zero_filters(model, a=[1])
        small = strip(model)
        self.assertEqual(sorted(small.input), ["u", "v"])
        self.assertEqual(sorted(small.output), ["sum", "z"])
        self.assertEqual(
            sorted(layer.name for layer in small.layers),
            sorted(layer.name for layer in model.layers),
        )
        self.assertFalse(small.get_layer("a").trainable)
        self.assertTrue(small.get_layer("b").trainable)
        self.assertEqual(small.name, model.name)

    def test_configs(self):
        inputs = keras.Input((4,))
        x = layers.Dense(
            4,
            name="a",
            kernel_initializer=keras.initializers.HeNormal(seed=3),
            kernel_regularizer=keras.regularizers.L2(0.5),
            bias_constraint="non_neg",
        )(inputs)
        model = keras.Model(inputs, layers.Dense(2)(x))
        zoo.randomize(model)
        zero_filters(model, a=[1])
        old = model.get_layer("a").get_config()
        new = strip(model).get_layer("a").get_config()
        self.assertEqual(new.pop("units"), 3)
        old.pop("units")
        self.assertEqual(new, old)

    def test_mixed_bfloat16(self):
        inputs = keras.Input((7, 7, 3))
        policy = {"dtype": "mixed_bfloat16"}
        x = layers.Conv2D(6, 3, padding="same", name="a", **policy)(inputs)
        x = layers.BatchNormalization(**policy)(x)
        x = layers.Conv2D(4, 3, name="b", **policy)(x)
        model = keras.Model(inputs, layers.Flatten(**policy)(x))
        zoo.randomize(model)
        zero_filters(model, a=[1, 2])
        borders(model, None)
        small = strip(model)
        for layer in small.layers[1:]:
            self.assertEqual(layer.dtype_policy.name, "mixed_bfloat16")
        self.assertEqual(small.output.dtype, "bfloat16")
        # bfloat16 has 8 bits: one rounding is up to 2**-8.
        x = zoo.inputs_of(model)
        self.assertLess(max_error(model, small, x), 4 * 2**-8)


class ReportTest(parameterized.TestCase):
    def test_rows(self):
        model = zoo.make("lenet5")
        zero_filters(model, conv1=[0, 1])
        edit(model.get_layer("conv1").bias, [0, 1])
        edit(model.get_layer("conv2").kernel, 2, 2, 5)
        _, report = strip(model, return_report=True)
        rows = {row.key: row for row in report.rows}
        conv1, conv2 = rows["conv1/kernel"], rows["conv2/kernel"]
        self.assertEqual(conv1.before, (5, 5, 1, 20))
        self.assertEqual(conv1.after, (5, 5, 1, 18))
        self.assertEqual((conv1.zeros_before, conv1.zeros_after), (50, 0))
        self.assertEqual(conv2.after, (5, 5, 18, 50))
        # What no path removal reaches is stored, and counted.
        self.assertEqual((conv2.zeros_before, conv2.zeros_after), (50, 50))
        self.assertEqual(
            report.weights_before - report.weights_after,
            2 * (5 * 5 + 1) + 5 * 5 * 2 * 50,
        )
        groups = {layers: row for layers, *row in report.channels}
        self.assertEqual(groups["conv1"], [20, 18, ""])
        self.assertEqual(groups["fc1"], [500, 500, ""])
        why = "it is an output of the model"
        self.assertEqual(groups["fc2"], [10, 10, why])
        self.assertRegex(str(report), r"\n +18 +20  conv1\n")
        self.assertRegex(str(report), rf"\n +10 +10  fc2: {why}(\n|$)")

    def test_what_is_gone_and_what_was_skipped(self):
        model = _residual()
        edit(model.get_layer("b").kernel, ...)
        edit(model.get_layer("b").bias, ...)
        _, report = strip(model, return_report=True)
        after = {row.key: row.after for row in report.rows}
        self.assertIsNone(after["a/kernel"])
        self.assertIsNotNone(after["stem/kernel"])
        kept = {layers: after for layers, _, after, _ in report.channels}
        self.assertEqual(kept["a"], 0)
        self.assertGreater(kept["b+stem"], 0)
        model = zoo.make("unknown_layers")
        _, report = strip(model, return_report=True)
        skipped = dict(report.skipped)
        self.assertEqual(skipped["double"], "no rule for Lambda")
        self.assertEqual(len(skipped), 3)


class RaiseTest(parameterized.TestCase):
    def test_subclassed(self):
        class Model(keras.Model):
            def call(self, x):
                return x

        with self.assertRaisesRegex(TypeError, "Rewrite it as a functional"):
            strip(Model())

    @parameterized.parameters(keras.Model, keras.Sequential)
    def test_functional_or_sequential_with_a_call_of_its_own(self, base):
        class Model(base):
            def call(self, x, training=None, mask=None):
                return super().call(x) * 2

        inputs = keras.Input((3,))
        if base is keras.Model:
            model = Model(inputs, layers.Dense(2)(inputs))
        else:
            model = Model([inputs, layers.Dense(2)])
        with self.assertRaisesRegex(TypeError, "Rewrite it as a functional"):
            strip(model)

    def test_a_layer_that_cannot_be_copied(self):
        class Mine(layers.Layer):
            def __init__(self, width, **kwargs):
                super().__init__(**kwargs)
                self.width = width

            def get_config(self):
                return super().get_config()

            def call(self, x):
                return x * self.width

        inputs = keras.Input((3,))
        model = keras.Model(inputs, Mine(3, name="mine")(inputs))
        message = "layer 'mine' of type Mine.*Mend these two"
        with self.assertRaisesRegex(TypeError, message):
            strip(model)

    def test_unbuilt(self):
        model = keras.Sequential([layers.Dense(2)])
        with self.assertRaisesRegex(ValueError, "put a `keras.Input` first"):
            strip(model)

    def test_not_a_model(self):
        with self.assertRaisesRegex(TypeError, "put them into a functional"):
            strip(layers.Dense(2))

    def test_unknown_lowering(self):
        message = r"'smallest'\], an `AutoLowering.*lowering='gather'"
        with self.assertRaisesRegex(ValueError, message):
            strip(zoo.make("mlp"), lowering="gather")

    def test_not_finite(self):
        model = zoo.make("mlp")
        model.get_layer("d0").bias.assign(np.full(16, np.nan))
        model.get_layer("d1").kernel.assign(np.full((16, 10), np.inf))
        message = r"TerminateOnNaN.*in \['d0/bias', 'd1/kernel'\]"
        with self.assertRaisesRegex(ValueError, message):
            strip(model)


if __name__ == "__main__":
    absltest.main()
