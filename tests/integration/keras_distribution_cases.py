"""`keras.distribution` on JAX; run by `distribution_test`."""

import contextlib
import functools
import os
import tempfile

import jax
import keras
import numpy as np
from absl.testing import absltest
from keras import distribution

from keras_prm.plans.plan import SparsityPlan
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.pruning.masks import masks_of
from keras_prm.rebuild.strip import strip
from tests.helpers import distributed
from tests.helpers.distributed import arrays

DEVICES = ["cpu:0", "cpu:1"]


def data_parallel():
    return distribution.DataParallel(devices=DEVICES)


def model_parallel(**axes):
    """Kernels by name of layer, sharded as given."""
    mesh = distribution.DeviceMesh((1, 2), ("batch", "model"), DEVICES)
    layouts = distribution.LayoutMap(mesh)
    for name, spec in axes.items():
        layouts[rf"(.*/)?{name}/kernel"] = spec
    return distribution.ModelParallel(
        layout_map=layouts, batch_dim_name="batch"
    )


def by_outputs_and_inputs():
    """A kernel is sharded over what it writes, or over what it reads."""
    return model_parallel(conv=(None, None, None, "model"), out=("model", None))


def run_fit(between=lambda run: None):
    """With all that can be put around and inside of the wrapper."""
    inner = keras.optimizers.Adam(0.01, gradient_accumulation_steps=2)
    return distributed.run_fit(
        contextlib.nullcontext, between, inner=inner, scaled=True
    )


def on_one_device():
    """The same run, made without a distribution."""
    with distribution_off():
        return cached_run()


cached_run = functools.cache(run_fit)


def specs(variables):
    """How each variable is sharded, as tuples of names of mesh axes."""
    return [tuple(v.value.sharding.spec) for v in variables]


class KerasDistributionTest(distributed.DistributedTest):
    def setUp(self):
        super().setUp()
        self.addCleanup(distribution.set_distribution, None)

    def test_data_parallel(self):
        distribution.set_distribution(data_parallel())
        self.check_run(False)

    def test_model_parallel_saved_in_between(self):
        def reload(run):
            self.check_layouts(run.model, True)
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "model.keras")
                run.model.save(path)
                run.model = keras.saving.load_model(path)
            self.check_layouts(run.model, True)

        distribution.set_distribution(by_outputs_and_inputs())
        self.check_run(True, reload)

    def check_run(self, sharded, between=lambda run: None):
        run = run_fit(between)
        self.assert_same_run(on_one_device(), run)
        self.assert_copies_agree(run.model.variables)
        self.assert_copies_agree(run.model.optimizer.variables)
        self.assert_masked(run)
        self.assertEqual(masks_of(run.model), run.masks)
        self.assertEqual(hard_prune(run.model, run.plan), run.masks)
        self.check_kernels(run.model, sharded)
        if sharded:
            # Three filters are left, and two devices.
            with self.assertRaisesRegex(ValueError, "evenly divide"):
                strip(run.model)
        distribution.set_distribution(None)
        small = strip(run.model)
        self.assertLess(small.count_params(), 0.6 * run.model.count_params())
        x, _ = distributed.make_data()
        np.testing.assert_allclose(
            *arrays([small(x), run.model(x)]), atol=distributed.ATOL
        )

    def check_kernels(self, model, sharded):
        for name in ("conv", "out"):
            (spec,) = specs([model.get_layer(name).kernel])
            self.assertEqual("model" in spec, sharded, name)

    def check_layouts(self, model, sharded):
        """Targets lie as their kernels do, and masks whole on each device."""
        self.check_kernels(model, sharded)
        wrapper = distributed.wrapper_of(model)
        variables = model.trainable_variables
        kernels = [variables[k.index] for k in wrapper.plan.kernels]
        targets = distributed.admm_variables(model, ("target",))
        self.assertEqual(specs(targets), specs(kernels))
        masks = distributed.admm_variables(model, ("channels", "columns"))
        self.assertLen(masks, 1 + len(kernels))
        for spec in specs(masks):
            self.assertNotIn("model", spec)
        self.assert_copies_agree(wrapper.variables)

    def test_round_to_keeps_widths_divisible(self):
        distribution.set_distribution(by_outputs_and_inputs())
        model = distributed.make_model()
        plan = SparsityPlan.uniform(model, filters=0.5, round_to=2)
        hard_prune(model, plan)
        self.assertEqual(strip(model).get_layer("conv").filters, 4)


@contextlib.contextmanager
def distribution_off():
    before = distribution.distribution()
    distribution.set_distribution(None)
    try:
        yield
    finally:
        distribution.set_distribution(before)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", distributed.NUM_DEVICES)
    absltest.main()
