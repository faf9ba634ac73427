"""What a model holds, and how well it does on a split of the images."""

import math
import os

import keras
import numpy as np

import keras_prm

# Bytes of images that are in memory as floats at a time.
CHUNK = 2**28


def account(stage, model, valid, top=None):
    """What a model holds and how well it does, for an account of stages.

    Args:
        stage: What it is called.
        model: The model.
        valid: The `Split` it is measured on.
        top: Also counts labels among so many of the largest logits; None
            does not.
    """
    costs = keras_prm.costs(model)
    logits = logits_of(model, valid)
    row = {
        "stage": stage,
        "conv_weights": costs.conv_weights,
        "weights": costs.kernel_weights,
        "stored": costs.parameters,
        "macs": costs.macs,
        "valid_log_likelihood": mean_log_probability(logits, valid.y),
    }
    shares = shares_right(logits, valid.y, top)
    return row | {f"valid_{name}": share for name, share in shares.items()}


def logits_of(model, split):
    """A model's logits on a split, float32 `(n, classes)`."""

    def predict(x):
        return model.predict(x, batch_size=min(500, len(x)), verbose=0)

    return _by_chunk(predict, split)


def _by_chunk(function, split):
    size = max(1, CHUNK // (4 * math.prod(split.image_shape)))
    starts = range(0, len(split.y), size)
    found = [function(split.floats(slice(i, i + size))) for i in starts]
    return np.concatenate(found).astype("float32")


def log_likelihood(model, split):
    """Mean log probability of a split's labels.

    It feels damage long before the accuracy on some thousand images does.
    """
    return mean_log_probability(logits_of(model, split), split.y)


def share_right(logits, labels):
    """Share of the rows whose largest logit is the label's, in [0, 1]."""
    return float((np.argmax(logits, -1) == labels).mean())


def shares_right(logits, labels, top=None):
    """`"accuracy"`, and with `top`, say 3, `"top3"`, in [0, 1].

    The latter is the share of the rows that have their label among so many
    of their largest logits.
    """
    found = {"accuracy": share_right(logits, labels)}
    if top is not None:
        largest = np.argsort(-logits, axis=-1, kind="stable")[:, :top]
        is_there = (largest == labels[:, None]).any(axis=-1)
        found[f"top{top}"] = float(is_there.mean())
    return found


def mean_log_probability(logits, labels):
    """Mean log probability of the labels."""
    losses = keras.losses.sparse_categorical_crossentropy(
        labels, logits, from_logits=True
    )
    return -float(keras.ops.mean(losses))


def mean_divergence(logits, before):
    """Mean Kullback-Leibler divergence from what was answered before, nats.

    What purification does to a network that another one taught shows here,
    and not in the likelihood of labels: such a network is less sure than it
    is right, and may get surer by what damages it.

    Args:
        logits: Array `(n, classes)`.
        before: The logits before, of the same shape.
    """
    before = keras.ops.log_softmax(before)
    gap = before - keras.ops.log_softmax(logits)
    return float(keras.ops.mean(keras.ops.sum(keras.ops.exp(before) * gap, -1)))


def file_accuracy(path, split):
    """Accuracy of a `.tflite` file, in [0, 1]."""
    return share_right(file_logits(path, split), split.y)


def file_logits(path, split):
    """Logits of a `.tflite` file on a split, float32 `(n, classes)`."""
    file = keras_prm.LiteRTModel(path, num_threads=os.cpu_count())
    return _by_chunk(lambda x: file.predict(x, batch_size=500), split)
