"""From a model to its channel ids: which positions stand and fall together.

Every axis of every tensor that can be pruned carries a vector of integer
*channel ids*. A layer that makes channels makes fresh ids, a layer that
passes channels on passes ids on, and whatever must keep two positions
together *ties* their ids. The classes of tied ids are what can be removed.
"""

from __future__ import annotations

import math

import numpy as np

from keras_prm import constants
from keras_prm import layer_rules
from keras_prm import layouts
from keras_prm import topology
from keras_prm.sites import Site
from keras_prm.steps import Affine
from keras_prm.steps import Flow
from keras_prm.steps import Mix
from keras_prm.steps import Recurrence
from keras_prm.steps import Sum
from keras_prm.structures import Value
from keras_prm.structures import Weight

_PLAIN = {
    "groups": 1,
    "depthwise": False,
    "activation": constants.same,
    "inside": None,
}


class Trace:
    """A model as records: values, what flows between them, and weights.

    Made by `trace(model)`; rules write it, analyses read it.

    Attributes:
        values: list of `Value`, one per tensor.
        steps: list of the records of `steps`, each after those it needs.
        reads: list of `(value, axis)` whose positions are all read.
        weights: dict from `id(variable)` to `Weight`.
        classes: int array, the channel class of every id.
        pinned: dict from class to the reason why it cannot be removed.
        skipped: list of `(path, reason)`, layers that no rule describes.
        opaque: dict from `id(layer)` to those layers.
        num_inputs: The first so many values are the model's inputs.
        inner: dict from `id(wrapper)` to the `Call`s of the layers inside.
        homes: dict from `id(KerasTensor)` to its `Value`s: one, or in a
            nested model one per call of that model.
    """

    def __init__(self, model):
        self.values = []
        self.steps = []
        self.reads = []
        self.weights = {}
        self.skipped = []
        self.opaque = {}
        self.inner = {}
        self.homes = {}
        self.num_inputs = 0
        self.classes = None
        self.pinned = {}
        self.keys = {
            id(v): key for key, v in topology.variables_by_key(model).items()
        }
        self._num_ids = 0
        self._ties = []
        self._fixed = []
        self._firsts = {}

    # What rules call.

    def value(self, shape, origin):
        """Adds a tensor whose axes nobody tracks yet."""
        shape = tuple(shape)
        value = Value(len(self.values), shape, [None] * len(shape), origin)
        self.values.append(value)
        return value

    def new_ids(self, size):
        """Fresh channel ids, `(size,)`."""
        self._num_ids += size
        return np.arange(self._num_ids - size, self._num_ids)

    def ids(self, value, axis):
        """The ids on an axis; an untracked one gets ids that are pinned."""
        if value.ids[axis] is None:
            value.ids[axis] = self.new_ids(value.shape[axis])
            reason = "it is an input of the model"
            if value.number >= self.num_inputs:
                reason = f"its width is that of '{value.origin}'"
            self.fix(value.ids[axis], reason)
        return value.ids[axis]

    def tie(self, left, right):
        """Makes the ids of two arrays of equal length stand together."""
        self._ties.append((np.asarray(left), np.asarray(right)))

    def fix(self, ids, reason):
        """Pins ids: the width is fixed, whether or not anybody reads it."""
        self._fixed.append((np.asarray(ids), reason))

    def read(self, value, axis, reason):
        """Pins an axis because every one of its channels is read."""
        if value.ids[axis] is not None:
            self.fix(value.ids[axis], reason)
            self.reads.append((value, axis))

    def weight(
        self, variable, ids, role, axes=layouts.STANDARD, prunes_columns=True
    ):
        """Names the axes of a variable by ids, see `Weight`."""
        known = self.weights.get(id(variable))
        if known is None:
            self.weights[id(variable)] = Weight(
                variable,
                self.keys[id(variable)],
                list(ids),
                role,
                axes,
                prunes_columns,
            )
            return
        for old, new in zip(known.ids, ids):
            if old is not None and new is not None:
                self.tie(old, new)

    def flow(self, sources, target, combine, gate=None):
        """Records that positions pass from `sources` into `target`."""
        self.steps.append(Flow(tuple(sources), target, combine, gate))

    def mix(
        self,
        site,
        sources,
        targets,
        kernel,
        bias=None,
        axes=((-2,), (-1,)),
        macs=None,
        prunes_columns=True,
        **options,
    ):
        """Records a product with a kernel and makes its output's ids.

        Args:
            site: The call it belongs to.
            sources: list of `(value, axis)`, one per input axis of the
                kernel.
            targets: list of `(value, axis)`, one per output axis; those
                without ids get new ones.
            kernel: `keras.Variable`.
            bias: `keras.Variable` of the shape of the output axes, or
                `None`.
            axes: The kernel's axes `(inputs, outputs)`, two tuples.
            macs: Multiply-accumulates per sample and kernel entry; `None`
                takes the number of positions of the target.
            prunes_columns: Whether a plan may prune the kernel's columns.
            **options: Other fields of `Mix`: `groups`, `depthwise`,
                `activation`, `inside`.
        """
        rank = len(kernel.shape)
        ins, outs = (tuple(axis % rank for axis in side) for side in axes)
        options = {**_PLAIN, **options}
        kernel_ids = [None] * rank
        in_ids = [self.ids(*source) for source in sources]
        out_ids = self._out_ids(kernel, in_ids, targets, outs, options)
        if options["groups"] == 1:
            for axis, ids in zip(ins, in_ids):
                kernel_ids[axis] = ids
        if not options["depthwise"]:
            for axis, ids in zip(outs, out_ids):
                kernel_ids[axis] = ids
        in_out = (ins[0] - rank, outs[0] - rank)
        self.weight(kernel, kernel_ids, "kernel", in_out, prunes_columns)
        if bias is not None:
            self.weight(bias, out_ids, "vector")
        if macs is None:
            macs = _positions(targets)
        self.steps.append(
            Mix(
                tuple(sources),
                tuple(targets),
                kernel,
                (ins, outs),
                bias=bias,
                macs=macs,
                layer=site.layer,
                path=site.path,
                **options,
            )
        )

    def _out_ids(self, kernel, in_ids, targets, outs, options):
        """The ids of the outputs, written to the targets."""
        found = []
        for (value, axis), kernel_axis in zip(targets, outs):
            ids = value.ids[axis]
            if options["depthwise"]:
                ids = np.repeat(in_ids[0], kernel.shape[-1])
            elif ids is None:
                ids = self.new_ids(kernel.shape[kernel_axis])
            value.ids[axis] = ids
            found.append(ids)
        if options["groups"] > 1:
            self._tie_groups(in_ids[0], found[0], options["groups"])
        return found

    def recurrence(self, site, source, target, gates, candidate):
        """Records a recurrent layer and makes the ids of its units.

        Args:
            site: The call it belongs to.
            source: `(value, axis)` of the inputs.
            target: `(value, axis)` of the units.
            gates: How many gates a unit has.
            candidate: Which gate has to be zero for the output to be;
                `None` if that is not enough.
        """
        cell = site.layer.cell
        value, axis = target
        units = self.new_ids(cell.units)
        value.ids[axis] = units
        by_gate = np.tile(units, gates)
        bias = cell.bias if cell.use_bias else None
        kernels = (
            (cell.kernel, self.ids(*source)),
            (cell.recurrent_kernel, units),
        )
        for kernel, ids in kernels:
            self.weight(kernel, [ids, by_gate], "kernel", prunes_columns=False)
        if bias is not None:
            lead = [None] * (len(bias.shape) - 1)
            self.weight(bias, [*lead, by_gate], "vector")
        steps = source[0].shape[1]
        self.steps.append(
            Recurrence(
                source,
                target,
                cell.kernel,
                cell.recurrent_kernel,
                bias,
                candidate,
                steps,
                site.layer,
                site.path,
            )
        )

    def affine(self, source, target, terms):
        """Records a scale and a shift for each position, see `Affine`."""
        value, axis = target
        value.ids[axis] = self.ids(*source)
        self.steps.append(Affine(source, target, terms))

    def total(self, value, axis):
        """Records that an axis is summed over: what is zero may go."""
        self.ids(value, axis)
        self.steps.append(Sum((value, axis)))

    def _tie_groups(self, in_ids, out_ids, groups):
        blocks = np.concatenate(
            [in_ids.reshape(groups, -1), out_ids.reshape(groups, -1)], axis=1
        )
        self.tie(np.repeat(blocks[:, 0], blocks.shape[1]), blocks.reshape(-1))

    def skip(self, path, layer, reason):
        """Notes a layer whose inside is not described; its weights stay."""
        self.skipped.append((path, reason))
        self.opaque[id(layer)] = layer

    # How a model is walked.

    def walk(self, view, tensors, prefix, reason=None):
        """Traces all calls of a functional model, nested ones included.

        Args:
            view: A functional model.
            tensors: dict from `id(KerasTensor)` to `Value`, which holds the
                model's inputs and receives all the others.
            prefix: Path of the model in the hierarchy, `""` or `"a/b/"`.
            reason: Why all its layers have to be left alone, or `None`.
        """
        for call in topology.calls(view):
            self.call(call, tensors, prefix + call.operation.name, reason)

    def call(self, call, tensors, path, reason=None):
        """Traces one call.

        Args:
            call: The `topology.Call`.
            tensors: As for `walk`.
            path: The operation's place in the hierarchy.
            reason: Why it has to be left alone, or `None`.

        Returns:
            list of `Value`, one per output.
        """
        if topology.is_model(call.operation):
            outputs = self._enter(call, tensors, path, reason)
        else:
            inputs = [tensors[id(x)] for x in call.inputs]
            outputs = [self.value(x.shape, path) for x in call.outputs]
            site = Site(self, call, path, inputs, outputs)
            layer_rules.apply(site, reason)
            self._tie_calls(call.operation, outputs)
        for x, value in zip(call.outputs, outputs):
            tensors[id(x)] = value
            self.homes.setdefault(id(x), []).append(value)
        return outputs

    def can_trace(self, layer):
        """Whether a wrapped layer is a model or has a rule."""
        if topology.is_model(layer):
            return not topology.overrides_call(layer)
        return layer_rules.rule_for(layer) is not None

    def _tie_calls(self, operation, outputs):
        """A config that holds the widths of the output serves all calls."""
        rule = layer_rules.rule_for(operation)
        if rule is not None and rule.resize is not layer_rules.Rule.resize:
            self._tie_values(id(operation), outputs)

    def _tie_values(self, number, values):
        """Ties values to those that were first given under this number."""
        first = self._firsts.setdefault(number, values)
        for old, new in zip(first, values):
            if len(old.shape) != len(new.shape):
                continue
            for axis, size in enumerate(new.shape):
                same_size = size is not None and size == old.shape[axis]
                if old is not new and same_size and axis > 0:
                    if not (old.ids[axis] is new.ids[axis] is None):
                        self.tie(self.ids(old, axis), self.ids(new, axis))

    def _enter(self, call, tensors, path, reason):
        view = topology.functional(call.operation)
        inputs = [tensors[id(x)] for x in topology.fed(call, view)]
        reason = reason or layer_rules.unknown_argument(call)
        self._tie_values(id(call.operation), inputs)
        tensors = dict(zip(map(id, view.inputs), inputs))
        for x, value in zip(view.inputs, inputs):
            self.homes.setdefault(id(x), []).append(value)
        self.walk(view, tensors, path + "/", reason)
        return [tensors[id(x)] for x in view.outputs]

    def finish(self):
        """Computes `classes` and `pinned` from the ties that were made."""
        self._fix_opaque_weights()
        self.classes = _components(self._num_ids, self._ties)
        for ids, reason in self._fixed:
            for number in np.unique(self.classes[ids]):
                self.pinned.setdefault(int(number), reason)
        return self

    def _fix_opaque_weights(self):
        for layer in self.opaque.values():
            for variable in getattr(layer, "weights", ()):
                weight = self.weights.get(id(variable))
                for ids in weight.ids if weight else ():
                    if ids is not None:
                        self.fix(ids, f"'{layer.name}' has no rule here")

    @property
    def num_classes(self):
        return int(self.classes.max()) + 1 if len(self.classes) else 0

    @property
    def products(self):
        """The steps that multiply with kernels: `Mix`, `Recurrence`."""
        return [s for s in self.steps if isinstance(s, (Mix, Recurrence))]

    @property
    def mixes(self):
        return [step for step in self.steps if isinstance(step, Mix)]


