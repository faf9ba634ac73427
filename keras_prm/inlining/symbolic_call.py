"""The calls that a layer's `call` makes on symbolic tensors."""

from __future__ import annotations

import contextlib
import dataclasses
import functools

import keras
import numpy as np
from keras import layers
from keras import tree

from keras_prm.equivalence import model_state
from keras_prm.equivalence import number_checks
from keras_prm.inlining import replay_check
from keras_prm.inlining import training_flags
from keras_prm.utils import keras_graph
from keras_prm.utils import keras_hooks
from keras_prm.utils import training_argument


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a layer's `call` on symbolic tensors.

    Args:
        inputs: list of the `KerasTensor`s that it is given, each once.
        outputs: What it returns, a structure of `KerasTensor`s.
        nodes: list of the `keras_graph.Node`s from the former to the latter.
    """

    inputs: list
    outputs: object
    nodes: list


def run_symbolically(layer, args, kwargs, training):
    """Runs the `call` of a layer on symbolic tensors.

    Args:
        layer: The layer, or subclassed model.
        args: Its arguments, with symbolic tensors.
        kwargs: More of them.
        training: What Keras has said of it, unless the arguments say it.

    Returns:
        A `Run`.

    Raises:
        ValueError: It does something else than to call layers and operations.
    """
    given = training_argument.given(layer, args, kwargs)
    rest = training_argument.parameters(layer)[len(args) :]
    if given is not None:
        training = given
    elif "training" in rest:
        kwargs = kwargs | {"training": training}
    inputs = {id(x): x for x in tree.flatten((args, kwargs)) if is_symbolic(x)}
    inputs = list(inputs.values())
    try:
        # Nothing that it assigns is kept.
        with keras.StatelessScope(collect_losses=True) as scope:
            with _unbuilt(layer), keras_hooks.call_context(layer, training):
                outputs = layer.call(*args, **kwargs)
    except Exception as error:
        reason = number_checks.one_line(error)
        if "None" in reason:
            reason += " (it may have asked for the number of samples)"
        raise ValueError(
            "its `call` does not take symbolic tensors, as of keras.Input: "
            f"{reason}"
        ) from error
    if scope.losses:
        raise ValueError("it adds a loss")
    if not all(map(is_symbolic, tree.flatten(outputs))):
        raise ValueError("its `call` returns what is no tensor")
    nodes = keras_graph.nodes_between(inputs, tree.flatten(outputs))
    return Run(inputs, outputs, nodes)


def course(run):
    """What a `Run` calls on what, and with what else, to be compared."""
    numbers = {id(x): f"tensor {i}" for i, x in enumerate(run.inputs)}
    found = []
    for node in run.nodes:
        given = {
            name: _as_text(x, numbers)
            for name, x in node.arguments.kwargs.items()
            if name != "training"
        }
        names = training_argument.parameters(node.operation)
        position = names.index("training") if "training" in names else None
        more = [
            _as_text(x, numbers)
            for i, x in enumerate(node.arguments.args)
            if i != position
        ]
        found.append((_operation_identity(node.operation), more, given))
        for x in node.outputs:
            numbers[id(x)] = f"tensor {len(numbers)}"
    return found, _as_text(run.outputs, numbers)


@contextlib.contextmanager
def _unbuilt(layer):
    """Layers inside that were never called do not get their weights here."""
    parts = [
        (part, part.build)
        for part in keras_hooks.sublayers(layer)
        if not part.built and type(part).build is not layers.Layer.build
    ]

    def tried(part, build):
        @functools.wraps(build)  # Keras looks at its parameters
        def built(*args, **kwargs):
            with model_state.random_numbers_kept():
                twin = type(part).from_config(part.get_config())
            twin.build(*args, **kwargs)
            if twin.weights:
                raise ValueError(f"'{part.name}' has no weights yet")
            return build(*args, **kwargs)

        return built

    try:
        for part, build in parts:
            part.build = tried(part, build)
        yield
    finally:
        for part, build in parts:
            part.build = build


def _operation_identity(operation):
    """What two runs of a `call` have in common of an operation."""
    if isinstance(operation, layers.Layer):
        if operation.weights:
            return id(operation)
        try:
            config = operation.get_config()
        except Exception:
            return id(operation)
        return type(operation), _as_text(config | {"name": None}, {})
    own = {k: v for k, v in vars(operation).items() if k[0] != "_"}
    return type(operation), _as_text(own | {"name": None}, {})


def _as_text(value, numbers):
    """A value as plain Python, whose text says all of it."""

    def plain(x):
        if id(x) in numbers:
            return numbers[id(x)]
        if hasattr(x, "shape") and not is_symbolic(x):
            array = np.asarray(keras.ops.convert_to_numpy(x))
            return str(array.dtype), array.shape, array.tobytes()
        return x

    return tree.map_structure(plain, value)


def is_symbolic(x):
    """True for a `KerasTensor`, which has a shape and no numbers."""
    return isinstance(x, keras.KerasTensor)


def calls_inside(layer, args, kwargs):
    """Runs the `call` of a layer on symbolic tensors.

    Args:
        layer: The layer, or subclassed model.
        args: Its arguments, with symbolic tensors.
        kwargs: More of them.

    Returns:
        A `symbolic_call.Run`.

    Raises:
        ValueError: That is not all that it does; the message is the reason.
    """
    if type(layer).__call__ is not layers.Layer.__call__:
        raise ValueError("it has a `__call__` of its own")
    if getattr(layer, "activity_regularizer", None) is not None:
        raise ValueError("it has an activity regularizer")
    _check_own_weights(layer)
    found, *runs = (
        run_symbolically(layer, args, kwargs, training)
        for training in (None, False, True)
    )
    _check_weights(layer, found.nodes)
    if len({str(course(each)) for each in (found, *runs)}) > 1:
        raise ValueError(
            "it computes otherwise in training than at inference, not only by "
            "layers that do"
        )
    training_flags.check_passed_on(*runs)
    nodes = map(training_flags.told, found.nodes, *(r.nodes for r in runs))
    found = dataclasses.replace(found, nodes=list(nodes))
    replay_check.check_replay(layer, args, kwargs, found)
    return found


def cast(layer, arguments):
    """Arguments as `Layer.__call__` hands them to `call`."""
    if not getattr(layer, "autocast", True):
        return arguments

    def cast_one(x):
        is_float = is_symbolic(x) and "float" in x.dtype
        if is_float and x.dtype != layer.compute_dtype:
            return keras.ops.cast(x, layer.compute_dtype)
        return x

    return tree.map_structure(cast_one, arguments)


def _check_own_weights(layer):
    inside = {
        id(w) for part in keras_hooks.sublayers(layer)[1:] for w in part.weights
    }
    own = [w.path for w in layer.weights if id(w) not in inside]
    if own:
        raise ValueError(f"it has weights of its own: {', '.join(own[:3])}")


def _check_weights(layer, nodes):
    """All weights have to be those of layers that are called."""
    called = {
        id(w) for node in nodes for w in getattr(node.operation, "weights", ())
    }
    lost = [w.path for w in layer.weights if id(w) not in called]
    lost += [
        x.path
        for node in nodes
        for x in tree.flatten((node.arguments.args, node.arguments.kwargs))
        if isinstance(x, keras.Variable)
    ]
    if names := list(dict.fromkeys(lost)):
        raise ValueError(
            "it has weights that none of the layers inside multiplies by: "
            f"{', '.join(names[:3])}"
        )
