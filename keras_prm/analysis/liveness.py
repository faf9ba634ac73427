"""Liveness of channels: which are constant, which are used.

Two analyses over a graph. Forward, *constants*: a channel whose value is the
same for every input at every position. Backward, *uses*: a channel that some
reader multiplies by a weight that is not zero. A channel class is removed
where nobody uses it, or where everybody who uses it can take the constant it
carries into a bias. Both questions are settled together: a constant is only
taken into a bias where its class really goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from keras_prm.dependency import ambiguous_sums
from keras_prm.utils import variable_keys

if TYPE_CHECKING:
    from typing import Any


class Liveness:
    """The verdict on a graph.

    Args:
        graph: A finished `DependencyGraph`.
        arrays: dict from `id(variable)` to its array, those that were read
            already; the others are read when they are needed.

    Attributes:
        removed: bool array, one entry per channel class.
        unused: bool array, one entry per channel class: no reader multiplies
            it by anything, so its writers' weights do not matter, although
            it may have to stay in place.
        constants: dict from `(value number, axis)` to a float array, NaN
            where a position is not constant.
    """

    may_edit = True

    def __init__(self, graph, arrays=None):
        self.graph = graph
        self._arrays = dict(arrays or {})
        self._reach = {}
        self._agreed = {}
        self._uses = {}
        self._removed: Any = None
        self.constants = {}
        for step in graph.steps:
            step.propagate_constants(self)
        self.removed, self.unused = self._settle()

    def keep(self, ids):
        """bool array: which positions of an axis with these ids stay."""
        return ~self.removed[self.graph.classes[ids]]

    def is_zero(self, value):
        """True for a tensor of which only zeros remain, whatever the input."""
        for axis, ids in enumerate(value.ids):
            constants = self.constant(value, axis) if ids is not None else ()
            if len(constants) and (constants[self.keep(ids)] == 0).all():
                return True
        return False

    def constant_classes(self):
        """bool array per class: it carries a constant other than 0."""
        found = np.zeros(self.graph.num_classes, bool)
        for (number, axis), constants in self.constants.items():
            ids = self.graph.values[number].ids[axis]
            if ids is not None:
                at = ids[np.nan_to_num(constants) != 0]
                found[self.graph.classes[at]] = True
        return found

    def folded_bias(self, contraction):
        """What the inputs that go add to each of a contraction's outputs."""
        value, axis = contraction.source
        gone = ~self.keep(value.ids[axis])
        amount = np.where(gone, self.constant(value, axis), 0.0)
        return contraction.response(self, amount)

    # What the steps ask for.

    def constant(self, value, axis):
        """The constants of an axis, float, NaN where it has none."""
        found = self.constants.get((value.number, axis))
        return np.full(value.shape[axis], np.nan) if found is None else found

    def used(self, value, axis):
        """Which positions of an axis are used so far, bool, to be written."""
        return self._uses.setdefault(
            (value.number, axis), np.zeros(value.shape[axis], bool)
        )

    def gone(self, value, axis):
        """Which positions of an axis are taken to be removed, bool."""
        return self._removed[self.graph.classes[value.ids[axis]]]

    def array(self, variable):
        """The variable's array, read once; not to be written to."""
        if id(variable) not in self._arrays:
            self._arrays[id(variable)] = variable_keys.array_of(variable)
        return self._arrays[id(variable)]

    def reach(self, contraction):
        """Which inputs reach which outputs, bool `(groups, *in, *out)`."""
        number = id(contraction.kernel)
        if number not in self._reach:
            matrices = self.matrices(contraction.kernel, contraction.axes)
            self._reach[number] = contraction.reach_of(matrices)
        return self._reach[number]

    def matrices(self, kernel, axes):
        """A kernel as an array `(taps, *in, *out)`."""
        array = self.array(kernel)
        ins, outs = axes
        taps = [i for i in range(array.ndim) if i not in ins + outs]
        array = array.transpose((*taps, *ins, *outs))
        return array.reshape(-1, *array.shape[len(taps) :])

    def agreed(self, contraction, i):
        """The constants of a source that all calls of its kernel agree on."""
        if not self._agreed:
            for other in self.graph.contractions:
                for j, source in enumerate(other.sources):
                    now = self.constant(*source)
                    before = self._agreed.setdefault((id(other.kernel), j), now)
                    self._agreed[id(other.kernel), j] = np.where(
                        now == before, now, np.nan
                    )
        return self._agreed[id(contraction.kernel), i]

    # Uses, backward.

    def _settle(self):
        removed = np.ones(self.graph.num_classes, bool)
        removed[list(self.graph.pinned)] = False
        while True:
            used = self._used_classes(removed)
            left = removed & ~used
            self._keep_one_of_each_axis(left)
            if (left == removed).all() and not self._part_from_biases(left):
                return removed, ~used
            removed = left

    def _used_classes(self, removed):
        self._removed, self._uses = removed, {}
        for value, axis in self.graph.reads:
            self.used(value, axis)[:] = True
        for step in reversed(self.graph.steps):
            step.propagate_uses(self)
        result = np.zeros(self.graph.num_classes, bool)
        for (number, axis), used in self._uses.items():
            ids = self.graph.values[number].ids[axis]
            if ids is not None:
                result[self.graph.classes[ids[used]]] = True
        return result

    def _keep_one_of_each_axis(self, removed):
        """A width of 0 is illegal: revives the first class of such an axis."""
        for value in self.graph.values:
            for ids in value.ids:
                if ids is not None and len(ids):
                    classes = self.graph.classes[ids]
                    if removed[classes].all():
                        removed[classes[0]] = False

    def _part_from_biases(self, removed):
        """Revives a class where a bias would go along another axis.

        Returns:
            Whether it did.
        """
        self.removed = removed
        revived = False
        if not ambiguous_sums.is_followed():
            return revived
        for contraction in self.graph.contractions:
            value = contraction.targets[0][0]
            axes = [axis for _, axis in contraction.targets]
            shapes = value.shape, value.shape_of(self.keep)
            was, is_now = (
                ambiguous_sums.bias_may_go_astray(shape, axes)
                for shape in shapes
            )
            has_bias = contraction.bias is not None
            if is_now and not was:
                if has_bias or self.folded_bias(contraction).any():
                    revived |= self._widen(removed, value)
        return revived

    def _widen(self, removed, value):
        """Revives the first class that is gone from one of its axes."""
        for ids in value.ids:
            classes = self.graph.classes[ids] if ids is not None else ()
            gone = [number for number in classes if removed[number]]
            if gone:
                removed[gone[0]] = False
                return True
        return False


class KeepEverything:
    """What a `Liveness` says of the channels to stay, where all of them do.

    For copies of models, and for edits of kernels that change no width.

    Args:
        graph: A finished `DependencyGraph`.
        may_edit: Whether kernels may be cut where no width changes.
        arrays: As of `Liveness`.
    """

    def __init__(self, graph, may_edit=True, arrays=None):
        self.graph = graph
        self.may_edit = may_edit
        self._arrays = dict(arrays or {})

    def keep(self, ids):
        """Keeps all of them: a bool array of `ids`' length."""
        return np.ones(len(ids), bool)

    def is_zero(self, value):
        """Says of no tensor that it is zero."""
        return False

    def constant(self, value, axis):
        """The constants of an axis, none of them known: NaN."""
        return np.full(value.shape[axis], np.nan)

    def folded_bias(self, contraction):
        """What a bias takes over from inputs that go: nothing."""
        return np.zeros(())

    array = Liveness.array
