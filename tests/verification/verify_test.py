"""The certificate that nothing has changed."""

import pathlib
import tempfile

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers
from keras import ops

from keras_prm.analysis.costs import costs
from keras_prm.analysis.explain import explain
from keras_prm.equivalence import probing
from keras_prm.litert.export import export_litert
from keras_prm.rebuild.strip import strip
from keras_prm.verification.verify import verify
from tests.helpers import exporting
from tests.helpers import zoo


def pruned(name="mlp"):
    model = zoo.make(name)
    layer = model.get_layer("d0" if name == "mlp" else "a")
    kernel = np.array(keras.ops.convert_to_numpy(layer.kernel))
    kernel[..., ::2] = 0
    layer.kernel.assign(kernel)
    return model


def strip_of(model):
    """Stripped, whatever there is to strip."""
    return strip(model, return_report=True)[0]


class VerifyTest(parameterized.TestCase):
    def test_stripped(self):
        model = pruned()
        found = verify(model, strip(model))
        self.assertTrue(found.ok)
        self.assertTrue(found)
        self.assertLess(found.max_abs_error, 1e-5)
        (comparison,) = found.comparisons
        self.assertEqual(comparison.candidate, "stripped")
        self.assertEqual(comparison.inputs, "random")
        self.assertEqual(comparison.samples, 32)
        # d0 loses 8 of its 16 units, d1 what it reads of them.
        lost = 8 * (12 + 1) + 8 * 10
        self.assertEqual(found.before.parameters - found.after.parameters, lost)
        self.assertGreater(*found.keras_bytes)
        self.assertIsNone(found.litert_bytes)

    def test_a_difference_is_found_but_raises_nothing(self):
        model = pruned()
        small = strip(model)
        bias = small.get_layer("d1").bias
        bias.assign(bias + 0.5)
        found = verify(model, small)
        self.assertFalse(found.ok)
        self.assertFalse(found)
        self.assertGreater(found.max_abs_error, 1e-3)
        self.assertIn("DIFFERENT", str(found))
        self.assertTrue(verify(model, small, tolerance=1.0).ok)

    def test_a_file_of_another_model_is_different(self):
        model = pruned()
        other = strip(zoo.make("mlp", seed=3))
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "other.tflite"
            export_litert(other, path)
            found = verify(model, strip(model), path)
            self.assertFalse(found.ok)
            self.assertIn("The LiteRT file is DIFFERENT", str(found))
            self.assertIn("The stripped model is equal", str(found))
            export_litert(other, path, "float16")
            self.assertFalse(verify(model, strip(model), path).ok)
            # Too small for dynamic_range, which leaves such kernels as floats.
            export_litert(other, path, "int8", np.eye(12))
            found = verify(model, strip(model), path)
        self.assertTrue(found.ok)
        self.assertIn("LiteRT file is quantized (not judged)", str(found))

    def test_a_file_may_be_off_by_more_than_a_model(self):
        """By what LiteRT's kernels are off on deep models."""
        inputs = keras.Input((3,))
        model = keras.Model(inputs, layers.Dense(2, name="a")(inputs))
        model.get_layer("a").kernel.assign(np.full((3, 2), 1e-3))
        other = strip(model)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "other.tflite"
            for bias, equal in ((1.0005, True), (1.002, False)):
                model.get_layer("a").bias.assign([1.0, -1.0])
                other.get_layer("a").bias.assign([bias, -1.0])
                export_litert(other, path)
                found = verify(model, other, path)
                verdicts = [c.ok for c in found.comparisons]
                self.assertEqual(verdicts, [False, equal])
                self.assertTrue(verify(model, other, path, tolerance=0.01))

    @parameterized.parameters((None, 1e-3), ("float16", 1e-2))
    def test_images_in_uint8_are_not_quantized(self, mode, tolerance):
        inputs = keras.Input((3,), dtype="uint8")
        x = layers.Rescaling(1 / 255)(inputs)
        model = keras.Model(inputs, layers.Dense(2)(x))
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "model.tflite"
            export_litert(model, path, mode)
            found = verify(model, strip(model), path)
        self.assertEqual(found.comparisons[1].tolerance, tolerance)
        self.assertTrue(found.ok)

    @parameterized.parameters(np.nan, np.inf)
    def test_what_is_not_finite_is_different(self, value):
        model = pruned()
        small = strip(model)
        small.get_layer("out").bias.assign([0.0, value, 0.0])
        with np.errstate(invalid="ignore"):
            self.assertFalse(verify(model, small).ok)
            self.assertFalse(verify(small, small).ok)

    def test_errors_are_relative_to_large_outputs(self):
        inputs = keras.Input((3,))
        model = keras.Model(inputs, layers.Dense(2, name="a")(inputs))
        zoo.randomize(model)
        model.get_layer("a").bias.assign([1000.0, 0.0])
        other = strip(model)
        other.get_layer("a").bias.assign([1000.0, 0.01])
        found = verify(model, other)
        self.assertAlmostEqual(found.max_abs_error, 0.01, 3)
        self.assertTrue(found.ok)

    def test_given_inputs(self):
        """Only these reach the unit in which the models differ."""
        inputs = keras.Input((2,))
        x = layers.Dense(2, activation="relu", name="a")(inputs)
        model = keras.Model(inputs, layers.Dense(1, name="out")(x))
        model.set_weights(
            [np.eye(2), np.array([0.0, -5.0]), np.ones((2, 1)), np.zeros(1)]
        )
        other = strip(model)
        other.get_layer("out").kernel.assign([[1.0], [2.0]])
        self.assertTrue(verify(model, other).ok)
        found = verify(model, other, inputs=np.full((300, 2), 9.0))
        self.assertFalse(found.ok)
        self.assertEqual(
            [(c.inputs, c.samples) for c in found.comparisons],
            [("given", 256)],
        )
        self.assertEqual(found.max_abs_error, 9.0 - 5.0)

    def test_given_inputs_as_a_dict(self):
        model = pruned("in_and_out")
        found = verify(model, strip(model), inputs=zoo.inputs_of(model))
        self.assertTrue(found.ok)
        self.assertLen(found.comparisons, 1)

    def test_given_inputs_by_name(self):
        """Keras takes a dict by the names of inputs, whatever their order."""
        b, a = keras.Input((2,), name="b"), keras.Input((2,), name="a")
        x = layers.Concatenate()([layers.Dense(1, name="of_b")(b), a])
        model = keras.Model([b, a], x)
        zoo.randomize(model)
        other = strip(model)
        other.get_layer("of_b").bias.assign([1e6])
        given = {"a": np.full((3, 2), 1e12), "b": np.ones((3, 2))}
        found = verify(model, other, inputs=given)
        # Of so large outputs it is nothing.
        self.assertEqual([c.is_equal for c in found.comparisons], [True])
        self.assertFalse(verify(model, other).ok)
        with self.assertRaisesRegex(ValueError, "Pass an array for each"):
            verify(model, other, inputs={"a": given["a"], "c": given["b"]})

    def test_a_quantized_file_of_another_model(self):
        if keras.backend.backend() != "tensorflow":
            self.skipTest("One backend is enough.")
        model = pruned()
        small = strip(model)
        inputs = keras.Input(model.input_shape[1:])
        other = keras.Model(inputs, layers.Dense(7)(inputs))
        folder = self.enterContext(tempfile.TemporaryDirectory())
        path = pathlib.Path(folder, "other.tflite")
        x = zoo.inputs_of(other)
        export_litert(other, path, "int8", representative_data=x)
        found = verify(model, small, path)
        self.assertFalse(found.ok)
        self.assertIn("LiteRT file is DIFFERENT (not judged)", str(found))

    @parameterized.parameters("mlp", "in_and_out")
    def test_litert(self, name):
        model = pruned(name)
        small = strip(model)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "small.tflite")
            export_litert(small, path)
            found = verify(model, small, path, inputs=zoo.inputs_of(model))
            self.assertEqual(found.litert_bytes, path.stat().st_size)
        self.assertTrue(found.ok)
        self.assertEqual(
            [(c.candidate, c.inputs) for c in found.comparisons],
            [
                ("stripped", "given"),
                ("litert", "given"),
            ],
        )
        for comparison in found.comparisons:
            self.assertLess(comparison.max_rel_error, 1e-5)
        self.assertIn(".tflite bytes", str(found))

    def test_printed(self):
        model = pruned()
        text = str(verify(model, strip(model)))
        self.assertIn("equal up to rounding", text)
        for name in ("parameters", "CONV kernels", "MACs", ".keras bytes"):
            self.assertIn(name, text)
        self.assertNotIn(".tflite", text)
        self.assertIn(f"{model.count_params():,}", text)

    def test_unknown_sizes_and_integers(self):
        u = keras.Input((None, None, 3))
        v = keras.Input((4,), dtype="int32")
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 3)(u))
        y = layers.Flatten()(layers.Embedding(5, 2)(v))
        model = keras.Model(
            [u, v], layers.Dense(2)(layers.Concatenate()([x, y]))
        )
        found = verify(model, strip(model))
        self.assertTrue(found.ok)
        self.assertIsNone(found.before.macs)
        self.assertIn("MACs", str(found))


