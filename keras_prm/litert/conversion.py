"""Conversion of a Keras model by TensorFlow's converter."""

from __future__ import annotations

import dataclasses
import errno
import keyword
import os
import re
import warnings
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_prm.equivalence import tolerances
from keras_prm.litert import flatbuffer
from keras_prm.litert import float_inputs
from keras_prm.utils import keras_graph
from keras_prm.utils import variable_keys

if TYPE_CHECKING:
    from typing import Any

# Operations of TensorFlow's that `keras.random` consists of.
_RANDOM = re.compile("Random|Multinomial|TruncatedNormal")
# Those of strings that it has no builtins for; it has some for lookups.
_STRINGS = re.compile("String|Regex")
_NUM_COMPARED = 16  # samples, of a model and its twin


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a file is to be made; plain values, which JSON can hold.

    Args:
        mode: A key of `tolerances.FILE_TOLERANCES`.
        batch_size: The number of rows that the file takes; None: any.
        int8_io: What inputs and outputs are in an int8 file: `"int8"`,
            `"uint8"` or `""`, float32.
        metadata: What is noted in the file, a dict.
    """

    mode: str = "float32"
    batch_size: int | None = None
    int8_io: str = ""
    metadata: dict = dataclasses.field(default_factory=dict)


def input_names(model):
    """Names of the inputs in the file of `model`, in `model.inputs`' order.

    Those of the `keras.Input`s, which saving and `strip` keep, other than
    those of their tensors; changed where a file cannot have them.
    """
    found = []
    for x in model.inputs:
        name = _valid(keras_graph.input_layer(x).name)
        while name in found:
            name = f"{name}_{len(found)}"
        found.append(name)
    return found


def _valid(name):
    """A name that TensorFlow takes for an argument."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    reserved = keyword.iskeyword(name) or name == "self"
    return f"input_{name}" if reserved or name[0] == "_" else name


def convert(view, path, settings, samples):
    """Writes the file of a model. Needs Keras to run on TensorFlow.

    Args:
        view: A functional model with a list of inputs.
        path: Where to write; ends in `.tflite`.
        settings: `Settings`.
        samples: list of arrays, one per input, to calibrate int8 with.

    Raises:
        ValueError: The converter refuses the model, or can make of it only
            what LiteRT's builtins cannot run, or what casts integers to
            floating point where integers alone are wanted.
        OSError: The disk is full, say.
    """
    _write(view, path, settings, samples)
    numeric = _cast_inputs(view, path) if settings.int8_io else []
    if any(numeric):
        twin = _float_twin(view, numeric, samples)
        samples = float_inputs.samples(samples, numeric)
        _write(twin, path, settings, samples)
        _check_integers(view, path, numeric)
    check_builtins(path, view.name)
    flatbuffer.add_metadata(path, settings.metadata)


def _write(view, path, settings, samples):
    signature = [
        keras.InputSpec(
            dtype=x.dtype, shape=(settings.batch_size, *x.shape[1:]), name=name
        )
        for x, name in zip(view.inputs, input_names(view))
    ]
    if settings.mode == "int8":
        _check_no_loops(view, signature)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            view.export(
                str(path),
                format="litert",
                verbose=False,
                input_signature=[signature],
                **_options(view, settings, samples),
            )
    except OSError:
        raise
    except Exception as error:
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if os.strerror(code) in str(error):
                raise OSError(code, os.strerror(code)) from error
        raise ValueError(
            f"Cannot export to LiteRT: the model '{view.name}' was refused by "
            f"the converter. {_reason(str(error), view, settings.batch_size)}"
        ) from error


def _cast_inputs(view, path):
    """Which integer inputs a file makes floating-point numbers, bools."""
    with flatbuffer.mapped(path) as content:
        cast = flatbuffer.cast_inputs(content)
    return [name in cast for name in input_names(view)]


