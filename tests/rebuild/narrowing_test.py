"""Dropping empty filters whose channels stay: exact, and only where it pays."""

import pathlib
import tempfile
from unittest import mock

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.litert.export import export_litert
from keras_prm.rebuild import layer_edits
from keras_prm.rebuild.strip import strip
from tests.helpers import zoo
from tests.helpers.zeros import both_with_vectors
from tests.helpers.zeros import edit
from tests.helpers.zeros import filters
from tests.helpers.zeros import max_error
from tests.helpers.zeros import shapes
from tests.helpers.zeros import zero_filters

ALWAYS = layer_edits.NarrowingRule(block=1, columns=0, macs=0, share=np.inf)
DEAD = np.arange(256) % 8 < 5  # 160 of 256
LIVE = tuple(np.flatnonzero(~DEAD).tolist())


def norm(x, name):
    return layers.BatchNormalization(name=name + "_bn")(x)


def residual(x):
    """The writer, its BatchNorm, the sum."""
    y = layers.Conv2D(256, 3, padding="same", name="writer")(x)
    return layers.ReLU()(layers.Add()([x, norm(y, "writer")]))


def preactivation(x):
    y = layers.ReLU()(norm(x, "before"))
    y = layers.Conv2D(256, 3, padding="same", use_bias=False, name="writer")(y)
    return x + y


def bottleneck(x):
    y = layers.Conv2D(2304, 1, activation="relu", name="wide")(x)
    y = layers.Conv2D(256, 1, use_bias=False, name="writer")(y)
    return layers.ReLU()(layers.Add()([norm(y, "writer"), x]))


def shared(x):
    """One writer to two sums."""
    conv = layers.Conv2D(256, 3, padding="same", name="writer")
    for _ in range(2):
        x = layers.ReLU()(layers.Add()([x, conv(x)]))
    return x


def build(block, size=5):
    inputs = keras.Input((size, size, 3))
    x = block(layers.Conv2D(256, 1, name="stem")(inputs))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(4, name="out")(x))
    zoo.randomize(model)
    return model


def kill(model, with_constants=False):
    """Empties filters of the writer; what they give out is 0 or constant."""
    zero_filters(model, writer=DEAD)
    names = {layer.name for layer in model.layers}
    writer = model.get_layer("writer")
    if writer.use_bias and not with_constants:
        edit(writer.bias, DEAD)
    if "writer_bn" in names and not with_constants:
        edit(model.get_layer("writer_bn").gamma, DEAD)
        edit(model.get_layer("writer_bn").beta, DEAD)


WITH_FILTERS = (
    "batch_norm",
    "branches",
    "depthwise",
    "in_and_out",
    "lenet5",
    "nested",
    "reshapes",
    "residual",
    "sequence",
    "shared",
    "unknown_layers",
)
BLOCKS = (residual, preactivation, bottleneck, shared)


class StripTest(parameterized.TestCase):
    @parameterized.product(block=BLOCKS, with_constants=(False, True))
    def test_is_exact_and_smaller(self, block, with_constants):
        model = build(block)
        kill(model, with_constants)
        small = strip(model)
        self.assertLess(max_error(model, small, zoo.inputs_of(model)), 1e-5)
        kernel = model.get_layer("writer").kernel
        self.assertEqual(
            tuple(small.get_layer("writer").kernel.shape),
            (*kernel.shape[:-1], 96),
        )
        gone = 160 * np.prod(kernel.shape[:-1]) - 96 * 256
        left = model.count_params() - gone
        self.assertLessEqual(small.count_params(), left + 256)
        self.assertLess(small.count_params(), model.count_params())
        place = small.get_layer("writer_place")
        self.assertFalse(place.trainable)
        has_bias = with_constants and block in (residual, shared)
        self.assertEqual(place.use_bias, has_bias)

    @parameterized.parameters(*BLOCKS)
    def test_is_a_fixed_point(self, block):
        model = build(block)
        kill(model)
        small = strip(model)
        self.assertEqual(shapes(strip(small)), shapes(small))

    def test_report(self):
        model = build(residual)
        kill(model)
        _, report = strip(model, return_report=True)
        rows = {row.key: row for row in report.rows}
        row = rows["writer/kernel"]
        self.assertEqual(row.after, (3, 3, 256, 96))
        self.assertEqual(
            (row.zeros_before, row.zeros_after), (160 * 9 * 256, 0)
        )
        self.assertEqual(
            row.note, "empty filters that went: 160 (the others are put back)"
        )
        self.assertEqual(report.kept["writer/kernel"], (None, None, None, LIVE))
        self.assertEqual(report.kept["writer/bias"], (LIVE,))
        self.assertEqual(report.kept["writer_bn/gamma"], (None,))
        self.assertEqual(report.kept_channels, {"writer": LIVE})
        self.assertEqual(
            report.weights_before - report.weights_after,
            160 * (3 * 3 * 256 + 1) - 96 * 256,
        )

    def test_stock_layers_that_load_and_export(self):
        model = build(residual)
        kill(model)
        small = strip(model)
        for layer in small.layers:
            self.assertTrue(type(layer).__module__.startswith("keras."))
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "small.keras"
            small.save(path)
            loaded = keras.models.load_model(path)
            self.assertEqual(
                max_error(small, loaded, zoo.inputs_of(model)), 0.0
            )
            if keras.backend.backend() == "tensorflow":
                path = path.with_suffix(".tflite")
                self.assertGreater(export_litert(small, path).num_samples, 0)

    def test_with_a_smaller_window_and_a_name_that_is_taken(self):
        inputs = keras.Input((5, 5, 256))
        x = layers.Conv2D(256, 5, padding="same", name="writer")(inputs)
        x = layers.ReLU(name="writer_place")(layers.Add()([x, inputs]))
        model = keras.Model(inputs, layers.Conv2D(4, 1)(x))
        zoo.randomize(model)
        kill(model)
        kernel = model.get_layer("writer").kernel
        edit(kernel, slice(3, None))
        edit(kernel, slice(None), slice(3, None))
        small, report = strip(model, return_report=True)
        self.assertLess(max_error(model, small, zoo.inputs_of(model)), 1e-5)
        self.assertEqual(
            report.kept["writer/kernel"], ((0, 1, 2), (0, 1, 2), None, LIVE)
        )
        self.assertIn("writer__place", [layer.name for layer in small.layers])

    @parameterized.parameters(*WITH_FILTERS)
    @mock.patch.object(layer_edits, "RULE", ALWAYS)
    def test_is_exact_for_the_zoo(self, name):
        model = zoo.make(name)
        x, original = zoo.inputs_of(model), model.get_weights()
        for pattern in (filters, both_with_vectors):
            with self.subTest(pattern.__name__):
                model.set_weights(original)
                pattern(model, np.random.default_rng(0))
                small, report = strip(model, return_report=True)
                self.assertLess(max_error(model, small, x), 1e-5)
                self.assertIn("stored weights", str(report))


