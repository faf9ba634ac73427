"""Choosing lowerings by measurement; the clock is a fake one."""

import pathlib
import tempfile
from concurrent import futures
from unittest import mock

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.litert import runtime
from keras_prm.litert.export import export_litert
from keras_prm.litert.model import LiteRTModel
from keras_prm.lowering import auto
from keras_prm.lowering import layer_timing
from keras_prm.lowering import methods
from keras_prm.lowering import strategies
from keras_prm.lowering.auto import AutoLowering
from keras_prm.lowering.auto import timing
from keras_prm.rebuild.strip import strip
from tests.helpers import lowering_models
from tests.helpers import zeros
from tests.helpers import zoo

needs_tensorflow = absltest.skipIf(
    keras.backend.backend() != "tensorflow", "files are made by TensorFlow"
)


class FakeClock:
    """Stands for `timing.latency`: the first file is the dense layer.

    Args:
        *ratios: Seconds of the other files, relative to the dense one.
    """

    def __init__(self, *ratios):
        self.ratios = ratios
        self.calls = []

    def __call__(self, models, inputs, runs=50, warmup=5, num_threads=1):
        self.calls.append((len(models), runs, num_threads))
        others = [self.ratios[i % len(self.ratios)] for i in range(len(models))]
        return [1e-3, *(1e-3 * r for r in others)][: len(models)]

    def installed(self):
        return mock.patch.object(timing, "latency", self)


