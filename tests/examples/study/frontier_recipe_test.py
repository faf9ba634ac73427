"""Tests of recipes: points, chains, what they refuse."""

import numpy as np
from absl.testing import parameterized

import keras_prm
from examples.common import networks
from examples.study.frontier_recipe import FrontierRecipe
from tests.helpers import frontiers
from tests.helpers import zoo

RECIPES = [
    (path.stem, path) for path in frontiers.RECIPES.glob("lenet5_*.json")
]


class RecipesTest(parameterized.TestCase):
    @parameterized.named_parameters(*RECIPES)
    def test_a_point_keeps_what_it_says(self, path):
        found = FrontierRecipe.load(path)
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
                zoo.randomize(model)

    @parameterized.named_parameters(*RECIPES)
    def test_widths_store_about_as_much_as_the_point(self, path):
        found = FrontierRecipe.load(path)
        for point in found.widths:
            stored = []
            for filters_only in (False, True):
                model = networks.NETWORKS[found.network]((28, 28, 1), 10)
                plan = found.plan(model, found.kept(point, filters_only))
                keras_prm.hard_prune(model, plan)
                small = keras_prm.strip(model, lowering="fewest_parameters")
                stored.append(keras_prm.costs(small).parameters)
            self.assertBetween(stored[1] / stored[0], 0.95, 1.05, point)

    def test_chains(self):
        found = frontiers.recipe()
        self.assertEqual(found.before("quarter"), ["half"])
        self.assertEqual(found.before("half"), [])
        self.assertEqual(found.epochs_to("half"), 2 + 2)
        self.assertEqual(found.epochs_to("quarter"), 2 + 2 * 2)
        found = frontiers.recipe(long_retraining={"half": 5})
        self.assertEqual(found.retraining("half"), 5)
        self.assertEqual(found.retraining("quarter"), 1)
        self.assertEqual(found.epochs_to("half"), 2 + 1 + 5)
        self.assertEqual(found.epochs_to("quarter"), 2 + 1 + 5 + 2)

    def test_a_file_that_is_no_recipe(self):
        with self.assertRaisesRegex(SystemExit, "no recipe"):
            FrontierRecipe.load(__file__)

    @parameterized.parameters(
        ({"network": "lenet6"}, "network among"),
        ({"chains": [["half"]]}, "every point in one chain.*quarter"),
        ({"chains": [["half", "quarter", "half"]]}, "twice.*half"),
        ({"shipped": ["third"]}, "third"),
        ({"long_retraining": {"third": 5}}, "third"),
    )
    def test_names_that_do_not_fit(self, changes, message):
        with self.assertRaisesRegex(ValueError, message):
            frontiers.recipe(**changes)

    def test_a_chain_cannot_widen_a_layer(self):
        points = frontiers.recipe().points | {"third": {"conv2": [2, 9]}}
        points["fourth"] = {"conv1": [3, 9]}  # of which "quarter" left 2
        with self.assertRaisesRegex(ValueError, "3 in conv1.*2 are left"):
            frontiers.recipe(
                points=points, chains=[["half", "quarter", "third", "fourth"]]
            )
        with self.assertRaisesRegex(ValueError, "7 in conv1.*6 are left"):
            frontiers.recipe(
                points={"half": {"conv1": [7, 9]}}, chains=[["half"]]
            )

    def test_quick(self):
        found = frontiers.recipe().quick()
        self.assertEqual(list(found.points), ["half"])
        self.assertEqual(found.epochs_to("half"), 4)
        apart = frontiers.recipe(
            chains=[["half"], ["quarter"]], long_retraining={"half": 5}
        )
        self.assertEqual(apart.quick().chains, apart.chains)
        self.assertEqual(apart.quick().epochs_to("half"), 4)