class LeftAloneTest(parameterized.TestCase):
    def assert_left_alone(self, model):
        small = strip(model)
        self.assertNotIn("writer_place", [x.name for x in small.layers])
        shape = tuple(model.get_layer("writer").kernel.shape)
        kernel = small.get_layer("writer").kernel
        self.assertEqual(tuple(kernel.shape)[-1], shape[-1])

    def test_a_small_image(self):
        model = build(residual, size=4)
        kill(model)
        self.assert_left_alone(model)

    def test_an_image_of_unknown_size(self):
        model = build(residual, size=None)
        kill(model)
        self.assert_left_alone(model)

    def test_few_empty_filters(self):
        model = build(residual)
        zero_filters(model, writer=range(100))
        edit(model.get_layer("writer").bias, range(100))
        self.assert_left_alone(model)

    def test_an_output_of_the_model(self):
        inputs = keras.Input((5, 5, 256))
        outputs = layers.Conv2D(256, 3, name="writer")(inputs)
        model = keras.Model(inputs, outputs)
        zoo.randomize(model)
        kill(model)
        with mock.patch.object(layer_edits, "RULE", ALWAYS):
            self.assert_left_alone(model)

    def test_groups(self):
        inputs = keras.Input((5, 5, 256))
        x = layers.Conv2D(256, 3, groups=2, name="writer")(inputs)
        x = layers.Add()([x, layers.Conv2D(256, 3)(inputs)])
        model = keras.Model(inputs, layers.Conv2D(4, 1)(x))
        zoo.randomize(model)
        kill(model)
        with mock.patch.object(layer_edits, "RULE", ALWAYS):
            self.assert_left_alone(model)


class RuleTest(parameterized.TestCase):
    @parameterized.parameters(
        # Two of four blocks pay, three do not.
        (9 * 256, 256, 128, 14 * 14, True),
        (9 * 256, 256, 129, 14 * 14, False),
        (9 * 256, 256, 128, 4 * 4, False),  # too few operations
        (9 * 128, 256, 128, 56 * 56, False),  # too few columns
        (9 * 256, 64, 16, 56 * 56, False),  # one block in any case
        (9 * 512, 512, 320, 7 * 7, True),  # (320 + 320 / 9) / 512 = 0.69
        (9 * 512, 512, 328, 7 * 7, False),
    )
    def test_allows(self, columns, filters, live, positions, expected):
        allowed = layer_edits.RULE.allows(columns, filters, live, positions)
        self.assertEqual(allowed, expected)

    def test_constants_have_to_agree(self):
        kernel = np.ones((1, 1, 2, 3)) * [1.0, 0.0, 0.0]
        nan = np.nan
        with mock.patch.object(layer_edits, "RULE", ALWAYS):
            for rows, expected in (
                ([[nan, 1, 2], [nan, 1, 2]], [True, False, False]),
                ([[nan, 1, 2], [nan, 1, 3]], None),
                ([[nan, 1, nan], [nan, 1, nan]], None),
            ):
                found = layer_edits.find_narrowing(kernel, np.array(rows), 1)
                live = None if found is None else found.filters.tolist()
                self.assertEqual(live, expected)


if __name__ == "__main__":
    absltest.main()
