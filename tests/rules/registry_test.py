"""The table of rules, and how users add their own."""

import importlib
from unittest import mock

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.analysis.trace import trace
from keras_prm.dependency import constants
from keras_prm.rebuild.strip import strip
from keras_prm.rules import base
from keras_prm.rules import merging
from keras_prm.rules import operators
from keras_prm.rules import registry
from tests.helpers import zoo


@keras.saving.register_keras_serializable("layer_rules_test")
class Scale(layers.Layer):
    """Multiplies every channel by a weight of its own."""

    def build(self, input_shape):
        self.factor = self.add_weight(shape=input_shape[-1:], name="factor")

    def call(self, inputs):
        return inputs * self.factor


def scale_rule(call):
    """A worked example: the channels pass, each with its factor."""
    x, out = call.inputs[0], call.outputs[0]
    axis, factor = len(x.shape) - 1, call.layer.factor
    call.graph.weight(factor, [call.graph.ids(x, axis)], "vector")
    call.graph.affine((x, axis), (out, axis), lambda read: (read(factor), 0.0))


def scaled():
    inputs = keras.Input((4,))
    x = layers.Dense(6, name="a")(inputs)
    x = Scale(name="scale")(x)
    model = keras.Model(inputs, layers.Dense(2, name="b")(x))
    zoo.randomize(model)
    factor = model.get_layer("scale").factor
    factor.assign([1.0, 0.0, 2.0, 3.0, 0.0, -1.0])
    return model


class RegisterTest(parameterized.TestCase):
    def tearDown(self):
        registry.RULES.pop(Scale, None)
        super().tearDown()

    def test_without_a_rule_the_layer_is_left_alone(self):
        model = scaled()
        small, report = strip(model, return_report=True)
        self.assertEqual(small.count_params(), model.count_params())
        self.assertEqual(report.skipped, (("scale", "no rule for Scale"),))

    def test_with_a_rule_its_dead_channels_go(self):
        registry.register_rule(Scale, base.Rule(scale_rule))
        model = scaled()
        small, report = strip(model, return_report=True)
        self.assertEqual(report.skipped, ())
        self.assertEqual(small.get_layer("a").units, 4)
        np.testing.assert_array_equal(
            small.get_layer("scale").factor, [1.0, 2.0, 3.0, -1.0]
        )
        x = zoo.inputs_of(model)
        np.testing.assert_allclose(small(x), model(x), atol=1e-5)

    def test_a_subclass_does_not_inherit_a_rule(self):
        class Mine(layers.Dense):
            def call(self, inputs, training=None):
                return super().call(inputs) + 1

        self.assertIsNone(registry.rule_for(Mine(3)))
        self.assertIsNotNone(registry.rule_for(layers.Dense(3)))

    def test_a_wrong_rule_does_not_go_unnoticed(self):
        """A config key that was forgotten shows in the shape."""
        table = registry.RULES
        original = table[layers.Dense]
        model = zoo.make("mlp")
        kernel = np.array(keras.ops.convert_to_numpy(model.layers[1].kernel))
        kernel[:, 0] = 0
        model.layers[1].kernel.assign(kernel)
        registry.register_rule(layers.Dense, base.Rule(original.trace))
        try:
            with self.assertRaisesRegex(RuntimeError, "rule for Dense: mend"):
                strip(model)
        finally:
            registry.register_rule(layers.Dense, original)


@keras.saving.register_keras_serializable("layer_rules_test")
class Gate(layers.Layer):
    def call(self, x, gate):
        return x * gate


class ArgumentsTest(parameterized.TestCase):
    def tearDown(self):
        registry.RULES.pop(Gate, None)
        super().tearDown()

    @parameterized.product(known=(True, False), by_name=(True, False))
    def test_only_those_that_a_rule_names(self, known, by_name):
        names = ("gate",) if known else ()
        registry.register_rule(
            Gate,
            base.Rule(merging.join(constants.multiply), arguments=names),
        )
        inputs = keras.Input((4,))
        x, y = (layers.Dense(6, name=n)(inputs) for n in "ab")
        x = Gate(name="g")(x, gate=y) if by_name else Gate(name="g")(x, y)
        model = keras.Model(inputs, layers.Dense(2)(x))
        zoo.randomize(model)
        for layer in map(model.get_layer, "ab"):
            kernel = np.array(keras.ops.convert_to_numpy(layer.kernel))
            kernel[:, 1] = 0
            layer.kernel.assign(kernel)
            layer.bias.assign([1, 0, 1, 1, 1, 1])
        small, report = strip(model, return_report=True)
        self.assertEqual(small.get_layer("a").units, 5 if known else 6)
        self.assertEqual(bool(report.skipped), not known)
        x = zoo.inputs_of(model)
        np.testing.assert_allclose(small(x), model(x), atol=1e-5)


class OpaqueTest(parameterized.TestCase):
    def model(self):
        inputs = keras.Input((8,))
        x = layers.Dense(8, name="a")(inputs)
        x = layers.Dense(6, name="d")(x)
        model = keras.Model(inputs, layers.Dense(3, name="b")(x))
        zoo.randomize(model)
        kernel = np.array(keras.ops.convert_to_numpy(model.layers[1].kernel))
        kernel[:, [1, 2]] = 0
        model.layers[1].kernel.assign(kernel)
        return model

    @parameterized.parameters(
        (lambda d: d.enable_lora(2), "LoRA is enabled"),
        (lambda d: d.quantize("int8"), "it is quantized"),
    )
    def test_lora_and_quantized_layers_pin(self, change, reason):
        model = self.model()
        self.assertEqual(strip(model).get_layer("a").units, 6)
        change(model.get_layer("d"))
        graph = trace(model)
        self.assertEqual(graph.skipped, [("d", reason)])
        small = strip(model)
        self.assertEqual(small.get_layer("a").units, 8)
        x = zoo.inputs_of(model)
        np.testing.assert_allclose(small(x), model(x), atol=1e-5)


class TableTest(parameterized.TestCase):
    def test_every_rule_has_a_model_in_the_zoo(self):
        kinds = set()
        with mock.patch.object(
            registry,
            "apply",
            lambda call, reason=None, apply=registry.apply: (
                kinds.add(type(call.layer).__name__),
                apply(call, reason),
            ),
        ):
            for name in zoo.MODELS:
                trace(zoo.make(name))
        table = [
            kind.__name__
            for kind in registry.RULES
            # Not what others registered in this process.
            if kind.__module__.partition(".")[0] in ("keras", "keras_prm")
        ]
        self.assertContainsSubset({*table, *operators.OPERATIONS}, kinds)

    def test_operations_are_keras_own(self):
        """A class that only has the name of one is not taken for it."""

        class Add(keras.Operation):
            pass

        self.assertIsNone(registry.rule_for(Add()))

    @parameterized.parameters(*registry.APPLICATIONS)
    def test_layers_of_applications_exist(self, name):
        """Fails loudly when Keras moves one."""
        module, _, kind = name.rpartition(".")
        self.assertTrue(hasattr(importlib.import_module(module), kind), name)


class RegisterRefusalTest(parameterized.TestCase):
    def test_not_a_layer_or_not_a_rule(self):
        rule = base.Rule(lambda call: None)
        for arguments in (("x", rule), (layers.Softmax, None)):
            with self.assertRaisesRegex(TypeError, "register_rule.MyLayer"):
                registry.register_rule(*arguments)
        self.assertNotIn(layers.Softmax, registry.RULES)


if __name__ == "__main__":
    absltest.main()
