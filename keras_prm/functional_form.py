"""A plain functional model in place of one whose inside is hidden."""

from __future__ import annotations

import contextlib
import warnings

import keras
from keras import tree

from keras_prm import building
from keras_prm import graph
from keras_prm import opening
from keras_prm import samples
from keras_prm import topology
from keras_prm.liveness import Liveness


def as_functional(model, inputs=None):
    """Rewrites a model as a functional one of plain layers.

    `SparsityPlan`, `strip` and all others here reach what Keras shows of a
    model, which is the calls of a functional one. A subclassed model hides
    them in its `call`, and so does a layer of yours, or of another library,
    that is made of layers: a residual block, an encoder. Here such a `call` is
    run on symbolic tensors, and what it calls becomes part of one flat model.
    Layers are named by where they were: `conv` of the block `stage1` becomes
    `stage1_conv`. The result is compared with the model on random inputs.

    What stays closed is named in a warning: a block that multiplies by
    weights of its own rather than a layer's, that does not take symbolic
    tensors (it calls `tf`, or asks for values), that computes otherwise in
    training than at inference but by its layers, or that reads a mask of
    timesteps. `register_rule` is for these.

    Args:
        model: A `keras.Model` of any kind that has its weights. It is not
            changed.
        inputs: What the model takes, its `call`'s first argument: a batch of
            arrays to try the result on, or, for a subclassed model whose
            sizes are not to be fixed, a `keras.Input`, or a list or dict of
            either. Defaults to random numbers, for a subclassed model in
            float32 and of the shape that it was built with.

    Returns:
        A new functional model with copies of the weights, not compiled. It
        trains as the model does, but for a `train_step` of the model's own.

    Raises:
        TypeError: `model` is no `keras.Model`, or a subclassed one whose
            `call` cannot be opened; the message says why.
        ValueError: It has no weights yet, or `inputs` are missing or do not
            fit.
        RuntimeError: The result does not compute the same: the `call` depends
            on something that is no tensor and changes.

    Warns:
        UserWarning: Something stays closed, or the model does not take random
            numbers, so that nothing was compared.

    Example:

    ```python
    model = keras_prm.as_functional(my_subclassed_model)
    plan = keras_prm.SparsityPlan.uniform(model, filters=0.5)
    ```
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Expected a keras.Model. "
            f"Received: model={model!r} (of type {type(model).__name__})"
        )
    opener = opening.Opener()
    arrays = None if _is_symbolic(inputs) else inputs
    if topology.is_model(model):
        if inputs is not arrays:
            raise ValueError(
                f"The model '{model.name}' has inputs of its own. Give arrays "
                f"to try it on, or nothing. Received: inputs={inputs!r}"
            )
        view = topology.functional(model)
        inputs, tensors = view.input, {id(x): x for x in view.inputs}
        opener.model(view, tensors)
        outputs = tree.map_structure(lambda x: tensors[id(x)], view.output)
    else:
        inputs = _inputs_of(model, inputs)
        outputs = _opened(opener, model, inputs)
    with _renamed(opener, inputs, outputs):
        shared = keras.Model(inputs, outputs, name=model.name)
        found = _copied(shared)
    _compare(model, found, arrays)
    if opener.closed:
        warnings.warn(
            f"as_functional leaves {len(opener.closed)} layers of "
            f"'{model.name}' closed, whose inside no plan reaches: "
            f"{_reasons(opener.closed)}",
            stacklevel=2,
        )
    return found


def _reasons(closed):
    """Why layers are closed, those for one reason together."""
    paths = {}
    for path, reason in closed.items():
        paths.setdefault(reason, []).append(f"'{path}'")
    return "; ".join(f"{', '.join(p)}: {why}" for why, p in paths.items())


def _opened(opener, model, inputs):
    try:
        return opener.layer(model, (inputs,), {}, "")
    except ValueError as reason:
        raise TypeError(
            f"Cannot rewrite the subclassed model '{model.name}' of type "
            f"{type(model).__name__} as a functional one: {reason}. Change "
            "its `call`, or write `keras.Model(inputs, outputs)`."
        ) from reason


def _is_symbolic(inputs):
    parts = tree.flatten(inputs)
    return all(isinstance(x, keras.KerasTensor) for x in parts)


def _inputs_of(model, given):
    """What a subclassed model is run on, one `keras.Input` or several."""
    if not model.weights:
        raise ValueError(
            f"The model '{model.name}' has no weights yet. Call it on a batch "
            "first."
        )
    if given is not None and _is_symbolic(given):
        return given
    if given is not None:
        if isinstance(given, dict):
            return {name: _input(x, name) for name, x in given.items()}
        return tree.map_structure(_input, given)
    config = model.get_build_config() or {}
    shapes = [config.get("input_shape")]
    if "shapes_dict" in config:
        shapes = list(config["shapes_dict"].values())
    if len(shapes) != 1 or not _is_shape(shapes[0]):
        raise ValueError(
            f"What '{model.name}' takes is not known. Give `inputs`: a batch "
            "of arrays, or `keras.Input`, or a list or dict of them. "
            f"Received: inputs=None, of a model built with {config}"
        )
    return keras.Input(shapes[0][1:])


def _input(x, name=None):
    dtype = keras.backend.standardize_dtype(x.dtype)
    if "float" in dtype:  # what Keras makes of all of these
        dtype = keras.config.floatx()
    return keras.Input(x.shape[1:], dtype=dtype, name=name)


def _is_shape(shape):
    return isinstance(shape, (list, tuple)) and all(
        n is None or isinstance(n, int) for n in shape
    )


@contextlib.contextmanager
def _renamed(opener, inputs, outputs):
    """For a while, operations have names that say where they come from."""
    inputs, outputs = tree.flatten(inputs), tree.flatten(outputs)
    taken = {topology.input_layer(x).name for x in inputs}
    before = {}
    for call in topology.calls_between(inputs, outputs):
        operation = call.operation
        if id(operation) not in before:
            before[id(operation)] = operation, operation.name
            path = opener.paths.get(id(operation), operation.name)
            stem = name = _name(path)
            number = 0
            while name in taken:
                number += 1
                name = f"{stem}_{number}"
            taken.add(name)
            operation.name = name
    try:
        yield
    finally:
        for operation, name in before.values():
            operation.name = name


def _name(path):
    """The names in a path, less those that the next one begins with."""
    name, *rest = path.split("/")
    last = name
    for part in rest:
        name = part if part.startswith(f"{last}_") else f"{name}_{part}"
        last = part
    return name


def _copied(view):
    """A model of copies of all layers, nothing left out."""
    trace = graph.trace(view, reason="it is copied as it is")
    return building.Builder(Liveness(trace)).model(view, is_root=True)


def _compare(model, found, inputs):
    if inputs is None:
        specs = [(x.shape, x.dtype) for x in found.inputs]
        inputs = tree.pack_sequence_as(found.input, samples.uniform(specs, 2))
    try:
        expected = tree.flatten(model(inputs, training=False))
        opening.check_finite(expected)
    except Exception as error:
        warnings.warn(
            f"as_functional could not try '{model.name}', and has not "
            "compared what it computes. Give it `inputs`, a batch of real "
            f"ones. {opening.one_line(error)}",
            stacklevel=3,
        )
        return
    results = tree.flatten(found(inputs, training=False))
    if not opening.alike(expected, results):
        raise RuntimeError(
            f"The functional form of '{model.name}' does not compute the "
            "same: its `call` depends on something that is no tensor and "
            "changes."
        )
