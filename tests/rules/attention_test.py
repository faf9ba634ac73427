"""Heads and dimensions of attention, which go exactly."""

import keras
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.rebuild.strip import strip
from tests.helpers import zoo
from tests.helpers.zeros import edit
from tests.helpers.zeros import max_error


def weight(layer, projection, name):
    (found,) = [
        v for v in layer.weights if v.path.endswith(f"{projection}/{name}")
    ]
    return found


def zero(layer, projection, *index):
    """Zeros `[..., heads, dims]` of a kernel and of its bias."""
    edit(weight(layer, projection, "kernel"), ..., *index)
    edit(weight(layer, projection, "bias"), *index)


class AttentionTest(parameterized.TestCase):
    def model(self, layer):
        x = inputs = keras.Input((5, 6))
        x = layers.Dense(6, name="a")(x)
        y = layer(x, x)
        model = keras.Model(inputs, layers.Dense(2, name="out")(y))
        zoo.randomize(model)
        return model

    def stripped(self, model):
        small = strip(model)
        x = zoo.inputs_of(model)
        self.assertLess(max_error(model, small, x), 1e-5)
        return small.get_layer("attention")

    def multi_head(self, **options):
        options = {"value_dim": 5, "name": "attention", **options}
        return layers.MultiHeadAttention(4, 3, **options)

    @parameterized.parameters("query", "key")
    def test_key_dimensions(self, projection):
        """Scores are divided by the root of their number: it is kept."""
        layer = self.multi_head()
        model = self.model(layer)
        zero(layer, projection, slice(None), [0, 2])
        small = self.stripped(model)
        self.assertEqual((small.key_dim, small.value_dim), (1, 5))
        self.assertEqual(small.num_heads, 4)

    def test_value_dimensions(self):
        layer = self.multi_head()
        model = self.model(layer)
        zero(layer, "value", slice(None), [1, 4])
        edit(weight(layer, "attention_output", "kernel"), slice(None), 2)
        small = self.stripped(model)
        self.assertEqual((small.key_dim, small.value_dim), (3, 2))

    def test_heads(self):
        """One gives nothing out, one is not read."""
        layer = self.multi_head()
        model = self.model(layer)
        zero(layer, "value", 1, slice(None))
        edit(weight(layer, "attention_output", "kernel"), 3)
        small = self.stripped(model)
        self.assertEqual(small.num_heads, 2)

    def test_a_head_whose_scores_are_level_still_averages(self):
        layer = self.multi_head()
        model = self.model(layer)
        zero(layer, "query", 1, slice(None))
        self.assertEqual(self.stripped(model).num_heads, 4)

    def test_heads_and_dimensions_that_need_each_other(self):
        """Head 0 has dimension 1 only, and dimension 1 head 0 only."""
        layer = self.multi_head()
        model = self.model(layer)
        kernel = weight(layer, "attention_output", "kernel")
        edit(kernel, 0, [0, 2, 3, 4])
        edit(kernel, [1, 2, 3], 1)
        small = self.stripped(model)
        self.assertEqual((small.num_heads, small.value_dim), (4, 5))

    @parameterized.parameters(None, 6, 7)
    def test_widths_in_and_out(self, output_shape):
        layer = self.multi_head(output_shape=output_shape)
        model = self.model(layer)
        edit(model.get_layer("a").kernel, ..., [1, 2])
        edit(model.get_layer("a").bias, [1, 2])
        edit(model.get_layer("out").kernel, [0])
        small = self.stripped(model)
        width = (output_shape or 6) - 1
        self.assertEqual(
            weight(small, "attention_output", "kernel").shape[-1], width
        )
        self.assertEqual(weight(small, "query", "kernel").shape[0], 4)

    def test_an_unpruned_config_stays(self):
        layer = self.multi_head()
        small = self.stripped(self.model(layer))
        self.assertIsNone(small.get_config()["output_shape"])

    def test_group_query(self):
        """A key/value head goes with its queries, a dimension from all."""
        layer = layers.GroupQueryAttention(4, 6, 3, name="attention")
        model = self.model(layer)
        zero(layer, "value", 1, slice(None))
        zero(layer, "query", slice(None), [2])
        zero(layer, "value", slice(None), [2])
        small = self.stripped(model)
        self.assertEqual(small.num_query_heads, 4)
        self.assertEqual(small.num_key_value_heads, 2)
        self.assertEqual(small.head_dim, 3)

    def test_gated_attention_is_left_alone(self):
        layer = layers.MultiHeadAttention(2, 3, use_gate=True, name="attention")
        model = self.model(layer)
        zero(layer, "value", 1, slice(None))
        _, report = strip(model, return_report=True)
        self.assertIn("gated", dict(report.skipped)["attention"])
        self.assertEqual(self.stripped(model).num_heads, 2)


if __name__ == "__main__":
    absltest.main()
