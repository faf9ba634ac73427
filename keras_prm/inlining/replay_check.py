"""Check that the calls inside of a layer compute what it does."""

from __future__ import annotations

import math

import keras
from keras import tree

from keras_prm.equivalence import number_checks
from keras_prm.utils import datasets
from keras_prm.utils import training_argument


def of_any_batch(node):
    """The operation of a call; one that reshapes, for any number of samples.

    `ops.reshape(x, (ops.shape(x)[0], ...))` gets no number from a symbolic
    tensor.
    """
    shape = getattr(node.operation, "newshape", None)
    if not isinstance(shape, (list, tuple)) or [*shape[:1]] != [None]:
        return node.operation
    if None in (*node.inputs[0].shape[1:], *shape[1:]):
        return node.operation
    size, rest = math.prod(node.inputs[0].shape[1:]), list(shape[1:])
    if -1 in rest:
        rest[rest.index(-1)] = size // max(1, -math.prod(rest))
    if math.prod(rest) != size:
        return node.operation
    return lambda x: keras.ops.reshape(x, (-1, *rest))


def check_replay(layer, args, kwargs, found):
    """The calls have to compute what the layer does, on numbers as well."""
    specs = [((2, *x.shape[1:]), x.dtype) for x in found.inputs]
    states = (), number_checks.perturbed(layer.weights)
    try:
        arrays = datasets.uniform(specs, 2)
        arrays = [keras.ops.convert_to_tensor(x) for x in arrays]
        run = _call_at_inference(layer, args, kwargs, found.inputs)
        expected = [
            number_checks.stateless(run, arrays, state) for state in states
        ]
        for outputs in expected:
            number_checks.check_outputs(outputs)
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
        if not number_checks.are_close(outputs, results):
            cause = "what is no tensor"
            if state:
                cause = "a weight otherwise than by a layer"
            raise ValueError(
                "it does not compute the same from symbolic tensors: its "
                f"`call` depends on {cause}"
            )


def _call_at_inference(layer, args, kwargs, inputs):
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
    for node in found.nodes:
        args, kwargs = node.arguments.fill_in(tensors)
        names = training_argument.parameters(node.operation)
        if "training" in names and names.index("training") >= len(args):
            kwargs = kwargs | {"training": False}
        results = of_any_batch(node)(*args, **kwargs)
        for x, y in zip(node.outputs, tree.flatten(results), strict=True):
            tensors[id(x)] = y
    return tree.map_structure(lambda x: tensors[id(x)], found.outputs)
