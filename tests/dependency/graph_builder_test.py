"""What rules may write to a graph, and what is refused."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.analysis.trace import trace
from keras_prm.rules.base import Rule
from keras_prm.rules.registry import RULES


class Scale(layers.Layer):
    def build(self, input_shape):
        self.factor = self.add_weight(shape=(input_shape[-1],), name="factor")

    def call(self, inputs):
        return inputs * self.factor


class WeightTest(parameterized.TestCase):
    def trace(self, rule):
        RULES[Scale] = Rule(rule)
        self.addCleanup(RULES.pop, Scale)
        model = keras.Sequential([keras.Input((4,)), Scale(name="s")])
        return trace(model)

    @parameterized.named_parameters(
        (
            "role",
            "vectr",
            lambda ids: [ids],
            "Choose one of .*'vector'.*'vectr'",
        ),
        ("axes", "vector", lambda ids: [None, ids], r"Expected lengths \(4,\)"),
        ("length", "vector", lambda ids: [ids[:3]], r"Received: \(3,\)"),
    )
    def test_refused(self, role, of, message):
        def rule(call):
            ids = call.graph.ids(call.inputs[0], 1)
            call.graph.weight(call.layer.factor, of(ids), role)

        with self.assertRaisesRegex(ValueError, message):
            self.trace(rule)

    def test_an_axis_of_unknown_size(self):
        with self.assertRaisesRegex(ValueError, "axis=0 of a tensor"):
            self.trace(lambda call: call.graph.ids(call.inputs[0], 0))

    def test_former_names(self):
        """Rules that were written for the last version."""

        def rule(call):
            x, out = call.inputs[0], call.outputs[0]
            with self.assertWarnsRegex(DeprecationWarning, "`graph` now"):
                graph = call.trace
            for old, new in (
                ("mix", "contraction"),
                ("total", "reduce_sum"),
                ("flow", "positionwise"),
            ):
                with self.assertWarnsRegex(DeprecationWarning, f"`{new}` now"):
                    flow = getattr(graph, old)
            graph.weight(call.layer.factor, [graph.ids(x, 1)], "vector")
            every = np.arange(4)
            flow([(x, 1, every)], (out, 1, every), lambda x: x)

        graph = self.trace(rule)
        self.assertIn("s/factor", {w.key for w in graph.weights.values()})


if __name__ == "__main__":
    absltest.main()
