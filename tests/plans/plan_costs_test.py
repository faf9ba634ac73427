"""What a plan says of the model that it will leave."""

import importlib.util
import json
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized

import keras_prm
from keras_prm.plans.plan import SparsityPlan
from tests.helpers import zoo


def lenet5():
    return SparsityPlan.uniform(zoo.make("lenet5"), filters=0.5)


class PlanCostsTest(parameterized.TestCase):
    def test_by_hand(self):
        found = lenet5().costs()
        conv = 5 * 5 * 1 * 10 + 5 * 5 * 10 * 25
        dense = 4 * 4 * 25 * 250 + 250 * 10
        parameters = conv + 10 + 25 + dense + 250 + 10
        macs = 24 * 24 * 5 * 5 * 10 + 8 * 8 * 5 * 5 * 10 * 25 + dense
        self.assertEqual(
            found.pruned,
            {
                "parameters": parameters,
                "macs": macs,
                "conv_weights": conv,
                "float32_bytes": 4 * parameters,
            },
        )
        self.assertEqual(found.dense["parameters"], 431080)
        self.assertEqual(found.shares["parameters"], parameters / 431080)
        self.assertEqual(
            found.groups,
            (("conv1", 10, 20), ("conv2", 25, 50), ("fc1", 250, 500)),
        )
        self.assertTrue(found.is_exact)

    def test_text_and_json(self):
        found = lenet5().costs()
        text = str(found)
        self.assertIn("431,080", text)
        self.assertRegex(text, r"dense +pruned +share\n")
        self.assertRegex(text, r"25\.\d%  parameters\n")
        config = json.loads(json.dumps(found.to_dict()))
        self.assertEqual(config["pruned"], found.pruned)
        self.assertEqual(config["measured"], {})

    def test_draws(self):
        if importlib.util.find_spec("matplotlib") is None:
            self.skipTest("matplotlib is not installed")
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "costs.png"
            lenet5().costs().draw(path)
            self.assertGreater(path.stat().st_size, 1000)

    def test_plans_that_cannot_tell(self):
        config = lenet5().get_config()
        config.pop("costs")
        plan = SparsityPlan.from_config(config)
        for unknowing in (plan, plan.at_share(0.5), SparsityPlan((), (), ())):
            with self.assertRaisesRegex(ValueError, "Make it anew"):
                unknowing.costs()
        self.assertNotIn("costs", plan.get_config())
        self.assertEqual(plan, lenet5())
        self.assertEqual(plan.digest(), lenet5().digest())

    def test_survives_a_file_and_other_names(self):
        model = zoo.make("lenet5")
        plan = SparsityPlan.uniform(model, filters=0.5)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "plan.json"
            plan.save(path)
            again = SparsityPlan.load(path)
        self.assertEqual(again.costs(), plan.costs())
        keras_prm.hard_prune(model, again)

    def test_milder_plans_cost_more(self):
        plan = lenet5()
        shares = [
            plan.at_share(share).costs().shares["parameters"]
            for share in (1.0, 0.5, 0.0)
        ]
        self.assertEqual(shares, sorted(shares))
        self.assertEqual(shares[-1], 1.0)

    def test_other_numbers_to_keep(self):
        plan = lenet5().with_kept([20, 25, 500])
        self.assertEqual([g.keep for g in plan.groups], [20, 25, 500])
        self.assertEqual(plan.kernels, lenet5().kernels)
        for first in (0, 21, 1.5, True):
            with self.assertRaisesRegex(ValueError, "one whole number per"):
                lenet5().with_kept([first, 1, 1])
        with self.assertRaisesRegex(ValueError, "one whole number per"):
            lenet5().with_kept([20, 25])
        noted = plan.with_notes(["why", "", ""])
        self.assertEqual([g.note for g in noted.groups], ["why", "", ""])
        self.assertEqual(noted.digest(), plan.digest())


if __name__ == "__main__":
    absltest.main()
