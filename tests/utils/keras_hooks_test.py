"""What Keras keeps to itself is where this package looks for it."""

import pathlib
import re

import keras
import numpy as np
from absl.testing import absltest
from keras import layers

import keras_prm
from keras_prm.utils import keras_hooks


class HooksTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        inputs = keras.Input((4,))
        self.dense = layers.Dense(3)
        self.model = keras.Model(inputs, layers.ReLU()(self.dense(inputs)))

    def test_nodes(self):
        nodes = keras_hooks.raw_nodes(self.model)
        kinds = [type(node.operation).__name__ for node in nodes]
        self.assertEqual(kinds, ["InputLayer", "Dense", "ReLU"])
        self.assertEqual([n.is_input for n in nodes], [True, False, False])
        (x,) = nodes[1].input_tensors
        self.assertIs(x, self.model.inputs[0])
        (y,) = nodes[1].output_tensors
        self.assertIs(nodes[1].arguments.fill_in({id(x): y})[0][0], y)

    def test_origin(self):
        node = keras_hooks.origin(self.model.outputs[0])
        self.assertIsInstance(node.operation, layers.ReLU)

    def test_timestep_mask(self):
        x = keras.Input((4,))
        self.assertIsNone(keras_hooks.timestep_mask(x))
        masked = layers.Embedding(5, 2, mask_zero=True)(x)
        self.assertEqual(keras_hooks.timestep_mask(masked).shape, (None, 4))

    def test_sublayers(self):
        layer = layers.TimeDistributed(self.dense)
        self.assertEqual(keras_hooks.sublayers(layer), [layer, self.dense])

    def test_call_context(self):
        dropout, x = layers.Dropout(0.9), np.ones((1, 100), "float32")
        with keras_hooks.call_context(self.dense, False):
            kept = keras.ops.convert_to_numpy(dropout(x))
        with keras_hooks.call_context(self.dense, True):
            dropped = keras.ops.convert_to_numpy(dropout(x))
        np.testing.assert_array_equal(kept, x)
        self.assertTrue((dropped == 0).any())
        np.testing.assert_array_equal(dropout(x), x)

    def test_lookup_of(self):
        layer = layers.StringLookup(vocabulary=["a"])
        self.assertIs(keras_hooks.lookup_of(layer), layer)
        if keras.backend.backend() == "tensorflow":
            vectorizer = layers.TextVectorization()
            kind = type(keras_hooks.lookup_of(vectorizer))
            self.assertIs(kind, layers.StringLookup)

    def test_lambda_shape(self):
        layer = layers.Lambda(lambda x: x, output_shape=(4,))
        self.assertEqual(keras_hooks.lambda_shape(layer), (4,))

    def test_initial_epoch(self):
        self.assertIsNone(keras_hooks.initial_epoch(self.model))
        self.model.compile("sgd", "mse")
        keras_hooks.set_initial_epoch(self.model, 2)
        x, y = np.ones((2, 4)), np.ones((2, 3))
        history = self.model.fit(x, y, epochs=3, verbose=0)
        self.assertEqual(history.epoch, [2])
        self.assertEqual(keras_hooks.initial_epoch(self.model), 2)

    def test_of_optimizers(self):
        optimizer = keras.optimizers.SGD(use_ema=True)
        trained = self.model.trainable_variables
        optimizer.build(trained)
        for found, variable in zip(keras_hooks.trained_by(optimizer), trained):
            self.assertIs(found, variable)
        self.assertEqual(
            [tuple(v.shape) for v in keras_hooks.averages_of(optimizer)],
            [(4, 3), (3,)],
        )
        keras_hooks.check_known(optimizer, trained)
        with self.assertRaises(ValueError):
            keras_hooks.check_known(optimizer, [keras.Variable(1.0)])

    def test_learning_rates(self):
        schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
        rate = keras_hooks.rate_of(keras.optimizers.Adam(schedule))
        self.assertIs(rate, schedule)
        rate = keras_hooks.rate_of(keras.optimizers.Adam(0.25))
        self.assertEqual(float(rate), 0.25)

    def test_nothing_else_is_read(self):
        """Overrides aside, which Keras calls and which are no reads."""
        found, own = set(), {"_replace"}  # a named tuple's
        for path in pathlib.Path(keras_prm.__file__).parent.rglob("*.py"):
            text = path.read_text()
            own.update(re.findall(r"def (_[a-z]\w+)", text))
            if path.stem != "keras_hooks":
                text = re.sub(r"(?:self|cls|super\(\))\._", "", text)
                found.update(re.findall(r"[\w)\]]\.(_[a-z]\w+)", text))
        found -= own
        self.assertEmpty(found, "Move these reads into utils/keras_hooks.py.")


if __name__ == "__main__":
    absltest.main()