def _float_twin(view, numeric, samples):
    """The model with float32 inputs, which computes the same numbers."""
    rows = view.inputs[0].shape[0] or min(len(samples[0]), _NUM_COMPARED)
    x = [a[np.arange(rows) % len(a)] for a in samples]
    try:
        twin = float_inputs.twin(view, numeric)
        as_floats = [
            a.astype("float32") if is_cast else a
            for a, is_cast in zip(x, numeric)
        ]
        pairs = zip(
            keras.tree.flatten(view(x, training=False)),
            keras.tree.flatten(twin(as_floats, training=False)),
            strict=True,
        )
        arrays = [map(keras.ops.convert_to_numpy, pair) for pair in pairs]
        errors = [tolerances.errors(*pair)[1] for pair in arrays]
    except (TypeError, ValueError) as error:
        raise _no_integers(view, numeric, str(error)[:200]) from error
    if max(errors) > tolerances.MODEL_TOLERANCES["float32"]:
        raise _no_integers(view, numeric, "its integer arithmetic wraps around")
    return twin


def _check_integers(view, path, numeric):
    """Refuses a file that takes integers and computes in floating point."""
    with flatbuffer.mapped(path) as content:
        found = flatbuffer.float_operations(content)
    if found:
        raise _no_integers(view, numeric, f"{sorted(found)} stay float32")


def _no_integers(view, numeric, reason):
    pairs = zip(input_names(view), view.inputs, numeric)
    names = {name: x.dtype for name, x, is_cast in pairs if is_cast}
    return ValueError(
        f"Cannot export to LiteRT: the model '{view.name}' makes its integer "
        "inputs floating-point numbers, and no file can be made of it that "
        f"computes with them in integers alone ({reason}). Received: {names}. "
        "Give the model float32 inputs, as `keras.Input(shape)` does, which "
        "int8_io then quantizes, or pass int8_io=False."
    )


def _check_no_loops(view, signature):
    """Refuses loops, on which the converter's calibration kills Python."""
    import tensorflow as tf

    specs = [tf.TensorSpec(x.shape, x.dtype, x.name) for x in signature]
    function = tf.function(lambda *xs: view([*xs], training=False))
    graph = function.get_concrete_function(*specs).graph.as_graph_def()
    nodes = [
        node
        for part in (graph, *graph.library.function)
        for node in (part.node if part is graph else part.node_def)
    ]
    loops = [n.name for n in nodes if n.op in ("While", "StatelessWhile")]
    if loops:
        found = [_layer_at(name, view) or name for name in loops]
        raise ValueError(
            "Cannot export to LiteRT: activations inside of loops cannot be "
            f"calibrated for int8. Received: loops in {found}. Pass "
            "quantize='dynamic_range', whose weights are int8 too, or build "
            "the model with recurrent layers of `unroll=True` and the same "
            "weights."
        )


def check_builtins(path, name):
    """Refuses a file that needs more than LiteRT's builtin operations.

    Args:
        path: The file.
        name: The model's name, for the error.

    Raises:
        ValueError: It has operations of TensorFlow's, or custom ones.
    """
    with flatbuffer.mapped(path) as content:
        names, others = flatbuffer.operation_list(content)
    if others:
        raise ValueError(
            f"Cannot export to LiteRT: the file of the model '{name}' needs "
            "more than LiteRT's builtin operations, which phones may lack. "
            f"Received: {others}, of {names}. Use other operations."
        )


def _options(view, settings, samples):
    import tensorflow as tf

    spec: dict[str, Any] = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    options: dict[str, Any] = {"target_spec": spec}
    if settings.mode != "float32":
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    if settings.mode == "float16":
        spec["supported_types"] = [tf.float16]
    if settings.mode == "int8":
        spec["supported_ops"].insert(0, tf.lite.OpsSet.TFLITE_BUILTINS_INT8)
        options["representative_dataset"] = lambda: _sample_batches(
            input_names(view), samples, settings.batch_size or 1
        )
    if settings.int8_io:
        options["inference_input_type"] = getattr(tf, settings.int8_io)
        options["inference_output_type"] = getattr(tf, settings.int8_io)
    return options


def _sample_batches(names, samples, size):
    """Batches of `size` rows by name; the last one starts over."""
    rows = len(samples[0])
    for start in range(0, rows, size):
        picked = np.arange(start, start + size) % rows
        yield {name: x[picked] for name, x in zip(names, samples)}


