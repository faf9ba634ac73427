"""Table of rules: one for each layer class.

`RULES` maps a layer class to a `Rule`; what else a new layer needs stands in
`docs/architecture.md`. A layer without a rule is not an error: all its inputs
are pinned, and the graph says so.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import keras
from keras import layers

from keras_prm.dependency import ambiguous_sums
from keras_prm.dependency import constants
from keras_prm.rules import attention
from keras_prm.rules import axes
from keras_prm.rules import kernels
from keras_prm.rules import merging
from keras_prm.rules import normalization
from keras_prm.rules import operators
from keras_prm.rules import passthrough
from keras_prm.rules import reshaping
from keras_prm.rules import rnn
from keras_prm.rules.base import Rule
from keras_prm.rules.base import pin
from keras_prm.utils import keras_graph
from keras_prm.utils import keras_hooks

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from keras_prm.rules.base import LayerCall


def apply(call: LayerCall, reason: str | None = None) -> None:
    """Traces one call by the rule of its layer, or pins what it touches.

    Args:
        call: The call.
        reason: Why it is to be pinned whatever its layer, or `None`.
    """
    rule = rule_for(call.layer)
    reason = reason or _why_opaque(call, rule)
    if reason is None:
        mask = call.node.arguments.kwargs.get("mask")
        if isinstance(mask, keras.KerasTensor):
            call.read_all(call.value_of(mask), "it is a mask")
        if call.is_in_training():
            call = _behind_noise(call)
        with call.graph.told(call.node):
            rule.trace(call)
    else:
        pin(call, reason)


def _behind_noise(call):
    """The call of a layer that computes as in training, or not.

    In `model(x)` it does, in `predict` it does not: what is constant to one
    need not be to the other. Dropout keeps zeros at any rate.
    """
    drops = isinstance(call.layer, (layers.Dropout, layers.GaussianDropout))
    combine = constants.zero_stays if drops else constants.unknown
    found = []
    for x in call.inputs:
        noisy = call.graph.value(x.shape, call.path)
        for axis in range(1, len(x.shape)):
            call.move((x, axis), (noisy, axis), combine)
        found.append(noisy)
    return dataclasses.replace(call, inputs=found)


def rule_for(operation: Any) -> Rule | None:
    """The `Rule` of a layer or operation, or `None`."""
    kind = type(operation)
    if kind in RULES:
        return RULES[kind]
    if kind.__module__.startswith("keras.src.ops."):
        return operators.OPERATIONS.get(kind.__name__)
    return APPLICATIONS.get(f"{kind.__module__}.{kind.__name__}")


def is_block(layer: Any) -> bool:
    """True for a layer without a rule, not of Keras, that holds layers."""
    return (
        isinstance(layer, keras.layers.Layer)
        and not keras_graph.is_model(layer)
        and rule_for(layer) is None
        and not type(layer).__module__.startswith("keras.")
        and len(keras_hooks.sublayers(layer)) > 1
    )


def register_rule(layer_class: type[keras.layers.Layer], rule: Rule) -> None:
    """Registers the `Rule` of a layer class of your own.

    It is for this very class: a subclass of it, or of a layer of Keras, may
    compute otherwise and needs a rule of its own.

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


def _why_opaque(call, rule):
    layer = call.layer
    if isinstance(layer, layers.TFSMLayer):
        return "it runs a SavedModel, whose inside cannot be seen"
    if rule is None:
        reason = f"no rule for {type(layer).__name__}"
        if is_block(layer):
            reason += ", which `keras_prm.as_functional` may look into"
        return reason
    is_layer = isinstance(layer, keras.layers.Layer)
    parts = keras_hooks.sublayers(layer) if is_layer else ()
    if any(getattr(part, "lora_enabled", False) for part in parts):
        return "LoRA is enabled"
    if call.is_in_training() and not type(layer).__module__.startswith(
        "keras."
    ):
        return "it is called with training=True"
    if any(getattr(part, "quantization_mode", None) for part in parts):
        return "it is quantized"
    return ambiguous_sums.reason(call.node) or unknown_argument(
        call.node, rule.arguments
    )


