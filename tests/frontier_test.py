"""Tests of the frontier: its recipe, its methods, its tables."""

import json
import pathlib
import tempfile
from unittest import mock

import keras
import numpy as np
from absl.testing import parameterized

import keras_prm
from examples import distillation
from examples import frontier_jobs
from examples import frontier_methods
from examples import frontier_report
from examples import frontier_training
from examples import image_data
from examples import networks
from examples import recipes
from examples import textbook_admm

FOLDER = pathlib.Path(recipes.__file__).with_name("recipes")
RECIPES = [(path.stem, path) for path in FOLDER.glob("*.json")]


def data(num=96):
    """Bright squares in one of three places, as three classes."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, num).astype("int32")
    x = rng.uniform(0, 0.2, (num, 28, 28, 1)).astype("float32")
    for image, label in zip(x, y):
        image[8 * label : 8 * label + 8, 8:16] += 0.8
    split = image_data.Split(x, y)
    return {"train": split, "valid": split, "test": split}


def recipe(**changes):
    """Two points of a LeNet-5, in as few steps as can be."""
    return recipes.Recipe(
        network="lenet5",
        base={"conv1": [6, None], "conv2": [8, None], "fc1": [20, None]},
        points={
            "half": {"conv1": [3, 10], "conv2": [4, 30], "fc1": [8, 20]},
            "quarter": {"conv1": [2, 9], "conv2": [3, 15], "fc1": [6, 12]},
        },
        chains=[["half", "quarter"]],
        widths={"half": {"conv1": 2, "conv2": 3, "fc1": 6}},
        batch_size=32,
        dense_epochs=1,
        base_admm_epochs=1,
        base_retrain_epochs=1,
        admm_epochs=1,
        retrain_epochs=1,
        **changes,
    )


class RecipesTest(parameterized.TestCase):
    @parameterized.named_parameters(*RECIPES)
    def test_a_point_keeps_what_it_says(self, path):
        found = recipes.Recipe.load(path)
        make = networks.NETWORKS[found.network]
        model = make((28, 28, 1), 10)
        for keep in (found.base, *found.points.values()):
            plan = found.plan(model, keep)
            masks = keras_prm.hard_prune(make((28, 28, 1), 10), plan)
            for name, (filters, columns) in keep.items():
                mask = masks.kernels[f"{name}/kernel"]
                if filters is not None:
                    self.assertEqual(mask.filters.sum(), filters, name)
                if columns is not None:
                    self.assertEqual(mask.columns.sum(), columns, name)

    @parameterized.named_parameters(*RECIPES)
    def test_widths_store_at_most_as_much_as_the_point(self, path):
        found = recipes.Recipe.load(path)
        for point, widths in found.widths.items():
            sizes = {}
            for keep in (found.kept(point), found.kept(point, True)):
                model = networks.NETWORKS[found.network]((28, 28, 1), 10)
                plan = found.plan(model, keep)
                keras_prm.hard_prune(model, plan)
                small = keras_prm.strip(
                    model, lowering=frontier_jobs.FewestParameters()
                )
                sizes[tuple(map(str, keep.values()))] = keras_prm.costs(
                    small
                ).parameters
            self.assertLen(widths, 3)
            a, b = sizes.values()
            self.assertBetween(b / a, 0.9, 1.1, point)

    def test_chains(self):
        found = recipe()
        self.assertEqual(found.before("quarter"), ["half"])
        self.assertEqual(found.before("half"), [])
        self.assertEqual(found.epochs_to("half"), 2 + 2)
        self.assertEqual(found.epochs_to("quarter"), 2 + 2 * 2)

    def test_settings_tell_what_a_result_depends_on(self):
        one = recipe().settings("half")
        self.assertNotEqual(one, recipe(rho=1.0).settings("half"))
        self.assertNotEqual(one, recipe().settings("quarter"))
        self.assertEqual(one, recipe(shipped=("half",)).settings("half"))

    def test_a_file_that_is_no_recipe(self):
        with self.assertRaisesRegex(SystemExit, "no recipe"):
            recipes.Recipe.load(__file__)


class DistillationTest(parameterized.TestCase):
    def test_the_targets_are_what_the_teacher_says_of_the_crop(self):
        split = data(40)["train"]
        teacher = networks.lenet5((28, 28, 1), 3)
        logits = distillation.teacher_logits(teacher, split, 2)
        self.assertEqual(logits.shape, (5, 5, 40, 3))
        batches = distillation.TaughtShifts(split, logits, 16, seed=3)
        plain = image_data.RandomShifts(split, 16, 2, seed=3)
        for index in range(len(batches)):
            x, y = batches[index]
            np.testing.assert_array_equal(x, plain[index][0])
            np.testing.assert_array_equal(y[:, 0], plain[index][1])
            expected = teacher.predict(x, verbose=0)
            np.testing.assert_allclose(y[:, 1:], expected, atol=1e-5)

    @parameterized.parameters((0.0, 2.0), (0.5, 2.0), (1.0, 4.0))
    def test_the_loss_is_the_formula(self, weight, temperature):
        rng = np.random.default_rng(0)
        label = rng.integers(0, 3, 5)
        teacher, student = rng.normal(size=(2, 5, 3))

        def log_softmax(x):
            return x - np.log(np.exp(x).sum(-1, keepdims=True))

        hard = -log_softmax(student)[np.arange(5), label]
        soft = -(
            np.exp(log_softmax(teacher / temperature))
            * log_softmax(student / temperature)
        ).sum(-1)
        expected = (1 - weight) * hard + weight * temperature**2 * soft
        loss = distillation.Distillation(weight, temperature)
        found = loss(np.concatenate([label[:, None], teacher], 1), student)
        self.assertAlmostEqual(float(found), expected.mean(), places=5)


class TextbookTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory())
        )
        self.trainer = frontier_training.Trainer(
            recipe(rho=0.1), data(), self.folder, seed=1
        )

    def test_two_buffers_do_what_the_wrapper_does(self):
        found = []
        for sparsify in (
            frontier_methods.by_admm,
            frontier_methods.by_projecting_jointly,
        ):
            model = self.trainer.dense()
            plan = self.trainer.recipe.plan(
                model, self.trainer.recipe.points["half"]
            )
            sparsify(self.trainer, model, plan, 3)
            found.append(model.get_weights())
        for one, other in zip(*found, strict=True):
            np.testing.assert_array_equal(one == 0, other == 0)
            np.testing.assert_allclose(one, other, atol=2e-3)

    def test_filters_first_is_never_nearer_than_jointly(self):
        model = self.trainer.dense()
        keep = self.trainer.recipe.points["half"]
        plan = self.trainer.recipe.plan(model, keep)
        kernels = [
            model.trainable_variables[k.index].value for k in plan.kernels
        ]
        kept = []
        for project in (textbook_admm.filters_first, textbook_admm.joint):
            masks = [np.array(m) for m in project(kernels, plan)]
            sizes = [int(m.any(axis=(0, 1, 2)).sum()) for m in masks[:2]]
            self.assertEqual(sizes, [keep["conv1"][0], keep["conv2"][0]])
            kept.append(
                sum(
                    float(
                        (np.array(w) ** 2 * m).sum() / (np.array(w) ** 2).sum()
                    )
                    for w, m in zip(kernels, masks)
                )
            )
        self.assertLessEqual(kept[0], kept[1] + 1e-6)


class JobsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory())
        )
        self.enterContext(
            mock.patch.object(
                frontier_jobs, "load", lambda dataset, seed: data()
            )
        )

    def run_job(self, method, point="half", changed=None):
        found = changed or recipe()
        frontier_jobs.prepare(found, "d.npz", self.folder, method, 0)
        frontier_jobs.run(found, "d.npz", self.folder, method, point, 0)
        path = self.folder / method / point / "seed0"
        return json.loads((path / "summary.json").read_text())

    # The others go through the same, with one of these as their first round.
    @parameterized.parameters("admm", "one_shot", "plan_step_by_step")
    def test_a_method_makes_a_small_model_and_says_so(self, method):
        summary = self.run_job(method)
        path = self.folder / method / "half" / "seed0"
        small = keras.models.load_model(path / "small.keras", compile=False)
        self.assertEqual(summary["stored"], keras_prm.costs(small).parameters)
        self.assertEqual(
            summary["test_accuracy"],
            frontier_jobs.file_accuracy(path / "small.tflite", data()["test"]),
        )
        names = [stage["stage"] for stage in summary["stages"]]
        self.assertLen(set(names), len(names))
        stored = [stage["stored"] for stage in summary["stages"]]
        self.assertEqual(sorted(stored, reverse=True), stored)
        self.assertLess(stored[-1], 2000)

    def test_a_chain_goes_on_where_the_point_before_ended(self):
        with self.assertRaisesRegex(FileNotFoundError, "--points=half"):
            self.run_job("admm", "quarter")
        half = self.run_job("admm")
        quarter = self.run_job("admm", "quarter")
        stages = {stage["stage"]: stage for stage in quarter["stages"]}
        first = stages["from half"]
        last = half["stages"][-2]
        self.assertEqual(last["stage"], "unused paths again")
        self.assertEqual(first | {"stage": ""}, last | {"stage": ""})
        self.assertLess(quarter["stored"], half["stored"])

    def test_what_is_there_is_not_made_again(self):
        path = self.folder / "one_shot" / "half" / "seed0" / "summary.json"
        times = []
        for changed in (None, None, recipe(retrain_rate=1e-3)):
            self.run_job("one_shot", changed=changed)
            times.append(path.stat().st_mtime_ns)
        self.assertEqual(times[0], times[1])
        self.assertGreater(times[2], times[1])

    def test_weights_of_another_environment_are_measured_as_they_are(self):
        with self.assertRaisesRegex(FileNotFoundError, "frontier_tfmot"):
            self.run_job("tfmot")
        weights = networks.lenet5((28, 28, 1), 3).get_weights()
        weights[0][:] = 0
        path = self.folder / "tfmot" / "half" / "seed0"
        path.mkdir(parents=True)
        np.savez(path / "weights.npz", *weights)
        summary = self.run_job("tfmot")
        self.assertEqual(summary["conv_weights"], 25_000)
        self.assertEqual(summary["stored_ratio"], 1.0)


class ReportTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory())
        )
        for seed, accuracy in enumerate((0.95, 0.91, 0.93)):
            self.write("admm", seed, accuracy)
        self.write("one_shot", 0, 0.5)

    def write(self, method, seed, accuracy):
        stages = [
            {
                "stage": name,
                "conv_weights": conv,
                "weights": weights,
                "stored": stored,
                "valid_accuracy": valid,
            }
            for name, conv, weights, stored, valid in (
                ("dense", 1000, 8000, 8000, 0.99),
                ("retrained", 100, 400, 500, 0.97),
                ("purified", 50, 100, 500, 0.96),
            )
        ]
        path = self.folder / method / "half" / f"seed{seed}" / "summary.json"
        path.parent.mkdir(parents=True)
        frontier_jobs.write_json(
            path,
            {
                "method": method,
                "point": "half",
                "seed": seed,
                "stages": stages,
                "ratio": 80.0,
                "conv_ratio": 20.0,
                "tflite_bytes": 1234,
                "test_accuracy": accuracy,
            },
        )

    def test_tables_give_the_median_and_the_range(self):
        text = frontier_report.frontier(self.folder, recipe())
        row = next(line for line in text.splitlines() if "ADMM" in line)
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        self.assertEqual(
            cells,
            ["half", "ADMM", "93.00 (91.00–95.00)"]
            + ["50", "20.0x", "100", "80.0x", "500", "16.0x", "1,234", "3"],
        )
        self.assertIn(" 50.00 |", text)
        self.assertIn(
            "retrained", frontier_report.account(self.folder, recipe())
        )

    def test_what_stages_removed_and_cost(self):
        rows = frontier_report.read(self.folder)["admm", "half"]
        found = frontier_report.removed_by(rows, "purified")
        np.testing.assert_allclose(found, (2.0, 4.0, 1.0))

    def test_write_draws_and_returns_the_table(self):
        text = frontier_report.write(self.folder, recipe())
        self.assertIn(text, (self.folder / "frontier.md").read_text())
        self.assertGreater((self.folder / "frontier.png").stat().st_size, 9999)
