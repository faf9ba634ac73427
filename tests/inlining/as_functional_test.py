"""Tests of functional models in place of those whose inside is hidden."""

import pathlib
import tempfile
import warnings
from unittest import mock

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers
from keras import ops

import keras_prm
from keras_prm.equivalence import number_checks
from keras_prm.inlining import inliner


class Block(layers.Layer):
    """A residual block, as users write them."""

    def __init__(self, filters, name=None, rate=0.0, **kwargs):
        super().__init__(name=name, **kwargs)
        self.filters = filters
        self.rate = rate
        dtype = {"dtype": self.dtype_policy}
        self.conv1 = layers.Conv2D(
            filters, 3, padding="same", use_bias=False, **dtype
        )
        self.norm = layers.BatchNormalization(
            name="norm", momentum=0.5, **dtype
        )
        self.same = layers.Identity(**dtype)
        self.dropout = layers.Dropout(rate, **dtype)
        self.conv2 = layers.Conv2D(filters, 1, name="conv", **dtype)

    def build(self, input_shape):
        self.conv1.build(input_shape)
        inner = (*input_shape[:-1], self.filters)
        self.norm.build(inner)
        self.conv2.build(inner)
        super().build(input_shape)

    def call(self, x, training=None):
        y = ops.relu(self.norm(self.conv1(x), training=training))
        y = self.dropout(y, training=training)
        return self.same(x) + self.conv2(y)

    def get_config(self):
        config = {"filters": self.filters, "rate": self.rate}
        return super().get_config() | config


class Net(keras.Model):
    """A subclassed model without a config, of blocks in blocks."""

    def __init__(self, width=6, rate=0.0):
        super().__init__()
        self.stem = layers.Conv2D(width, 3, strides=2)
        self.stages = [Block(width, rate=rate), Block(width, rate=rate)]
        self.tops = {"pool": layers.GlobalAveragePooling2D()}
        self.head = keras.Sequential(
            [layers.Dense(8, activation="relu"), layers.Dense(3, name="logits")]
        )

    def call(self, x, training=False):
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x, training=training)
        batch, *_ = ops.shape(x)
        x = ops.reshape(x, (batch, -1, x.shape[-1]))
        x = ops.reshape(x, (-1, 3, 3, x.shape[-1]))
        return self.head(self.tops["pool"](x))


def images(num=4, size=8):
    x = np.random.default_rng(num).uniform(size=(num, size, size, 3))
    return x.astype("float32")


