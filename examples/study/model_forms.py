"""Forms of a network: as it is trained fast, as it is kept, and means.

In training, convolutions and what follows them compute in half precision,
and on TensorFlow BatchNormalization is one fused operation, which Keras makes
several of. Both forms hold the same weights, in the same order.
"""

import keras
from keras import layers

import keras_prm
from keras_prm.rules import registry


class FusedBatchNormalization(layers.BatchNormalization):
    """`BatchNormalization` that trains by TensorFlow's fused operation.

    In half precision it reads and writes the images as they are, and only
    the moments are float32. On other backends it is the layer of Keras.
    """

    def call(self, inputs, training=None, mask=None):
        fits = (
            keras.backend.backend() == "tensorflow"
            and training
            and self.trainable
            and mask is None
            and self.scale
            and self.center
            and not getattr(self, "renorm", False)
            and not self.synchronized
            and self.variable_dtype == "float32"
            and self.axis in (-1, 3)
            and len(inputs.shape) == 4
        )
        if not fits:
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=tf.cast(inputs, self.compute_dtype),
            scale=tf.cast(self.gamma, "float32"),
            offset=tf.cast(self.beta, "float32"),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The operation's variance is that of a sample, Keras keeps the plain.
        count = tf.cast(tf.size(inputs) / inputs.shape[-1], "float32")
        variance = variance * (count - 1.0) / count
        for moving, new in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            share = self.momentum
            moving.assign(moving * share + new * (1.0 - share))
        return outputs


keras_prm.register_rule(
    FusedBatchNormalization, registry.RULES[layers.BatchNormalization]
)
_KEPT = (layers.InputLayer, layers.Normalization)


def for_training(model, precision, dropout=None):
    """A copy of a functional model that trains fast, with its weights.

    Pixels are normalized, and logits made, in float32 whatever the precision.

    Args:
        model: The model, in float32.
        precision: A dtype policy of Keras, such as `"mixed_bfloat16"`.
        dropout: Rate of all Dropout layers; None: they keep theirs.
    """

    def clone(layer):
        config = layer.get_config()
        if isinstance(layer, layers.BatchNormalization):
            config["dtype"] = precision
            return FusedBatchNormalization.from_config(config)
        if not isinstance(layer, _KEPT) and layer is not model.layers[-1]:
            config["dtype"] = precision
        if isinstance(layer, layers.Dropout) and dropout is not None:
            config["rate"] = dropout
        return type(layer).from_config(config)

    return _cloned(model, clone)


def as_kept(model):
    """A copy in float32, of Keras' own layers, of what was trained."""

    def clone(layer):
        config = layer.get_config()
        if not isinstance(layer, layers.InputLayer):
            config["dtype"] = "float32"
        if isinstance(layer, layers.BatchNormalization):
            return layers.BatchNormalization.from_config(config)
        return type(layer).from_config(config)

    return _cloned(model, clone)


def _cloned(model, clone):
    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy


def mean(first, second, share):
    """A network between two of one architecture.

    What two trainings with a falling learning rate end at, one gone on from
    the other, often lies around a better network than either.

    Args:
        first: A network.
        second: Another one with the same layers.
        share: The second one's in the mean, in [0, 1].

    Returns:
        A new model. The statistics of BatchNormalization are not those of
        its activations: see `keras_prm.recalibrate`.

    Reference:
        - [Izmailov et al., 2018](https://arxiv.org/abs/1803.05407)
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
