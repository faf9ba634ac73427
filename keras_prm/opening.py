"""Running the `call` of a layer that is made of others, to see the others.

Keras shows the calls that a functional model is made of. A `call` in Python
hides those that it makes; run on symbolic tensors, it shows them.
"""

from __future__ import annotations

import inspect
import math
import re

import keras
import numpy as np
from keras import tree

from keras_prm import layer_rules
from keras_prm import parity
from keras_prm import samples
from keras_prm import topology


class Opener:
    """Runs calls on symbolic tensors, one by one those inside of layers.

    Attributes:
        closed: dict from the path of a layer with others inside, which cannot
            be opened, to the reason.
        paths: dict from `id(operation)` to where the operation was found:
            names of layers, joined by `/`.
    """

    def __init__(self):
        self.closed = {}
        self.paths = {}
        self._found = []  # what `paths` has the ids of

    def model(self, view, tensors, prefix=""):
        """Runs all calls of a functional model.

        Args:
            view: The model.
            tensors: dict from `id(KerasTensor)` to what stands for it, which
                holds the model's inputs and receives all the others.
            prefix: Path of the model, `""` or `"a/b/"`.
        """
        for call in topology.calls(view):
            name = call.operation.name
            if prefix:
                name = _uncounted(call.operation)
            self._run(call, tensors, prefix + name)

    def layer(self, layer, args, kwargs, prefix):
        """What a layer's `call` returns, from the calls that it makes.

        Args:
            layer: The layer, or subclassed model.
            args: Its arguments, with symbolic tensors.
            kwargs: More of them.
            prefix: What the paths of the layers inside begin with.

        Raises:
            ValueError: It cannot be opened; the message is the reason.
        """
        inputs = _tensors((args, kwargs))
        outputs, calls = _inside(layer, args, kwargs, inputs)
        tensors, names = {id(x): x for x in inputs}, _names(layer)
        for call in calls:
            operation = call.operation
            name = names.get(id(operation)) or _uncounted(operation)
            self._run(call, tensors, prefix + name)
        return tree.map_structure(lambda x: tensors[id(x)], outputs)

    def _run(self, call, tensors, path):
        operation = call.operation
        outputs = None
        if topology.is_model(operation):
            outputs = self._nested(call, tensors, path)
        elif layer_rules.is_block(operation):
            args, kwargs = call.arguments.fill_in(tensors)
            try:
                _check_masks(call)
                outputs = self.layer(operation, args, kwargs, path + "/")
            except ValueError as reason:
                self.closed[path] = str(reason)
        if outputs is None:
            args, kwargs = call.arguments.fill_in(tensors)
            outputs = _of_any_batch(call)(*args, **kwargs)
            if id(operation) not in self.paths:
                self.paths[id(operation)] = path
                self._found.append(operation)
        for x, new in zip(call.outputs, tree.flatten(outputs), strict=True):
            tensors[id(x)] = new

    def _nested(self, call, tensors, path):
        view = topology.functional(call.operation)
        inputs = [tensors[id(x)] for x in topology.fed(call, view)]
        inside = dict(zip(map(id, view.inputs), inputs))
        self.model(view, inside, path + "/")
        return [inside[id(x)] for x in view.outputs]


def _names(layer):
    """What layers inside are called by that were not given a name.

    Keras' names for these count all that were ever made; the attribute that
    holds them is the same each time.
    """
    found = {}
    modules = vars(layer).get("_modules", {})  # where PyTorch keeps them
    for name, value in (vars(layer) | modules).items():
        if name.startswith("_"):
            continue
        parts = {name: value}
        if isinstance(value, (list, tuple)):
            parts = {f"{name}_{i}": x for i, x in enumerate(value)}
        elif isinstance(value, dict):
            parts = {f"{name}_{i}": x for i, x in value.items()}
        for name, part in parts.items():
            if isinstance(part, keras.layers.Layer) and _is_unnamed(part):
                found.setdefault(id(part), name)
    return found


def _is_unnamed(operation):
    usual = type(operation).__name__.lower()
    name = operation.name.replace("_", "")
    return bool(re.fullmatch(rf"{usual}\d*", name))


def _uncounted(operation):
    """Its name, without the number that Keras made up."""
    if _is_unnamed(operation):
        return re.sub(r"_\d+$", "", operation.name)
    return operation.name


def _of_any_batch(call):
    """The operation of a call; one that reshapes, for any number of samples.

    `ops.reshape(x, (ops.shape(x)[0], ...))` gets no number from a symbolic
    tensor.
    """
    shape = getattr(call.operation, "newshape", None)
    if not isinstance(shape, (list, tuple)) or shape[:1] not in (
        (None,),
        [None],
    ):
        return call.operation
    sizes, rest = call.inputs[0].shape[1:], list(shape[1:])
    if None in (*sizes, *rest):
        return call.operation
    size = math.prod(sizes)
    if -1 in rest:
        rest[rest.index(-1)] = size // max(1, -math.prod(rest))
    if math.prod(rest) != size:
        return call.operation
    return lambda x: keras.ops.reshape(x, (-1, *rest))


def _tensors(structure):
    return [x for x in tree.flatten(structure) if _is_symbolic(x)]


def _is_symbolic(x):
    return isinstance(x, keras.KerasTensor)


def _cast(layer, arguments):
    """The arguments as `Layer.__call__` hands them to `call`."""
    dtype = layer.compute_dtype

    def cast(x):
        if _is_symbolic(x) and "float" in x.dtype and x.dtype != dtype:
            return keras.ops.cast(x, dtype)
        return x

    if not getattr(layer, "autocast", True):
        return arguments
    return tree.map_structure(cast, arguments)


