"""Which variables of an optimizer belong to which weight."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import optimizers

from keras_prm.training import optimizer_slots
from keras_prm.training.optimizer_slots import Slot

OWN = [Slot(None), Slot(None)]  # iterations and learning rate


def weights():
    """Of equal shapes, so that shapes alone do not tell."""
    with keras.name_scope("block"):
        return [
            keras.Variable(np.ones((3, 3)), name="kernel"),
            keras.Variable(np.ones((3, 3)), name="embeddings"),
            keras.Variable(1.0, name="factor"),
        ]


class SlotsTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("sgd", optimizers.SGD(), []),
        ("momentum", optimizers.SGD(momentum=0.9), [0, 1, 2]),
        ("adam", optimizers.Adam(), [0, 0, 1, 1, 2, 2]),
        # By name: only the first is Muon's own, without a velocity.
        ("muon", optimizers.Muon(), [0, 1, 1, 2, 2]),
        (
            "muon_by_path",
            optimizers.Muon(exclude_layers=["block/k"]),
            [0, 0, 1, 1, 2, 2],
        ),
    )
    def test_owners(self, optimizer, owners):
        self.assertEqual(
            optimizer_slots.layout(optimizer, weights()),
            OWN + [*map(Slot, owners)],
        )

    def test_averages(self):
        optimizer = optimizers.SGD(momentum=0.9, use_ema=True)
        like = [Slot(i, like_weight=True) for i in range(3)]
        momenta = [Slot(i) for i in range(3)]
        self.assertEqual(
            optimizer_slots.layout(optimizer, weights()), OWN + like + momenta
        )

    def test_what_starts_as_the_weight(self):
        found = optimizer_slots.layout(
            optimizers.ScheduleFreeAdamW(), weights()
        )
        self.assertEqual(
            found[2:4], [Slot(0, like_weight=True), Slot(0, like_weight=False)]
        )

    @parameterized.named_parameters(
        ("product_of_the_schedule", optimizers.Nadam(), 3),
        (
            "counter_and_scale",
            optimizers.LossScaleOptimizer(optimizers.Adam()),
            2 + 2 + 2,
        ),
    )
    def test_scalars_of_the_optimizer(self, optimizer, number):
        found = optimizer_slots.layout(optimizer, weights())
        self.assertLen([s for s in found if s.owner is None], number)
        self.assertLen([s for s in found if s.owner == 2], 2)

    def test_weights_are_not_touched(self):
        mine = weights()
        optimizer_slots.layout(optimizers.SGD(use_ema=True), mine)
        for weight in mine:
            self.assertEqual(keras.ops.convert_to_numpy(weight).max(), 1.0)

    def test_other_shapes(self):
        with self.assertRaisesRegex(ValueError, "Compile the smaller model"):
            optimizer_slots.layout(optimizers.Adafactor(), weights())

    def test_check(self):
        mine, optimizer = weights(), optimizers.SGD(momentum=0.9)
        optimizer.build(mine)
        found = optimizer_slots.layout(optimizers.SGD(momentum=0.9), mine)
        optimizer_slots.check_layout(found, optimizer.variables, mine, "sgd")
        with self.assertRaisesRegex(ValueError, "Set `trainable`"):
            optimizer_slots.check_layout(
                found, optimizer.variables[:-1], mine, "sgd"
            )


if __name__ == "__main__":
    absltest.main()
