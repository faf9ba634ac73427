"""Every report becomes plain data."""

import json
import pathlib
import tempfile

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

import keras_prm
from tests.helpers import zoo


def network():
    inputs = keras.Input((3,))
    x = keras.layers.Dense(4, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    zoo.randomize(model)
    return model


def purification():
    model = network()
    zeros = keras_prm.Thresholds(filter=0.5)
    return keras_prm.purify(model, thresholds=zeros, verbose=0)


def export():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.tflite"
        return keras_prm.export_litert(network(), path)


def stripped():
    model = network()
    kernel = np.array(model.layers[1].kernel)
    kernel[:, 0] = 0.0
    model.layers[1].kernel.assign(kernel)
    return keras_prm.strip(model, return_report=True)[1]


class ReportTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("costs", lambda: keras_prm.costs(network())),
        ("explanation", lambda: keras_prm.explain(network())),
        ("purification", purification),
        ("strip", stripped),
        (
            "certificate",
            lambda: keras_prm.verify(network(), network()),
        ),
        ("export", export),
    )
    def test_json_keeps_it(self, make):
        if make is export and keras.backend.backend() != "tensorflow":
            self.skipTest("it is the same record, and takes long")
        report = make()
        found = report.to_dict()
        self.assertEqual(json.loads(json.dumps(found)), found)
        self.assertEqual(set(found), set(vars(report)))
        self.assertNotEmpty(str(report))

    def test_numbers_that_json_has_no_words_for(self):
        other = network()
        other.set_weights([w * np.nan for w in other.get_weights()])
        found = keras_prm.verify(network(), other).to_dict()
        json.dumps(found, allow_nan=False)
        self.assertIsNone(found["comparisons"][0]["max_abs_error"])


if __name__ == "__main__":
    absltest.main()