def _check_masks(call):
    if any(map(topology.is_masked, (*call.inputs, *call.outputs))):
        raise ValueError("it reads or makes a mask of timesteps")


def _inside(layer, args, kwargs, inputs):
    """What `call` returns, and the calls that it makes.

    Raises:
        ValueError: These are not all that it does.
    """
    if type(layer).__call__ is not keras.layers.Layer.__call__:
        raise ValueError("it has a `__call__` of its own")
    if getattr(layer, "activity_regularizer", None) is not None:
        raise ValueError("it has an activity regularizer")
    flag = {}
    if "training" in _parameters(layer) and kwargs.get("training") is None:
        flag = {"training": None}
    found = _called(layer, args, kwargs | flag, inputs)
    _check_weights(layer, found[1])
    if flag:
        also = _called(layer, args, kwargs | {"training": True}, inputs)
        if _course(inputs, *found) != _course(inputs, *also):
            raise ValueError(
                "it computes otherwise in training than at inference, not "
                "only by layers that do"
            )
    _check_values(layer, args, kwargs, inputs, *found)
    return found


def _called(layer, args, kwargs, inputs):
    args, kwargs = _cast(layer, (args, kwargs))
    try:
        with keras.StatelessScope():  # nothing that it assigns is kept
            outputs = layer.call(*args, **kwargs)
    except Exception as error:
        raise ValueError(
            "its `call` does not take symbolic tensors, as of keras.Input: "
            f"{one_line(error)}"
        ) from error
    if not all(map(_is_symbolic, tree.flatten(outputs))):
        raise ValueError("its `call` returns what is no tensor")
    return outputs, topology.calls_between(inputs, tree.flatten(outputs))


def _check_weights(layer, calls):
    """All weights have to be those of layers that are called."""
    layers = [c.operation for c in calls]
    called = {id(w) for x in layers for w in getattr(x, "weights", ())}
    lost = [w.path for w in layer.weights if id(w) not in called]
    direct = [
        x.path
        for call in calls
        for x in tree.flatten((call.arguments.args, call.arguments.kwargs))
        if isinstance(x, keras.Variable)
    ]
    if names := list(dict.fromkeys(lost + direct)):
        raise ValueError(
            "it has weights that none of the layers inside multiplies by: "
            f"{', '.join(names[:3])}"
        )


def _course(inputs, outputs, calls):
    """What is called on what, to be compared."""
    numbers = {id(x): i for i, x in enumerate(inputs)}
    found = []
    for call in calls:
        operation = call.operation
        is_layer = isinstance(operation, keras.layers.Layer)
        key = id(operation) if is_layer else type(operation)
        found.append((key, [numbers[id(x)] for x in call.inputs]))
        for x in call.outputs:
            numbers[id(x)] = len(numbers)
    return found, [numbers[id(x)] for x in tree.flatten(outputs)]


def _check_values(layer, args, kwargs, inputs, outputs, calls):
    """The calls have to compute what the layer does, on numbers as well."""
    specs = [((2, *x.shape[1:]), x.dtype) for x in inputs]
    arrays = [keras.ops.convert_to_tensor(x) for x in samples.uniform(specs, 2)]
    try:
        expected = tree.flatten(
            _at_inference(layer, args, kwargs, inputs)(arrays)
        )
        check_finite(expected)
    except Exception:
        return  # These numbers are none that it takes.
    tensors = dict(zip(map(id, inputs), arrays))
    try:
        for call in calls:
            more, named = call.arguments.fill_in(tensors)
            if "training" in _parameters(call.operation):
                named = named | {"training": False}
            results = _of_any_batch(call)(*more, **named)
            for x, y in zip(call.outputs, tree.flatten(results), strict=True):
                tensors[id(x)] = y
    except Exception as error:
        text = f"the calls that its `call` makes fail: {one_line(error)}"
        raise ValueError(text) from error
    found = [tensors[id(x)] for x in tree.flatten(outputs)]
    if not alike(expected, found):
        raise ValueError(
            "it does not compute the same from symbolic tensors: its `call` "
            "depends on what is no tensor"
        )


def _at_inference(layer, args, kwargs, inputs):
    """One call of a layer as a function of a list of arrays.

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
    return lambda arrays: model(arrays, training=False)


def _parameters(operation):
    """Names of the parameters of a layer's `call`."""
    if not isinstance(operation, keras.layers.Layer):
        return ()
    return inspect.signature(operation.call).parameters


def check_finite(outputs):
    """Raises a ValueError unless a list of tensors is finite."""
    arrays = [np.asarray(keras.ops.convert_to_numpy(x)) for x in outputs]
    if not all(np.isfinite(x.astype(float)).all() for x in arrays):
        raise ValueError("it returns NaN or infinity")


def alike(expected, found):
    """Whether lists of tensors are equal up to rounding."""
    for x, y in zip(expected, found, strict=True):
        limit = parity.MODEL_TOLERANCES.get(
            keras.backend.standardize_dtype(x.dtype),
            parity.MODEL_TOLERANCES["float32"],
        )
        x, y = (keras.ops.convert_to_numpy(v) for v in (x, y))
        if parity.errors(np.asarray(x), np.asarray(y))[1] > limit:
            return False
    return True


def one_line(error):
    """What an error says, without what Keras puts around it."""
    lines = re.sub(r"\x1b\[\d*m", "", str(error)).split("\n")
    line = next((line for line in lines[1:] if line.strip()), lines[0])
    return f"{type(error).__name__}: {line.strip()}"
