"""Tests of the package as a whole: what it exports, what it imports."""

import os
import subprocess
import sys

from absl.testing import absltest

import keras_prm
from keras_prm import version


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

    def test_import_needs_no_tensorflow(self):
        code = (
            "import sys; sys.modules['tensorflow'] = None; "
            "import keras_prm, keras; print(keras.backend.backend())"
        )
        found = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "KERAS_BACKEND": "jax"},
            capture_output=True,
            text=True,
        )
        self.assertEqual(found.stdout.strip(), "jax", found.stderr[-2000:])


if __name__ == "__main__":
    absltest.main()
