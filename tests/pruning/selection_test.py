"""What stays by a score: `hard_prune(model, plan, score)` by hand."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.plans.column_patterns import PATTERNS
from keras_prm.plans.plan import SparsityPlan
from keras_prm.pruning import scores
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.pruning.masks import masks_of
from keras_prm.rebuild.strip import strip
from tests.helpers import zoo


def edit(layer, kernel):
    layer.kernel.assign(np.array(kernel, "float32"))


def chain(kernel, columns=0.0, filters=1 / 3):
    """`a`, whose kernel is given, and `out`; the plan prunes `a`."""
    kernel = np.array(kernel, "float32")
    x = inputs = keras.Input((len(kernel),))
    x = layers.Dense(kernel.shape[1], name="a")(x)
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    zoo.randomize(model)
    edit(model.get_layer("a"), kernel)
    targets = {"filters": filters, "columns": columns}
    return model, SparsityPlan.explicit(model, {"a": targets})


def joined(a, b, filters=1 / 3):
    """Two layers of one input whose outputs are added."""
    inputs = keras.Input((1,))
    a_layer = layers.Dense(len(a), name="a")
    b_layer = layers.Dense(len(b), name="b")
    x = layers.Add()([a_layer(inputs), b_layer(inputs)])
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    zoo.randomize(model)
    edit(a_layer, [a])
    edit(b_layer, [b])
    return model, SparsityPlan.explicit(model, {"a": {"filters": filters}})


def with_gammas(first, second, after=None):
    """`a` and `b`, each with its BatchNormalization, or one after the sum."""
    inputs = keras.Input((4,))
    x, y = (layers.Dense(3, name=name)(inputs) for name in "ab")
    if after is None:
        x = layers.BatchNormalization(name="bn_a")(x)
        y = layers.BatchNormalization(name="bn_b")(y)
    x = layers.Add()([x, y])
    if after is not None:
        x = layers.BatchNormalization(name="bn")(layers.ReLU()(x))
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    zoo.randomize(model)
    for name, gamma in (("bn_a", first), ("bn_b", second), ("bn", after)):
        if gamma is not None:
            model.get_layer(name).gamma.assign(gamma)
    return model, SparsityPlan.explicit(model, {"a": {"filters": 1 / 3}})


def arrays(model):
    return [keras.ops.convert_to_numpy(v) for v in model.weights]


class RankingTestCase(parameterized.TestCase):
    def assert_gone(self, model, masks, gone, key="a/kernel"):
        np.testing.assert_array_equal(
            np.flatnonzero(~masks.kernels[key].filters), gone
        )
        self.assertEqual(masks_of(model), masks)


class FiltersTest(RankingTestCase):
    @parameterized.parameters(
        # The filters (3, 3), (5, 0.5) and (4.5, 2.5): sums 6, 5.5 and 7,
        (scores.l1_norm, 1),
        # norms sqrt(18), sqrt(25.25) and sqrt(26.5),
        (scores.l2_norm, 0),
        # distances 3.20 + 1.58, 3.20 + 2.06 and 1.58 + 2.06.
        (scores.geometric_median, 2),
    )
    def test_the_lowest_goes(self, score, gone):
        model, plan = chain([[3, 5, 4.5], [3, 0.5, 2.5]])
        self.assert_gone(model, hard_prune(model, plan, score), [gone])

    def test_a_score_of_one_s_own(self):
        def largest_weight(structures):
            return np.abs(structures.weights).max(axis=1)

        # 3, 5 and 4.5.
        model, plan = chain([[3, 5, 4.5], [3, 0.5, 2.5]], filters=0.7)
        self.assert_gone(model, hard_prune(model, plan, largest_weight), [0, 2])

    def test_tensors_and_lists_are_numbers_too(self):
        def with_keras(structures):
            return keras.ops.sum(keras.ops.abs(structures.weights), axis=1)

        def with_lists(structures):
            return [sum(map(abs, row)) for row in structures.weights.tolist()]

        for score in (with_keras, with_lists):
            model, plan = chain([[3, 5, 4.5], [3, 0.5, 2.5]])
            self.assert_gone(model, hard_prune(model, plan, score), [1])

    def test_of_equal_ones_the_last_goes(self):
        model, plan = chain([[2, -2, 2, -2]], filters=0.5)
        self.assert_gone(model, hard_prune(model, plan, scores.l1_norm), [2, 3])

    def test_zeros_go_first_and_are_no_neighbors(self):
        # Zero is far from all others, which is not to save it; nor does it
        # count for them: 1 + 3, 1 + 2 and 3 + 2 without it.
        model, plan = chain([[0, 10, 11, 13], [0, 5, 5, 5]], filters=0.5)
        masks = hard_prune(model, plan, scores.geometric_median)
        self.assert_gone(model, masks, [0, 2])
        # The same again changes nothing.
        again = hard_prune(model, plan, scores.geometric_median)
        self.assertEqual(again, masks)

    def test_taylor(self):
        # The error of the only sample is e = a1 + 2 a2 + 3 a3 = 3 + 8 + 3,
        # and a filter's change e times its own part of that sum.
        x = inputs = keras.Input((1,))
        x = layers.Dense(3, use_bias=False, name="a")(x)
        x = layers.Dense(1, use_bias=False, name="out")(x)
        model = keras.Model(inputs, x)
        model.compile("sgd", "mse")
        edit(model.get_layer("out"), [[1], [2], [3]])
        data = [(np.ones((1, 1)), np.zeros((1, 1)))]
        plan = SparsityPlan.explicit(model, {"a": {"filters": 0.4}})
        for kernel, gone in (([[3, 4, 1.1]], 0), ([[3.6, 4, 1.1]], 2)):
            edit(model.get_layer("a"), kernel)
            edit(model.get_layer("out"), [[1], [2], [3]])
            masks = hard_prune(model, plan, scores.taylor, data)
            self.assert_gone(model, masks, [gone])

    def test_the_mean_over_batches_counts(self):
        def first_gradient(structures):
            seen.append(structures.gradients.copy())
            return -structures.gradients[:, 0]

        seen = []
        model, plan = chain([[3, 5, 4.5], [3, 0.5, 2.5]])
        model.compile("sgd", "mse")
        rng = np.random.default_rng(1)
        data = [rng.normal(size=(2, 4, 2)) for _ in range(3)]
        data = [(x, 100 * scale * y) for scale, (x, y) in enumerate(data)]
        masks = hard_prune(model, plan, first_gradient, data)
        mean = np.mean(seen, axis=0)[:, 0]
        self.assertLen(seen, 3)
        self.assert_gone(model, masks, [np.argmax(mean)])
        self.assertNotEqual(np.argmax(seen[0][:, 0]), np.argmax(mean))


class ClassesTest(RankingTestCase):
    def test_scores_of_what_falls_together_add_up(self):
        # Means 4 and 100: 1/4 + 1.2, 5/4 + 1 and 6/4 + 0.8. Undivided, the
        # last one would go: 121, 105 and 86.
        model, plan = joined([1, 5, 6], [120, 100, 80])
        masks = hard_prune(model, plan, scores.l1_norm)
        self.assert_gone(model, masks, [0])
        self.assert_gone(model, masks, [0], "b/kernel")

    def test_a_member_that_is_zero_adds_nothing(self):
        # Of the first, two filters live, mean 4: 0 + 0.9, 0.5 + 0.8 and
        # 1.5 + 1.3.
        model, plan = joined([0, 2, 6], [90, 80, 130])
        masks = hard_prune(model, plan, scores.l1_norm)
        self.assert_gone(model, masks, [0])

    def test_scores_may_be_negative(self):
        def minus(structures):
            return -np.abs(structures.weights).sum(axis=1)

        model, plan = joined([1, 5, 6], [120, 100, 80])
        # As above, the largest sum goes: 1.45, 2.25 and 2.3.
        self.assert_gone(model, hard_prune(model, plan, minus), [2])

    @parameterized.parameters(
        ("residual", scores.l1_norm),
        ("branches", scores.geometric_median),
        ("grouped", scores.l1_norm),
        ("nested", scores.geometric_median),
        ("attention", scores.l1_norm),
    )
    def test_numbers_are_the_plan_s(self, name, score):
        model = zoo.make(name)
        plan = SparsityPlan.uniform(model, filters=0.5, columns=0.3)
        masks = hard_prune(model, plan, score).kernels
        kept = {}
        for kernel in plan.kernels:
            filters = masks[kernel.key].filters.tolist()
            for number, live in zip(kernel.out_classes, filters):
                self.assertEqual(kept.setdefault(number, live), live)
        self.assertTrue(kept.pop(-1, True))
        for group in plan.groups:
            numbers = range(group.start, group.start + group.size)
            self.assertEqual(sum(kept[n] for n in numbers), group.keep)
        for kernel in plan.kernels:
            inputs = np.array([kept.get(n, True) for n in kernel.in_classes])
            columns = masks[kernel.key].columns.reshape(-1, len(inputs))
            size = len(columns) * inputs.sum()
            self.assertEqual(
                columns.sum(), size - int(size * kernel.columns + 1e-4)
            )
            self.assertFalse(columns[:, ~inputs].any())

    def test_strips_exactly(self):
        model = zoo.make("residual")
        hard_prune(model, SparsityPlan.uniform(model, 0.5), scores.l1_norm)
        small = strip(model)
        self.assertLess(small.count_params(), 0.5 * model.count_params())
        x = zoo.inputs_of(model)
        np.testing.assert_allclose(
            small.predict(x, verbose=0),
            model.predict(x, verbose=0),
            rtol=1e-4,
            atol=1e-5,
        )

    def test_goes_before_what_admm_holds(self):
        for score, gone in ((scores.l1_norm, 1), (scores.geometric_median, 2)):
            model, plan = chain([[3, 5, 4.5], [3, 0.5, 2.5]])
            wrapper = ADMMWrapper("sgd", plan)
            wrapper.build(model.trainable_variables)
            wrapper.iterations.assign(wrapper.update_every)
            model.compile(wrapper, "mse")
            self.assert_gone(model, hard_prune(model, plan, score), [gone])


class ColumnsTest(RankingTestCase):
    def assert_columns_gone(self, masks, gone, key="a/kernel"):
        columns = masks.kernels[key].columns.reshape(-1)
        np.testing.assert_array_equal(np.flatnonzero(~columns), gone)

    def test_only_filters_that_stay_count(self):
        # The last filter is smallest. Without it the columns sum up to 5,
        # 2, 6 and 4; with it, to 5, 4.5, 6 and 4.
        kernel = [[2, 3, 0], [1, 1, 2.5], [3, 3, 0], [2, 2, 0]]
        model, plan = chain(kernel, columns=0.25)
        masks = hard_prune(model, plan, scores.l1_norm)
        self.assert_gone(model, masks, [2])
        self.assert_columns_gone(masks, [1])

    def test_columns_of_removed_channels_are_gone_besides(self):
        # Of three channels one goes, and of the columns left, 4 and 3, one.
        model, _ = chain([[3, 1, 2]])
        edit(model.get_layer("out"), [[2, 2], [9, 9], [1, 2]])
        targets = {"a": {"filters": 1 / 3}, "out": {"columns": 0.5}}
        plan = SparsityPlan.explicit(model, targets)
        masks = hard_prune(model, plan, scores.l1_norm)
        self.assert_gone(model, masks, [1])
        self.assert_columns_gone(masks, [1, 2], "out/kernel")

    def test_zeros_go_first(self):
        kernel = [[10], [0], [11], [13]]
        model, plan = chain(kernel, columns=0.5, filters=0.0)
        masks = hard_prune(model, plan, scores.geometric_median)
        self.assert_columns_gone(masks, [1, 2])

    def test_taylor_of_columns(self):
        model, plan = chain(np.ones((3, 2)), columns=0.4, filters=0.0)
        model.compile("sgd", "mse")
        # A column's gradient is its input, but for a factor that all share.
        x = np.array([[3.0, 1.0, 2.0]])
        masks = hard_prune(model, plan, scores.taylor, [(x, np.ones((1, 2)))])
        self.assert_columns_gone(masks, [1])

    @parameterized.parameters("free", "per_channel")
    def test_one_that_is_far_below_says_nothing_of_the_others(self, pattern):
        # In float32, 1e9 + 1 and 1e9 + 8 are the same.
        table = [-1e9, 5, 1, 4, 8, 3, 7, 2, 6]
        masks = self.prune_one_channel(table, pattern)
        self.assert_columns_gone(masks, [0, 2, 5, 7])

    @parameterized.parameters(*PATTERNS)
    def test_scores_of_any_size(self, pattern):
        table = np.array([-3, 9, 8, 1, 7, 6, -2, 5, 4])
        expected = self.prune_one_channel(table, pattern)
        for size in (1e-60, 1e60, 1e307):
            masks = self.prune_one_channel(table * size, pattern)
            np.testing.assert_array_equal(
                masks.kernels["a/kernel"].columns,
                expected.kernels["a/kernel"].columns,
            )

    def prune_one_channel(self, table, pattern):
        """`hard_prune` of a 3x3 kernel with a score of each of its taps."""
        x = inputs = keras.Input((4, 4, 1))
        x = layers.Conv2D(2, 3, name="a")(x)
        model = keras.Model(inputs, x)
        zoo.randomize(model)
        targets = {"columns": 0.45, "column_pattern": pattern}
        plan = SparsityPlan.explicit(model, {"a": targets})
        return hard_prune(model, plan, lambda structures: np.array(table))

    @parameterized.parameters("transposed", "depthwise")
    def test_other_layouts(self, kind):
        x = inputs = keras.Input((4, 4, 3))
        if kind == "transposed":
            x = layers.Conv2DTranspose(4, 2, name="a")(x)
        else:
            x = layers.Conv2D(4, 1, name="a")(x)
            x = layers.DepthwiseConv2D(3, name="dw")(x)
        model = keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x))
        zoo.randomize(model)
        kernel = keras.ops.convert_to_numpy(model.get_layer("a").kernel)
        if kind == "transposed":
            kernel = kernel.swapaxes(-1, -2)
        norms = np.abs(kernel).sum(axis=(0, 1, 2))
        plan = SparsityPlan.explicit(
            model, {"a": {"filters": 0.5, "columns": 0.5}}
        )
        masks = hard_prune(model, plan, scores.l1_norm)
        gone = np.argsort(norms)[:2]
        self.assert_gone(model, masks, np.sort(gone))
        columns = np.abs(np.delete(kernel, gone, axis=-1)).sum(axis=-1)
        num_gone = columns.size // 2
        self.assert_columns_gone(
            masks, np.sort(np.argsort(columns.reshape(-1))[:num_gone])
        )


class GammasTest(RankingTestCase):
    def test_a_filter_has_the_gamma_that_scales_it(self):
        # Means 2 and 20: 1/2 + 2, 2/2 + 0.1 and 3/2 + 0.9; sign is nothing.
        model, plan = with_gammas([1, 2, -3], [40, -2, 18])
        masks = hard_prune(model, plan, scores.batch_norm_gamma)
        self.assert_gone(model, masks, [1])
        np.testing.assert_array_equal(masks.vectors["bn_b/gamma"], [1, 0, 1])

    def test_behind_a_sum_all_have_it(self):
        model, plan = with_gammas(None, None, after=[3, -2, 1])
        masks = hard_prune(model, plan, scores.batch_norm_gamma)
        self.assert_gone(model, masks, [2])
        self.assert_gone(model, masks, [2], "b/kernel")

    def test_columns_have_none(self):
        model, _ = with_gammas([1, 2, 3], [1, 2, 3])
        plan = SparsityPlan.uniform(model, filters=0.4, columns=0.5)
        before = arrays(model)
        with self.assertRaisesRegex(
            ValueError, "Plan without `columns`.*'a/kernel', 'b/kernel', 'out"
        ):
            hard_prune(model, plan, scores.batch_norm_gamma)
        for old, new in zip(before, arrays(model), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_layers_without_are_named(self):
        x = inputs = keras.Input((4,))
        for name, kind in (("a", ""), ("b", "bn"), ("c", ""), ("d", "beta")):
            x = layers.Dense(4, name=name)(x)
            if kind:
                x = layers.BatchNormalization(scale=kind == "bn")(x)
            x = layers.ReLU()(x)
        model = keras.Model(inputs, layers.Dense(2, name="out")(x))
        zoo.randomize(model)
        plan = SparsityPlan.uniform(model, filters=0.5)
        with self.assertRaisesRegex(
            ValueError, r"none scales .*exclude=\['a', 'c', 'd'\]"
        ):
            hard_prune(model, plan, scores.batch_norm_gamma)
        plan = SparsityPlan.uniform(model, 0.5, exclude=["a", "c", "d"])
        masks = hard_prune(model, plan, scores.batch_norm_gamma)
        self.assertEqual(masks.kernels["b/kernel"].filters.sum(), 2)


class ErrorsTest(RankingTestCase):
    def refuse(self, error, message, score, data=None, compiled=True):
        model, plan = chain([[3, 5, 4.5], [3, 0.5, 2.5]])
        if compiled:
            model.compile("sgd", "mse")
        before = arrays(model)
        with self.assertRaisesRegex(error, message):
            hard_prune(model, plan, score, data)
        for old, new in zip(before, arrays(model), strict=True):
            np.testing.assert_array_equal(old, new)

    @parameterized.parameters(
        (lambda s: s.weights, r"one finite number for each row.*3 rows, got"),
        (lambda s: np.ones(2), "'a/kernel': '3 rows, got array"),
        (lambda s: 1.0, "'a/kernel': '3 rows, got 1.0"),
        (lambda s: None, "'a/kernel': '3 rows, got None"),
        (lambda s: "much", "'a/kernel': .3 rows, got 'much'"),
        (lambda s: [1, np.nan, 2], "'a/kernel': 'NaN or infinity'"),
        (lambda s: [1, np.inf, 2], "'a/kernel': 'NaN or infinity'"),
    )
    def test_answers_that_are_none(self, score, message):
        self.refuse(ValueError, message, score)

    def test_no_function(self):
        self.refuse(TypeError, "such as `keras_prm.scores.l1_norm`", "l1_norm")

    def test_gradients_without_data(self):
        self.refuse(ValueError, "Pass `data`, an iterable of", scores.taylor)

    def test_data_without_a_score_are_for_statistics(self):
        """Of which there are none here."""
        model, plan = chain([[3, 5, 4.5], [3, 0.5, 2.5]])
        other, _ = chain([[3, 5, 4.5], [3, 0.5, 2.5]])
        hard_prune(model, plan, data=[(np.ones((1, 2)), np.ones((1, 2)))])
        hard_prune(other, plan)
        for one, two in zip(arrays(model), arrays(other), strict=True):
            np.testing.assert_array_equal(one, two)

    def test_no_batches(self):
        self.refuse(ValueError, "at least one batch", scores.taylor, [])

    def test_not_compiled(self):
        data = [(np.ones((1, 2)), np.ones((1, 2)))]
        self.refuse(
            ValueError, "model.compile", scores.taylor, data, compiled=False
        )

    def test_a_loss_that_is_at_rest(self):
        data = [(np.zeros((1, 2)), np.zeros((1, 2)))]
        self.refuse(
            ValueError, "on which it can still fall", scores.taylor, data
        )


if __name__ == "__main__":
    absltest.main()
