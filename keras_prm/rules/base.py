"""Rules, and the call of a layer that each sees."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any
from typing import Protocol

import keras
import numpy as np

from keras_prm.dependency import constants
from keras_prm.utils import training_argument
from keras_prm.utils import validation

if TYPE_CHECKING:
    from keras_prm.analysis.trace import DependencyGraph
    from keras_prm.dependency.values import Value
    from keras_prm.utils.keras_graph import Node


@dataclasses.dataclass(frozen=True)
class LayerCall:
    """One call of one layer, as a rule sees it.

    Args:
        graph: The `DependencyGraph` to write to.
        node: The `keras_graph.Node`: the operation, its tensors and all its
            arguments.
        path: The layer's place in the hierarchy.
        inputs: list of `Value`, one per tensor argument.
        outputs: list of `Value` whose axes the rule may name by ids.
    """

    graph: DependencyGraph
    node: Node
    path: str
    inputs: list[Value]
    outputs: list[Value]

    @property
    def layer(self) -> Any:
        """The layer, or operation, that is called."""
        return self.node.operation

    trace = validation.former_name("trace", "graph")

    def has_arrays(self) -> bool:
        """True if arrays are among the arguments of the call."""
        arguments = self.node.arguments
        return any(
            hasattr(x, "shape") and not isinstance(x, keras.KerasTensor)
            for x in keras.tree.flatten((arguments.args, arguments.kwargs))
        )

    def argument(self, name: str, position: int) -> Any:
        """What the call passes for an argument, or `None`.

        Args:
            name: Name of the argument.
            position: Where it stands if it is passed without its name, from
                0.
        """
        arguments = self.node.arguments
        if name in arguments.kwargs:
            return arguments.kwargs[name]
        if len(arguments.args) > position:
            return arguments.args[position]
        return None

    def is_in_training(self) -> bool:
        """Whether the layer is told to compute as in training, and can."""
        told = training_argument.effective(self.node, self.graph.training)
        return bool(told) and training_argument.depends_on_training(self.layer)

    def read_all(self, value: Value, why: str) -> None:
        """Pins all axes of a tensor.

        Args:
            value: The tensor.
            why: What reads it, for reports.
        """
        for axis in range(1, len(value.shape)):
            self.graph.read(value, axis, f"'{self.path}': {why}")

    def value_of(self, tensor: keras.KerasTensor) -> Value:
        """The `Value` of one of the tensors that the call is given.

        Args:
            tensor: One of `node.inputs`.
        """
        found = [x is tensor for x in self.node.inputs]
        return self.inputs[found.index(True)]

    def move(
        self,
        source: tuple[Value, int],
        target: tuple[Value, int],
        combine: Callable[..., np.ndarray] = constants.same,
        gate: np.ndarray | None = None,
    ) -> None:
        """Passes one axis on, position by position, ids included.

        Args:
            source: `(value, axis)` of an input.
            target: `(value, axis)` of an output.
            combine: What becomes of positions that are constant, such as the
                functions of `dependency.constants`.
            gate: bool array, False at positions that do not depend on the
                source; `None` stands for all True.
        """
        value, axis = source
        ids = value.ids[axis]
        if ids is None:
            return
        out, out_axis = target
        out.ids[out_axis] = ids
        every = np.arange(len(ids))
        self.graph.positionwise(
            [(value, axis, every)], (out, out_axis, every), combine, gate
        )


class Size(Protocol):
    """How long an axis of a layer's weight is in the smaller model."""

    def __call__(self, variable: keras.Variable, axis: int, /) -> int:
        """The new length of an axis, which may count from the end."""
        ...


class Keep(Protocol):
    """Which positions of a tensor's axis stay in the smaller model."""

    def __call__(self, x: keras.KerasTensor, axis: int, /) -> np.ndarray:
        """A bool array with one entry per position, True where it stays."""
        ...


class Trace(Protocol):
    """Describes one call of a layer: where its channels come from and go.

    Example:

    ```python
    def trace(call):  # a layer that maps each position on its own
        for axis in range(1, len(call.inputs[0].shape)):
            call.move((call.inputs[0], axis), (call.outputs[0], axis))
    ```
    """

    def __call__(self, call: LayerCall, /) -> None:
        """Writes to `call.graph`, by the methods of `call`.

        Args:
            call: The call; its `inputs` have ids, its `outputs` get them.
        """
        ...


