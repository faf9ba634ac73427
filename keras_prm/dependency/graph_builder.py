"""The builder of a graph of channels, which rules write to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_prm.dependency import ambiguous_sums
from keras_prm.dependency import constants
from keras_prm.dependency.propagation import Affine
from keras_prm.dependency.propagation import Contraction
from keras_prm.dependency.propagation import Moments
from keras_prm.dependency.propagation import Positionwise
from keras_prm.dependency.propagation import Recurrence
from keras_prm.dependency.propagation import ReduceSum
from keras_prm.dependency.values import ROLES
from keras_prm.dependency.values import Value
from keras_prm.dependency.values import Weight
from keras_prm.utils import kernel_layout
from keras_prm.utils import validation

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterable
    from collections.abc import Sequence
    from typing import Any

    from keras_prm.rules.base import LayerCall

    Positions = tuple[Value, int, np.ndarray]

_PLAIN = {
    "groups": 1,
    "depthwise": False,
    "activation": constants.same,
    "inside": None,
}


class GraphBuilder:
    """The part of a `DependencyGraph` that rules write to.

    Attributes:
        values: list of `Value`, one per tensor.
        steps: list of the records of `propagation`, each after those it needs.
        reads: list of `(value, axis)` whose positions are all read.
        weights: dict from `id(variable)` to `Weight`.
        states: dict from `id(variable)` to the ids of its axes, of what
            layers remember from call to call, which are no weights.
        skipped: list of `(path, reason)`, layers that no rule describes.
        opaque: dict from `id(layer)` to those layers.
        opaque_paths: dict from `id(layer)` to where each was met first.
        num_inputs: The first so many values are the model's inputs.
        num_ids: How many channel ids there are.
        ties: list of pairs of id arrays that stand together.
        fixed: list of `(ids, reason)` that cannot be removed.
        keys: dict from `id(variable)` to its key.
        repeats: How often the layers that are looked into compute for one
            call of the layer around them; `None` where that is not known.
    """

    def __init__(self, keys: dict[int, str]) -> None:
        self.values = []
        self.steps = []
        self.reads = []
        self.weights = {}
        self.states = {}
        self.skipped = []
        self.opaque = {}
        self.opaque_paths = {}
        self.num_inputs = 0
        self.num_ids = 0
        self.ties = []
        self.fixed = []
        self.keys = keys
        self.repeats = 1

    def value(self, shape: Iterable[int | None], origin: str) -> Value:
        """Adds a tensor whose axes nobody tracks yet."""
        shape = tuple(shape)
        value = Value(len(self.values), shape, [None] * len(shape), origin)
        self.values.append(value)
        return value

    def new_ids(self, size: int) -> np.ndarray:
        """Fresh channel ids, `(size,)`."""
        self.num_ids += size
        return np.arange(self.num_ids - size, self.num_ids)

    def ids(self, value: Value, axis: int) -> np.ndarray:
        """The ids on an axis; an untracked one gets ids that are pinned.

        Args:
            value: The tensor.
            axis: Its axis, whose size is known.
        """
        ids = value.ids[axis]
        if ids is None:
            size = value.shape[axis]
            if size is None:
                raise ValueError(
                    "A rule asks for the channels of an axis whose size is "
                    "not known, as that of the samples. Name an axis of "
                    f"channels. Received: axis={axis} of a tensor of shape "
                    f"{value.shape}, made by '{value.origin}'"
                )
            ids = self.new_ids(size)
            value.ids[axis] = ids
            reason = "it is an input of the model"
            if value.number >= self.num_inputs:
                reason = f"its width is that of '{value.origin}'"
            self.fix(ids, reason)
        return ids

    def tie(self, left: np.ndarray, right: np.ndarray) -> None:
        """Makes the ids of two arrays of equal length stand together.

        Args:
            left: Ids, `(n,)`.
            right: Ids, `(n,)`: each stands or falls with that in `left`.
        """
        self.ties.append((np.asarray(left), np.asarray(right)))

    def fix(self, ids: np.ndarray, reason: str) -> None:
        """Pins ids: the width is fixed, whether or not anybody reads it.

        Args:
            ids: Ids, of any number.
            reason: Why they stay, for reports.
        """
        self.fixed.append((np.asarray(ids), reason))

    def read(self, value: Value, axis: int, reason: str) -> None:
        """Pins an axis because every one of its channels is read.

        Args:
            value: The tensor.
            axis: Its axis; one that nobody tracks is left alone.
            reason: Who reads it, and why, for reports.
        """
        ids = value.ids[axis]
        if ids is not None:
            self.fix(ids, reason)
            self.reads.append((value, axis))

    def weight(
        self,
        variable: keras.Variable,
        ids: Sequence[np.ndarray | None],
        role: str,
        axes: tuple[int, int] = kernel_layout.STANDARD,
        prunes_columns: bool = True,
    ) -> None:
        """Names the axes of a variable by ids, see `Weight`.

        Args:
            variable: The `keras.Variable`.
            ids: Per axis an array with one id per position, or `None`.
            role: `"kernel"`, `"vector"` (falls with its channel, as a bias)
                or `"statistic"` (is cut, never zeroed).
            axes: Of a kernel: its axes `(in, out)`, counted from the end.
            prunes_columns: Of a kernel: whether plans may prune its
                columns.

        Raises:
            ValueError: There is no such role, or the ids are not one array
                per axis, with one id per position.
        """
        ids = list(ids)
        _check_weight(variable, ids, role)
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
                continue
            named = new if old is None else old
            if named is not None:
                self.fix(named, "another call of its layer is left as it is")

    def positionwise(
        self,
        sources: Sequence[Positions],
        target: Positions,
        combine: Callable[..., np.ndarray],
        gate: np.ndarray | None = None,
    ) -> None:
        """Records that positions pass from `sources` into `target`."""
        self.steps.append(Positionwise(tuple(sources), target, combine, gate))

    def contraction(
        self,
        call: LayerCall,
        sources: Sequence[tuple[Value, int]],
        targets: Sequence[tuple[Value, int]],
        kernel: keras.Variable,
        bias: keras.Variable | None = None,
        axes: tuple[tuple[int, ...], tuple[int, ...]] = ((-2,), (-1,)),
        macs: int | None = None,
        prunes_columns: bool = True,
        **options: Any,
    ) -> None:
        """Records a product with a kernel and makes its output's ids.

        Args:
            call: The call it belongs to.
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
            **options: Other fields of `Contraction`: `groups`, `depthwise`,
                `activation`, `inside`.
        """
        rank = len(kernel.shape)
        ins, outs = (tuple(axis % rank for axis in side) for side in axes)
        options = {**_PLAIN, **options}
        kernel_ids: list[Any] = [None] * rank
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
        if _goes_astray(targets):
            options["inside"] = None  # nothing can be taken into the bias
            if bias is not None:
                bias, options["activation"] = None, constants.unknown
                for ids in out_ids:
                    self.fix(ids, f"'{call.path}' has as many as positions")
        if macs is None:
            macs = _positions(targets)
        macs = self._repeated(macs)
        self.steps.append(
            Contraction(
                tuple(sources),
                tuple(targets),
                kernel,
                (ins, outs),
                bias=bias,
                macs=macs,
                layer=call.layer,
                path=call.path,
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

    def recurrence(
        self,
        call: LayerCall,
        source: tuple[Value, int],
        target: tuple[Value, int],
        gates: int,
        candidate: int | None,
    ) -> None:
        """Records a recurrent layer and makes the ids of its units.

        Args:
            call: The call it belongs to.
            source: `(value, axis)` of the inputs.
            target: `(value, axis)` of the units.
            gates: How many gates a unit has.
            candidate: Which gate has to be zero for the output to be;
                `None` if that is not enough.
        """
        cell = call.layer.cell
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
        states = keras.tree.flatten(call.layer.states or ())
        for state in states:
            self.states[id(state)] = [None, units]
        steps = self._repeated(source[0].shape[1])
        self.steps.append(
            Recurrence(
                source,
                target,
                cell.kernel,
                cell.recurrent_kernel,
                bias,
                candidate,
                steps,
                call.layer,
                call.path,
                tuple(states),
            )
        )

    def _repeated(self, macs):
        return None if None in (macs, self.repeats) else macs * self.repeats

    def affine(
        self,
        source: tuple[Value, int],
        target: tuple[Value, int],
        terms: Callable[..., Any],
    ) -> None:
        """Records a scale and a shift for each position, see `Affine`.

        Args:
            source: `(value, axis)` that is scaled.
            target: `(value, axis)` that comes of it; it gets the ids.
            terms: `terms(read)` returns `(scale, shift)`, arrays or
                numbers, with `read(variable)` the variable's array.
        """
        value, axis = target
        value.ids[axis] = self.ids(*source)
        self.steps.append(Affine(source, target, terms))

    def moments(
        self,
        source: tuple[Value, int],
        target: tuple[Value, int],
        groups: int,
        combine: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        """Records a normalization over groups of channels, see `Moments`."""
        value, axis = target
        value.ids[axis] = self.ids(*source)
        self.steps.append(Moments(source, target, groups, combine))

    def reduce_sum(self, value: Value, axis: int) -> None:
        """Records that an axis is summed over: what is zero may go.

        Args:
            value: The tensor.
            axis: Its axis that is summed over.
        """
        self.ids(value, axis)
        self.steps.append(ReduceSum((value, axis)))

    def _tie_groups(self, in_ids, out_ids, groups):
        blocks = np.concatenate(
            [in_ids.reshape(groups, -1), out_ids.reshape(groups, -1)], axis=1
        )
        self.tie(np.repeat(blocks[:, 0], blocks.shape[1]), blocks.reshape(-1))

    mix = validation.former_name("mix", "contraction")
    flow = validation.former_name("flow", "positionwise")
    total = validation.former_name("total", "reduce_sum")

    def skip(self, path: str, layer: Any, reason: str) -> None:
        """Notes a layer whose inside is not described; its weights stay."""
        self.skipped.append((path, reason))
        self.opaque[id(layer)] = layer
        self.opaque_paths.setdefault(id(layer), path)


def _check_weight(variable, ids, role):
    if role not in ROLES:
        raise ValueError(
            "A rule gives a weight a role that there is none of. Choose one "
            f"of {ROLES}. Received: role={role!r} for {variable.path}"
        )
    sizes = tuple(None if x is None else len(x) for x in ids)
    shape = tuple(variable.shape)
    if len(sizes) != len(shape) or any(
        size not in (None, n) for size, n in zip(sizes, shape)
    ):
        raise ValueError(
            "A rule names the positions of a weight by other ids than it has. "
            "Give an array for each axis, or None for one that stays whole. "
            f"Expected lengths {shape}. Received: {sizes} for {variable.path}"
        )


def _goes_astray(targets):
    """Whether the backend adds a bias of these axes along others."""
    shape, axes = targets[0][0].shape, [axis for _, axis in targets]
    is_odd = ambiguous_sums.bias_goes_astray(shape, axes)
    return is_odd and ambiguous_sums.is_followed()


def _positions(targets):
    """The number of positions of a tensor but for the axes of `targets`."""
    value = targets[0][0]
    axes = [0, *(axis for _, axis in targets)]
    sizes = [n for i, n in enumerate(value.shape) if i not in axes]
    return None if None in sizes else math.prod(sizes)
