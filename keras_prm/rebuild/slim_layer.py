"""The smaller twin of a single layer: its config, its weights."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import layers

from keras_prm.rebuild import attachments
from keras_prm.rebuild import cloning
from keras_prm.rebuild import config_arrays
from keras_prm.rebuild import layer_edits
from keras_prm.rebuild import shared_layers
from keras_prm.rules import registry
from keras_prm.utils import keras_graph
from keras_prm.utils import variable_keys

if TYPE_CHECKING:
    from typing import Any


@dataclasses.dataclass(frozen=True)
class Twin:
    """A layer that stands for another one.

    Args:
        layer: The layer, operation or model.
        adapters: The layers to put before it, in order.
        children: Pairs of a wrapped layer and its twin.
        followers: The layers to put behind it, in order.
    """

    layer: Any
    adapters: tuple = ()
    children: tuple = ()
    followers: tuple = ()


class LayerSlimmer:
    """Makes the twins of the layers of one trace.

    Args:
        live: The `Liveness` of the trace.
        lowered: dict from `id(layer)` to the `Lowering` of its columns, of
            layers from which nothing else is to be cut.

    Attributes:
        targets: dict from `id(variable)` to what has become of it.
        changes: list of `attachments.Change`.
    """

    def __init__(self, live, lowered=None):
        self.targets = {}
        self.changes = []
        self._fitted = {}
        self.lowered = lowered or {}
        self.live = live
        self.graph = live.graph
        self._mixes = {}
        self._contents = {}
        self._read = {(value.number, axis) for value, axis in self.graph.reads}
        for contraction in self.graph.contractions:
            self._mixes.setdefault(id(contraction.layer), []).append(
                contraction
            )
        # Layers that have to stay as one layer.
        self._whole = {
            id(node.operation)
            for nodes in self.graph.inner.values()
            for node in nodes
        }
        for layer in self.graph.opaque.values():
            self._whole.update(map(id, self.graph.held(layer)))
        self._names = {
            name
            for value in self.graph.values
            for name in value.origin.split("/")
        }

    def make(self, node, shape, keep, children=(), held=()):
        """The `Twin` of a layer or operation, not built yet.

        Args:
            call: A `keras_graph.Node` of it.
            shape: The shape of its output in the smaller model.
            keep: `keep(x, axis)` is a bool array: which positions of a
                tensor's axis stay.
            children: The twins of the layers it wraps.
            held: list of pairs of a layer that it was given, and of the layer
                that the twin is to hold.
        """
        layer = node.operation
        if isinstance(layer, layers.Lambda):
            return Twin(cloning.copy_lambda(layer))
        if held and (twin := shared_layers.copy(layer, held)):
            return Twin(twin)
        config, adapters, followers = cloning.config_of(layer), (), ()
        rule = self._rule(layer)
        if isinstance(layer, layers.Layer):
            config.update(self._attachments(node, config, keep))
        if rule is not None:
            config.update(rule.resize(layer, self._size, shape))
            config.update(rule.configure(node, keep))
            if children:
                inner = self.graph.inner[id(layer)]
                return _wrapped(inner, rule, config, children)
        content = self._content_of(layer)
        for change in (content.box, content.lowering):
            if change is not None:
                config.update(change.config)
                name = self._free_name(layer.name)
                adapters = change.adapters(name, layer.dtype_policy)
        if content.narrowing is not None:
            config.update(content.narrowing.config)
            name = self._free_name(layer.name)
            followers = content.narrowing.followers(layer, name)
        if content.amount is not None and "use_bias" in config:
            config["use_bias"] = True
        if hasattr(layer, "get_vocabulary"):
            config.update(cloning.vocabulary(layer))
        # Their own would draw random numbers.
        if not cloning.records_arguments(layer):
            for name in cloning.initializers(layer, config):
                config[name] = content.initializer(layer, name)
        twin = cloning.from_config(layer, config)
        return Twin(twin, tuple(adapters), followers=tuple(followers))

    def fill(self, layer, twin):
        """Brings a built twin's weights to what they have to be."""
        if not isinstance(layer, layers.Layer) or keras_graph.is_model(layer):
            return
        if twin.children:
            for child, small in twin.children:
                self.fill(child, Twin(small))
            return
        twin, content = twin.layer, self._content_of(layer)
        cloning.adapt_sublayers(layer, twin)
        added = content.amount is not None and layer.bias is None
        bias = twin.bias if added else None
        targets = [v for v in twin.weights if v is not bias]
        if len(layer.weights) != len(targets):
            raise TypeError(
                f"Cannot copy the layer '{layer.name}' of type "
                f"{type(layer).__name__}: it has {len(layer.weights)} weights, "
                f"and what its config makes has {len(targets)}. If layers "
                "inside of it share some, call them where the model can be "
                "seen, as a functional one."
            )
        pairs = cloning.pairs(layer.weights, targets)
        pairs += _seeds(layer, twin)
        for source, target in pairs:
            self.targets[id(source)] = target
            if id(source) not in content.given:
                target.assign(content.array(source))
        for source, target in cloning.states(layer, twin):
            target.assign(self._sliced(source))
        for part in keras_graph.sublayers(twin):
            if isinstance(part, layers.Normalization):
                part.finalize_state()
        changed = self._fitted.get(id(layer), {})
        for name in cloning.initializers(layer, cloning.config_of(layer)):
            value = changed.get(name, getattr(layer, name))
            setattr(twin, name, keras.initializers.get(value))
        attachments.release_arrays(twin)

    def parts(self, layer):
        """A layer, or the layers that it wraps."""
        nodes = self.graph.inner.get(id(layer), ())
        if not nodes or id(layer) in self.graph.opaque:
            return [layer]
        found = []
        for node in nodes:
            inside = node.operation
            if keras_graph.is_model(inside):
                layers_ = [x for _, x in variable_keys.layer_paths(inside)]
            else:
                layers_ = [inside]
            found += [part for x in layers_ for part in self.parts(x)]
        return found

    def kept(self, layer, weight):
        """Which positions of a weight stay: per axis ints, or `None` for all.

        Args:
            layer: The layer it belongs to.
            weight: The `Weight`.
        """
        found: list[Any] = [
            None if ids is None else np.flatnonzero(self.live.keep(ids))
            for ids in weight.ids
        ]
        content = self._content_of(layer)
        if content.box is not None and weight.variable is layer.kernel:
            for axis, window in enumerate(content.box.window):
                found[axis] = np.arange(window.start, window.stop)
        if content.narrowing is not None:
            found[-1] = found[-1][content.narrowing.live]
        return tuple(
            None
            if at is None or len(at) == weight.variable.shape[axis]
            else tuple(at.tolist())
            for axis, at in enumerate(found)
        )

    def _attachments(self, node, config, keep):
        """Arguments that have to be others for the twin of a layer."""
        layer = node.operation
        outputs = [self._output(node, x, keep) for x in node.outputs]
        found = attachments.fitted(
            layer, config, lambda v: self._extent(layer, v), outputs
        )
        path = self.graph.homes[id(node.outputs[0])][0].origin
        self.changes += [
            attachments.Change(path, name, *how)
            for name, (_, *how) in found.items()
        ]
        changed = {name: value for name, (value, *_) in found.items()}
        self._fitted[id(layer)] = changed
        return changed

    def _extent(self, layer, variable):
        """The `Extent` of a weight of a layer."""
        before, content = tuple(variable.shape), self._content_of(layer)
        lowering = content.lowering
        if lowering is not None and variable is layer.kernel:
            after = content.array(variable).shape
            return config_arrays.Extent(before, after, (None,) * len(before))
        weight = self.graph.weights.get(id(variable))
        kept = (None,) * len(before)
        if weight is not None:
            kept = self.kept(layer, weight)
        return _extent_of(before, kept)

    def _output(self, node, x, keep):
        """The `Extent` of an output of a layer."""
        kept: list[Any] = [
            None if n is None else np.flatnonzero(keep(x, axis))
            for axis, n in enumerate(x.shape)
        ]
        content = self._content_of(node.operation)
        if content.narrowing is not None:
            kept[-1] = kept[-1][content.narrowing.live]
        return _extent_of(tuple(x.shape), kept)

    def _content_of(self, layer):
        """The `Contents` of a layer's twin, found once."""
        if id(layer) not in self._contents:
            lowering = self.lowered.get(id(layer))
            box = None if lowering else self._box(layer)
            self._contents[id(layer)] = SlimWeights(
                self._sliced,
                box,
                self._folded(layer),
                self._factors(layer),
                layer,
                None if lowering else self._narrowing(layer, box),
                lowering,
            )
        return self._contents[id(layer)]

    def _rule(self, layer):
        """The rule that its twin is made by, or `None`."""
        if id(layer) in self.graph.opaque:
            return None
        return registry.rule_for(layer)

    def _size(self, variable, axis):
        ids = self.graph.weights[id(variable)].ids[axis]
        if ids is None:
            return variable.shape[axis]
        return int(self.live.keep(ids).sum())

    def _sliced(self, variable):
        """The part of a variable that stays, as an array."""
        array = self.live.array(variable)
        weight = self.graph.weights.get(id(variable))
        axes = self.graph.states.get(id(variable), ())
        if weight is not None:
            axes = weight.ids
        for axis, ids in enumerate(axes):
            if ids is not None:
                keep = self.live.keep(ids)
                if not keep.all():
                    array = np.compress(keep, array, axis)
        return array

    def _factors(self, layer):
        """What variables are multiplied by once they are smaller."""
        rule = self._rule(layer)
        if rule is None:
            return {}
        pairs = rule.factors(layer, self._size)
        return {id(v): np.float32(f) for v, f in pairs if f != 1}

    def may_change(self, layer):
        """True for a layer with a kernel that may get others around it."""
        return (
            id(layer) in self._mixes
            and id(layer) not in self._whole
            and id(layer) not in self.graph.opaque
        )

    def _narrowing(self, layer, box):
        if not (self.may_change(layer) and layer_edits.has_filters(layer)):
            return None
        contractions = self._mixes[id(layer)]
        targets = [contraction.target for contraction in contractions]
        if any((value.number, axis) in self._read for value, axis in targets):
            return None  # an output of the model keeps its name
        constants = np.stack(
            [
                self.live.constant(value, axis)[self.live.keep(value.ids[axis])]
                for value, axis in targets
            ]
        )
        if np.isnan(constants).all():
            return None
        kernel = self._sliced(contractions[0].kernel)
        if box is not None:
            kernel = kernel[box.window]
        macs = [contraction.macs for contraction in contractions]
        positions = None if None in macs else min(macs)
        return layer_edits.find_narrowing(layer, kernel, constants, positions)

    def _box(self, layer):
        if not (self.may_change(layer) and layer_edits.has_window(layer)):
            return None
        contractions = self._mixes[id(layer)]
        kernel = self._sliced(contractions[0].kernel)
        shapes = [contraction.source[0].shape for contraction in contractions]
        return layer_edits.find_box(layer, kernel, shapes)

    def _folded(self, layer):
        """What goes into a layer's bias, `(out,)`, or `None` if nothing."""
        for contraction in self._mixes.get(id(layer), ()):
            amount = self.live.folded_bias(contraction)
            if np.any(amount):
                value, axis = contraction.target
                amount = amount[self.live.keep(value.ids[axis])]
            if np.any(amount):
                return amount
        return None

    def _free_name(self, name):
        """A stem for the names of adapters that no layer has already."""
        suffixes = ("pad", "crop", "place", "columns")
        while self._names & {f"{name}_{suffix}" for suffix in suffixes}:
            name += "_"
        return name


