import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.analysis.trace import trace
from keras_prm.pruning import purify_sweeps
from keras_prm.pruning.thresholds import Thresholds
from tests.helpers import zoo

# Nothing is left of these at ten times the thresholds.
COLLAPSE = ("windows_3d",)


class SweeperTest(parameterized.TestCase):
    def make(self, name, sweeps="fixed_point"):
        model = zoo.make(name)
        rng = np.random.default_rng(0)
        for v in model.trainable_variables:
            if v.name == "kernel":
                scale = np.exp(rng.normal(size=v.shape[-2:]))
                v.assign(np.array(v) * scale)
        graph = trace(model)
        return model, purify_sweeps.Sweeper(
            graph, model.trainable_variables, Thresholds(), sweeps
        )

    def test_a_filter_is_not_weaker_for_inputs_that_fell(self):
        """Half its columns gone, it has half the energy, and is as strong."""
        model = keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Dense(8, use_bias=False),
                keras.layers.Dense(6, use_bias=False),
                keras.layers.Dense(2, use_bias=False),
            ]
        )
        first = np.ones((3, 8))
        first[:, ::2] = 0.5
        model.set_weights([first, np.ones((8, 6)), np.ones((6, 2))])
        limits = Thresholds(0.0, 0.0, 0.0, 0.8)
        sweeper = purify_sweeps.Sweeper(
            trace(model),
            model.trainable_variables,
            limits,
            "fixed_point",
        )
        sweeper.apply([1.0] * 3)
        self.assertEqual(sweeper.num_weights(), 3 * 4 + 4 * 6 + 6 * 2)

    @parameterized.parameters(*zoo.MODELS)
    def test_only_zeroes_and_takes_it_back(self, name):
        model, sweeper = self.make(name)
        before = model.get_weights()
        counts = []
        for strength in (0.0, 1.0, 3.0, 10.0):
            sweeper.apply([strength] * sweeper.num_kernels)
            for old, new in zip(before, model.get_weights(), strict=True):
                np.testing.assert_array_equal(new, np.where(new == 0, 0, old))
            counts.append(sweeper.num_weights())
            fell = sum(np.count_nonzero(w.variable) for w in sweeper.kernels)
            self.assertEqual(counts[-1], fell)
        self.assertEqual(counts[0], sweeper.num_weights_before)
        self.assertLess(counts[2], counts[0])
        self.assertGreater(counts[2], 0)
        # Where paths are narrow, what is left of one layer reads nothing.
        self.assertEqual(counts[3] == 0, name in COLLAPSE)
        sweeper.restore()
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
        for weight in sweeper.kernels:
            self.assertTrue(np.any(weight.variable), weight.key)

    def test_cascade_is_exact(self):
        """With a strength that removes nothing only the unused goes."""
        model, sweeper = self.make("residual")
        layer = model.get_layer("down")
        kernel = np.array(model.get_layer("oneb").kernel)
        kernel[..., 3:] = 0  # inside a sum: nothing may fall
        model.get_layer("oneb").kernel.assign(kernel)
        kernel = np.array(layer.kernel)
        kernel[:, :, 2] = 0  # `short` still reads it
        layer.kernel.assign(kernel)
        kernel = np.array(model.get_layer("twob").kernel)
        kernel[:, :, 5] = 0  # nobody reads channel 5 of `twoa`
        model.get_layer("twob").kernel.assign(kernel)
        x = zoo.inputs_of(model)
        before = np.array(model(x, training=False))
        sweeper = purify_sweeps.Sweeper(
            trace(model),
            model.trainable_variables,
            Thresholds(),
            "fixed_point",
        )
        sweeper.apply([1e-9] * sweeper.num_kernels)
        np.testing.assert_allclose(
            model(x, training=False), before, rtol=1e-5, atol=1e-6
        )
        for row in sweeper.rows():
            self.assertEqual((row.channels, row.filters), ((), ()))
            expected = 3 * 3 * 8 if row.key == "twoa/kernel" else 0
            self.assertEqual(row.followed, expected, row.key)
            self.assertEqual(row.strength, 1e-9)

    def test_fingerprint_tells_zeros_apart(self):
        _, sweeper = self.make("mlp")
        digests = []
        for strengths in ([0, 0, 0], [30, 0, 0], [0, 30, 0], [0, 0, 0]):
            sweeper.apply(strengths)
            digests.append(sweeper.fingerprint())
        self.assertEqual(digests[0], digests[3])
        self.assertLen({*digests}, 3)

    def test_largest_first(self):
        _, sweeper = self.make("lenet5")
        sizes = [np.count_nonzero(w.variable) for w in sweeper.kernels]
        order = [sizes[i] for i in sweeper.largest_first()]
        self.assertEqual(order, sorted(sizes, reverse=True))


if __name__ == "__main__":
    absltest.main()
