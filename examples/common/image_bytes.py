"""Photographs as bytes of one size, read as they are asked for.

What TensorFlow Datasets has is made as large as it is needed once, and kept
on disk: training then needs no TensorFlow, and memory for a few batches alone.
"""

import concurrent.futures
import dataclasses
import io
import itertools
import math
import os
import pathlib
import platform
import shutil

import numpy as np

from examples.common import image_data


class Rows:
    """Some rows of an array of images, in some order; nothing is copied.

    Args:
        array: uint8 `(n, height, width, channels)`, maybe on disk.
        rows: int `(m,)`, which of them.
    """

    dtype = np.dtype("uint8")

    def __init__(self, array, rows):
        self.array = array
        self.rows = rows
        self.shape = (len(rows), *array.shape[1:])

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.array[self.rows[index]]


@dataclasses.dataclass(frozen=True)
class ByteSplit(image_data.Split):
    """A `Split` whose images are uint8, and may be larger than is looked at.

    Args:
        x: uint8 `(n, height, width, channels)`, an array or `Rows`.
        y: int32 `(n,)`.
        margin: Pixels on each side that are there for crops alone.
    """

    margin: int = 0

    def floats(self, rows=slice(None)):
        """The middles of some images, float32 in [0, 1]."""
        height, width, _ = self.image_shape
        m = self.margin
        x = self.x[rows][:, m : m + height, m : m + width].astype("float32")
        x /= 255.0
        return x

    @property
    def image_shape(self):
        """`(height, width, channels)` of what is looked at."""
        height, width, channels = self.x.shape[1:]
        return height - 2 * self.margin, width - 2 * self.margin, channels


def load(name, size, margin=0, seed=0, folder="runs/images", most=None):
    """Loads a data set, makes its images square, and splits it.

    Of an image that is not square the middle is taken; it is resized by
    Lanczos' filter unless it has the size.

    Args:
        name: What `image_data.load` takes, the path of an `.npz` file that
            holds sheets of JPEG (see `_sheets`), or any image classification
            set of TensorFlow Datasets, its images of any size.
        size: Pixels of height and width that a network sees.
        margin: Further pixels on each side, for crops.
        seed: Seed of the split.
        folder: Where images of TensorFlow Datasets are kept.
        most: Only so many images for training and validation, and for the
            test; None: all.

    Returns:
        dict with the `ByteSplit`s `"train"`, `"valid"` and `"test"`. The
        validation images are taken from the training images, a fifth of
        them and at most 5,000.
    """
    stored = size + 2 * margin
    found = _sheets(name) or image_data.arrays(name, seed)
    if found is None:
        train, test = _tfds(name, stored, pathlib.Path(folder), most)
    else:
        if most is not None:
            found = [_some(split, most) for split in found]
        train, test = (
            image_data.Split(_all_fitted(split.x, stored), split.y)
            for split in found
        )

    def split(part, rows):
        y = np.asarray(part.y).reshape(-1)[rows].astype("int32")
        return ByteSplit(Rows(part.x, rows), y, margin)

    rest, valid = image_data.without_validation(len(train.y), seed)
    if found is None:
        rest, valid = np.sort(rest), np.sort(valid)  # as they lie on disk
    return {
        "train": split(train, rest),
        "valid": split(train, valid),
        "test": split(test, np.arange(len(test.y))),
    }


def _some(split, most):
    """Images from all of a split, which may be in order."""
    order = np.random.default_rng(0).permutation(len(split.y))
    return image_data.Split(split.x[order[:most]], split.y[order[:most]])


def fitted(image, size):
    """The middle of one image as `(size, size, channels)`, uint8."""
    if image.shape[:2] == (size, size):
        return image
    from PIL import Image
    from PIL import ImageOps

    is_gray = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if is_gray else image)
    picture = ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
    return np.asarray(picture).reshape(size, size, image.shape[-1])


def _all_fitted(images, size):
    if images.dtype != "uint8":
        images = np.rint(images).astype("uint8")
    images = images[..., None] if images.ndim == 3 else images
    if images.shape[1:3] == (size, size):
        return images
    height, width = images.shape[1:3]
    print(
        f"{len(images):,} images of {height} x {width} pixels are made "
        f"{size} x {size}.",
        flush=True,
    )
    return np.stack([fitted(image, size) for image in images])