def _extent_of(shape, kept):
    after = tuple(
        n if at is None else len(at) for n, at in zip(shape, kept, strict=True)
    )
    return config_arrays.Extent(shape, after, tuple(kept))


def _seeds(layer, twin):
    """Pairs of the states of random generators, which both have or not.

    A layer has none that is made without dropout, and still has one if its
    dropout was switched off later.
    """
    seeds = []
    for each in (layer, twin):
        weights = {id(w) for w in each.weights}
        seeds.append([v for v in each.variables if id(v) not in weights])
    return zip(*seeds) if len(seeds[0]) == len(seeds[1]) else ()


def _wrapped(nodes, rule, config, children):
    wrapper, inside = rule.wrap(config, [twin.layer for twin in children])
    pairs = zip((node.operation for node in nodes), inside)
    return Twin(wrapper, (), tuple(pairs))


class SlimWeights:
    """The arrays of one twin's variables.

    Args:
        sliced: Maps a variable to the part of it that stays.
        box: The `KernelBox` its kernel is cut to, or `None`.
        amount: What is added to its bias, `(out,)`, or `None`.
        factors: dict from `id(variable)` to what it is multiplied by.
        layer: The layer whose twin it is.
        narrowing: The `Narrowing` of its filters, or `None`.
        lowering: The `Lowering` of its columns, or `None`.

    Attributes:
        given: ids of the variables that an initializer has taken care of.
    """

    def __init__(
        self,
        sliced,
        box,
        amount,
        factors,
        layer,
        narrowing=None,
        lowering=None,
    ):
        self.sliced = sliced
        self.box = box
        self.amount = amount
        self.factors = factors
        self.layer = layer
        self.narrowing = narrowing
        self.lowering = lowering
        self.given = set()

    def array(self, source):
        """What a variable of the layer is in its twin."""
        array = self.sliced(source)
        if self.box is not None and source is self.layer.kernel:
            array = array[self.box.window]
        if self.lowering is not None and source is self.layer.kernel:
            array = self.lowering.kernel(array)
        if self.amount is not None and source is self.layer.bias:
            array = array + self.amount
        if id(source) in self.factors:
            array = array * self.factors[id(source)]
        return self._narrow(array)

    def initializer(self, layer, name):
        """An initializer that gives a new variable its final value.

        Zeros where it is not clear which variable it is for; it is assigned
        afterwards then.
        """
        stem = name.removesuffix("_initializer")
        own = getattr(layer, stem, None)
        if own is None:
            own = getattr(layer, f"{stem}_kernel", None)
        if stem == "bias" and own is None and self.amount is not None:
            return self._given(None, self._narrow(self.amount))
        if not any(own is v for v in layer.variables):
            return "zeros"
        return self._given(own, self.array(own))

    def _narrow(self, array):
        """The filters that stay, of a kernel or a bias."""
        if self.narrowing is None:
            return array
        return np.compress(self.narrowing.live, array, axis=-1)

    def _given(self, source, array):
        def initialize(shape, dtype=None):
            if tuple(shape) != array.shape:  # another variable's
                return keras.ops.zeros(shape, dtype)
            self.given.add(id(source))
            if str(array.dtype) == dtype:
                return array
            return keras.ops.convert_to_tensor(array, dtype)

        return initialize
