"""Cutting a convolution's window, against the convolution itself."""

import itertools

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.rebuild import layer_edits
from keras_prm.rebuild.strip import strip
from tests.helpers import zoo

# Stride and dilation, which TensorFlow does not combine.
STEPS = ((1, 1), (2, 1), (3, 1), (1, 2), (1, 3))


def build(kind, size, length, padding, steps, channels=2):
    """A random convolution, its input and its layer."""
    rank = 1 if kind is layers.Conv1D else 2
    layer = kind(
        3, size, strides=steps[0], dilation_rate=steps[1], padding=padding
    )
    shape = (length, length + 1)[:rank] + (channels,)
    layer.build((None, *shape))
    rng = np.random.default_rng(0)
    for variable in layer.weights:
        variable.assign(rng.normal(size=variable.shape))
    x = rng.normal(size=(2, *shape)).astype("float32")
    return layer, x


def run_box(layer, kernel, box, x):
    """What the smaller convolution makes of x, behind its adapters."""
    config = {**layer.get_config(), **box.config}
    small = type(layer).from_config(config)
    for adapter in box.layers_before("small", layer.dtype_policy):
        x = adapter(x)
    small.build(x.shape)
    small.kernel.assign(kernel[box.window])
    small.bias.assign(layer.bias)
    return small(x)


class BoxTest(parameterized.TestCase):
    def check(self, layer, kernel, x, shapes=None):
        layer.kernel.assign(kernel)
        box = layer_edits.find_box(
            layer, kernel, shapes or [(None, *x.shape[1:])]
        )
        self.assertIsNotNone(box)
        np.testing.assert_allclose(
            run_box(layer, kernel, box, x), layer(x), atol=1e-5
        )
        return box

    @parameterized.parameters(
        *itertools.product(("valid", "same", "causal"), STEPS, (2, 3, 4))
    )
    def test_conv1d_every_box(self, padding, steps, size):
        layer, x = build(layers.Conv1D, size, 11, padding, steps)
        dense = np.array(keras.ops.convert_to_numpy(layer.kernel))
        for start in range(size):
            for stop in range(start + 1, size + 1):
                if stop - start < size:
                    kernel = np.zeros_like(dense)
                    kernel[start:stop] = dense[start:stop]
                    box = self.check(layer, kernel, x)
                    self.assertEqual(box.window, (slice(start, stop),))
                    self.assertEqual(box.config["kernel_size"], (stop - start,))

    @parameterized.parameters(*itertools.product(("valid", "same"), STEPS))
    def test_conv2d_every_position(self, padding, steps):
        size = (3, 2)
        layer, x = build(layers.Conv2D, size, 7, padding, steps)
        dense = np.array(keras.ops.convert_to_numpy(layer.kernel))
        for at in np.ndindex(*size):
            kernel = np.zeros_like(dense)
            kernel[at] = dense[at]
            self.check(layer, kernel, x)

    @parameterized.product(length=(1, 2, 3, 4, 5), size=(3, 5), stride=(1, 2))
    def test_windows_larger_than_the_input(self, length, size, stride):
        layer, x = build(layers.Conv1D, size, length, "same", (stride, 1))
        dense = np.array(keras.ops.convert_to_numpy(layer.kernel))
        for at in range(size):
            kernel = np.zeros_like(dense)
            kernel[at] = dense[at]
            self.check(layer, kernel, x)

    @parameterized.parameters("valid", "same", "causal")
    def test_nothing_is_live(self, padding):
        layer, x = build(layers.Conv1D, 4, 9, padding, (1, 2))
        kernel = np.zeros(layer.kernel.shape, "float32")
        box = self.check(layer, kernel, x)
        self.assertEqual(box.config["kernel_size"], (1,))

    def test_the_center_needs_no_adapter(self):
        layer, x = build(layers.Conv2D, 5, 6, "same", (1, 1))
        kernel = np.zeros(layer.kernel.shape, "float32")
        kernel[1:4, 2] = 1.0
        box = self.check(layer, kernel, x)
        self.assertEqual(box.config, {"kernel_size": (3, 1)})
        self.assertEqual(box.layers_before("small", None), [])

    def test_a_hole_inside_stays(self):
        layer, x = build(layers.Conv1D, 5, 6, "same", (1, 1))
        kernel = np.zeros(layer.kernel.shape, "float32")
        kernel[1] = kernel[4] = 1.0
        box = self.check(layer, kernel, x)
        self.assertEqual(box.window, (slice(1, 5),))


