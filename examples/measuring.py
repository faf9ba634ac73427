"""What a model holds, and how well it does on a split of the images."""

import keras
import numpy as np

import keras_prm


def account(stage, model, valid):
    """What a model holds and how well it does, for an account of stages."""
    costs = keras_prm.costs(model)
    logits = logits_of(model, valid)
    return {
        "stage": stage,
        "conv_weights": costs.conv_weights,
        "weights": num_kernel_weights(model),
        "stored": costs.parameters,
        "valid_accuracy": share_right(logits, valid.y),
        "valid_log_likelihood": mean_log_probability(logits, valid.y),
    }


def num_kernel_weights(model):
    """Entries of kernels that are not zero: the count of papers."""
    return sum(
        int(np.count_nonzero(keras.ops.convert_to_numpy(weight)))
        for weight in model.weights
        if len(weight.shape) > 1
    )


def logits_of(model, split):
    """A model's logits on a split, float32 `(n, classes)`."""
    logits = model.predict(split.x, batch_size=500, verbose=0)
    return np.asarray(logits, "float32")


def accuracy(model, split):
    """Share of a split that a model gets right, in [0, 1]."""
    return share_right(logits_of(model, split), split.y)


def log_likelihood(model, split):
    """Mean log probability of a split's labels.

    It feels damage long before the accuracy on some thousand images does.
    """
    return mean_log_probability(logits_of(model, split), split.y)


def share_right(logits, labels):
    """Share of the rows whose largest logit is the label's, in [0, 1]."""
    return float((np.argmax(logits, -1) == labels).mean())


def mean_log_probability(logits, labels):
    """Mean log probability of the labels."""
    losses = keras.losses.sparse_categorical_crossentropy(
        labels, logits, from_logits=True
    )
    return -float(keras.ops.mean(losses))


def file_accuracy(path, split):
    """Accuracy of a `.tflite` file, in [0, 1]."""
    return share_right(keras_prm.LiteRTModel(path)(split.x), split.y)
