import keras
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.plans.plan import SparsityPlan
from keras_prm.training.retrain_schedule import retrain_schedule
from tests.helpers.training import functional


def rates(schedule, *steps):
    return [float(schedule(step)) for step in steps]


class RetrainScheduleTest(parameterized.TestCase):
    def test_rises_and_falls_along_a_cosine(self):
        found = rates(retrain_schedule(0.1, 200), 0, 5, 10, 105, 200)
        for rate, expected in zip(found, (0.0, 0.05, 0.1, 0.05, 0.0)):
            self.assertAlmostEqual(rate, expected, places=6)

    def test_without_a_rise(self):
        schedule = retrain_schedule(0.1, 100, share=0.5, warmup=0.0)
        for rate, expected in zip(
            rates(schedule, 0, 50, 100), (0.05, 0.025, 0)
        ):
            self.assertAlmostEqual(rate, expected, places=6)

    def test_begins_with_the_highest_rate_of_the_training_before(self):
        cosine = keras.optimizers.schedules.CosineDecay(
            0.0, 50, 0.0, "c", 0.2, 9
        )
        model = functional()
        plan = SparsityPlan.uniform(model, filters=0.5)
        spent = keras.optimizers.SGD(cosine)
        spent.build(model.trainable_variables)
        spent.iterations.assign(59)  # the rate is 0 now
        cases = (
            (keras.optimizers.Adam(0.2), 0.2),
            (ADMMWrapper(keras.optimizers.Adam(0.2), plan), 0.2),
            (
                keras.optimizers.LossScaleOptimizer(
                    ADMMWrapper(keras.optimizers.SGD(0.2), plan)
                ),
                0.2,
            ),
            (spent, 0.2),
            (cosine, 0.2),
        )
        for optimizer, peak in cases:
            schedule = retrain_schedule(optimizer, 100, warmup=0.0)
            self.assertAlmostEqual(float(schedule(0)), peak, delta=0.005)

    def test_what_is_none(self):
        with self.assertRaisesRegex(TypeError, "Pass, for example"):
            retrain_schedule("adam", 10)
        with self.assertRaisesRegex(ValueError, "such as `1e-3`"):
            retrain_schedule(0.0, 10)
        with self.assertRaisesRegex(ValueError, "epochs times the steps"):
            retrain_schedule(0.1, 0)
        with self.assertRaisesRegex(ValueError, r"part, in \(0, 1\]"):
            retrain_schedule(0.1, 10, share=0.0)
        with self.assertRaisesRegex(ValueError, r"part, in \[0, 1\)"):
            retrain_schedule(0.1, 10, warmup=1.0)


if __name__ == "__main__":
    absltest.main()
