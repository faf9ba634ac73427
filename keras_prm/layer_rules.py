"""One layer, one rule: how each layer treats the channels it is given.

`RULES` maps a layer class to a `Rule`. Supporting a layer is one row there
and one model in `tests/zoo.py`. A layer without a rule is not an error: all
its inputs are pinned, and the trace says so.
"""

from __future__ import annotations

import keras
from keras import layers

from keras_prm import channel_rules
from keras_prm import constants
from keras_prm import kernel_rules
from keras_prm.sites import Rule
from keras_prm.sites import pin


def apply(site, reason=None):
    """Traces one call by the rule of its layer, or pins what it touches.

    Args:
        site: The call.
        reason: Why it is to be pinned whatever its layer, or `None`.
    """
    rule = rule_for(site.layer)
    reason = reason or _why_opaque(site, rule)
    if reason is None:
        rule.trace(site)
    else:
        pin(site, reason)


def rule_for(operation):
    """The `Rule` of a layer or operation, or `None`."""
    kind = type(operation)
    if kind in RULES:
        return RULES[kind]
    if kind.__module__.startswith("keras.src.ops."):
        return OPERATIONS.get(kind.__name__)
    return None


def register_rule(layer_class, rule):
    """Registers the `Rule` of a layer class of your own.

    Args:
        layer_class: A subclass of `keras.layers.Layer`.
        rule: Its `keras_prm.Rule`.

    Raises:
        TypeError: An argument is of another type.
    """
    is_layer = isinstance(layer_class, type) and issubclass(
        layer_class, keras.layers.Layer
    )
    if not is_layer or not isinstance(rule, Rule):
        raise TypeError(
            "Expected a layer class and a rule: `register_rule(MyLayer, "
            f"keras_prm.Rule(trace))`. Received: {layer_class!r}, {rule!r}"
        )
    RULES[layer_class] = rule


def _why_opaque(site, rule):
    layer = site.layer
    if rule is None:
        return f"no rule for {type(layer).__name__}"
    if getattr(layer, "lora_enabled", False):
        return "LoRA is enabled"
    if getattr(layer, "quantization_mode", None):
        return "it is quantised"
    return unknown_argument(site.call)


def unknown_argument(call):
    """Names an argument of a layer's call that no rule knows, or `None`."""
    if isinstance(call.operation, keras.layers.Layer):
        known = {"training": (None, False), "mask": (None,)}
        for name, value in call.arguments.kwargs.items():
            usual = known.get(name, ())
            parts = keras.tree.flatten(value)
            if not all(any(p is v for v in usual) for p in parts):
                return f"it is called with {name}={value!r}"
    return None


_SAME = Rule(channel_rules.along_space(constants.same))
_ZERO = Rule(channel_rules.along_space(constants.zero_stays))
_CONV = Rule(kernel_rules.conv, kernel_rules.resize_conv)
_SEPARABLE = Rule(
    kernel_rules.separable,
    lambda layer, size, shape: {"filters": size(layer.pointwise_kernel, -1)},
)

RULES = {
    layers.Dense: Rule(
        kernel_rules.dense,
        lambda layer, size, shape: {"units": size(layer.kernel, -1)},
    ),
    layers.Conv1D: _CONV,
    layers.Conv2D: _CONV,
    layers.Conv3D: _CONV,
    layers.DepthwiseConv1D: Rule(kernel_rules.depthwise),
    layers.DepthwiseConv2D: Rule(kernel_rules.depthwise),
    layers.SeparableConv1D: _SEPARABLE,
    layers.SeparableConv2D: _SEPARABLE,
    layers.BatchNormalization: Rule(channel_rules.batch_normalization),
    layers.Activation: Rule(channel_rules.activation),
    layers.ReLU: Rule(channel_rules.elementwise),
    layers.LeakyReLU: Rule(channel_rules.elementwise),
    layers.ELU: Rule(channel_rules.elementwise),
    layers.Identity: Rule(channel_rules.identity),
    layers.Dropout: Rule(channel_rules.identity),
    layers.SpatialDropout1D: Rule(channel_rules.identity),
    layers.SpatialDropout2D: Rule(channel_rules.identity),
    layers.SpatialDropout3D: Rule(channel_rules.identity),
    layers.GaussianDropout: Rule(channel_rules.identity),
    layers.GaussianNoise: Rule(channel_rules.identity),
    layers.AlphaDropout: Rule(channel_rules.identity),
    layers.ActivityRegularization: Rule(channel_rules.identity),
    layers.MaxPooling1D: _SAME,
    layers.MaxPooling2D: _SAME,
    layers.MaxPooling3D: _SAME,
    layers.AveragePooling1D: _SAME,
    layers.AveragePooling2D: _SAME,
    layers.AveragePooling3D: _SAME,
    layers.UpSampling1D: _SAME,
    layers.UpSampling2D: _SAME,
    layers.UpSampling3D: _SAME,
    layers.Cropping1D: _SAME,
    layers.Cropping2D: _SAME,
    layers.Cropping3D: _SAME,
    layers.ZeroPadding1D: _ZERO,
    layers.ZeroPadding2D: _ZERO,
    layers.ZeroPadding3D: _ZERO,
    layers.GlobalMaxPooling1D: Rule(channel_rules.global_pooling),
    layers.GlobalMaxPooling2D: Rule(channel_rules.global_pooling),
    layers.GlobalMaxPooling3D: Rule(channel_rules.global_pooling),
    layers.GlobalAveragePooling1D: Rule(channel_rules.global_pooling),
    layers.GlobalAveragePooling2D: Rule(channel_rules.global_pooling),
    layers.GlobalAveragePooling3D: Rule(channel_rules.global_pooling),
    layers.Flatten: Rule(channel_rules.flatten),
    layers.Reshape: Rule(channel_rules.reshape, channel_rules.resize_reshape),
    layers.Permute: Rule(channel_rules.permute),
    layers.Add: Rule(channel_rules.join(constants.add)),
    layers.Subtract: Rule(channel_rules.join(constants.subtract)),
    layers.Multiply: Rule(channel_rules.join(constants.multiply)),
    layers.Average: Rule(channel_rules.join(constants.average)),
    layers.Maximum: Rule(channel_rules.join(constants.maximum)),
    layers.Minimum: Rule(channel_rules.join(constants.minimum)),
    layers.Concatenate: Rule(channel_rules.concatenate),
}

OPERATIONS = {
    "Add": Rule(channel_rules.scalar_or_join(constants.add)),
    "Subtract": Rule(channel_rules.scalar_or_join(constants.subtract)),
    "Multiply": Rule(channel_rules.scalar_or_join(constants.multiply)),
    "Maximum": Rule(channel_rules.scalar_or_join(constants.maximum)),
    "Minimum": Rule(channel_rules.scalar_or_join(constants.minimum)),
    **{
        name: Rule(channel_rules.elementwise_operation)
        for name in (
            "Relu Relu6 LeakyRelu Elu Selu Gelu Silu Sigmoid Tanh Softplus "
            "Softsign HardSigmoid HardSilu Exp Square Absolute Negative"
        ).split()
    },
}