def drawn(model):
    """The model, with statistics and offsets that are not at their start."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        low = 0.5 if "variance" in weight.path else -0.5
        weight.assign(rng.uniform(low, low + 1, weight.shape))
    return model


def subclassed(**kwargs):
    keras.utils.set_random_seed(0)
    model = Net(**kwargs)
    model(images())
    return drawn(model)


def of(*layers_, shape=(8, 8, 3)):
    """A functional model of layers in a row."""
    keras.utils.set_random_seed(0)
    x = images = keras.Input(shape)
    for layer in layers_:
        x = layer(x)
    return drawn(keras.Model(images, x, name="outer"))


class AsFunctionalTest(parameterized.TestCase):
    def assert_same(self, model, found, x):
        pairs = zip(
            keras.tree.flatten(model(x, training=False)),
            keras.tree.flatten(found(x, training=False)),
            strict=True,
        )
        for old, new in pairs:
            np.testing.assert_allclose(
                *map(ops.convert_to_numpy, (old, new)), rtol=1e-5, atol=1e-6
            )

    def names(self, model):
        kinds = (layers.Conv2D, layers.BatchNormalization, layers.Dense)
        return [x.name for x in model.layers if isinstance(x, kinds)]

    def test_a_subclassed_model(self):
        model = subclassed()
        before = [x.name for x in model._flatten_layers()]
        found = keras_prm.as_functional(model)
        self.assert_same(model, found, images(7))
        self.assertEqual(
            self.names(found),
            ["stem", "stages_0_conv1", "stages_0_norm", "stages_0_conv"]
            + ["stages_1_conv1", "stages_1_norm", "stages_1_conv"]
            + ["head_dense", "head_logits"],
        )
        self.assertEqual(found.count_params(), model.count_params())
        self.assertEqual([x.name for x in model._flatten_layers()], before)

    def test_it_is_a_copy(self):
        model = subclassed()
        found = keras_prm.as_functional(model)
        expected = [np.array(w) for w in model.get_weights()]
        found.set_weights([0 * w for w in found.get_weights()])
        for old, new in zip(expected, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_float64_is_taken_as_keras_takes_it(self):
        found = keras_prm.as_functional(subclassed(), images().astype(float))
        self.assertEqual(found.inputs[0].dtype, "float32")

    def test_strip_reaches_inside(self):
        found = keras_prm.as_functional(subclassed())
        plan = keras_prm.SparsityPlan.uniform(found, filters=0.5)
        self.assertEqual(
            [group.name for group in plan.groups if group.keep < group.size],
            [
                "stages_0_conv1",
                "stages_1_conv1",
                "stages_0_conv+stages_1_conv+stem",
            ]
            + ["head_dense"],
        )
        keras_prm.hard_prune(found, plan)
        small = keras_prm.strip(found)
        self.assertTrue(keras_prm.verify(found, small).ok)
        self.assertLess(small.count_params(), found.count_params() / 2)

    def test_it_is_saved_and_loaded_without_the_classes(self):
        model = subclassed()
        found = keras_prm.as_functional(model)
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        found.save(folder / "model.keras")
        again = keras.models.load_model(folder / "model.keras")
        self.assert_same(model, again, images())

    def test_the_model_can_still_be_saved(self):
        model = of(Block(3, name="block"))
        found = keras_prm.as_functional(model)
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        model.save(folder / "model.keras")
        again = keras.models.load_model(
            folder / "model.keras", custom_objects={"Block": Block}
        )
        self.assertEqual([x.name for x in again.layers][1:], ["block"])
        self.assert_same(again, found, images())

    def test_it_trains_alike(self):
        model = subclassed()
        found = keras_prm.as_functional(model)
        x, y = images(8), np.arange(8) % 3
        for each in (model, found):
            each.compile(
                keras.optimizers.SGD(0.1),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            )
            each.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        old = {tuple(w.path.split("/")[-1:]): w for w in model.weights}
        self.assertIn(("moving_mean",), old)
        self.assert_same(model, found, images(5))

    def test_dropout_stays(self):
        found = keras_prm.as_functional(subclassed(rate=0.5))
        self.assertEqual(found.get_layer("stages_1_dropout").rate, 0.5)
        x = images()
        outputs = [ops.convert_to_numpy(found(x, training=True)) for _ in "ab"]
        self.assertGreater(np.abs(outputs[0] - outputs[1]).max(), 0)

    def test_blocks_in_nested_models(self):
        inner = of(Block(3, name="block"), shape=(8, 8, 3))
        model = of(inner, Block(3, name="block"), layers.Flatten())
        found = keras_prm.as_functional(model)
        self.assert_same(model, found, images())
        self.assertEqual(
            self.names(found),
            ["outer_block_conv1", "outer_block_norm", "outer_block_conv"]
            + ["block_conv1", "block_norm", "block_conv"],
        )

    def test_names_that_say_already_where_they_are(self):
        class Named(Block):
            def __init__(self, filters, name, **kwargs):
                super().__init__(filters, name, **kwargs)
                self.conv1.name = f"{name}_first"

        found = keras_prm.as_functional(of(Named(3, name="block")))
        self.assertEqual(self.names(found)[0], "block_first")

    def test_a_block_that_is_called_twice(self):
        block = Block(3, name="block")
        model = of(block, block)
        found = keras_prm.as_functional(model)
        self.assert_same(model, found, images())
        self.assertEqual(found.count_params(), model.count_params())
        self.assertLen(self.names(found), 3)

    def test_a_functional_model_comes_back_flat(self):
        model = of(layers.Conv2D(3, 1, name="conv"), of(layers.ReLU()))
        found = keras_prm.as_functional(model)
        self.assert_same(model, found, images())
        self.assertIsNot(found.get_layer("conv"), model.get_layer("conv"))
        self.assertFalse(
            [x for x in found.layers if isinstance(x, keras.Model)]
        )

    def test_what_no_output_depends_on_goes(self):
        inputs = keras.Input((3,))
        x = layers.Dense(4, name="used")(inputs)
        outputs = [x, layers.Dense(5, name="pooled")(x)]
        nested = keras.Model(inputs, outputs, name="body")
        model = keras.Model(inputs, nested(inputs)[0])
        found = keras_prm.as_functional(model)
        self.assertEqual([x.name for x in found.layers[1:]], ["body_used"])
        x = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")
        self.assert_same(model, found, x)

    def test_a_call_that_takes_no_training(self):
        class Plain(keras.Model):
            def __init__(self, inner):
                super().__init__()
                self.inner = inner

            def call(self, x):
                return self.inner(x)

        for inner, warns in ((Block(3), True), (layers.Dense(3), False)):
            model, x = Plain(inner), images()
            model(x)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                keras_prm.as_functional(model, x)
            texts = [str(warning.message) for warning in caught]
            found = any("takes no `training`" in text for text in texts)
            self.assertEqual(found, warns)

    def test_layers_without_names_or_weights_made_in_the_call(self):
        class Inline(Holder):
            def call(self, x, training=None):
                y = layers.Dropout(0.3)(self.dense(x), training=training)
                return layers.add([layers.ReLU()(y), x])

        model = of(Inline(name="block"), shape=(3,))
        found = keras_prm.as_functional(model)
        x = images()[:, 0, 0]
        self.assert_same(model, found, x)
        self.assertEqual(
            [x.name for x in found.layers][1:],
            ["block_dense", "block_dropout", "block_re_lu", "block_add"],
        )

    def test_nested_models_cast_and_reshape_what_they_are_given(self):
        x = keras.Input((1,))
        inner = keras.Model(x, ops.concatenate([ops.square(x), x]))
        x = keras.Input((), dtype="uint8")
        model = keras.Model(x, inner(x))
        found = keras_prm.as_functional(model)
        self.assert_same(model, found, np.array([3, 200, 255], "uint8"))

    def test_names_are_such_as_keras_takes(self):
        class Keyed(Holder):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                self.parts = {"a b": layers.Dense(3)}

            def build(self, input_shape):
                super().build(input_shape)
                self.parts["a b"].build(input_shape)

            def call(self, x):
                return self.parts["a b"](self.dense(x))

        found = keras_prm.as_functional(of(Keyed(name="k"), shape=(3,)))
        self.assertEqual(found.layers[-1].name, "k_parts_a_b")

    def test_random_numbers_of_the_model_go_on(self):
        model = subclassed(rate=0.5)
        seeds = [v for v in model.variables if "seed" in v.path]
        before = [ops.convert_to_numpy(v) for v in seeds]
        keras_prm.as_functional(model)
        self.assertNotEmpty(before)
        for old, seed in zip(before, seeds):
            np.testing.assert_array_equal(old, seed)

    def test_frozen_layers_stay_frozen(self):
        model = of(Block(3, name="block"))
        model.layers[1].conv1.trainable = False
        found = keras_prm.as_functional(model)
        self.assertFalse(found.get_layer("block_conv1").trainable)
        self.assertTrue(found.get_layer("block_conv").trainable)

    def test_half_precision(self):
        model = of(Block(3, name="block", dtype="mixed_bfloat16"))
        found = keras_prm.as_functional(model)
        x = images()
        np.testing.assert_allclose(
            *(
                ops.convert_to_numpy(ops.cast(m(x), "float32"))
                for m in (model, found)
            ),
            rtol=0.02,
            atol=0.02,
        )

    def test_several_inputs(self):
        class Two(keras.Model):
            def __init__(self):
                super().__init__()
                self.a, self.b = layers.Dense(4), layers.Embedding(5, 4)

            def call(self, inputs):
                x = self.a(inputs["x"])
                return {"sum": x + self.b(inputs["i"])[:, 0], "x": x}

        model, rng = Two(), np.random.default_rng(0)
        x = {
            "x": rng.uniform(size=(6, 3)).astype("float32"),
            "i": rng.integers(0, 5, (6, 1)).astype("int32"),
        }
        model(x)
        symbolic = {
            "x": keras.Input((3,), name="x"),
            "i": keras.Input((1,), dtype="int32", name="i"),
        }
        for inputs in (x, symbolic):
            found = keras_prm.as_functional(model, inputs)
            self.assert_same(model, found, x)
            self.assertEqual(found.input["i"].dtype, "int32")
            self.assertEqual(self.names(found), ["a"])
            self.assertCountEqual(found.output, ["sum", "x"])
        with self.assertRaisesRegex(ValueError, "takes is not known"):
            keras_prm.as_functional(model)


class Holder(layers.Layer):
    """A block with a layer inside and something that hides it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3, name="dense")

    def build(self, input_shape):
        self.dense.build(input_shape)
        super().build(input_shape)


