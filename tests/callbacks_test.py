import os
import tempfile
from unittest import mock

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm import enforcing
from keras_prm import masks as masks_module
from keras_prm.callbacks import ADMMProgress
from keras_prm.callbacks import StructuredMask
from keras_prm.enforcing import release_masks
from keras_prm.masks import apply_masks
from keras_prm.masks import masks_of
from keras_prm.optimizers import ADMMWrapper
from keras_prm.plans import SparsityPlan
from keras_prm.pruning import hard_prune
from tests import zoo
from tests.training import ON_TENSORFLOW
from tests.training import Watch
from tests.training import adam
from tests.training import flat
from tests.training import leaks
from tests.training import make
from tests.training import make_data
from tests.training import nested
from tests.training import sgd
from tests.training import train


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
        ("eager", adam, {"run_eagerly": True}),
        ("accumulation", lambda: adam(gradient_accumulation_steps=2), {}),
        ("scaled", lambda: keras.optimizers.LossScaleOptimizer(adam()), {}),
        ("ema", lambda: adam(use_ema=True), {}),
        (
            "ema_overwrites",
            lambda: sgd(use_ema=True, ema_overwrite_frequency=3),
            {},
        ),
    )
    def test_no_leak_at_any_step(self, optimizer, options):
        model = make()
        options = {"jit_compile": False} | options
        model.compile(optimizer(), "mse", **options)
        # A step is traced, and the moments are warm, before the masks are.
        train(model, epochs=1)
        masks = self.prune(model)
        looks = 2 if "steps_per_execution" in options else 16
        self.assert_tight(model, masks, looks=looks)

    @parameterized.parameters(False, True)
    def test_averages_that_are_swapped_in(self, swap_on_epoch):
        model = make()
        model.compile(adam(use_ema=True), "mse", jit_compile=False)
        masks = self.prune(model)
        # An evaluation would clean the averages before the epoch ends.
        data = None if swap_on_epoch else make_data()
        swap = keras.callbacks.SwapEMAWeights(swap_on_epoch)
        self.assert_tight(model, masks, swap, epochs=2, validation_data=data)

    def test_without_tracing_anew_it_would_leak(self):
        if not ON_TENSORFLOW:
            self.skipTest("Seen on TensorFlow only.")
        model = make()
        model.compile(adam(), "mse", jit_compile=False)
        train(model)
        masks = self.prune(model)
        watch = Watch(masks)
        with mock.patch.object(enforcing, "retrace"):
            train(model, StructuredMask(masks), watch)
        self.assertNotEmpty(watch.found)

    def test_training_is_free_again_afterwards(self):
        model = make()
        model.compile(adam(), "mse", jit_compile=False)
        masks = self.prune(model)
        train(model, StructuredMask(masks))
        self.assertEqual(leaks(model, masks), [])
        train(model)
        self.assertNotEmpty(leaks(model, masks))
        self.assertTrue(all(v.constraint is None for v in model.weights))

    def test_nested_models(self):
        model = make(nested)
        model.compile(adam(), "mse", jit_compile=False)
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
            masks = masks_module.Masks.load(os.path.join(folder, "masks.json"))
        self.assertEqual(masks_of(model), masks)
        model.compile(sgd(), "mse", jit_compile=False)
        self.assert_tight(model, masks)

    def test_no_masks_are_those_of_the_zeros(self):
        model = make()
        masks = self.prune(model)
        model.compile(adam(), "mse", jit_compile=False)
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

    def test_constraints_of_the_user_go_on(self):
        norm = keras.constraints.MaxNorm(0.3)
        model = make(kernel_constraint=norm)
        kernel, other = model.layers[0].kernel, model.layers[1].kernel
        other.constraint = sign = keras.constraints.NonNeg()
        masks = self.prune(model)
        model.compile(sgd(), "mse", jit_compile=False)

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
        model.compile(adam(), "mse", jit_compile=False)
        masks = self.prune(make(nested))
        with self.assertRaisesRegex(ValueError, r"`masks_of\(model\)` reads"):
            train(model, StructuredMask(masks))
        self.assertTrue(all(v.constraint is None for v in model.weights))

    def test_evaluation_on_its_own_is_left_alone(self):
        model = make()
        model.compile(adam(), "mse", jit_compile=False)
        masks = self.prune(model)
        callback = StructuredMask(masks)
        train(model, callback)
        zoo.randomise(model)
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
        model.compile(adam(), "mse", jit_compile=False)
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


class ADMMProgressTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_residuals_are_in_the_history(self, loss_scale):
        model = make()
        plan = SparsityPlan.uniform(model, filters=0.5, columns=0.3)
        wrapper = ADMMWrapper(adam(), plan, rho=0.1, update_every=3)
        optimizer = wrapper
        if loss_scale:
            optimizer = keras.optimizers.LossScaleOptimizer(wrapper)
        model.compile(optimizer, "mse", jit_compile=False)
        progress = ADMMProgress()
        history = train(model, progress, epochs=2).history
        self.assertLen(progress.history, 2)
        self.assertCountEqual(
            progress.history[-1], [k.key for k in plan.kernels]
        )
        self.assertEqual(progress.history[-1], wrapper.residuals())
        norms = [
            np.linalg.norm(model.get_weights()[i])
            for i, v in enumerate(model.weights)
            for k in plan.kernels
            if v is model.trainable_variables[k.index]
        ]
        for kind, scale in (("primal", np.linalg.norm(norms)), ("dual", 1)):
            residuals = progress.history[-1].values()
            expected = np.linalg.norm([r[kind] for r in residuals]) / scale
            value = history[f"{kind}_residual"][-1]
            self.assertAlmostEqual(value, expected, places=5)
            self.assertGreater(value, 0.0)

    def test_says_that_it_was_too_short_for_an_update(self):
        model = make()
        plan = SparsityPlan.uniform(model, filters=0.5)
        wrapper = ADMMWrapper(adam(), plan, update_every=1000)
        model.compile(wrapper, "mse", jit_compile=False)
        with self.assertWarnsRegex(UserWarning, "smaller `update_every`"):
            train(model, ADMMProgress(), epochs=1)

    def test_model_without_the_wrapper(self):
        model = make()
        model.compile("sgd", "mse", jit_compile=False)
        with self.assertRaisesRegex(
            ValueError, r"compiled with `keras_prm.ADMMWrapper\(optimizer, plan"
        ):
            train(model, ADMMProgress())


if __name__ == "__main__":
    absltest.main()
