"""Cutting a window, and dropping empty filters whose channels stay."""

import itertools
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
from keras_prm.rebuild import narrowing
from keras_prm.rebuild.strip import strip
from tests.helpers import zoo
from tests.helpers.zeros import both_with_vectors
from tests.helpers.zeros import edit
from tests.helpers.zeros import filters
from tests.helpers.zeros import max_error
from tests.helpers.zeros import shapes
from tests.helpers.zeros import zero_filters

# Stride and dilation, which TensorFlow does not combine.
STEPS = ((1, 1), (2, 1), (3, 1), (1, 2), (1, 3))


def build(kind, size, length, padding, steps, channels=2):
    """A random convolution, its input and its layer."""
    rank = 1 if kind is layers.Conv1D else 2
    layer = kind(
        3, size, strides=steps[0], dilation_rate=steps[1], padding=padding
    )
    shape = (length, length + 1)[:rank] + (channels,)
    layer.build((None, *shape))
    rng = np.random.default_rng(0)
    for variable in layer.weights:
        variable.assign(rng.normal(size=variable.shape))
    x = rng.normal(size=(2, *shape)).astype("float32")
    return layer, x


def run_box(layer, kernel, box, x):
    """What the smaller convolution makes of x, behind its adapters."""
    config = {**layer.get_config(), **box.config}
    small = type(layer).from_config(config)
    for adapter in box.layers_before("small", layer.dtype_policy):
        x = adapter(x)
    small.build(x.shape)
    small.kernel.assign(kernel[box.window])
    small.bias.assign(layer.bias)
    return small(x)


class BoxTest(parameterized.TestCase):
    def check(self, layer, kernel, x, shapes=None):
        layer.kernel.assign(kernel)
        box = layer_edits.find_box(
            layer, kernel, shapes or [(None, *x.shape[1:])]
        )
        self.assertIsNotNone(box)
        np.testing.assert_allclose(
            run_box(layer, kernel, box, x), layer(x), atol=1e-5
        )
        return box

    @parameterized.parameters(
        *itertools.product(("valid", "same", "causal"), STEPS, (2, 3, 4))
    )
    def test_conv1d_every_box(self, padding, steps, size):
        layer, x = build(layers.Conv1D, size, 11, padding, steps)
        dense = np.array(keras.ops.convert_to_numpy(layer.kernel))
        for start in range(size):
            for stop in range(start + 1, size + 1):
                if stop - start < size:
                    kernel = np.zeros_like(dense)
                    kernel[start:stop] = dense[start:stop]
                    box = self.check(layer, kernel, x)
                    self.assertEqual(box.window, (slice(start, stop),))
                    self.assertEqual(box.config["kernel_size"], (stop - start,))

    @parameterized.parameters(*itertools.product(("valid", "same"), STEPS))
    def test_conv2d_every_position(self, padding, steps):
        size = (3, 2)
        layer, x = build(layers.Conv2D, size, 7, padding, steps)
        dense = np.array(keras.ops.convert_to_numpy(layer.kernel))
        for at in np.ndindex(*size):
            kernel = np.zeros_like(dense)
            kernel[at] = dense[at]
            self.check(layer, kernel, x)

    @parameterized.product(length=(1, 2, 3, 4, 5), size=(3, 5), stride=(1, 2))
    def test_windows_larger_than_the_input(self, length, size, stride):
        layer, x = build(layers.Conv1D, size, length, "same", (stride, 1))
        dense = np.array(keras.ops.convert_to_numpy(layer.kernel))
        for at in range(size):
            kernel = np.zeros_like(dense)
            kernel[at] = dense[at]
            self.check(layer, kernel, x)

    @parameterized.parameters("valid", "same", "causal")
    def test_nothing_is_live(self, padding):
        layer, x = build(layers.Conv1D, 4, 9, padding, (1, 2))
        kernel = np.zeros(layer.kernel.shape, "float32")
        box = self.check(layer, kernel, x)
        self.assertEqual(box.config["kernel_size"], (1,))

    def test_the_center_needs_no_adapter(self):
        layer, x = build(layers.Conv2D, 5, 6, "same", (1, 1))
        kernel = np.zeros(layer.kernel.shape, "float32")
        kernel[1:4, 2] = 1.0
        box = self.check(layer, kernel, x)
        self.assertEqual(box.config, {"kernel_size": (3, 1)})
        self.assertEqual(box.layers_before("small", None), [])

    def test_a_hole_inside_stays(self):
        layer, x = build(layers.Conv1D, 5, 6, "same", (1, 1))
        kernel = np.zeros(layer.kernel.shape, "float32")
        kernel[1] = kernel[4] = 1.0
        box = self.check(layer, kernel, x)
        self.assertEqual(box.window, (slice(1, 5),))


class NoneTest(parameterized.TestCase):
    def border(self, kind=layers.Conv1D, **options):
        layer = kind(3, 3, **options)
        layer.build((None, *(6,) * (2 if kind is layers.Conv2D else 1), 2))
        kernel = np.ones(layer.kernel.shape)
        kernel[0] = 0
        return layer, kernel

    def test_a_full_kernel(self):
        layer, kernel = self.border()
        self.assertIsNone(
            layer_edits.find_box(layer, kernel + 1, [(None, 6, 2)])
        )

    @parameterized.parameters((1, True), (2, False))
    def test_unknown_size(self, stride, found):
        """`same` with strides pads by the size, which has to be known."""
        layer, kernel = self.border(padding="same", strides=stride)
        box = layer_edits.find_box(layer, kernel, [(None, None, 2)])
        self.assertEqual(box is not None, found)

    def test_two_sizes(self):
        layer, kernel = self.border(padding="same", strides=2)
        shapes = [(None, 6, 2), (None, 8, 2)]
        self.assertIsNone(layer_edits.find_box(layer, kernel, shapes))
        self.assertIsNotNone(
            layer_edits.find_box(layer, kernel, shapes[:1] * 2)
        )

    def test_other_layers(self):
        class Mine(layers.Conv1D):
            pass

        layer, _ = self.border(Mine)
        self.assertFalse(layer_edits.has_window(layer))
        layer, _ = self.border(layers.Conv2D)
        self.assertTrue(layer_edits.has_window(layer))
        layer.data_format = "channels_first"
        self.assertFalse(layer_edits.has_window(layer))


