import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import ops

from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.admm.rho_schedules import ResidualBalancing
from keras_prm.admm.rho_schedules import RhoStages
from keras_prm.pruning.hard_prune import hard_prune
from tests.helpers.training import build
from tests.helpers.training import functional
from tests.helpers.training import make_plan
from tests.helpers.training import train
from tests.helpers.training import wrapper

schedules = keras.optimizers.schedules


class RhoStagesTest(parameterized.TestCase):
    def test_stages(self):
        rho = RhoStages(10, (0.1, 0.2, 0.4))
        found = [float(rho(step)) for step in (0, 9, 10, 19, 20, 25, 900)]
        expected = [0.1, 0.1, 0.2, 0.2, 0.4, 0.4, 0.4]
        np.testing.assert_allclose(found, expected, rtol=1e-6)

    def test_the_papers_are_the_default(self):
        self.assertEqual(RhoStages(5).values, [1e-4, 1e-3, 1e-2, 1e-1])

    def test_each_stage_starts_afresh(self):
        """8 steps an epoch: the second stage begins at step 8, with u = 0."""
        model = build(rho=RhoStages(8, (0.1, 0.5)), update_every=4)
        optimizer = model.optimizer
        self.assertEqual(optimizer.rho_change, "restart")
        train(model, 1)
        self.assertAlmostEqual(optimizer.current_rho, 0.5, places=6)
        for target, mask in zip(
            optimizer._admm.targets, optimizer.masks().values()
        ):
            dual = ops.convert_to_numpy(target)[~mask.full()]
            np.testing.assert_array_equal(dual, 0)

    @parameterized.parameters(((0.1, 0.1),), ((0.1, 0.2, 0.2),))
    def test_equal_neighbors_are_two_stages(self, values):
        """The last of them begins with the last update, and with u = 0."""
        steps = 8 // (len(values) - 1)
        model = build(rho=RhoStages(steps, values), update_every=2)
        train(model, 1)
        for target, mask in zip(
            model.optimizer._admm.targets, model.optimizer.masks().values()
        ):
            dual = ops.convert_to_numpy(target)[~mask.full()]
            np.testing.assert_array_equal(dual, 0)

    def test_the_last_stage_has_no_end(self):
        """Steps after its own go on with u."""
        model = build(rho=RhoStages(4, (0.1, 0.1)), update_every=2)
        train(model, 1)
        target, mask = (
            model.optimizer._admm.targets[0],
            model.optimizer.masks()["first/kernel"],
        )
        self.assertTrue(np.any(ops.convert_to_numpy(target)[~mask.full()]))

    def test_stages_that_no_update_falls_into(self):
        with self.assertWarnsRegex(UserWarning, "several times `update_every`"):
            wrapper(functional(), rho=RhoStages(5), update_every=6)

    def test_round_trip(self):
        optimizer = wrapper(functional(), rho=RhoStages(7, [0.1, 0.3]))
        copy = keras.optimizers.deserialize(
            keras.optimizers.serialize(optimizer)
        )
        self.assertEqual(copy.rho.values, [0.1, 0.3])
        self.assertEqual(copy.rho.steps_per_stage, 7)
        self.assertEqual(copy.rho_change, "restart")

    @parameterized.parameters(
        (0, [0.1], "the steps of ten epochs"),
        (1.5, [0.1], "the steps of ten epochs"),
        (10, [], r"`values=\(1e-3, 1e-2\)`"),
        (10, [0.1, -1.0], "finite and at least 0.*`rho=1e-2`"),
    )
    def test_refuses(self, steps, values, message):
        with self.assertRaisesRegex(ValueError, message):
            RhoStages(steps, values)


class ResidualBalancingTest(parameterized.TestCase):
    @parameterized.parameters(
        (1.0, 0.05, 0.2),  # primal 20 times the dual: up
        (1.0, 0.5, 0.1),
        (0.05, 1.0, 0.05),
        (0.0, 0.0, 0.1),
    )
    def test_next(self, primal, dual, expected):
        rule = ResidualBalancing(0.1)
        args = [
            ops.convert_to_tensor(v, "float32") for v in (0.1, primal, dual)
        ]
        self.assertAlmostEqual(float(rule.next(*args)), expected, places=6)

    def test_bounds(self):
        rule = ResidualBalancing(0.9, minimum=0.8, maximum=1.0)
        one, zero = ops.ones(()), ops.zeros(())
        rho = ops.convert_to_tensor(0.9, "float32")
        self.assertAlmostEqual(float(rule.next(rho, one, zero)), 1.0)
        self.assertAlmostEqual(float(rule.next(rho, zero, one)), 0.8, places=6)

    def test_trains(self):
        """From far too small a rho it rises, and the residuals meet."""
        rule = ResidualBalancing(1e-4, factor=3.0, maximum=10.0)
        model = build(inner=keras.optimizers.SGD(0.1), rho=rule)
        fixed = build(inner=keras.optimizers.SGD(0.1), rho=1e-4)
        rng = np.random.default_rng(0)
        start = [0.5 * rng.normal(size=w.shape) for w in model.weights]
        for each in (model, fixed):
            each.set_weights(start)  # the same on every backend
            train(each, 15)
        self.assertGreater(model.optimizer.current_rho, 1e-2)

        def totals(optimizer):
            rows = optimizer.residuals().values()
            return [sum(r[kind] for r in rows) for kind in ("primal", "dual")]

        primal, dual = totals(model.optimizer)
        other_primal, other_dual = totals(fixed.optimizer)
        self.assertLess(primal, 0.5 * other_primal)
        self.assertLess(primal, 10 * dual)
        self.assertGreater(other_primal, 1000 * other_dual)

    def test_round_trip(self):
        optimizer = wrapper(functional(), rho=ResidualBalancing(0.1, 3.0))
        copy = keras.optimizers.deserialize(
            keras.optimizers.serialize(optimizer)
        )
        self.assertEqual(vars(copy.rho), vars(optimizer.rho))
        self.assertIn("initial=0.1, factor=3.0", repr(copy.rho))

    @parameterized.parameters(
        ({"initial": 0.0}, "Widen the bounds"),
        ({"initial": 2.0}, "Widen the bounds"),
        ({"minimum": -1.0}, "finite and at least 0"),
        ({"factor": 1.0}, "`factor=2.0, threshold=10.0`"),
        ({"threshold": np.nan}, "`factor=2.0, threshold=10.0`"),
    )
    def test_refuses(self, arguments, message):
        with self.assertRaisesRegex(ValueError, message):
            ResidualBalancing(**arguments)

    @parameterized.parameters("factor", "threshold", "initial")
    def test_what_is_no_number(self, name):
        with self.assertRaisesRegex(TypeError, "='a'"):
            ResidualBalancing(**{name: "a"})

    def test_goes_on_with_the_dual(self):
        with self.assertRaisesRegex(ValueError, "Leave `rho_change` out"):
            wrapper(functional(), rho=ResidualBalancing(), rho_change="restart")


