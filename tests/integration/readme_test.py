"""What the README shows: its first example, run as it stands, a table."""

import contextlib
import io
import os
import pathlib
import re
import tempfile
import warnings

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.analysis.explain import explain
from tests.helpers import zoo

README = pathlib.Path(__file__).absolute().parent.parent.parent / "README.md"
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def first_example():
    """The first Python block, with less patience.

    One epoch still has the 100 steps after which ADMM is updated first.
    """
    text = README.read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    assert code.count("epochs=30") == 2, code
    return code.replace("epochs=30", "epochs=1")


def make_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(8, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def make_data(samples):
    """Three classes of images, told apart by where the light is."""
    import tensorflow as tf

    rng = np.random.default_rng(samples)
    y = rng.integers(0, 3, samples)
    x = 0.3 * rng.normal(size=(samples, 8, 8, 1))
    for image, label in zip(x, y, strict=True):
        image[2 * label : 2 * label + 3] += 1.0
    data = tf.data.Dataset.from_tensor_slices((x.astype("float32"), y))
    return data.batch(16)


def run(code, scope):
    with warnings.catch_warnings():
        # Keras says so wherever a tf.data.Dataset meets `fit`'s defaults.
        warnings.filterwarnings("ignore", "`shuffle=True` was passed")
        # 48 images are few, and purify says so.
        warnings.filterwarnings("ignore", "max_drop=.* standard error")
        exec(code, scope)


class ReadmeTest(parameterized.TestCase):
    def test_first_example(self):
        if not ON_TENSORFLOW:
            self.skipTest("Export to LiteRT needs TensorFlow.")
        scope = {
            "model": make_model(),
            "loss": keras.losses.SparseCategoricalCrossentropy(
                from_logits=True
            ),
            "train": make_data(1616),
            "valid": make_data(48),
        }
        printed = io.StringIO()
        with tempfile.TemporaryDirectory() as folder:
            with contextlib.chdir(folder):
                with contextlib.redirect_stdout(printed):
                    run(first_example(), scope)
                self.assertGreater(os.path.getsize("small.tflite"), 0)
        model, small = scope["model"], scope["small"]
        self.assertLess(small.count_params(), 0.6 * model.count_params())
        self.assertIn(
            "The stripped model is equal up to rounding", printed.getvalue()
        )
        self.assertIn("litert", printed.getvalue())
        # What the block calls masks is still zero, though purify took more.
        for key, mask in scope["masks"].kernels.items():
            self.assertFalse(mask.full().all(), key)
        x = np.concatenate([x for x, _ in scope["valid"]])
        np.testing.assert_allclose(
            small.predict(x, verbose=0),
            model.predict(x, verbose=0),
            rtol=1e-3,
            atol=1e-4,
        )

    def test_what_can_go(self):
        """The table is the zoo's LeNet-5, whose last layer is called fc2."""
        layers = README.parent / "docs" / "layers.md"
        section = layers.read_text().partition("## What can go?")[2]
        printed = re.search(r"```\n(classes .*?)\n```", section, re.DOTALL)
        table = str(explain(zoo.make("lenet5"))).replace("fc2:", "logits:")
        table = re.sub(r"keras_tensor_\d+", "keras_tensor", table)
        self.assertEqual(printed.group(1), table)


if __name__ == "__main__":
    absltest.main()
