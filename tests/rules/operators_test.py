"""The table of operators, and what is pinned among them."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers
from keras import ops

from keras_prm.analysis.trace import trace
from keras_prm.rules import operators
from keras_prm.rules import registry

EXAMPLES = {
    "Power": lambda x: ops.power(x, 2.0),
    "GetItem": lambda x: x[:, 1:],
    "Concatenate": lambda x: ops.concatenate([x, x], -1),
    "Split": lambda x: ops.split(x, 2, axis=-1)[0],
    "Transpose": ops.transpose,
    "Swapaxes": lambda x: ops.swapaxes(x, 1, 2),
    "Moveaxis": lambda x: ops.moveaxis(x, 1, 2),
    "ExpandDims": lambda x: ops.expand_dims(x, 1),
    "Squeeze": lambda x: ops.squeeze(x[:, :1], 1),
    "Reshape": lambda x: ops.reshape(x, (-1, 8)),
    "Pad": lambda x: ops.pad(x, [[0, 0], [1, 0], [0, 0]]),
    "Matmul": lambda x: ops.matmul(x, ops.swapaxes(x, 1, 2)),
    "Cast": lambda x: ops.cast(x, "float16"),
    "Clip": lambda x: ops.clip(x, 0.0, 1.0),
    **{
        name: lambda x, f=name.lower(): getattr(ops, f)(x, axis=1)
        for name in ("Mean", "Max", "Amax", "Min", "Amin", "Sum")
    },
    **{
        name: lambda x, f=name: getattr(ops, _snake(f))(x, 2.0)
        for name in "Add Subtract Multiply Maximum Minimum Divide TrueDivide "
        "Equal NotEqual Greater GreaterEqual Less LessEqual".split()
    },
}


def _snake(name):
    """`HardSilu` is `ops.hard_silu`."""
    parts = "".join("_" + c if c.isupper() else c for c in name)
    return parts.lower().lstrip("_")


class TableTest(parameterized.TestCase):
    @parameterized.parameters(*operators.OPERATIONS)
    def test_operations_exist(self, name):
        """Fails loudly when Keras renames an operation."""
        x = keras.Input((2, 4))
        function = EXAMPLES.get(name) or getattr(ops, _snake(name))
        operation = function(x)._keras_history.operation
        self.assertEqual(type(operation).__name__, name)
        self.assertIsNotNone(registry.rule_for(operation))


class PinTest(parameterized.TestCase):
    @parameterized.parameters(
        (lambda x: x[1], "picks from the batch"),
        (lambda x: ops.sum(x), "reduces more than"),
        (lambda x: ops.max(x, axis=1, initial=0.0), "reduces more than"),
        (lambda x: ops.transpose(x, (1, 0, 2)), "moves the batch"),
        (lambda x: ops.split(x, 1, axis=0)[0], "splits the batch"),
        (lambda x: ops.expand_dims(x, 0), "changes the batch"),
        (lambda x: ops.maximum(x, np.ones((5, 5, 4))), "array of more axes"),
        (lambda x: ops.power(x, x), "with an array"),
        (lambda x: ops.concatenate([x, x], axis=0), "along the batch"),
        (lambda x: layers.Add()([x, np.ones((1, 5, 4))]), "with an array"),
        (lambda x: ops.matmul(x, np.ones((4, 3))), "batches of matrices"),
        (lambda x: layers.Dot(2, normalize=True)([x, x]), "it normalizes"),
    )
    def test_with_a_reason(self, function, reason):
        x = inputs = keras.Input((5, 3))
        x = layers.Dense(4, name="a")(x)
        graph = trace(keras.Model(inputs, function(x)))
        kernel = next(iter(graph.weights.values()))
        classes = graph.classes[kernel.out_ids]
        self.assertIn(reason, graph.skipped[0][1])
        for number in classes:
            self.assertIn(int(number), graph.pinned)


if __name__ == "__main__":
    absltest.main()
