"""Windows of convolutions, against what Keras computes."""

import itertools

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.utils import conv_geometry


def sees_no_padding(layer, size):
    """Taps whose product with an image of ones is one at every position."""
    found = np.zeros(layer.kernel_size, bool)
    ones = np.ones((1, *size, 1), "float32")
    for tap in itertools.product(*map(range, layer.kernel_size)):
        kernel = np.zeros(layer.kernel.shape, "float32")
        kernel[tap] = 1.0
        layer.kernel.assign(kernel)
        y = keras.ops.convert_to_numpy(layer(ones))
        found[tap] = (y == 1).all()
    return found


class InsideTest(parameterized.TestCase):
    @parameterized.product(
        size=(5, 6, 9),
        kernel=(1, 2, 3, 4),
        stride=(1, 2, 3),
        padding=("valid", "same", "causal"),
    )
    def test_one_axis(self, size, kernel, stride, padding):
        for dilation in (1, 2) if stride == 1 and kernel < 4 else (1,):
            layer = layers.Conv1D(
                1,
                kernel,
                strides=stride,
                padding=padding,
                dilation_rate=dilation,
                use_bias=False,
            )
            layer.build((None, size, 1))
            np.testing.assert_array_equal(
                conv_geometry.taps_inside(layer, (size,)),
                sees_no_padding(layer, (size,)),
            )

    @parameterized.parameters((3, 1), ((3, 2), (2, 1)), ((1, 3), (1, 1)))
    def test_two_axes(self, kernel, strides):
        layer = layers.Conv2D(
            1, kernel, strides=strides, padding="same", use_bias=False
        )
        layer.build((None, 6, 7, 1))
        np.testing.assert_array_equal(
            conv_geometry.taps_inside(layer, (6, 7)),
            sees_no_padding(layer, (6, 7)),
        )

    def test_sizes_that_are_not_known(self):
        layer = layers.Conv1D(1, 3, padding="same")
        layer.build((None, None, 1))
        inside = conv_geometry.taps_inside(layer, (None,))
        np.testing.assert_array_equal(inside, [False, True, False])
        layer = layers.Conv1D(1, 3, strides=2, padding="same")
        layer.build((None, None, 1))
        self.assertFalse(conv_geometry.taps_inside(layer, (None,)).any())
        self.assertIsNone(conv_geometry.pads(layer, {(None,)}))
        self.assertIsNone(conv_geometry.pads(layer, {(6,), (7,)}))


if __name__ == "__main__":
    absltest.main()
