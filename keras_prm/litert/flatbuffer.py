"""What a `.tflite` file says of itself: its operations and its metadata.

The schema is the one that comes with ai-edge-litert or TensorFlow.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import mmap
import pathlib

import numpy as np

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


def operations(content):
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
