"""Image classification data for the examples, from three kinds of source."""

import dataclasses
import pathlib

import keras
import numpy as np


@dataclasses.dataclass(frozen=True)
class Split:
    """Images `(n, height, width, channels)` in [0, 1] and labels `(n,)`."""

    x: np.ndarray
    y: np.ndarray

    def floats(self, rows=slice(None)):
        """Some of the images, float32 in [0, 1]."""
        return self.x[rows]

    @property
    def image_shape(self):
        """`(height, width, channels)` of an image."""
        return self.x.shape[1:]


def load(name, seed=0, smallest=28):
    """Loads a data set and splits it.

    Args:
        name: `"digits"` (in scikit-learn, nothing to download), the path of
            an `.npz` file with `x_train`, `y_train`, `x_test` and `y_test`
            (or, of color images, `x_train_res` and `x_test_res`, stored as
            differences), or any image classification set of TensorFlow
            Datasets.
        seed: Seed of the split.
        smallest: Smaller images are resized to this many pixels.

    Returns:
        dict with the `Split`s `"train"`, `"valid"` and `"test"`. The
        validation images are taken from the training images, a fifth of
        them and at most 5,000.
    """
    if (found := arrays(name, seed)) is None:
        found = _tfds(name)
    train, test = found
    rest, valid = without_validation(len(train.y), seed)
    return {
        "train": _prepare(train, smallest, rest),
        "valid": _prepare(train, smallest, valid),
        "test": _prepare(test, smallest),
    }


def arrays(name, seed=0):
    """Training and test `Split` as they lie, or None where TFDS has them."""
    if name == "digits":
        return _digits(seed)
    return _npz(pathlib.Path(name)) if name.endswith(".npz") else None


def without_validation(num, seed):
    """Which of `num` training images are trained on, and which validate."""
    order = np.random.default_rng(seed).permutation(num)
    size = min(5000, num // 5)
    return order[size:], order[:size]


def padded(images, pixels):
    """Images with `pixels` rows and columns of 0 on each side."""
    return np.pad(images, ((0, 0), *[(pixels, pixels)] * 2, (0, 0)))


class RandomShifts(keras.utils.PyDataset):
    """Batches of a `Split` in random order, each image shifted at random.

    Every epoch has its own order and shifts, which depend on the seed and
    the epoch's number alone, so that a training that is resumed sees what it
    would have seen: `AtomicCheckpoint(path, set_epoch=batches.set_epoch)`.

    Args:
        split: The `Split`.
        batch_size: Images per batch.
        pixels: Largest shift along each axis; what is uncovered is 0.
        seed: Seed of order and shifts.
    """

    def __init__(self, split, batch_size, pixels=2, seed=0):
        super().__init__()
        self.split = split
        self.batch_size = batch_size
        self.pixels = pixels
        self.seed = seed
        self.padded = padded(split.x, pixels)
        self.set_epoch(0)

    def set_epoch(self, epoch):
        """Goes to an epoch; otherwise each goes to the next as it ends."""
        self.epoch = epoch
        rng = np.random.default_rng((self.seed, epoch))
        self.order = rng.permutation(len(self.split.y))

    def __len__(self):
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, index):
        height, width = self.split.x.shape[1:3]
        rows, down, right = self.draw(index)
        down = (down[:, None] + np.arange(height))[:, :, None]
        right = (right[:, None] + np.arange(width))[:, None, :]
        return self.padded[rows[:, None, None], down, right], self.split.y[rows]

    def draw(self, index):
        """Of batch `index`: the images, and where each crop begins."""
        start = index * self.batch_size
        rows = self.order[start : start + self.batch_size]
        # Of its own, since Keras reads some batches more than once.
        rng = np.random.default_rng((self.seed, self.epoch, index))
        return rows, *rng.integers(0, 2 * self.pixels + 1, (2, len(rows)))

    def on_epoch_end(self):
        self.set_epoch(self.epoch + 1)


