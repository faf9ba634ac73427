"""Tests of photographs as bytes of one size."""

import io
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
from unittest import mock

import numpy as np
import tensorflow_datasets as tfds
from absl.testing import absltest
from absl.testing import parameterized
from PIL import Image

from examples.common import image_bytes
from examples.common import image_data


def photographs(num, seed=0):
    """Images whose middle is red, upright and lying, and their labels."""
    rng = np.random.default_rng(seed)
    for label in range(num):
        height, width = rng.permutation([40, 60])
        image = np.zeros((height, width, 3), "uint8")
        top, left = (height - 40) // 2, (width - 40) // 2
        image[top : top + 40, left : left + 40] = (200, label, 0)
        yield image, label


class ImageBytesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory())
        )

    def test_rows_are_those_that_were_asked_for(self):
        array = np.arange(10 * 4 * 3 * 1, dtype="uint8").reshape(10, 4, 3, 1)
        order = np.array([7, 2, 5])
        rows = image_bytes.Rows(array, order)
        self.assertEqual(rows.shape, (3, 4, 3, 1))
        self.assertLen(rows, 3)
        for index in (slice(None), slice(1, 3), np.array([2, 0]), 1):
            np.testing.assert_array_equal(rows[index], array[order][index])

    def test_is_split_as_floats_are(self):
        rng = np.random.default_rng(0)
        x = rng.integers(0, 256, (50, 32, 32, 3), dtype="uint8")
        y = rng.integers(0, 10, (50, 1), dtype="uint8")
        path = str(self.folder / "some.npz")
        np.savez(path, x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
        expected = image_data.load(path, seed=3)
        for name, split in image_bytes.load(path, 32, seed=3).items():
            np.testing.assert_array_equal(split.floats(), expected[name].x)
            np.testing.assert_array_equal(split.y, expected[name].y)
            self.assertEqual(split.x[:2].dtype, "uint8")
            self.assertEqual(split.image_shape, (32, 32, 3))

    def test_digits_become_as_large_as_is_asked_for(self):
        test = image_bytes.load("digits", 20, margin=2)["test"]
        self.assertEqual(test.x.shape, (360, 24, 24, 1))
        self.assertEqual(test.image_shape, (20, 20, 1))
        np.testing.assert_array_equal(
            test.floats(slice(5)),
            test.x[:5][:, 2:22, 2:22] / np.float32(255),
        )

    def test_sheets(self):
        rng = np.random.default_rng(0)
        arrays, images = {}, {}
        for part, num in (("train", 300), ("test", 10)):
            shades = rng.integers(0, 256, num)
            images[part] = np.full((num, 8, 8, 3), shades[:, None, None, None])
            files = []
            for start in range(0, num, 256):
                sheet = np.zeros((256, 8, 8, 3), "uint8")
                part_of = images[part][start : start + 256]
                sheet[: len(part_of)] = part_of
                sheet = sheet.reshape(16, 16, 8, 8, 3).swapaxes(1, 2)
                file = io.BytesIO()
                picture = Image.fromarray(sheet.reshape(128, 128, 3))
                picture.save(file, "jpeg", quality=100)
                files.append(file.getvalue())
            ends = np.cumsum([0, *map(len, files)])
            arrays[f"x_{part}_jpeg"] = np.frombuffer(b"".join(files), "uint8")
            arrays[f"x_{part}_offsets"] = ends
            arrays[f"y_{part}"] = np.arange(num) % 200
        path = self.folder / "sheets.npz"
        np.savez(path, **arrays)
        data = image_bytes.load(str(path), 8)
        self.assertEqual(data["train"].x.shape, (240, 8, 8, 3))
        found = data["test"].x[:].astype(int)
        self.assertLess(np.abs(found - images["test"]).max(), 3)

    def test_of_photographs_the_middle_is_kept(self):
        with self.stored():
            data = image_bytes.load("some", 20, folder=self.folder)
        self.assertEqual(data["train"].x.shape, (24, 20, 20, 3))
        for split in data.values():
            # But at the border, of red and of what the label says.
            red, green, _ = np.moveaxis(split.x[:][:, 3:-3, 3:-3], -1, 0)
            self.assertEqual((red.min(), red.max()), (200, 200))
            np.testing.assert_array_equal(green[:, 5, 5], split.y)

    def test_photographs_are_made_once(self):
        with self.stored():
            first = image_bytes.load("some", 20, folder=self.folder)
        with mock.patch.object(
            image_data, "tfds_examples", side_effect=RuntimeError
        ) as examples:
            again = image_bytes.load("some", 20, folder=self.folder)
            for name, split in first.items():
                np.testing.assert_array_equal(split.x[:], again[name].x[:])
                np.testing.assert_array_equal(split.y, again[name].y)
            with self.assertRaises(RuntimeError):
                image_bytes.load("some", 24, folder=self.folder)
        examples.assert_called_once()

    def test_photographs_that_were_cut_off_are_made_again(self):
        def cut_off(name, part, most):
            def few():
                yield from photographs(3)
                raise KeyboardInterrupt

            return few(), 30, 3

        with mock.patch.object(image_data, "tfds_examples", cut_off):
            with self.assertRaises(KeyboardInterrupt):
                image_bytes.load("some", 20, folder=self.folder)
        with self.stored():
            data = image_bytes.load("some", 20, folder=self.folder)
        self.assertGreater(data["train"].x[:][..., 0].min(), 100)

    def test_another_process_makes_the_same(self):
        def examples(name, part, most):
            def slow():
                yield from photographs(10)
                with self.stored(), mock.patch("os.getpid", return_value=1):
                    image_bytes.load("some", 20, folder=self.folder)
                yield from list(photographs(30))[10:]

            return slow(), 30, 3

        with mock.patch.object(image_data, "tfds_examples", examples):
            data = image_bytes.load("some", 20, folder=self.folder)
        for split in data.values():
            self.assertGreater(split.x[:][..., 0].min(), 100)
        self.assertEmpty([*self.folder.rglob("*.part.npy")])

    @parameterized.parameters(29, 31, 3000)
    def test_photographs_that_are_not_as_many_as_was_said(self, num):
        with self.stored(num=30, said=num):
            with self.assertRaisesRegex(SystemExit, f"Expected {num:,}.* 30"):
                image_bytes.load("some", 20, folder=self.folder)
        self.assertEmpty([*self.folder.rglob("*.npy")])

    def test_labels_that_are_secret(self):
        secret = [(image, -1) for image, _ in photographs(30)]
        with self.stored(secret):
            with self.assertRaisesRegex(SystemExit, "least label -1"):
                image_bytes.load("some", 20, folder=self.folder)

    def test_a_disk_that_is_full(self):
        usage = mock.Mock(free=1000)
        with self.stored(), mock.patch("shutil.disk_usage", return_value=usage):
            with self.assertRaisesRegex(SystemExit, "0.0 GB.*--images_dir"):
                image_bytes.load("some", 20, folder=self.folder)

    def stored(self, examples=None, num=30, said=None):
        return mock.patch.object(
            image_data,
            "tfds_examples",
            lambda name, part, most: (
                iter([*(examples or photographs(num))][:most]),
                most or said or num,
                3,
            ),
        )

    def test_what_a_killed_process_left_is_removed(self):
        child = subprocess.Popen([sys.executable, "-c", ""])
        child.wait()
        folder = self.folder / "some-20"
        folder.mkdir()
        node = platform.node()
        dead = folder / f"train.{node}.{child.pid}.part.npy"
        for path in (
            dead,
            alive := folder / f"train_labels.{node}.{os.getpid()}.part.npy",
            elsewhere := folder / f"train.other.{child.pid}.part.npy",
        ):
            path.write_bytes(b"")
        with self.stored():
            image_bytes.load("some", 20, folder=self.folder)
        self.assertFalse(dead.exists())
        self.assertTrue(elsewhere.exists())
        self.assertFalse(alive.exists())  # it is what this process wrote

    def test_no_more_than_is_asked_for(self):
        with self.stored():
            whole = image_bytes.load("some", 20, folder=self.folder)
            few = image_bytes.load("some", 20, folder=self.folder, most=10)
        self.assertLen(whole["test"].y, 30)
        self.assertLen(few["test"].y, 10)
        self.assertLen(few["train"].y, 8)
        few = image_bytes.load("digits", 8, most=100)
        self.assertLen(few["test"].y, 100)
        self.assertLen({*few["train"].y}, 10)

    def test_sheets_that_are_not_whole(self):
        path = str(self.folder / "sheets.npz")
        arrays = {"x_train_jpeg": np.zeros(3, "uint8"), "y_train": np.zeros(2)}
        np.savez(path, **arrays)
        with self.assertRaisesRegex(SystemExit, "no .*x_train_offsets"):
            image_bytes.load(path, 8)

    @parameterized.parameters("imagenette/160px-v2", "imagenet2012", "cifar10")
    def test_tfds(self, name):
        with tfds.testing.mock_data(num_examples=20):
            data = image_bytes.load(name, 12, 2, folder=self.folder)
        self.assertEqual(data["train"].x.shape, (16, 16, 16, 3))
        self.assertEqual(data["test"].image_shape, (12, 12, 3))

    @parameterized.parameters(
        ("imagenet2012", ("train", "test", "validation"), "validation[:7]"),
        ("imagenette", ("train", "validation"), "validation"),
        ("cifar10", ("train", "test"), "test"),
    )
    def test_which_split_is_the_test(self, name, splits, expected):
        with mock.patch.object(tfds, "builder") as builder:
            builder().name = name
            builder().info.splits = splits
            with mock.patch.object(tfds, "as_numpy"):
                most = 7 if expected.endswith("]") else None
                image_data.tfds_examples(name, "test", most)
        self.assertEqual(
            builder().as_dataset.call_args.kwargs["split"], expected
        )


if __name__ == "__main__":
    absltest.main()
