"""Contents of a `.tflite` file: operations, weights, metadata.

The schema is the one that comes with ai-edge-litert or TensorFlow.
"""

from __future__ import annotations

import collections
import contextlib
import importlib
import json
import mmap
import pathlib

import numpy as np

from keras_prm.reports.export import ExportReport
from keras_prm.reports.export import Port
from keras_prm.reports.export import StoredWeight

METADATA_NAME = "keras_prm"

_IDENTIFIER = b"TFL3"
_ALIGNMENT = 16  # bytes: what the schema asks for weights, for SIMD loads
_READERS = (
    "ai_edge_litert.schema_py_generated",
    "tensorflow.lite.python.schema_py_generated",
)
# What writes a file whole must know all that the converter put into it.
_WRITERS = _READERS[::-1]


@contextlib.contextmanager
def mapped(path):
    """The content of a file, which is not read into memory."""
    with open(path, "rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content


def operation_list(content):
    """Names of the operations in a file, and of those that are no builtins.

    Args:
        content: The file, as bytes or `mapped`.

    Returns:
        `(names, others)`, sorted lists of str: all operations, such as
        `"CONV_2D"`, and those of them that LiteRT has no builtin for.
    """
    model = root(content)
    names = operation_names(model)
    custom = _schema(_READERS).BuiltinOperator.CUSTOM
    others = {
        name
        for i, name in enumerate(names)
        if _code_number(model.OperatorCodes(i)) == custom
    }
    return sorted(set(names)), sorted(others)


def root(content):
    """The schema's `Model` of a file, as bytes or `mapped`."""
    return _schema(_READERS).Model.GetRootAs(content, 0)


def type_names():
    """From the number of a tensor's type to its name, such as `"INT8"`."""
    return _names_of(_schema(_READERS).TensorType)


def operation_names(model):
    """Names of the operator codes of a `root`, in order."""
    schema, found = _schema(_READERS), []
    builtins = _names_of(schema.BuiltinOperator)
    for i in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(i)
        number = _code_number(code)
        if number == schema.BuiltinOperator.CUSTOM:
            found.append((code.CustomCode() or b"CUSTOM").decode())
        else:
            found.append(builtins.get(number, str(number)))
    return found


def _code_number(code):
    # Codes above 127 do not fit into the older of the two fields.
    return max(code.BuiltinCode(), code.DeprecatedBuiltinCode())


def _names_of(enumeration):
    return {
        number: name
        for name, number in vars(enumeration).items()
        if isinstance(number, int)
    }


def metadata(content):
    """What `export_litert` noted in a file.

    Args:
        content: The file, as bytes or `mapped`.

    Returns:
        dict; `{}` if `export_litert` noted nothing.
    """
    model = root(content)
    for i in range(model.MetadataLength()):
        entry = model.Metadata(i)
        if entry.Name() == METADATA_NAME.encode():
            text = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
            return json.loads(text)
    return {}


def add_metadata(path, entries):
    """Writes a file anew with one more metadata entry, its weights aligned.

    Weights start at multiples of 16 bytes, as the schema asks; TensorFlow's
    converter, which adds an entry of its own, leaves them at multiples of 4.
    The old file is not read into memory; the new one is, once.

    Args:
        path: Path of a `.tflite` file. It is overwritten.
        entries: dict that `json.dumps` takes.
    """
    schema, path = _schema(_WRITERS), pathlib.Path(path)
    target = path.with_suffix(".metadata")
    with mapped(path) as content:
        builder = _packed(schema, content, json.dumps(entries))
    with open(target, "wb") as file:
        file.write(memoryview(builder.Bytes)[builder.Head() :])
    target.replace(path)


def _packed(schema, content, text):
    """The builder that holds the new file. Keeps no view of `content`."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    entry, buffer = schema.MetadataT(), schema.BufferT()
    entry.name, entry.buffer = METADATA_NAME, len(model.buffers)
    buffer.data = np.frombuffer(text.encode(), np.uint8)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or ()), entry]
    # Large enough from the start: a builder grows by doubling.
    size = len(content) + len(text) + _ALIGNMENT * (len(model.buffers) + 64)
    builder = _builder_class()(size + 4096)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return builder


def _builder_class():
    import flatbuffers

    class AlignedBuilder(flatbuffers.Builder):
        """Aligns vectors of bytes, weights among them; copies them once."""

        def CreateNumpyVector(self, x):
            if x.dtype != np.uint8:
                return super().CreateNumpyVector(x)
            self.StartVector(1, x.size, _ALIGNMENT)
            self.head -= x.size
            space = np.frombuffer(self.Bytes, np.uint8)
            space[self.head : self.head + x.size] = x
            return self.EndVector()

    return AlignedBuilder


def _schema(names):
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            pass
    raise ImportError(
        "Cannot read a LiteRT file: its schema comes with ai-edge-litert and "
        "with TensorFlow, and neither is installed. Run `pip install "
        "ai-edge-litert`."
    )


_FLOATS = ("FLOAT16", "BFLOAT16", "FLOAT32", "FLOAT64")
_FROM_OR_TO_FLOAT = ("QUANTIZE", "DEQUANTIZE")
_CONTROL_FLOW = ("WHILE", "IF")  # what they are given is a state


def weights(content):
    """The weights in a file, in its order.

    Constants of floating-point numbers, or of integers with a scale, with at
    least two axes. Biases, shapes and indices are none.

    Args:
        content: The file, as bytes or `mapped`.

    Returns:
        tuple of `StoredWeight`.
    """
    model = root(content)
    types = type_names()
    found = []
    for graph, operators in _graphs(model):
        readers = _readers_by_number(operators)
        for i, tensor in enumerate(_tensors(graph)):
            num_bytes = model.Buffers(tensor.Buffer()).DataLength()
            kind = types[tensor.Type()]
            is_number = kind in _FLOATS or _is_scaled(tensor)
            is_state = readers[i] in _CONTROL_FLOW
            if is_state or not (num_bytes and is_number):
                continue
            if tensor.ShapeLength() > 1:
                shape = tuple(tensor.ShapeAsNumpy().tolist())
                name = (tensor.Name() or b"").decode()
                found.append(
                    StoredWeight(
                        name, readers[i], kind.lower(), shape, num_bytes
                    )
                )
    return tuple(found)


def precision(content):
    """`"int8"`, `"float16"` or `"float32"`; see `LiteRTModel.precision`."""
    model, types = root(content), type_names()
    tensors = [x for graph, _ in _graphs(model) for x in _tensors(graph)]
    if any(map(_is_scaled, tensors)):
        return "int8"
    is_half = any(types[x.Type()] == "FLOAT16" for x in tensors)
    return "float16" if is_half else "float32"


def float_operations(content):
    """How often which operations read or write floating-point numbers.

    Those at the border, which quantize float inputs and dequantize outputs
    that are to be float, are not counted.

    Args:
        content: The file, as bytes or `mapped`.

    Returns:
        dict from the name of an operation to a number; `{}` for a file that
        computes in integers alone.
    """
    model, types = root(content), type_names()
    found = collections.Counter()
    for graph, operators in _graphs(model):
        tensors = list(_tensors(graph))
        border = {*graph.InputsAsNumpy(), *graph.OutputsAsNumpy()}
        for name, read, written in operators:
            floats = [
                i
                for i in (*read, *written)
                if i >= 0 and types[tensors[i].Type()] in _FLOATS
            ]
            is_border = name in _FROM_OR_TO_FLOAT and border.issuperset(floats)
            if floats and not is_border:
                found[name] += 1
    return dict(sorted(found.items()))


def cast_inputs(content):
    """Names of a file's integer inputs that become floating-point numbers.

    Args:
        content: The file, as bytes or `mapped`.

    Returns:
        list of str: those that an operation `CAST` makes so, at once or
        behind others that move integers.
    """
    model, types = root(content), type_names()
    graph, operators = next(_graphs(model))
    tensors = list(_tensors(graph))
    floats = {i for i, x in enumerate(tensors) if types[x.Type()] in _FLOATS}
    scaled = {i for i, x in enumerate(tensors) if _is_scaled(x)}
    found = []
    inputs = _as_list(graph.InputsAsNumpy())
    for port, number in zip(ports(content)[0], inputs):
        plain = {number} - floats - scaled
        for name, read, written in operators:  # in the order of execution
            if plain.intersection(read):
                plain.update({*written} - floats - scaled)
                if name == "CAST" and floats.issuperset(written):
                    found.append(port.name)
    return list(dict.fromkeys(found))


def ports(content):
    """The inputs and the outputs of a file, two tuples of `Port`.

    Args:
        content: The file, as bytes or `mapped`.
    """
    model, types = root(content), type_names()
    graph = model.Subgraphs(0)
    names = [{}, {}]
    if model.SignatureDefsLength() == 1:
        signature = model.SignatureDefs(0)
        for found, number, item in (
            (names[0], signature.InputsLength(), signature.Inputs),
            (names[1], signature.OutputsLength(), signature.Outputs),
        ):
            for entry in map(item, range(number)):
                found[entry.TensorIndex()] = entry.Name()
    return tuple(
        tuple(
            _port(graph.Tensors(i), own.get(i), types) for i in _as_list(array)
        )
        for own, array in zip(
            names, (graph.InputsAsNumpy(), graph.OutputsAsNumpy())
        )
    )


def _port(tensor, name, types):
    name = (name or tensor.Name() or b"").decode()
    dtype = types[tensor.Type()].lower()
    if not _is_scaled(tensor):
        return Port(name, dtype)
    quantization = tensor.Quantization()
    scale, zero = quantization.Scale(0), quantization.ZeroPoint(0)
    return Port(name, dtype, float(scale), int(zero))


def _graphs(model):
    """Yields each subgraph with its operators `(name, inputs, outputs)`."""
    names = operation_names(model)
    for i in range(model.SubgraphsLength()):
        graph, operators = model.Subgraphs(i), []
        for j in range(graph.OperatorsLength()):
            operator = graph.Operators(j)
            operators.append(
                (
                    names[operator.OpcodeIndex()],
                    _as_list(operator.InputsAsNumpy()),
                    _as_list(operator.OutputsAsNumpy()),
                )
            )
        yield graph, operators


def _as_list(array):
    """A list; there is no array where there are no numbers."""
    return [] if isinstance(array, int) else array.tolist()


def _tensors(graph):
    return map(graph.Tensors, range(graph.TensorsLength()))


def _is_scaled(tensor):
    quantization = tensor.Quantization()
    return quantization is not None and quantization.ScaleLength() > 0


def _readers_by_number(operators):
    """From a tensor's number to the operation that computes with it."""
    found = collections.defaultdict(str)
    for name, read, written in reversed(operators):
        for i in read:
            # Weights in half precision go through one more operation.
            is_passed = name == "DEQUANTIZE" and found[written[0]]
            found[i] = found[written[0]] if is_passed else name
    return found


def report_of(path, mode, file):
    """The `ExportReport` of a file, as it says itself, not compared yet.

    Args:
        path: Path that the report names.
        mode: How it was to be quantized.
        file: `pathlib.Path` where it lies.
    """
    with mapped(file) as content:
        inputs, outputs = ports(content)
        return ExportReport(
            str(path),
            mode,
            len(content),
            weights=weights(content),
            inputs=inputs,
            outputs=outputs,
            float_operations=float_operations(content),
        )
