"""GatherColumns against the convolution whose columns it gathers."""

import itertools

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers
from keras import ops

from keras_prm.lowering.gather_columns import METHODS
from keras_prm.lowering.gather_columns import GatherColumns

# Strides and dilation.
STEPS = ((1, 1), (2, 1), (3, 1), (1, 2), (1, 3))


def mask_of(rng, *shape):
    """A mask with live and empty columns, the first of them live."""
    mask = rng.random(shape) < 0.4
    mask.flat[0], mask.flat[-1] = True, False
    return mask


def convolution(kind, kernel, steps, padding):
    """A layer with a kernel, and its bias at zero."""
    strides, dilation = steps
    layer = kind(
        kernel.shape[-1],
        kernel.shape[:-2],
        strides=strides,
        dilation_rate=dilation,
        padding=padding,
    )
    layer.build((None, *[None] * (kernel.ndim - 2), kernel.shape[-2]))
    layer.kernel.assign(kernel)
    return layer


def kernel_of(layer):
    return np.array(ops.convert_to_numpy(layer.kernel))


def through(layer, x, kernel):
    """The product of the gathered columns with their rows of the kernel."""
    rows = kernel.reshape(-1, kernel.shape[-1])[list(layer.columns)]
    return ops.convert_to_numpy(layer(x)) @ rows