class OwnWeight(Holder):
    def build(self, input_shape):
        super().build(input_shape)
        self.scale = self.add_weight(shape=(3,), name="scale")

    def call(self, x):
        return self.dense(x) * self.scale


class KernelOfALayer(Holder):
    def call(self, x):
        return self.dense(x) @ self.dense.kernel


class MadeOfAWeight(Holder):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.places = layers.Embedding(8, 3, name="places")

    def build(self, input_shape):
        super().build(input_shape)
        self.places.build()

    def call(self, x):
        return self.dense(x) + self.places(ops.arange(8))


class CountsSteps(Holder):
    def build(self, input_shape):
        super().build(input_shape)
        self.steps = self.add_weight(name="steps", trainable=False)

    def call(self, x, training=None):
        if training:
            self.steps.assign_add(1.0)
        return self.dense(x)


class OfTheBackend(Holder):
    """As one that calls `tf`."""

    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            raise TypeError("tf takes no symbolic tensors")
        return self.dense(x)


class OtherwiseInTraining(Holder):
    def call(self, x, training=None):
        y = self.dense(x)
        return 2 * y if training else y


class SecondHead(Holder):
    def call(self, x, training=None):
        return self.dense(self.dense(x) if training else x)


class Masked(Holder):
    def compute_mask(self, inputs, previous_mask):
        return ops.any(inputs > 0, axis=-1)

    def call(self, x):
        return self.dense(x)


