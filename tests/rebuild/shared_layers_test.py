"""Tests of copies of layers that hold other layers of the same model."""

import pathlib
import tempfile
import warnings

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers
from keras import ops

import keras_prm
from tests.helpers import zoo


class Holder(layers.Layer):
    """Is given a layer, or a list of them, and has them in its config."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def get_config(self):
        inner = keras.saving.serialize_keras_object(self.inner)
        return super().get_config() | {"inner": inner}

    @classmethod
    def from_config(cls, config):
        inner = keras.saving.deserialize_keras_object(config["inner"])
        return cls(**config | {"inner": inner})


class Head(Holder):
    """Logits by the vectors of an embedding."""

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.inner.embeddings))


class LiveHead(Head):
    """Its config holds the embedding itself."""

    def get_config(self):
        return layers.Layer.get_config(self) | {"inner": self.inner}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class RawHead(Head):
    """Its config holds the embedding's numbers, not which one it is."""

    def get_config(self):
        inner = self.inner.get_config()
        return layers.Layer.get_config(self) | {"inner": inner}

    @classmethod
    def from_config(cls, config):
        inner = layers.Embedding.from_config(config["inner"])
        return cls(**config | {"inner": inner})


class Outer(Holder):
    """Sums up what a list of heads returns."""

    def call(self, x):
        return sum(head(x) for head in self.inner)


class LayerSlimmer(layers.Layer):
    """Makes a layer of its own, which others may call as well."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense = layers.Dense(units, name="dense")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return ops.sin(ops.matmul(x, self.dense.kernel))


class Window(Holder):
    """Multiplies by the sum of the kernel of a convolution."""

    def call(self, x):
        return x * ops.sum(self.inner.kernel) + self.inner.bias


class Twice(Holder):
    """Calls a model, and looks into it."""

    def call(self, x):
        return self.inner(x) * ops.sum(self.inner.layers[-1].kernel)


class Around(Holder):
    """Calls a list of layers."""

    def call(self, x):
        return sum(ops.sin(layer(x)) for layer in self.inner)


class Strict(Around):
    """Looks into the config of what it is given."""

    @classmethod
    def from_config(cls, config):
        inner = [layers.Dense.from_config(x["config"]) for x in config["inner"]]
        return cls(**config | {"inner": inner})


class Weighted(Around):
    """Has a weight of its own, so that it stays closed."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")

    def call(self, x):
        return super().call(x) * ops.sum(self.scale)