def unknown_argument(
    node: keras_graph.Node,
    rule_knows: Iterable[str] = (),
) -> str | None:
    """Names an argument of a layer's call that no rule knows, or `None`."""
    if isinstance(node.operation, keras.layers.Layer):
        more = node.arguments.args[1:]
        if {*rule_knows} <= {*_MASK} and any(x is not None for x in more):
            return "it is called with several arguments"
        known = {
            "training": (None, False, True),  # `apply` looks at it
            "mask": (None,),
            "initial_state": (None,),
            "return_attention_scores": (False,),
        }
        for name, value in node.arguments.kwargs.items():
            if name in rule_knows:
                continue
            usual = known.get(name, ())
            parts = keras.tree.flatten(value)
            if not all(any(p is v for v in usual) for p in parts):
                tensor = isinstance(value, keras.KerasTensor)
                value = "a tensor" if tensor else repr(value)
                return f"it is called with {name}={value}"
    return None


_MASK = ("mask",)  # of timesteps; `apply` reads it
_SAME = Rule(passthrough.along_space(constants.same))
_ZERO = Rule(passthrough.along_space(constants.zero_stays))
_CONV = Rule(kernels.conv, kernels.resize_conv)
_SEPARABLE = Rule(
    kernels.separable,
    lambda layer, size, shape: {"filters": size(layer.pointwise_kernel, -1)},
)

_TRANSPOSED = Rule(
    kernels.transposed,
    lambda layer, size, shape: {"filters": size(layer.kernel, -2)},
)
_NORMALIZES = Rule(normalization.normalizes)