class OtherwiseOnNumbers(Holder):
    def call(self, x):
        return self.dense(x) * (2 if isinstance(x, keras.KerasTensor) else 1)


class OwnCall(Holder):
    def __call__(self, x):
        return super().__call__(x)

    def call(self, x):
        return self.dense(x)


class Regular(Holder):
    def __init__(self, **kwargs):
        super().__init__(**kwargs | {"activity_regularizer": "l2"})

    def call(self, x):
        return self.dense(x)


class OfFixedBatch(Holder):
    def call(self, x):
        batch = ops.shape(x)[0]
        return self.dense(x) + ops.broadcast_to(ops.zeros((3,)), (batch, 8, 3))


class ConstantsOfTraining(Holder):
    def call(self, x, training=None):
        return self.dense(x) * (0.5 if training else 1.0)


class ArgumentsOfTraining(Holder):
    def call(self, x, training=None):
        return ops.clip(self.dense(x), 0.0, 1.0 if training else 6.0)


class FixedTraining(Holder):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.BatchNormalization(name="norm")

    def build(self, input_shape):
        super().build(input_shape)
        self.norm.build(input_shape)

    def call(self, x, training=None):
        return self.norm(self.dense(x), training=False)


class TiedWeight(Holder):
    def call(self, x):
        return self.dense(x) @ ops.transpose(self.dense.kernel)


class AlsoOnAConstant(Holder):
    def call(self, x):
        return self.dense(x) - self.dense(np.ones((1, 3), "float32"))


class AddsALoss(Holder):
    def call(self, x):
        self.add_loss(ops.sum(self.dense.kernel**2))
        return self.dense(x)


class NeverBuilt(Holder):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.aux = layers.Dense(3, name="aux")

    def call(self, x, training=None):
        y = self.dense(x)
        return y + self.aux(y) if training else y