class DepthwiseTest(parameterized.TestCase):
    def stripped(self, *rows, kind=layers.DepthwiseConv2D, **options):
        """A model whose depthwise layer has these rows of 5, and its twin."""
        rank = 2 if kind is layers.DepthwiseConv2D else 1
        inputs = keras.Input((9, 8, 4)[:rank] + (4,))
        layer = kind(5, depth_multiplier=2, name="dw", **options)
        model = keras.Model(inputs, layer(inputs))
        zoo.randomize(model)
        kernel = np.array(keras.ops.convert_to_numpy(layer.kernel))
        dead = [row for row in range(5) if row not in rows]
        kernel[dead] = 0
        layer.kernel.assign(kernel)
        small = strip(model)
        x = zoo.inputs_of(model)
        np.testing.assert_allclose(small(x), model(x), atol=1e-5)
        return tuple(small.get_layer("dw").kernel.shape)

    @parameterized.parameters(
        (layers.DepthwiseConv1D, (3, 4, 2)),
        (layers.DepthwiseConv2D, (3, 5, 4, 2)),
    )
    def test_the_center_is_cut(self, kind, shape):
        found = self.stripped(1, 2, 3, kind=kind, padding="same")
        self.assertEqual(found, shape)

    def test_what_would_need_padding_stays(self):
        self.assertEqual(self.stripped(0, 1, padding="same")[0], 5)

    def test_valid_needs_cropping(self):
        self.assertEqual(self.stripped(0, 1, padding="valid")[0], 5)


class SharedTest(parameterized.TestCase):
    @parameterized.parameters((1, "same", 2), (2, "same", 3), (2, "valid", 2))
    def test_one_layer_on_two_sizes(self, stride, padding, rows):
        inputs = keras.Input((8, 8, 3)), keras.Input((9, 9, 3))
        conv = layers.Conv2D(4, 3, strides=stride, padding=padding, name="c")
        model = keras.Model(list(inputs), [conv(x) for x in inputs])
        zoo.randomize(model)
        kernel = np.array(keras.ops.convert_to_numpy(conv.kernel))
        kernel[0] = 0
        conv.kernel.assign(kernel)
        small = strip(model)
        shape = tuple(small.get_layer("c").kernel.shape)
        self.assertEqual(shape, (rows, 3, 3, 4))
        x = zoo.inputs_of(model)
        for want, have in zip(model(x), small(x)):
            np.testing.assert_allclose(want, have, atol=1e-5)


ALWAYS = narrowing.NarrowingRule(block=1, columns=0, macs=0, share=np.inf)
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


def build_writer(block, size=5):
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
        model = build_writer(block)
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
        model = build_writer(block)
        kill(model)
        small = strip(model)
        self.assertEqual(shapes(strip(small)), shapes(small))

    def test_report(self):
        model = build_writer(residual)
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
        model = build_writer(residual)
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
    @mock.patch.object(narrowing, "RULE", ALWAYS)
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
        model = build_writer(residual, size=4)
        kill(model)
        self.assert_left_alone(model)

    def test_an_image_of_unknown_size(self):
        model = build_writer(residual, size=None)
        kill(model)
        self.assert_left_alone(model)

    def test_few_empty_filters(self):
        model = build_writer(residual)
        zero_filters(model, writer=range(100))
        edit(model.get_layer("writer").bias, range(100))
        self.assert_left_alone(model)

    def test_an_output_of_the_model(self):
        inputs = keras.Input((5, 5, 256))
        outputs = layers.Conv2D(256, 3, name="writer")(inputs)
        model = keras.Model(inputs, outputs)
        zoo.randomize(model)
        kill(model)
        with mock.patch.object(narrowing, "RULE", ALWAYS):
            self.assert_left_alone(model)

    def test_groups(self):
        inputs = keras.Input((5, 5, 256))
        x = layers.Conv2D(256, 3, groups=2, name="writer")(inputs)
        x = layers.Add()([x, layers.Conv2D(256, 3)(inputs)])
        model = keras.Model(inputs, layers.Conv2D(4, 1)(x))
        zoo.randomize(model)
        kill(model)
        with mock.patch.object(narrowing, "RULE", ALWAYS):
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
        allowed = narrowing.RULE.allows(columns, filters, live, positions)
        self.assertEqual(allowed, expected)

    def test_constants_have_to_agree(self):
        kernel = np.ones((1, 1, 2, 3)) * [1.0, 0.0, 0.0]
        nan = np.nan
        with mock.patch.object(narrowing, "RULE", ALWAYS):
            for rows, expected in (
                ([[nan, 1, 2], [nan, 1, 2]], [True, False, False]),
                ([[nan, 1, 2], [nan, 1, 3]], None),
                ([[nan, 1, nan], [nan, 1, nan]], None),
            ):
                found = narrowing.find_narrowing(kernel, np.array(rows), 1)
                live = None if found is None else found.filters.tolist()
                self.assertEqual(live, expected)


if __name__ == "__main__":
    absltest.main()
