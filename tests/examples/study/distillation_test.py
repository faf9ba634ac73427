"""Tests of learning from the dense network."""

import numpy as np
from absl.testing import parameterized

from examples.common import image_data
from examples.common import networks
from examples.study import distillation
from tests.helpers import frontiers


class DistillationTest(parameterized.TestCase):
    def test_the_targets_are_what_the_teacher_says_of_the_crop(self):
        images = frontiers.split(40, 0)
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
