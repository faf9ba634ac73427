import contextlib
import copy
import os
import tempfile
from unittest import mock

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.plans.plan import SparsityPlan
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.pruning.masks import Masks
from keras_prm.pruning.masks import apply_masks
from keras_prm.pruning.masks import masks_of
from keras_prm.training import mask_constraint
from keras_prm.training.mask_constraint import release_masks
from keras_prm.training.structured_mask import StructuredMask
from tests.helpers import zoo
from tests.helpers.watching import JIT
from tests.helpers.watching import ON_TENSORFLOW
from tests.helpers.watching import ON_TORCH
from tests.helpers.watching import Watch
from tests.helpers.watching import adam
from tests.helpers.watching import flat
from tests.helpers.watching import leaks
from tests.helpers.watching import make
from tests.helpers.watching import make_data
from tests.helpers.watching import nested
from tests.helpers.watching import sgd
from tests.helpers.watching import train


class Change(keras.callbacks.Callback):
    """Gives a layer other variables, once."""

    def __init__(self, when, change):
        super().__init__()
        self.change = change
        self.weights = None
        setattr(self, when, self._once)

    def _once(self, *args, **kwargs):
        if self.weights is None:
            self.change(self.model.layers[1])
            self.weights = self.model.get_weights()


def swap(layer):
    """Another kernel where the old one was."""
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    layer._tracker.unlock()
    layer._untrack_variable(layer._kernel)
    layer._kernel = keras.Variable(kernel + 1.0, name="kernel")
    layer._tracker.lock()


def build_anew(layer):
    """The old variables stay in `layer.weights`, but nobody reads them."""
    layer._tracker.unlock()
    layer.built = False
    layer.build((None, 8))


def lose(layer):
    layer._tracker.unlock()
    layer._untrack_variable(layer._kernel)
    layer._tracker.lock()


CHANGES = {
    "swapped": swap,
    "built_anew": build_anew,
    "lost": lose,
    "lora": lambda layer: layer.enable_lora(2),
    "quantized": lambda layer: layer.quantize("int8"),
}


