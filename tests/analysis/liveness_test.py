"""Which channels are constant, which are unused, and which go."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.analysis.liveness import Liveness
from keras_prm.analysis.trace import trace
from tests.helpers import zoo


def dead(model, name, which=(1,), bias=0.0):
    """Zeros filters of a layer and sets their biases."""
    layer = model.get_layer(name)
    kernel = np.array(keras.ops.convert_to_numpy(layer.kernel))
    kernel[..., list(which)] = 0
    layer.kernel.assign(kernel)
    values = np.array(keras.ops.convert_to_numpy(layer.bias))
    values[list(which)] = bias
    layer.bias.assign(values)


class Verdict:
    """The liveness of a model, by layer names."""

    def __init__(self, model):
        self.graph = trace(model)
        self.live = Liveness(self.graph)
        self.weights = {w.key: w for w in self.graph.weights.values()}

    def removed(self, key, axis=-1):
        """Positions on an axis of a weight that go."""
        keep = self.live.keep(self.weights[key].ids[axis])
        return list(np.flatnonzero(~keep))

    def constant(self, name, position):
        """The constant that a layer puts out on its last axis."""
        (value,) = [v for v in self.graph.values if v.origin == name]
        found = self.live.constants.get((value.number, len(value.shape) - 1))
        return float("nan") if found is None else found[position]

    def folded(self, name):
        (contraction,) = [m for m in self.graph.contractions if m.path == name]
        return self.live.folded_bias(contraction)


def chain(*middle, bias=0.0, channels=3):
    """Conv `a` with filter 1 dead, the layers in the middle, a conv `b`."""
    x = inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(channels, 1, name="a")(x)
    for layer in middle:
        x = layer(x)
    x = layers.Conv2D(2, 1, name="b")(x)
    model = keras.Model(inputs, x)
    zoo.randomize(model)
    dead(model, "a", bias=bias)
    return model


class ConstantsTest(parameterized.TestCase):
    @parameterized.parameters(
        (layers.Activation("sigmoid"), 0.5),
        (layers.ReLU(negative_slope=0.1, threshold=1.0), -0.1),
        (layers.MaxPooling2D(3, padding="same"), 0.0),
        (layers.ZeroPadding2D(1), 0.0),
        (layers.Dropout(0.5), 0.0),
    )
    def test_of_zero(self, layer, expected):
        layer = type(layer).from_config({**layer.get_config(), "name": "m"})
        verdict = Verdict(chain(layer))
        self.assertAlmostEqual(verdict.constant("m", 1), expected, 6)
        self.assertTrue(np.isnan(verdict.constant("m", 0)))
        self.assertEqual(verdict.removed("a/kernel"), [1])

    @parameterized.parameters(
        (layers.AveragePooling2D(3, padding="same", name="m"), 0.25),
        (layers.UpSampling2D(2, "channels_last", "bilinear", name="m"), 0.25),
        (layers.Cropping2D(1, name="m"), 0.25),
        (layers.GlobalMaxPooling2D(keepdims=True, name="m"), 0.25),
        (layers.ZeroPadding2D(1, name="m"), np.nan),
    )
    def test_of_a_bias(self, layer, expected):
        layer = type(layer).from_config(layer.get_config())
        verdict = Verdict(chain(layer, bias=0.25))
        np.testing.assert_equal(verdict.constant("m", 1), expected)
        kept = np.isnan(expected)
        self.assertEqual(verdict.removed("a/kernel"), [] if kept else [1])

    def test_batch_norm_makes_a_constant_of_zero(self):
        bn = layers.BatchNormalization(name="m", epsilon=0.0)
        model = chain(bn)
        values = {"gamma": 2.0, "beta": 1.0}
        values.update(moving_mean=3.0, moving_variance=4.0)
        for name, value in values.items():
            getattr(bn, name).assign(np.full(3, value))
        # gamma * (0 - mean) / sqrt(variance) + beta
        expected = 2.0 * (0 - 3.0) / 2.0 + 1.0
        self.assertAlmostEqual(Verdict(model).constant("m", 1), expected, 6)

    def test_gamma_zero_leaves_beta_and_frees_what_is_before(self):
        bn = layers.BatchNormalization(name="m")
        model = chain(bn)
        bn.gamma.assign([0.0, 1.0, 1.0])
        verdict = Verdict(model)
        beta = float(bn.beta[0])
        self.assertAlmostEqual(verdict.constant("m", 0), beta, 6)
        self.assertEqual(verdict.removed("a/kernel"), [0, 1])

    def test_zero_absorbs_in_a_product(self):
        inputs = keras.Input((4,))
        x, y = (layers.Dense(3, name=n)(inputs) for n in "ab")
        z = layers.Multiply(name="m")([x, y])
        model = keras.Model(inputs, layers.Dense(2)(z))
        zoo.randomize(model)
        dead(model, "a")
        verdict = Verdict(model)
        self.assertEqual(verdict.constant("m", 1), 0.0)
        self.assertEqual(verdict.removed("b/kernel"), [1])

    def test_softmax_is_not_elementwise(self):
        verdict = Verdict(chain(layers.Softmax(name="m")))
        self.assertTrue(np.isnan(verdict.constant("m", 1)))
        self.assertEqual(verdict.removed("a/kernel"), [])


class FoldTest(parameterized.TestCase):
    @parameterized.parameters(
        ("valid", 3, 0.5, [1]),
        ("same", 1, 0.5, [1]),
        ("same", 3, 0.5, []),
        ("same", 3, 0.0, [1]),
    )
    def test_conv(self, padding, size, bias, removed):
        """Padding is zero, so at the border it is not the constant."""
        x = inputs = keras.Input((8, 8, 2))
        x = layers.Conv2D(3, 1, name="a")(x)
        x = layers.Conv2D(4, size, padding=padding, name="b")(x)
        model = keras.Model(inputs, x)
        zoo.randomize(model)
        dead(model, "a", bias=bias)
        verdict = Verdict(model)
        self.assertEqual(verdict.removed("a/kernel"), removed)
        kernel = keras.ops.convert_to_numpy(model.get_layer("b").kernel)
        amount = bias * kernel[:, :, 1].sum((0, 1)) if removed else 0
        np.testing.assert_allclose(
            verdict.folded("b"), amount + np.zeros(4), atol=1e-6
        )

    @parameterized.parameters(("valid", True), ("same", False))
    def test_a_constant_image_is_constant_only_inside(self, padding, constant):
        x = inputs = keras.Input((8, 8, 2))
        x = layers.Conv2D(3, 1, name="a")(x)
        x = layers.Conv2D(4, 3, padding=padding, name="b")(x)
        model = keras.Model(inputs, layers.Conv2D(2, 1)(x))
        zoo.randomize(model)
        dead(model, "a", which=range(3), bias=0.5)
        found = Verdict(model).constant("b", 0)
        self.assertEqual(not np.isnan(found), constant)
        image = model.get_layer("b")(np.full((1, 8, 8, 3), 0.5))
        if constant:
            np.testing.assert_allclose(image[..., 0], found, atol=1e-5)

    def test_causal_does_not_fold(self):
        x = inputs = keras.Input((8, 2))
        x = layers.Conv1D(3, 1, name="a")(x)
        x = layers.Conv1D(4, 2, padding="causal", name="b")(x)
        model = keras.Model(inputs, x)
        zoo.randomize(model)
        dead(model, "a", bias=0.5)
        self.assertEqual(Verdict(model).removed("a/kernel"), [])

    def test_dense_and_all_readers_together(self):
        """One reader that cannot fold keeps the channel for all."""
        inputs = keras.Input((4, 2))
        x = layers.Dense(3, name="a")(inputs)
        y = layers.Dense(2, name="b")(x)
        for padding, removed in (("valid", [1]), ("same", [])):
            z = layers.Conv1D(2, 3, padding=padding)(x)
            model = keras.Model(inputs, [y, z])
            zoo.randomize(model)
            dead(model, "a", bias=0.5)
            verdict = Verdict(model)
            self.assertEqual(verdict.removed("a/kernel"), removed)
            self.assertEqual(verdict.folded("b").any(), bool(removed))

    @parameterized.parameters((0.5, 0.5, True), (0.5, 0.25, False))
    def test_a_shared_reader_has_one_bias(self, first, second, folds):
        inputs = keras.Input((4,))
        x, y = (layers.Dense(3, name=n)(inputs) for n in "ab")
        shared = layers.Dense(2, name="c")
        model = keras.Model(inputs, [shared(x), shared(y)])
        zoo.randomize(model)
        dead(model, "a", bias=first)
        dead(model, "b", bias=second)
        removed = [1] if folds else []
        self.assertEqual(Verdict(model).removed("c/kernel", 0), removed)

    def test_a_shared_reader_of_one_constant_only(self):
        inputs = keras.Input((4,))
        x, y = (layers.Dense(3, name=n)(inputs) for n in "ab")
        shared = layers.Dense(2, name="c")
        model = keras.Model(inputs, [shared(x), shared(y)])
        zoo.randomize(model)
        dead(model, "a")
        self.assertEqual(Verdict(model).removed("c/kernel", 0), [])


class UseTest(parameterized.TestCase):
    def test_what_only_feeds_the_unused_is_unused(self):
        x = inputs = keras.Input((4,))
        for name in "abc":
            x = layers.Dense(3, name=name)(x)
        model = keras.Model(inputs, layers.Dense(2, name="out")(x))
        zoo.randomize(model)
        # c reads channel 0 of b, and b's filter 0 reads channel 2 of a.
        for name, row in (("c", 0), ("b", 2)):
            kernel = np.zeros((3, 3))
            kernel[row] = 1.0
            model.get_layer(name).kernel.assign(kernel)
        verdict = Verdict(model)
        self.assertEqual(verdict.removed("b/kernel"), [1, 2])
        self.assertEqual(verdict.removed("a/kernel"), [0, 1])
        self.assertEqual(verdict.removed("c/kernel"), [])

    def residual(self):
        """Two blocks whose sums tie a stem and two writers in a cycle."""
        inputs = keras.Input((4,))
        x = layers.Dense(3, name="stem")(inputs)
        for name in ("one", "two"):
            y = layers.Dense(5, name=name + "a")(x)
            x = layers.Add()([x, layers.Dense(3, name=name + "b")(y)])
        model = keras.Model(inputs, layers.Dense(2, name="out")(x))
        zoo.randomize(model)
        return model

    def silence(self, model, *names, channel=1):
        for name in names:
            kernel = model.get_layer(name).kernel
            value = np.array(keras.ops.convert_to_numpy(kernel))
            value[channel] = 0
            kernel.assign(value)

    def test_a_residual_cycle_nobody_reads_dies(self):
        """Its writers are alive; every reader multiplies it by zero."""
        model = self.residual()
        self.silence(model, "onea", "twoa", "out")
        verdict = Verdict(model)
        for key in ("stem/kernel", "oneb/kernel", "twob/kernel"):
            self.assertEqual(verdict.removed(key), [1])
        self.assertEqual(verdict.removed("oneb/kernel", 0), [])

    def test_one_reader_keeps_it(self):
        model = self.residual()
        self.silence(model, "onea", "out")
        self.assertEqual(Verdict(model).removed("stem/kernel"), [])

    def test_one_writer_keeps_it(self):
        model = self.residual()
        dead(model, "stem")
        dead(model, "oneb")
        self.assertEqual(Verdict(model).removed("stem/kernel"), [])
        dead(model, "twob")
        self.assertEqual(Verdict(model).removed("stem/kernel"), [1])

    def test_what_only_feeds_a_dead_cycle_goes_with_it(self):
        model = self.residual()
        self.silence(model, "onea", "twoa", "out", channel=slice(0, 3))
        verdict = Verdict(model)
        # One of each axis stays, since a width of 0 is illegal.
        self.assertEqual(verdict.removed("stem/kernel"), [1, 2])
        self.assertEqual(verdict.removed("onea/kernel"), [1, 2, 3, 4])

    def test_outputs_stay_but_need_not_be_computed(self):
        """A pinned class can be unused: its writers' weights do not matter."""
        inputs = keras.Input((4, 3))
        x = layers.Dense(5, name="a")(inputs)
        x = layers.LayerNormalization()(layers.Dense(5, name="b")(x))
        model = keras.Model(inputs, layers.Dense(2, name="out")(x))
        zoo.randomize(model)
        verdict = Verdict(model)
        classes = verdict.graph.classes[verdict.weights["b/kernel"].ids[1]]
        self.assertFalse(verdict.live.unused[classes].any())
        self.assertEqual(verdict.removed("b/kernel"), [])

    def test_is_zero(self):
        model = self.residual()
        dead(model, "oneb", which=range(3))
        verdict = Verdict(model)
        zeros = {
            value.origin: verdict.live.is_zero(value)
            for value in verdict.graph.values
        }
        self.assertTrue(zeros["oneb"])
        self.assertFalse(zeros["stem"])
        self.assertFalse(zeros["twob"])


if __name__ == "__main__":
    absltest.main()
