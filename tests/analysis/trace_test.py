"""Channel classes of known models."""

from unittest import mock

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers
from keras import ops

from keras_prm.analysis.trace import trace
from keras_prm.plans.plan import SparsityPlan
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.rebuild.strip import strip
from keras_prm.rules import registry
from keras_prm.utils import training_argument
from tests.helpers import zoo

_NORM = "it normalizes over all channels"
_SOFTMAX = "no rule for Softmax"
LEFT_ALONE = {
    "unknown_layers": (_NORM, _SOFTMAX, "no rule for Lambda"),
    "group_norms": (_NORM,),
    "norms": (_NORM,),
    "transformer": (_NORM,),
    "activations": (_SOFTMAX,),
}


class Classes:
    """The classes of each axis of each weight, by key."""

    def __init__(self, inputs, outputs):
        model = keras.Model(inputs, outputs)
        self.graph = trace(model)
        self.weights = {w.key: w for w in self.graph.weights.values()}

    def __call__(self, key, axis):
        ids = self.weights[key].ids[axis]
        return None if ids is None else list(self.graph.classes[ids])

    def reason(self, key, axis):
        """Why the first class of an axis is pinned, or `None`."""
        return self.graph.pinned.get(self(key, axis)[0])


class ClassesTest(parameterized.TestCase):
    def assertDistinct(self, classes):
        self.assertLen(set(classes), len(classes))

    def test_a_layer_makes_classes_and_its_reader_reads_them(self):
        x = inputs = keras.Input((9, 9, 3))
        x = layers.Conv2D(4, 3, name="a")(x)
        x = layers.BatchNormalization(name="bn")(x)
        x = layers.Conv2D(2, 3, name="b")(layers.MaxPooling2D()(x))
        of = Classes(inputs, x)
        made = of("a/kernel", 3)
        self.assertDistinct(made)
        for key in ("a/bias", "bn/gamma", "bn/beta", "bn/moving_mean"):
            self.assertEqual(of(key, 0), made)
        self.assertEqual(of("b/kernel", 2), made)
        self.assertIsNone(of("b/kernel", 0))
        self.assertIsNone(of.reason("a/kernel", 3))
        self.assertIn("output of the model", of.reason("b/kernel", 3))
        self.assertIn("input of the model", of.reason("a/kernel", 2))
        roles = {key: w.role for key, w in of.weights.items()}
        self.assertEqual(roles["a/kernel"], "kernel")
        self.assertEqual(roles["bn/gamma"], "vector")
        self.assertEqual(roles["bn/moving_variance"], "statistic")

    def test_flatten_repeats(self):
        x = inputs = keras.Input((4, 5, 2))
        x = layers.Flatten()(layers.Conv2D(3, 3, name="a")(x))
        of = Classes(inputs, layers.Dense(2, name="b")(x))
        self.assertEqual(of("b/kernel", 0), of("a/kernel", 3) * (2 * 3))

    def test_flatten_of_channels_first(self):
        x = inputs = keras.Input((4, 5, 2))
        x = layers.Conv2D(3, 3, name="a")(x)
        x = layers.Flatten(data_format="channels_first")(x)
        of = Classes(inputs, layers.Dense(2, name="b")(x))
        # Axis 1 comes to the end: positions (5 - 2, 3 channels, 4 - 2).
        self.assertEqual(
            of("b/kernel", 0), list(np.repeat(of("a/kernel", 3), 2)) * 3
        )

    def test_two_axes_merged_pin(self):
        x = inputs = keras.Input((4, 3))
        x = layers.Permute((2, 1))(layers.Dense(5, name="a")(x))
        x = layers.Dense(6, name="b")(x)
        of = Classes(inputs, layers.Dense(2)(layers.Flatten()(x)))
        for key in ("a/kernel", "b/kernel"):
            self.assertIn("merges it with", of.reason(key, 1))

    @parameterized.parameters("layer", "operator")
    def test_add_unites(self, how):
        inputs = keras.Input((4,))
        x, y = (layers.Dense(3, name=n)(inputs) for n in "ab")
        z = layers.Add()([x, y]) if how == "layer" else x + y
        of = Classes(inputs, layers.Dense(2, name="c")(z))
        self.assertDistinct(of("a/kernel", 1))
        self.assertEqual(of("a/kernel", 1), of("b/kernel", 1))
        self.assertEqual(of("c/kernel", 0), of("b/kernel", 1))

    def test_concatenate(self):
        inputs = keras.Input((4,))
        x, y = layers.Dense(3, name="a")(inputs), layers.Dense(2, name="b")
        z = layers.Concatenate()([x, y(inputs), x])
        of = Classes(inputs, layers.Dense(2, name="c")(z))
        a, b = of("a/kernel", 1), of("b/kernel", 1)
        self.assertDistinct(a + b)
        self.assertEqual(of("c/kernel", 0), a + b + a)

    def test_depthwise_multiplier(self):
        x = inputs = keras.Input((6, 6, 3))
        x = layers.Conv2D(3, 1, name="a")(x)
        x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="dw")(x)
        of = Classes(inputs, layers.Conv2D(2, 1, name="b")(x))
        a = of("a/kernel", 3)
        self.assertEqual(of("dw/kernel", 2), a)
        self.assertIsNone(of("dw/kernel", 3))
        self.assertEqual(of("b/kernel", 2), list(np.repeat(a, 2)))
        self.assertEqual(of("dw/bias", 0), list(np.repeat(a, 2)))

    def test_grouped_convolution_ties_whole_groups(self):
        x = inputs = keras.Input((6, 6, 3))
        x = layers.Conv2D(4, 1, name="a")(x)
        x = layers.Conv2D(6, 3, groups=2, name="g")(x)
        of = Classes(inputs, layers.Conv2D(2, 1, name="b")(x))
        first, second = of("a/kernel", 3)[0], of("a/kernel", 3)[2]
        self.assertNotEqual(first, second)
        self.assertEqual(of("a/kernel", 3), [first] * 2 + [second] * 2)
        self.assertEqual(of("g/kernel", 3), [first] * 3 + [second] * 3)
        self.assertIsNone(of("g/kernel", 2))

    def test_channel_shuffle_keeps_its_classes(self):
        x = inputs = keras.Input((4, 4, 3))
        x = layers.Conv2D(6, 1, name="a")(x)
        x = layers.Reshape((4, 4, 2, 3))(x)
        x = layers.Reshape((4, 4, 6))(layers.Permute((1, 2, 4, 3))(x))
        of = Classes(inputs, layers.Conv2D(2, 1, name="b")(x))
        a = of("a/kernel", 3)
        self.assertEqual(of("b/kernel", 2), [a[i] for i in (0, 3, 1, 4, 2, 5)])
        self.assertIsNone(of.reason("a/kernel", 3))

    def test_a_shared_layer_ties_its_inputs(self):
        inputs = keras.Input((4,))
        x, y = (layers.Dense(3, name=n)(inputs) for n in "ab")
        shared = layers.Dense(2, name="c")
        of = Classes(inputs, [shared(x), shared(y)])
        self.assertEqual(of("a/kernel", 1), of("b/kernel", 1))

    def test_one_reshape_ties_what_it_makes(self):
        """Its config holds one width for both calls."""
        inputs = keras.Input((4,))
        shared = layers.Reshape((3, 1))
        x, y = (shared(layers.Dense(3, name=n)(inputs)) for n in "ab")
        outputs = [layers.Conv1D(2, 1)(x), layers.Conv1D(2, 1)(y)]
        of = Classes(inputs, [layers.Flatten()(z) for z in outputs])
        self.assertEqual(of("a/kernel", 1), of("b/kernel", 1))

    def test_nested_twice(self):
        i = keras.Input((3,))
        body = keras.Model(i, layers.Dense(3, name="d")(i), name="body")
        inputs = keras.Input((4,))
        x = body(body(layers.Dense(3, name="a")(inputs)))
        of = Classes(inputs, layers.Dense(2, name="b")(x))
        # What goes into the second call is what comes out of the first.
        for key, axis in (("body/d/kernel", 0), ("body/d/kernel", 1)):
            self.assertEqual(of(key, axis), of("a/kernel", 1))
        self.assertEqual(of("b/kernel", 0), of("a/kernel", 1))
        self.assertDistinct(of("a/kernel", 1))

    def test_squeeze_and_excitation(self):
        inputs = keras.Input((4, 4, 3))
        x = layers.Conv2D(5, 1, name="a")(inputs)
        g = layers.GlobalAveragePooling2D(keepdims=True)(x)
        g = layers.Conv2D(5, 1, name="g", activation="sigmoid")(g)
        x = layers.Conv2D(2, 1)(layers.Multiply()([x, g]))
        of = Classes(inputs, x)
        self.assertEqual(of("a/kernel", 3), of("g/kernel", 3))
        self.assertIsNone(of.reason("a/kernel", 3))