class StructuredMaskTest(parameterized.TestCase):
    def prune(self, model):
        plan = SparsityPlan.uniform(model, filters=0.5, columns=0.3)
        masks = hard_prune(model, plan)
        self.assertNotEmpty(masks.vectors)
        return masks

    def assert_tight(self, model, masks, *before, looks=16, **kwargs):
        """Two epochs without a leak, at any step or afterwards."""
        weights = model.get_weights()
        watch = Watch(masks)
        train(model, *before, StructuredMask(masks), watch, **kwargs)
        self.assertEqual(watch.found, [])
        self.assertGreaterEqual(watch.num_looks, looks)
        self.assertEqual(leaks(model, masks), [])
        after = model.get_weights()
        self.assertTrue(all(np.isfinite(w).all() for w in after))
        self.assertTrue(any(np.any(a != b) for a, b in zip(weights, after)))

    @parameterized.named_parameters(
        ("adam", adam, {}),
        ("adamw", lambda: keras.optimizers.AdamW(0.02), {}),
        ("momentum", sgd, {}),
        ("many_steps", adam, {"steps_per_execution": 4}),
        ("compiled", sgd, {"jit_compile": True}),
        ("eager", adam, {"run_eagerly": True, "jit_compile": False}),
        ("accumulation", lambda: adam(gradient_accumulation_steps=2), {}),
        ("scaled", lambda: keras.optimizers.LossScaleOptimizer(adam()), {}),
        # On JAX, Keras cannot compile a second `fit` with averages.
        ("ema", lambda: adam(use_ema=True), {"jit_compile": False}),
        (
            "ema_overwrites",
            lambda: sgd(use_ema=True, ema_overwrite_frequency=3),
            {"jit_compile": False},
        ),
    )
    def test_no_leak_at_any_step(self, optimizer, options):
        if ON_TORCH and "steps_per_execution" in options:
            self.skipTest("Keras has no steps_per_execution on PyTorch.")
        model = make()
        options = {"jit_compile": JIT} | options
        model.compile(optimizer(), "mse", **options)
        # A step is traced, and the moments are warm, before the masks are.
        train(model, epochs=1)
        masks = self.prune(model)
        looks = 2 if "steps_per_execution" in options else 16
        self.assert_tight(model, masks, looks=looks)

    @parameterized.parameters(False, True)
    def test_averages_that_are_swapped_in(self, swap_on_epoch):
        model = make()
        model.compile(adam(use_ema=True), "mse", jit_compile=JIT)
        masks = self.prune(model)
        # An evaluation would clean the averages before the epoch ends.
        data = None if swap_on_epoch else make_data()
        swap = keras.callbacks.SwapEMAWeights(swap_on_epoch)
        self.assert_tight(model, masks, swap, epochs=2, validation_data=data)

    def test_without_tracing_anew_it_would_leak(self):
        if not ON_TENSORFLOW:
            self.skipTest("Seen on TensorFlow only.")
        model = make()
        model.compile(adam(), "mse", jit_compile=JIT)
        train(model)
        masks = self.prune(model)
        watch = Watch(masks)
        with (
            mock.patch.object(mask_constraint, "retrace"),
            self.assertWarnsRegex(UserWarning, "Mask them there, too"),
        ):
            train(model, StructuredMask(masks), watch)
        self.assertNotEmpty(watch.found)

    def test_training_is_free_again_afterwards(self):
        model = make()
        model.compile(adam(), "mse", jit_compile=JIT)
        masks = self.prune(model)
        train(model, StructuredMask(masks))
        self.assertEqual(leaks(model, masks), [])
        train(model)
        self.assertNotEmpty(leaks(model, masks))
        self.assertTrue(all(v.constraint is None for v in model.weights))

    def test_nested_models(self):
        model = make(nested)
        model.compile(adam(), "mse", jit_compile=JIT)
        masks = self.prune(model)
        self.assertContainsSubset(
            ["one/dense/kernel", "two/dense/kernel"], masks.kernels
        )
        self.assertContainsSubset(["one/bn/gamma"], masks.vectors)
        self.assert_tight(model, masks)

    @parameterized.parameters(flat, nested)
    def test_masks_outlive_saving(self, build):
        model = make(build)
        masks = self.prune(model)
        with tempfile.TemporaryDirectory() as folder:
            model.save(os.path.join(folder, "model.keras"))
            masks.save(os.path.join(folder, "masks.json"))
            # Names that Keras makes up go on counting.
            model = keras.models.load_model(os.path.join(folder, "model.keras"))
            masks = Masks.load(os.path.join(folder, "masks.json"))
        self.assertEqual(masks_of(model), masks)
        model.compile(sgd(), "mse", jit_compile=JIT)
        self.assert_tight(model, masks)

    def test_no_masks_are_those_of_the_zeros(self):
        model = make()
        masks = self.prune(model)
        model.compile(adam(), "mse", jit_compile=JIT)
        callback = StructuredMask()
        train(model, callback)
        self.assertEqual(masks_of(model), masks)
        # At the next training there are more.
        kernel = keras.ops.convert_to_numpy(model.layers[-1].kernel)
        kernel[:, 1] = 0
        model.layers[-1].kernel.assign(kernel)
        more = masks_of(model)
        self.assertNotEqual(more, masks)
        train(model, callback)
        self.assertEqual(leaks(model, more), [])

    def test_leftovers_on_a_layer_that_is_frozen_meanwhile(self):
        model = make()
        masks = self.prune(model)
        stop = Change("on_train_batch_end", lambda layer: 1 / 0)
        model.compile(sgd(), "mse", jit_compile=JIT)
        with self.assertRaises(ZeroDivisionError):
            train(model, StructuredMask(masks), stop)
        model.get_layer("a").trainable = False
        model.compile(sgd(), "mse", jit_compile=JIT)
        train(model, StructuredMask(Masks({})))
        self.assertTrue(all(v.constraint is None for v in model.weights))

    def test_admm_that_goes_on_pulling(self):
        model = make()
        plan = SparsityPlan.uniform(model, filters=0.5)
        model.compile(ADMMWrapper(sgd(), plan), "mse", jit_compile=JIT)
        masks = hard_prune(model, plan, optimizer=False)
        with self.assertWarnsRegex(UserWarning, "with a bare optimizer"):
            train(model, StructuredMask(masks))
        # Towards more sparsity under the masks of a stage before: no word.
        more = SparsityPlan.uniform(model, filters=0.75)
        model.compile(ADMMWrapper(sgd(), more), "mse", jit_compile=JIT)
        train(model, StructuredMask(masks))
        self.assertEqual(leaks(model, masks), [])

    def test_admm_that_goes_on_pulling_inside_a_block(self):
        model = make()
        plan = SparsityPlan.uniform(model, filters=0.5)
        model.compile(ADMMWrapper(sgd(), plan), "mse", jit_compile=JIT)
        masks = hard_prune(model, plan, optimizer=False)
        with self.assertWarnsRegex(UserWarning, "with a bare optimizer"):
            with mask_constraint.enforced(model, masks):
                pass
        self.assertTrue(all(v.constraint is None for v in model.weights))
        model.compile(sgd(), "mse", jit_compile=JIT)
        with mask_constraint.enforced(model, masks):
            pass

    def admm_around(self, targets, is_built):
        """A network inside of one that ADMM trains, and is pruned so."""
        outer = make(nested)
        plan = SparsityPlan.explicit(outer, targets)
        wrapper = ADMMWrapper(sgd(), plan)
        options = {"jit_compile": JIT, "run_eagerly": ON_TENSORFLOW}
        outer.compile(wrapper, "mse", **options)
        if is_built:
            wrapper.build(outer.trainable_variables)
        hard_prune(outer, plan, optimizer=False)
        return outer, outer.get_layer("one")

    @parameterized.product(
        is_built=[True, False],
        case=[("columns", True), ("filters", False)],
    )
    def test_admm_planned_on_a_larger_model(self, is_built, case):
        """The inputs of the next layer, which fall with filters, train on."""
        what, is_held = case
        targets = {"one/dense": {what: 0.5}}
        outer, inner = self.admm_around(targets, is_built)
        expected = contextlib.nullcontext()
        if is_held:
            message = "hold all that the plan.*with a bare optimizer"
            expected = self.assertWarnsRegex(UserWarning, message)
        masks = Masks.from_json(masks_of(inner).to_json())
        with expected:
            with mask_constraint.enforced(inner, masks, compiled=outer):
                pass
        self.assertTrue(all(v.constraint is None for v in outer.weights))

    @parameterized.parameters("fit", "block")
    def test_a_warning_that_is_an_error_leaves_no_mask(self, way):
        targets = {"one/dense": {"columns": 0.5}}
        outer, inner = self.admm_around(targets, True)
        masks = masks_of(inner)
        with self.assertRaisesRegex(UserWarning, "with a bare optimizer"):
            if way == "fit":
                train(outer, StructuredMask(masks, model=inner))
            else:
                with mask_constraint.enforced(inner, masks, compiled=outer):
                    pass
        self.assertTrue(all(v.constraint is None for v in outer.weights))

    def test_admm_that_leaves_a_kernel_whole(self):
        """Masks of zeros have no entry for it."""
        chain = [layers.Dense(n, name=f"d{n}") for n in (8, 1, 3)]
        model = keras.Sequential([keras.Input((6,)), *chain])
        plan = SparsityPlan.uniform(model, filters=0.5)
        self.assertIn("d1/kernel", [kernel.key for kernel in plan.kernels])
        model.compile(ADMMWrapper(sgd(), plan), "mse", jit_compile=JIT)
        model.optimizer.build(model.trainable_variables)
        for masks in (hard_prune(model, plan, optimizer=False), None):
            with self.assertWarnsRegex(UserWarning, "with a bare optimizer"):
                with mask_constraint.enforced(model, masks or masks_of(model)):
                    pass

    @parameterized.parameters(True, False)
    def test_weights_that_others_train_in_between(self, is_given):
        model = make()
        masks = self.prune(model)
        model.compile(sgd(), "mse", jit_compile=JIT)
        callback = StructuredMask(masks if is_given else None)
        train(model, callback)
        train(model, callback)  # nothing happened since
        train(model)
        fate = "are set to zero again" if is_given else "are not held any more"
        message = f"{fate}.*Mask them there, too, `StructuredMask.masks, model="
        with self.assertWarnsRegex(UserWarning, message):
            train(model, callback)
        train(model)
        expected = contextlib.nullcontext()  # these were never held
        if is_given:
            expected = self.assertWarnsRegex(UserWarning, message)
        with expected:
            train(model, StructuredMask(masks))

    def test_fresh_callbacks_that_others_train_in_between(self):
        model = make()
        masks = self.prune(model)
        x = keras.Input((6,))
        other = keras.Model(x, model.get_layer("a")(x))
        model.compile(sgd(), "mse", jit_compile=JIT)
        other.compile(sgd(), "mse", jit_compile=JIT)
        train(model, StructuredMask(masks), epochs=1)
        train(model, StructuredMask(masks), epochs=1)
        other.train_on_batch(np.ones((4, 6)), np.ones((4, 8)))
        message = "are set to zero again.*Mask them there, too, `Structured"
        with self.assertWarnsRegex(UserWarning, message):
            train(model, StructuredMask(masks), epochs=1)
        other.train_on_batch(np.ones((4, 6)), np.ones((4, 8)))
        with self.assertWarnsRegex(UserWarning, message):
            with mask_constraint.enforced(model, masks):
                pass
        other.train_on_batch(np.ones((4, 6)), np.ones((4, 8)))
        # What another model, or another object, has held says nothing.
        twin = keras.models.clone_model(model)
        twin.compile(sgd(), "mse", jit_compile=JIT)
        train(twin, StructuredMask(masks), epochs=1)
        train(model, StructuredMask(copy.deepcopy(masks)), epochs=1)

    def test_kernels_that_are_masked_whole(self):
        options = {"jit_compile": JIT, "run_eagerly": ON_TENSORFLOW}
        model = make()
        model.get_layer("b").kernel.assign(np.zeros((8, 6)))
        model.compile(sgd(), "mse", **options)
        message = r"initialized so.*`del masks.kernels\[key\]`.*b/kernel"
        with self.assertWarnsRegex(UserWarning, message):
            train(model, StructuredMask(), batch_size=32)
        model.get_layer("b").trainable = False
        model.compile(sgd(), "mse", **options)
        train(model, StructuredMask(), batch_size=32)

    def test_what_another_training_does_to_a_shared_layer(self):
        model = make()
        masks = self.prune(model)
        model.compile(sgd(), "mse", jit_compile=JIT)
        x = keras.Input((6,))
        other = keras.Model(x, model.get_layer("a")(x))
        other.compile(sgd(), "mse", jit_compile=JIT)
        batch = np.ones((4, 6)), np.ones((4, 8))
        other.train_on_batch(*batch)  # compiled before there are masks
        apply_masks(model, masks)

        class Other(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                other.train_on_batch(*batch)

        expected = self.assertWarnsRegex(UserWarning, "compiled=other")
        if keras.backend.backend() == "torch":
            # Nothing is compiled there: every step applies the masks.
            expected = contextlib.nullcontext()
        with expected:
            train(model, Other(), StructuredMask(masks))
        self.assertEqual(leaks(model, masks), [])

    def test_constraints_of_the_user_go_on(self):
        norm = keras.constraints.MaxNorm(0.3)
        model = make(kernel_constraint=norm)
        kernel, other = model.layers[0].kernel, model.layers[1].kernel
        other.constraint = sign = keras.constraints.NonNeg()
        masks = self.prune(model)
        model.compile(sgd(), "mse", jit_compile=JIT)

        def broken(model, masks):
            norms = np.linalg.norm(kernel, axis=0)
            bad = ["norm"] if np.any(norms > 0.3 + 1e-5) else []
            return bad + (["sign"] if np.any(np.array(other) < 0) else [])

        train(model, StructuredMask(masks))
        watch = Watch(masks, broken)
        self.assert_tight(model, masks, watch)
        self.assertEqual(watch.found, [])
        self.assertIs(kernel.constraint, norm)
        self.assertIs(other.constraint, sign)

    def test_masks_of_another_model(self):
        model = make()
        model.compile(adam(), "mse", jit_compile=JIT)
        masks = self.prune(make(nested))
        with self.assertRaisesRegex(ValueError, r"`masks_of\(model\)` reads"):
            train(model, StructuredMask(masks))
        self.assertTrue(all(v.constraint is None for v in model.weights))

    def test_evaluation_on_its_own_is_left_alone(self):
        model = make()
        model.compile(adam(), "mse", jit_compile=JIT)
        masks = self.prune(model)
        callback = StructuredMask(masks)
        train(model, callback)
        zoo.randomize(model)
        model.evaluate(*make_data(), verbose=0, callbacks=[callback])
        self.assertNotEmpty(leaks(model, masks))
        apply_masks(model, masks)
        self.assertEqual(leaks(model, masks), [])

    @parameterized.parameters(True, False)
    def test_after_an_interrupted_fit(self, with_another):
        """Keras does not tell callbacks that `fit` was left."""

        class Interrupt(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                raise KeyboardInterrupt

        model = make()
        masks = self.prune(model)
        model.compile(adam(), "mse", jit_compile=JIT)
        callback = StructuredMask(masks)
        with self.assertRaises(KeyboardInterrupt):
            train(model, callback, Interrupt())
        self.assertEqual(leaks(model, masks), [])
        if with_another:
            train(model, StructuredMask(masks))
        else:
            release_masks(model)
        for variable in model.trainable_variables:
            self.assertIsNone(variable.constraint)
        train(model)
        self.assertNotEmpty(leaks(model, masks))

    @parameterized.named_parameters(CHANGES.items())
    def test_other_variables_in_mid_training(self, change):
        self.assert_change_is_found("on_epoch_end", change, first=False)

    @parameterized.parameters("on_epoch_end", "on_test_begin", "on_train_end")
    def test_other_variables_are_found_before_masks_apply(self, when):
        self.assert_change_is_found(when, swap, first=True)

    def assert_change_is_found(self, when, change, first):
        norm = keras.constraints.MaxNorm(3.0)
        model = make(kernel_constraint=norm)
        model.layers[1].kernel.constraint = norm
        masks = self.prune(model)
        model.compile(adam(), "mse", jit_compile=JIT)
        old = model.layers[1].kernel
        change, mask = Change(when, change), StructuredMask(masks)
        callbacks = (change, mask) if first else (mask, change)
        with self.assertRaisesRegex(
            ValueError,
            r"(?s)`keras_prm.masks_of\(model\)`.*masks of .*'b/kernel",
        ) as raised:
            train(model, *callbacks, epochs=2, validation_data=make_data())
        self.assertNotIn("'a/kernel", str(raised.exception))
        # Nothing is lost: no weight is another, no mask is left behind.
        for a, b in zip(change.weights, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        self.assertIs(model.layers[0].kernel.constraint, norm)
        self.assertIs(old.constraint, norm)
        for variable in model.weights:
            constraint = getattr(variable, "constraint", None)
            self.assertNotIsInstance(constraint, mask_constraint.MaskConstraint)
        model.evaluate(*make_data(), verbose=0, callbacks=[mask])

    def test_training_goes_on_after_a_change_as_the_error_says(self):
        model = make()
        masks = self.prune(model)
        model.compile(adam(), "mse", jit_compile=JIT)
        with self.assertRaisesRegex(ValueError, "compile the model anew"):
            change = Change("on_epoch_end", swap)
            train(model, StructuredMask(masks), change, epochs=2)
        apply_masks(model, masks)
        model.compile(adam(), "mse", jit_compile=JIT)
        self.assert_tight(model, masks_of(model))

    def test_changes_of_layers_without_a_mask_are_left_alone(self):
        model = make()
        masks = self.prune(model)
        others = {"a/kernel": masks.kernels["a/kernel"]}
        masks = Masks(others)
        model.compile(adam(), "mse", jit_compile=JIT)
        change = Change("on_train_end", swap)
        train(model, change, StructuredMask(masks))
        self.assertIsNotNone(change.weights)
        self.assertEqual(leaks(model, masks), [])


class EnforcedTest(parameterized.TestCase):
    def test_other_variables_inside_the_block(self):
        model = make()
        masks = hard_prune(model, SparsityPlan.uniform(model, filters=0.5))
        with self.assertRaisesRegex(
            ValueError, r"(?s)train with masks that are made.*'b/kernel"
        ):
            with mask_constraint.enforced(model, masks):
                swap(model.layers[1])
                weights = model.get_weights()
        for a, b in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        self.assertTrue(all(v.constraint is None for v in model.weights))

    def test_an_error_inside_the_block_comes_first(self):
        model = make()
        masks = hard_prune(model, SparsityPlan.uniform(model, filters=0.5))
        with self.assertRaises(ZeroDivisionError):
            with mask_constraint.enforced(model, masks):
                swap(model.layers[1])
                raise ZeroDivisionError
        self.assertTrue(all(v.constraint is None for v in model.weights))


if __name__ == "__main__":
    absltest.main()