class SetRhoTest(parameterized.TestCase):
    def test_holds_from_the_next_update_on(self):
        model = build(rho=0.1, update_every=5)
        train(model)
        self.assertEqual(model.optimizer.rho, 0.1)
        model.optimizer.rho = 0.25
        self.assertEqual(model.optimizer.rho, 0.25)
        self.assertAlmostEqual(model.optimizer.current_rho, 0.1, places=6)
        train(model)
        self.assertAlmostEqual(model.optimizer.current_rho, 0.25, places=6)
        self.assertEqual(model.optimizer.get_config()["rho"], 0.25)

    def test_before_it_is_built(self):
        optimizer = wrapper(functional())
        optimizer.rho = 0.5
        optimizer.build(functional().trainable_variables)
        self.assertEqual(optimizer.current_rho, 0.5)

    def test_refuses(self):
        optimizer = wrapper(functional())
        with self.assertRaisesRegex(ValueError, "at least 0.*`rho=1e-2`"):
            optimizer.rho = -1.0
        with self.assertRaisesRegex(TypeError, "`rho=1e-2`"):
            optimizer.rho = schedules.PolynomialDecay(0.1, 10, 0.5)
        optimizer = wrapper(functional(), rho=RhoStages(10))
        with self.assertRaisesRegex(TypeError, "with a float `rho`"):
            optimizer.rho = 0.1


class ScheduleTest(parameterized.TestCase):
    def test_below_zero_is_zero(self):
        rho = schedules.PolynomialDecay(0.1, 10, -0.1)
        model = build(rho=rho, update_every=4)
        train(model, 2)
        self.assertEqual(model.optimizer.current_rho, 0.0)


class RampTest(parameterized.TestCase):
    @parameterized.parameters((1, 0.5), (3, 0.875))
    def test_grows_to_the_plan(self, power, half_way):
        """4 of 8 filters shall go; after half of the steps 2, or 3.5."""
        ramp = schedules.PolynomialDecay(0.0, 16, 1.0, power=power)
        model = build(ramp=ramp, update_every=2)
        optimizer = model.optimizer
        optimizer.build(model.trainable_variables)
        self.assertEqual(optimizer.channels.sum(), 8)
        self.assertEqual(optimizer.current_share, 0.0)
        train(model)
        self.assertAlmostEqual(optimizer.current_share, half_way, places=6)
        self.assertEqual(optimizer.channels.sum(), 8 - int(4 * half_way))
        self.assertFalse(optimizer.settled)
        train(model)
        self.assertEqual(optimizer.channels.sum(), 4)
        self.assertTrue(optimizer.settled)

    def test_hard_prune_before_the_end_of_the_ramp(self):
        ramp = schedules.PolynomialDecay(0.0, 16, 1.0)
        model = build(ramp=ramp, update_every=2)
        train(model)
        with self.assertWarnsRegex(UserWarning, "Train to the end of the ramp"):
            masks = hard_prune(model, model.optimizer.plan)
        self.assertEqual(masks.kernels["first/kernel"].filters.sum(), 4)

    def test_round_trip(self):
        ramp = schedules.PolynomialDecay(0.0, 16, 1.0, power=3)
        copy = keras.optimizers.deserialize(
            keras.optimizers.serialize(wrapper(functional(), ramp=ramp))
        )
        self.assertEqual(copy.ramp.get_config(), ramp.get_config())

    @parameterized.parameters(
        (0.5, TypeError, "PolynomialDecay"),
        (schedules.PolynomialDecay(2.0, 5, 1.0), ValueError, "is the plan's"),
        (schedules.PolynomialDecay(0.0, 5, 100.0), ValueError, "end at 1.0"),
    )
    def test_refuses(self, ramp, error, message):
        with self.assertRaisesRegex(error, message):
            ADMMWrapper("sgd", make_plan(functional()), ramp=ramp)


if __name__ == "__main__":
    absltest.main()
