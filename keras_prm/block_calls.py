"""The calls that a layer's `call` makes, and whether they are all it does."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import math

import keras
import numpy as np
from keras import layers
from keras import tree

from keras_prm import number_checks
from keras_prm import samples
from keras_prm import topology


@dataclasses.dataclass(frozen=True)
class Inside:
    """One run of a layer's `call` on symbolic tensors.

    Args:
        inputs: list of the `KerasTensor`s that it is given, each once.
        outputs: What it returns, a structure of `KerasTensor`s.
        calls: list of the `topology.Call`s from the former to the latter.
    """

    inputs: list
    outputs: object
    calls: list


def inside(layer, args, kwargs):
    """Runs the `call` of a layer on symbolic tensors.

    Args:
        layer: The layer, or subclassed model.
        args: Its arguments, with symbolic tensors.
        kwargs: More of them.

    Returns:
        An `Inside`.

    Raises:
        ValueError: That is not all that it does; the message is the reason.
    """
    if type(layer).__call__ is not layers.Layer.__call__:
        raise ValueError("it has a `__call__` of its own")
    if getattr(layer, "activity_regularizer", None) is not None:
        raise ValueError("it has an activity regularizer")
    _check_own_weights(layer)
    found, *runs = (
        _called(layer, args, kwargs, training)
        for training in (None, False, True)
    )
    _check_weights(layer, found.calls)
    if len({str(_course(run)) for run in (found, *runs)}) > 1:
        raise ValueError(
            "it computes otherwise in training than at inference, not only by "
            "layers that do"
        )
    _check_passed_on(*runs)
    calls = [
        _told(*both) for both in zip(found.calls, *(r.calls for r in runs))
    ]
    found = dataclasses.replace(found, calls=calls)
    _check_values(layer, args, kwargs, found)
    return found


def cast(layer, arguments):
    """Arguments as `Layer.__call__` hands them to `call`."""
    if not getattr(layer, "autocast", True):
        return arguments

    def cast_one(x):
        is_float = _is_symbolic(x) and "float" in x.dtype
        if is_float and x.dtype != layer.compute_dtype:
            return keras.ops.cast(x, layer.compute_dtype)
        return x

    return tree.map_structure(cast_one, arguments)


def parameters(operation):
    """Names of the parameters of a layer's `call`, in order."""
    if not isinstance(operation, layers.Layer):
        return ()
    return tuple(inspect.signature(operation.call).parameters)


def argument(operation, args, kwargs, name):
    """What a call passes for a parameter, or `None`."""
    names = parameters(operation)[: len(args)]
    return kwargs.get(name, dict(zip(names, args)).get(name))


def depends_on_training(operation):
    """Whether something inside computes otherwise in training."""
    return isinstance(operation, layers.Layer) and any(
        "training" in parameters(part) and _has_an_effect(part)
        for part in topology.sublayers(operation)
    )


def _has_an_effect(part):
    """Whether the `training` of a layer, not of those inside, matters."""
    if isinstance(part, layers.BatchNormalization):
        return part.trainable
    names = ("rate", "dropout", "recurrent_dropout", "stddev")
    rates = [getattr(part, name, None) for name in names]
    rates = [rate for rate in rates if isinstance(rate, (int, float))]
    if rates:
        return any(rates)
    inside = topology.sublayers(part)[1:]
    if not type(part).__module__.startswith("keras."):
        return not inside
    # Random numbers, or statistics: some take `training` for other reasons.
    others = {id(v) for layer in inside for v in layer.variables}
    trained = {id(v) for v in part.trainable_variables}
    return any(id(v) not in others | trained for v in part.variables)


def _is_symbolic(x):
    return isinstance(x, keras.KerasTensor)


@contextlib.contextmanager
def _unbuilt(layer):
    """Layers inside that were never called do not get their weights here."""
    parts = [
        (part, part.build)
        for part in topology.sublayers(layer)
        if not part.built and type(part).build is not layers.Layer.build
    ]

    def tried(part, build):
        @functools.wraps(build)  # Keras looks at its parameters
        def built(*args, **kwargs):
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


