import json
import os
import tempfile

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.analysis.costs import costs
from keras_prm.budgets.budget import Budget
from keras_prm.plans.plan import SparsityPlan
from keras_prm.plans.projections import project_plan
from keras_prm.plans.shared_budget import SharedBudget
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.rebuild.strip import strip
from tests.helpers.training import values


def network():
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((8, 8, 2))
    for name, filters in (("conv1", 12), ("conv2", 16), ("conv3", 20)):
        x = layers.Conv2D(filters, 3, padding="same", name=name)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(5, name="logits")(x))


def learned(model, round_to=1, **bounds):
    return SparsityPlan.for_budget(
        model, Budget(**bounds), allocation="learned", round_to=round_to
    )


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 8, 8, 2)).astype("float32")
    return x, rng.normal(size=(64, 5)).astype("float32")


def kept_of(plan, channels):
    channels = keras.ops.convert_to_numpy(channels)
    return [
        int(channels[g.start : g.start + g.size].sum()) for g in plan.groups
    ]


def project(plan, model, share=1.0):
    kernels = [model.trainable_variables[k.index] for k in plan.kernels]
    return kept_of(plan, project_plan(kernels, plan, share)[0])


class SharedBudgetTest(parameterized.TestCase):
    def test_every_group_keeps_the_same_share_of_its_energy(self):
        """Shares by hand, of two groups that cost as much for a channel."""
        model = network()
        plan = learned(model, parameters=0.5)
        rng = np.random.default_rng(0)
        scores = rng.exponential(size=plan.num_classes).astype("float32")
        channels = plan.shared.pick(keras.ops.array(scores), plan, 1.0)
        kept = kept_of(plan, channels)
        low, high = [], []
        for group, number in zip(plan.groups, kept):
            own = scores[group.start : group.start + group.size]
            held = np.cumsum(np.sort(own)[::-1]) / own.sum()
            low.append(held[number - 2] if number > 1 else 0.0)
            high.append(held[number - 1])
            best = np.argsort(-own)[:number] + group.start
            picked = keras.ops.convert_to_numpy(channels)
            self.assertTrue(picked[best].all())
        # One share lies above what one channel less holds, for all groups,
        # and not above what is held.
        self.assertLess(max(low), min(high))
        bound = plan.shared.bounds[0]
        self.assertLessEqual(plan.width_costs.evaluate(kept)[0], bound)

    def test_where_energy_lies_in_few_channels_few_stay(self):
        model = network()
        plan = learned(model, macs=0.4)
        before = project(plan, model)
        kernel = model.get_layer("conv2").kernel
        kernel.assign(kernel * ([1.0] * 3 + [0.05] * 13))
        norm = model.get_layer("conv3").kernel
        factors = np.array([1.0] * 3 + [0.05] * 13)[:, None]
        norm.assign(norm * factors)
        after = project(plan, model)
        self.assertLess(after[1], before[1])
        self.assertGreater(after[0] + after[2], before[0] + before[2])

    @parameterized.product(
        bounds=[{"macs": 0.3}, {"parameters": 0.2, "macs": 0.5}],
        round_to=[1, 4],
        share=[1.0, 0.5, 0.0],
    )
    def test_keeps_to_the_bounds(self, bounds, round_to, share):
        model = network()
        plan = learned(model, round_to, **bounds)
        kept = project(plan, model, share)
        found = plan.width_costs.evaluate(np.array(kept, float))
        for i, bound in plan.shared.bounds.items():
            dense = plan.width_costs.dense[i]
            limit = dense + share * (bound - dense)
            self.assertLessEqual(found[i], limit)
        if share == 0:
            self.assertEqual(kept, [g.size for g in plan.groups])
        for number, levels in zip(kept, plan.shared.levels):
            self.assertIn(number, levels)

    def test_a_share_of_the_plan(self):
        model = network()
        plan = learned(model, macs=0.3)
        self.assertEqual(plan.at_share(1.0), plan)
        half = project(plan.at_share(0.5), model)
        self.assertEqual(half, project(plan, model, share=0.5))

    def test_a_kernel_of_zeros(self):
        model = network()
        plan = learned(model, macs=0.3)
        for variable in model.trainable_variables:
            variable.assign(0 * variable)
        kept = project(plan, model)
        self.assertTrue(all(number >= 1 for number in kept))

    def test_survives_json(self):
        plan = learned(network(), macs=0.3)
        config = json.loads(json.dumps(plan.get_config()))
        again = SparsityPlan.from_config(config)
        self.assertEqual(again, plan)
        self.assertEqual(again.digest(), plan.digest())
        fixed = plan.with_shared(None)
        self.assertNotEqual(fixed.digest(), plan.digest())
        self.assertNotEqual(fixed, plan)
        self.assertIsInstance(again.shared, SharedBudget)

    def test_says_that_widths_are_open(self):
        plan = learned(network(), macs=0.3)
        self.assertIn("ADMM chooses them", str(plan))
        self.assertNotIn("ADMM chooses", str(plan.with_shared(None)))

    def test_what_has_to_be_measured_is_refused(self):
        with self.assertRaisesRegex(ValueError, "take another allocation"):
            learned(network(), latency=0.5)


class TrainingTest(parameterized.TestCase):
    def test_admm_chooses_and_strip_meets_the_budget(self):
        model = network()
        plan = learned(model, macs=0.3)
        dense = costs(model).macs
        optimizer = ADMMWrapper(keras.optimizers.Adam(3e-3), plan, steps=60)
        model.compile(optimizer, "mse")
        model.fit(*data(), 16, 15, verbose=0)
        self.assertTrue(optimizer.converged)
        self.assertIn("ADMM chooses", str(plan.costs()))
        chosen = optimizer.chosen_plan()
        self.assertNotIn("ADMM chooses", str(chosen.costs()))
        hard_prune(model, plan)
        small = costs(strip(model))
        self.assertEqual(chosen.costs().pruned["macs"], small.macs)
        used = small.macs / dense
        self.assertBetween(used, 0.97 * 0.3, 0.3)

    def test_saved_in_the_middle_it_goes_on_as_it_would_have(self):
        ends = []
        for stop in (False, True):
            model = network()
            plan = learned(model, macs=0.3)
            model.compile(ADMMWrapper("adam", plan, steps=48), "mse")
            x, y = data()
            model.fit(x, y, 16, 5, shuffle=False, verbose=0)
            if stop:
                with tempfile.TemporaryDirectory() as folder:
                    path = os.path.join(folder, "model.keras")
                    model.save(path)
                    model = keras.models.load_model(path)
            self.assertEqual(model.optimizer.plan, plan)
            model.fit(x, y, 16, 7, shuffle=False, verbose=0)
            ends.append(values(model.variables + model.optimizer.variables))
        for one, other in zip(*ends, strict=True):
            np.testing.assert_array_equal(one, other)


if __name__ == "__main__":
    absltest.main()