class PinTest(parameterized.TestCase):
    def pinned(self, make):
        x = inputs = keras.Input((5, 3))
        x = make(layers.Dense(4, name="a")(x))
        return Classes(inputs, x)

    @parameterized.parameters(
        (lambda x: layers.LayerNormalization()(x), "normalizes over all"),
        (lambda x: layers.Lambda(lambda t: t)(x), "no rule for Lambda"),
        (lambda x: ops.flip(x, 1), "no rule for Flip"),
        (lambda x: layers.Softmax()(x), "no rule for Softmax"),
        (lambda x: layers.Activation("softmax")(x), "reads every channel"),
        (lambda x: x + np.ones((2, 5, 4), "float32"), "of more axes"),
    )
    def test_with_a_reason(self, make, reason):
        of = self.pinned(lambda x: layers.Dense(2, name="b")(make(x)))
        self.assertIn(reason, of.reason("a/kernel", 1))
        self.assertLen(of.graph.skipped, 1)
        self.assertIn(reason, of.graph.skipped[0][1])

    def test_training_false_does_not(self):
        norm = layers.BatchNormalization()
        of = self.pinned(lambda x: layers.Dense(2)(norm(x, training=False)))
        self.assertIsNone(of.reason("a/kernel", 1))

    @parameterized.parameters(
        layers.BatchNormalization,
        lambda: layers.Dropout(0.5),
        lambda: layers.GaussianNoise(0.5),
        lambda: keras.Sequential([layers.Dropout(0.5)]),
        lambda: layers.TimeDistributed(layers.Dropout(0.5)),
    )
    def test_training_true_does_not(self, make):
        of = self.pinned(lambda x: layers.Dense(2)(make()(x, training=True)))
        self.assertIsNone(of.reason("a/kernel", 1))

    def test_training_true_of_a_layer_of_ones_own(self):
        class Own(layers.Dropout):
            pass

        rule = registry.RULES[layers.Dropout]
        with mock.patch.dict(registry.RULES, {Own: rule}):
            make = Own(0.5)
            of = self.pinned(lambda x: layers.Dense(2)(make(x, training=True)))
        reason = of.reason("a/kernel", 1)
        self.assertIn("called with training=True", reason)

    def test_a_nested_model_of_another_rank(self):
        """Keras makes of `(None, 4)` what the model wants, `(None, 4, 1)`."""
        inside = keras.Input((4, 1))
        inner = layers.Dense(2)(layers.Dense(3)(inside))
        inner = keras.Model(inside, inner, name="inner")
        inputs = keras.Input((4,))
        model = keras.Model(inputs, inner(inputs))
        with self.assertRaisesRegex(ValueError, "'inner'.*layers.Reshape"):
            trace(model)
        inside = keras.Input((4, 1))
        inner = layers.Dense(3)(layers.Dense(5)(layers.Flatten()(inside)))
        inner = keras.Model(inside, inner)
        model = keras.Model(inputs, inner(layers.Dense(4)(inputs)))
        zoo.randomize(model)
        hard_prune(model, SparsityPlan.uniform(model, 0.5))
        small = strip(model)
        self.assertLess(small.count_params(), model.count_params())
        x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
        np.testing.assert_allclose(small(x), model(x), atol=1e-5)

    def test_a_nested_model_hands_training_on(self):
        i = keras.Input((5, 4))
        body = keras.Model(i, layers.Dropout(0.5, name="drop")(i, training=1))
        inputs = keras.Input((5, 4))
        view = keras.Model(inputs, body(inputs, training=False))
        found = training_argument.called_in_training
        self.assertEqual(found(body), ["drop"])
        self.assertEqual(found(view), [])
        self.assertEqual(found(view, True), [f"{body.name}/drop"])

    def test_a_layer_with_one_unknown_call_keeps_its_weights(self):
        norm = layers.BatchNormalization(name="bn")
        of = self.pinned(lambda x: layers.Dense(2)(norm(norm(x), training=1)))
        self.assertIsNotNone(of.reason("bn/gamma", 0))

    def test_softmax_as_an_activation(self):
        dense = layers.Dense(3, name="b", activation="softmax")
        of = self.pinned(lambda x: layers.Dense(2)(dense(x)))
        self.assertIn("'b': its softmax reads", of.reason("b/kernel", 1))
        self.assertIsNone(of.reason("a/kernel", 1))

    def test_inner_tensors_that_are_outputs(self):
        x = inputs = keras.Input((3,))
        x = layers.Dense(4, name="a")(x)
        of = Classes(inputs, [x, layers.Dense(2)(x)])
        self.assertIn("output of the model", of.reason("a/kernel", 1))

    def test_an_axis_of_unknown_length(self):
        """It has no positions that could be tied."""
        u, v = keras.Input((None, 1)), keras.Input((4,))
        x = layers.Reshape((6, 1))(layers.Dense(6, name="a")(v))
        for join in (layers.Add(), layers.Concatenate(axis=1)):
            of = Classes([u, v], join([u, x]))
            self.assertIn("unknown length", of.reason("a/kernel", 1))


