"""What a file says of itself."""

import functools
import pathlib
import sys
import tempfile
from unittest import mock

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.litert import conversion
from keras_prm.litert import flatbuffer
from keras_prm.litert.model import LiteRTModel
from tests.helpers import exporting


def weights(content):
    """Where in the file each buffer begins, and what is in it."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    buffers = map(model.Buffers, range(model.BuffersLength()))
    arrays = [x.DataAsNumpy() for x in buffers if x.DataLength()]
    start = np.frombuffer(content, np.uint8).ctypes.data
    return {x.ctypes.data - start: x.tobytes() for x in arrays}


@functools.cache
def converted():
    """`(data, files)`: bytes of a file without metadata by its mode."""
    model = exporting.conv_model()
    data = exporting.data_for(model)["image"]
    view = keras.Model(model.inputs, model.outputs)
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.tflite"
        with mock.patch.object(flatbuffer, "add_metadata"):
            for mode in exporting.MODES:
                settings = conversion.Settings(mode)
                conversion.convert(view, path, settings, [data])
                files[mode] = path.read_bytes()
    return data, files


class MetadataTest(exporting.ExportTestCase):
    def setUp(self):
        super().setUp()
        self.needs_tensorflow()
        self.data, self.files = converted()

    @parameterized.product(first=(0, 1))
    def test_nothing_else_changes(self, first):
        """By either schema: the one for writing is the other's copy."""
        entries = {"text": "ü", "numbers": [1, 2], "none": None}
        schemas = flatbuffer._READERS
        for content in self.files.values():
            self.path.write_bytes(content)
            with mock.patch.object(flatbuffer, "_WRITERS", schemas[first:]):
                flatbuffer.add_metadata(self.path, entries)
            before, after = (
                LiteRTModel(content),
                LiteRTModel(self.path),
            )
            self.assertEqual(before.metadata, {})
            self.assertEqual(after.metadata, entries)
            self.assertEqual(before.operations, after.operations)
            np.testing.assert_array_equal(before(self.data), after(self.data))
            found = weights(self.path.read_bytes())
            self.assertEqual({at % 16 for at in found}, {0})
            self.assertEqual(
                list(found.values())[:-1], list(weights(content).values())
            )
            # XNNPACK takes the aligned file, as it took the other.
            for model in (before, after):
                last = model._interpreter._get_ops_details()[-1]
                self.assertEqual(last["op_name"], "DELEGATE")

    def test_file_runs_from_disk(self):
        """LiteRT maps the file into memory, as phones do."""
        from ai_edge_litert.interpreter import Interpreter

        self.path.write_bytes(self.files["float32"])
        flatbuffer.add_metadata(self.path, {})
        interpreter = Interpreter(str(self.path))
        interpreter.allocate_tensors()
        interpreter.invoke()

    def test_operations(self):
        names = ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MEAN"]
        self.assertEqual(LiteRTModel(self.files["float32"]).operations, names)
        self.assertEqual(
            flatbuffer.operation_list(self.files["int8"]),
            (sorted([*names, "DEQUANTIZE", "QUANTIZE"]), []),
        )


class SchemaTest(absltest.TestCase):
    def test_none_is_installed(self):
        missing = dict.fromkeys(flatbuffer._READERS)
        with mock.patch.dict(sys.modules, missing):
            with self.assertRaisesRegex(ImportError, "Run `pip install ai-ed"):
                flatbuffer.operation_list(b"")


if __name__ == "__main__":
    absltest.main()