class NoneTest(parameterized.TestCase):
    def border(self, kind=layers.Conv1D, **options):
        layer = kind(3, 3, **options)
        layer.build((None, *(6,) * (2 if kind is layers.Conv2D else 1), 2))
        kernel = np.ones(layer.kernel.shape)
        kernel[0] = 0
        return layer, kernel

    def test_a_full_kernel(self):
        layer, kernel = self.border()
        self.assertIsNone(
            layer_edits.find_box(layer, kernel + 1, [(None, 6, 2)])
        )

    @parameterized.parameters((1, True), (2, False))
    def test_unknown_size(self, stride, found):
        """`same` with strides pads by the size, which has to be known."""
        layer, kernel = self.border(padding="same", strides=stride)
        box = layer_edits.find_box(layer, kernel, [(None, None, 2)])
        self.assertEqual(box is not None, found)

    def test_two_sizes(self):
        layer, kernel = self.border(padding="same", strides=2)
        shapes = [(None, 6, 2), (None, 8, 2)]
        self.assertIsNone(layer_edits.find_box(layer, kernel, shapes))
        self.assertIsNotNone(
            layer_edits.find_box(layer, kernel, shapes[:1] * 2)
        )

    def test_other_layers(self):
        class Mine(layers.Conv1D):
            pass

        layer, _ = self.border(Mine)
        self.assertFalse(layer_edits.has_window(layer))
        layer, _ = self.border(layers.Conv2D)
        self.assertTrue(layer_edits.has_window(layer))
        layer.data_format = "channels_first"
        self.assertFalse(layer_edits.has_window(layer))


class DepthwiseTest(parameterized.TestCase):
    def stripped(self, *rows, kind=layers.DepthwiseConv2D, **options):
        """A model whose depthwise layer has these rows of 5, and its twin."""
        rank = 2 if kind is layers.DepthwiseConv2D else 1
        inputs = keras.Input((9, 8, 4)[:rank] + (4,))
        layer = kind(5, depth_multiplier=2, name="dw", **options)
        model = keras.Model(inputs, layer(inputs))
        zoo.randomize(model)
        kernel = np.array(keras.ops.convert_to_numpy(layer.kernel))
        dead = [row for row in range(5) if row not in rows]
        kernel[dead] = 0
        layer.kernel.assign(kernel)
        small = strip(model)
        x = zoo.inputs_of(model)
        np.testing.assert_allclose(small(x), model(x), atol=1e-5)
        return tuple(small.get_layer("dw").kernel.shape)

    @parameterized.parameters(
        (layers.DepthwiseConv1D, (3, 4, 2)),
        (layers.DepthwiseConv2D, (3, 5, 4, 2)),
    )
    def test_the_center_is_cut(self, kind, shape):
        found = self.stripped(1, 2, 3, kind=kind, padding="same")
        self.assertEqual(found, shape)

    def test_what_would_need_padding_stays(self):
        self.assertEqual(self.stripped(0, 1, padding="same")[0], 5)

    def test_valid_needs_cropping(self):
        self.assertEqual(self.stripped(0, 1, padding="valid")[0], 5)


class SharedTest(parameterized.TestCase):
    @parameterized.parameters((1, "same", 2), (2, "same", 3), (2, "valid", 2))
    def test_one_layer_on_two_sizes(self, stride, padding, rows):
        inputs = keras.Input((8, 8, 3)), keras.Input((9, 9, 3))
        conv = layers.Conv2D(4, 3, strides=stride, padding=padding, name="c")
        model = keras.Model(list(inputs), [conv(x) for x in inputs])
        zoo.randomize(model)
        kernel = np.array(keras.ops.convert_to_numpy(conv.kernel))
        kernel[0] = 0
        conv.kernel.assign(kernel)
        small = strip(model)
        shape = tuple(small.get_layer("c").kernel.shape)
        self.assertEqual(shape, (rows, 3, 3, 4))
        x = zoo.inputs_of(model)
        for want, have in zip(model(x), small(x)):
            np.testing.assert_allclose(want, have, atol=1e-5)


if __name__ == "__main__":
    absltest.main()
