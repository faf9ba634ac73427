"""Learning from a dense model's answers to shifted images.

Shifts by whole pixels are few, so the teacher answers each image in all of
them once, and no epoch of any student pays for it again.
"""

import keras
import numpy as np

from examples.common import image_data


def teacher_logits(model, split, pixels, batch_size=512):
    """A model's logits on all images, shifted by up to `pixels` each way.

    Args:
        model: The teacher; its output is `(n, classes)`, logits.
        split: The `image_data.Split`.
        pixels: Largest shift along each axis, as of `RandomShifts`.
        batch_size: Images per prediction.

    Returns:
        float32 `(2 * pixels + 1, 2 * pixels + 1, n, classes)`; the first two
        axes are where the crop begins in the padded image, down and right.
    """
    height, width = split.x.shape[1:3]
    padded = image_data.padded(split.x, pixels)
    places = range(2 * pixels + 1)
    return np.stack(
        [
            np.stack(
                [
                    model.predict(
                        padded[:, down : down + height, right : right + width],
                        batch_size=batch_size,
                        verbose=0,
                    )
                    for right in places
                ]
            )
            for down in places
        ]
    ).astype("float32")


class TaughtShifts(image_data.RandomShifts):
    """`RandomShifts` whose targets hold the teacher's logits as well.

    Targets are `(n, 1 + classes)`: the label, then the logits. They are for
    `Distillation` and `accuracy`.

    Args:
        split: The `Split`.
        logits: What `teacher_logits` returned for it.
        batch_size: Images per batch.
        seed: Seed of order and shifts.
    """

    def __init__(self, split, logits, batch_size, seed=0):
        super().__init__(split, batch_size, logits.shape[0] // 2, seed)
        self.logits = logits

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        rows, down, right = self.draw(index)
        logits = self.logits[down, right, rows]
        return x, np.concatenate([y[:, None], logits], 1).astype("float32")


class Distillation(keras.losses.Loss):
    """Cross entropy with the labels, and with a teacher's soft answers.

        (1 - w) CE(label, softmax(s)) + w T^2 CE(softmax(t/T), softmax(s/T))

    for logits `s` of the student and `t` of the teacher. T^2 keeps the
    gradients of the second term in proportion. Where targets are labels
    alone, `(n, 1)`, it is the cross entropy with these.

    Args:
        weight: `w`, in [0, 1]; 0 does without the teacher.
        temperature: `T`, > 0.

    Reference:
        - [Hinton et al., 2015](https://arxiv.org/abs/1503.02531)
    """

    def __init__(self, weight=0.5, temperature=2.0, name="distillation"):
        super().__init__(name=name)
        self.weight = weight
        self.temperature = temperature

    def call(self, y_true, y_pred):
        hard = keras.ops.sparse_categorical_crossentropy(
            keras.ops.cast(y_true[:, 0], "int32"), y_pred, from_logits=True
        )
        if y_true.shape[-1] == 1:
            return hard
        soft = keras.ops.categorical_crossentropy(
            keras.ops.softmax(y_true[:, 1:] / self.temperature),
            y_pred / self.temperature,
            from_logits=True,
        )
        return (1 - self.weight) * hard + (
            self.weight * self.temperature**2 * soft
        )


def accuracy(y_true, y_pred):
    """Accuracy against the labels in the targets of `TaughtShifts`."""
    return keras.metrics.sparse_categorical_accuracy(y_true[:, :1], y_pred)
