import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.plans.plan import SparsityPlan
from keras_prm.pruning import scores
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.pruning.masks import masks_of
from keras_prm.rebuild.strip import strip
from keras_prm.training import mask_constraint
from keras_prm.training.iterative_pruning import IterativePruning
from keras_prm.training.mask_constraint import MaskConstraint
from tests.helpers import watching
from tests.helpers import zoo
from tests.helpers.watching import adam
from tests.helpers.watching import leaks
from tests.helpers.watching import make
from tests.helpers.watching import make_data
from tests.helpers.watching import sgd
from tests.helpers.watching import train


def linear():
    """0, 1/2, 1, 1, ... of the plan."""
    return keras.optimizers.schedules.PolynomialDecay(
        0.0, decay_steps=2, end_learning_rate=1.0
    )


class Watch(watching.Watch):
    """Looks at what a pruning callback has pruned so far."""

    def __init__(self, pruning):
        super().__init__(None, lambda model, _: leaks(model, pruning.masks))
        self.pruning = pruning
        self.seen = []

    def on_epoch_begin(self, epoch, logs=None):
        self._look()
        self.seen.append(self.pruning.masks)


def kept(masks, key="a/kernel"):
    """How many filters, and how many columns."""
    mask = masks.kernels.get(key)
    return mask and (int(mask.filters.sum()), int(mask.columns.sum()))


def is_within(masks, others):
    """Whether all that the others remove, these remove too."""
    return masks & others == masks


class IterativePruningTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.model = make()
        self.plan = SparsityPlan.uniform(self.model, filters=0.5, columns=0.3)

    def compile(self, optimizer=None, **kwargs):
        # Eagerly, since tracing a step takes longer than all of them.
        kwargs = {"jit_compile": False, "run_eagerly": True} | kwargs
        self.model.compile(optimizer or adam(), "mse", **kwargs)

    def prune(self, *before, epochs=4, **kwargs):
        """Trains with the callback; returns it, and who watched."""
        pruning = IterativePruning(self.plan, **{"ramp": linear()} | kwargs)
        return pruning, self.train(pruning, *before, epochs=epochs)

    def train(self, pruning, *before, **kwargs):
        watch = Watch(pruning)
        kwargs = {"batch_size": 8} | kwargs
        train(self.model, *before, pruning, watch, **kwargs)
        return watch

    def assert_tight(self, pruning, watch, looks=4 * 10):
        """Nothing that was pruned has moved since, at any step."""
        self.assertEqual(watch.found, [])
        self.assertGreaterEqual(watch.num_looks, looks)
        for old, new in zip(watch.seen, watch.seen[1:]):
            self.assertTrue(is_within(new, old))
        self.assertEqual(leaks(self.model, pruning.masks), [])
        self.assertTrue(all(v.constraint is None for v in self.model.weights))
        for variable in self.model.weights:
            array = keras.ops.convert_to_numpy(variable)
            self.assertTrue(np.isfinite(array).all())

    @parameterized.named_parameters(
        ("adam", adam, {}),
        ("momentum", sgd, {}),
        ("compiled", adam, {"jit_compile": True}),
        ("many_steps", adam, {"steps_per_execution": 4}),
        ("ema", lambda: adam(use_ema=True), {}),
        (
            "ema_overwrites",
            lambda: sgd(use_ema=True, ema_overwrite_frequency=3),
            {},
        ),
    )
    def test_no_leak_at_any_step(self, optimizer, options):
        if options and keras.backend.backend() == "torch":
            self.skipTest("Neither of both works on torch.")
        self.compile(optimizer(), run_eagerly=False, **options)
        train(self.model)  # a step is traced, and the moments are warm
        pruning, watch = self.prune()
        looks = 16 if "steps_per_execution" in options else 40
        self.assert_tight(pruning, watch, looks)
        # The layer has 8 filters and 6 columns: 8 - 4 t and 6 - 6 * 0.3 t.
        self.assertEqual(
            [kept(masks) for masks in watch.seen],
            [None, (6, 6), (4, 5), (4, 5)],
        )

    @parameterized.product(
        score=[scores.l1_norm, scores.geometric_median, scores.taylor]
    )
    def test_by_each_score(self, score):
        self.compile()
        data = make_data() if score is scores.taylor else None
        pruning, watch = self.prune(score=score, data=data)
        self.assert_tight(pruning, watch)
        self.assertEqual(kept(pruning.masks), (4, 5))
        self.assertIs(pruning.data, data)
        small = strip(self.model)
        x = make_data()[0]
        np.testing.assert_allclose(
            small.predict(x, verbose=0),
            self.model.predict(x, verbose=0),
            rtol=1e-4,
            atol=1e-5,
        )

    def test_the_first_pruning_is_that_of_hard_prune(self):
        self.compile()
        weights = self.model.get_weights()
        expected = hard_prune(self.model, self.plan, scores.l1_norm)
        self.model.set_weights(weights)
        pruning, watch = self.prune(ramp=None, score=scores.l1_norm)
        self.assert_tight(pruning, watch)
        self.assertEqual(watch.seen, [expected] * 4)
        self.assertEqual(masks_of(self.model), expected)

    def test_batch_norm_of_nested_models(self):
        self.model = make(watching.nested)
        self.plan = SparsityPlan.uniform(self.model, filters=0.5)
        self.compile()
        pruning, watch = self.prune(score=scores.batch_norm_gamma)
        self.assert_tight(pruning, watch)
        self.assertEqual(kept(pruning.masks, "two/dense/kernel"), (3, 4))
        self.assertIn("one/bn/gamma", pruning.masks.vectors)

    @parameterized.parameters(False, True)
    def test_averages_that_are_swapped_in(self, swap_on_epoch):
        self.compile(adam(use_ema=True))
        swap = keras.callbacks.SwapEMAWeights(swap_on_epoch)
        pruning = IterativePruning(self.plan, ramp=linear())
        data = None if swap_on_epoch else make_data()
        watch = self.train(pruning, swap, epochs=4, validation_data=data)
        self.assert_tight(pruning, watch)

    def test_under_admm(self):
        self.compile(
            ADMMWrapper(adam(), self.plan, update_every=3),
            run_eagerly=False,
            jit_compile=keras.backend.backend() == "jax",
        )
        pruning, watch = self.prune()
        self.assert_tight(pruning, watch)

    def test_ramp_and_every(self):
        """Cubic: 1 - (1 - t/4)^3, of 8 filters half: 8 - 4 * share."""
        self.compile()
        ramp = keras.optimizers.schedules.PolynomialDecay(
            0.0, decay_steps=4, end_learning_rate=1.0, power=3
        )
        # Shares 0, 0.578, 0.875, 0.984, 1: of 4 filters, 0, 2, 3, 3, 4.
        for every, expected in ((1, [8, 6, 5, 5, 4]), (2, [8, 8, 5, 5, 4])):
            self.model = make()
            self.compile()
            pruning = IterativePruning(self.plan, ramp=ramp, every=every)
            watch = self.train(pruning, epochs=5, batch_size=32)
            filters = [(kept(masks) or (8, 6))[0] for masks in watch.seen]
            self.assertEqual(filters, expected)

    def test_a_training_that_goes_on_between_two_prunings(self):
        self.compile()
        pruning = IterativePruning(self.plan, every=4)
        self.train(pruning, epochs=2)
        before = pruning.masks
        # As in a new process, after the weights were read from a file.
        pruning = IterativePruning(self.plan, every=4)
        self.train(pruning, epochs=3, initial_epoch=2)
        self.assertEqual(pruning.masks, before)
        self.assertEqual(leaks(self.model, before), [])

    def test_traces_anew_only_where_something_was_pruned(self):
        self.compile()
        count = []

        def count_calls(model):
            count.append(model)
            return retrace(model)

        retrace = mask_constraint.retrace
        self.enter_context(
            absltest.mock.patch.object(mask_constraint, "retrace", count_calls)
        )
        self.prune(epochs=6)
        # The begin, the end, and two prunings: masks come, and others go.
        self.assertLen(count, 2 + 1 + 2)

    def test_without_tracing_anew_it_would_leak(self):
        if not watching.ON_TENSORFLOW:
            self.skipTest("Seen on TensorFlow only.")
        self.compile(run_eagerly=False)
        train(self.model)
        with (
            absltest.mock.patch.object(mask_constraint, "retrace"),
            self.assertWarnsRegex(UserWarning, "Mask them there, too"),
        ):
            _, watch = self.prune()
        self.assertNotEmpty(watch.found)

    def make_channels_fall_after_columns(self):
        a = keras.layers.Dense(5, name="a")
        out = keras.layers.Dense(3, name="out")
        self.model = keras.Sequential([keras.Input((6,)), a, out])
        a.kernel.assign(np.ones((6, 1)) * [9, 9, 9, 2, 1])
        out.kernel.assign(np.transpose([[1, 2, 8, 9, 9]]) * np.ones((1, 3)))
        self.plan = SparsityPlan.explicit(
            self.model,
            {"a": {"filters": 0.4}, "out": {"columns": 0.6}},
        )
        self.compile(keras.optimizers.SGD(1e-9))

    def test_columns_stay_pruned_though_channels_fall_later(self):
        """At 1 the plan takes 1 of 3 columns; 2 of 4 are gone before."""
        self.make_channels_fall_after_columns()
        _, watch = self.prune(ramp=lambda epoch: [0.9, 1.0][epoch], epochs=2)
        columns = [m.kernels["out/kernel"].columns for m in watch.seen]
        np.testing.assert_array_equal(columns[0], [0, 0, 1, 1, 0])
        np.testing.assert_array_equal(columns[1], [0, 0, 1, 0, 0])

    def test_what_was_pruned_before_a_resumed_training_stays(self):
        """As above, with a callback of its own for each epoch."""
        self.make_channels_fall_after_columns()
        with self.assertWarns(UserWarning):
            self.prune(ramp=lambda epoch: 0.9, epochs=1)
        pruning = IterativePruning(self.plan)
        self.train(pruning, epochs=2, initial_epoch=1)
        columns = pruning.masks.kernels["out/kernel"].columns
        np.testing.assert_array_equal(columns, [0, 0, 1, 0, 0])

    def test_goes_on_in_the_next_fit(self):
        self.compile()
        with self.assertWarnsRegex(UserWarning, "make the ramp shorter"):
            pruning, watch = self.prune(epochs=2)
        self.assertEqual(kept(pruning.masks), (6, 6))
        again = self.train(pruning, epochs=4, initial_epoch=2)
        self.assert_tight(pruning, again, 2 * 10)
        self.assertTrue(is_within(again.seen[0], watch.seen[-1]))
        # From the beginning, it takes nothing back.
        again = self.train(pruning, epochs=2)
        self.assert_tight(pruning, again, 2 * 10)
        self.assertEqual([kept(m) for m in again.seen], [(4, 5)] * 2)

    def test_another_model_begins_afresh(self):
        self.compile()
        pruning, watch = self.prune()
        self.model = make()
        self.compile()
        watch = self.train(pruning, epochs=4)
        self.assertIsNone(kept(watch.seen[0]))
        self.assert_tight(pruning, watch)

    def test_goes_on_from_masks(self):
        self.compile()
        masks = hard_prune(self.model, self.plan.at_share(0.6))
        pruning, watch = self.prune(masks=masks)
        self.assert_tight(pruning, watch)
        self.assertEqual(watch.seen[0], masks)
        self.assertEqual(kept(pruning.masks), (4, 5))

    def test_training_is_free_again_afterwards(self):
        self.compile()
        pruning, _ = self.prune()
        train(self.model)
        self.assertNotEmpty(leaks(self.model, pruning.masks))

    def test_user_s_constraints_go_on(self):
        sign = keras.constraints.NonNeg()
        kernel = self.model.layers[0].kernel
        kernel.assign(keras.ops.abs(kernel))
        kernel.constraint = sign
        self.compile()
        pruning = IterativePruning(self.plan, ramp=linear())
        watch = Watch(pruning)
        depths = []

        class Depth(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                link, depth = kernel.constraint, 0
                while isinstance(link, MaskConstraint):
                    link, depth = link.inner, depth + 1
                depths.append((depth, link is sign))

        train(self.model, pruning, Depth(), watch, epochs=4)
        self.assertEqual(watch.found, [])
        self.assertEqual(depths, [(0, True)] + [(1, True)] * 3)
        self.assertIs(kernel.constraint, sign)
        self.assertGreaterEqual(np.min(np.array(kernel)), 0)

    def test_after_an_interrupted_fit(self):
        """Keras does not tell callbacks that `fit` was left."""

        class Interrupt(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                if epoch == 1:
                    raise KeyboardInterrupt

        self.compile()
        pruning = IterativePruning(self.plan, ramp=linear())
        with self.assertRaises(KeyboardInterrupt):
            train(self.model, pruning, Interrupt(), epochs=4)
        self.assertEqual(kept(pruning.masks), (6, 6))
        watch = self.train(pruning, epochs=4)
        self.assert_tight(pruning, watch)
        self.assertEqual(kept(pruning.masks), (4, 5))

    def test_score_that_fails(self):
        self.compile()
        weights = self.model.get_weights()
        with self.assertRaisesRegex(ValueError, "exclude="):
            self.prune(score=scores.batch_norm_gamma, ramp=None)
        for old, new in zip(weights, self.model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
        self.assertTrue(all(v.constraint is None for v in self.model.weights))

    def test_iterator_that_is_used_up(self):
        self.compile()
        data = iter([make_data()])
        with self.assertRaisesRegex(ValueError, "pass a list or a data set"):
            self.prune(score=scores.taylor, data=data)

    def test_plan_of_another_model(self):
        self.plan = SparsityPlan.uniform(zoo.make("mlp"), 0.5)
        self.compile()
        with self.assertRaisesRegex(ValueError, "Make one for this model"):
            self.prune(ramp=None)

    @parameterized.parameters(-0.5, 1.5, float("nan"))
    def test_ramp_that_is_none(self, share):
        self.compile()
        with self.assertRaisesRegex(ValueError, "from 0.0 to 1.0, such as"):
            self.prune(ramp=lambda epoch: share)

    @parameterized.parameters(
        (ValueError, "counts epochs.*Pass 1 to prune at each", {"every": 0}),
        (ValueError, "counts epochs.*Pass 1 to prune at each", {"every": 1.5}),
        (TypeError, "at once, leave it out", {"ramp": 0.5}),
        (TypeError, r"SparsityPlan.uniform\(model", {"plan": {"a": 0.5}}),
        (TypeError, "`hard_prune` or `masks_of`", {"masks": [1]}),
    )
    def test_arguments(self, error, message, arguments):
        with self.assertRaisesRegex(error, message):
            pruning = IterativePruning(**{"plan": self.plan} | arguments)
            self.compile()
            self.train(pruning)


if __name__ == "__main__":
    absltest.main()
