"""The mean of two networks' weights.

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
        A new model. The statistics of BatchNormalization are not those of
        its activations: see `keras_prm.recalibrate`.
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
