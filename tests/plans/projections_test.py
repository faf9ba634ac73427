"""The projections of ADMM's step, against every choice there is."""

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
from tests.helpers.patterns import NOT_FREE
from tests.helpers.patterns import is_feasible
from tests.helpers.projecting import project_columns
from tests.helpers.projecting import project_filters
from tests.helpers.projecting import project_joint


class RemovedCountTest(parameterized.TestCase):
    @parameterized.parameters(
        (10, 0.7, 7),
        (100, 0.29, 29),
        (3, 0.5, 1),
        (1, 0.999, 0),
        (7, 0.0, 0),
        (4610, 0.7, 3227),
        (2_000_000, 0.6, 1_200_000),
    )
    def test_rounds_down(self, size, sparsity, expected):
        self.assertEqual(removed_count(size, sparsity), expected)
        self.assertIsInstance(removed_count(size, sparsity), int)

    def test_arrays_round_like_numbers(self):
        sizes = np.arange(1, 2000)
        counts = removed_count(sizes, 0.35)
        self.assertEqual(
            counts.tolist(), [removed_count(int(n), 0.35) for n in sizes]
        )

    def test_always_leaves_one(self):
        sizes = np.arange(1, 500)
        self.assertTrue(np.all(removed_count(sizes, 0.999) < sizes))


class SingleProjectionTest(parameterized.TestCase):
    @parameterized.product(keep=(1, 3, 6), shape=((5, 6), (2, 2, 3, 6)))
    def test_filters_are_exact(self, keep, shape):
        kernel = normal(shape, seed=keep)
        filters = np.asarray(project_filters(kernel, keep))
        every = np.ones(shape[:-1])
        best = max(
            energy(kernel, np.isin(np.arange(6), kept), every)
            for kept in itertools.combinations(range(6), keep)
        )
        self.assertEqual(filters.sum(), keep)
        self.assertAlmostEqual(energy(kernel, filters, every), best, places=5)

    @parameterized.product(keep=(1, 3, 8), shape=((8, 3), (2, 2, 2, 3)))
    def test_columns_are_exact(self, keep, shape):
        kernel = normal(shape, seed=keep)
        columns = np.asarray(project_columns(kernel, keep))
        self.assertEqual(columns.shape, shape[:-1])
        self.assertEqual(columns.sum(), keep)
        best = max(
            energy(
                kernel,
                np.ones(3),
                np.isin(np.arange(8), kept).reshape(shape[:-1]),
            )
            for kept in itertools.combinations(range(8), keep)
        )
        kept = energy(kernel, np.ones(3), columns)
        self.assertAlmostEqual(kept, best, places=5)

    def test_ties_keep_the_lower_index(self):
        kernel = np.ones((4, 5), "float32")
        np.testing.assert_array_equal(
            project_filters(kernel, 2), [1, 1, 0, 0, 0]
        )
        np.testing.assert_array_equal(project_columns(kernel, 3), [1, 1, 1, 0])

    def test_idempotent(self):
        kernel = normal((3, 3, 4, 8))
        filters = np.asarray(project_filters(kernel, 3))
        np.testing.assert_array_equal(
            project_filters(kernel * filters, 3), filters
        )
        columns = np.asarray(project_columns(kernel, 7))
        np.testing.assert_array_equal(
            project_columns(kernel * columns[..., None], 7), columns
        )

    def test_half_precision_does_not_overflow(self):
        kernel = np.array([[300.0, 1.0], [400.0, 500.0]], "float16")
        np.testing.assert_array_equal(project_filters(kernel, 1), [0, 1])