def _digits(seed):
    """1,797 scanned digits of 8x8 pixels; a fifth of them for the test."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8) * (255 / 16)
    order = np.random.default_rng(seed).permutation(len(labels))
    test, train = order[:360], order[360:]
    return (
        Split(images[train], labels[train]),
        Split(images[test], labels[test]),
    )


def _npz(path):
    if not path.exists():
        raise SystemExit(f"There is no file {path}.")
    with np.load(path) as data:
        end = "_res" if "x_train_res" in data else ""
        names = [f"x_train{end}", "y_train", f"x_test{end}", "y_test"]
        missing = set(names) - set(data)
        if missing:
            raise SystemExit(
                f"{path} has no {sorted(missing)}. Expected the arrays "
                "x_train, y_train, x_test and y_test. "
                f"Received: {sorted(data)}"
            )
        train, y_train, test, y_test = (data[name] for name in names)
        for x in (train, test):
            if x.dtype != "uint8" and not 1 < x.max(initial=0) <= 255:
                raise SystemExit(
                    f"{path} should hold images of 0 to 255. Received: "
                    f"{x.dtype}, up to {x.max(initial=0)}"
                )
        if end:
            train, test = _undone(train), _undone(test)
        return (
            Split(train, labels_of(path, "y_train", y_train, train)),
            Split(test, labels_of(path, "y_test", y_test, test)),
        )


def labels_of(path, name, labels, images):
    """Labels as `(n,)`; exits unless there is one integer for each image."""
    num = len(images)
    if labels.shape not in ((num,), (num, 1)) or labels.dtype.kind not in "iu":
        raise SystemExit(
            f"{name} of {path} has to be one integer for each of {num:,} "
            f"images. Received: {labels.dtype}, {labels.shape}"
        )
    return labels.reshape(num)


def _undone(differences):
    """Images that are stored as differences, which compress better.

    Args:
        differences: uint8 `(3, n, height, width)`, modulo 256: red less
            green, green, and blue less green; each the difference to the
            pixel on its left of the difference to the pixel above it.

    Returns:
        uint8 `(n, height, width, 3)`.
    """
    planes = np.cumsum(differences, axis=2, dtype="uint8")
    planes = np.cumsum(planes, axis=3, dtype="uint8")
    planes[0] += planes[1]
    planes[2] += planes[1]
    return np.moveaxis(planes, 0, -1)


def tfds_examples(name, part, most=None):
    """Examples of a split of TensorFlow Datasets.

    Args:
        name: Name of the data set.
        part: `"train"` or `"test"`; where nothing is called `"test"`, or its
            labels are secret, as those of ImageNet, it is `"validation"`.
        most: How many at most; None: all.

    Returns:
        An iterator of pairs of an image, uint8 `(height, width, channels)`,
        and its label; how many there are; and the number of channels.
    """
    others = "--dataset=digits (nothing to download) or --dataset=PATH.npz"
    print(f"Loading '{name}' by TensorFlow Datasets. Offline: {others}.")
    try:
        import tensorflow_datasets as tfds

        if keras.backend.backend() != "tensorflow":
            import tensorflow as tf

            # It would take all memory of the GPU that another one trains on.
            tf.config.set_visible_devices([], "GPU")
        builder = tfds.builder(name)
        builder.download_and_prepare()
        splits = builder.info.splits
        secret = builder.name.startswith("imagenet2012")
        if part == "test" and (secret or "test" not in splits):
            part = "validation"
        if most is not None:
            part += f"[:{most}]"
        data = builder.as_dataset(split=part, as_supervised=True)
        channels = builder.info.features["image"].shape[-1]
        return iter(tfds.as_numpy(data)), len(data), channels
    except Exception as error:
        reason = " ".join(str(error).split())[:600]
        raise SystemExit(
            f"Cannot load '{name}' from TensorFlow Datasets "
            f"({type(error).__name__}: {reason}). Use {others}."
        ) from None


def _tfds(name):
    return tuple(_collect(name, part) for part in ("train", "test"))


def _collect(name, part):
    examples, *_ = tfds_examples(name, part)
    images, labels = zip(*examples)
    if len({image.shape for image in images}) > 1:
        raise SystemExit(f"The images of '{name}' are of several sizes.")
    return Split(np.stack(images), np.array(labels))


def _prepare(split, smallest, rows=slice(None)):
    x = np.asarray(split.x)[rows].astype("float32") / 255.0
    x = x[..., None] if x.ndim == 3 else x
    height, width = x.shape[1:3]
    if min(height, width) < smallest:
        scale = smallest / min(height, width)
        size = (round(height * scale), round(width * scale))
        x = keras.ops.convert_to_numpy(keras.ops.image.resize(x, size))
    return Split(x, np.asarray(split.y)[rows].reshape(-1).astype("int32"))