CLOSED = (
    (ConstantsOfTraining, "otherwise in training"),
    (ArgumentsOfTraining, "otherwise in training"),
    (FixedTraining, "'norm' with training=False"),
    (TiedWeight, "a weight otherwise than by a layer"),
    (AlsoOnAConstant, "a weight otherwise than by a layer"),
    (AddsALoss, "adds a loss"),
    (NeverBuilt, "'aux' has no weights yet"),
    (OwnWeight, "weights of its own: .*scale"),
    (KernelOfALayer, "dense/kernel"),
    (MadeOfAWeight, "places/embeddings"),
    (CountsSteps, "steps"),
    (OfTheBackend, "symbolic tensors"),
    (OtherwiseInTraining, "otherwise in training"),
    (SecondHead, "otherwise in training"),
    (Masked, "mask of timesteps"),
    (OtherwiseOnNumbers, "depends on what is no tensor"),
    (OwnCall, "`__call__` of its own"),
    (Regular, "activity regularizer"),
    (OfFixedBatch, "symbolic tensors|fail"),
)


@keras.saving.register_keras_serializable("functional_form_test")
class Regularless(Holder):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, x):
        return self.dense(x)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 3)


class ClosedTest(parameterized.TestCase):
    @parameterized.named_parameters((c[0].__name__, *c) for c in CLOSED)
    def test_stays_closed_and_says_why(self, kind, reason):
        model = of(
            layers.Dense(3, name="first"), kind(name="hidden"), shape=(8, 3)
        )
        before = model.get_weights()
        with self.assertWarnsRegex(UserWarning, f"'hidden': .*({reason})"):
            found = keras_prm.as_functional(model)
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
        self.assertIsInstance(found.get_layer("hidden"), kind)
        self.assertEqual(found.count_params(), model.count_params())
        plan = keras_prm.SparsityPlan.uniform(found, filters=0.5)
        left = {name: why for name, why, _ in plan.skipped}
        self.assertIn("no rule for", left["hidden"])

    def test_a_block_that_is_called_with_and_without_a_mask(self):
        class Text(keras.Model):
            def __init__(self):
                super().__init__()
                self.tokens = layers.Embedding(9, 3, mask_zero=True)
                self.block = Regularless(name="block")

            def call(self, x):
                y = self.tokens(x)
                return self.block(y) + self.block(ops.relu(y) * 1.0)

        model, x = Text(), np.arange(8).reshape(2, 4)
        model(x)
        drawn(model)
        with self.assertWarnsRegex(UserWarning, "'block': it "):
            found = keras_prm.as_functional(model, x)
        self.assertEqual(found.count_params(), model.count_params())

    def test_a_wrapper_around_a_block(self):
        block = Regularless(name="block")
        model = of(layers.TimeDistributed(block, name="each"), shape=(4, 3))
        with self.assertWarnsRegex(UserWarning, "'each': layers of Keras"):
            found = keras_prm.as_functional(model)
        plan = keras_prm.SparsityPlan.uniform(found, filters=0.5)
        left = {name: why for name, why, _ in plan.skipped}
        self.assertIn("no rule for Regularless", left["each/block"])

    def test_frozen_layers_may_be_told_what_they_do(self):
        model = of(FixedTraining(name="block"), shape=(3,))
        model.get_layer("block").norm.trainable = False
        found = keras_prm.as_functional(model)
        self.assertFalse(found.get_layer("block_norm").trainable)

    def test_others_are_opened(self):
        model = of(
            Regular(name="a"),
            Block(3, name="b"),
            Regular(name="c"),
            shape=(8, 8, 3),
        )
        said = "leaves 2 layers.*: 'a', 'c': it has an activity regularizer"
        with self.assertWarnsRegex(UserWarning, said):
            found = keras_prm.as_functional(model)
        self.assertEqual([x.name for x in found.layers][1:3], ["a", "b_conv1"])

    def test_a_subclassed_model_that_cannot_be_opened(self):
        class Asks(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = layers.Dense(2)

            def call(self, x):
                return self.dense(x) if ops.max(x) > 0 else x

        model, x = Asks(), np.ones((2, 3), "float32")
        model(x)
        with self.assertRaisesRegex(TypeError, "'asks' of type Asks.*symbolic"):
            keras_prm.as_functional(model, x)

    def test_what_a_call_assigns_is_not_kept(self):
        class Also(Holder):
            def call(self, x):
                self.dense.bias.assign(self.dense.bias + 1.0)
                return self.dense(x)

        layer = Also(name="hidden")
        layer.build((None, 3))
        inputs = (keras.Input((3,)),)
        with self.assertRaisesRegex(ValueError, "does not compute the same"):
            inliner.Inliner().layer(layer, inputs, {}, "")
        bias = keras.ops.convert_to_numpy(layer.dense.bias)
        np.testing.assert_array_equal(bias, np.zeros(3))

    def test_a_block_in_a_block(self):
        class Outer(Holder):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                self.inner = OwnWeight()

            def build(self, input_shape):
                super().build(input_shape)
                self.inner.build(input_shape)

            def call(self, x):
                return self.inner(self.dense(x))

        model = of(Outer(name="outer"), shape=(3,))
        with self.assertWarnsRegex(UserWarning, "'outer/inner': "):
            found = keras_prm.as_functional(model)
        names = [x.name for x in found.layers]
        self.assertEqual(names[1:], ["outer_dense", "outer_inner"])

    def test_not_a_model(self):
        with self.assertRaisesRegex(TypeError, "Expected a keras.Model"):
            keras_prm.as_functional(layers.Dense(2))

    def test_not_built(self):
        with self.assertRaisesRegex(ValueError, "no weights yet"):
            keras_prm.as_functional(Net())

    def test_inputs_that_are_none(self):
        for inputs in ([], {}, [[1, 2, 3]], "x"):
            with self.assertRaisesRegex(ValueError, "`inputs` to be arrays"):
                keras_prm.as_functional(subclassed(), inputs)

    def test_several_arguments(self):
        class Two(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = layers.Dense(2)

            def call(self, a, b):
                return self.dense(a) + b

        model = Two()
        model(np.ones((2, 3)), np.ones((2, 2)))
        with self.assertRaisesRegex(TypeError, r"takes \['a', 'b'\]"):
            keras_prm.as_functional(model)

    def test_tokens_have_to_be_given(self):
        class Text(keras.Model):
            def __init__(self):
                super().__init__()
                self.tokens = layers.Embedding(9, 3)

            def call(self, x):
                return self.tokens(x)

        model, x = Text(), np.ones((2, 4), "int32")
        model(x)
        with self.assertRaisesRegex(ValueError, "Give `inputs`"):
            keras_prm.as_functional(model)
        self.assertEqual(
            keras_prm.as_functional(model, x).inputs[0].dtype, "int32"
        )

    def test_inputs_of_a_functional_model(self):
        model = of(Block(3))
        with self.assertRaisesRegex(ValueError, "inputs of its own"):
            keras_prm.as_functional(model, keras.Input((8, 8, 3)))
        keras_prm.as_functional(model, images())

    def test_random_inputs_may_not_fit(self):
        x = keras.Input((None,), dtype="int32")
        y = layers.Embedding(9, 4, name="tokens")(x)
        places = Places()
        model = keras.Model(x, places(y))
        with self.assertWarnsRegex(UserWarning, "has not compared"):
            keras_prm.as_functional(model)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            keras_prm.as_functional(model, np.ones((2, 5), "int32"))

    def test_what_computes_otherwise_is_refused(self):
        model = of(layers.Dense(2), shape=(3,))
        with mock.patch.object(number_checks, "are_close", lambda *_: False):
            with self.assertRaisesRegex(RuntimeError, "not compute the same"):
                keras_prm.as_functional(model)


class Places(layers.Layer):
    """Takes at most eight timesteps."""

    def build(self, input_shape):
        self.table = self.add_weight(shape=(8, 4), name="table")

    def call(self, x):
        return x + ops.take(self.table, ops.arange(x.shape[1] or 8), axis=0)


class EmptyKernelTest(parameterized.TestCase):
    def test_weights_are_copied_whole(self):
        """An empty border is no reason to cut what is only copied."""
        inputs = keras.Input((8, 8, 3))
        conv = layers.Conv2D(4, 5, padding="same")
        model = keras.Model(inputs, conv(inputs))
        kernel = np.array(conv.kernel)
        kernel[[0, -1]] = 0.0
        conv.kernel.assign(kernel)
        found = keras_prm.as_functional(model)
        for one, other in zip(model.weights, found.weights, strict=True):
            np.testing.assert_array_equal(one, other)


if __name__ == "__main__":
    absltest.main()