def short():
    """Three convolutions, since each is converted in several forms."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((12, 11, 3))
    for name, filters in (("a", 8), ("b", 9), ("c", 7)):
        x = layers.Conv2D(filters, 3, activation="relu", name=name)(x)
    model = keras.Model(inputs, x)
    zoo.randomize(model)
    return model


@needs_tensorflow
class AutoTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        auto._KNOWN.clear()
        self.model = lowering_models.empty_columns(short())

    def test_takes_what_is_fastest(self):
        clock = FakeClock(0.5, 0.8, 0.7)
        with clock.installed():
            small, report = strip(self.model, "auto", return_report=True)
        measured = [r for r in report.lowered if r.reason == "measured"]
        self.assertNotEmpty(measured)
        for row in measured:
            self.assertEqual((row.dense_us, row.us), (1000.0, 500.0))
            self.assertIn("1000 -> 500 us", row.verdict)
        x = zoo.inputs_of(self.model)
        self.assertLess(zeros.max_error(self.model, small, x), 1e-5)

    def test_keeps_what_is_hardly_slower(self):
        with FakeClock(0.95).installed():
            small, report = strip(self.model, "auto", return_report=True)
        self.assertEqual({r.name for r in report.lowered}, {"dense"})
        self.assertFalse(lowering_models.num_lowered(small))

    def test_the_whole_model_decides(self):
        """Layers that are faster by themselves need not be so together."""
        clock = FakeClock(0.5)

        def latency(models, inputs, **options):
            if isinstance(models[0], LiteRTModel):
                return [1e-3, 1.1e-3]
            return clock(models, inputs, **options)

        with mock.patch.object(timing, "latency", latency):
            small, report = strip(self.model, "auto", return_report=True)
        self.assertFalse(lowering_models.num_lowered(small))
        given_up = [r for r in report.lowered if "whole model" in r.reason]
        self.assertNotEmpty(given_up)
        for row in given_up:
            self.assertEqual((row.name, row.us), ("dense", row.dense_us))
        for old, new in zip(strip(self.model).weights, small.weights):
            np.testing.assert_array_equal(old, new)  # not sorted either

    def test_a_model_that_litert_refuses(self):
        x = keras.layers.Lambda(keras.ops.erfinv)(self.model.output)
        model = keras.Model(self.model.input, x)
        with FakeClock(0.5).installed():
            small, report = strip(model, "auto", return_report=True)
        self.assertFalse(lowering_models.num_lowered(small))
        self.assertIn("does not take the whole model", str(report))

    def test_measures_once(self):
        clock = FakeClock(0.5)
        with clock.installed():
            strip(self.model, "auto")
            first = len(clock.calls)
            strip(self.model, "auto")
        # The layers are remembered, the whole model is measured again.
        self.assertLen(clock.calls, first + 1)
        self.assertGreater(first, 2)

    def test_time_is_bounded(self):
        """Without time left the cost model decides."""
        clock = FakeClock(0.5)
        with clock.installed():
            _, report = strip(
                self.model, AutoLowering(time_budget=1e-9), return_report=True
            )
        self.assertNotIn("measured", [r.reason for r in report.lowered])
        _, by_model = strip(self.model, "model", return_report=True)
        self.assertEqual(report.lowered, by_model.lowered)

    def test_options_reach_the_clock(self):
        model = lowering_models.empty_columns(lowering_models.chain())
        clock = FakeClock(0.5)
        with clock.installed():
            strip(model, AutoLowering(num_threads=3, runs=7))
        self.assertEqual(set(call[1] for call in clock.calls), {7})
        self.assertEqual(clock.calls[0][2], 3)

    @parameterized.parameters("float16", "dynamic_range", "int8")
    def test_quantized(self, mode):
        """Each is measured for itself; what is chosen is exact in Keras."""
        with FakeClock(0.5).installed():
            strip(self.model, "auto")
        clock = FakeClock(0.5)
        with clock.installed():
            small = strip(self.model, AutoLowering(quantize=mode))
        self.assertGreater(len(clock.calls), 1)
        x = zoo.inputs_of(self.model)
        self.assertLess(zeros.max_error(self.model, small, x), 1e-5)

    def test_the_model_knows_floats_only(self):
        auto = AutoLowering(quantize="int8", time_budget=1e-9)
        with FakeClock(0.5).installed():
            _, report = strip(self.model, auto, return_report=True)
        reasons = {row.reason for row in report.lowered}
        self.assertEqual(reasons, {"no time was left to measure it"})

    def test_cache_in_a_file(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "lowerings.json"
            lowering = AutoLowering(cache=path)
            with FakeClock(0.5).installed():
                _, first = strip(self.model, lowering, return_report=True)
            auto._KNOWN.clear()
            clock = FakeClock(2.0)
            with clock.installed():
                _, again = strip(self.model, lowering, return_report=True)
            self.assertNotEmpty(layer_timing.remembered(path))
        self.assertLen(clock.calls, 1)  # of the whole model, slower now
        names = [r.dense_us for r in first.lowered]
        self.assertEqual([r.dense_us for r in again.lowered], names)

    def test_cache_without_a_folder(self):
        with self.assertRaisesRegex(ValueError, "a folder that exists"):
            strip(self.model, AutoLowering(cache="/no/such/folder/x.json"))

    def test_cache_that_is_no_path(self):
        with self.assertRaisesRegex(TypeError, "path of a file, or None"):
            strip(self.model, AutoLowering(cache=5))

    def test_a_cache_that_many_write_to_at_once(self):
        rows = {str(i): [i + 0.5] * 20 for i in range(400)}
        with tempfile.TemporaryDirectory() as folder:
            path, link = (pathlib.Path(folder) / name for name in "ab")
            path.touch(mode=0o640)
            link.symlink_to(path)
            with futures.ThreadPoolExecutor(8) as pool:
                for key, row in rows.items():
                    pool.submit(layer_timing.remember, link, {key: row})
            self.assertEqual(layer_timing.remembered(path), rows)
            self.assertEqual(path.stat().st_mode & 0o777, 0o640)
            self.assertTrue(link.is_symlink())
            self.assertLen(list(pathlib.Path(folder).iterdir()), 2)

    @parameterized.parameters("[]", "{", '{"a": 3}')
    def test_cache_that_is_none(self, text):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "lowerings.json"
            path.write_text(text)
            with self.assertRaisesRegex(ValueError, "delete it to measure"):
                strip(self.model, AutoLowering(cache=path))

    def test_no_interpreter(self):
        error = ImportError("First `pip install ai-edge-litert`.")
        with mock.patch.object(runtime, "interpreter_class", side_effect=error):
            with self.assertRaisesRegex(ImportError, "pip install ai-edge"):
                strip(self.model, "auto")

    def test_really_measures(self):
        """Without a fake clock: whatever comes out is exact and reported."""
        small, report = strip(
            self.model, AutoLowering(runs=2), return_report=True
        )
        x = zoo.inputs_of(self.model)
        self.assertLess(zeros.max_error(self.model, small, x), 1e-5)
        self.assertNotEmpty([r for r in report.lowered if r.us])


@needs_tensorflow
class FileTest(parameterized.TestCase):
    @parameterized.parameters(*lowering_models.NAMES)
    def test_measured_layers_compute_the_same(self, name):
        model = lowering_models.empty_columns(lowering_models.chain())
        seen = 0
        for sparse in lowering_models.sparse_kernels(model):
            options = {o.name: o for o in methods.candidates(sparse)}
            if name not in options:
                continue
            seen += 1
            shape = (1, *sparse.space, sparse.array.shape[-2])
            x = np.random.default_rng(0).normal(size=shape).astype("float32")
            dense, other = (
                LiteRTModel(layer_timing.converted(sparse, o))(x)
                for o in (None, options[name])
            )
            np.testing.assert_allclose(other, dense, atol=1e-4)
        self.assertGreater(seen, 0)

    @parameterized.parameters(*lowering_models.NAMES)
    def test_export_has_builtins_only(self, name):
        """And no gather of weights: they are constants in the file."""
        model = lowering_models.empty_columns(lowering_models.chain())
        small = strip(model, lowering_models.Forced(name))
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "small.tflite"
            report = export_litert(small, path)
            self.assertLess(report.max_rel_error, 1e-5)

    @parameterized.parameters(
        ("float16", 0.3), ("dynamic_range", 1.0), ("int8", 1.0)
    )
    def test_quantized(self, mode, limit):
        model = lowering_models.empty_columns(lowering_models.chain())
        small = strip(model, "smallest", quantize=mode)
        x = np.random.default_rng(0).normal(size=(64, 12, 11, 3))
        x = x.astype("float32")
        with tempfile.TemporaryDirectory() as folder:
            dense = pathlib.Path(folder) / "dense.tflite"
            lowered = pathlib.Path(folder) / "lowered.tflite"
            before = export_litert(strip(model), dense, mode, x)
            after = export_litert(small, lowered, mode, x)
        # Sorting and gathering add no error of their own to speak of.
        self.assertLess(
            after.max_rel_error, 2 * before.max_rel_error + 0.01 * limit
        )


class RaiseTest(parameterized.TestCase):
    def test_quantize(self):
        with self.assertRaisesRegex(ValueError, "one of .*'int8'.*'int4'"):
            AutoLowering(quantize="int4")

    @parameterized.parameters(
        {"num_threads": 0},
        {"num_threads": True},
        {"time_budget": 0},
        {"time_budget": float("nan")},
        {"time_budget": "60"},
        {"time_budget": True},
        {"runs": -1},
    )
    def test_numbers(self, **options):
        with self.assertRaisesRegex(ValueError, "above 0. Received"):
            AutoLowering(**options)

    def test_other_backends(self):
        model = lowering_models.empty_columns(lowering_models.chain())
        with mock.patch.object(keras.backend, "backend", lambda: "jax"):
            with self.assertRaisesRegex(ValueError, "Use lowering='model'"):
                strip(model, "auto")

    def test_a_lowerer_has_to_choose(self):
        with self.assertRaisesRegex(NotImplementedError, "`choose_one"):
            strategies.Lowerer().choose([None])


if __name__ == "__main__":
    absltest.main()
