"""Tests of the examples' data loading."""

import pathlib
import tempfile
from unittest import mock

import numpy as np
import tensorflow_datasets as tfds
from absl.testing import parameterized

from examples.common import image_data


class ImageDataTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory())
        )

    def test_digits_are_split_into_three_without_overlap(self):
        data = image_data.load("digits", seed=3)
        sizes = {name: split.x.shape for name, split in data.items()}
        self.assertEqual(
            sizes,
            {
                "train": (1437 - 287, 28, 28, 1),
                "valid": (287, 28, 28, 1),
                "test": (360, 28, 28, 1),
            },
        )
        rows = np.concatenate(
            [s.x.reshape(len(s.x), -1) for s in data.values()]
        )
        self.assertLen(np.unique(rows, axis=0), 1797)
        self.assertEqual(set(data["test"].y), set(range(10)))
        self.assertGreaterEqual(rows.min(), 0)
        self.assertLessEqual(rows.max(), 1.001)

    def test_the_seed_fixes_the_split(self):
        one, two, other = (image_data.load("digits", s) for s in (0, 0, 1))
        np.testing.assert_array_equal(one["test"].x, two["test"].x)
        self.assertFalse(np.array_equal(one["test"].y, other["test"].y))

    def test_npz(self):
        rng = np.random.default_rng(0)
        x = rng.integers(0, 256, (50, 32, 32, 3), dtype="uint8")
        y = rng.integers(0, 10, (50, 1), dtype="uint8")
        path = self.folder / "some.npz"
        np.savez(path, x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
        data = image_data.load(str(path))
        self.assertEqual(data["train"].x.shape, (40, 32, 32, 3))
        self.assertEqual(data["valid"].y.shape, (10,))
        np.testing.assert_allclose(data["test"].x, x[:9] / 255, atol=1e-6)
        np.testing.assert_array_equal(data["test"].y, y[:9, 0])

    def test_npz_of_differences(self):
        rng = np.random.default_rng(0)
        arrays, images = {}, {}
        for name, num in (("train", 20), ("test", 5)):
            image = rng.integers(0, 256, (num, 30, 31, 3), dtype="uint8")
            red, green, blue = np.moveaxis(image, -1, 0)
            planes = np.stack([red - green, green, blue - green])
            planes = np.diff(planes, axis=3, prepend=np.uint8(0))
            planes = np.diff(planes, axis=2, prepend=np.uint8(0))
            arrays[f"x_{name}_res"] = planes
            arrays[f"y_{name}"] = np.arange(num, dtype="uint8")
            images[name] = image
        path = self.folder / "differences.npz"
        np.savez(path, **arrays)
        data = image_data.load(str(path))
        for name in ("train", "valid", "test"):
            whole = images["test" if name == "test" else "train"]
            np.testing.assert_allclose(
                data[name].x, whole[data[name].y] / 255, rtol=1e-6
            )

    def test_npz_that_is_not_there_or_not_whole(self):
        with self.assertRaisesRegex(SystemExit, "There is no file"):
            image_data.load(str(self.folder / "none.npz"))
        np.savez(self.folder / "half.npz", x_train=np.zeros((3, 8, 8)))
        with self.assertRaisesRegex(SystemExit, "Expected the arrays"):
            image_data.load(str(self.folder / "half.npz"))

    @parameterized.parameters(
        (np.eye(10)[:5], r"float64, \(5, 10\)"),
        (np.arange(4), r"int64, \(4,\)"),
        (np.arange(5) / 2, r"float64, \(5,\)"),
    )
    def test_npz_without_a_label_for_each_image(self, y, message):
        path = str(self.folder / "labels.npz")
        x = np.full((5, 8, 8), 255)
        np.savez(path, x_train=x, y_train=y, x_test=x, y_test=np.arange(5))
        with self.assertRaisesRegex(SystemExit, "y_train.* 5 im.*" + message):
            image_data.load(path)

    def test_npz_that_is_scaled_already(self):
        path = str(self.folder / "scaled.npz")
        x, y = np.full((5, 8, 8), 0.5), np.arange(5)
        np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
        with self.assertRaisesRegex(SystemExit, "0 to 255.*up to 0.5"):
            image_data.load(path)

    def test_tfds(self):
        with tfds.testing.mock_data(num_examples=40):
            data = image_data.load("mnist")
        self.assertEqual(data["train"].x.shape, (32, 28, 28, 1))
        self.assertEqual(data["test"].y.shape, (40,))

    def test_tfds_offline_names_the_other_ways(self):
        failing = mock.patch.object(
            tfds, "builder", side_effect=ConnectionError("no\nnetwork")
        )
        with failing, self.assertRaises(SystemExit) as caught:
            image_data.load("mnist")
        message = str(caught.exception)
        self.assertRegex(message, "no network.*digits.*PATH.npz")
        self.assertNotIn("\n", message)

    def test_random_shifts_move_images_whole(self):
        x = np.zeros((6, 8, 8, 1), "float32")
        x[:, 4, 4, 0] = np.arange(1, 7)
        split = image_data.Split(x, np.arange(1, 7))
        batches = image_data.RandomShifts(split, batch_size=4, pixels=2)
        self.assertLen(batches, 2)
        seen = []
        for epoch in range(20):
            for i in range(2):
                images, labels = batches[i]
                np.testing.assert_array_equal(
                    images.max(axis=(1, 2, 3)), labels
                )
                seen += [np.argwhere(z)[0][:2] for z in images]
            batches.on_epoch_end()
        seen = np.array(seen)
        np.testing.assert_array_equal(seen.min(axis=0), [2, 2])
        np.testing.assert_array_equal(seen.max(axis=0), [6, 6])

    def test_random_shifts_depend_on_seed_and_epoch_alone(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(6, 8, 8, 1)).astype("float32")
        split = image_data.Split(x, np.arange(6))

        def seen(seed=0, epoch=None, skipped=0, order=(0, 1)):
            batches = image_data.RandomShifts(split, 4, seed=seed)
            if epoch is not None:
                batches.set_epoch(epoch)
            for _ in range(skipped):
                batches.on_epoch_end()
            found = {i: batches[i][0].tobytes() for i in order}
            return found[0], found[1]

        expected = seen(skipped=3)
        self.assertEqual(seen(epoch=3), expected)
        self.assertEqual(seen(epoch=1, skipped=2), expected)
        self.assertEqual(seen(epoch=3, order=(0, 1, 1, 0)), expected)
        self.assertEqual(seen(epoch=0), seen())
        self.assertNotEqual(seen(), expected)
        self.assertNotEqual(seen(seed=1, epoch=3), expected)
