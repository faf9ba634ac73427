"""Rules of layers with a kernel, which make channels."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_prm.dependency import constants
from keras_prm.rules.base import channel_axis
from keras_prm.rules.base import pin
from keras_prm.rules.base import read_others
from keras_prm.utils import conv_geometry

_ALL_TAPS = np.ones((), bool)


def _contraction(call, sources, targets, kernel, bias, **options):
    """A product with a layer's kernel, then its bias and activation."""
    layer = call.layer
    activation = constants.activation_map(layer.activation)
    call.graph.contraction(
        call, sources, targets, kernel, bias, activation=activation, **options
    )
    if not constants.is_elementwise(layer.activation):
        name = getattr(layer.activation, "__name__", "activation")
        call.read_all(targets[0][0], f"its {name} reads every channel")


def dense(call):
    """A kernel mixes the last axis into new channels; other axes pass."""
    layer, x, out = call.layer, call.inputs[0], call.outputs[0]
    axis = len(x.shape) - 1
    for other in range(1, axis):
        call.move((x, other), (out, other), constants.unknown)
    bias = layer.bias if layer.use_bias else None
    ends = [(x, axis)], [(out, axis)]
    _contraction(call, *ends, layer.kernel, bias, inside=_ALL_TAPS)


def conv(call, depthwise=False):
    """A kernel mixes the channels into new ones, group by group."""
    layer = call.layer
    source, target = _slides(call)
    _contraction(
        call,
        [source],
        [target],
        layer.kernel,
        layer.bias if layer.use_bias else None,
        inside=conv_geometry.taps_inside(layer, _space(*source)),
        groups=1 if depthwise else layer.groups,
        depthwise=depthwise,
    )


def depthwise(call):
    """Each channel makes channels of its own: they stand together."""
    conv(call, depthwise=True)


def separable(call):
    """A depthwise convolution, then a 1x1 one that makes new channels."""
    layer = call.layer
    source, (out, axis) = _slides(call)
    shape = list(out.shape)
    shape[axis] = layer.pointwise_kernel.shape[-2]
    hidden = call.graph.value(shape, call.path)
    call.graph.contraction(
        call,
        [source],
        [(hidden, axis)],
        layer.depthwise_kernel,
        depthwise=True,
        inside=conv_geometry.taps_inside(layer, _space(*source)),
    )
    point = layer.pointwise_kernel
    _contraction(
        call,
        [(hidden, axis)],
        [(out, axis)],
        point,
        layer.bias if layer.use_bias else None,
        inside=np.ones(point.shape[:-2], bool),
    )


def transposed(call):
    """A transposed convolution; its kernel is `(..., out, in)`."""
    layer = call.layer
    source, target = _slides(call)
    space = _space(*source)
    _contraction(
        call,
        [source],
        [target],
        layer.kernel,
        layer.bias if layer.use_bias else None,
        axes=((-1,), (-2,)),
        macs=None if None in space else int(np.prod(space)),
    )


def _slides(call):
    """`(value, axis)` of the channels in and out of a convolution."""
    x, out = call.inputs[0], call.outputs[0]
    axis = channel_axis(call.layer, x)
    read_others(call, x, axis, "a convolution slides over it")
    return (x, axis), (out, axis)


def _space(value, axis):
    return [n for i, n in enumerate(value.shape) if i not in (0, axis)]


@dataclasses.dataclass(frozen=True)
class _Equation:
    """What an `EinsumDense` contracts, its axes by labels.

    Args:
        read: str, the axes of the input.
        kernel: str, those of the kernel.
        made: str, those of the output.
    """

    read: str
    kernel: str
    made: str

    @classmethod
    def of(cls, layer, in_rank, out_rank):
        """A layer's equation, dots as digits; `None` where they do not fit."""
        read, rest = layer.equation.replace(" ", "").split(",")
        kernel, made = rest.split("->")
        spare = in_rank - len(read.replace("...", ""))
        dots = "0123456789"[: max(spare, 0)]
        read, made = read.replace("...", dots), made.replace("...", dots)
        fits = len(read) == in_rank and len(made) == out_rank
        return cls(read, kernel, made) if fits and "." not in kernel else None

    @property
    def contracted(self):
        """The axes of the kernel that are summed over, a list."""
        return [a for a in self.kernel if a in self.read and a not in self.made]

    @property
    def produced(self):
        """The axes that the output has from the kernel, a list."""
        return [a for a in self.made if a in self.kernel and a not in self.read]

    def is_product(self):
        """Whether each axis is contracted, produced or passed on."""
        contracted, produced = {*self.contracted}, {*self.produced}
        return (
            bool(contracted and produced)
            and {*self.kernel} == contracted | produced
            and {*self.read} == contracted | ({*self.made} - produced)
            and self.read[0] == self.made[0]  # the batch
        )

    def fits_bias(self, layer):
        """Whether a layer's bias has the axes that its kernel produces."""
        axes = [*layer.bias_axes.replace(" ", "")]
        is_last = self.made.endswith("".join(self.produced))
        return axes == self.produced and is_last


def einsum_dense(call):
    """A product whose equation contracts some axes and makes others."""
    layer, x, out = call.layer, call.inputs[0], call.outputs[0]
    equation = _Equation.of(layer, len(x.shape), len(out.shape))
    if equation is None or not equation.is_product():
        pin(call, f"'{layer.equation.replace(' ', '')}' is not a plain product")
        return
    if layer.bias is not None and not equation.fits_bias(layer):
        pin(call, "its bias varies along other axes than its kernel")
        return
    contracted, produced = equation.contracted, equation.produced
    for axis, label in enumerate(equation.read):
        if axis and label in equation.made:
            target = (out, equation.made.index(label))
            call.move((x, axis), target, constants.unknown)
    one_each = len(contracted) == len(produced) == 1
    _contraction(
        call,
        [(x, equation.read.index(a)) for a in contracted],
        [(out, equation.made.index(a)) for a in produced],
        layer.kernel,
        layer.bias,
        axes=tuple(
            tuple(equation.kernel.index(a) for a in side)
            for side in (contracted, produced)
        ),
        inside=_ALL_TAPS if one_each and layer.bias is not None else None,
    )


def resize_einsum_dense(layer, size, shape):
    """The output's shape, but `None` where the layer's own is."""
    old = layer.get_config()["output_shape"]
    old = (old,) if isinstance(old, int) else tuple(old)
    new = shape[len(shape) - len(old) :]
    return {
        "output_shape": [
            None if before is None else after for before, after in zip(old, new)
        ]
    }


def embedding(call):
    """A product with the one-hot vectors of its input."""
    layer, out = call.layer, call.outputs[0]
    one_hot = call.graph.value((None, layer.input_dim), call.path)
    call.graph.contraction(
        call,
        [(one_hot, 1)],
        [(out, len(out.shape) - 1)],
        layer.embeddings,
        macs=0,
        prunes_columns=False,
    )


def resize_conv(layer, size, shape):
    """The filters that are left, in groups as large as before."""
    kept = size(layer.kernel, -1)
    per_group = layer.filters // layer.groups
    return {"filters": kept, "groups": max(1, kept // per_group)}
