"""Units of recurrent layers, and what wrappers let through."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.rebuild.strip import strip
from tests.helpers import zoo
from tests.helpers.zeros import edit
from tests.helpers.zeros import max_error

GATES = {layers.LSTM: 4, layers.GRU: 3, layers.SimpleRNN: 1}


def zero_units(cell, units, gate=None):
    """Zeros all that is written to some units, or one gate of them."""
    gates = cell.kernel.shape[-1] // cell.units
    at = [
        g * cell.units + u
        for g in range(gates)
        for u in units
        if gate in (None, g)
    ]
    for variable in (cell.kernel, cell.recurrent_kernel, cell.bias):
        edit(variable, ..., at)


class RecurrentTest(parameterized.TestCase):
    def model(self, layer):
        x = inputs = keras.Input((5, 4))
        x = layer(layers.Dense(6, name="a")(x))
        model = keras.Model(inputs, layers.Dense(2, name="out")(x))
        zoo.randomize(model)
        return model

    def check(self, model):
        small, report = strip(model, return_report=True)
        x = zoo.inputs_of(model)
        self.assertLess(max_error(model, small, x), 1e-5)
        self.assertEqual(report.skipped, ())
        return small

    @parameterized.product(kind=tuple(GATES), sequences=(True, False))
    def test_units_that_stay_at_zero(self, kind, sequences):
        layer = kind(5, return_sequences=sequences, name="r")
        model = self.model(layer)
        zero_units(layer.cell, [1, 3])
        small = self.check(model)
        self.assertEqual(small.get_layer("r").units, 3)

    @parameterized.parameters(*GATES)
    def test_units_that_nobody_reads(self, kind):
        """Unit 2 feeds unit 4 only, and nobody reads unit 4."""
        layer = kind(5, name="r")
        model = self.model(layer)
        edit(model.get_layer("out").kernel, [2, 4])
        edit(layer.cell.recurrent_kernel, [2, 4])
        kernel = np.array(keras.ops.convert_to_numpy(layer.cell.kernel))
        recurrent = np.zeros(layer.cell.recurrent_kernel.shape, "float32")
        recurrent += keras.ops.convert_to_numpy(layer.cell.recurrent_kernel)
        recurrent[2, 4] = 1.0
        layer.cell.recurrent_kernel.assign(recurrent)
        self.assertTrue(kernel.any())
        self.assertEqual(self.check(model).get_layer("r").units, 3)

    @parameterized.parameters((layers.LSTM, 2, 3), (layers.LSTM, 3, 5))
    def test_only_the_candidate_keeps_a_unit_at_zero(self, kind, gate, left):
        layer = kind(5, name="r")
        model = self.model(layer)
        zero_units(layer.cell, [1, 3], gate)
        self.assertEqual(self.check(model).get_layer("r").units, left)

    def test_an_activation_that_is_not_zero_at_zero(self):
        layer = layers.SimpleRNN(5, activation="sigmoid", name="r")
        model = self.model(layer)
        zero_units(layer.cell, [1, 3])
        self.assertEqual(self.check(model).get_layer("r").units, 5)

    def test_inputs(self):
        layer = layers.GRU(5, name="r")
        model = self.model(layer)
        edit(layer.cell.kernel, [0, 4])
        self.assertEqual(self.check(model).get_layer("a").units, 4)

    def test_both_directions_keep_as_many_units(self):
        layer = layers.Bidirectional(layers.LSTM(5), name="r")
        model = self.model(layer)
        zero_units(layer.forward_layer.cell, [1, 3])
        zero_units(layer.backward_layer.cell, [3, 4])
        small = self.check(model).get_layer("r")
        self.assertEqual(small.forward_layer.units, 4)
        self.assertEqual(small.backward_layer.units, 4)

    @parameterized.product(
        kind=tuple(GATES), unroll=(True, False), both=(True, False)
    )
    def test_a_state_is_carried(self, kind, unroll, both):
        """Units 1 and 3 are read by nobody, yet have a state."""
        x = inputs = keras.Input((5, 4), batch_size=3)
        layer = kind(5, stateful=True, unroll=unroll, name="r")
        inner = layers.Bidirectional(layer, name="r") if both else layer
        body = keras.Model(x, inner(x), name="body")
        model = keras.Model(inputs, layers.Dense(2, name="out")(body(inputs)))
        zoo.randomize(model)
        ends = [layer]
        if both:
            ends = [inner.forward_layer, inner.backward_layer]
        edit(model.get_layer("out").kernel, [1, 3, 6, 8][: 2 * len(ends)])
        for end in ends:
            edit(end.cell.recurrent_kernel, [1, 3])
        x = zoo.inputs_of(model)
        model(x)
        small = self.check_without_calls(model)
        twin = small.get_layer("body").get_layer("r")
        twins = [twin.forward_layer, twin.backward_layer] if both else [twin]
        for old, new in zip(ends, twins):
            for a, b in zip(old.states, new.states, strict=True):
                a, b = map(keras.ops.convert_to_numpy, (a, b))
                self.assertTrue((a[:, 1] != 0).any())
                np.testing.assert_array_equal(b, a[:, [0, 2, 4]])
        for _ in range(3):
            self.assertLess(max_error(model, small, x), 1e-5)
        for end in (*ends, *twins):
            end.reset_state()
        self.assertLess(max_error(model, small, x), 1e-5)

    def check_without_calls(self, model):
        small, report = strip(model, return_report=True)
        self.assertEqual(report.skipped, ())
        return small

    def test_a_state_keeps_a_unit_from_zero(self):
        """Nothing is written to units 1 and 3; unit 3 still holds a number."""
        x = inputs = keras.Input((5, 4), batch_size=3)
        layer = layers.LSTM(5, stateful=True, name="r")
        model = keras.Model(inputs, layers.Dense(2)(layer(x)))
        zoo.randomize(model)
        zero_units(layer.cell, [1, 3], gate=2)
        for state in layer.states:
            array = np.zeros((3, 5), "float32")
            array[:, 3] = 0.5
            state.assign(array)
        small = self.check_without_calls(model)
        self.assertEqual(small.get_layer("r").units, 4)
        x = zoo.inputs_of(model)
        for _ in range(2):
            self.assertLess(max_error(model, small, x), 1e-5)

    def test_a_state_of_a_layer_without_a_rule(self):
        inputs = keras.Input((3, 5, 5, 2), batch_size=2)
        layer = layers.ConvLSTM2D(2, 2, stateful=True, name="r")
        x = layers.Flatten()(layer(inputs))
        model = keras.Model(inputs, layers.Dense(2)(x))
        zoo.randomize(model)
        x = zoo.inputs_of(model, batch=2)
        model(x)
        with self.assertWarnsRegex(UserWarning, "nothing to remove"):
            small = strip(model)
        for _ in range(2):
            self.assertLess(max_error(model, small, x), 1e-5)

    @parameterized.parameters(
        (lambda: layers.RNN(layers.LSTMCell(3)), "no rule for RNN"),
        (
            lambda: layers.Bidirectional(layers.RNN(layers.GRUCell(3))),
            "no rule for RNN",
        ),
        (
            lambda: layers.TimeDistributed(layers.Lambda(abs)),
            "no rule for Lambda",
        ),
    )
    def test_left_alone(self, make, reason):
        x = inputs = keras.Input((5, 4), batch_size=3)
        x = make()(layers.Dense(6, name="a")(x))
        model = keras.Model(inputs, layers.Dense(2)(x))
        zoo.randomize(model)
        edit(model.get_layer("a").kernel, ..., [1])
        small, report = strip(model, return_report=True)
        self.assertIn(reason, report.skipped[0][1])
        self.assertEqual(small.count_params(), model.count_params())

    def test_a_model_inside_of_time_distributed(self):
        i = keras.Input((6,))
        y = layers.Dense(7, name="one")(i)
        body = keras.Model(i, layers.Dense(4, name="two")(y), name="body")
        model = self.model(layers.TimeDistributed(body))
        edit(body.get_layer("one").kernel, ..., [1, 2])
        small = self.check(model)
        self.assertEqual(small.layers[2].layer.get_layer("one").units, 5)


if __name__ == "__main__":
    absltest.main()
