import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import ops

from keras_prm.admm import iteration
from keras_prm.admm.rho_schedules import ResidualBalancing
from keras_prm.plans.plan import SparsityPlan
from keras_prm.plans.records import ChannelGroup
from keras_prm.plans.records import KernelPlan
from tests.helpers.training import Textbook


def coupled_plan():
    """Two writers of one set of classes, a reader, and columns of all."""
    a = tuple(range(6))
    kernels = [
        KernelPlan("a/kernel", 0, (3, 3, 2, 6), (-1,) * 2, a, 0.5),
        KernelPlan("b/kernel", 2, (1, 1, 2, 6), (-1,) * 2, a, 0.0),
        KernelPlan("c/kernel", 4, (12, 4), a + a, (-1,) * 4, 0.25),
    ]
    variables = [("kernel", kernels[0].shape), ("bias", (6,))]
    variables += [("kernel", kernels[1].shape), ("bias", (6,))]
    variables += [("kernel", kernels[2].shape), ("bias", (4,))]
    return SparsityPlan(kernels, [ChannelGroup("a+b", 0, 6, 3)], variables)


def tensors(arrays):
    return [ops.convert_to_tensor(x) for x in arrays]


class ADMMTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.rng = np.random.default_rng(0)
        self.plan = coupled_plan()
        self.w = self.walk([np.zeros(k.shape) for k in self.plan.kernels])

    def walk(self, kernels, step=1.0):
        return [
            (w + step * self.rng.normal(size=w.shape)).astype("float32")
            for w in kernels
        ]

    def start(self, rho):
        """The state and the textbook's, of the same weights."""
        state = iteration.start(tensors(self.w), self.plan, rho)
        return state, Textbook(self.w, self.plan, rho)

    def update(self, state, rho, rescale=True, **kwargs):
        return iteration.update(
            tensors(self.w), state, self.plan, rho, rescale, **kwargs
        )

    def assert_agrees(self, state, textbook):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(state.channels), textbook.channels
        )
        for t, z, u, m in zip(
            state.targets, textbook.z, textbook.u, textbook.masks, strict=True
        ):
            t = ops.convert_to_numpy(t)
            np.testing.assert_allclose(t * m, z, atol=1e-5)
            np.testing.assert_allclose(-t * (1 - m), u, atol=1e-5)

    def test_one_buffer_holds_both_iterates(self):
        state, textbook = self.start(0.1)
        num_changes = 0
        for _ in range(20):
            self.assert_agrees(state, textbook)
            before = textbook.masks
            self.w = self.walk(self.w, 0.3)
            textbook.update(self.w)
            state = self.update(state, 0.1)
            num_changes += any(
                np.any(a != b)
                for a, b in zip(before, textbook.masks, strict=True)
            )
        self.assertGreater(num_changes, 14)

    def test_rescaled_dual(self):
        state, textbook = self.start(0.1)
        for rho in (0.1, 0.2, 0.2, 0.05, 0.05, 0.4):
            self.w = self.walk(self.w, 0.3)
            textbook.update(self.w, rho)
            state = self.update(state, rho)
            self.assert_agrees(state, textbook)

    @parameterized.parameters(
        (False, 0.1, 0.2), (True, 0.0, 0.2), (True, 0.1, 0.0)
    )
    def test_starts_afresh(self, rescale, old, rho):
        state, textbook = self.start(old)
        for value, changed in ((old, False), (rho, True), (rho, False)):
            self.w = self.walk(self.w, 0.3)
            if changed or 0.0 in (value, textbook.rho):
                textbook.restart(self.w, value)
            else:
                textbook.update(self.w)
            state = self.update(state, value, rescale)
            self.assert_agrees(state, textbook)

    def test_residuals(self):
        state, textbook = self.start(0.5)
        before = textbook.z
        self.w = self.walk(self.w, 0.3)
        textbook.update(self.w)
        state = self.update(state, 0.5)
        for i, (z, old) in enumerate(zip(textbook.z, before, strict=True)):
            expected = 0.5 * np.linalg.norm(z - old)
            self.assertAlmostEqual(float(state.dual[i]), expected, places=4)
        primal = iteration.distances(
            tensors(self.w), iteration.sparse_parts(self.plan, state)
        )
        for i, (w, z) in enumerate(zip(self.w, textbook.z, strict=True)):
            expected = np.linalg.norm(w - z)
            self.assertAlmostEqual(float(primal[i]), expected, places=4)

    @parameterized.parameters((0.1, 2.0, 0.2), (1e-5, 2.0, 2e-5))
    def test_balance_raises_rho_and_keeps_the_dual(self, rho, factor, expected):
        """`w` far from `z` and `z` at rest: the primal residual dominates."""
        state, textbook = self.start(rho)
        state = self.update(state, rho)
        textbook.update(self.w)
        rule = ResidualBalancing(rho, factor=factor)
        state = iteration.balance(tensors(self.w), state, self.plan, rule)
        self.assertAlmostEqual(float(state.rho), expected, places=7)
        textbook.u = [u * rho / expected for u in textbook.u]
        self.assert_agrees(state, textbook)

    def test_a_share_of_the_plan(self):
        """Of 6 classes 3 shall go, and of 9 columns of a class 50 %."""
        state = iteration.start(tensors(self.w), self.plan, 0.1, share=0.0)
        for share, classes, columns in (
            (0.0, 6, 18),
            (0.4, 5, 15),  # floor(0.4 * 3) = 1, floor(0.4 * 9) = 3
            (0.7, 4, 12),  # 2.1 and 6.3
            (1.0, 3, 9),
        ):
            state = self.update(state, 0.1, share=share)
            self.assertEqual(float(ops.sum(state.channels)), classes)
            self.assertEqual(float(ops.sum(state.columns[0])), columns)
            self.assertAlmostEqual(float(state.share), share, places=6)
        whole, _ = self.start(0.1)
        for key in ("channels", "columns"):
            keras.tree.map_structure(
                lambda a, b: self.assertEqual(a.shape, b.shape),
                getattr(whole, key),
                getattr(state, key),
            )

    @parameterized.parameters(np.nan, np.inf)
    def test_what_is_not_finite_changes_nothing(self, value):
        state, _ = self.start(0.1)
        self.w[1][0, 0, 0, 0] = value
        after = self.update(state, 0.2, share=0.5)
        keras.tree.map_structure(
            lambda a, b: np.testing.assert_array_equal(
                ops.convert_to_numpy(a), ops.convert_to_numpy(b)
            ),
            state,
            after,
        )

    def test_half_precision_keeps_its_dtype(self):
        self.w = [x.astype("float16") for x in self.w]
        state, _ = self.start(0.1)
        state = self.update(state, 0.2)
        for t in state.targets:
            self.assertEqual(
                keras.backend.standardize_dtype(t.dtype), "float16"
            )


if __name__ == "__main__":
    absltest.main()