def _called(layer, args, kwargs, training):
    """One run. `training` is what Keras has said, unless the call says it."""
    given = argument(layer, args, kwargs, "training")
    if given is None and "training" in parameters(layer)[len(args) :]:
        kwargs = kwargs | {"training": training}
    elif given is not None:
        training = given
    inputs = {id(x): x for x in tree.flatten((args, kwargs)) if _is_symbolic(x)}
    inputs = list(inputs.values())
    try:
        # Nothing that it assigns is kept.
        with keras.StatelessScope(collect_losses=True) as scope:
            with _unbuilt(layer), topology.call_context(layer, training):
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
    if not all(map(_is_symbolic, tree.flatten(outputs))):
        raise ValueError("its `call` returns what is no tensor")
    calls = topology.calls_between(inputs, tree.flatten(outputs))
    return Inside(inputs, outputs, calls)


def _check_passed_on(without, with_training):
    """`training` may be passed on, or not at all; else it is lost."""
    for old, new in zip(without.calls, with_training.calls):
        flags = [
            argument(
                x.operation, x.arguments.args, x.arguments.kwargs, "training"
            )
            for x in (old, new)
        ]
        fixed = flags[0] is not None and flags[0] == flags[1]
        if fixed and depends_on_training(old.operation):
            raise ValueError(
                f"it calls '{old.operation.name}' with training={flags[0]} "
                "in any case, which a functional model cannot keep"
            )


@dataclasses.dataclass(frozen=True)
class _Untold:
    """The arguments of a call, less `training`, which Keras fills in.

    Args:
        arguments: Keras' record of them.
        position: Where `training` is among those without a name.
    """

    arguments: object
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
            lambda x: tensors[id(x)] if _is_symbolic(x) else x,
            (self.args, self.kwargs),
        )


def _told(call, *runs):
    """The call as one would write it, if it is told what Keras says."""
    flags = [_training_of(run) for run in runs]
    names = parameters(call.operation)
    if "training" not in names or flags[0] == flags[1] is not None:
        return call
    untold = _Untold(call.arguments, names.index("training"))
    return dataclasses.replace(call, arguments=untold)


def _training_of(call):
    given = call.arguments
    return argument(call.operation, given.args, given.kwargs, "training")


def _course(run):
    """What is called on what, and with what else, to be compared."""
    numbers = {id(x): f"tensor {i}" for i, x in enumerate(run.inputs)}
    found = []
    for call in run.calls:
        given = {
            name: _plain(x, numbers)
            for name, x in call.arguments.kwargs.items()
            if name != "training"
        }
        names = parameters(call.operation)
        position = names.index("training") if "training" in names else None
        more = [
            _plain(x, numbers)
            for i, x in enumerate(call.arguments.args)
            if i != position
        ]
        found.append((_identity(call.operation), more, given))
        for x in call.outputs:
            numbers[id(x)] = f"tensor {len(numbers)}"
    return found, _plain(run.outputs, numbers)


def _identity(operation):
    """What two runs of a `call` have in common of an operation."""
    if isinstance(operation, layers.Layer):
        if operation.weights:
            return id(operation)
        try:
            config = operation.get_config()
        except Exception:
            return id(operation)
        return type(operation), _plain(config | {"name": None}, {})
    own = {k: v for k, v in vars(operation).items() if k[0] != "_"}
    return type(operation), _plain(own | {"name": None}, {})


def _plain(value, numbers):
    """A value as plain Python, whose text says all of it."""

    def plain(x):
        if id(x) in numbers:
            return numbers[id(x)]
        if hasattr(x, "shape") and not _is_symbolic(x):
            array = np.asarray(keras.ops.convert_to_numpy(x))
            return str(array.dtype), array.shape, array.tobytes()
        return x

    return tree.map_structure(plain, value)


