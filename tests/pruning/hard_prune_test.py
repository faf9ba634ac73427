"""Pruning at once, by a plan and a score."""

import contextlib
import io
import warnings

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.analysis.trace import trace
from keras_prm.plans.plan import SparsityPlan
from keras_prm.pruning import scores
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.pruning.masks import Masks
from keras_prm.pruning.masks import masks_of
from keras_prm.pruning.recalibrate import recalibrate
from keras_prm.rebuild.strip import strip
from keras_prm.utils import variable_keys
from tests.helpers import masking
from tests.helpers import zoo
from tests.helpers.masking import MasksTestCase
from tests.helpers.masking import conv_data
from tests.helpers.masking import conv_model
from tests.helpers.masking import snapshot


class HardPruneTest(MasksTestCase):
    @parameterized.parameters(
        "wrapper", lambda wrapper: keras.optimizers.LossScaleOptimizer(wrapper)
    )
    def test_support_of_an_optimizer_that_is_passed(self, around):
        model = conv_model()
        plan = SparsityPlan.uniform(model, filters=0.5)
        wrapper = ADMMWrapper("sgd", plan, update_every=1)
        wrapper.build(model.trainable_variables)
        wrapper.apply(
            [keras.ops.zeros(v.shape) for v in wrapper._trainable_variables]
        )
        for variable in model.trainable_variables:
            variable.assign(keras.ops.convert_to_numpy(variable)[..., ::-1])
        optimizer = wrapper if around == "wrapper" else around(wrapper)
        masks = hard_prune(model, plan, optimizer=optimizer)
        for key, mask in wrapper.masks().items():
            np.testing.assert_array_equal(
                masks.kernels[key].full(), mask.full()
            )

    def test_an_optimizer_without_admm(self):
        model = conv_model()
        plan = SparsityPlan.uniform(model, filters=0.5)
        with self.assertRaisesRegex(TypeError, "pass `optimizer=False`"):
            hard_prune(model, plan, optimizer=keras.optimizers.SGD())

    @parameterized.parameters(*masking.MODELS)
    def test_zero_where_masked_and_nowhere_else(self, name):
        model = zoo.make(name)
        before = variable_keys.variables_by_key(model)
        before = {k: keras.ops.convert_to_numpy(v) for k, v in before.items()}
        plan = SparsityPlan.uniform(model, filters=0.5, columns=0.3)
        masks = hard_prune(model, plan)
        self.assertEqual([*masks.kernels], [k.key for k in plan.kernels])
        for key, variable in variable_keys.variables_by_key(model).items():
            keep = np.ones(variable.shape, bool)
            if key in masks.kernels:
                keep = masks.kernels[key].full()
                self.assertTrue(keep.any(), key)
            elif key in masks.vectors:
                keep = masks.vectors[key]
            np.testing.assert_array_equal(
                keras.ops.convert_to_numpy(variable),
                np.where(keep, before[key], 0),
                key,
            )
        self.assertEqual(masks_of(model), masks)

    @parameterized.parameters(*masking.MODELS)
    def test_numbers_kept_are_the_plan_s(self, name):
        model = zoo.make(name)
        plan = SparsityPlan.uniform(model, filters=0.5, columns=0.3)
        masks = hard_prune(model, plan)
        dead, live = set(), set()
        for kernel in plan.kernels:
            mask = masks.kernels[kernel.key]
            for number, keep in zip(
                kernel.out_classes, mask.filters, strict=True
            ):
                (live if keep else dead).add(number)
            columns = mask.columns.reshape(-1, kernel.matrix_shape[-2])
            classes = np.array(kernel.in_classes)
            inputs = ~np.isin(classes, [*dead]) | (classes < 0)
            size = inputs.sum() * len(columns)
            self.assertEqual(
                columns.sum(), size - int(size * kernel.columns + 1e-4)
            )
            self.assertFalse(columns[:, ~inputs].any())
        self.assertEmpty(dead & live)
        self.assertNotIn(-1, dead)
        for group in plan.groups:
            numbers = {*range(group.start, group.start + group.size)}
            self.assertLen(dead & numbers, group.size - group.keep)

    @parameterized.parameters(
        "lenet5", "batch_norm", "residual", "depthwise", "branches", "nested"
    )
    def test_strip_after_it_is_exact_and_smaller(self, name):
        model = zoo.make(name)
        hard_prune(model, SparsityPlan.uniform(model, 0.5, 0.3))
        small = strip(model)
        self.assertLess(small.count_params(), 0.8 * model.count_params())
        x = zoo.inputs_of(model)
        np.testing.assert_allclose(
            small.predict(x, verbose=0),
            model.predict(x, verbose=0),
            rtol=1e-4,
            atol=1e-5,
        )

    def test_dead_channel_is_blank(self):
        model = conv_model()
        plan = SparsityPlan.explicit(model, {"a": {"filters": 0.5}})
        masks = hard_prune(model, plan)
        dead = ~masks.kernels["a/kernel"].filters
        self.assertEqual(dead.sum(), 4)
        for key in ("a/bias", "bn/gamma", "bn/beta"):
            np.testing.assert_array_equal(masks.vectors[key], ~dead)
        self.assertNotIn("bn/moving_mean", masks.vectors)
        self.assertTrue(np.all(model.get_layer("bn").moving_mean))
        inside = keras.Model(model.input, model.get_layer("relu").output)
        channels = inside.predict(conv_data()[0], verbose=0)
        self.assertFalse(channels[..., dead].any())
        self.assertTrue(channels[..., ~dead].any(axis=(0, 1, 2)).all())
        columns = masks.kernels["b/kernel"].columns[0, 0]
        np.testing.assert_array_equal(columns, ~dead)

    def test_a_frozen_reader_is_not_touched(self):
        model = conv_model()
        model.get_layer("b").trainable = False
        before = keras.ops.convert_to_numpy(model.get_layer("b").kernel)
        plan = SparsityPlan.explicit(model, {"a": {"filters": 0.5}})
        masks = hard_prune(model, plan)
        np.testing.assert_array_equal(model.get_layer("b").kernel, before)
        self.assertEqual(masks_of(model), masks)

    @parameterized.parameters(False, True)
    def test_takes_the_support_that_the_wrapper_holds(self, loss_scale):
        model = conv_model()
        plan = SparsityPlan.uniform(model, 0.5, 0.3)
        wrapper = ADMMWrapper(keras.optimizers.SGD(1e-3), plan)
        wrapper.build(model.trainable_variables)
        wrapper.iterations.assign(wrapper.update_every)
        optimizer = wrapper
        if loss_scale:
            optimizer = keras.optimizers.LossScaleOptimizer(wrapper)
        model.compile(optimizer, "mse")
        held = wrapper.masks()
        # The weights walk off, and the held support stands.
        zoo.randomize(model, seed=5)
        weights = snapshot(model)
        # A plan that is equal, not the same.
        masks = hard_prune(model, SparsityPlan.from_config(plan.get_config()))
        for key, mask in held.items():
            np.testing.assert_array_equal(
                masks.kernels[key].full(), mask.full()
            )
        self.assert_masked(model, masks)
        # Compiled with another plan the weights decide.
        for variable, array in zip(model.weights, weights, strict=True):
            variable.assign(array)
        other = SparsityPlan.uniform(model, 0.5, 0.25)
        place = "model.optimizer" + ".inner_optimizer" * loss_scale
        with self.assertWarnsRegex(UserWarning, f"pass `{place}.plan`"):
            projected = hard_prune(model, other).kernels
        for variable, array in zip(model.weights, weights, strict=True):
            variable.assign(array)
        model.compile("sgd", "mse")
        self.assertEqual(
            Masks(projected), Masks(hard_prune(model, other).kernels)
        )
        self.assertTrue(
            any(
                np.any(projected[key].filters != mask.filters)
                for key, mask in held.items()
            )
        )

    def compiled(self, **kwargs):
        """A model whose wrapper has settled on the support of its weights."""
        model = conv_model()
        plan = SparsityPlan.uniform(model, 0.5, 0.3)
        wrapper = ADMMWrapper(keras.optimizers.SGD(1e-3), plan, **kwargs)
        wrapper.build(model.trainable_variables)
        wrapper.iterations.assign(wrapper.update_every)
        model.compile(wrapper, "mse")
        return model, plan, wrapper

    def test_weights_that_admm_did_not_end_with(self):
        model, plan, wrapper = self.compiled()
        held = wrapper.masks()
        zoo.randomize(model, seed=5)
        weights = model.get_weights()
        message = r"restore_best_weights.*optimizer=False.*kernel"
        with self.assertWarnsRegex(UserWarning, message):
            masks = hard_prune(model, plan)
        for key, mask in held.items():
            np.testing.assert_array_equal(
                masks.kernels[key].full(), mask.full()
            )
        model.set_weights(weights)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            nearest = hard_prune(model, plan, optimizer=False)
        model.set_weights(weights)
        model.compile("sgd", "mse")
        self.assertEqual(nearest, hard_prune(model, plan))
        self.assertNotEqual(nearest, masks)

    def test_weights_near_the_set_prune_without_a_word(self):
        model, plan, wrapper = self.compiled()
        before = model.get_weights()
        hard_prune(model, plan, optimizer=False)
        model.set_weights(
            [w + 0.05 * (b - w) for w, b in zip(model.get_weights(), before)]
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            hard_prune(model, plan)

    def test_zeros_that_were_there_are_held(self):
        model = conv_model()
        first = hard_prune(model, SparsityPlan.uniform(model, columns=0.5))
        plan = SparsityPlan.uniform(model, filters=0.25)
        weights = model.get_weights()
        both = hard_prune(model, plan)
        for key, mask in first.kernels.items():
            self.assertFalse(
                np.any(both.kernels[key].full() & ~mask.full()), key
            )
        model.set_weights(weights)
        alone = hard_prune(model, plan, keep_zeros=False)
        self.assertNotEqual(alone, both)
        self.assertEqual(alone & masks_of(model), both)

    def test_kernels_of_zeros_and_single_zeros_train_on(self):
        """A residual branch that begins at zero, with its bias."""
        x = inputs = keras.Input((4,))
        y = keras.layers.Dense(8, name="a")(x)
        y = keras.layers.Dense(
            4, name="zero", kernel_initializer="zeros", bias_initializer="zeros"
        )(y)
        y = keras.layers.Dense(6, name="b")(keras.layers.add([x, y]))
        model = keras.Model(inputs, keras.layers.Dense(1, name="out")(y))
        kernel = np.ones((4, 6), "float32")
        kernel[0, 0] = 0
        model.get_layer("b").kernel.assign(kernel)
        plan = SparsityPlan.explicit(model, {"b": {"filters": 0.5}})
        message = "initializer of zeros.*masks_of.*zero/kernel"
        with self.assertWarnsRegex(UserWarning, message):
            masks = hard_prune(model, plan)
        self.assertNotIn("zero/kernel", masks.kernels)
        self.assertNotIn("zero/bias", masks.vectors)
        self.assertTrue(masks.kernels["b/kernel"].columns.all())

    @parameterized.parameters("pruned", "zeros")
    def test_frozen_zeros_are_held_without_a_word(self, initial):
        """The plan has nothing of them, and they do not train."""
        chain = [keras.layers.Dense(4, name=name) for name in ("a", "b", "c")]
        model = keras.Sequential([keras.Input((4,)), *chain])
        kernel = np.zeros((4, 4), "float32")
        if initial == "pruned":
            kernel[:, 2:] = 1.0
        model.get_layer("a").kernel.assign(kernel)
        model.get_layer("a").trainable = False
        plan = SparsityPlan.explicit(model, {"b": {"filters": 0.5}})
        masks = hard_prune(model, plan)
        self.assertEqual("a/kernel" in masks.kernels, initial == "pruned")
        # What is frozen of the plan itself is named, and nothing else.
        model.get_layer("b").trainable = False
        message = r"make the plan anew.*Received: \['b/kernel'\] that"
        with self.assertWarnsRegex(UserWarning, message):
            hard_prune(model, plan)

    def test_rows_of_an_embedding_are_no_columns(self):
        model = keras.Sequential(
            [
                keras.Input((3,), dtype="int32"),
                keras.layers.Embedding(5, 4, name="words"),
                keras.layers.Flatten(),
                keras.layers.Dense(2, name="out"),
            ]
        )
        table = np.ones((5, 4), "float32")
        table[0] = 0
        model.get_layer("words").embeddings.assign(table)
        plan = SparsityPlan.explicit(model, {"out": {"columns": 0.5}})
        self.assertEqual([*hard_prune(model, plan).kernels], ["out/kernel"])

    def test_wrapper_that_is_not_built_holds_nothing(self):
        model = conv_model()
        plan = SparsityPlan.uniform(model, 0.5)
        model.compile(ADMMWrapper("sgd", plan), "mse")
        with self.assertWarnsRegex(UserWarning, "no update yet. Train for"):
            masks = hard_prune(model, plan)
        self.assert_masked(model, masks)

    @parameterized.parameters(
        ("residual", "made for another model. Make one for this model"),
        ("batch_norm", "Received a plan with other weights: expected kernel"),
    )
    def test_plan_for_another_model(self, other, message):
        plan = SparsityPlan.uniform(zoo.make(other), 0.5)
        model = conv_model()
        before = snapshot(model)
        with self.assertRaisesRegex(ValueError, message):
            hard_prune(model, plan)
        self.assert_unchanged(model, before)

    @parameterized.parameters(np.nan, np.inf)
    def test_weights_that_are_not_finite(self, value):
        model = conv_model()
        plan = SparsityPlan.uniform(model, 0.5)
        bias = np.zeros(6, "float32")
        bias[2] = value
        model.get_layer("b").bias.assign(bias)
        before = snapshot(model)
        with self.assertRaisesRegex(ValueError, r"Restore.*\['b/bias'\]"):
            hard_prune(model, plan)
        self.assert_unchanged(model, before)

    def test_plan_for_other_ties(self):
        """The same kernels, one after the other or joined by a sum."""

        def model(is_sum):
            inputs = keras.Input((4,))
            a, b = layers.Dense(4, name="a"), layers.Dense(4, name="b")
            x = layers.Add()([a(inputs), b(inputs)]) if is_sum else b(a(inputs))
            return keras.Model(inputs, layers.Dense(2, name="out")(x))

        tied, free = model(True), model(False)
        zoo.randomize(free)
        before = snapshot(free)
        plan = SparsityPlan.uniform(tied, filters=0.5)
        with self.assertRaisesRegex(ValueError, "Make one for this model"):
            hard_prune(free, plan)
        self.assert_unchanged(free, before)

    def test_a_plan_that_removes_nothing(self):
        model = conv_model()
        before = snapshot(model)
        with self.assertWarnsRegex(UserWarning, "nothing was pruned"):
            masks = hard_prune(model, SparsityPlan.uniform(model))
        self.assertEmpty(masks.kernels)
        for a, b in zip(before, snapshot(model)):
            np.testing.assert_array_equal(a, b)

    def test_something_else_than_a_plan(self):
        with self.assertRaisesRegex(TypeError, r"SparsityPlan.uniform\(model"):
            hard_prune(conv_model(), {"a": 0.5})


def normed():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = layers.Dense(8, name="first")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    return keras.Model(inputs, layers.Dense(3, name="last")(x))


def normed_data():
    rng = np.random.default_rng(0)
    return rng.normal(2.0, 3.0, (64, 6)).astype("float32"), np.arange(64) % 3


class StatisticsTest(parameterized.TestCase):
    def statistics(self, model):
        norm = model.get_layer("norm")
        return [
            *map(
                keras.ops.convert_to_numpy,
                (norm.moving_mean, norm.moving_variance),
            )
        ]

    @parameterized.parameters("arrays", "batches", "inputs")
    def test_data_renew_them(self, form):
        model, again = normed(), normed()
        plan = SparsityPlan.uniform(model, filters=0.5)
        x, y = normed_data()
        data = {
            "arrays": (x, y),
            "batches": [(x[:32], y[:32]), (x[32:], y[32:])],
            "inputs": x,
        }[form]
        hard_prune(model, plan, data=data)
        hard_prune(again, plan)
        before = self.statistics(again)
        recalibrate(again, x)
        for found, old, new in zip(
            self.statistics(model), before, self.statistics(again), strict=True
        ):
            np.testing.assert_allclose(found, new, rtol=1e-5)
            self.assertGreater(np.abs(found - old).max(), 0.1)

    def test_with_a_score_that_reads_gradients(self):
        model = normed()
        model.compile(
            "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        )
        before = self.statistics(model)
        x, y = normed_data()
        batches = iter([(x, y)])  # which can be read only once
        plan = SparsityPlan.uniform(model, filters=0.5)
        hard_prune(model, plan, score=scores.taylor, data=batches)
        after = self.statistics(model)
        self.assertGreater(np.abs(after[0] - before[0]).max(), 0.1)

    def test_says_that_they_stay(self):
        plan = SparsityPlan.uniform(normed(), filters=0.5)
        for data, word in ((None, "those of the network before"), ("x", "")):
            model, stream = normed(), io.StringIO()
            with contextlib.redirect_stdout(stream):
                hard_prune(model, plan, data=data and normed_data()[0])
            self.assertIn(word, stream.getvalue())
            self.assertEqual(bool(word), bool(stream.getvalue()))

    def test_bad_data_change_nothing(self):
        x, _ = normed_data()
        for data, error in (
            ([], "no batch"),
            (np.full_like(x, np.nan), "NaN"),
            (np.zeros((4, 9), "float32"), ""),
        ):
            model = normed()
            plan = SparsityPlan.uniform(model, filters=0.5)
            before = model.get_weights()
            with self.assertRaisesRegex(Exception, error):
                hard_prune(model, plan, data=data)
            for old, new in zip(before, model.get_weights(), strict=True):
                np.testing.assert_array_equal(old, new)


class ZooCoversMasksTest(parameterized.TestCase):
    def test_depthwise_kernels_and_both_roles_are_masked(self):
        model = zoo.make("depthwise")
        masks = hard_prune(model, SparsityPlan.uniform(model, 0.5))
        graph = trace(model)
        depthwise = {w.key for w in graph.weights.values() if w.ids[-1] is None}
        self.assertTrue(depthwise & {*masks.kernels})
        for key in depthwise & {*masks.kernels}:
            # The copies of the multiplier live; the dead inputs are columns.
            self.assertTrue(masks.kernels[key].filters.all())
            self.assertFalse(masks.kernels[key].columns.all())


if __name__ == "__main__":
    absltest.main()