class InputsTest(parameterized.TestCase):
    """What is compared, and when it says something."""

    def assert_equal(self, model, *lines, **kwargs):
        found = verify(model, strip_of(model), **kwargs)
        text = str(found)
        self.assertTrue(found.ok, text)
        for line in lines:
            self.assertIn(line, text)
        return found

    def test_logarithms(self):
        inputs = keras.Input((5, 4))
        x = keras.ops.log(inputs + 1e-6)
        model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
        self.assert_equal(model, "32 random samples, one of them zeros: [0, 1)")
        inputs = keras.Input((4,))
        model = keras.Model(inputs, keras.ops.log(inputs))
        self.assert_equal(
            model, "none of them zeros, on which the model is not finite"
        )

    def test_empty_sequences(self):
        inputs = keras.Input((9,), dtype="int32")
        x = layers.Embedding(20, 4, mask_zero=True)(inputs)
        x = layers.GlobalAveragePooling1D()(x)
        model = keras.Model(inputs, layers.Dense(3)(x))
        self.assert_equal(model, "integers 0 to 19, zeros at the end")
        given = np.random.default_rng(0).integers(1, 20, (32, 9))
        given[7] = 0
        self.assert_equal(
            model, "Note: 3 of 96 outputs are NaN in both.", inputs=given
        )

    def test_rows_of_a_table_that_differ(self):
        inputs = keras.Input((4,), dtype="int32")
        x = layers.Flatten()(layers.Embedding(300, 2, name="table")(inputs))
        model = keras.Model(inputs, layers.Dense(3)(x))
        other = strip_of(model)
        table = keras.ops.convert_to_numpy(model.get_layer("table").embeddings)
        for row in (2, 157, 299):
            changed = np.array(table)
            changed[row] += 1
            other.get_layer("table").embeddings.assign(changed)
            self.assertFalse(verify(model, other).ok)

    @parameterized.named_parameters(
        ("dead", 0.0, [0.0, 0.0]),
        ("saturated", 1.0, [900.0, 0.0]),
    )
    def test_untested(self, scale, bias):
        inputs = keras.Input((3,))
        y = layers.Dense(2, activation="softmax")(inputs)
        model = keras.Model(inputs, y)
        model.set_weights([np.full((3, 2), scale), np.array(bias)])
        for given in (None, np.ones((4, 3)), np.ones((1, 3))):
            found = verify(model, strip_of(model), inputs=given)
            self.assertFalse(found.ok)
            self.assertIn(
                "is UNTESTED: the outputs are the same for all of these "
                "inputs. Pass other `inputs`.",
                str(found),
            )

    def test_one_of_two_outputs_is_dead(self):
        inputs = keras.Input((6,))
        dead = layers.Dense(8, activation="relu", name="dead")(inputs)
        outputs = [layers.Dense(2)(inputs), layers.Dense(3)(dead)]
        model = keras.Model(inputs, outputs)
        model.get_layer("dead").bias.assign(np.full(8, -100.0))
        found = verify(model, model)
        self.assertTrue(found.ok)
        self.assertIn("Note: outputs 1 are the same for all", str(found))

    def test_a_table_that_is_too_large(self):
        inputs = keras.Input((1,), dtype="int32")
        rows = layers.Embedding(200_000, 2)(inputs)
        model = keras.Model(inputs, layers.Dense(2)(rows))
        text = "integers 0 to 199999, of which 4,096 at most are tried"
        self.assertIn(text, str(verify(model, model)))

    def test_nothing_but_nan_is_untested(self):
        inputs = keras.Input((3,))
        model = keras.Model(inputs, keras.ops.log(inputs))
        found = verify(model, strip_of(model), inputs=np.full((4, 3), -1.0))
        self.assertFalse(found.ok)
        self.assertIn("UNTESTED: the output is NaN or inf", str(found))

    def test_one_row_of_a_model_that_reacts(self):
        inputs = keras.Input((1,))
        model = keras.Model(inputs, layers.Dense(1)(inputs))
        zoo.randomize(model)
        self.assert_equal(
            model, "Compared on 1 samples given.", inputs=np.ones((1, 1))
        )

    @parameterized.named_parameters(
        ("batches", lambda x: (x[i : i + 2] for i in range(4)), 8),
        ("with_labels", lambda x: [(x, np.ones(6))], 6),
        ("function", lambda x: lambda: [x], 6),
        ("dict", lambda x: {"x": x}, 6),
        ("many", lambda x: np.repeat(x, 60, 0), 256),
    )
    def test_forms(self, form, num):
        inputs = keras.Input((12,), name="x")
        model = keras.Model(inputs, layers.Dense(2)(inputs))
        x = np.random.default_rng(0).normal(size=(6, 12))
        found = self.assert_equal(model, inputs=form(x))
        self.assertEqual(found.comparisons[0].samples, num)

    def test_a_batch_size_of_its_own(self):
        inputs = keras.Input((3,), batch_size=5)
        model = keras.Model(inputs, layers.Dense(2)(inputs))
        found = self.assert_equal(model)
        self.assertEqual(found.comparisons[0].samples, 32)

    def test_open_sizes_are_what_the_model_can_do_with(self):
        x = inputs = keras.Input((None, None, 1))
        for _ in range(5):
            x = layers.MaxPooling2D()(layers.Conv2D(1, 3)(x))
        model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
        self.assert_equal(model, "open sizes are 128")

    def test_no_random_inputs_will_do(self):
        class Picky(layers.Layer):
            def call(self, x):
                if x.shape[0] is not None:
                    raise TypeError("not these")
                return x

        inputs = keras.Input((3,))
        view = keras.Model(inputs, layers.Dense(2)(inputs))
        with self.assertRaisesRegex(ValueError, "not these.*real ones as"):
            probing.of_random(view, lambda arrays: Picky()(arrays[0]))

    def test_strings(self):
        if keras.backend.backend() != "tensorflow":
            self.skipTest("TensorFlow alone has strings")
        inputs = keras.Input((1,), dtype="string")
        x = layers.TextVectorization(
            vocabulary=["a", "b", "c"], output_sequence_length=4
        )(inputs)
        x = layers.Flatten()(layers.Embedding(5, 8)(x))
        model = keras.Model(inputs, layers.Dense(1)(x))
        self.assert_equal(model, "texts of its words")
        words = np.array([["a b"], ["c"]])
        for given in (words, words.astype(object), words.astype("S")):
            self.assert_equal(model, "2 samples given", inputs=given)
        given = keras.ops.convert_to_tensor(words)
        self.assert_equal(model, "2 samples given", inputs=given)
        with self.assertRaisesRegex(ValueError, "no strings.*Convert it"):
            verify(model, model, inputs=np.ones((2, 1)))

    def test_a_file_that_fails_on_zeros(self):
        if keras.backend.backend() != "tensorflow":
            self.skipTest("One backend is enough.")
        model, images = exporting.standardizing()
        path = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory()), "m.tflite"
        )
        with self.assertWarnsRegex(UserWarning, "zeros.*DIV.*Keep such"):
            export_litert(model, path, "int8", images)
        found = verify(model, strip_of(model), path)
        self.assertFalse(found.ok)
        self.assertEqual(
            [(c.candidate, c.inputs, c.is_equal) for c in found.comparisons],
            [
                ("stripped", "random", True),
                ("litert", "zeros", False),
                ("litert", "random", True),
            ],
        )
        self.assertRegex(
            str(found), "LiteRT file FAILS on a row of zeros: .*DIV"
        )
        given = np.zeros((1, 8, 8, 3))
        found = verify(model, strip_of(model), path, inputs=given)
        self.assertRegex(str(found), "FAILS on the inputs given: .*DIV")


