"""Tests of the package as a whole: what it exports, what it imports."""

import os
import subprocess
import sys

import keras
from absl.testing import absltest

import keras_prm
from keras_prm import version

# The other backend that is tested along with TensorFlow is JAX.
BACKEND = keras.backend.backend().replace("tensorflow", "jax")

# The whole path but the export, in a Python without TensorFlow.
WITHOUT_TENSORFLOW = """
import sys; sys.modules["tensorflow"] = None
import keras, keras_prm, numpy as np
from keras import layers
keras.utils.set_random_seed(0)
model = keras.Sequential([
    keras.Input((8, 8, 1)),
    layers.Conv2D(8, 3), layers.BatchNormalization(), layers.ReLU(),
    layers.Flatten(), layers.Dense(3)])
rng = np.random.default_rng(0)
x, y = rng.normal(size=(64, 8, 8, 1)), rng.normal(size=(64, 3))
plan = keras_prm.SparsityPlan.uniform(model, filters=0.5, columns=0.3)
wrapper = keras_prm.ADMMWrapper("adam", plan, update_every=4)
model.compile(wrapper, "mse")
model.fit(x, y, batch_size=16, epochs=2, verbose=0)
masks = keras_prm.hard_prune(model, plan, data=x)
model.compile("adam", "mse")
held = [keras_prm.StructuredMask(masks)]
model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=held)
assert keras_prm.masks_of(model) == masks
keras_prm.recalibrate(model, x)
y = model.predict(x, verbose=0)  # of noise nothing can be learnt
keras_prm.purify(model, (x, y), 0.01, verbose=0)
small = keras_prm.strip(model)
assert small.count_params() < 0.6 * model.count_params()
assert keras_prm.verify(model, small).ok
print("done")
"""

# What the import brings along that Keras itself does not.
IMPORTS = """
import sys, keras
before = set(sys.modules)
import keras_prm
added = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(added - sys.stdlib_module_names))
"""


class PackageTest(absltest.TestCase):
    def test_exports(self):
        self.assertEqual(sorted(keras_prm.__all__), keras_prm.__all__)
        for name in keras_prm.__all__:
            self.assertTrue(hasattr(keras_prm, name), name)
        self.assertEqual(keras_prm.__version__, version.__version__)

    def test_public_names_have_docstrings(self):
        for name in keras_prm.__all__:
            if not name.startswith("_"):
                doc = getattr(keras_prm, name).__doc__
                self.assertGreater(len(doc or ""), 40, name)

    def test_all_but_the_export_needs_no_tensorflow(self):
        found = subprocess.run(
            [sys.executable, "-c", WITHOUT_TENSORFLOW],
            env={**os.environ, "KERAS_BACKEND": BACKEND},
            capture_output=True,
            text=True,
        )
        self.assertEqual(found.stdout.strip(), "done", found.stderr[-2000:])

    def test_import_brings_nothing_but_keras_itself(self):
        found = subprocess.run(
            [sys.executable, "-c", IMPORTS],
            env={**os.environ, "KERAS_BACKEND": BACKEND},
            capture_output=True,
            text=True,
        )
        self.assertEqual(found.stdout.split(), ["keras_prm"], found.stderr)


if __name__ == "__main__":
    absltest.main()
