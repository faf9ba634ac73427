import itertools

import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import ops

from keras_prm.plans.plan import SparsityPlan
from keras_prm.plans.projections import kernel_filters
from keras_prm.plans.projections import kernel_inputs
from keras_prm.plans.projections import project_plan
from keras_prm.plans.projections import removed_count
from keras_prm.plans.records import ChannelGroup
from keras_prm.plans.records import KernelPlan
from tests.helpers.arrays import compile_function
from tests.helpers.arrays import energy
from tests.helpers.arrays import normal
from tests.helpers.projecting import project_columns


def make_plan(*kernels, groups):
    """Kernels are `(shape, in_classes, out_classes, columns)`."""
    kernels = [
        KernelPlan(f"k{i}/kernel", i, *kernel)
        for i, kernel in enumerate(kernels)
    ]
    starts = np.cumsum([0] + [size for size, _ in groups])
    groups = [
        ChannelGroup(f"g{i}", int(starts[i]), *group)
        for i, group in enumerate(groups)
    ]
    return SparsityPlan(kernels, groups, [("kernel", k.shape) for k in kernels])


def fixed(size):
    return (-1,) * size


def project(kernels, plan):
    channels, columns = project_plan(kernels, plan)
    return np.asarray(channels), [np.asarray(c) for c in columns]


def mask_kernels(kernels, plan, channels, columns):
    return [
        w * np.asarray(m)[..., None] * np.asarray(kernel_filters(k, channels))
        for k, w, m in zip(plan.kernels, kernels, columns, strict=True)
    ]


def chain(columns=0.5):
    """conv -> depthwise -> conv -> dense, with a joining bypass."""
    a, b = tuple(range(6)), tuple(range(6, 12))
    return make_plan(
        ((3, 3, 2, 6), fixed(2), a, columns),
        ((3, 3, 6, 1), a, fixed(1), 0.0),
        ((1, 1, 6, 6), a, b, columns),
        ((12, 6), b + b, fixed(6), columns),
        groups=[(6, 3), (6, 4)],
    )


class PlanProjectionTest(parameterized.TestCase):
    @parameterized.parameters(1, 2, 4)
    def test_coupled_writers_are_exact(self, keep):
        classes = tuple(range(5))
        kernels = [normal((3, 3, 2, 5), 1), 9 * normal((4, 5), 2)]
        plan = make_plan(
            ((3, 3, 2, 5), fixed(2), classes, 0.0),
            ((4, 5), fixed(4), classes, 0.0),
            groups=[(5, keep)],
        )

        def kept_energy(filters):
            return sum(
                energy(w, filters, np.ones(w.shape[:-1])) / np.sum(w**2)
                for w in kernels
            )

        channels, _ = project(kernels, plan)
        best = max(
            kept_energy(np.isin(np.arange(5), kept))
            for kept in itertools.combinations(range(5), keep)
        )
        self.assertEqual(channels.sum(), keep)
        self.assertAlmostEqual(kept_energy(channels), best, places=5)

    def test_scale_of_a_kernel_does_not_matter(self):
        plan = chain()
        kernels = [normal(k.shape, i) for i, k in enumerate(plan.kernels)]
        channels, columns = project(kernels, plan)
        scaled = [w * 8.0**i for i, w in enumerate(kernels)]
        again, columns_again = project(scaled, plan)
        np.testing.assert_array_equal(channels, again)
        for one, other in zip(columns, columns_again, strict=True):
            np.testing.assert_array_equal(one, other)

    @parameterized.parameters(0.0, 0.3, 0.6)
    def test_feasible(self, sparsity):
        plan = chain(sparsity)
        for seed in range(10):
            kernels = [
                normal(k.shape, 10 * seed + i)
                for i, k in enumerate(plan.kernels)
            ]
            channels, columns = project(kernels, plan)
            self.assertEqual(channels[:6].sum(), 3)
            self.assertEqual(channels[6:].sum(), 4)
            for kernel, kept in zip(plan.kernels, columns, strict=True):
                inputs = np.asarray(kernel_inputs(kernel, channels))
                self.assertEqual(kept.shape, kernel.shape[:-1])
                self.assertEqual(np.sum(kept * (1 - inputs)), 0)
                live = int(kept.size / inputs.size * inputs.sum())
                expected = live - removed_count(live, kernel.columns)
                self.assertEqual(kept.sum(), expected)

    def test_idempotent(self):
        plan = chain()
        for seed in range(10):
            kernels = [
                normal(k.shape, 10 * seed + i)
                for i, k in enumerate(plan.kernels)
            ]
            support = project(kernels, plan)
            masked = mask_kernels(kernels, plan, *support)
            again = project(masked, plan)
            np.testing.assert_array_equal(support[0], again[0])
            for one, other in zip(
                masked,
                mask_kernels(masked, plan, *again),
                strict=True,
            ):
                np.testing.assert_array_equal(one, other)

    def test_readers_have_a_say(self):
        # Writers are all alike; the reader needs channels 1 and 3.
        reader = np.array([[0.0], [2.0], [0.1], [3.0]], "float32")
        plan = make_plan(
            ((2, 4), fixed(2), (0, 1, 2, 3), 0.0),
            ((4, 1), (0, 1, 2, 3), fixed(1), 0.0),
            groups=[(4, 2)],
        )
        writer = np.ones((2, 4), "float32")
        channels, columns = project([writer, reader], plan)
        np.testing.assert_array_equal(channels, [0, 1, 0, 1])
        np.testing.assert_array_equal(columns[1], [0, 1, 0, 1])

    def test_columns_alone(self):
        kernel = normal((3, 3, 2, 4))
        plan = make_plan((kernel.shape, fixed(2), fixed(4), 0.5), groups=[])
        channels, columns = project([kernel], plan)
        self.assertEqual(channels.shape, (0,))
        np.testing.assert_array_equal(columns[0], project_columns(kernel, 9))

    def test_a_zero_kernel_is_projected_without_nan(self):
        plan = chain()
        kernels = [np.zeros(k.shape, "float32") for k in plan.kernels]
        channels, columns = project(kernels, plan)
        self.assertEqual(channels.sum(), 7)
        self.assertTrue(all(np.isfinite(c).all() for c in columns))

    def test_gathers(self):
        kernel = KernelPlan("k", 0, (4, 3), (-1, 2, 0, 1), (1, -1, 0))
        channels = np.array([1.0, 0.0, 0.0], "float32")
        np.testing.assert_array_equal(
            kernel_filters(kernel, channels), [0, 1, 1]
        )
        np.testing.assert_array_equal(
            kernel_inputs(kernel, channels), [1, 0, 1, 0]
        )

    def test_compiles(self):
        plan = chain()
        kernels = [normal(k.shape, i) for i, k in enumerate(plan.kernels)]
        channels, columns = project(kernels, plan)
        compiled = compile_function(lambda *ws: project_plan(list(ws), plan))
        again, columns_again = compiled(*map(ops.convert_to_tensor, kernels))
        np.testing.assert_array_equal(channels, again)
        for one, other in zip(columns, columns_again, strict=True):
            np.testing.assert_array_equal(one, other)


if __name__ == "__main__":
    absltest.main()
