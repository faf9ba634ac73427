"""Tests of AlexNet: the network, and its command in small."""

import os
import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import absltest
from absl.testing import parameterized

import keras_prm
from examples.common import networks
from examples.study import claims
from examples.study import result_files
from examples.study.phase_recipe import PhaseRecipe

ROOT = pathlib.Path(__file__).absolute().parent.parent.parent
RECIPES = ROOT / "examples" / "recipes"
# What the command downloads is made here, at random.
COMMAND = """
import runpy, sys
import tensorflow_datasets as tfds
sys.argv = ["alexnet", *sys.argv[1:]]
with tfds.testing.mock_data(num_examples=60):
    runpy.run_module("examples.alexnet", run_name="__main__")
"""


class NetworkTest(parameterized.TestCase):
    @parameterized.parameters(
        # Of the one tower: 61.1 million with ImageNet's classes.
        (224, 1000, 61_104_296),
        (96, 10, 23_493_834),
    )
    def test_sizes(self, size, classes, parameters):
        model = networks.alexnet((size, size, 3), classes)
        costs = keras_prm.costs(model)
        self.assertEqual(costs.conv_parameters, 2_468_544)
        self.assertEqual(costs.parameters, parameters)

    def test_what_it_cannot_be(self):
        networks.alexnet((57, 57, 3), 2, width=1)
        with self.assertRaisesRegex(ValueError, "57 pixels.*56"):
            networks.alexnet((57, 56, 3), 2)
        with self.assertRaisesRegex(ValueError, "'local'.*layer"):
            networks.alexnet((64, 64, 3), 2, normalization="layer")

    @parameterized.parameters("batch", "local", None)
    def test_strip_is_exact(self, normalization):
        keras.utils.set_random_seed(0)
        model = networks.alexnet((64, 64, 3), 5, 4, normalization)
        plan = keras_prm.SparsityPlan.uniform(model, 0.5)
        keras_prm.hard_prune(model, plan)
        small, report = keras_prm.strip(model, return_report=True)
        x = np.random.default_rng(0).uniform(size=(3, 64, 64, 3))
        self.assertTrue(keras_prm.verify(model, small, inputs=x).ok)
        filters = [small.get_layer(f"conv{n}").filters for n in range(1, 6)]
        if normalization == "local":  # it mixes channels that are neighbors
            self.assertEqual(filters, [4, 12, 12, 8, 8])
            self.assertIn("conv1_norm", str(report))
        else:
            self.assertEqual(filters, [2, 6, 12, 8, 8])

    def test_local_response_normalization(self):
        x = np.random.default_rng(0).normal(size=(2, 3, 3, 9))
        x = x.astype("float32")
        layer = networks.LocalResponseNormalization(2, 1.5, 0.3, 0.6)
        expected = tf.nn.local_response_normalization(x, 2, 1.5, 0.3, 0.6)
        np.testing.assert_allclose(layer(x), expected, rtol=1e-5)
        again = type(layer).from_config(layer.get_config())
        np.testing.assert_array_equal(again(x), layer(x))
        half = networks.LocalResponseNormalization(dtype="bfloat16")(x)
        whole = networks.LocalResponseNormalization()(x)
        np.testing.assert_allclose(
            tf.cast(half, "float32"), whole, rtol=0.02, atol=1e-6
        )

    @parameterized.parameters(
        ("alexnet_imagenette96", 5),
        ("alexnet_imagenette96_short", 2),
        ("alexnet_imagenet", 2),
    )
    @pytest.mark.slow
    def test_points_are_what_they_are_called(self, name, num):
        recipe = PhaseRecipe.load(RECIPES / f"{name}.json")
        self.assertLen(recipe.points, num)
        shape = (recipe.image_size, recipe.image_size, 3)
        for point in recipe.points:
            ratio = int(point.partition("x")[0])
            model = recipe.build(shape, 10)
            keras_prm.hard_prune(model, recipe.plan(model, point))
            left = keras_prm.costs(keras_prm.strip(model)).conv_weights
            self.assertBetween(2_468_544 / left, ratio, 1.1 * ratio)


class CommandTest(absltest.TestCase):
    @pytest.mark.slow
    def test_imagenet_in_small(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        recipe = RECIPES / "alexnet_imagenet.json"
        found = subprocess.run(
            [sys.executable, "-c", COMMAND, "--quick", f"--recipe={recipe}"]
            + ["--image_size=64"]
            + [f"--output_dir={folder / 'out'}"]
            + [f"--images_dir={folder / 'images'}"],
            cwd=ROOT,
            env=os.environ | {"KERAS_BACKEND": keras.backend.backend()},
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(found.returncode, 0, found.stderr[-2000:])
        kept = folder / "images" / "imagenet2012-96-first2000"
        images = np.load(kept / "train.npy", mmap_mode="r")
        self.assertEqual(images.shape, (60, 96, 96, 3))
        summary = result_files.read(folder / "out" / "5x")
        self.assertTrue(summary["exact"])
        self.assertCountEqual(summary["test_top5"], claims.FILES)
        self.assertIn("5x, stage by stage", found.stdout)


if __name__ == "__main__":
    absltest.main()
