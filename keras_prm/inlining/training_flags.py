"""Calls inside of a layer, told whether they train by Keras or by the layer."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import keras
from keras import tree

from keras_prm.utils.training_argument import depends_on_training
from keras_prm.utils.training_argument import given_to
from keras_prm.utils.training_argument import parameters

if TYPE_CHECKING:
    from typing import Any


def check_passed_on(without, with_training):
    """`training` may be passed on, or not at all; else it is lost.

    Args:
        without: `symbolic_call.Run` of a layer at inference.
        with_training: Its run in training, call by call the same.

    Raises:
        ValueError: A layer inside is told the same in both.
    """
    for old, new in zip(without.nodes, with_training.nodes):
        flags = [given_to(old), given_to(new)]
        fixed = flags[0] is not None and flags[0] == flags[1]
        if fixed and depends_on_training(old.operation):
            raise ValueError(
                f"it calls '{old.operation.name}' with training={flags[0]} "
                "in any case, which a functional model cannot keep"
            )


def told(node, at_inference, in_training):
    """A call as one would write it, if it is told what Keras says.

    Args:
        node: The `keras_graph.Node`.
        at_inference: The same call of a run at inference.
        in_training: The same call of a run in training.

    Returns:
        `node`, or the same without its `training`, which Keras then fills in.
    """
    flags = [given_to(at_inference), given_to(in_training)]
    names = parameters(node.operation)
    if "training" not in names or flags[0] == flags[1] is not None:
        return node
    untold = _Untold(node.arguments, names.index("training"))
    return dataclasses.replace(node, arguments=untold)


@dataclasses.dataclass(frozen=True)
class _Untold:
    """The arguments of a call, less `training`, which Keras fills in.

    Args:
        arguments: Keras' record of them.
        position: Where `training` is among those without a name.
    """

    arguments: Any
    position: int

    @property
    def args(self):
        args = self.arguments.args
        return tuple(
            None if i == self.position else x for i, x in enumerate(args)
        )

    @property
    def kwargs(self):
        given = dict(self.arguments.kwargs)
        given.pop("training", None)
        return given

    def fill_in(self, tensors):
        return tree.map_structure(
            lambda x: tensors[id(x)] if isinstance(x, keras.KerasTensor) else x,
            (self.args, self.kwargs),
        )
