"""The mean of two networks' weights, with statistics of its own.

What two trainings with a falling learning rate end at, one gone on from the
other, often lies around a better network than either:
Izmailov et al., arXiv 1803.05407.
"""

import keras


def mean(first, second, share):
    """A network between two of one architecture.

    Args:
        first: A network.
        second: Another one with the same layers.
        share: The second one's in the mean, in [0, 1].

    Returns:
        A new model. Its BatchNormalization has statistics that belong to
        neither: see `settle`.
    """
    model = keras.models.clone_model(second)
    model.set_weights(
        [
            (1 - share) * old + share * new
            for old, new in zip(
                first.get_weights(), second.get_weights(), strict=True
            )
        ]
    )
    return model


def settle(model, whole, batches):
    """BatchNormalization's statistics become the mean of those of batches.

    Args:
        model: The model with these layers; changed in place.
        whole: The same, or one that it is part of, for training.
        batches: An iterable of what `whole` takes.
    """
    norms = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    momenta = [layer.momentum for layer in norms]
    for number, inputs in enumerate(batches):
        for layer in norms:
            layer.momentum = number / (number + 1)
        whole(inputs, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