class RaiseTest(parameterized.TestCase):
    def test_other_signatures(self):
        x = keras.Input((12,))
        other = keras.Model(x, layers.Dense(2)(x))
        with self.assertRaisesRegex(ValueError, "different outputs.*`strip`"):
            verify(zoo.make("mlp"), other)
        with self.assertRaisesRegex(ValueError, "different inputs.*`strip`"):
            verify(zoo.make("lenet5"), other)

    @parameterized.parameters(
        (np.ones((4, 11)),),
        (np.ones((4, 12, 1)),),
    )
    def test_inputs_that_do_not_fit(self, inputs):
        model = pruned()
        message = r"Expected shapes.*\[\(None, 12\)\].*Pass batches"
        with self.assertRaisesRegex(ValueError, message):
            verify(model, model, inputs=inputs)

    def test_samples_that_the_model_cannot_run(self):
        def fails(x):
            if not isinstance(x, keras.KerasTensor):
                raise RuntimeError("too wet")
            return x

        inputs = keras.Input((4,))
        layer = layers.Lambda(fails, output_shape=(4,))
        model = keras.Model(inputs, layer(inputs))
        with self.assertRaisesRegex(
            ValueError, "samples given.*too wet.*Pass samples as `inputs`"
        ):
            verify(model, model, inputs=np.ones((2, 4)))

    def test_subclassed(self):
        class Model(keras.Model):
            pass

        with self.assertRaisesRegex(TypeError, "Rewrite it as a functional"):
            verify(zoo.make("mlp"), Model())


