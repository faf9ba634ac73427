"""The code in docs/ runs, and does what the text around it says."""

import contextlib
import io
import pathlib
import re
import tempfile

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

import keras_prm
from keras_prm.rebuild.strip import strip
from keras_prm.rules import registry
from tests.helpers import zoo
from tests.helpers.lowering_models import chain
from tests.helpers.lowering_models import empty_columns
from tests.helpers.zeros import edit
from tests.helpers.zeros import max_error

DOCS = pathlib.Path(__file__).parent.parent.parent / "docs"


def blocks(path):
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


class LayersTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        before = dict(registry.RULES)
        self.addCleanup(registry.RULES.update, before)
        self.addCleanup(registry.RULES.clear)
        self.names = {}
        for block in blocks(DOCS / "layers.md"):
            exec(block, self.names)

    def test_the_rules_shrink_exactly(self):
        x = inputs = keras.Input((5, 4))
        x = layers.Dense(6, name="a")(x)
        x = self.names["Scale"](name="scale")(x)
        x = self.names["Project"](8, name="project")(x)
        model = keras.Model(inputs, layers.Dense(2, name="out")(x))
        zoo.randomize(model)
        edit(model.get_layer("scale").factor, [1, 2])
        edit(model.get_layer("project").kernel, ..., [0, 5, 6])
        small, report = strip(model, return_report=True)
        self.assertEqual(report.skipped, ())
        self.assertEqual(small.get_layer("a").units, 4)
        self.assertEqual(small.get_layer("scale").factor.shape, (4,))
        self.assertEqual(small.get_layer("project").width, 5)
        x = np.random.default_rng(0).normal(size=(3, 5, 4))
        self.assertLess(max_error(model, small, x), 1e-6)

    def test_what_is_said_of_blocks(self):
        groups = {group.name for group in self.names["plan"].groups}
        text = next(b for b in blocks(DOCS / "layers.md") if "print(plan)" in b)
        said = set(text.partition("print(plan)  # ")[2].strip().split(", "))
        self.assertEqual(
            {frozenset(name.split("+")) for name in groups},
            {frozenset(name.split("+")) for name in said},
        )


class ExportTest(parameterized.TestCase):
    def test_blocks(self):
        if keras.backend.backend() != "tensorflow":
            self.skipTest("converts in this process, with TensorFlow")
        inputs = keras.Input((4, 4, 2))
        x = layers.Conv2D(6, 3, name="conv")(inputs)
        x = layers.Flatten()(layers.ReLU()(x))
        model = keras.Model(inputs, layers.Dense(3, name="out")(x))
        zoo.randomize(model)
        edit(model.get_layer("conv").kernel, ..., [1, 2])
        edit(model.get_layer("conv").bias, [1, 2])
        images = np.random.default_rng(0).normal(size=(8, 4, 4, 2))
        labels = model.predict(images, verbose=0).argmax(-1)
        names = {"model": model, "images": images, "labels": labels}
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.enterContext(contextlib.chdir(folder))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            for block in blocks(DOCS / "export.md"):
                exec(block, names)
        self.assertEqual(names["report"].model_score, 1.0)
        kept = names["file"].metadata["kept_channels"]
        self.assertEqual(kept, {"conv": [0, 3, 4, 5]})
        self.assertIn("CONV_2D", printed.getvalue())


class ColumnsTest(parameterized.TestCase):
    def test_blocks(self):
        if keras.backend.backend() != "tensorflow":
            self.skipTest("converts in this process, with TensorFlow")
        model = empty_columns(chain())
        names = {"model": model, "keras_prm": keras_prm}
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.enterContext(contextlib.chdir(folder))
        for block in blocks(DOCS / "columns.md"):
            exec(block, names)
            error = max_error(model, names["small"], zoo.inputs_of(model))
            self.assertLess(error, 1e-5)
        self.assertEqual(names["plan"].kernels[0].column_pattern, "per_channel")
        found = [x for x in names["small"].layers if hasattr(x, "columns")]
        self.assertEqual({x.method for x in found}, {"pointwise"})


if __name__ == "__main__":
    absltest.main()