class Resize(Protocol):
    """Says how a layer's config changes with the widths it holds.

    Example:

    ```python
    def resize(layer, size, shape):
        return {"units": size(layer.kernel, -1)}
    ```
    """

    def __call__(
        self,
        layer: keras.layers.Layer,
        size: Size,
        shape: tuple[int | None, ...],
        /,
    ) -> dict[str, Any]:
        """Returns the entries of the config that are others.

        Args:
            layer: The layer as it is.
            size: The new length of an axis of one of its weights.
            shape: The new shape of its output.
        """
        ...


class Configure(Protocol):
    """Says how an operation's config changes with the tensors around it.

    For operations without weights, each of which is called only once.
    """

    def __call__(self, node: Node, keep: Keep, /) -> dict[str, Any]:
        """Returns the entries of the config that are others.

        Args:
            node: The call, with the operation and its tensors.
            keep: Which positions of these tensors stay.
        """
        ...


class Rewrite(Protocol):
    """Makes the arguments of the smaller call, where they hold positions."""

    def __call__(
        self,
        node: Node,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        keep: Keep,
        /,
    ) -> tuple[Sequence[Any], dict[str, Any]]:
        """Returns `(args, kwargs)` of the smaller call.

        Args:
            node: The call as it was.
            args: Its arguments, the smaller model's tensors filled in.
            kwargs: Those with a name, likewise.
            keep: Which positions of the tensors of `node` stay.
        """
        ...


class Factors(Protocol):
    """Says which weights of a smaller layer are to be multiplied.

    For what a layer computes from a width, as attention does that divides
    by the root of its number of dimensions.
    """

    def __call__(
        self, layer: keras.layers.Layer, size: Size, /
    ) -> Iterable[tuple[keras.Variable, float]]:
        """Returns `(variable, factor)` pairs.

        Args:
            layer: The layer as it is, whose variables are meant.
            size: The new length of an axis of one of its weights.
        """
        ...


class Wrap(Protocol):
    """Puts smaller layers into a wrapper like the one they come from."""

    def __call__(
        self, config: dict[str, Any], children: Sequence[keras.layers.Layer], /
    ) -> tuple[keras.layers.Layer, Sequence[keras.layers.Layer]]:
        """Returns the wrapper, and the layers inside as it holds them.

        Args:
            config: Of the wrapper as it was; it may be changed.
            children: The smaller layers, in the order in which `trace` came
                by the old ones (`DependencyGraph.inner`).
        """
        ...


@dataclasses.dataclass(frozen=True)
class Rule:
    """How to trace a layer and how to make it smaller.

    Only `trace` is needed for a layer whose config holds no widths.

    Args:
        trace: Gets the `LayerCall` and writes it to the graph.
        resize: `resize(layer, size, shape)` returns the changes to the
            layer's config. `size(variable, axis)` is the new length of an
            axis of one of its weights, `shape` the new shape of its output.
        configure: `configure(node, keep)` returns the changes to the config
            of an operation, which is called only once. `keep(x, axis)` is a
            bool array: which positions of a tensor's axis stay.
        rewrite: `rewrite(node, args, kwargs, keep)` returns the arguments of
            the smaller call, from those that have its tensors filled in.
        arguments: Names of the call's arguments, besides the first, that
            `trace` looks at. Any other one that is not at its default pins,
            and so does one without a name if there are none here.
        factors: `factors(layer, size)` returns `(variable, factor)` pairs:
            what has to be multiplied by a number once it is smaller.
        wrap: `wrap(config, children)` makes the smaller wrapper of the
            smaller layers it wraps, and returns it and these as it holds
            them, in the order of `DependencyGraph.inner`.
    """

    trace: Trace
    resize: Resize = lambda layer, size, shape: {}
    configure: Configure = lambda node, keep: {}
    rewrite: Rewrite | None = None
    arguments: tuple[str, ...] = ()
    factors: Factors = lambda layer, size: ()
    wrap: Wrap | None = None


def pin(call: LayerCall, reason: str) -> None:
    """Pins all channels that a call reads; its outputs are untracked."""
    call.graph.skip(call.path, call.layer, reason)
    for value in call.inputs:
        for axis in range(len(value.shape)):
            call.graph.read(value, axis, f"'{call.path}': {reason}")


def channel_axis(layer: keras.layers.Layer, value: Value) -> int:
    """The axis of the channels, by the layer's data format if it has one."""
    if getattr(layer, "data_format", None) == "channels_first":
        return 1
    return len(value.shape) - 1


def read_others(call: LayerCall, value: Value, axis: int, why: str) -> None:
    """Pins every axis but one, the batch left out."""
    for other in range(1, len(value.shape)):
        if other != axis:
            call.graph.read(value, other, f"'{call.path}': {why}")
