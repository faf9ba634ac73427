"""Reading a model's graph, its layers and their keys."""

import pathlib

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

import keras_prm
from keras_prm.utils import keras_graph
from keras_prm.utils import variable_keys
from tests.helpers import zoo


class FunctionalTest(parameterized.TestCase):
    @parameterized.parameters("lenet5", "residual", "in_and_out")
    def test_shares_layers_and_computes_the_same(self, name):
        model = zoo.make(name)
        model.compile("sgd", "mse")
        view = keras_graph.plain(model)
        self.assertIsNot(view, model)
        self.assertFalse(view.compiled)
        self.assertTrue(model.compiled)
        self.assertEqual(view.name, model.name)
        for old, new in zip(model.weights, view.weights, strict=True):
            self.assertIs(old, new)
        x = zoo.inputs_of(model)
        keras.tree.map_structure(
            np.testing.assert_array_equal, model(x), view(x)
        )

    def test_a_subclass_that_only_names_itself_is_functional(self):
        class Named(keras.Model):
            pass

        inputs = keras.Input((3,))
        model = Named(inputs, layers.Dense(2)(inputs))
        self.assertLen(keras_graph.functional(model).layers, 2)

    @parameterized.parameters(keras.Model, keras.Sequential)
    def test_a_call_of_its_own_raises(self, base):
        class Twice(base):
            def call(self, inputs, training=None, mask=None):
                return 2 * super().call(inputs)

        inputs = keras.Input((3,))
        dense = layers.Dense(2)
        arguments = [inputs, dense(inputs)]
        if base is keras.Sequential:
            arguments = [[inputs, dense]]
        with self.assertRaisesRegex(TypeError, r"keras.Model\(inputs, out"):
            keras_graph.functional(Twice(*arguments))

    @parameterized.parameters(True, False)
    def test_networks_inside_are_named(self, trains_them):
        def network(name):
            return keras.Sequential(
                [keras.Input((3,)), layers.Dense(3)], name=name
            )

        class Trainer(keras.Model):
            def __init__(self):
                super().__init__()
                self.encoder = self.alias = network("e")
                self.critics = [network("c"), layers.Dense(2)]
                self.heads = {"last": network("h")}

            def call(self, x):
                return self.heads["last"](self.encoder(x))

        if trains_them:
            Trainer.train_step = lambda self, data: {}
        model = Trainer()
        with self.assertRaisesRegex(TypeError, "can be seen.*: ") as caught:
            keras_graph.functional(model)
        text = str(caught.exception)
        # What trains others is no function of inputs to rewrite.
        self.assertEqual("as_functional" not in text, trains_them)
        self.assertRegex(text, "`model.(encoder|alias)`")
        self.assertIn("`model.critics[0]`", text)
        self.assertIn("`model.heads['last']`", text)
        self.assertEqual(text.count("`model."), 3)

    @parameterized.parameters(str, pathlib.Path)
    def test_the_path_of_a_model(self, kind):
        model = keras.Sequential([keras.Input((3,)), layers.Dense(3)])
        path = kind("x.keras")
        plan = keras_prm.SparsityPlan((), (), ())
        for call in (
            keras_prm.strip,
            keras_prm.explain,
            keras_prm.masks_of,
            keras_prm.release_masks,
            keras_prm.as_functional,
            lambda x: keras_prm.SparsityPlan.uniform(x, filters=0.5),
            lambda x: keras_prm.hard_prune(x, plan),
            lambda x: keras_prm.purify(x, lambda model: 1.0, 0.1),
            lambda x: keras_prm.verify(x, model),
            lambda x: keras_prm.verify(model, x),
            lambda x: keras_prm.export_litert(x, "x.tflite"),
        ):
            with self.assertRaisesRegex(TypeError, r"load_model\('x.keras'\)"):
                call(path)

    def test_a_litert_file(self):
        model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
        with self.assertRaisesRegex(TypeError, "not a LiteRT file"):
            keras_prm.verify("small.tflite", model)

    def test_other_things_raise(self):
        with self.assertRaisesRegex(TypeError, "put them into a functional"):
            keras_graph.functional(layers.Dense(2))
        with self.assertRaisesRegex(ValueError, r"model.build\(input_shape\)"):
            keras_graph.functional(keras.Sequential([layers.Dense(2)]))


