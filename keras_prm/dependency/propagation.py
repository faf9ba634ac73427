"""Propagation of constants and uses through the steps of a graph.

Every step answers the two questions that liveness asks. Forward,
`propagate_constants`: which positions of its targets are constant, given which
of its sources are. Backward, `propagate_uses`: which positions of its sources
are used, given which of its targets are. Both speak to a `Liveness`, here
called `live`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any


@dataclasses.dataclass(frozen=True, eq=False)
class Positionwise:
    """Positions of one axis that go, one by one, into those of another.

    Position `targets[k]` of the target is `combine` of position
    `sources[i][2][k]` of source `i`, whatever the other positions hold.

    Args:
        sources: tuple of `(value, axis, positions)`.
        target: `(value, axis, positions)`.
        combine: Maps one float array of constants per source to the constant
            that results; NaN stands for "not constant".
        gate: bool array, False where the result does not depend on the
            sources at all; `None` stands for all True.
    """

    sources: tuple
    target: tuple
    combine: Callable[..., np.ndarray]
    gate: np.ndarray | None = None

    def propagate_constants(self, live):
        """Combines the constants of the sources, position by position."""
        value, axis, positions = self.target
        parts = [live.constant(v, a)[at] for v, a, at in self.sources]
        image = self.combine(*parts)
        result = live.constants.setdefault(
            (value.number, axis), np.full(value.shape[axis], np.nan)
        )
        result[positions] = image
        differs = result[positions] != image
        result[positions[differs]] = np.nan

    def propagate_uses(self, live):
        """Marks the positions that a used one of the target comes from."""
        value, axis, positions = self.target
        wanted = live.used(value, axis)[positions]
        if self.gate is not None:
            wanted = wanted & self.gate
        for value, axis, positions in self.sources:
            live.used(value, axis)[positions[wanted]] = True


@dataclasses.dataclass(frozen=True, eq=False)
class Affine:
    """A scale and a shift of their own for each position of an axis.

    Args:
        source: `(value, axis)`.
        target: `(value, axis)`.
        terms: Maps a function that reads variables to `(scale, shift)`,
            float arrays. Read late: purification zeroes gamma and beta.
    """

    source: tuple
    target: tuple
    terms: Callable

    def propagate_constants(self, live):
        """Scales and shifts the constants of the source."""
        scale, shift = self.terms(live.array)
        inputs = live.constant(*self.source)
        found = np.where(scale == 0, shift, scale * inputs + shift)
        value, axis = self.target
        live.constants[value.number, axis] = found

    def propagate_uses(self, live):
        """Marks what is used of the target and not scaled to zero."""
        scale, _ = self.terms(live.array)
        live.used(*self.source)[live.used(*self.target) & (scale != 0)] = True


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """A normalization of which every position reads all of its group.

    Args:
        source: `(value, axis)`.
        target: `(value, axis)`.
        groups: How many blocks of equal size the axis consists of.
        combine: Maps the constants of the source to those of the target.
    """

    source: tuple
    target: tuple
    groups: int
    combine: Callable[[np.ndarray], np.ndarray]

    def propagate_constants(self, live):
        """Normalizes the constants of the source, group by group."""
        value, axis = self.target
        found = self.combine(live.constant(*self.source))
        live.constants[value.number, axis] = found

    def propagate_uses(self, live):
        """Marks whole groups where any position of them is used."""
        wanted = live.used(*self.target).reshape(self.groups, -1)
        reads = np.repeat(wanted.any(axis=1), wanted.shape[1])
        live.used(*self.source)[reads] = True


@dataclasses.dataclass(frozen=True, eq=False)
class ReduceSum:
    """The sum over an axis: every position is used that is not zero.

    Args:
        source: `(value, axis)` that is summed over.
    """

    source: tuple

    def propagate_constants(self, live):
        """The axis ends here."""

    def propagate_uses(self, live):
        """Marks all positions but those that are gone and zero."""
        zero = live.constant(*self.source) == 0
        live.used(*self.source)[~(live.gone(*self.source) & zero)] = True


@dataclasses.dataclass(frozen=True, eq=False)
class Contraction:
    """A product with a kernel: every output reads every input of its group.

    Args:
        sources: tuple of `(value, axis)`, one per input axis of the kernel.
        targets: tuple of `(value, axis)`, one per output axis.
        kernel: The kernel, a `keras.Variable`.
        axes: The kernel's axes `(inputs, outputs)`, two tuples; the others
            are taps, such as the window of a convolution.
        groups: How many independent blocks the channels form; the kernel of
            block `g` is `kernel[..., in, g * out_per_group:]`, except
            in a depthwise kernel.
        depthwise: True for a kernel `(..., channels, multiplier)`, where
            each channel is a group.
        bias: A `keras.Variable` of the shape of the output axes, or `None`.
        activation: Maps a float array of constants elementwise.
        inside: bool array in the shape of the taps, True for taps that see
            an input, and no padding, for every output; `None` where an input
            that is constant, but not zero, adds an amount that varies.
        macs: Multiply-accumulates per sample and per kernel entry, that is
            the number of output positions; `None` where it is not known.
        layer: The layer, and `path` its place in the hierarchy.
    """

    sources: tuple
    targets: tuple
    kernel: Any
    axes: tuple
    groups: int
    depthwise: bool
    bias: Any
    activation: Callable[[np.ndarray], np.ndarray]
    inside: np.ndarray | None
    macs: int | None
    layer: Any
    path: str

    @property
    def kernels(self):
        """The kernel, in a tuple."""
        return (self.kernel,)

    @property
    def source(self):
        """The first of the sources, `(value, axis)`."""
        return self.sources[0]

    @property
    def target(self):
        """The first of the targets, `(value, axis)`."""
        return self.targets[0]

    def propagate_constants(self, live):
        """Finds what the outputs are that no varying input reaches."""
        reach = live.reach(self)
        inputs = [live.constant(*s) for s in self.sources]
        varies = self._varying(live, reach, inputs)
        amount = self.response(live, inputs[0])
        for i, (value, axis) in enumerate(self.targets):
            moves = _collapse(varies, 1 + len(self.sources) + i)
            result = np.where(moves, np.nan, 0.0 if i else amount)
            if self.bias is not None:
                result = result + self._bias_of(live, i)
            live.constants[value.number, axis] = self.activation(result)

    def propagate_uses(self, live):
        """Marks the inputs that some used output reads.

        With `reach[i, j, o]` for "an entry that is not zero multiplies inputs
        `i` and `j` into output `o`", `j` of another source,

            used[i] = any over j, o of  reach[i, j, o] and used[o]
                                        and constant[j] != 0

        but for inputs that go, and whose constant the bias takes over.
        """
        reach = live.reach(self)
        wanted = [live.used(*target) for target in self.targets]
        if not all(used.all() for used in wanted):
            for i, used in enumerate(wanted):
                reach = reach & self._place(used, len(self.sources) + i)
        for i, source in enumerate(self.sources):
            part = reach
            for j, other in enumerate(self.sources):
                if j != i:
                    moves = live.constant(*other) != 0
                    part = part & self._place(moves, j)
            reads = _collapse(part, 1 + i)
            folds = self._folds(live, i, wanted[0])
            live.used(*source)[reads & ~folds] = True

    def _folds(self, live, i, wanted):
        """Which inputs go, and are a constant that the bias takes over.

        Zeros add nothing. Other constants add the same everywhere unless a
        tap that sees padding reads them.
        """
        source = self.sources[i]
        gone, agreed = live.gone(*source), live.agreed(self, i)
        folds = gone & (agreed == 0)
        if self.inside is not None and np.nan_to_num(agreed).any():
            edge = self._edge(live) & self._place(wanted, 1)
            folds |= gone & ~np.isnan(agreed) & ~_collapse(edge, 1)
        return folds

    def response(self, live, inputs):
        """What it makes of constant inputs, without its bias.

        Args:
            live: The `Liveness`.
            inputs: float array `(in,)`, NaN where not constant.

        Returns:
            float array `(out,)`.
        """
        inputs = np.nan_to_num(inputs)
        if self.inside is None or not inputs.any():
            value, axis = self.target
            return np.zeros(value.shape[axis])
        total = self._by_group(live.matrices(self.kernel, self.axes).sum(0))
        inputs = inputs.reshape(total.shape[0], 1, -1)
        return np.matmul(inputs, total.astype("float64")).reshape(-1)

    def _varying(self, live, reach, inputs):
        """Entries of the kernel by which the output varies."""
        for i, constants in enumerate(inputs):
            moves = constants != 0
            if not moves.all():
                reach = reach & self._place(moves, i)
        if self.inside is not None and np.nan_to_num(inputs[0]).any():
            known = self._place(~np.isnan(inputs[0]), 0)
            reach = reach & ~(known & ~self._edge(live))
        return reach

    def _edge(self, live):
        """Which inputs reach which outputs by taps that see padding."""
        matrices = live.matrices(self.kernel, self.axes)
        outside = matrices[~self.inside.reshape(-1)]
        return self._by_group((outside != 0).any(axis=0))

    def _bias_of(self, live, i):
        """The bias per position of one output axis, NaN if it varies."""
        bias = live.array(self.bias).astype("float64")
        if bias.ndim == 1:
            return bias
        bias = np.moveaxis(bias, i, 0).reshape(bias.shape[i], -1)
        same = (bias == bias[:, :1]).all(axis=1)
        return np.where(same, bias[:, 0], np.nan)

    def _place(self, vector, i):
        """A vector on the axis `i` of what `Liveness.reach` returns."""
        num_axes = 1 + len(self.sources) + len(self.targets)
        shape = [1] * num_axes
        groups = self._num_groups()
        shape[0], shape[1 + i] = groups, len(vector) // groups
        return vector.reshape(shape)

    def _num_groups(self):
        return self.kernel.shape[-2] if self.depthwise else self.groups

    def reach_of(self, matrices):
        """Which inputs reach which outputs, bool `(groups, *in, *out)`."""
        found = matrices[0] != 0
        for tap in matrices[1:]:
            np.logical_or(found, tap, out=found)
        return self._by_group(found)

    def _by_group(self, matrix):
        """`(*in, *out)` of a kernel as `(groups, *in, *out)` of a group."""
        if self.depthwise:
            return matrix[:, None, :]
        if self.groups == 1:
            return matrix[None]
        rows, cols = matrix.shape
        groups = self.groups
        return matrix.reshape(rows, groups, cols // groups).swapaxes(0, 1)


def _collapse(entries, axis):
    """Any entry per position of an axis (and of the groups), flat."""
    others = tuple(i for i in range(1, entries.ndim) if i != axis)
    return entries.any(axis=others).reshape(-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Recurrence:
    """A recurrent layer, whose state starts at zero or is remembered.

    Args:
        source: `(value, axis)` of the inputs.
        target: `(value, axis)` of the units.
        kernel: `keras.Variable` `(in, gates * units)`.
        recurrent_kernel: `keras.Variable` `(units, gates * units)`.
        bias: `keras.Variable` `(..., gates * units)` or `None`.
        candidate: Which gate has to be zero for the output to be; `None`
            if that is not enough.
        macs: Steps in time, of all calls; `None` where that is not known.
        layer: The layer, and `path` its place in the hierarchy.
        states: Tuple of `keras.Variable` `(batch, units)`, what a stateful
            layer remembers.
    """

    source: tuple
    target: tuple
    kernel: Any
    recurrent_kernel: Any
    bias: Any
    candidate: int | None
    macs: int | None
    layer: Any
    path: str
    states: tuple = ()

    @property
    def kernels(self):
        """The kernel of the inputs and that of the states."""
        return self.kernel, self.recurrent_kernel

    @property
    def targets(self):
        """The target, in a tuple."""
        return (self.target,)

    def propagate_constants(self, live):
        """Finds the units that stay zero at every step."""
        value, axis = self.target
        zero = np.zeros(value.shape[axis], bool)
        if self.candidate is not None:
            inputs, states = self._reaches(live)
            moves = live.constant(*self.source) != 0
            zero = ~inputs[moves][:, self.candidate].any(axis=0)
            if self.bias is not None:
                bias = live.array(self.bias)
                bias = bias.reshape(-1, inputs.shape[1], len(zero))
                zero &= (bias[:, self.candidate] == 0).all(axis=0)
            for state in self.states:
                zero &= (live.array(state) == 0).all(axis=0)
            while True:
                lost = zero & states[~zero][:, self.candidate].any(axis=0)
                if not lost.any():
                    break
                zero &= ~lost
        live.constants[value.number, axis] = np.where(zero, 0.0, np.nan)

    def propagate_uses(self, live):
        """Marks the inputs that used units read, by way of others too."""
        inputs, states = self._reaches(live)
        wanted = live.used(*self.target)
        idle = live.gone(*self.target) & (live.constant(*self.target) == 0)
        while True:
            reads = states[:, :, wanted].any(axis=(1, 2)) & ~idle & ~wanted
            if not reads.any():
                break
            wanted[reads] = True
        reads = inputs[:, :, wanted].any(axis=(1, 2))
        zero = live.constant(*self.source) == 0
        live.used(*self.source)[reads & ~(live.gone(*self.source) & zero)] = 1

    def _reaches(self, live):
        units = self.recurrent_kernel.shape[0]
        return [
            (live.matrices(k, ((0,), (1,)))[0] != 0).reshape(
                k.shape[0], -1, units
            )
            for k in (self.kernel, self.recurrent_kernel)
        ]