class JointProjectionTest(parameterized.TestCase):
    def test_never_worse_than_either_order(self):
        rng = np.random.default_rng(0)
        shapes = [(6, 5), (3, 2, 4)]
        convert = ops.convert_to_numpy
        for case in range(60):
            kernel = rng.normal(size=shapes[case % 2]).astype("float32")
            kernel *= rng.exponential(size=kernel.shape).astype("float32")
            num_filters = int(rng.integers(1, kernel.shape[-1] + 1))
            num_columns = int(rng.integers(1, 7))
            support = project_joint(kernel, num_filters, num_columns)
            filters, columns = map(convert, support)
            self.assertEqual(np.sum(filters), num_filters)
            self.assertEqual(np.sum(columns), num_columns)

            first = np.asarray(project_filters(kernel, num_filters))
            then = project_columns(kernel * first, num_columns)
            filters_first = energy(kernel, first, then)
            first = np.asarray(project_columns(kernel, num_columns))
            then = project_filters(kernel * first[..., None], num_filters)
            columns_first = energy(kernel, then, first)
            kept = energy(kernel, filters, columns)
            self.assertGreaterEqual(kept, filters_first * (1 - 1e-6))
            self.assertGreaterEqual(kept, columns_first * (1 - 1e-6))

    def test_each_start_is_needed(self):
        # The largest filter spreads its norm over two columns: 3^2 + 3^2 in
        # all, but only 3^2 in one. 4^2 is found from the columns' side, and
        # in the transposed kernel from the filters' side.
        kernel = np.array([[3, 0], [3, 0], [0, 4]], "float32")
        for case in (kernel, kernel.T):
            filters, columns = project_joint(case, 1, 1)
            self.assertEqual(energy(case, filters, columns), 4**2)

    def test_idempotent(self):
        kernel = normal((3, 3, 4, 8))
        filters, columns = map(np.asarray, project_joint(kernel, 4, 10))
        again = project_joint(kernel * columns[..., None] * filters, 4, 10)
        np.testing.assert_array_equal(again[0], filters)
        np.testing.assert_array_equal(again[1], columns)


class PatternProjectionTest(parameterized.TestCase):
    """Columns in patterns; `column_patterns_test` has all supports."""

    @parameterized.product(
        pattern=NOT_FREE, shape=((3, 3, 4, 5), (5, 4, 3), (3, 2, 2, 3, 4))
    )
    def test_projection(self, pattern, shape):
        kernel = normal(shape)
        keep = int(0.3 * np.prod(shape[:-1]))
        once = ops.convert_to_numpy(project_columns(kernel, keep, pattern))
        live = np.ones(shape[-2])
        self.assertTrue(is_feasible(once > 0, live, keep, pattern))
        inside = kernel * once[..., None]
        with self.subTest("what lies in the set is its own projection"):
            again = project_columns(inside, keep, pattern)
            again = ops.convert_to_numpy(again)[..., None]
            np.testing.assert_array_equal(inside * again, inside)
        with self.subTest("as does what nearly lies in it"):
            near = inside + 1e-3 * kernel * (1 - once[..., None])
            again = project_columns(near, keep, pattern)
            np.testing.assert_array_equal(ops.convert_to_numpy(again), once)

    @parameterized.parameters(*NOT_FREE)
    def test_joint_is_never_worse_than_either_order(self, pattern):
        def energy(filters, columns):
            kept = kernel * columns[..., None] * filters
            return float(np.sum(np.square(kept)))

        rng = np.random.default_rng(0)
        convert = ops.convert_to_numpy
        for case in range(10):
            kernel = normal((3, 2, 3, 4), case)
            kernel *= rng.exponential(size=kernel.shape).astype("float32")
            number, keep = int(rng.integers(1, 5)), int(rng.integers(1, 18))
            support = project_joint(kernel, number, keep, pattern)
            filters, columns = map(convert, support)
            self.assertEqual(filters.sum(), number)
            self.assertTrue(is_feasible(columns > 0, np.ones(3), keep, pattern))
            found = energy(filters, columns) * (1 + 1e-6)
            columns = convert(project_columns(kernel, keep, pattern))
            kept = np.square(kernel * columns[..., None]).sum(axis=(0, 1, 2))
            first = np.isin(np.arange(4), np.argsort(-kept)[:number])
            self.assertGreaterEqual(found, energy(first, columns))
            kept = np.square(kernel).sum(axis=(0, 1, 2))
            first = np.isin(np.arange(4), np.argsort(-kept)[:number])
            columns = convert(project_columns(kernel * first, keep, pattern))
            self.assertGreaterEqual(found, energy(first, columns))


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