class CallsTest(parameterized.TestCase):
    @parameterized.parameters(*zoo.MODELS)
    def test_each_comes_after_what_it_needs(self, name):
        view = keras_graph.functional(zoo.make(name))
        known = {id(x) for x in view.inputs}
        for call in keras_graph.nodes(view):
            self.assertContainsSubset({id(x) for x in call.inputs}, known)
            known.update(id(x) for x in call.outputs)
        self.assertContainsSubset({id(x) for x in view.outputs}, known)

    def test_a_shared_layer_is_called_twice_and_arguments_are_kept(self):
        inputs = keras.Input((4,))
        dense, norm = layers.Dense(4), layers.BatchNormalization()
        x = dense(norm(dense(inputs), training=True)) - 1.0
        found = keras_graph.nodes(keras.Model(inputs, x))
        self.assertEqual(
            [type(c.operation).__name__ for c in found],
            ["Dense", "BatchNormalization", "Dense", "Subtract"],
        )
        self.assertEqual(found[1].arguments.kwargs["training"], True)
        args, _ = found[3].arguments.fill_in({id(found[3].inputs[0]): 5})
        self.assertEqual(args, (5, 1.0))

    @parameterized.parameters(False, True)
    def test_a_nested_model_fed_by_name(self, by_dict):
        """A dict is sorted by its keys, a list is not."""
        b, a = keras.Input((3,), name="b"), keras.Input((2,), name="a2")
        structure = {"b": b, "a2": a} if by_dict else [b, a]
        body = keras.Model(structure, layers.Concatenate()([a, b]))
        u, v = keras.Input((2,), name="u"), keras.Input((3,), name="v")
        model = keras.Model([u, v], body({"b": v, "a2": u}))
        (call,) = keras_graph.nodes(model)
        fed = keras_graph.fed(call, keras_graph.functional(body))
        names = {id(u): "u", id(v): "v"}
        self.assertEqual(
            [names[id(x)] for x in fed], ["u", "v"] if by_dict else ["v", "u"]
        )


class KeysTest(parameterized.TestCase):
    def test_keys_name_the_place_in_the_hierarchy(self):
        keys = variable_keys.variables_by_key(zoo.make("nested"))
        self.assertEqual(
            [k for k in keys if k.endswith("kernel")],
            [
                "stem/kernel",
                "body/conv/kernel",
                "head/conv/kernel",
                "out/kernel",
            ],
        )
        paths = [
            path for path, _ in variable_keys.layer_paths(zoo.make("nested"))
        ]
        self.assertIn("body/bn", paths)

    @parameterized.parameters(*zoo.MODELS)
    def test_every_weight_has_one_key(self, name):
        model = zoo.make(name)
        found = variable_keys.variables_by_key(model)
        self.assertEqual(
            {id(v) for v in found.values()}, {id(v) for v in model.weights}
        )
        self.assertLen(found, len(model.weights))

    def test_layers_inside_layers(self):
        inputs = keras.Input((5, 3))
        x = layers.Bidirectional(layers.GRU(2), name="both")(inputs)
        keys = variable_keys.variables_by_key(keras.Model(inputs, x))
        self.assertLen(keys, 6)
        self.assertTrue(all(key.startswith("both/") for key in keys))

    def test_keys_survive_a_rebuild(self):
        """Unlike `variable.path`, which here changes."""
        model = zoo.make("nested")
        again = keras.models.clone_model(model)
        self.assertEqual(
            list(variable_keys.variables_by_key(model)),
            list(variable_keys.variables_by_key(again)),
        )


class FiniteTest(parameterized.TestCase):
    def test_names_every_bad_weight(self):
        model = zoo.make("mlp")
        arrays = variable_keys.finite_arrays(model)
        for variable in model.weights:
            np.testing.assert_array_equal(
                arrays[id(variable)], keras.ops.convert_to_numpy(variable)
            )
        model.get_layer("d1").bias.assign(np.full(10, -np.inf))
        value = np.zeros((10, 3))
        value[4, 1] = np.nan
        model.get_layer("out").kernel.assign(value)
        message = r"checkpoint.*in \['d1/bias', 'out/kernel'\]"
        with self.assertRaisesRegex(ValueError, message):
            variable_keys.finite_arrays(model)


class OtherKerasTest(parameterized.TestCase):
    @parameterized.parameters(
        keras_prm.explain,
        keras_prm.costs,
        keras_prm.strip,
        keras_prm.as_functional,
        keras_prm.masks_of,
        keras_prm.benchmark,
        lambda model: keras_prm.export_litert(model, "a.tflite"),
        lambda model: keras_prm.verify(model, model),
        lambda model: keras_prm.SparsityPlan.uniform(model, filters=0.5),
    )
    def test_a_model_of_keras_2(self, function):
        fields = {"__module__": "tf_keras.src.engine.functional"}
        model = type("Functional", (), fields)()
        with self.assertRaisesRegex(TypeError, "Keras 3.*set_weights"):
            function(model)


if __name__ == "__main__":
    absltest.main()
