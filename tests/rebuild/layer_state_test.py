"""What layers hold besides their weights, and no config does, is copied."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers
from keras import ops

from keras_prm.rebuild.strip import strip
from tests.helpers import zoo
from tests.helpers.training import ON_TENSORFLOW
from tests.helpers.zeros import max_error
from tests.helpers.zeros import zero_filters


@keras.saving.register_keras_serializable("tests")
class Scaled(layers.Layer):
    """Normalizes by what it was adapted to, then multiplies."""

    def __init__(self, data_mean=0.0, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.Normalization()
        self.inner = layers.Dense(4, name="inner")

    def build(self, shape):
        self.norm.build(shape)
        self.inner.build(shape)

    def call(self, x):
        return self.inner(self.norm(x))


@keras.saving.register_keras_serializable("tests")
class Plain(layers.Layer):
    """A layer whose config has nothing but its own argument."""

    def __init__(self, units):
        super().__init__()
        self.units = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units))

    def call(self, x):
        return ops.matmul(x, self.kernel)

    def get_config(self):
        return {"units": self.units}


def finish(inputs, outputs):
    model = keras.Model(inputs, outputs)
    zoo.randomize(model)
    return model


def error(model, small):
    return max_error(model, small, zoo.inputs_of(model))


def attention():
    inputs = keras.Input((5, 8))
    mha = layers.MultiHeadAttention(2, 4, name="mha")
    x = layers.Dense(3, name="out")(mha(inputs, inputs))
    return finish(inputs, x), mha


class LayerStateTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        keras.utils.set_random_seed(0)

    def test_lora_with_an_alpha(self):
        model, mha = attention()
        mha.query_dense.enable_lora(2, lora_alpha=16)
        zoo.randomize(model)
        small = strip(model)
        self.assertEqual(
            small.get_layer("mha").query_dense.lora_alpha,
            mha.query_dense.lora_alpha,
        )
        self.assertLess(error(model, small), 1e-4)

    def test_blocks_of_int4(self):
        model, mha = attention()
        config = keras.quantizers.Int4QuantizationConfig(block_size=4)
        mha.query_dense.quantize(config=config)
        self.assertLess(error(model, strip(model)), 1e-5)

    def test_frozen_parts(self):
        model, mha = attention()
        mha.query_dense.trainable = False
        small = strip(model)
        self.assertFalse(small.get_layer("mha").query_dense.trainable)
        self.assertEqual(
            [w.path for w in small.trainable_weights],
            [w.path for w in model.trainable_weights],
        )

    def test_normalization_inside_of_a_layer(self):
        inputs = keras.Input((6,))
        layer = Scaled(name="scaled")
        model = finish(inputs, layers.Dense(2)(layer(inputs)))
        rng = np.random.default_rng(0)
        layer.norm.adapt(rng.normal(7.0, 3.0, (50, 6)).astype("float32"))
        self.assertLess(error(model, strip(model)), 1e-5)

    @parameterized.parameters(
        lambda: Plain(4), lambda: layers.Pipeline([layers.Rescaling(2.0)])
    )
    def test_a_config_without_a_dtype(self, make):
        x = inputs = keras.Input((6,))
        x = layers.Dense(5, name="a")(x)
        x = layers.Dense(4, name="b")(x)
        model = finish(inputs, layers.Dense(2)(make()(x)))
        zero_filters(model, a=[1, 2])
        model.get_layer("a").bias.assign(np.zeros(5))
        small = strip(model)
        self.assertEqual(small.get_layer("a").units, 3)
        self.assertLess(error(model, small), 1e-5)

    @parameterized.parameters(
        (layers.Dropout(0.5), "rate"), (layers.GaussianNoise(0.5), "stddev")
    )
    def test_noise_that_was_switched_off(self, noise, name):
        inputs = keras.Input((6,))
        x = noise(layers.Dense(5, name="a")(inputs))
        model = finish(inputs, layers.Dense(2)(x))
        setattr(noise, name, 0.0)
        zero_filters(model, a=[1])
        model.get_layer("a").bias.assign(np.zeros(5))
        small = strip(model)
        self.assertEqual(small.get_layer("a").units, 4)
        self.assertLess(error(model, small), 1e-5)

    def test_lambda_that_knows_its_shape(self):
        inputs = keras.Input((6,))
        calls = []

        def function(x):
            calls.append(x)
            return x * 2

        layer = layers.Lambda(function, output_shape=(6,), trainable=False)
        model = finish(inputs, layers.Dense(2)(layer(inputs)))
        calls.clear()
        small = strip(model)
        self.assertEmpty(calls)
        twin = next(x for x in small.layers if isinstance(x, layers.Lambda))
        self.assertFalse(twin.trainable)
        self.assertLess(error(model, small), 1e-6)

    @absltest.skipIf(not ON_TENSORFLOW, "Text is TensorFlow's.")
    @parameterized.parameters(None, 9)
    def test_adapted_to_how_rare_words_are(self, max_tokens):
        layer = layers.TextVectorization(
            output_mode="tf_idf",
            max_tokens=max_tokens,
            pad_to_max_tokens=max_tokens is not None,
        )
        layer.adapt(["a b c", "a b", "a", "d d d"])
        inputs = keras.Input((1,), dtype="string")
        model = finish(inputs, layers.Dense(2)(layer(inputs)))
        texts = np.array([["a b c d e"], ["d d"], ["x y"]], object)
        texts = ops.convert_to_tensor(texts)
        np.testing.assert_allclose(strip(model)(texts), model(texts), rtol=1e-5)


if __name__ == "__main__":
    absltest.main()
