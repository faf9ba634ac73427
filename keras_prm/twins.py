"""The smaller twin of a single layer: its config, its weights."""

from __future__ import annotations

import dataclasses
import inspect

import keras
import numpy as np
from keras import layers

from keras_prm import kernel_boxes
from keras_prm import layer_rules
from keras_prm import topology


@dataclasses.dataclass(frozen=True)
class Twin:
    """A layer that stands for another one.

    Args:
        layer: The layer, operation or model.
        adapters: The layers to put before it, in order.
        children: Pairs of a wrapped layer and its twin.
    """

    layer: object
    adapters: tuple = ()
    children: tuple = ()


class Maker:
    """Makes the twins of the layers of one trace.

    Args:
        live: The `Liveness` of the trace.
    """

    def __init__(self, live):
        self.live = live
        self.trace = live.trace
        self._mixes = {}
        for mix in self.trace.mixes:
            self._mixes.setdefault(id(mix.layer), []).append(mix)
        self._wrapped = {
            id(call.operation)
            for calls in self.trace.inner.values()
            for call in calls
        }
        self._names = {
            name
            for value in self.trace.values
            for name in value.origin.split("/")
        }

    def make(self, call, shape, keep, children=()):
        """The `Twin` of a layer or operation, not built yet.

        Args:
            call: A `topology.Call` of it.
            shape: The shape of its output in the smaller model.
            keep: `keep(x, axis)` is a bool array: which positions of a
                tensor's axis stay.
            children: The twins of the layers it wraps.
        """
        layer = call.operation
        if isinstance(layer, layers.Lambda):
            return Twin(_copy_lambda(layer))
        config, adapters = layer.get_config(), ()
        rule = layer_rules.rule_for(layer)
        if rule is not None and id(layer) not in self.trace.opaque:
            config.update(rule.resize(layer, self._size, shape))
            config.update(rule.configure(call, keep))
            if children:
                return _wrapped(
                    self.trace.inner[id(layer)], rule, config, children
                )
        # They would draw random numbers, or hold arrays of the old shape.
        config.update(dict.fromkeys(_initializers(layer, config), "zeros"))
        if hasattr(layer, "get_vocabulary"):
            config["vocabulary"] = layer.get_vocabulary(
                include_special_tokens=False
            )
        box = self._box(layer)
        if box is not None:
            config.update(box.config)
            name = self._free_name(layer.name)
            adapters = tuple(box.adapters(name, layer.dtype_policy))
        if self._folded(layer) is not None:
            config["use_bias"] = True
        if inspect.isfunction(getattr(layer, "activation", None)):
            config["activation"] = layer.activation
        return Twin(type(layer).from_config(config), adapters)

    def fill(self, layer, twin):
        """Moves a layer's weights, cut and folded, into its built twin."""
        if not isinstance(layer, layers.Layer) or topology.is_model(layer):
            return
        if twin.children:
            for child, small in twin.children:
                self.fill(child, Twin(small))
            return
        twin = twin.layer
        amount, box = self._folded(layer), self._box(layer)
        factors = self._factors(layer)
        targets = list(twin.variables)
        if amount is not None and not layer.use_bias:
            twin.bias.assign(amount)
            targets = [v for v in targets if v is not twin.bias]
        for source, target in zip(layer.variables, targets, strict=True):
            array = self._sliced(source)
            if box is not None and source is layer.kernel:
                array = array[box.window]
            if amount is not None and source is layer.bias:
                array = array + amount
            if id(source) in factors:
                array = array * factors[id(source)]
            target.assign(array)
        if isinstance(twin, layers.Normalization):
            twin.finalize_state()
        for name in _initializers(layer, layer.get_config()):
            setattr(twin, name, getattr(layer, name))

    def _size(self, variable, axis):
        ids = self.trace.weights[id(variable)].ids[axis]
        if ids is None:
            return variable.shape[axis]
        return int(self.live.keep(ids).sum())

    def _sliced(self, variable):
        """The part of a variable that stays, as an array."""
        array = keras.ops.convert_to_numpy(variable)
        weight = self.trace.weights.get(id(variable))
        if weight is not None:
            for axis, ids in enumerate(weight.ids):
                if ids is not None:
                    keep = self.live.keep(ids)
                    if not keep.all():
                        array = np.compress(keep, array, axis)
        return array

    def _factors(self, layer):
        """What variables are multiplied by once they are smaller."""
        rule = layer_rules.rule_for(layer)
        if rule is None or id(layer) in self.trace.opaque:
            return {}
        pairs = rule.factors(layer, self._size)
        return {id(v): np.float32(f) for v, f in pairs if f != 1}

    def _box(self, layer):
        mixes = self._mixes.get(id(layer), ())
        if (
            not mixes
            or id(layer) in self._wrapped
            or id(layer) in self.trace.opaque
            or not kernel_boxes.has_window(layer)
        ):
            return None
        kernel = self._sliced(mixes[0].kernel)
        shapes = [mix.source[0].shape for mix in mixes]
        return kernel_boxes.find(layer, kernel, shapes)

    def _folded(self, layer):
        """What goes into a layer's bias, `(out,)`, or `None` if nothing."""
        for mix in self._mixes.get(id(layer), ()):
            amount = self.live.folded_bias(mix)
            if np.any(amount):
                value, axis = mix.target
                amount = amount[self.live.keep(value.ids[axis])]
            if np.any(amount):
                return amount
        return None

    def _free_name(self, name):
        """A stem for the names of adapters that no layer has already."""
        while self._names & {f"{name}_pad", f"{name}_crop"}:
            name += "_"
        return name


def _wrapped(calls, rule, config, children):
    wrapper, inside = rule.wrap(config, [twin.layer for twin in children])
    pairs = zip((call.operation for call in calls), inside)
    return Twin(wrapper, (), tuple(pairs))


def _initializers(layer, config):
    """Names of the arguments that hold a layer's own initializers."""
    attributes = vars(layer)
    return [
        name
        for name in config
        if name.endswith("_initializer") and name in attributes
    ]


def _copy_lambda(layer):
    config = layer.get_config()
    return layers.Lambda(
        layer.function,
        mask=layer.mask,
        arguments=layer.arguments,
        name=config["name"],
        dtype=layer.dtype_policy,
    )