def _reason(text, view, batch_size=None):
    """What a user can do about the converter's complaint."""
    found = set(re.findall(r"'tf\.(\w+)' op", text))
    for names in re.findall(r"(?:Custom|TF Select) ops: (.+)", text):
        found.update(name.strip() for name in names.split(","))
    if not found:
        return text[:500]
    layers = {**_operators(view, found), **_layers(text, view)}
    if strings := _of_strings(view):  # loops are refused before these are met
        found = {x for x in found if not x.startswith("TensorList")}
        found, layers = found | strings.keys(), {**layers, **strings}
    if random := [name for name in sorted(found) if _RANDOM.search(name)]:
        where = sorted({x for name in random for x in layers.get(name, ())})
        return (
            f"Random numbers are drawn at inference too, by the layers {where}"
            ", and LiteRT has no builtin that draws them as Keras does. Draw "
            "them in training alone, by `if training:` in the layer's `call`, "
            "or let the model take them as an input."
        )
    named = [
        f"{name} ({', '.join(layers[name])})" if name in layers else name
        for name in sorted(found)
    ]
    hint = "Use others, or compute them outside of the model."
    if any(name.startswith("TensorList") for name in found):
        is_fixed = batch_size or view.inputs[0].shape[0]
        way = "" if is_fixed else "pass `batch_size=1`, or "
        hint = (
            "Use others, or compute them outside of the model; for recurrent "
            f"layers, {way}set `unroll=True`."
        )
    elif any(map(_STRINGS.search, found)):
        hint = (
            "Turn strings into numbers outside of the file, and export what "
            f"comes after: {_after_strings(view)}."
        )
    return f"LiteRT has no builtin for the operations (layers) {named}. {hint}"


def _of_strings(view):
    """From an operation on strings that no file has to the layers with it."""
    found = {}
    for node in keras_graph.all_nodes(view):
        if any(x.dtype == "string" for x in (*node.inputs, *node.outputs)):
            for name in filter(_STRINGS.search, _computed_by(node)):
                found.setdefault(name, []).append(node.operation.name)
    return found


def _after_strings(view):
    """How to make a model of all that follows the last strings, as code."""
    readers = {
        node.operation.name: node.operation
        for node in keras_graph.nodes(view)
        if any(x.dtype == "string" for x in node.inputs)
        and not any(x.dtype == "string" for x in node.outputs)
    }
    if not readers or any(map(keras_graph.is_model, readers.values())):
        return "`keras.Model(first_numbers, model.outputs)`"
    found = [f"model.get_layer({name!r}).output" for name in readers]
    found += [
        f"model.inputs[{number}]"
        for number, x in enumerate(view.inputs)
        if x.dtype != "string"
    ]
    first = found[0] if len(found) == 1 else f"[{', '.join(found)}]"
    return f"`keras.Model({first}, model.outputs)`"


def _operators(view, names):
    """From an operation's name to the operators of the model that make it.

    TensorFlow knows the names of layers alone.
    """
    found = {}
    for node in keras_graph.all_nodes(view):
        if not isinstance(node.operation, keras.Layer):
            for name in names & _computed_by(node):
                found.setdefault(name, []).append(node.operation.name)
    return found


def _computed_by(node):
    """The kinds of TensorFlow's operations that a call consists of."""
    import tensorflow as tf

    def run(*tensors):
        tensors = dict(zip(map(id, node.inputs), tensors))
        args, kwargs = node.arguments.fill_in(tensors)
        return node.operation(*args, **kwargs)

    specs = [tf.TensorSpec(x.shape, x.dtype) for x in node.inputs]
    graph = tf.function(run).get_concrete_function(*specs).graph
    return {operation.type for operation in graph.get_operations()}


def _layers(text, view):
    """From an operation's name to the paths of the layers that have it."""
    found = {}
    # Where an operation stands: fused["Erf:", "model_1/layer_1/inner/Erf@...
    for name, place in re.findall(r'fused\["(\w+):", "([^"@]+)', text):
        path = _layer_at(place, view)
        if path:
            found.setdefault(name, set()).add(path)
    return {name: sorted(layers) for name, layers in found.items()}


def _layer_at(place, view):
    """The path of the layer that makes an operation; `""` if none does."""
    # TensorFlow numbers a name that it meets again.
    place = re.sub(r"_\d+(?=/)", "", place)
    paths = [path for path, _ in variable_keys.layer_paths(view)]
    inside = [p for p in paths if f"/{p}/" in f"/{place}/"]
    return max(inside, key=len, default="")
