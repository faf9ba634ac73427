"""Which channels a model can lose without computing anything else.

Two analyses over a trace. Forward, *constants*: a channel whose value is the
same for every input at every position. Backward, *uses*: a channel that some
reader multiplies by a weight that is not zero. A channel class is removed
where nobody uses it, or where everybody who uses it can take the constant it
carries into a bias. Both questions are settled together: a constant is only
taken into a bias where its class really goes.
"""

from __future__ import annotations

import keras
import numpy as np

from keras_prm.structures import Mix


class Liveness:
    """The verdict on a trace.

    Args:
        trace: A finished `Trace`.

    Attributes:
        removed: bool array, one entry per channel class.
        unused: bool array, one entry per channel class: no reader multiplies
            it by anything, so its writers' weights do not matter, although
            it may have to stay in place.
        constants: dict from `(value number, axis)` to a float array, NaN
            where a position is not constant.
    """

    def __init__(self, trace):
        self.trace = trace
        self._nonzeros = {}
        self.constants = self._propagate_constants()
        self._foldable = self._find_foldable()
        self.removed, self.unused = self._settle()

    def keep(self, ids):
        """bool array: which positions of an axis with these ids stay."""
        return ~self.removed[self.trace.classes[ids]]

    def is_zero(self, value):
        """True for a tensor of which only zeros remain, whatever the input."""
        for axis, ids in enumerate(value.ids):
            constants = self._constant(value, axis) if ids is not None else ()
            if len(constants) and (constants[self.keep(ids)] == 0).all():
                return True
        return False

    def constant_classes(self):
        """bool array per class: it carries a constant other than 0."""
        found = np.zeros(self.trace.num_classes, bool)
        for (number, axis), constants in self.constants.items():
            ids = self.trace.values[number].ids[axis]
            if ids is not None:
                at = ids[np.nan_to_num(constants) != 0]
                found[self.trace.classes[at]] = True
        return found

    def folded_bias(self, mix):
        """What the inputs that go add to each output of a mix, `(out,)`."""
        value, axis = mix.source
        gone = ~self.keep(value.ids[axis])
        amount = np.where(gone, self._constant(value, axis), 0.0)
        return self._response(mix, np.where(np.isnan(amount), 0.0, amount))

    def _constant(self, value, axis):
        found = self.constants.get((value.number, axis))
        return np.full(value.shape[axis], np.nan) if found is None else found

    def _nonzero(self, mix):
        """Which inputs reach which outputs, bool `(groups, in, out)`."""
        if id(mix.kernel) not in self._nonzeros:
            kernel = _as_matrices(mix.kernel)
            matrix = _by_group((kernel != 0).any(axis=0), mix)
            self._nonzeros[id(mix.kernel)] = matrix
        return self._nonzeros[id(mix.kernel)]

    def _response(self, mix, inputs):
        """What a mix makes of constant inputs, without its bias, `(out,)`."""
        shape = self._nonzero(mix).shape
        if not inputs.any():
            return np.zeros(shape[0] * shape[2])
        total = _as_matrices(mix.kernel).sum(axis=0, dtype="float64")
        return np.matmul(
            inputs.reshape(shape[0], 1, shape[1]), _by_group(total, mix)
        ).reshape(-1)

    # Constants, forward.

    def _propagate_constants(self):
        self.constants = {}
        for step in self.trace.steps:
            if isinstance(step, Mix):
                value, axis = step.target
                self.constants[value.number, axis] = self._mix_constant(step)
            else:
                self._flow_constant(step)
        return self.constants

    def _mix_constant(self, mix):
        nonzero = self._nonzero(mix)
        inputs = self._constant(*mix.source)
        known = ~np.isnan(inputs) if mix.foldable else inputs == 0
        varies = (
            (nonzero & ~known.reshape(nonzero.shape[:2])[:, :, None])
            .any(axis=1)
            .reshape(-1)
        )
        amount = self._response(mix, np.where(known, inputs, 0.0))
        result = np.where(varies, np.nan, amount)
        if mix.bias is not None:
            result = result + keras.ops.convert_to_numpy(mix.bias)
        return mix.activation(result)

    def _flow_constant(self, flow):
        value, axis, positions = flow.target
        parts = [self._constant(v, a)[at] for v, a, at in flow.sources]
        image = flow.combine(*parts)
        result = self.constants.setdefault(
            (value.number, axis), np.full(value.shape[axis], np.nan)
        )
        result[positions] = image
        differs = result[positions] != image
        result[positions[differs]] = np.nan

    def _find_foldable(self):
        """Per kernel, which inputs' constants it can take into its bias."""
        found = {}
        for mix in self.trace.mixes:
            now = self._constant(*mix.source)
            can = now == 0
            if mix.foldable:
                can = ~np.isnan(now)
            if id(mix.kernel) in found:
                before, could = found[id(mix.kernel)]
                can = can & could & (now == before)
            found[id(mix.kernel)] = now, can
        return {key: can for key, (_, can) in found.items()}

    # Uses, backward.

    def _settle(self):
        removed = np.ones(self.trace.num_classes, bool)
        removed[list(self.trace.pinned)] = False
        while True:
            used = self._used_classes(removed)
            left = removed & ~used
            self._keep_one_of_each_axis(left)
            if (left == removed).all():
                return removed, ~used
            removed = left

    def _used_classes(self, removed):
        classes, uses = self.trace.classes, {}

        def used_of(value, axis):
            return uses.setdefault(
                (value.number, axis), np.zeros(value.shape[axis], bool)
            )

        for value, axis in self.trace.reads:
            used_of(value, axis)[:] = True
        for step in reversed(self.trace.steps):
            wanted = used_of(*step.target[:2])
            if isinstance(step, Mix):
                value, axis = step.source
                gone = removed[classes[value.ids[axis]]]
                folded = gone & self._foldable[id(step.kernel)]
                used_of(value, axis)[self._reads(step, wanted) & ~folded] = 1
            else:
                wanted = wanted[step.target[2]]
                if step.gate is not None:
                    wanted = wanted & step.gate
                for value, axis, positions in step.sources:
                    used_of(value, axis)[positions[wanted]] = True
        result = np.zeros(self.trace.num_classes, bool)
        for (number, axis), used in uses.items():
            ids = self.trace.values[number].ids[axis]
            if ids is not None:
                result[classes[ids[used]]] = True
        return result

    def _reads(self, mix, wanted):
        nonzero = self._nonzero(mix)
        wanted = wanted.reshape(nonzero.shape[0], 1, nonzero.shape[2])
        return (nonzero & wanted).any(axis=2).reshape(-1)

    def _keep_one_of_each_axis(self, removed):
        """A width of 0 is illegal: revives the first class of such an axis."""
        for value in self.trace.values:
            for ids in value.ids:
                if ids is not None and len(ids):
                    classes = self.trace.classes[ids]
                    if removed[classes].all():
                        removed[classes[0]] = False


def _as_matrices(kernel):
    kernel = keras.ops.convert_to_numpy(kernel)
    return kernel.reshape((-1,) + kernel.shape[-2:])


def _by_group(matrix, mix):
    """`(in, out)` of a kernel as `(groups, in of group, out of group)`."""
    if mix.depthwise:
        return matrix[:, None, :]
    rows, cols = matrix.shape
    return matrix.reshape(rows, mix.groups, cols // mix.groups).swapaxes(0, 1)
