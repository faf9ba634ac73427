"""Tests of the pruned models that live in the repository."""

import copy
import hashlib
import json
import pathlib
import shutil
import tempfile

import keras
import numpy as np
from absl.testing import parameterized

import keras_prm
from examples import shipping
from examples.common import image_data
from examples.study import claims
from examples.study import over_seeds
from examples.study.frontier_recipe import FrontierRecipe
from keras_prm.litert import runtime

RESULTS = pathlib.Path(shipping.__file__).with_name("results")
RECIPE = RESULTS.parent / "recipes" / "lenet5_mnist.json"
LENET5 = ("235x", "500x", "conv240x")
FOLDERS = [(f"lenet5_mnist_{p}", RESULTS / "lenet5_mnist" / p) for p in LENET5]
OTHERS = ("alexnet_imagenette96", "resnet18_cifar10")
FOLDERS += [(name, RESULTS / name) for name in OTHERS]
# Of each dense network: the shape of its images, all it stores, its kernels'
# weights, and those of its convolutions.
DENSE = {
    "alexnet_imagenette96": (
        (96, 96, 3),
        23_493_834,
        23_481_024,
        2_468_544,
    ),
    "lenet5_mnist": ((28, 28, 1), 431_080, 430_500, 25_500),
    "resnet18_cifar10": ((32, 32, 3), 11_183_562, 11_164_352, 11_159_232),
}


def dense(folder):
    """What is known of the dense network of a folder."""
    return DENSE[folder.relative_to(RESULTS).parts[0]]


def images(num, shape=(28, 28, 1)):
    rng = np.random.default_rng(num)
    x = rng.uniform(size=(num, *shape)).astype("float32")
    return image_data.Split(x, rng.integers(0, 10, num))


class ShippedTest(parameterized.TestCase):
    def test_there_are_no_others(self):
        found = [path.parent for path in RESULTS.rglob("summary.json")]
        self.assertCountEqual(found, [folder for _, folder in FOLDERS])

    @parameterized.named_parameters(*FOLDERS)
    def test_the_files_are_those_that_were_measured(self, folder):
        summary = json.loads((folder / "summary.json").read_text())
        self.assertCountEqual(summary["files"], claims.FILES)
        for name, claim in summary["files"].items():
            content = (folder / name).read_bytes()
            self.assertEqual(hashlib.sha256(content).hexdigest(), claim)

    @parameterized.named_parameters(*FOLDERS)
    def test_the_file_computes_what_the_model_does(self, folder):
        model = keras.models.load_model(folder / "small.keras", compile=False)
        file = keras_prm.LiteRTModel(folder / "small.tflite")
        for num in (1, 7):
            x = images(num, dense(folder)[0]).x
            expected = model.predict(x, verbose=0)
            np.testing.assert_allclose(
                file(x), expected, atol=1e-5 * np.abs(expected).max()
            )
        int8 = keras_prm.LiteRTModel(folder / "int8.tflite")(x)
        self.assertEqual(int8.shape, (7, 10))
        self.assertTrue(np.isfinite(int8).all())

    @parameterized.named_parameters(*FOLDERS)
    def test_the_file_takes_float32_images(self, folder):
        for name in ("small.tflite", "int8.tflite"):
            interpreter = runtime.interpreter_class()(
                model_path=str(folder / name)
            )
            (found,) = interpreter.get_input_details()
            self.assertEqual(found["dtype"], np.float32)
            self.assertEqual(tuple(found["shape"][1:]), dense(folder)[0])

    @parameterized.named_parameters(*FOLDERS)
    def test_the_compression_is_what_is_claimed(self, folder):
        summary = json.loads((folder / "summary.json").read_text())
        model = keras.models.load_model(folder / "small.keras", compile=False)
        weights = model.get_weights()
        stored = sum(w.size for w in weights)
        kernels = sum(np.count_nonzero(w) for w in weights if w.ndim > 1)
        conv = sum(np.count_nonzero(w) for w in weights if w.ndim > 2)
        self.assertEqual(
            (summary["stored"], summary["weights"], summary["conv_weights"]),
            (stored, kernels, conv),
        )
        _, all_stored, all_kernels, all_conv = dense(folder)
        self.assertAlmostEqual(summary["stored_ratio"], all_stored / stored)
        self.assertAlmostEqual(summary["ratio"], all_kernels / kernels)
        self.assertAlmostEqual(summary["conv_ratio"], all_conv / conv)

    def test_a_false_claim_is_found(self):
        folder = FOLDERS[0][1]
        summary = json.loads((folder / "summary.json").read_text())
        found = claims.measured(folder, images(50), summary["stages"][0])
        self.assertEmpty(claims.differences(found, found))
        false = copy.deepcopy(found)
        false["stored"] -= 1
        false["ratio"] += 1
        false["test_accuracies"]["int8.tflite"] += 0.02
        del false["files"]["small.keras"]
        texts = claims.differences(false, found)
        self.assertLen(texts, 4)
        self.assertIn("int8.tflite: claims", "\n".join(texts))

    def test_check_counts_false_claims(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        shutil.copytree(FOLDERS[0][1], folder / "point")
        # These images are not those the accuracies were measured on: one of
        # the summary, and one of each of the three files.
        self.assertEqual(
            claims.check(folder, lambda size, margin: images(50)), 4
        )

    def test_nothing_shipped(self):
        with self.assertRaisesRegex(SystemExit, "Mind --results"):
            claims.check(RESULTS / "no", None)


class ShipTest(parameterized.TestCase):
    @parameterized.parameters(((0.9,), 0), ((0.9, 0.7, 0.8), 2))
    def test_the_middle_by_validation_accuracy(self, accuracies, middle):
        rows = [
            {"seed": seed, "valid_accuracy": accuracy}
            for seed, accuracy in enumerate(accuracies)
        ]
        self.assertEqual(over_seeds.middle(rows)["seed"], middle)

    def test_no_results(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        recipe = FrontierRecipe.load(RECIPE)
        with self.assertRaisesRegex(SystemExit, "results of conv240x"):
            shipping.ship(folder / "runs", folder, recipe, "no such data")

    def test_what_is_shipped_stays_without_its_folder(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        results = folder / "results"
        shutil.copytree(RESULTS / "lenet5_mnist", results)
        recipe = FrontierRecipe.load(RECIPE)
        before = {
            path: path.read_bytes()
            for path in sorted(results.glob("*/*"))
            if path.is_file()
        }
        shipping.ship(folder / "runs", results, recipe, "no such data")
        for path, content in before.items():
            self.assertEqual(path.read_bytes(), content, path)
        self.assertEqual(
            (results / "frontier.md").read_text(),
            (RESULTS / "lenet5_mnist" / "frontier.md").read_text(),
        )
        summary = json.loads((results / "235x" / "summary.json").read_text())
        summary["settings"]["rho"] = 7.0
        (results / "235x" / "summary.json").write_text(json.dumps(summary))
        with self.assertRaisesRegex(SystemExit, "--points=235x --seeds="):
            shipping.ship(folder / "runs", results, recipe, "no such data")
