"""Files of lowered models are never larger than those with the zeros in."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.litert import export_checks
from keras_prm.litert.export import export_litert
from keras_prm.lowering import methods
from keras_prm.lowering import strategies
from keras_prm.lowering.auto import AutoLowering
from keras_prm.lowering.gather_columns import GatherColumns
from keras_prm.rebuild import lower_columns
from keras_prm.rebuild.strip import strip
from tests.helpers import exporting
from tests.helpers import lowering_models


def keywords():
    """A network whose kernels int8 makes too small for any more operations."""
    x = inputs = keras.Input((25, 10, 1))
    for width in (16, 32, 32):
        x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(4)(x))
    return lowering_models.empty_columns(exporting.randomize(model), 0.3)


def num_lowered(report):
    return sum(row.name != "dense" for row in report.lowered)


class FilesTest(exporting.ExportTestCase):
    @parameterized.parameters("float32", "float16", "dynamic_range", "int8")
    def test_smallest_is_never_larger(self, mode):
        self.needs_tensorflow()
        model, sizes = keywords(), {}
        (data,) = exporting.data_for(model).values()
        for name in ("none", "smallest"):
            small = strip(model, name, quantize=mode)
            sizes[name] = export_litert(
                small, self.path, mode, data, check=False
            ).num_bytes
        self.assertLessEqual(sizes["smallest"], sizes["none"])
        if mode == "float32":
            self.assertLess(sizes["smallest"], 0.7 * sizes["none"])

    @parameterized.parameters(
        ("smallest", "float16"), ("smallest", "int8"), ("model", "int8")
    )
    def test_a_file_that_it_was_not_chosen_for(self, name, mode):
        """The model itself knows, once it was saved and loaded too."""
        lowered = {
            "smallest": strategies.SmallestLowering(),
            "model": strategies.ModelLowering(),
        }[name].files()
        gather = GatherColumns([0, 2], chosen_for=lowered, name="columns")
        model = keras.Sequential([keras.Input((4,)), gather, layers.Dense(2)])
        model = keras.models.clone_model(model)
        view = keras.Model(model.inputs, model.outputs)
        with self.assertWarnsRegex(
            UserWarning, f"'columns'.*of the one before .*quantize='{mode}'"
        ):
            export_checks.warn_of_lowering(view, mode)
        for fitting in lowered:
            export_checks.warn_of_lowering(view, fitting)

    def test_strip_notes_what_it_was_chosen_for(self):
        small = strip(keywords(), "smallest")
        found = [x for x in small.layers if isinstance(x, GatherColumns)]
        self.assertNotEmpty(found)
        for layer in found:
            self.assertEqual(layer.chosen_for, ("float32",))
        self.needs_tensorflow()
        with self.assertWarnsRegex(UserWarning, "quantize='dynamic_range'"):
            export_litert(small, self.path, "dynamic_range", check=False)


class ArgumentTest(parameterized.TestCase):
    def test_fewer_layers_pay_in_int8(self):
        numbers = [
            num_lowered(
                strip(
                    keywords(), "smallest", return_report=True, quantize=mode
                )[1]
            )
            for mode in (None, "int8")
        ]
        self.assertGreater(numbers[0], numbers[1])

    def test_the_cost_model_knows_nothing_of_int8(self):
        """Sixteen columns of 576, of channels in a row."""
        kernel = np.zeros((3, 3, 64, 64), "float32")
        kernel[1, 1, :16] = 1.0
        layer = layers.Conv2D(64, 3, padding="same")
        sparse = methods.SparseKernel(layer, "k", kernel, (16, 16))
        for mode in ("float32", "float16"):
            lowerer = lower_columns.lowerer_of("model", mode)
            self.assertIsNotNone(lowerer.choose_one(sparse).lowering)
        for mode in ("dynamic_range", "int8"):
            choice = lower_columns.lowerer_of("model", mode).choose_one(sparse)
            self.assertIsNone(choice.lowering)
            self.assertIn("lowering='auto' measures", choice.reason)

    def test_auto_is_told(self):
        self.assertEqual(
            lower_columns.lowerer_of("auto", "int8").quantize, "int8"
        )
        self.assertEqual(lower_columns.lowerer_of("auto").quantize, "float32")

    @parameterized.parameters("INT8", "int4", 8, True, [["int8"]])
    def test_unknown_quantization(self, quantize):
        for name in ("none", "smallest", "auto"):
            with self.assertRaisesRegex(ValueError, "None or one of.*'int8'"):
                lower_columns.lowerer_of(name, quantize)

    @parameterized.parameters(
        AutoLowering(quantize="int8"), lowering_models.Drawn()
    )
    def test_a_lowering_that_says_something_else(self, lowerer):
        with self.assertRaisesRegex(ValueError, "Pass quantize to the lower"):
            lower_columns.lowerer_of(lowerer, "float16")

    def test_a_lowering_that_says_the_same(self):
        lowerer = strategies.SmallestLowering("int8")
        self.assertIs(lower_columns.lowerer_of(lowerer, "int8"), lowerer)
        self.assertEqual(lower_columns.lowerer_of("smallest", "int8"), lowerer)


if __name__ == "__main__":
    absltest.main()
