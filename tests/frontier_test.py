"""Tests of the frontier: its recipe, its methods, its results, its tables."""

import dataclasses
import pathlib
import tempfile
from unittest import mock

import keras
import numpy as np
from absl.testing import parameterized

import keras_prm
from examples import distillation
from examples import fewest_parameters
from examples import frontier_methods
from examples import frontier_report
from examples import frontier_results
from examples import frontier_schedule
from examples import frontier_training
from examples import image_data
from examples import networks
from examples import recipes
from examples import textbook_admm
from tests import zoo

METHODS = frontier_methods.METHODS
FOLDER = pathlib.Path(recipes.__file__).with_name("recipes")
RECIPES = [(path.stem, path) for path in FOLDER.glob("*.json")]


def split(num, seed):
    """Bright squares in one of three places, as three classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, num).astype("int32")
    x = rng.uniform(0, 0.2, (num, 28, 28, 1)).astype("float32")
    for image, label in zip(x, y):
        image[8 * label : 8 * label + 8, 8:16] += 0.8
    return image_data.Split(x, y)


def data():
    names = ("train", "valid", "test")
    return {name: split(64, seed) for seed, name in enumerate(names)}


def recipe(**changes):
    """Two points of a LeNet-5, in as few steps as can be."""
    found = recipes.Recipe.load(FOLDER / "lenet5_mnist.json")
    epochs = {
        field.name: 1
        for field in dataclasses.fields(found)
        if field.name.endswith("_epochs")
    }
    small = {
        "base": {"conv1": [6, None], "conv2": [8, None], "fc1": [20, None]},
        "points": {
            "half": {"conv1": [3, 10], "conv2": [4, 30], "fc1": [8, 20]},
            "quarter": {"conv1": [2, 9], "conv2": [3, 15], "fc1": [6, 12]},
        },
        "chains": [["half", "quarter"]],
        "widths": {"half": {"conv1": 2, "conv2": 3, "fc1": 6}},
        "shipped": [],
        "long_retraining": {},
        "batch_size": 32,
        "precision": "float32",
    }
    return dataclasses.replace(found, **epochs | small | changes)


class RecipesTest(parameterized.TestCase):
    @parameterized.named_parameters(*RECIPES)
    def test_a_point_keeps_what_it_says(self, path):
        found = recipes.Recipe.load(path)
        for chain in found.chains:
            model = networks.NETWORKS[found.network]((28, 28, 1), 10)
            for keep in (found.base, *map(found.kept, chain)):
                keras_prm.hard_prune(model, found.plan(model, keep))
                for name, (filters, columns) in keep.items():
                    live = np.array(model.get_layer(name).kernel) != 0
                    live = live.reshape(-1, live.shape[-1])
                    if filters is not None:
                        self.assertEqual(live.any(axis=0).sum(), filters, name)
                    if columns is not None:
                        self.assertEqual(live.any(axis=1).sum(), columns, name)
                model = keras_prm.strip(model)
                # As after training, in which what was zero grows again.
                zoo.randomise(model)

    @parameterized.named_parameters(*RECIPES)
    def test_widths_store_about_as_much_as_the_point(self, path):
        found = recipes.Recipe.load(path)
        for point in found.widths:
            stored = []
            for filters_only in (False, True):
                model = networks.NETWORKS[found.network]((28, 28, 1), 10)
                plan = found.plan(model, found.kept(point, filters_only))
                keras_prm.hard_prune(model, plan)
                lowering = fewest_parameters.FewestParameters()
                small = keras_prm.strip(model, lowering=lowering)
                stored.append(keras_prm.costs(small).parameters)
            self.assertBetween(stored[1] / stored[0], 0.95, 1.05, point)

    def test_chains(self):
        found = recipe()
        self.assertEqual(found.before("quarter"), ["half"])
        self.assertEqual(found.before("half"), [])
        self.assertEqual(found.epochs_to("half"), 2 + 2)
        self.assertEqual(found.epochs_to("quarter"), 2 + 2 * 2)
        found = recipe(long_retraining={"half": 5})
        self.assertEqual(found.retraining("half"), 5)
        self.assertEqual(found.retraining("quarter"), 1)
        self.assertEqual(found.epochs_to("half"), 2 + 1 + 5)
        self.assertEqual(found.epochs_to("quarter"), 2 + 1 + 5 + 2)

    def test_a_file_that_is_no_recipe(self):
        with self.assertRaisesRegex(SystemExit, "no recipe"):
            recipes.Recipe.load(__file__)

    @parameterized.parameters(
        ({"network": "lenet6"}, "network among"),
        ({"chains": [["half"]]}, "every point in one chain.*quarter"),
        ({"chains": [["half", "quarter", "half"]]}, "twice.*half"),
        ({"shipped": ["third"]}, "third"),
        ({"long_retraining": {"third": 5}}, "third"),
    )
    def test_names_that_do_not_fit(self, changes, message):
        with self.assertRaisesRegex(ValueError, message):
            recipe(**changes)

    def test_a_chain_cannot_widen_a_layer(self):
        points = recipe().points | {"third": {"conv2": [2, 9]}}
        points["fourth"] = {"conv1": [3, 9]}  # of which "quarter" left 2
        with self.assertRaisesRegex(ValueError, "3 in conv1.*2 are left"):
            recipe(
                points=points, chains=[["half", "quarter", "third", "fourth"]]
            )
        with self.assertRaisesRegex(ValueError, "7 in conv1.*6 are left"):
            recipe(points={"half": {"conv1": [7, 9]}}, chains=[["half"]])

    def test_quick(self):
        found = recipe().quick()
        self.assertEqual(list(found.points), ["half"])
        self.assertEqual(found.epochs_to("half"), 4)
        apart = recipe(
            chains=[["half"], ["quarter"]], long_retraining={"half": 5}
        )
        self.assertEqual(apart.quick().chains, apart.chains)
        self.assertEqual(apart.quick().epochs_to("half"), 4)


class ScheduleTest(parameterized.TestCase):
    def test_points_come_in_the_order_of_their_chain(self):
        jobs = frontier_schedule.wanted(
            recipe(), ["admm"], ["quarter", "half"], ["3", "4"]
        )
        expected = [("half", 3), ("quarter", 3), ("half", 4), ("quarter", 4)]
        self.assertEqual(jobs, [("admm", *rest) for rest in expected])

    def test_widths_are_needed_on_the_whole_way(self):
        found = recipe(widths={"quarter": {"conv1": 1}})
        methods = ["one_shot", "iterative"]
        jobs = frontier_schedule.wanted(found, methods, [], ["0"])
        self.assertEqual(jobs, [("one_shot", "quarter", 0)])

    @parameterized.parameters(
        (["no"], [], ["0"], "methods among"),
        (["admm"], ["no"], ["0"], "points among"),
        (["admm"], [], ["a", "-1"], "whole numbers.*'a', '-1'"),
    )
    def test_what_is_not_known(self, methods, points, seeds, message):
        with self.assertRaisesRegex(ValueError, message):
            frontier_schedule.wanted(recipe(), methods, points, seeds)

    def test_what_is_known_of_the_same_settings_is_not_made_again(self):
        jobs = [("admm", "half", 0), ("admm", "half", 1), ("admm", "half", 2)]
        known = {jobs[0]: {"settings": 7}, jobs[1]: {"settings": 8}}
        settings = dict.fromkeys(jobs, 7)
        self.assertEqual(
            frontier_schedule.unknown(jobs, known, settings), jobs[1:]
        )

    def test_what_is_known_of_other_images_is_left_out(self):
        known = {
            ("admm", "half", seed): {"settings": {"data": data}}
            for seed, data in enumerate("abc")
        }
        found = frontier_schedule.of_data(known, {0: "a", 1: "x", 2: "a"})
        self.assertEqual(list(found), [("admm", "half", 0)])

    def test_what_depends_on_admm_waits_for_it(self):
        jobs = frontier_schedule.wanted(
            recipe(), ["untaught", "admm", "one_shot"], [], ["0", "1"]
        )
        first, own, others = frontier_schedule.phases(jobs, recipe())
        self.assertLen(first, 2)
        self.assertEqual({job[1] for group in first for job in group}, {None})
        self.assertIn(
            [("admm", "half", 0), ("admm", "quarter", 0)],
            own,
        )
        self.assertNotIn("untaught", {job[0] for g in own for job in g})
        self.assertEqual({job[0] for g in others for job in g}, {"untaught"})


class DistillationTest(parameterized.TestCase):
    def test_the_targets_are_what_the_teacher_says_of_the_crop(self):
        images = split(40, 0)
        teacher = networks.lenet5((28, 28, 1), 3)
        logits = distillation.teacher_logits(teacher, images, 2)
        self.assertEqual(logits.shape, (5, 5, 40, 3))
        batches = distillation.TaughtShifts(images, logits, 16, seed=3)
        plain = image_data.RandomShifts(images, 16, 2, seed=3)
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
        found = recipe(rho=0.1, rho_growth=3.0, admm_rate=1e-4)
        self.trainer = frontier_training.Trainer(found, data(), seed=1)
        self.model = self.trainer.network("float32")
        self.keep = found.points["half"]
        self.plan = found.plan(self.model, self.keep)

    def test_two_buffers_do_what_the_wrapper_does(self):
        first = self.model.get_weights()
        found = []
        for sparsify in (
            frontier_methods.by_admm,
            frontier_methods.by_projecting_jointly,
        ):
            self.model.set_weights(first)
            self.trainer.epoch = 0
            sparsify(self.trainer, self.model, self.plan, 3)
            found.append(self.model.get_weights())
        for one, other in zip(*found, strict=True):
            np.testing.assert_array_equal(one == 0, other == 0)
        start, one, other = (
            np.concatenate([w.ravel() for w in weights])
            for weights in (first, *found)
        )
        moved = np.linalg.norm(one - start)
        self.assertLess(np.linalg.norm(one - other), 0.1 * moved)

    def test_filters_first_keeps_less_where_it_matters(self):
        kernel = np.zeros((5, 5, 1, 20), "float32")
        # By all columns the filters 0 to 2 are strongest, but not by ten.
        kernel[..., :3] = 0.5
        kernel[:2, :, :, 3:6] = 0.7
        kernels = [
            self.model.trainable_variables[k.index].value
            for k in self.plan.kernels
        ]
        plan = recipe().plan(self.model, {"conv1": [3, 10]})
        self.assertLen(plan.kernels, 2)
        kernels = [kernel, np.zeros(plan.kernels[1].shape, "float32")]
        kept = []
        for project in (textbook_admm.filters_first, textbook_admm.joint):
            mask = np.array(project(kernels, plan)[0])
            self.assertEqual(mask.any(axis=(0, 1, 2)).sum(), 3)
            self.assertEqual(mask.any(axis=(2, 3)).sum(), 10)
            kept.append((kernel**2 * mask).sum())
        self.assertLess(kept[0], kept[1] - 1)

    def test_not_on_jax(self):
        with mock.patch.object(keras.backend, "backend", lambda: "jax"):
            with self.assertRaisesRegex(ValueError, "Use TensorFlow"):
                textbook_admm.TextbookADMM(self.model, self.plan, float)


class ResultsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory())
        )

    def results(self, **changes):
        return frontier_results.Results(
            recipe(**changes), data(), self.folder, 0
        )

    # The others go through the same, on the way of one of these.
    @parameterized.parameters("admm", "one_shot", "untaught")
    def test_a_method_makes_a_small_model_and_says_so(self, method):
        results = self.results()
        summary = results.result(method, "half")
        path = results.path(method, "half")
        self.assertEqual(summary, frontier_results.read(path))
        small = frontier_results.load_model(path / "small.keras")
        self.assertEqual(summary["stored"], keras_prm.costs(small).parameters)
        self.assertEqual(
            summary["weights"],
            sum(np.count_nonzero(w) for w in small.get_weights() if w.ndim > 1),
        )
        test, valid = (results.trainer.data[n] for n in ("test", "valid"))
        file = path / "small.tflite"
        self.assertEqual(
            (summary["test_accuracy"], summary["valid_accuracy"]),
            (
                frontier_results.file_accuracy(file, test),
                frontier_results.file_accuracy(file, valid),
            ),
        )
        names = [stage["stage"] for stage in summary["stages"]]
        self.assertLen(set(names), len(names))
        stored = [stage["stored"] for stage in summary["stages"]]
        self.assertEqual(sorted(stored, reverse=True), stored)
        self.assertLess(stored[-1], 2000)

    @parameterized.parameters(
        name for name, method in METHODS.items() if method.sparsify
    )
    def test_all_spend_the_same_epochs_and_see_each_once(self, name):
        seen = []

        def fit(model, batches, epochs, **kwargs):
            del kwargs
            seen.extend(range(batches.epoch, batches.epoch + epochs))
            model.compile()  # not with a wrapper that has found nothing

        found = recipe(
            base_retrain_epochs=3,
            admm_epochs=2,
            retrain_epochs=4,
            long_retraining={"quarter": 6},
        )
        if METHODS[name].filters_only:
            widths = found.widths | {"quarter": {"conv1": 1, "conv2": 2}}
            found = dataclasses.replace(found, widths=widths)
        results = frontier_results.Results(found, data(), self.folder, 0)
        with (
            mock.patch.object(keras.Model, "fit", fit),
            mock.patch.object(keras_prm, "purify"),
            mock.patch.object(
                keras_prm, "export_litert", return_value=mock.Mock(num_bytes=7)
            ),
            mock.patch.object(
                frontier_results, "file_accuracy", return_value=0.5
            ),
        ):
            results.dense()
            seen.clear()
            results.result(name, "quarter")
        self.assertEqual(seen, list(range(found.epochs_to("quarter"))))
        self.assertLen(seen, 1 + 3 + (2 + 4) + (2 + 6))

    def test_training_says_how_far_it_is(self):
        trainer = self.results().trainer
        lines = []
        trainer.say = lines.append
        model = trainer.network("float32")
        trainer.fit(model, keras.optimizers.Adam(), 21)
        self.assertLen(lines, 2)
        self.assertRegex(lines[0], r"^epoch 20 of 21, loss \d\.\d{4}$")
        self.assertRegex(lines[1], r"^epoch 21 of 21, loss \d\.\d{4}$")

    def test_the_test_images_are_looked_at_once(self):
        looks = []
        accuracy = frontier_results.file_accuracy

        def counted(path, images):
            looks.append(path.parent.parent.parent.name)
            return accuracy(path, images)

        results = self.results()
        results.trainer.data = {
            **results.trainer.data,
            "test": image_data.Split(np.zeros((4, 28, 28, 1)), np.zeros(4)),
        }
        with mock.patch.object(frontier_results, "file_accuracy", counted):
            results.result("admm", "quarter")
        self.assertEqual(looks, ["dense", "admm", "admm"])

    def test_a_chain_goes_on_where_the_point_before_ended(self):
        results = self.results()
        quarter = results.result("admm", "quarter")
        half = frontier_results.read(results.path("admm", "half"))
        first, last = quarter["stages"][1], half["stages"][-2]
        self.assertEqual(first["stage"], "from half")
        self.assertEqual(last["stage"], "unused paths again")
        self.assertEqual(first | {"stage": ""}, last | {"stage": ""})
        self.assertLess(quarter["stored"], half["stored"])

    def test_only_what_depends_on_a_change_is_made_again(self):
        def times():
            return {
                path.parent.parent.parent.name: path.stat().st_mtime_ns
                for path in self.folder.glob("*/*/*/summary.json")
            }

        self.results().result("admm", "half")
        first = times()
        self.assertEqual({*first}, {"dense", "base_by_admm", "admm"})
        self.results().result("admm", "half")
        self.assertEqual(times(), first)
        self.results(retrain_epochs=2).result("admm", "half")
        second = times()
        changed = {name for name in first if first[name] != second[name]}
        self.assertEqual(changed, {"admm"})
        self.results(shift=0, retrain_epochs=2).result("admm", "half")
        third = times()
        self.assertTrue(all(second[name] != third[name] for name in first))

    def test_nothing_left(self):
        self.assertEqual(frontier_results.ratio(6, 4), 1.5)
        self.assertEqual(frontier_results.ratio(6, 0), float("inf"))

    def test_other_images_are_other_results(self):
        other = data() | {"valid": split(64, 9)}
        self.assertNotEqual(
            frontier_results.fingerprint(data()),
            frontier_results.fingerprint(other),
        )

    def test_weights_of_another_environment_are_measured_as_they_are(self):
        results = self.results()
        with self.assertRaisesRegex(FileNotFoundError, "frontier_tfmot"):
            results.result("tfmot", "half")
        network = networks.NETWORKS[results.recipe.network]
        weights = network((28, 28, 1), 3).get_weights()
        weights[0][:] = 0
        path = results.path("tfmot", "half")
        path.mkdir(parents=True)
        np.savez(path / "weights.npz", *weights)
        settings = results.settings("tfmot", "half")
        frontier_results.write_json(
            path / "settings.json", {"settings": settings}
        )
        summary = results.result("tfmot", "half")
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

    def write(self, method, seed, accuracy, **changes):
        stages = [
            {
                "stage": name,
                "conv_weights": conv,
                "weights": weights,
                "stored": stored,
                "valid_accuracy": 0.99,
            }
            for name, conv, weights, stored in (
                ("dense", 1000, 8000, 8000),
                ("retrained", 100, 400, 500),
            )
        ]
        kept = recipe().kept("half", METHODS[method].filters_only)
        path = self.folder / method / "half" / f"seed{seed}" / "summary.json"
        path.parent.mkdir(parents=True)
        frontier_results.write_json(
            path,
            {
                "method": method,
                "point": "half",
                "seed": seed,
                "stages": stages,
                "conv_weights": 50,
                "conv_ratio": 20.0,
                "weights": 100,
                "ratio": 80.0,
                "stored": 500,
                "stored_ratio": 16.0,
                "tflite_bytes": 1234,
                "valid_accuracy": 0.99,
                "test_accuracy": accuracy,
                "settings": recipe().settings()
                | {"keep": [kept], "epochs": recipe().epochs_to("half")}
                | changes,
            },
        )

    def read(self):
        return frontier_report.read(self.folder, recipe())

    def test_tables_give_the_median_and_the_range(self):
        text = frontier_report.frontier(self.read(), recipe())
        row = next(line for line in text.splitlines() if "ADMM" in line)
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        self.assertEqual(
            cells,
            ["half", "ADMM", "93.00 (91.00–95.00)", "99.00"]
            + ["50", "20.0x", "100", "80.0x", "500", "16.0x"]
            + ["1,234", "1.0x", "3"],
        )
        self.assertIn(" 50.00 |", text)
        text = frontier_report.account(self.read(), recipe())
        self.assertIn("retrained", text)

    @parameterized.parameters(
        {"rho": 7.0}, {"keep": [{"conv1": [3, 9]}]}, {"epochs": 9}
    )
    def test_results_of_other_settings_are_left_out(self, **changes):
        self.write("admm", 3, 0.1, **changes)
        self.assertLen(self.read()["admm", "half"], 3)

    def test_write_draws_and_returns_the_table(self):
        text = frontier_report.write(self.folder, recipe())
        self.assertIn(text, (self.folder / "frontier.md").read_text())
        self.assertGreater((self.folder / "frontier.png").stat().st_size, 9999)

    def test_results_are_kept_in_one_file_and_added_to_those_of_a_folder(self):
        frontier_report.write(self.folder, recipe())
        known = frontier_report.known(self.folder / "results.json")
        self.assertEqual(
            frontier_report.read(self.folder / "no", recipe(), known),
            self.read(),
        )
        # What the folder holds is newer than what is known.
        row = known["admm", "half", 0]
        known["admm", "half", 0] = row | {"test_accuracy": 0.1}
        known["admm", "half", 7] = row | {"test_accuracy": 0.2, "seed": 7}
        rows = frontier_report.read(self.folder, recipe(), known)
        self.assertEqual(
            [row["test_accuracy"] for row in rows["admm", "half"]],
            [0.95, 0.91, 0.93, 0.2],
        )

    def test_no_file_of_results(self):
        self.assertEqual(frontier_report.known(self.folder / "no.json"), {})

    def test_nothing_there(self):
        text = frontier_report.write(self.folder / "no", recipe())
        self.assertEqual(text, "There are no results yet.")
