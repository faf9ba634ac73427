"""Random crops, flips and holes, drawn by the host, made in the compiled step.

What is drawn depends on a seed, the epoch and the image alone: a training
that is resumed sees what it would have seen, on every backend, and a teacher
can be asked once for its answers to all that its students will see. The
pixels travel as bytes and are cropped on the accelerator.
"""

import concurrent.futures
import threading

import keras
import numpy as np
from keras import ops

GREY = 0.47  # the mean of natural images


class CropsAndFlips(keras.utils.PyDataset):
    """Batches of a `Split` in random order, with a crop for each image.

    Inputs are a dict for `augmented`: `"images"`, uint8 `(n, height, width,
    channels)`, and `"crops"`, int32 `(n, 3)`: down, right, and whether to
    flip; with holes `(n, 5)`, and where the middle of each is. Targets are
    the labels, or, with a teacher's answers, labels and logits as
    `distillation.Distillation` takes them, `(n, 1 + classes)`. Images are
    read batch by batch, wherever they are.

    What does not fill a batch is left out of an epoch, so that every step is
    of one shape.

    Args:
        split: The `image_bytes.ByteSplit`.
        batch_size: Images per batch.
        pixels: A crop is moved by up to so many pixels along each axis from
            the middle of its image. Defaults to 4.
        seed: Seed of order and crops.
        logits: A teacher's answers to the crops of `draw_view`, which are
            shown in turns then, a sequence of arrays `(images, classes)`; or
            None.
        hole: Pixels of the side of a square that is cut out of each image,
            see `CropAndFlip`; 0: none is.
        workers: Threads that read batches ahead, if more than 1. They are
            not those of Keras, which read, and lose, batches before a resumed
            training has said where it goes on.
        flips: Whether every second crop is mirrored, by chance.

    Raises:
        ValueError: `logits` are of another number of images.
    """

    def __init__(
        self,
        split,
        batch_size,
        pixels=4,
        seed=0,
        logits=None,
        hole=0,
        workers=1,
        flips=True,
    ):
        shapes = [view.shape for view in (() if logits is None else logits)]
        if any(shape[0] != len(split.y) for shape in shapes):
            raise ValueError(
                f"Expected a teacher's answers to {len(split.y)} images. "
                f"Received: logits of shapes {shapes}"
            )
        super().__init__()
        self._pool = None
        if workers > 1:
            self._pool = concurrent.futures.ThreadPoolExecutor(workers)
            self._num_ahead = 2 * workers
            self._lock = threading.Lock()
        self.images = split.x
        self.labels = split.y
        self.batch_size = min(batch_size, len(split.y))
        self.pixels = pixels
        self.seed = seed
        self.logits = logits
        self.hole = hole
        self.flips = flips
        self.shape = split.image_shape
        self.set_epoch(0)

    def set_epoch(self, epoch):
        """Goes to an epoch; otherwise each goes to the next as it ends."""
        self.epoch = epoch
        rng = np.random.default_rng((self.seed, epoch, 0))
        self.order = rng.permutation(len(self.labels))
        if self.logits is None:
            numbers = self.seed, epoch, 1
        else:
            self.view = epoch % len(self.logits)
            numbers = self.seed, self.view, 2
        self.crops = draw(len(self.labels), self.pixels, numbers, self.flips)
        if self.hole:
            rng = np.random.default_rng((self.seed, epoch, 3))
            places = rng.integers(0, self.shape[:2], (len(self.labels), 2))
            self.crops = np.concatenate([self.crops, places], 1, dtype="int32")
        self._ahead = {}  # from a batch's number to its future

    def __len__(self):
        return len(self.order) // self.batch_size

    def __getitem__(self, index):
        if self._pool is None:
            return self._read(index)
        with self._lock:
            ahead = self._ahead
            for i in range(index, min(index + self._num_ahead, len(self))):
                if i not in ahead:
                    ahead[i] = self._pool.submit(self._read, i)
            # Keras reads some batches more than once.
            future = ahead.pop(index)
        return future.result()

    def _read(self, index):
        start = index * self.batch_size
        rows = self.order[start : start + self.batch_size]
        inputs = {"images": self.images[rows], "crops": self.crops[rows]}
        targets = self.labels[rows]
        if self.logits is not None:
            logits = self.logits[self.view][rows]
            targets = np.concatenate([targets[:, None], logits], 1)
            targets = targets.astype("float32")
        return inputs, targets

    def on_epoch_end(self):
        self.set_epoch(self.epoch + 1)


