"""Models, layers and data that the tests of exporting share."""

import os
import pathlib
import tempfile

import keras
import numpy as np
from absl.testing import parameterized

from keras_prm.litert.export import export_litert

MODES = ("float32", "float16", "dynamic_range", "int8")
# Relative to the largest output: what a sound file keeps well below.
SOUND = dict(zip(MODES, (1e-5, 5e-3, 0.1, 0.2)))


def randomize(model):
    rng = np.random.default_rng(1)
    for v in model.variables:
        offset = 1.5 if "variance" in v.name else 0.1
        v.assign(offset + rng.uniform(-0.3, 0.3, v.shape))
    return model


def conv_model():
    x = image = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(8, 3, padding="same")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Activation("relu")(x)
    x = keras.layers.DepthwiseConv2D(3)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return randomize(keras.Model(image, keras.layers.Dense(4)(x)))


def standardizing():
    """A model whose int8 file divides by 0 on a black image, and images."""
    image = keras.Input((8, 8, 3))
    mean = keras.ops.mean(image, axis=(1, 2, 3), keepdims=True)
    deviation = keras.ops.std(image, axis=(1, 2, 3), keepdims=True)
    x = keras.layers.Conv2D(4, 3)((image - mean) / (deviation + 1e-3))
    x = keras.layers.GlobalAveragePooling2D()(x)
    images = np.random.default_rng(0).uniform(0, 255, (64, 8, 8, 3))
    return randomize(keras.Model(image, x)), images.astype("float32")


def dict_model():
    """Names chosen so that no order of them is the order of creation."""
    zebra = keras.Input((6, 6, 3), name="zebra")
    apple = keras.Input((5,), name="apple")
    x = keras.layers.Conv2D(4, 3, activation="relu")(zebra)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Concatenate()([x, apple])
    return randomize(
        keras.Model(
            {"zebra": zebra, "apple": apple},
            {
                "yes": keras.layers.Dense(2)(x),
                "no": keras.layers.Dense(2)(x),
            },
        )
    )


def dense_model(units=3):
    """Three figures in, `units` out."""
    inputs = keras.Input((3,), name="x")
    return randomize(keras.Model(inputs, keras.layers.Dense(units)(inputs)))


def layer_model(layer, shape=(4, 4)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


def lambda_model(function):
    return layer_model(keras.layers.Lambda(function, name="inner"))


class OffByOne(keras.layers.Layer):
    """Computes something else in a file than in Keras."""

    def call(self, x):
        import tensorflow as tf

        return x if tf.executing_eagerly() else x + 1.0


def shifted_relu(x):
    return keras.ops.relu(x) - 0.5


class Scale(keras.layers.Layer):
    """Not registered, with an argument."""

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return self.factor * x

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {"factor": self.factor}


@keras.saving.register_keras_serializable("exporting")
class Shift(keras.layers.Layer):
    def call(self, x):
        return x + 1.0


class NoConfig(Scale):
    """Its config lacks what `__init__` needs."""

    def get_config(self):
        return keras.layers.Layer.get_config(self)


def data_for(model, num=20):
    rng = np.random.default_rng(2)
    return {
        x.name: rng.normal(size=(num, *x.shape[1:])).astype("float32")
        for x in model.inputs
    }


class ExportTestCase(parameterized.TestCase):
    """With a folder, and a path in it for a file."""

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory())
        )
        self.path = self.folder / "model.tflite"

    def needs_tensorflow(self):
        if keras.backend.backend() != "tensorflow":
            self.skipTest("converts in this process, with TensorFlow")

    def assert_refused(self, message, *args, error=ValueError, **kwargs):
        """Nothing is written, an older file stays, nothing is left over."""
        self.path.write_bytes(b"old")
        with self.assertRaisesRegex(error, message):
            export_litert(*args, **kwargs)
        self.assertEqual(self.path.read_bytes(), b"old")
        self.assertEqual(os.listdir(self.folder), [self.path.name])