def _check_own_weights(layer):
    inside = {
        id(w) for part in topology.sublayers(layer)[1:] for w in part.weights
    }
    own = [w.path for w in layer.weights if id(w) not in inside]
    if own:
        raise ValueError(f"it has weights of its own: {', '.join(own[:3])}")


def _check_weights(layer, calls):
    """All weights have to be those of layers that are called."""
    called = {
        id(w) for call in calls for w in getattr(call.operation, "weights", ())
    }
    lost = [w.path for w in layer.weights if id(w) not in called]
    lost += [
        x.path
        for call in calls
        for x in tree.flatten((call.arguments.args, call.arguments.kwargs))
        if isinstance(x, keras.Variable)
    ]
    if names := list(dict.fromkeys(lost)):
        raise ValueError(
            "it has weights that none of the layers inside multiplies by: "
            f"{', '.join(names[:3])}"
        )


def _check_values(layer, args, kwargs, found):
    """The calls have to compute what the layer does, on numbers as well."""
    specs = [((2, *x.shape[1:]), x.dtype) for x in found.inputs]
    states = (), number_checks.perturbed(layer.weights)
    try:
        arrays = samples.uniform(specs, 2)
        arrays = [keras.ops.convert_to_tensor(x) for x in arrays]
        run = _at_inference(layer, args, kwargs, found.inputs)
        expected = [
            number_checks.stateless(run, arrays, state) for state in states
        ]
        for outputs in expected:
            number_checks.check_finite(outputs)
    except Exception:
        return  # These numbers are none that it takes.
    for outputs, state in zip(expected, states):
        try:
            results = number_checks.stateless(_replayed, (found, arrays), state)
        except Exception as error:
            raise ValueError(
                "the calls that its `call` makes fail: "
                f"{number_checks.one_line(error)}"
            ) from error
        if not number_checks.alike(outputs, results):
            cause = "what is no tensor"
            if state:
                cause = "a weight otherwise than by a layer"
            raise ValueError(
                "it does not compute the same from symbolic tensors: its "
                f"`call` depends on {cause}"
            )


def of_any_batch(call):
    """The operation of a call; one that reshapes, for any number of samples.

    `ops.reshape(x, (ops.shape(x)[0], ...))` gets no number from a symbolic
    tensor.
    """
    shape = getattr(call.operation, "newshape", None)
    if not isinstance(shape, (list, tuple)) or [*shape[:1]] != [None]:
        return call.operation
    if None in (*call.inputs[0].shape[1:], *shape[1:]):
        return call.operation
    size, rest = math.prod(call.inputs[0].shape[1:]), list(shape[1:])
    if -1 in rest:
        rest[rest.index(-1)] = size // max(1, -math.prod(rest))
    if math.prod(rest) != size:
        return call.operation
    return lambda x: keras.ops.reshape(x, (-1, *rest))


def _at_inference(layer, args, kwargs, inputs):
    """One call of a layer as a function of arrays.

    A model of it: what Keras tells the layers inside of training is only then
    the same for all of them.
    """
    new = {
        id(x): keras.Input(batch_shape=x.shape, dtype=x.dtype) for x in inputs
    }

    def fill(structure):
        return tree.map_structure(lambda x: new.get(id(x), x), structure)

    outputs = layer(*fill(args), **fill(kwargs))
    model = keras.Model(list(new.values()), outputs)
    return lambda *arrays: model(list(arrays), training=False)


def _replayed(found, arrays):
    """What the calls inside return for arrays."""
    tensors = dict(zip(map(id, found.inputs), arrays))
    for call in found.calls:
        args, kwargs = call.arguments.fill_in(tensors)
        names = parameters(call.operation)
        if "training" in names and names.index("training") >= len(args):
            kwargs = kwargs | {"training": False}
        results = of_any_batch(call)(*args, **kwargs)
        for x, y in zip(call.outputs, tree.flatten(results), strict=True):
            tensors[id(x)] = y
    return tree.map_structure(lambda x: tensors[id(x)], found.outputs)
