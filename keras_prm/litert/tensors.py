"""What a `.tflite` file stores its weights as and computes in."""

from __future__ import annotations

import collections

from keras_prm.litert import flatbuffer
from keras_prm.reports.export_report import ExportReport
from keras_prm.reports.export_report import Port
from keras_prm.reports.export_report import StoredWeight

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
    model = flatbuffer.root(content)
    types = flatbuffer.type_names()
    found = []
    for graph, operators in _graphs(model):
        readers = _readers(operators)
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
    model, types = flatbuffer.root(content), flatbuffer.type_names()
    tensors = [x for graph, _ in _graphs(model) for x in _tensors(graph)]
    if any(map(_is_scaled, tensors)):
        return "int8"
    is_half = any(types[x.Type()] == "FLOAT16" for x in tensors)
    return "float16" if is_half else "float32"


def float_operations(content):
    """How often which operations read or write floating-point numbers.

    Those at the border, which quantise float inputs and dequantise outputs
    that are to be float, are not counted.

    Args:
        content: The file, as bytes or `mapped`.

    Returns:
        dict from the name of an operation to a number; `{}` for a file that
        computes in integers alone.
    """
    model, types = flatbuffer.root(content), flatbuffer.type_names()
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
    model, types = flatbuffer.root(content), flatbuffer.type_names()
    graph, operators = next(_graphs(model))
    tensors = list(_tensors(graph))
    floats = {i for i, x in enumerate(tensors) if types[x.Type()] in _FLOATS}
    scaled = {i for i, x in enumerate(tensors) if _is_scaled(x)}
    found = []
    inputs = _numbers(graph.InputsAsNumpy())
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
    model, types = flatbuffer.root(content), flatbuffer.type_names()
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
            _port(graph.Tensors(i), own.get(i), types) for i in _numbers(array)
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
    names = flatbuffer.operation_names(model)
    for i in range(model.SubgraphsLength()):
        graph, operators = model.Subgraphs(i), []
        for j in range(graph.OperatorsLength()):
            operator = graph.Operators(j)
            operators.append(
                (
                    names[operator.OpcodeIndex()],
                    _numbers(operator.InputsAsNumpy()),
                    _numbers(operator.OutputsAsNumpy()),
                )
            )
        yield graph, operators


def _numbers(array):
    """A list; there is no array where there are no numbers."""
    return [] if isinstance(array, int) else array.tolist()


def _tensors(graph):
    return map(graph.Tensors, range(graph.TensorsLength()))


def _is_scaled(tensor):
    quantization = tensor.Quantization()
    return quantization is not None and quantization.ScaleLength() > 0


def _readers(operators):
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
        mode: How it was to be quantised.
        file: `pathlib.Path` where it lies.
    """
    with flatbuffer.mapped(file) as content:
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