class Block(layers.Layer):
    """Makes a head that has no config."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.vectors = layers.Embedding(11, 6, name="vectors")

        class Nameless(Head):
            def get_config(self):
                raise NotImplementedError

        self.head = Nameless(self.vectors, name="nameless")

    def build(self, shape):
        self.vectors.build(shape)

    def call(self, x):
        return self.head(self.vectors(x))


KINDS = (
    Block,
    Around,
    Strict,
    Weighted,
    Head,
    LiveHead,
    RawHead,
    Outer,
    LayerSlimmer,
    Window,
    Twice,
)
SCOPE = {kind.__name__: kind for kind in KINDS}


def language_model(kind=Head):
    """Tokens to logits through a hidden layer, with one table of vectors."""
    vectors = layers.Embedding(11, 6, name="vectors")
    inputs = keras.Input((4,), dtype="int32", name="tokens")
    x = vectors(inputs)
    x = layers.Dense(8, activation="relu", name="hidden")(x)
    x = layers.Dense(6, name="out")(x)
    return keras.Model(inputs, kind(vectors, name="head")(x))


def two_heads():
    """One embedding in two layers, one of them inside of another."""
    vectors = layers.Embedding(11, 6, name="vectors")
    inputs = keras.Input((4,), dtype="int32")
    x = layers.Dense(6, name="hidden")(vectors(inputs))
    outer = Outer([Head(vectors, name="inner")], name="outer")
    return keras.Model(inputs, [outer(x), Head(vectors, name="head")(x)])


def in_a_nested_model():
    """The embedding is called in a model inside, after a head is."""
    vectors = layers.Embedding(11, 6, name="vectors")
    vectors.build(None)
    tokens = keras.Input((4,), dtype="int32")
    nested = keras.Model(tokens, vectors(tokens), name="nested")
    floats = keras.Input((4, 3))
    x = layers.Dense(6, name="hidden")(floats)
    logits = Head(vectors, name="head")(x)
    found = ops.argmax(logits, axis=-1)
    return keras.Model(floats, [logits, nested(found)])


def made_inside():
    """A layer calls one that another one has made."""
    maker = LayerSlimmer(5, name="maker")
    inputs = keras.Input((4,))
    x = layers.Dense(6, name="hidden")(inputs)
    maker.build((None, 6))
    y = maker.dense(x)
    logits = layers.Dense(2, name="logits")(y)
    return keras.Model(inputs, [logits, maker(x)])


def around_a_model(kind):
    """A model is called by itself and by a layer."""
    body = keras.Sequential(
        [keras.Input((6,)), layers.Dense(5), layers.ReLU(), layers.Dense(4)]
    )
    if kind is keras.Model:
        body = keras.Model(body.inputs, body.outputs[0])
    inputs = keras.Input((3,))
    x = layers.Dense(6, name="hidden")(inputs)
    return keras.Model(inputs, [Twice(body, name="twice")(x), body(x)])


def around(dense, *others, shape=(6,)):
    """A layer is called by itself and in an `Around`, after a hidden one."""
    inputs = keras.Input((*shape[:-1], 3))
    x = layers.Dense(shape[-1], name="hidden", activation="relu")(inputs)
    holder = Around([dense, *others], name="around")
    return keras.Model(inputs, [dense(x), holder(x)])


def twice():
    dense = layers.Dense(6)
    return around(dense, dense)


def given_what_another_makes():
    maker = LayerSlimmer(6, name="maker")
    maker.build((None, 6))
    inputs = keras.Input((3,))
    x = layers.Dense(6, name="hidden", activation="relu")(inputs)
    y = Around([maker.dense], name="around")(x)
    return keras.Model(inputs, [y, maker(x), maker.dense(x)])


def dead_branches(kind):
    """A dense layer, and what holds it, on branches of which one is dead."""
    dense, is_dead = layers.Dense(6, name="held"), layers.Dense(6, name="dead")
    inputs = keras.Input((3,))
    x = layers.Dense(6, name="hidden", activation="relu")(inputs)
    body = keras.Input((6,))
    body = keras.Model(body, layers.ReLU()(dense(body)))
    pair = Weighted([dense], name="holder")(x), body(x)
    live, other = pair if kind == "holder lives" else reversed(pair)
    x = layers.ReLU()(layers.Add()([live, is_dead(other)]))
    model = keras.Model(inputs, x)
    zoo.randomize(model)
    is_dead.set_weights([np.zeros((6, 6)), np.zeros(6)])
    return model


def convolution():
    """What strip cuts off elsewhere stays: borders and columns of zeros."""
    inputs = keras.Input((8, 8, 3))
    conv = layers.Conv2D(4, 3, padding="same", name="conv")
    x = conv(inputs)
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4))
    kernel[0] = kernel[:, :, 1] = kernel[..., 2] = 0
    window = Window(conv, name="window")
    model = keras.Model(inputs, layers.Add()([window(x), conv(inputs)]))
    conv.set_weights([kernel, np.ones(4)])
    return model


MODELS = {
    "config": language_model,
    "live": lambda: language_model(LiveHead),
    "raw": lambda: language_model(RawHead),
    "two_heads": two_heads,
    "nested": in_a_nested_model,
    "made_inside": made_inside,
    "around_a_model": lambda: around_a_model(keras.Model),
    "around_sequential": lambda: around_a_model(keras.Sequential),
    "twice": twice,
    "time_distributed": lambda: around(
        layers.TimeDistributed(layers.Dense(6)), shape=(4, 6)
    ),
    "bidirectional": lambda: around(
        layers.Bidirectional(layers.GRU(3)), shape=(4, 6)
    ),
    "batch_norm": lambda: around(layers.BatchNormalization()),
    "given_what_another_makes": given_what_another_makes,
    "convolution": convolution,
}


def drawn(model):
    """Random weights, and two filters of the hidden layer at zero."""
    for hidden in (x for x in model.layers if x.name == "hidden"):
        zoo.randomize(model)
        kernel, bias = hidden.get_weights()
        kernel[:, :2] = bias[:2] = 0
        hidden.set_weights([kernel, bias])
    return model


def inputs_of(model):
    rng = np.random.default_rng(1)
    (x,) = model.inputs
    shape = (3, *x.shape[1:])
    if "int" in x.dtype:
        return rng.integers(0, 11, shape)
    return rng.normal(size=shape).astype("float32")


class HoldingTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(keras.saving.custom_object_scope(SCOPE))
        keras.utils.set_random_seed(0)

    def assert_same(self, model, other):
        x = inputs_of(model)
        outputs = (ops.convert_to_tensor(x),)
        for old, new in zip(
            keras.tree.flatten(model(*outputs)),
            keras.tree.flatten(other(*outputs)),
            strict=True,
        ):
            np.testing.assert_allclose(
                ops.convert_to_numpy(new),
                ops.convert_to_numpy(old),
                rtol=1e-5,
                atol=1e-5,
            )

    def assert_apart(self, model, other):
        own = set(map(id, model.variables))
        self.assertFalse(own & set(map(id, other.variables)))

    @parameterized.parameters(*MODELS)
    def test_strip_keeps_one_layer_one(self, name):
        model = drawn(MODELS[name]())
        configs = [layer.get_config() for layer in model.layers]
        small = keras_prm.strip(model)
        self.assertLen(small.weights, len(model.weights))
        self.assertLessEqual(small.count_params(), model.count_params())
        self.assert_same(model, small)
        self.assert_apart(model, small)
        self.assertEqual(configs, [x.get_config() for x in model.layers])
        # What changes one changes the other.
        for old, new in zip(model.weights, small.weights, strict=True):
            if old.shape == new.shape and "hidden" not in old.path:
                value = ops.convert_to_numpy(old) * 1.5
                old.assign(value)
                new.assign(value)
        self.assert_same(model, small)

    @parameterized.parameters(*MODELS)
    def test_as_functional(self, name):
        model = drawn(MODELS[name]())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what stays closed
            found = keras_prm.as_functional(model, inputs_of(model))
        self.assertLen(found.weights, len(model.weights))
        self.assert_same(model, found)
        self.assert_apart(model, found)

    @parameterized.parameters("config", "two_heads")
    def test_saved_and_loaded(self, name):
        model = drawn(MODELS[name]())
        small = keras_prm.strip(model)
        folder = self.enterContext(tempfile.TemporaryDirectory())
        path = pathlib.Path(folder) / "small.keras"
        small.save(path)
        again = keras.models.load_model(path)
        self.assertLen(again.weights, len(small.weights))
        self.assert_same(model, again)

    def test_a_held_convolution_is_left_whole(self):
        model = convolution()
        small = keras_prm.strip(model, lowering="smallest")
        self.assertEqual(
            [type(x) for x in small.layers], [type(x) for x in model.layers]
        )
        self.assert_same(model, small)

    @parameterized.parameters("holder lives", "holder is dead")
    def test_dead_branches(self, kind):
        model = dead_branches(kind)
        small = keras_prm.strip(model)
        names = [x.name for x in small.layers]
        self.assertNotIn("dead", names)
        self.assertEqual("holder" in names, kind == "holder lives")
        self.assert_same(model, small)
        with self.assertWarnsRegex(UserWarning, "nothing to remove"):
            again = keras_prm.strip(small)
        self.assert_same(model, again)
        again = keras.models.clone_model(again)
        again.set_weights(small.get_weights())
        self.assert_same(model, again)

    def test_a_width_in_the_config_of_what_is_held(self):
        inputs = keras.Input((4, 3))
        x = layers.Dense(6, name="hidden", activation="relu")(inputs)
        reshape = layers.Reshape((2, 2, 6))
        x = [layers.Conv2D(3, 1)(reshape(x)), Around([reshape])(x)]
        model = drawn(keras.Model(inputs, x))
        self.assert_same(model, keras_prm.strip(model))

    def test_a_config_that_is_looked_into(self):
        inputs = keras.Input((6,))
        dense = layers.Dense(6, name="dense")
        holder = Strict([dense], name="holder")
        model = keras.Model(inputs, [dense(inputs), holder(inputs)])
        with self.assertWarnsRegex(UserWarning, "'dense' in 'holder'"):
            small = keras_prm.strip(model)
        self.assertLen(small.weights, 4)
        self.assert_same(model, small)

    def test_a_block_that_can_only_be_copied_as_a_whole(self):
        inputs = keras.Input((4,), dtype="int32")
        model = keras.Model(inputs, Block(name="block")(inputs))
        with self.assertWarnsRegex(UserWarning, "'block': it shares"):
            found = keras_prm.as_functional(model, inputs_of(model))
        self.assert_same(model, found)

    def test_a_config_of_ones_own_stays(self):
        model = drawn(language_model())
        vectors = model.get_layer("vectors")
        config = vectors.get_config()
        vectors.get_config = own = lambda: config
        keras_prm.strip(model)
        self.assertIs(vectors.get_config, own)

    def test_training_moves_both(self):
        model = drawn(language_model())
        small = keras_prm.strip(model)
        x = inputs_of(model)
        before = ops.convert_to_numpy(small.get_layer("vectors").embeddings)
        small.compile("sgd", "mse")
        small.fit(x, np.ones((3, 4, 11)), verbose=0)
        vectors = small.get_layer("vectors").embeddings
        self.assertIs(small.get_layer("head").inner.embeddings, vectors)
        self.assertGreater(
            np.abs(ops.convert_to_numpy(vectors) - before).max(), 1e-3
        )

    def test_what_cannot_be_told_is_said(self):
        vectors = layers.Embedding(11, 6, name="vectors")
        inputs = keras.Input((4,), dtype="int32")
        x = layers.Dense(6, name="hidden")(vectors(inputs))
        heads = [RawHead(vectors, name=name)(x) for name in ("a", "b")]
        model = drawn(keras.Model(inputs, heads))
        with self.assertWarnsRegex(UserWarning, "'vectors' in '[ab]'"):
            small = keras_prm.strip(model)
        self.assert_same(model, small)
        with self.assertRaisesRegex(TypeError, "would not share"):
            keras_prm.as_functional(model, inputs_of(model))

    def test_a_copy_that_holds_the_very_layer(self):
        vectors = layers.Embedding(11, 6, name="vectors")

        class Closure(Head):
            def __init__(self, **kwargs):
                super().__init__(vectors, **kwargs)

            def get_config(self):
                return layers.Layer.get_config(self)

            @classmethod
            def from_config(cls, config):
                return cls(**config)

        inputs = keras.Input((4,), dtype="int32")
        x = layers.Dense(6)(vectors(inputs))
        model = keras.Model(inputs, Closure(name="head")(x))
        with self.assertRaisesRegex(TypeError, "the very layer 'vectors'"):
            keras_prm.strip(model)


if __name__ == "__main__":
    absltest.main()