def _sheets(name):
    """Images in sheets of 16 x 16, JPEG; None where there are none.

    `x_train_jpeg` are the bytes of all files, `x_train_offsets` where each
    begins and the last one ends, and images lie row by row, one for each of
    `y_train`; the same of `test`.
    """
    if not name.endswith(".npz") or not pathlib.Path(name).exists():
        return None

    def split(part):
        from PIL import Image

        content, offsets = data[f"x_{part}_jpeg"], data[f"x_{part}_offsets"]
        found = []
        for start, end in itertools.pairwise(offsets):
            file = io.BytesIO(content[start:end].tobytes())
            sheet = np.asarray(Image.open(file))
            size = sheet.shape[0] // 16
            sheet = sheet.reshape(16, size, 16, size, -1).swapaxes(1, 2)
            found.append(sheet.reshape(-1, *sheet.shape[2:]))
        labels = data[f"y_{part}"]
        images = np.concatenate(found)[: len(labels)]
        labels = image_data.labels_of(name, f"y_{part}", labels, images)
        return image_data.Split(images, labels)

    names = ("x_{}_jpeg", "x_{}_offsets", "y_{}")
    names = {n.format(part) for n in names for part in ("train", "test")}
    with np.load(name) as data:
        if "x_train_jpeg" not in data:
            return None
        if missing := names - set(data):
            raise SystemExit(f"{name} has no {sorted(missing)}.")
        return split("train"), split("test")


def _tfds(name, size, folder, most):
    """Two splits of TensorFlow Datasets, from disk if they are there."""
    some = "" if most is None else f"-first{most}"
    plain = name.replace("/", "-").replace(":", "-")
    folder = folder / f"{plain}-{size}{some}"
    found = []
    for part in ("train", "test"):
        if not (folder / f"{part}_labels.npy").exists():
            folder.mkdir(parents=True, exist_ok=True)
            _store(name, part, size, folder, most)
        found.append(
            image_data.Split(
                np.load(folder / f"{part}.npy", mmap_mode="r"),
                np.load(folder / f"{part}_labels.npy"),
            )
        )
    return found


def _store(name, part, size, folder, most):
    """Writes the images of one split, and then the labels.

    Both appear under their names when they are whole: another process may
    write the same at the same time.
    """
    _remove_what_was_cut_off(folder, part)
    examples, num, channels = image_data.tfds_examples(name, part, most)
    shape = (num, size, size, channels)
    num_bytes = math.prod(shape)
    print(
        f"{name}, {part}: {num:,} images of {size} x {size} pixels, "
        f"{num_bytes / 1e9:.1f} GB in {folder}, are made once.",
        flush=True,
    )
    if num_bytes > (free := shutil.disk_usage(folder).free):
        raise SystemExit(
            f"There are {free / 1e9:.1f} GB free. Choose another --images_dir."
        )
    end = f"{platform.node()}.{os.getpid()}.part.npy"
    path = folder / f"{part}.{end}"
    labels_path = folder / f"{part}_labels.{end}"
    try:
        images = np.lib.format.open_memmap(path, "w+", "uint8", shape)
        np.save(labels_path, _copied(examples, images))
        path.replace(folder / f"{part}.npy")
        labels_path.replace(folder / f"{part}_labels.npy")
    finally:
        path.unlink(missing_ok=True)
        labels_path.unlink(missing_ok=True)


def _remove_what_was_cut_off(folder, part):
    """Removes what processes of this machine left that are no more."""
    for path in folder.glob(f"{part}*.{platform.node()}.*.part.npy"):
        try:
            os.kill(int(path.name.split(".")[-3]), 0)
        except ProcessLookupError:
            path.unlink()
            print(f"{path} was cut off, and is removed.", flush=True)
        except PermissionError:
            pass


def _copied(examples, images):
    """Fills an array with images; their labels, int32."""
    num, size = images.shape[:2]
    labels = np.zeros(num, "int32")
    at = 0
    with concurrent.futures.ThreadPoolExecutor() as pool:
        while chunk := list(itertools.islice(examples, 256)):
            rows = slice(at, at + len(chunk))
            at = rows.stop
            if at > num:
                break
            fit = pool.map(lambda e: fitted(e[0], size), chunk)
            images[rows] = np.stack(list(fit))
            labels[rows] = [label for _, label in chunk]
            print(f"\r{at:,} of {num:,}", end="", flush=True)
    print()
    if at != num or labels.min() < 0:
        raise SystemExit(
            f"Expected {num:,} images with labels. Received: {at:,} or more, "
            f"the least label {labels.min()}."
        )
    images.flush()
    return labels
