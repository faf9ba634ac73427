"""Tests of recipes in phases: what is kept, what they refuse."""

import copy
import json
import pathlib
import tempfile

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from examples.study.phase_recipe import PhaseRecipe
from examples.study.recipe import RECIPES

CONFIG = json.loads((RECIPES / "resnet18_cifar10.json").read_text())
POINTS = (("20x", 20), ("60x", 60), ("100x", 100))


def recipe(**changes):
    return PhaseRecipe.from_config(copy.deepcopy(CONFIG) | changes)


class PhaseRecipeTest(parameterized.TestCase):
    @parameterized.parameters(
        *((name, *row) for name in ("", "_cpu") for row in POINTS)
    )
    def test_a_point_keeps_what_its_name_says(self, name, point, ratio):
        found = PhaseRecipe.load(RECIPES / f"resnet18_cifar10{name}.json")
        model = found.build((32, 32, 3), 10)
        plan = found.plan(model, point)
        shares = {}
        for group in plan.groups:
            numbers = range(group.start, group.start + group.size)
            shares |= dict.fromkeys(numbers, group.keep / group.size)
        left = {
            layer.name: np.prod(layer.kernel.shape)
            for layer in model.layers
            if isinstance(layer, keras.layers.Conv2D)
        }
        for kernel in plan.kernels[:-1]:  # the last one makes logits
            share = 1 - kernel.columns
            for classes in (kernel.in_classes, kernel.out_classes):
                share *= np.mean([shares.get(i, 1.0) for i in classes])
            left[kernel.key.split("/")[0]] *= share
        self.assertLen(left, 20)
        found = 11_159_232 / sum(left.values())
        self.assertBetween(found, ratio, 1.05 * ratio)

    def test_points_have_what_is_usual_or_their_own(self):
        found = recipe()
        self.assertEqual(found.points["20x"].retrain.epochs, 100)
        self.assertEqual(
            found.points["60x"].retrain.epochs, CONFIG["retrain"]["epochs"]
        )
        self.assertEqual(found.points["60x"].admm.rho, CONFIG["admm"]["rho"])
        self.assertEqual(found.points["60x"].by, "admm")

    def test_settings_are_those_of_the_way(self):
        found = recipe()
        self.assertEqual(found.way("100x"), ["60x", "100x"])
        self.assertNotIn("way", found.settings())
        before = found.settings("60x"), found.settings("100x")
        points = copy.deepcopy(CONFIG["points"])
        points["100x"]["keep"]["stem"] = [47, None]
        after = recipe(points=points)
        self.assertEqual(after.settings("60x"), before[0])
        self.assertNotEqual(after.settings("100x"), before[1])
        dense = recipe(dense=CONFIG["dense"] | {"epochs": 1})
        self.assertNotEqual(dense.settings("60x"), before[0])

    def test_what_recipes_can_say_since_changes_no_settings(self):
        found = recipe()
        told = found.settings("60x")
        self.assertNotIn("flips", told)
        self.assertNotIn("hole", told["dense"])
        self.assertNotIn("lowering", told)
        self.assertNotIn("dropout", told["way"][0]["retrain"])
        changed = recipe(flips=False, dense=CONFIG["dense"] | {"hole": 3})
        self.assertFalse(changed.settings()["flips"])
        self.assertEqual(changed.settings()["dense"]["hole"], 3)
        self.assertEqual(recipe(dataset="other").settings("60x"), told)
        changed = recipe(lowering="none")
        self.assertEqual(changed.settings("60x")["lowering"], "none")
        self.assertEqual(changed.settings(), found.settings())

    def test_quick(self):
        found = recipe().quick()
        self.assertEqual(list(found.points), ["20x"])
        point = found.points["20x"]
        self.assertEqual(point.keep["stage3_*_conv[12]"], [16, 38])
        self.assertEqual(point.keep["stem"], [8, None])
        self.assertEqual(found.width, 8)
        self.assertEqual(point.admm.epochs, 1)

    @parameterized.parameters(
        ({"network": "vgg"}, "network among.*vgg"),
        ({"network": "lenet5"}, "takes its width.*lenet5"),
        ({"precision": "mixed_float16"}, "'mixed_bfloat16'.*'mixed_float16'"),
        ({"points": {"dense": {"after": "dense", "keep": {}}}}, "folders"),
        (
            {"points": {"b": {"after": "dense", "keep": {}, "admm": None}}},
            "without 'admm'.*'b'",
        ),
        (
            {"distillation": {"weight": 0.5, "temperature": 2, "views": 0}},
            "Distillation.*'views': 0",
        ),
        (
            {"distillation": {"weight": 3, "temperature": 0, "views": 2}},
            "'weight': 3, 'temperature': 0",
        ),
        (
            {"dense": {"epochs": 0, "rate": 0.1, "weight_decay": -1}},
            "Training.*'epochs': 0, 'weight_decay': -1",
        ),
        ({"admm": CONFIG["admm"] | {"rho": 0}}, "Admm.*'rho': 0"),
        ({"retrain": None}, "'retrain'.*'60x'"),
        (
            {"options": {"width": 3, "color": 1}},
            r"options.*\['color', 'width'\]",
        ),
        (
            {"margin": -1, "batch_size": 0},
            r"numbers.*\['batch_size', 'margin'\]",
        ),
        ({"top": 0}, "'top'"),
        ({"lowering": "most"}, "'lowering': 'most'"),
        ({"average": 0.5}, "average.*0.5"),
        ({"again": CONFIG["dense"], "average": 1.5}, "average.*1.5"),
        (
            {
                "network": "alexnet",
                "points": {
                    "b": {"after": "dense", "by": "elsewhere", "keep": {}}
                },
            },
            "without 'widths'",
        ),
        ({"points": {"b": {"after": "a", "keep": {}}}}, "stands before.*'a'"),
        (
            {"points": {"b": {"after": "dense", "keep": {}, "by": "luck"}}},
            "'magnitude'.*'luck'",
        ),
    )
    def test_names_that_do_not_fit(self, changes, message):
        with self.assertRaisesRegex(ValueError, message):
            recipe(**changes)

    @parameterized.parameters(
        ("{", "no recipe"),
        ("{}", "no recipe.*points"),
        (json.dumps(CONFIG | {"color": 1}), "no recipe.*color"),
        (json.dumps(CONFIG | {"points": []}), "no recipe.*items"),
    )
    def test_a_file_that_is_no_recipe(self, text, message):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "recipe.json")
            path.write_text(text)
            with self.assertRaisesRegex(SystemExit, message):
                PhaseRecipe.load(path)


if __name__ == "__main__":
    absltest.main()
