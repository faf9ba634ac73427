"""The same training on every backend, from the same start."""

import os
import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import ops

from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.training.structured_mask import StructuredMask
from keras_prm.utils import backend
from tests.helpers.training import ON_TENSORFLOW
from tests.helpers.training import build
from tests.helpers.training import train
from tests.helpers.training import values

ROOT = pathlib.Path(__file__).absolute().parent.parent.parent


def both_phases():
    """What ADMM and masked retraining lead to: list of arrays."""
    model = build(rho=keras.optimizers.schedules.PolynomialDecay(0.1, 20, 0.5))
    rng = np.random.default_rng(0)
    model.set_weights([0.5 * rng.normal(size=w.shape) for w in model.weights])
    train(model, 3)
    optimizer = model.optimizer
    found = values(model.variables) + values(optimizer._admm.targets)
    masks = hard_prune(model, optimizer.plan)
    found += [mask.full() for mask in masks.kernels.values()]
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    train(model, 2, callbacks=[StructuredMask(masks)])
    return found + values(model.variables)


class BackendsTest(parameterized.TestCase):
    @absltest.skipIf(ON_TENSORFLOW, "It is what the others are held to.")
    def test_ends_as_on_tensorflow(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "found.npz")
            subprocess.run(
                [sys.executable, "-m", "tests.utils.backend_test", path],
                cwd=ROOT,
                env={**os.environ, "KERAS_BACKEND": "tensorflow"},
                check=True,
                capture_output=True,
            )
            with np.load(path) as file:
                expected = [file[f"arr_{i}"] for i in range(len(file.files))]
        found = both_phases()
        self.assertEqual(len(found), len(expected))
        for one, other in zip(found, expected):
            np.testing.assert_allclose(one, other, atol=2e-5)

    def test_full_precision(self):
        def allowed():
            if ON_TENSORFLOW:
                import tensorflow as tf

                config = tf.config.experimental
                return config.tensor_float_32_execution_enabled()
            if keras.backend.backend() == "jax":
                import jax

                return jax.config.jax_default_matmul_precision != "highest"
            import torch

            found = torch.backends.cudnn.allow_tf32
            self.assertLessEqual(torch.backends.cuda.matmul.allow_tf32, found)
            return found

        self.assertTrue(allowed())
        with self.assertRaises(ZeroDivisionError):
            with backend.full_precision():
                self.assertFalse(allowed())
                1 / 0
        self.assertTrue(allowed())

    def test_add_pull(self):
        """1 + 0.5 * (4 - 1) = 2.5, 2 + 0.5 * (0 - 4) = 0."""
        found = backend.add_pull(
            ops.convert_to_tensor([1.0, 2.0]),
            ops.convert_to_tensor(0.5),
            keras.Variable([4.0, 0.0]),
            keras.Variable([1.0, 4.0]),
        )
        np.testing.assert_allclose(ops.convert_to_numpy(found), [2.5, 0.0])

    def test_known(self):
        """A flag has a value in eager code and none in a traced function."""
        seen = []

        def function(x):
            seen.append(backend.known(ops.any(x > 0)))
            return x

        x = ops.ones((2,))
        function(x)
        function(-x)
        backend.compiled(function)(x)
        traced = keras.backend.backend() == "jax"
        self.assertEqual(seen, [True, False, None if traced else True])


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].endswith(".npz"):
        np.savez(sys.argv[1], *both_phases())
    else:
        absltest.main()
