"""Plans that meet a budget, and budgets that no plan meets."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

import keras_prm
from keras_prm.analysis.width_costs import NAMES
from keras_prm.budgets.allocations import uniform
from keras_prm.plans.plan import SparsityPlan
from tests.helpers import zoo

Budget = keras_prm.Budget
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
FEW = ("lenet5", "residual", "grouped", "nested")
MODELS = zoo.MODELS if ON_TENSORFLOW else FEW


def wide(seed=0):
    """Wide enough that widths can be chosen finely; one layer is small."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same", name="stem")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    y = layers.Conv2D(64, 1, activation="relu", name="a")(x)
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    x = layers.Add()([x, layers.Conv2D(16, 1, name="b")(y)])
    x = layers.Conv2D(128, 3, activation="relu", name="c")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(10, name="out")(x))
    zoo.randomize(model, seed)
    return model


def free_size():
    inputs = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(8, 3, name="a")(inputs)
    return keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x))


def stripped(model, plan):
    keras_prm.hard_prune(model, plan)
    return keras_prm.costs(keras_prm.strip(model))


class ForBudgetTest(parameterized.TestCase):
    @parameterized.parameters(
        {"macs": 0.5},
        {"macs": 0.2},
        {"parameters": 0.3},
        {"conv_weights": 0.1},
        {"parameters": 9_000},
        {"macs": 0.6, "parameters": 0.3},
    )
    def test_is_met_and_used(self, **bounds):
        model = wide()
        dense = keras_prm.costs(model)
        plan = SparsityPlan.for_budget(model, Budget(**bounds), round_to=1)
        found = stripped(model, plan)
        usage = []
        for name, bound in bounds.items():
            whole = getattr(dense, name)
            bound = bound * whole if bound <= 1 else bound
            self.assertLessEqual(getattr(found, name), bound)
            usage.append(getattr(found, name) / bound)
            self.assertEqual(plan.costs().pruned[name], getattr(found, name))
        self.assertGreaterEqual(max(usage), 0.97)

    @parameterized.parameters(*MODELS)
    def test_never_exceeded(self, name):
        model = zoo.make(name)
        dense = keras_prm.costs(model)
        kind = "parameters" if dense.macs_note else "macs"
        budget = Budget(**{kind: 0.6})
        try:
            plan = SparsityPlan.for_budget(model, budget)
        except ValueError as error:
            self.assertRegex(str(error), "least that can be")
            return
        found = stripped(model, plan)
        if plan.width_costs.exact:
            bound = 0.6 * getattr(dense, kind)
            self.assertLessEqual(getattr(found, kind), bound)
            self.assertEqual(plan.costs().pruned[kind], getattr(found, kind))

    def test_uniform_is_uniform(self):
        """But for the steps of 4 channels it is rounded to.

        With steps of 8 only 95 % of the budget could be used.
        """
        plan = SparsityPlan.for_budget(wide(), Budget(macs=0.5))
        shares = [group.keep / group.size for group in plan.groups]
        self.assertLess(max(shares) - min(shares), 0.15)
        self.assertEqual([group.keep % 4 for group in plan.groups], [0] * 3)
        self.assertBetween(plan.costs().shares["macs"], 0.97 * 0.5, 0.5)

    def test_widths_are_round_where_that_uses_the_budget(self):
        plan = SparsityPlan.for_budget(wide(), Budget(macs=0.45))
        for group in plan.groups:
            step = 4 if group.size < 32 else 8
            self.assertEqual(group.keep % step, 0)

    def test_all_of_it(self):
        with self.assertWarnsRegex(UserWarning, "Ask for less") as caught:
            plan = SparsityPlan.for_budget(wide(), Budget(macs=1.0))
        self.assertEqual(caught.filename, __file__)
        self.assertEqual([g.keep for g in plan.groups], [64, 16, 128])
        self.assertEqual(plan.costs().shares["macs"], 1.0)

    def test_is_an_ordinary_plan(self):
        model = wide()
        plan = SparsityPlan.for_budget(model, Budget(macs=0.5))
        again = SparsityPlan.from_config(plan.get_config())
        self.assertEqual(plan, again)
        self.assertEqual(plan.digest(), again.digest())
        kept = {g.name.split("+")[0]: (g.keep, None) for g in plan.groups}
        same = SparsityPlan.keep(model, kept)
        self.assertEqual(
            [g.keep for g in same.groups], [g.keep for g in plan.groups]
        )
        self.assertEqual(
            plan.digest(),
            SparsityPlan.uniform(model, 0.5)
            .with_kept([g.keep for g in plan.groups])
            .digest(),
        )

    def test_a_cost_that_there_is_not(self):
        inputs = keras.Input((6,))
        x = layers.Dense(32, name="a")(inputs)
        model = keras.Model(inputs, layers.Dense(2, name="out")(x))
        budget = Budget(conv_weights=0.5, macs=0.5)
        plan = SparsityPlan.for_budget(model, budget, round_to=1)
        self.assertEqual([g.keep for g in plan.groups], [16])
        with self.assertWarnsRegex(UserWarning, "'conv_weights': 0}"):
            plan = SparsityPlan.for_budget(model, Budget(conv_weights=0.5))
        self.assertEqual([g.keep for g in plan.groups], [32])

    def test_channels_that_differ_are_told_apart(self):
        """Of the stream of `a` half goes on beside `b`, as a stream of 32."""
        inputs = keras.Input((16, 16, 3))
        x = layers.Conv2D(16, 3, padding="same", name="a")(inputs)
        for name in ("a1", "a2"):
            y = layers.Conv2D(16, 3, padding="same", name=name)(x)
            x = layers.Add()([x, layers.ReLU()(y)])
        y = layers.Conv2D(16, 3, strides=2, padding="same", name="b")(x)
        x = layers.Concatenate()([layers.MaxPooling2D()(x), y])
        y = layers.Conv2D(32, 3, padding="same", name="b1")(x)
        x = layers.GlobalAveragePooling2D()(layers.Add()([x, y]))
        model = keras.Model(inputs, layers.Dense(4, name="out")(x))
        zoo.randomize(model)
        for bounds in ({"macs": 0.5}, {"parameters": 0.3}):
            model = keras.models.clone_model(model)
            zoo.randomize(model)
            budget = Budget(**bounds)
            plan = SparsityPlan.for_budget(model, budget, round_to=1)
            self.assertEqual(
                [(g.name, g.size) for g in plan.groups],
                [("b+b1", 16), ("a+a1+a2+b1", 16)],
            )
            self.assertTrue(plan.width_costs.exact)
            found = stripped(model, plan)
            for name in ("macs", "parameters"):
                said = plan.costs().pruned[name]
                self.assertEqual(said, getattr(found, name))
        uniform_plan = SparsityPlan.uniform(model, filters=0.5)
        self.assertLen(uniform_plan.groups, 1)
        self.assertFalse(uniform_plan.width_costs.exact)

    def test_columns_share_the_budget(self):
        budget = Budget(parameters=0.4)
        plan = SparsityPlan.for_budget(wide(), budget, columns=0.5)
        without = SparsityPlan.for_budget(wide(), budget)
        self.assertLessEqual(plan.costs().shares["parameters"], 0.4)
        for one, other in zip(plan.groups, without.groups):
            self.assertGreaterEqual(one.keep, other.keep)
        self.assertEqual({k.columns for k in plan.kernels} - {0.0}, {0.5})

    def test_excluded_layers_stay(self):
        plan = SparsityPlan.for_budget(wide(), Budget(macs=0.6), exclude=["a"])
        self.assertNotIn("a", [g.name for g in plan.groups])
        self.assertLessEqual(plan.costs().shares["macs"], 0.6)

    def test_floors(self):
        plan = SparsityPlan.for_budget(
            wide(), Budget(macs=0.2), floor=4, round_to=1
        )
        self.assertGreaterEqual(min(g.keep for g in plan.groups), 4)

    def test_what_cannot_be_taken_out_is_left(self):
        inputs = keras.Input((8, 8, 2))
        x = layers.Conv2D(8, 3, activation="sigmoid", name="a")(inputs)
        frozen = layers.Conv2D(6, 3, padding="same", trainable=False)
        x = layers.Conv2D(40, 1, name="c")(frozen(x))
        model = keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x))
        plan = SparsityPlan.for_budget(model, Budget(macs=0.8), round_to=1)
        kept = {g.name: (g.keep, g.note) for g in plan.groups}
        self.assertEqual(kept["a"][0], 8)
        self.assertIn("could not take", kept["a"][1])
        self.assertLess(kept["c"][0], 40)
        said = plan.costs().pruned["macs"]
        self.assertEqual(stripped(model, plan).macs, said)

    def test_allocations_of_ones_own(self):
        def halves(problem):
            return problem.rounded(problem.sizes / 2)

        plan = SparsityPlan.for_budget(wide(), Budget(macs=0.5), halves)
        self.assertEqual([g.keep for g in plan.groups], [32, 8, 64])
        for allocation, message in (
            (lambda problem: problem.sizes, "problem.fits"),
            (lambda problem: problem.sizes * 0, "between the floors"),
            (lambda problem: [0.5], "whole numbers, one per"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                SparsityPlan.for_budget(wide(), Budget(macs=0.5), allocation)

    def test_the_problem_of_an_allocation(self):
        seen = []

        def spy(problem):
            seen.append(problem)
            return uniform(problem)

        budget = Budget(macs=0.5)
        evaluate = lambda model: 0.5  # noqa: E731
        SparsityPlan.for_budget(wide(), budget, spy, evaluate=evaluate)
        (problem,) = seen
        self.assertIs(problem.evidence.evaluate, evaluate)
        self.assertEqual(problem.levels[1].tolist(), [4, 8, 12, 16])
        self.assertEqual(problem.floors.tolist(), [8, 4, 8])
        self.assertEqual(len(problem.bounds), len(NAMES))
        self.assertTrue(problem.fits(problem.floors))
        self.assertFalse(problem.fits(problem.sizes))
        self.assertEqual(problem.next_level(1, 5), 8)
        self.assertIsNone(problem.next_level(1, 16))
        numbers = np.array([1, 9.9, 64])
        for up, expected in ((0, 8), (0.5, 8), (0.6, 12), (1, 12)):
            kept = problem.rounded(numbers, up)
            self.assertEqual(kept.tolist(), [8, expected, 64])


class RefusalTest(parameterized.TestCase):
    def refused(self, message, model=None, budget=None, **options):
        with self.assertRaisesRegex(ValueError, message):
            budget = budget or Budget(macs=0.5)
            SparsityPlan.for_budget(model or wide(), budget, **options)

    def test_no_budget(self):
        for budget in (0.5, None, {"macs": 0.5}, Budget):
            with self.assertRaisesRegex(TypeError, "be a `keras_prm.Budget`"):
                SparsityPlan.for_budget(wide(), budget)

    def test_below_what_is_pinned(self):
        self.refused(
            r"macs of at most .*\(0.10% of the dense model\), where the least",
            budget=Budget(macs=0.001),
        )
        self.refused("lower `floor`", budget=Budget(macs=0.3), floor=0.9)

    def test_says_which_binds(self):
        with self.assertRaises(ValueError) as caught:
            budget = Budget(macs=0.9, parameters=20)
            SparsityPlan.for_budget(wide(), budget)
        self.assertIn("parameters of at most 20 ", str(caught.exception))
        self.assertNotIn("macs of at most", str(caught.exception))

    def test_macs_of_a_free_size(self):
        self.refused(
            r"a shape without None.*'image': \(None, None, None, 3\)",
            free_size(),
        )
        budget = Budget(parameters=0.5)
        plan = SparsityPlan.for_budget(free_size(), budget)
        self.assertLessEqual(plan.costs().shares["parameters"], 0.5)

    @parameterized.parameters(0, -1, 1.5, True, "a", float("nan"))
    def test_floors(self, floor):
        self.refused("what each group of filters keeps at least", floor=floor)

    def test_other_arguments(self):
        self.refused("no such allocation", allocation="best")
        self.refused("does not look at", evaluate=lambda model: 1.0)
        self.refused("positive integer", round_to=0)
        self.refused("called .*'nobody'", exclude=["nobody"])
        self.refused("0.5 removes half", columns=1.0)


if __name__ == "__main__":
    absltest.main()