def trace(model):
    """Traces a built functional or Sequential model.

    Args:
        model: The model; it is only read.

    Returns:
        A finished `Trace`.

    Raises:
        TypeError: The model is not functional.
        ValueError: It is not built.
    """
    view = topology.functional(model)
    found = Trace(view)
    inputs = [found.value(x.shape, x.name) for x in view.inputs]
    found.num_inputs = len(inputs)
    tensors = dict(zip(map(id, view.inputs), inputs))
    for number, value in tensors.items():
        found.homes[number] = [value]
    found.walk(view, tensors, "")
    for x in view.outputs:
        value = tensors[id(x)]
        for axis in range(len(value.shape)):
            found.read(value, axis, "it is an output of the model")
    return found.finish()


def _positions(targets):
    """The number of positions of a tensor but for the axes of `targets`."""
    value = targets[0][0]
    axes = [0, *(axis for _, axis in targets)]
    sizes = [n for i, n in enumerate(value.shape) if i not in axes]
    return None if None in sizes else math.prod(sizes)


def _components(size, ties):
    """Connected components of `size` ids; numbered by their first member."""
    root = np.arange(size)
    if ties:
        left = np.concatenate([a for a, _ in ties])
        right = np.concatenate([b for _, b in ties])
        while True:
            low = np.minimum(root[left], root[right])
            before = root.copy()
            np.minimum.at(root, root[left], low)
            np.minimum.at(root, root[right], low)
            np.minimum.at(root, left, low)
            np.minimum.at(root, right, low)
            root = root[root]
            if np.array_equal(root, before):
                break
    return np.unique(root, return_inverse=True)[1].reshape(-1)
