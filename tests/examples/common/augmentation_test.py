"""Tests of crops and flips: what is drawn, and what the step makes of it."""

import dataclasses

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from examples.common import augmentation
from examples.common import image_bytes


def split(num=20, shape=(6, 5, 3)):
    rng = np.random.default_rng(0)
    return image_bytes.ByteSplit(
        rng.integers(0, 256, (num, *shape), dtype="uint8"),
        np.arange(num, dtype="int32") % 7,
    )


class CropAndFlipTest(parameterized.TestCase):
    @parameterized.parameters(0, 2, 9)
    def test_equals_padding_cropping_and_flipping(self, pixels):
        images = split(50).x
        crops = augmentation.draw(50, pixels, (0, 0))
        found = augmentation.CropAndFlip(pixels)(images, crops)
        padding = ((pixels, pixels), (pixels, pixels), (0, 0))
        for image, (down, right, flip), value in zip(images, crops, found):
            image = np.pad(image, padding)[down : down + 6, right : right + 5]
            image = image[:, ::-1] if flip else image
            value = keras.ops.convert_to_numpy(value)
            np.testing.assert_allclose(value, image / 255, rtol=1e-6)

    def test_a_margin_is_what_crops_move_in(self):
        pixels, margin = 3, 1
        images = split(50, (8, 7, 3)).x
        crops = augmentation.draw(50, pixels, (0, 0))
        layer = augmentation.CropAndFlip(pixels, margin)
        found = keras.ops.convert_to_numpy(layer(images, crops))
        self.assertEqual(found.shape, (50, 6, 5, 3))
        self.assertEqual(
            layer.compute_output_shape((None, 8, 7, 3), None), (None, 6, 5, 3)
        )
        padding = ((2, 2), (2, 2), (0, 0))
        for image, (down, right, flip), value in zip(images, crops, found):
            image = np.pad(image, padding)[down : down + 6, right : right + 5]
            image = image[:, ::-1] if flip else image
            np.testing.assert_allclose(value, image / 255, rtol=1e-6)

    def test_what_is_looked_at_is_the_middle(self):
        data = dataclasses.replace(split(9, (8, 7, 3)), margin=1)
        self.assertEqual(data.image_shape, (6, 5, 3))
        inputs, _ = augmentation.InOrder(data, 9, 2)[0]
        found = augmentation.CropAndFlip(2, 1)(**inputs)
        np.testing.assert_allclose(found, data.floats(), rtol=1e-6)

    @parameterized.parameters(1, 2, 3)
    def test_holes_are_gray(self, hole):
        data = split(60, (8, 7, 3))
        batches = augmentation.CropsAndFlips(data, 60, 1, hole=hole)
        inputs, _ = batches[0]
        found = augmentation.CropAndFlip(1, 0, hole)(**inputs)
        whole = augmentation.CropAndFlip(1)(
            inputs["images"], inputs["crops"][:, :3]
        )
        seen = set()
        for found, whole, (row, column) in zip(
            keras.ops.convert_to_numpy(found),
            keras.ops.convert_to_numpy(whole),
            inputs["crops"][:, 3:],
        ):
            rows, columns = (
                slice(max(0, n - hole // 2), n - hole // 2 + hole)
                for n in (row, column)
            )
            whole = whole.copy()
            whole[rows, columns] = augmentation.GREY
            np.testing.assert_array_equal(found, whole)
            seen |= {row, column}
        self.assertEqual(seen, {*range(8)})

    def test_nothing_is_cut_out_of_what_is_in_order(self):
        data = split(9, (8, 7, 3))
        inputs, _ = augmentation.InOrder(data, 9, 2, hole=3)[0]
        found = augmentation.CropAndFlip(2, 0, 3)(**inputs)
        np.testing.assert_allclose(found, data.floats(), rtol=1e-6)

    def test_draws_all_there_are(self):
        crops = augmentation.draw(2000, 2, (0, 0), flips=False)
        self.assertFalse(crops[:, 2].any())
        crops = augmentation.draw(2000, 2, (0, 0))
        self.assertLen(np.unique(crops, axis=0), 5 * 5 * 2)

    def test_shares_the_weights_of_the_model(self):
        model = keras.Sequential(
            [keras.Input((6, 5, 3)), keras.layers.Flatten()]
            + [keras.layers.Dense(2)]
        )
        whole = augmentation.augmented(model, 1)
        self.assertIs(whole.trainable_variables[0], model.layers[1].kernel)
        batches = augmentation.InOrder(split(), 8, 1)
        np.testing.assert_allclose(
            whole.predict(batches, verbose=0),
            model.predict(split().floats(), verbose=0),
            atol=1e-5,
        )

    def test_config(self):
        layer = augmentation.CropAndFlip(3, 2, 1, name="mine")
        found = augmentation.CropAndFlip.from_config(layer.get_config())
        values = found.pixels, found.margin, found.hole
        self.assertEqual(values, (3, 2, 1))
        self.assertEqual(found.name, "mine")


class BatchesTest(parameterized.TestCase):
    def test_an_epoch_shows_each_image_once_but_the_rest(self):
        batches = augmentation.CropsAndFlips(split(), 8)
        self.assertLen(batches, 2)
        rows = self.rows(batches)
        self.assertLen(rows, 16)
        self.assertLen({*rows}, 16)
        self.assertLen(augmentation.CropsAndFlips(split(), 64), 1)

    def test_epochs_differ_and_come_again(self):
        one, other = (augmentation.CropsAndFlips(split(), 4) for _ in range(2))
        first = self.rows(one), one.crops
        one.on_epoch_end()
        self.assertNotEqual(self.rows(one), first[0])
        self.assertFalse(np.array_equal(one.crops, first[1]))
        other.set_epoch(1)
        self.assertEqual(self.rows(one), self.rows(other))
        np.testing.assert_array_equal(one.crops, other.crops)
        other = augmentation.CropsAndFlips(split(), 4, seed=1)
        self.assertFalse(np.array_equal(first[1], other.crops))

    def test_read_ahead_or_not_it_is_the_same(self):
        plain = augmentation.CropsAndFlips(split(), 3)
        ahead = augmentation.CropsAndFlips(split(), 3, workers=3)
        for epoch, order in ((0, (0, 0, 1, 2, 3, 4, 5)), (4, (5, 0, 1, 1))):
            for batches in (plain, ahead):
                batches.set_epoch(epoch)
            for index in order:
                inputs, labels = plain[index]
                found, found_labels = ahead[index]
                np.testing.assert_array_equal(found_labels, labels)
                for name, value in inputs.items():
                    np.testing.assert_array_equal(found[name], value)

    def test_in_order_read_ahead_or_not_it_is_the_same(self):
        plain = augmentation.InOrder(split(), 8)
        ahead = augmentation.InOrder(split(), 8, workers=2)
        for index in (0, 1, *range(len(plain))):
            for one, other in zip(plain[index], ahead[index]):
                for name in one if isinstance(one, dict) else [...]:
                    np.testing.assert_array_equal(one[name], other[name])

    def test_answers_are_those_to_the_crops_that_are_shown(self):
        views, (num, classes) = 3, (20, 7)
        logits = np.arange(views * num * classes, dtype="float16")
        logits = logits.reshape(views, num, classes)
        data = split()
        batches = augmentation.CropsAndFlips(data, 4, 2, 5, logits=logits)
        for epoch in range(2 * views):
            batches.set_epoch(epoch)
            view = epoch % views
            np.testing.assert_array_equal(
                batches.crops, augmentation.draw_view(num, 2, 5, view)
            )
            inputs, targets = batches[1]
            rows = batches.order[4:8]
            self.assertEqual(targets.dtype, "float32")
            np.testing.assert_array_equal(targets[:, 0], data.y[rows])
            np.testing.assert_array_equal(targets[:, 1:], logits[view, rows])
            np.testing.assert_array_equal(inputs["crops"], batches.crops[rows])

    def test_uncropped(self):
        batches = augmentation.InOrder(split(), 8, 4)
        self.assertLen(batches, 3)
        inputs, targets = batches[2]
        self.assertEqual(targets.tolist(), [[2], [3], [4], [5]])
        found = augmentation.CropAndFlip(4)(**inputs)
        np.testing.assert_allclose(found, split().floats()[16:], atol=1e-6)

    def rows(self, batches):
        return np.concatenate(
            [
                batches.order[i * batches.batch_size :][: len(batches[i][1])]
                for i in range(len(batches))
            ]
        ).tolist()


if __name__ == "__main__":
    absltest.main()