class RemarksTest(parameterized.TestCase):
    def test_why_macs_are_unknown(self):
        free = keras.Input((None, None, 3))
        model = keras.Model(free, layers.Conv2D(2, 3)(free))
        self.assertIn("inputs of any size", str(verify(model, model)))
        self.assertIn("inputs of any size", str(explain(model)))

        class Mine(layers.Conv2D):
            pass

        fixed = keras.Input((8, 8, 3))
        model = keras.Model(fixed, Mine(2, 3, name="mine")(fixed))
        self.assertIn("no rule says what ['mine']", costs(model).macs_note)
        model = keras.Model(fixed, layers.Conv2D(2, 3)(fixed))
        self.assertEqual(costs(model).macs_note, "")

    def test_layers_that_are_called_in_training(self):
        x = inputs = keras.Input((4,))
        x = layers.Dropout(0.5, name="drop")(layers.Dense(8)(x), training=True)
        model = keras.Model(inputs, layers.Dense(3)(x))
        found = verify(model, model)
        self.assertTrue(found.ok)
        self.assertIn("['drop'] are called with training=True", str(found))

    def test_a_model_that_cannot_be_saved(self):
        class Stubborn(layers.Layer):
            def call(self, x):
                return x

            def get_config(self):
                return {"name": self.name, "handle": object()}

        inputs = keras.Input((4,))
        x = Stubborn(name="stubborn")(layers.Dense(3)(inputs))
        model = keras.Model(inputs, x)
        small = keras.Model(inputs, layers.Dense(3)(inputs))
        small.set_weights(model.get_weights())
        found = verify(model, small)
        self.assertTrue(found.ok)
        self.assertIsNone(found.keras_bytes[0])
        self.assertGreater(found.keras_bytes[1], 1000)
        self.assertRegex(
            str(found),
            "model before `strip` cannot be saved.*Mend the `get_config`",
        )

    def test_samples_with_nan_are_counted(self):
        """The first one as well, with which others cannot be compared."""
        model, x = pruned(), np.random.default_rng(0).normal(size=(5, 12))
        x[0] = np.nan
        x[3, 2] = np.inf
        found = verify(model, model, inputs=x)
        self.assertTrue(found.ok)
        self.assertIn("5 samples given, 2 of them with NaN", found.inputs)

    def test_a_model_that_is_random_at_inference(self):
        inputs = keras.Input((4,))
        x = layers.Lambda(lambda t: t + keras.random.normal(ops.shape(t)))
        model = keras.Model(inputs, layers.Dense(3)(x(inputs)))
        found = verify(model, model)
        self.assertFalse(found.ok)
        self.assertIn("not comparable: random at inference", str(found))
        self.assertIn("give its random layers a seed", str(found))


if __name__ == "__main__":
    absltest.main()
