"""`SparsityTensorBoard`: residuals, live structures and masks."""

from __future__ import annotations

import io
import os
import time
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_prm.analysis.trace import trace
from keras_prm.plans.plan_fit import plan_fits
from keras_prm.pruning.masks import masks_of
from keras_prm.training import progress
from keras_prm.training import trainers
from keras_prm.utils import kernel_layout
from keras_prm.utils import validation

if TYPE_CHECKING:
    from typing import Any

# Pixels along each side of an image: more are pooled, fewer enlarged.
MOST_PIXELS = 1024
ENOUGH_PIXELS = 256


class SparsityTensorBoard(keras.callbacks.Callback):
    """Writes masks and residuals for TensorBoard.

    Of a model compiled with `ADMMWrapper`, at the end of every epoch:

    * the scalars `primal_residual`, `dual_residual`, both followed by `/`
      and the key for each kernel, as `ADMMProgress` adds them to `History`,
      and `rho`;
    * for each planned kernel the scalars `live_filters/<key>` and
      `live_columns/<key>`, and the image `masks/<key>`, of the support of
      `Z`.

    Of any other model, such as one that is trained with `StructuredMask`,
    the live filters and columns and the images of all kernels, of what is
    not zero.

    An image has one row per filter and one column per column of the kernel;
    black is kept, white is gone. Small masks are enlarged. In large ones a
    pixel stands for several weights, and is the darker the more of them are
    kept.

    Needs the package `tensorboard`, on every backend, and TensorFlow on
    none. Stands beside `keras.callbacks.TensorBoard`: give it a folder of
    its own below the other's `log_dir`.

    Args:
        log_dir: The folder to write to; it is one run in TensorBoard.
        images_every: Epochs from one image of each mask to the next,
            beginning with the first; 0 writes none. Defaults to 1.
        model: The network that is shown, where `fit` is another model's,
            such as a GAN that it is a part of. Defaults to `None`: the one
            that an `ADMMWrapper` trains, or the only one with zeros.

    Raises:
        ImportError: `tensorboard` is not installed.
        ValueError: `images_every` is not an integer of at least 0; in
            `fit`, several networks inside of the model would do.

    Example:

    ```python
    board = keras_prm.SparsityTensorBoard("logs/masks")
    model.fit(x, y, epochs=30, callbacks=[board])
    ```
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        images_every: int = 1,
        model: keras.Model | None = None,
    ) -> None:
        super().__init__()
        validation.check_whole(
            "images_every",
            images_every,
            "epochs",
            "Pass 1 for images of every epoch, 0 for none.",
            least=0,
        )
        self.log_dir = os.fspath(log_dir)
        self.images_every = images_every
        self.network = model
        _import_tensorboard()
        self._writer = None
        self._kernels = ()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._close()
        self._kernels = ()
        if self._wrapper() is None:
            weights = trace(self._pruned()).weights.values()
            self._kernels = [w for w in weights if w.role == "kernel"]
        self._writer = _import_tensorboard().EventFileWriter(self.log_dir)

    def on_epoch_end(
        self,
        epoch: int,
        logs: dict[str, Any] | None = None,
    ) -> None:
        wrapper = self._wrapper()
        found = {}
        if wrapper is not None:
            found = progress.scalars(wrapper)
            found["rho"] = wrapper.current_rho
        with_images = self.images_every and epoch % self.images_every == 0
        values = []
        for key, mask in self._masks(wrapper):
            found[f"live_filters/{key}"] = mask.any(axis=1).sum()
            found[f"live_columns/{key}"] = mask.any(axis=0).sum()
            if with_images:
                values.append(_image_value(f"masks/{key}", mask_picture(mask)))
        values += [
            {"tag": tag, "simple_value": float(value)}
            for tag, value in found.items()
        ]
        self._write(epoch, values)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._close()

    def _wrapper(self):
        return trainers.wrapper_of(self.model, self.network, plan_fits)

    def _pruned(self):
        return trainers.network_of(
            self.model,
            self.network,
            lambda model: True,
            "can be shown",
            lambda model: masks_of(model).kernels,
        )

    def _masks(self, wrapper):
        """Yields the key of each kernel and its mask, filters x columns."""
        if wrapper is not None:
            for key, mask in wrapper.masks().items():
                yield key, np.outer(mask.filters, mask.columns)
            return
        for weight in self._kernels:
            live = keras.ops.convert_to_numpy(weight.variable) != 0
            live = kernel_layout.to_matrix(live, weight.axes)
            yield weight.key, live.reshape(-1, live.shape[-1]).T

    def _write(self, step, values):
        from tensorboard.compat.proto import event_pb2
        from tensorboard.compat.proto import summary_pb2

        values = [summary_pb2.Summary.Value(**value) for value in values]
        self._writer.add_event(
            event_pb2.Event(
                wall_time=time.time(),
                step=step,
                summary=summary_pb2.Summary(value=values),
            )
        )
        # What is there can be looked at while training goes on.
        self._writer.flush()

    def _close(self):
        if self._writer is not None:
            self._writer.close()
        self._writer = None


def mask_picture(mask):
    """A mask as gray values, uint8: 0 where kept, 255 where gone.

    Args:
        mask: bool array, filters x columns.
    """
    share = np.asarray(mask, "float32")
    for axis, size in enumerate(share.shape):
        if size > MOST_PIXELS:
            width = -(-size // MOST_PIXELS)
            starts = np.arange(0, size, width)
            counts = np.diff(np.append(starts, size))
            share = np.add.reduceat(share, starts, axis=axis)
            share /= np.expand_dims(counts, 1 - axis)
        elif size < ENOUGH_PIXELS:
            share = np.repeat(share, ENOUGH_PIXELS // size, axis=axis)
    return np.round(255 * (1 - share)).astype("uint8")


def _image_value(tag, pixels):
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="png")
    height, width = pixels.shape
    image = {
        "height": height,
        "width": width,
        "colorspace": 1,
        "encoded_image_string": stream.getvalue(),
    }
    return {"tag": tag, "image": image}


def _import_tensorboard():
    try:
        from tensorboard.summary.writer import event_file_writer
    except ImportError as error:
        raise ImportError(
            "SparsityTensorBoard writes with the package `tensorboard`, "
            "which is not installed. Install it with "
            '`pip install "keras-prm[tensorboard]"`; it needs no TensorFlow.'
        ) from error
    return event_file_writer