class InOrder(CropsAndFlips):
    """All images of a split in their order, their middles or given crops.

    Targets are the labels, `(n, 1)`: nobody teaches.

    Args:
        split: The `image_bytes.ByteSplit`.
        batch_size: Images per batch; the last one may have fewer.
        pixels: As of `CropsAndFlips`.
        crops: The crop of each image, int32 `(n, 3)`; None: the middle.
        hole: As of the `CropAndFlip` they are for; none is cut out.
        workers: As of `CropsAndFlips`.
    """

    def __init__(
        self, split, batch_size, pixels=4, crops=None, hole=0, workers=1
    ):
        super().__init__(split, batch_size, pixels, hole=hole, workers=workers)
        if crops is not None:
            self.crops = crops

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.order = np.arange(len(self.labels))
        middle = [self.pixels, self.pixels, 0]
        outside = [-self.hole, -self.hole] if self.hole else []
        self.crops = np.tile(
            np.array(middle + outside, "int32"), (len(self.labels), 1)
        )
        self._ahead = {}

    def __len__(self):
        return -(-len(self.order) // self.batch_size)

    def _read(self, index):
        inputs, labels = super()._read(index)
        return inputs, labels[:, None]


def draw_view(num, pixels, seed, view, flips=True):
    """The crops that a teacher answers to, int32 `(num, 3)`.

    Others than those of any epoch in which nobody teaches, so that the
    teacher has not been trained on just these.
    """
    return draw(num, pixels, (seed, view, 2), flips)


def draw(num, pixels, numbers, flips=True):
    """Crops by a tuple of numbers, int32 `(num, 3)`."""
    rng = np.random.default_rng(numbers)
    return rng.integers(
        0, [2 * pixels + 1, 2 * pixels + 1, 1 + flips], (num, 3), dtype="int32"
    )


class CropAndFlip(keras.layers.Layer):
    """Crops and flips images as it is told, and scales them to [0, 1].

    What a crop has of the outside of its image is 0.

    Args:
        pixels: See `CropsAndFlips`.
        margin: Crops have so many pixels less than images on each side.
        hole: Pixels of the side of a square that becomes gray in each; it
            may reach over the border. 0: none does.

    Call arguments:
        images: uint8 `(n, height, width, channels)`.
        crops: int32 `(n, 3)`, or `(n, 5)` with holes.

    Returns:
        float32 `(n, height - 2 * margin, width - 2 * margin, channels)`.

    Reference:
        - [DeVries and Taylor, 2017](https://arxiv.org/abs/1708.04552), holes
    """

    def __init__(self, pixels=4, margin=0, hole=0, **kwargs):
        super().__init__(**{"dtype": "float32", "autocast": False} | kwargs)
        self.pixels = pixels
        self.margin = margin
        self.hole = hole

    def call(self, images, crops):
        _, height, width, _ = images.shape
        # A pixel is a whole number below 256, which any precision of the
        # products keeps, and where nothing is picked there is 0.
        x = ops.cast(images, "float32")
        down = self._pick(crops[:, 0], height)
        right = self._pick(crops[:, 1], width)
        flip = ops.cast(crops[:, 2], "bool")[:, None, None]
        right = ops.where(flip, ops.flip(right, axis=1), right)
        x = ops.einsum("nij,njwc->niwc", down, x)
        x = ops.einsum("nij,nhjc->nhic", right, x) / 255.0
        if self.hole:
            down = self._is_in_hole(crops[:, 3], x.shape[1])[:, :, None, None]
            right = self._is_in_hole(crops[:, 4], x.shape[2])[:, None, :, None]
            x = ops.where(ops.logical_and(down, right), GREY, x)
        return x

    def _is_in_hole(self, middle, size):
        start = ops.cast(middle, "int32")[:, None] - self.hole // 2
        places = ops.arange(size, dtype="int32")[None]
        return ops.logical_and(start <= places, places < start + self.hole)

    def _pick(self, start, size):
        """Which source `j` makes place `i`, `(n, i, j)` of 0 and 1."""
        first = ops.cast(start, "int32")[:, None] + self.margin - self.pixels
        places = ops.arange(size, dtype="int32")
        source = first + places[: size - 2 * self.margin]
        found = source[:, :, None] == places[None, None]
        return ops.cast(found, "float32")

    def compute_output_shape(self, images_shape, crops_shape):
        num, height, width, channels = images_shape
        less = 2 * self.margin
        return num, height - less, width - less, channels

    def get_config(self):
        names = ("pixels", "margin", "hole")
        return super().get_config() | {n: getattr(self, n) for n in names}


def augmented(model, pixels=4, margin=0, hole=0):
    """A model of images that crops, flips and scales them first.

    It shares the weights of `model`, and its inputs are what `CropsAndFlips`
    yields: images with a margin of so many pixels on each side. Arguments are
    those of `CropAndFlip`.
    """
    height, width, channels = model.input_shape[1:]
    shape = height + 2 * margin, width + 2 * margin, channels
    inputs = {
        "images": keras.Input(shape, dtype="uint8", name="images"),
        "crops": keras.Input((5 if hole else 3,), dtype="int32", name="crops"),
    }
    x = CropAndFlip(pixels, margin, hole, name="crop_and_flip")(
        inputs["images"], inputs["crops"]
    )
    return keras.Model(inputs, model(x), name=f"augmented_{model.name}")
