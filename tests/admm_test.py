import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm import admm
from keras_prm.plans import SparsityPlan
from keras_prm.projections import kernel_filters
from keras_prm.projections import project_plan
from keras_prm.structures import ChannelGroup
from keras_prm.structures import KernelPlan


class TextbookADMM:
    """Boyd et al., section 3.1.1, with `z` and `u` kept apart."""

    def __init__(self, kernels, plan):
        self.plan = plan
        self.restart(kernels)

    def restart(self, w):
        self.z = self.project(w)
        self.u = [np.zeros_like(x) for x in w]

    def project(self, kernels):
        self.channels, self.columns = project_plan(kernels, self.plan)
        self.masks = [
            np.asarray(m)[..., None]
            * np.asarray(kernel_filters(k, self.channels))
            for k, m in zip(self.plan.kernels, self.columns, strict=True)
        ]
        return [w * m for w, m in zip(kernels, self.masks, strict=True)]

    def update(self, w):
        w_plus_u = [a + b for a, b in zip(w, self.u, strict=True)]
        self.z = self.project(w_plus_u)
        self.u = [a - z for a, z in zip(w_plus_u, self.z, strict=True)]

    def rescale(self, ratio):
        self.u = [u * ratio for u in self.u]


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

    def assert_agrees(self, state, textbook):
        np.testing.assert_array_equal(state.channels, textbook.channels)
        for t, z, u, m in zip(
            state.targets, textbook.z, textbook.u, textbook.masks, strict=True
        ):
            t = np.asarray(t)
            np.testing.assert_allclose(t * m, z, atol=1e-5)
            np.testing.assert_allclose(-t * (1 - m), u, atol=1e-5)

    def test_one_buffer_holds_both_iterates(self):
        textbook = TextbookADMM(self.w, self.plan)
        state = admm.start(self.w, self.plan, 0.1)
        num_changes = 0
        for _ in range(40):
            self.assert_agrees(state, textbook)
            before = textbook.masks
            self.w = self.walk(self.w, 0.3)
            textbook.update(self.w)
            state = admm.update(self.w, state, self.plan, 0.1, True)
            num_changes += any(
                np.any(a != b)
                for a, b in zip(before, textbook.masks, strict=True)
            )
        self.assertGreater(num_changes, 30)

    def test_rescaled_dual(self):
        textbook = TextbookADMM(self.w, self.plan)
        state = admm.start(self.w, self.plan, 0.1)
        old = 0.1
        for rho in (0.1, 0.2, 0.2, 0.05, 0.05, 0.4):
            self.w = self.walk(self.w, 0.3)
            textbook.update(self.w)
            textbook.rescale(old / rho)
            state = admm.update(self.w, state, self.plan, rho, True)
            self.assert_agrees(state, textbook)
            old = rho

    @parameterized.parameters(
        (False, 0.1, 0.2), (True, 0.0, 0.2), (True, 0.1, 0.0)
    )
    def test_starts_afresh(self, rescale, old, rho):
        textbook = TextbookADMM(self.w, self.plan)
        state = admm.start(self.w, self.plan, old)
        for value, changed in ((old, False), (rho, True), (rho, False)):
            self.w = self.walk(self.w, 0.3)
            if changed:
                textbook.restart(self.w)
            else:
                textbook.update(self.w)
            state = admm.update(self.w, state, self.plan, value, rescale)
            self.assert_agrees(state, textbook)

    def test_residuals(self):
        textbook = TextbookADMM(self.w, self.plan)
        state = admm.start(self.w, self.plan, 0.5)
        before = textbook.z
        self.w = self.walk(self.w, 0.3)
        textbook.update(self.w)
        state = admm.update(self.w, state, self.plan, 0.5, True)
        for i, (z, old) in enumerate(zip(textbook.z, before, strict=True)):
            expected = 0.5 * np.linalg.norm(z - old)
            self.assertAlmostEqual(float(state.dual[i]), expected, places=4)
        primal = admm.distances(self.w, admm.sparse_parts(self.plan, state))
        for i, (w, z) in enumerate(zip(self.w, textbook.z, strict=True)):
            expected = np.linalg.norm(w - z)
            self.assertAlmostEqual(float(primal[i]), expected, places=4)

    def test_half_precision_keeps_its_dtype(self):
        w = [x.astype("float16") for x in self.w]
        state = admm.start(w, self.plan, 0.1)
        state = admm.update(w, state, self.plan, 0.2, True)
        for t in state.targets:
            self.assertEqual(np.asarray(t).dtype, "float16")


if __name__ == "__main__":
    absltest.main()