class GatherColumnsTest(parameterized.TestCase):
    def check(self, kind, padding, steps, method, in_order, shape, window):
        rng = np.random.default_rng(0)
        x = rng.normal(size=shape).astype("float32")
        mask = mask_of(rng, *window, shape[-1])
        kernel = rng.normal(size=(*mask.shape, 5)).astype("float32")
        kernel *= mask[..., None]
        expected = convolution(kind, kernel, steps, padding)(x)
        columns = np.flatnonzero(mask)
        columns = columns if in_order else rng.permutation(columns)
        layer = GatherColumns(
            columns, window, steps[0], padding, steps[1], method
        )
        found = through(layer, x, kernel)
        np.testing.assert_allclose(
            found, ops.convert_to_numpy(expected), atol=1e-4
        )
        spec = layer.compute_output_shape(shape)
        self.assertEqual(spec[:-1], found.shape[:-1])
        self.assertEqual(spec[-1], len(columns))

    @parameterized.parameters(
        *itertools.product(
            ("valid", "same", "causal"),
            STEPS,
            METHODS,
            (True, False),
        )
    )
    def test_conv1d(self, padding, steps, method, in_order):
        shape = (2, 11, 4)
        self.check(layers.Conv1D, padding, steps, method, in_order, shape, (3,))

    @parameterized.parameters(
        *itertools.product(("valid", "same"), STEPS, METHODS, (8, 9))
    )
    def test_conv2d(self, padding, steps, method, size):
        shape = (2, size, size + 3, 4)
        self.check(
            layers.Conv2D, padding, steps, method, size == 8, shape, (3, 2)
        )

    @parameterized.parameters("valid", "same")
    def test_unequal_strides(self, padding):
        self.check(
            layers.Conv2D,
            padding,
            ((2, 1), 1),
            "patches",
            True,
            (2, 9, 8, 3),
            (3, 3),
        )

    @parameterized.parameters(*METHODS)
    def test_unknown_size(self, method):
        x = keras.Input((None, None, 3))
        layer = GatherColumns(
            [4, 13, 26], (3, 3), padding="same", method=method
        )
        model = keras.Model(x, layer(x))
        array = np.random.default_rng(0).normal(size=(1, 5, 7, 3))
        array = array.astype("float32")
        np.testing.assert_array_equal(
            model.predict(array, verbose=0)[..., 1], array[..., 1]
        )

    @parameterized.parameters(*METHODS)
    def test_features(self, method):
        x = np.arange(24, dtype="float32").reshape(2, 3, 4)
        for columns in ([3, 0, 1], [1, 2]):
            found = GatherColumns(columns, method=method)(x)
            np.testing.assert_array_equal(
                ops.convert_to_numpy(found), x[..., columns]
            )

    def test_the_example_of_the_docstring(self):
        x = np.random.default_rng(0).normal(size=(1, 4, 4, 3))
        layer = GatherColumns([13], kernel_size=(3, 3), padding="same")
        np.testing.assert_array_equal(
            ops.convert_to_numpy(layer(x.astype("float32")))[..., 0],
            x.astype("float32")[..., 1],
        )

    @parameterized.parameters(*METHODS)
    def test_config_round_trip(self, method):
        layer = GatherColumns([5, 1], (3, 1), 2, "same", 1, method, name="g")
        again = GatherColumns.from_config(layer.get_config())
        self.assertEqual(again.get_config(), layer.get_config())
        text = keras.saving.serialize_keras_object(layer)
        self.assertEqual(text["registered_name"], "keras_prm>GatherColumns")

    @parameterized.parameters(*METHODS)
    def test_gradients_reach_the_input(self, method):
        """A layer that learns stands behind a lowered one, and one before."""
        x = keras.Input((6, 6, 2))
        y = layers.Conv2D(3, 1, name="before")(x)
        y = GatherColumns([0, 13, 26], (3, 3), padding="same", method=method)(y)
        model = keras.Model(x, layers.Conv2D(2, 1)(y))
        model.compile("sgd", "mse")
        before = kernel_of(model.get_layer("before"))
        rng = np.random.default_rng(0)
        model.fit(
            rng.normal(size=(8, 6, 6, 2)),
            rng.normal(size=(8, 6, 6, 2)),
            verbose=0,
        )
        self.assertTrue((kernel_of(model.get_layer("before")) != before).all())

    def test_half_precision(self):
        x = np.ones((1, 4, 4, 2), "float32")
        layer = GatherColumns([0, 17], (3, 3), padding="same", dtype="float16")
        self.assertEqual(
            keras.backend.standardize_dtype(layer(x).dtype), "float16"
        )

    @parameterized.parameters(
        ({"columns": []}, "at least one column"),
        ({"columns": [-1]}, "none below 0"),
        ({"method": "magic"}, "a method of"),
        ({"padding": "full"}, "a padding of"),
        ({"padding": "causal", "kernel_size": (3, 3)}, "on one axis only"),
        ({"kernel_size": (3, 3, 3)}, "at most two spatial axes"),
        ({"kernel_size": (3,), "strides": 0}, "sizes of at least 1"),
        (
            {"kernel_size": (3, 3), "strides": (2, 1)},
            "Use method='patches'",
        ),
        (
            {"kernel_size": (3,), "strides": 2, "dilation_rate": 2},
            "Use method='patches'",
        ),
    )
    def test_bad_arguments(self, options, message):
        with self.assertRaisesRegex(ValueError, message):
            GatherColumns(**{"columns": [0], **options})

    @parameterized.parameters("strides", "dilation_rate")
    def test_sizes_of_another_rank(self, name):
        with self.assertRaisesRegex(ValueError, "as many strides"):
            GatherColumns([0], (3, 3), method="patches", **{name: (2,)})

    def test_numbers_of_numpy(self):
        layer = GatherColumns([0], (3, 3), np.int64(2))
        self.assertEqual(layer.strides, (2, 2))

    def test_unknown_channels(self):
        with self.assertRaisesRegex(ValueError, "a fixed size"):
            GatherColumns([0])(keras.Input((4, None)))

    def test_a_window_without_axes(self):
        with self.assertRaisesRegex(TypeError, r"such as \(3, 3\)"):
            GatherColumns([0], 3)

    def test_columns_outside_of_the_input(self):
        layer = GatherColumns([0, 6], (3,))
        with self.assertRaisesRegex(ValueError, "Expected numbers up to 5"):
            layer(np.zeros((1, 5, 2), "float32"))

    def test_patches_need_the_size(self):
        layer = GatherColumns([0], (3,), 2, "same", method="patches")
        with self.assertRaisesRegex(ValueError, "use another method"):
            layer(keras.Input((None, 2)))


if __name__ == "__main__":
    absltest.main()
