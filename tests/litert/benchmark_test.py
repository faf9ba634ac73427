"""Models side by side on LiteRT; no test depends on real time."""

import collections
import json
import pathlib
import platform
import sys
import tempfile
from unittest import mock

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.litert import benchmark as benchmark_module
from keras_prm.litert import benchmark_models
from keras_prm.litert import timing
from keras_prm.litert.benchmark import benchmark
from keras_prm.litert.export import export_litert
from keras_prm.litert.model import LiteRTModel
from keras_prm.rebuild.strip import strip
from tests.helpers import exporting
from tests.helpers.litert_files import double
from tests.helpers.litert_files import file_of
from tests.helpers.litert_files import spec
from tests.helpers.litert_files import two_inputs

ROWS = np.arange(21, dtype="float32").reshape(7, 3)


class Stage:
    """A play of invocations: what each file costs, and a clock of its own.

    Args:
        seconds: dict from the number of bytes of a file to what one
            invocation takes.
    """

    def __init__(self, seconds):
        self.seconds = seconds
        self.now = 0.0
        self.invoked = []
        self.loaded = []
        self.measured = []

    def invoke(self, model):
        self.invoked.append(model.num_bytes)
        self.now += self.seconds[model.num_bytes]

    def load(self, model, inputs):
        self.loaded.append(inputs)
        return {0: model.num_bytes}

    def peak_memory(self, path, tensors, num_threads):
        self.measured.append((path, num_threads))
        return 1000 * num_threads + tensors[0]

    def benchmark(self, *arguments, **keywords):
        """`benchmark` where nothing is real but the files."""
        with (
            mock.patch.object(timing.time, "perf_counter", lambda: self.now),
            mock.patch.multiple(
                LiteRTModel,
                invoke=lambda model: self.invoke(model),
                load=lambda model, inputs: self.load(model, inputs),
            ),
            mock.patch.object(
                benchmark_module, "peak_memory", self.peak_memory
            ),
        ):
            return benchmark(*arguments, **keywords)


class BenchmarkTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        if keras.backend.backend() != "tensorflow":
            self.skipTest("the files are made by TensorFlow")
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.paths = [pathlib.Path(folder) / f"{x}.tflite" for x in "abc"]
        content = file_of(double, spec(None, 3))
        for i, path in enumerate(self.paths):
            path.write_bytes(content + bytes(16 * i))  # Told apart by size.
        self.sizes = [path.stat().st_size for path in self.paths]
        self.stage = Stage(dict(zip(self.sizes, (4.0, 2.0, 8.0))))

    def test_rows(self):
        found = self.stage.benchmark(self.paths, num_threads=(2, 1), runs=3)
        rows = [
            (r.model, r.num_threads, r.median, r.low, r.high, r.minimum)
            for r in found.rows
        ]
        self.assertEqual(
            rows,
            [
                ("a", 2, 4, 4, 4, 4),
                ("b", 2, 2, 2, 2, 2),
                ("c", 2, 8, 8, 8, 8),
                ("a", 1, 4, 4, 4, 4),
                ("b", 1, 2, 2, 2, 2),
                ("c", 1, 8, 8, 8, 8),
            ],
        )
        self.assertEqual([r.speedup for r in found.rows], 2 * [1, 2, 0.5])
        self.assertEqual([r.file_bytes for r in found.rows], 2 * self.sizes)
        self.assertEqual(
            [r.peak_bytes for r in found.rows],
            [1000 * n + size for n in (2, 1) for size in self.sizes],
        )
        self.assertEqual(
            self.stage.measured, [(p, n) for n in (2, 1) for p in self.paths]
        )
        self.assertEqual(found.machine, platform.machine())
        self.assertEqual(
            (found.batch_size, found.runs, found.warmup), (1, 3, 5)
        )
        self.assertRegex(found.litert_version, r"^\d+\.")

    def test_order_rotates(self):
        self.stage.benchmark(self.paths, runs=3, warmup=1)
        a, b, c = self.sizes
        expected = [c, a, b, a, b, c, b, c, a, c, a, b]
        self.assertEqual(self.stage.invoked, expected)

    @parameterized.parameters((1, 0), (4, 3))
    def test_every_model_is_invoked_in_each_round(self, runs, warmup):
        self.stage.benchmark(
            self.paths, num_threads=(1, 2), runs=runs, warmup=warmup
        )
        self.assertCountEqual(
            self.stage.invoked, 2 * (runs + warmup) * self.sizes
        )

    def test_without_memory(self):
        found = self.stage.benchmark(self.paths, memory=False)
        self.assertEmpty(self.stage.measured)
        self.assertEqual([r.peak_bytes for r in found.rows], 3 * [None])

    @parameterized.parameters((1, 1), (3, 3))
    def test_threads_named_twice_are_measured_once(self, *threads):
        found = self.stage.benchmark(self.paths[:1], num_threads=threads)
        self.assertLen(found.rows, 1)

    def test_the_first_rows_are_timed(self):
        for inputs in (ROWS, [ROWS], {"x": ROWS}):
            self.stage.benchmark(self.paths[:1], inputs, batch_size=2)
        *arrays, by_name = self.stage.loaded
        for (array,) in (*arrays, by_name.values()):
            np.testing.assert_array_equal(array, ROWS[:2])
        self.assertEqual(list(by_name), ["x"])

    def test_random_inputs_are_what_the_files_take(self):
        """Of [-1, 1) this one makes a division by zero."""
        model, images = exporting.standardizing()
        with self.assertWarnsRegex(UserWarning, "a row of zeros"):
            export_litert(model, self.paths[0], "int8", images)
        found = benchmark(self.paths[0], runs=1, warmup=0, memory=False)
        self.assertLen(found.rows, 1)
        with self.assertRaisesRegex(ValueError, "DIV.*Pass others"):
            benchmark(self.paths[0], np.zeros((1, 8, 8, 3)), runs=1)

    def test_random_inputs_are_in_the_range_of_first_layers(self):
        inputs = keras.Input((40,))
        model = keras.Model(inputs, layers.Rescaling(1 / 255)(inputs))
        self.stage.seconds = collections.defaultdict(lambda: 1.0)
        self.stage.benchmark(model, runs=1)
        (batch,) = self.stage.loaded[0]
        self.assertBetween(np.max(batch), 200, 255)

    def test_random_inputs(self):
        self.stage.benchmark(self.paths[:2], batch_size=5)
        self.stage.benchmark(self.paths[:1], batch_size=5)
        for (array,) in self.stage.loaded:
            self.assertEqual((array.shape, array.dtype), ((5, 3), "float32"))
            self.assertBetween(array.min(), -1, -0.5)
            self.assertBetween(array.max(), 0.5, 1)
            np.testing.assert_array_equal(array, self.stage.loaded[0][0])


class RealBenchmarkTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        if keras.backend.backend() != "tensorflow":
            self.skipTest("the files are made by TensorFlow")

    def test_a_keras_model_and_its_file(self):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input((3,)), layers.Dense(4)], name="dense"
        )
        content = file_of(double, spec(None, 3))
        folder = self.enterContext(tempfile.TemporaryDirectory())
        with mock.patch.object(tempfile, "tempdir", folder):
            found = benchmark(
                [model, content], ROWS, num_threads=(1, 2), runs=2, warmup=0
            )
        left = pathlib.Path(folder).iterdir()  # TensorFlow leaves Python.
        self.assertEmpty([path for path in left if path.suffix != ".py"])
        names = [(r.model, r.num_threads) for r in found.rows]
        models = ("dense", "model")
        self.assertEqual(names, [(m, n) for n in (1, 2) for m in models])
        self.assertEqual(found.rows[0].speedup, 1)
        for row in found.rows:
            self.assertGreater(row.minimum, 0)
            self.assertLessEqual(row.minimum, row.low)
            if sys.platform in ("linux", "darwin"):
                self.assertGreater(row.peak_bytes, 0)
        data = found.to_dict()
        self.assertEqual(json.loads(json.dumps(data)), data)

    def test_recurrent_layers(self):
        model = keras.Sequential([keras.Input((4, 3)), layers.GRU(2)])
        found = benchmark(model, runs=1, memory=False)
        self.assertLen(found.rows, 1)

    def test_a_model_and_its_stripped_form_without_names(self):
        inputs = [keras.Input((3,)), keras.Input((3,))]
        x = layers.Concatenate()(inputs)
        model = keras.Model(inputs, layers.Dense(2)(x))
        models = {"dense": model, "small": strip(model)}
        self.assertLen(benchmark(models, runs=1, memory=False).rows, 2)

    def test_numbers_of_numpy(self):
        content = file_of(double, spec(None, 3))
        numbers = dict(num_threads=np.int64(1), runs=np.uint8(2))
        numbers |= dict(warmup=np.uint8(1), batch_size=np.int32(2))
        data = benchmark(content, memory=False, **numbers).to_dict()
        self.assertEqual(json.loads(json.dumps(data)), data)

    def test_all_rows_calibrate(self):
        model = keras.Sequential([keras.Input((3,)), layers.Dense(4)])
        sources = benchmark_models
        with mock.patch.object(
            sources, "files", side_effect=sources.files
        ) as files:
            benchmark(model, ROWS, runs=1, quantize="int8", memory=False)
        self.assertEqual(files.call_args.args[2], "int8")
        np.testing.assert_array_equal(files.call_args.args[3], ROWS)

    @parameterized.named_parameters(
        ("random", None), ("dict", {"zebra": ROWS, "apple": ROWS})
    )
    def test_several_inputs(self, inputs):
        content = two_inputs()
        files = [content, LiteRTModel(content, input_names=["zebra", "apple"])]
        found = benchmark(files, inputs, runs=1, batch_size=3, memory=False)
        self.assertLen(found.rows, 2)

    @parameterized.parameters(None, "int8")
    def test_several_inputs_of_a_keras_model(self, quantize):
        one, other = (
            keras.Input((3,), name="left in"),
            keras.Input((2,), name="b"),
        )
        y = layers.Dense(2)(layers.Concatenate()([one, other]))
        with self.assertWarnsRegex(UserWarning, "must match the names"):
            model = keras.Model({"x": one, "z": other}, y)
        inputs = {"x": ROWS, "z": ROWS[:, :2]}
        options = dict(runs=1, quantize=quantize, memory=False)
        self.assertLen(benchmark(model, inputs, **options).rows, 1)
        inputs = {"left_in": ROWS, "b": ROWS[:, :2]}
        self.assertLen(benchmark(model, inputs, **options).rows, 1)

    def test_several_inputs_in_order(self):
        content = two_inputs()
        model = LiteRTModel(content, input_names=["zebra", "apple"])
        benchmark(model, [ROWS, ROWS], runs=1, memory=False)
        with self.assertRaisesRegex(ValueError, "Pass a dict"):
            benchmark(content, [ROWS, ROWS], runs=1, memory=False)

    def test_whole_numbers_are_small_indices(self):
        content = file_of(lambda x: x + 1, spec(None, 3, dtype="int32"))
        with mock.patch.object(
            LiteRTModel, "load", autospec=True, side_effect=LiteRTModel.load
        ) as load:
            benchmark(content, runs=1, memory=False)
        (array,) = load.call_args.args[1]
        self.assertEqual(array.dtype, "int32")
        self.assertContainsSubset(array.ravel(), (0, 1))


class BadInputTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        if keras.backend.backend() != "tensorflow":
            self.skipTest("the files are made by TensorFlow")
        self.content = file_of(double, spec(None, 3))

    @parameterized.parameters(
        ({"runs": 0}, "runs=0"),
        ({"runs": 1.5}, "runs=1.5"),
        ({"warmup": -1, "runs": True}, "runs=True, warmup=-1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"num_threads": 0}, "num_threads=0"),
        ({"num_threads": True}, "num_threads=True"),
        ({"num_threads": (1, True, -2)}, "num_threads=True, num_threads=-2"),
        ({"num_threads": ()}, r"num_threads=\(\)"),
        ({"num_threads": "2"}, "num_threads='2'"),
    )
    def test_numbers(self, keywords, received):
        with self.assertRaisesRegex(
            ValueError, f"Received: {received}. Pass such as num_threads"
        ):
            benchmark(self.content, **keywords)

    def test_signatures_differ(self):
        models = {
            "a": self.content,
            "b": file_of(double, spec(None, 4)),
            "c": file_of(lambda x: x + 1, spec(None, 3, dtype="int32")),
            "d": two_inputs(),
        }
        with self.assertRaisesRegex(
            ValueError, r"'a': .*3,.*'b': .*4,.*'c': .*int32.* name their"
        ):
            benchmark(models)
        # The name of a single input does not matter, nor a fixed batch.
        same = [self.content, file_of(double, spec(1, 3, name="other"))]
        benchmark(same, runs=1, memory=False)

    def test_fixed_batch_size(self):
        models = {"a": self.content, "b": file_of(double, spec(4, 3))}
        with self.assertRaisesRegex(
            ValueError, "Received: {'b': 4}. Pass the batch_size of the files"
        ):
            benchmark(models, batch_size=2)

    @parameterized.parameters((ROWS[:2],), ({"x": ROWS[:2]},), (3.0,))
    def test_too_few_rows(self, inputs):
        with self.assertRaisesRegex(ValueError, "smaller batch_size"):
            benchmark(self.content, inputs, batch_size=3)

    def test_inputs_that_do_not_fit(self):
        with self.assertRaisesRegex(ValueError, "Expected: {'x': "):
            benchmark(self.content, ROWS[:, 1:])

    def test_no_models(self):
        with self.assertRaisesRegex(ValueError, "Pass a Keras model"):
            benchmark([])

    def test_missing_package(self):
        missing = {"ai_edge_litert.interpreter": None}
        model = keras.Sequential([keras.Input((3,)), layers.Dense(4)])
        with (
            mock.patch.dict(sys.modules, missing),
            mock.patch.object(benchmark_models, "files") as files,
            self.assertRaisesRegex(ImportError, "pip install ai-edge-litert"),
        ):
            benchmark(model)
        files.assert_not_called()


if __name__ == "__main__":
    absltest.main()