class ZooTest(parameterized.TestCase):
    @parameterized.parameters(*zoo.MODELS)
    def test_ids_fit_shapes_and_every_kernel_is_there(self, name):
        model = zoo.make(name)
        graph = trace(model)
        for value in graph.values:
            for size, ids in zip(value.shape, value.ids):
                if ids is not None:
                    self.assertLen(ids, size)
        for weight in graph.weights.values():
            for size, ids in zip(weight.variable.shape, weight.ids):
                if ids is not None:
                    self.assertLen(ids, size)
        kernels = {v.path for v in model.weights if v.path.endswith("kernel")}
        found = {w.variable.path for w in graph.weights.values()}
        self.assertContainsSubset(kernels, found)
        reasons = {reason for _, reason in graph.skipped}
        self.assertEqual(reasons, {*LEFT_ALONE.get(name, ())})

    def test_macs_are_output_positions(self):
        graph = trace(zoo.make("lenet5"))
        self.assertEqual(
            [(m.path, m.macs) for m in graph.contractions],
            [("conv1", 24 * 24), ("conv2", 8 * 8), ("fc1", 1), ("fc2", 1)],
        )

    def test_a_model_is_only_read(self):
        model = zoo.make("nested")
        config, weights = model.get_config(), model.get_weights()
        trace(model)
        self.assertEqual(model.get_config(), config)
        for a, b in zip(weights, model.get_weights()):
            np.testing.assert_array_equal(a, b)


if __name__ == "__main__":
    absltest.main()
