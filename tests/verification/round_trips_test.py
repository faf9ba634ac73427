"""What `strip` returns, saved and loaded in a process of its own."""

import sys
import tempfile
from unittest import mock

import keras
import numpy as np
import pytest
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm import verify
from keras_prm.rebuild.strip import strip
from keras_prm.utils import backend
from keras_prm.verification import round_trip_worker
from keras_prm.verification import round_trips
from tests.helpers import zoo
from tests.helpers.lowering_models import Drawn
from tests.helpers.zeros import borders
from tests.helpers.zeros import filters
from tests.helpers.zeros import outputs_of
from tests.helpers.zeros import zero_filters


@keras.saving.register_keras_serializable("round_trips_test")
class Doubled(layers.Layer):
    def call(self, x):
        return x * 2


@keras.saving.register_keras_serializable("round_trips_test")
class Settings(layers.Layer):
    """Adds what Keras is set to."""

    def call(self, x):
        form = keras.config.image_data_format()
        return x + np.array(
            [
                keras.config.epsilon(),
                form == "channels_first",
                keras.config.floatx() == "float32",
            ],
            "float32",
        )


@keras.saving.register_keras_serializable("round_trips_test")
class Unloadable(layers.Layer):
    """Has a config that its constructor does not take."""

    def call(self, x):
        return x * 2

    def get_config(self):
        return super().get_config() | {"secret": 1}

    @classmethod
    def from_config(cls, config):
        if sys.argv[0] == round_trip_worker.__file__:
            raise ValueError(f"no secret is wanted here: {'x' * 500}")
        config.pop("secret")
        return cls(**config)


def model_of(*parts):
    x = inputs = keras.Input((4,))
    for part in (layers.Dense(6, name="a"), *parts):
        x = part(x)
    model = keras.Model(inputs, layers.Dense(2)(x), name="net")
    zoo.randomize(model)
    zero_filters(model, a=[1, 2])
    model.get_layer("a").bias.assign(np.zeros(6))
    return model


class RoundTripsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        keras.utils.set_random_seed(0)

    @pytest.mark.slow
    def test_the_zoo_computes_the_same(self):
        """All in one process; where layers are stock, without keras_prm."""
        if keras.backend.backend() != "tensorflow":
            self.skipTest("the zoo has attention that TensorFlow alone runs")
        want = {}
        with tempfile.TemporaryDirectory() as path:
            folder = round_trips.Folder(path)
            for number, name in enumerate(zoo.MODELS):
                model = zoo.make(name)
                borders(model, None)
                filters(model, np.random.default_rng(0))
                small = strip(model, *[Drawn()] * (number % 4 == 0))
                x = zoo.inputs_of(model)
                want[name] = outputs_of(small, x)
                folder.add(name, small, [keras.tree.flatten(x)], 3)
            found = folder.load()
        self.assertContainsSubset(want, found)
        for name, arrays in want.items():
            with self.subTest(name):
                self.assertEqual(found[name].note, "")
                for a, b in zip(arrays, found[name].outputs[0], strict=True):
                    np.testing.assert_allclose(b, a, 1e-6, 1e-6)

    def test_what_is_added_later(self):
        """Whatever Keras is set to."""
        before = backend.process_settings()
        self.addCleanup(keras.config.set_epsilon, before["epsilon"])
        form = before["image_data_format"]
        self.addCleanup(keras.config.set_image_data_format, form)
        keras.config.set_epsilon(0.5)
        keras.config.set_image_data_format("channels_first")
        inputs = keras.Input((3,))
        settings = keras.Model(inputs, Settings()(inputs))
        with tempfile.TemporaryDirectory() as path:
            folder = round_trips.Folder(path)
            self.assertEqual(folder.load(), {})
            folder.add(
                "a", model_of(), [[np.ones((5, 4))], [np.ones((2, 4))]], 2
            )
            folder.add("settings", settings, [[np.zeros((1, 3))]], 2)
            trip, other = folder.load().values()
            self.assertEqual(other.outputs[0][0].tolist(), [[0.5, 1.0, 1.0]])
            self.assertEqual(
                [y.shape for (y,) in trip.outputs], [(5, 2), (2, 2)]
            )
            self.assertEqual(folder.load(), {})

    def test_a_process_that_dies(self):
        with mock.patch.object(round_trips.sys, "executable", "false"):
            trip = round_trips.once(model_of(), [[np.ones((2, 4))]])
        self.assertEqual(trip.outputs, [])
        self.assertRegex(trip.note, "ended with code 1.*-9 often a lack")


class CertificateTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        keras.utils.set_random_seed(0)

    def certify(self, *parts, **options):
        model = model_of(*parts)
        return verify(model, strip(model), saved=True, **options)

    def test_is_equal(self):
        found = self.certify(Doubled(), inputs=np.eye(3, 4))
        self.assertTrue(found.ok)
        rows = [c for c in found.comparisons if c.candidate == "saved"]
        self.assertEqual([c.inputs for c in rows], ["given"])
        self.assertLess(max(c.max_rel_error for c in rows), 1e-6)
        self.assertIn(
            f"saved model of {found.saved_bytes:,} bytes is equal", str(found)
        )
        self.assertGreater(found.saved_bytes, 5000)

    def test_a_class_that_no_other_process_can_import(self):
        @keras.saving.register_keras_serializable("round_trips_test")
        class Inside(layers.Layer):
            def call(self, x):
                return x * 2

        found = self.certify(Inside())
        self.assertFalse(found.ok)
        self.assertLess(found.max_abs_error, 1e-5)
        self.assertRegex(
            str(found),
            r"NOT LOADED: no other process can import .*Inside: move this to "
            "the top level of a file",
        )

    def test_a_file_that_does_not_load(self):
        found = self.certify(Unloadable())
        self.assertFalse(found.ok)
        self.assertRegex(
            str(found), r"NOT LOADED: cannot be loaded: \w+: no secret is.*xx"
        )

    def test_a_lambda(self):
        found = self.certify(layers.Lambda(lambda x: x * 2))
        self.assertTrue(found.ok)
        self.assertRegex(str(found), "Note: loads with `safe_mode=False` only")

    @pytest.mark.slow
    def test_sequential_models(self):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
        self.assertTrue(verify(model, model, saved=True).ok)

    @pytest.mark.slow
    def test_a_batch_that_is_not_whole(self):
        inputs = keras.Input(batch_shape=(4, 6))
        x = keras.ops.reshape(layers.Dense(6)(inputs), (4, 2, 3))
        model = keras.Model(inputs, layers.Dense(2)(x))
        found = verify(model, model, inputs=np.eye(10, 6), saved=True)
        self.assertTrue(found.ok, found)

    @pytest.mark.slow
    def test_words(self):
        if keras.backend.backend() != "tensorflow":
            self.skipTest("Keras has words on TensorFlow alone.")
        words = ["größe", "b", "\U0001f600"]
        inputs = keras.Input((1,), dtype="string")
        x = layers.StringLookup(vocabulary=words)(inputs)
        back = layers.StringLookup(vocabulary=words, invert=True)
        model = keras.Model(inputs, [inputs, back(x)])
        given = np.array([[w.encode()] for w in words], object)
        found = verify(model, model, inputs=given, saved=True)
        self.assertTrue(found.ok, found)

    def test_words_in_files(self):
        words = ["größe", "größe".encode(), b"\xff", b"b\0", b"", "b"]
        found = round_trip_worker.for_file(np.array([words], object))
        with tempfile.TemporaryFile() as file:
            np.save(file, found, allow_pickle=False)
            file.seek(0)
            found = round_trip_worker.from_file(np.load(file))
        expected = [w if isinstance(w, bytes) else w.encode() for w in words]
        self.assertEqual(found.tolist(), [expected])

    def test_masks_of_empty_sequences(self):
        inputs = keras.Input((5,), dtype="int32")
        x = layers.Embedding(9, 6, mask_zero=True)(inputs)
        x = layers.Dense(4, "relu")(layers.GlobalAveragePooling1D()(x))
        model = keras.Model(inputs, layers.Dense(2)(x))
        found = verify(model, strip(model), saved=True)
        self.assertTrue(found.ok, found)

    def test_is_not_asked_for(self):
        model = model_of()
        found = verify(model, strip(model))
        self.assertIsNone(found.saved_bytes)
        self.assertNotIn("saved model", str(found))


if __name__ == "__main__":
    absltest.main()