RULES = {
    layers.Dense: Rule(
        kernels.dense,
        lambda layer, size, shape: {"units": size(layer.kernel, -1)},
    ),
    layers.Conv1D: _CONV,
    layers.Conv2D: _CONV,
    layers.Conv3D: _CONV,
    layers.DepthwiseConv1D: Rule(kernels.depthwise),
    layers.DepthwiseConv2D: Rule(kernels.depthwise),
    layers.SeparableConv1D: _SEPARABLE,
    layers.SeparableConv2D: _SEPARABLE,
    layers.Conv1DTranspose: _TRANSPOSED,
    layers.Conv2DTranspose: _TRANSPOSED,
    layers.Conv3DTranspose: _TRANSPOSED,
    layers.EinsumDense: Rule(kernels.einsum_dense, kernels.resize_einsum_dense),
    layers.Embedding: Rule(
        kernels.embedding,
        lambda layer, size, shape: {"output_dim": size(layer.embeddings, -1)},
    ),
    **{
        kind: Rule(
            rnn.recurrent(*gates),
            rnn.resize_recurrent,
            arguments=_MASK,
        )
        for kind, gates in rnn.GATED.items()
    },
    layers.Bidirectional: Rule(
        rnn.bidirectional,
        arguments=_MASK,
        wrap=rnn.wrap_bidirectional,
    ),
    layers.TimeDistributed: Rule(
        rnn.time_distributed,
        arguments=_MASK,
        wrap=rnn.wrap_time_distributed,
    ),
    layers.MultiHeadAttention: Rule(
        attention.multi_head,
        attention.resize_multi_head,
        arguments=attention.ARGUMENTS,
        factors=attention.keep_the_scale,
    ),
    layers.GroupQueryAttention: Rule(
        attention.group_query,
        attention.resize_group_query,
        arguments=attention.ARGUMENTS,
        factors=attention.keep_the_scale,
    ),
    layers.BatchNormalization: Rule(
        normalization.batch_normalization, arguments=_MASK
    ),
    layers.GroupNormalization: Rule(
        normalization.group_normalization,
        normalization.resize_group_normalization,
    ),
    layers.LayerNormalization: _NORMALIZES,
    layers.RMSNormalization: _NORMALIZES,
    layers.UnitNormalization: _NORMALIZES,
    layers.Rescaling: Rule(normalization.rescaling),
    layers.Normalization: Rule(normalization.normalization),
    layers.PReLU: Rule(normalization.prelu),
    layers.Activation: Rule(passthrough.activation),
    layers.ReLU: Rule(passthrough.elementwise),
    layers.LeakyReLU: Rule(passthrough.elementwise),
    layers.ELU: Rule(passthrough.elementwise),
    layers.Identity: Rule(passthrough.identity),
    layers.Dropout: Rule(passthrough.identity, passthrough.resize_dropout),
    layers.SpatialDropout1D: Rule(passthrough.identity),
    layers.SpatialDropout2D: Rule(passthrough.identity),
    layers.SpatialDropout3D: Rule(passthrough.identity),
    layers.GaussianDropout: Rule(passthrough.identity),
    layers.GaussianNoise: Rule(passthrough.identity),
    layers.AlphaDropout: Rule(passthrough.identity, passthrough.resize_dropout),
    layers.ActivityRegularization: Rule(passthrough.identity),
    layers.MaxPooling1D: _SAME,
    layers.MaxPooling2D: _SAME,
    layers.MaxPooling3D: _SAME,
    layers.AveragePooling1D: _SAME,
    layers.AveragePooling2D: _SAME,
    layers.AveragePooling3D: _SAME,
    layers.AdaptiveAveragePooling1D: _SAME,
    layers.AdaptiveAveragePooling2D: _SAME,
    layers.AdaptiveAveragePooling3D: _SAME,
    layers.AdaptiveMaxPooling1D: _SAME,
    layers.AdaptiveMaxPooling2D: _SAME,
    layers.AdaptiveMaxPooling3D: _SAME,
    layers.Resizing: Rule(passthrough.resizing, arguments=("training",)),
    layers.RepeatVector: Rule(reshaping.repeat_vector),
    layers.Dot: Rule(axes.dot),
    layers.UpSampling1D: _SAME,
    layers.UpSampling2D: _SAME,
    layers.UpSampling3D: _SAME,
    layers.Cropping1D: _SAME,
    layers.Cropping2D: _SAME,
    layers.Cropping3D: _SAME,
    layers.ZeroPadding1D: _ZERO,
    layers.ZeroPadding2D: _ZERO,
    layers.ZeroPadding3D: _ZERO,
    layers.GlobalMaxPooling1D: Rule(passthrough.global_pooling),
    layers.GlobalMaxPooling2D: Rule(passthrough.global_pooling),
    layers.GlobalMaxPooling3D: Rule(passthrough.global_pooling),
    layers.GlobalAveragePooling1D: Rule(
        passthrough.global_pooling, arguments=_MASK
    ),
    layers.GlobalAveragePooling2D: Rule(passthrough.global_pooling),
    layers.GlobalAveragePooling3D: Rule(passthrough.global_pooling),
    layers.Flatten: Rule(reshaping.flatten),
    layers.Reshape: Rule(reshaping.reshape, reshaping.resize_reshape),
    layers.Permute: Rule(reshaping.permute),
    layers.Add: Rule(merging.join(constants.add)),
    layers.Subtract: Rule(merging.join(constants.subtract)),
    layers.Multiply: Rule(merging.join(constants.multiply)),
    layers.Average: Rule(merging.join(constants.average)),
    layers.Maximum: Rule(merging.join(constants.maximum)),
    layers.Minimum: Rule(merging.join(constants.minimum)),
    layers.Concatenate: Rule(merging.concatenate),
}

# Layers of keras.applications, which Keras does not export.
APPLICATIONS = {
    "keras.src.applications.convnext.LayerScale": Rule(
        normalization.layer_scale,
        lambda layer, size, shape: {"projection_dim": size(layer.gamma, 0)},
    ),
    "keras.src.applications.convnext.StochasticDepth": Rule(
        passthrough.identity
    ),
    "keras.src.applications.inception_resnet_v2.CustomScaleLayer": Rule(
        merging.scaled_sum
    ),
}
