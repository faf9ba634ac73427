"""A model that trains in its own way stays one of its class."""

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

from keras_prm.inlining.as_functional import as_functional
from keras_prm.plans.plan import SparsityPlan
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.rebuild import model_classes
from keras_prm.rebuild.strip import strip
from keras_prm.training.carry_optimizer import carry_optimizer
from keras_prm.utils import variable_keys
from tests.helpers import zeros
from tests.helpers import zoo
from tests.helpers.lowering_models import Forced
from tests.helpers.zeros import max_error

register = keras.saving.register_keras_serializable("model_classes_test")


class Steps:
    """Counts the training steps that it takes part in."""

    steps = 0

    def train_step(self, *args):
        self.steps += 1
        return super().train_step(*args)


@keras.saving.register_keras_serializable("model_classes_test")
class Tempered(keras.Model):
    """Has a weight that no layer holds."""

    def __init__(self, inputs, outputs, name=None):
        super().__init__(inputs, outputs, name=name)
        self.temperature = self.add_weight(
            shape=(), initializer="ones", name="temperature"
        )

    def train_step(self, data):
        return super().train_step(data)


@register
class Mine(Steps, keras.Model):
    pass


@register
class Chain(Steps, keras.Sequential):
    pass


@register
class Warm(Steps, keras.Model):
    """Takes an argument that only its config knows."""

    def __init__(self, inputs, outputs, temperature, name=None):
        super().__init__(inputs, outputs, name=name)
        self._t = temperature

    def get_config(self):
        return super().get_config() | {"temperature": self._t}


@register
class Warmer(Steps, keras.Model):
    """Takes an argument that is an attribute, and another by default."""

    def __init__(self, temperature, size=3, **kwargs):
        super().__init__(**kwargs)
        self.temperature = temperature


@register
class Own(Steps, keras.Model):
    """Makes its inputs and outputs itself."""

    def __init__(self, units=8, **kwargs):
        x = inputs = keras.Input((4,))
        x = layers.Dense(1)(layers.Dense(units)(x))
        super().__init__(inputs, x, **kwargs)


@register
class Critic(Steps, keras.Model):
    """Needs a layer besides."""

    def __init__(self, inputs, outputs, critic, **kwargs):
        super().__init__(inputs, outputs, **kwargs)
        self.critic = critic


@register
class Renamed(keras.Model):
    """Overrides nothing of how it trains."""

    def __init__(self, units=8):
        x = inputs = keras.Input((4,))
        super().__init__(inputs, layers.Dense(1)(layers.Dense(units)(x)))

    def sample(self):
        return None


@register
class Nameless(Steps, keras.Model):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)


@register
class NamelessChain(Steps, keras.Sequential):
    def __init__(self, layers):
        super().__init__(layers)


@register
class Tools(Steps, keras.Model):
    """Takes what a model changes when it trains."""

    def __init__(self, inputs, outputs, tool=None, name=None):
        super().__init__(inputs, outputs, name=name)
        self.tool = tool


class Average:
    """Holds a variable, and has no config."""

    def __init__(self):
        self.value = keras.Variable(0.0)


class Named:
    """Holds a variable and an optimizer, and says all in its config."""

    def __init__(self, size=1.0):
        self.size = size
        self.inside = {"a": [keras.optimizers.SGD()]}

    def get_config(self):
        return {"size": self.size}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class Forgets(Named):
    """Says less than it is made of."""

    def get_config(self):
        return {}


class Hands(Named):
    """Hands on what it holds."""

    def get_config(self):
        return {"size": self.inside}


class Both(keras.metrics.Metric):
    """Holds another one, and its constructor takes no dtype."""

    def __init__(self, name="both"):
        super().__init__(name=name)
        self.inner = keras.metrics.Precision()

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.inner.update_state(y_true, y_pred)

    def result(self):
        return self.inner.result()


class Scaled(keras.optimizers.Adam):
    """Has a setting that its config lacks."""

    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale


@register
class Once(Steps, keras.Model):
    """Is of no graph with what a lowering puts in."""

    def __init__(self, inputs, outputs, name=None):
        super().__init__(inputs, outputs, name=name)
        if any("columns" in layer.name for layer in self.layers):
            raise ValueError("only once")


class Hidden(Steps, keras.Model):
    """Has a `call` of its own."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x)


def graph():
    x = inputs = keras.Input((4,), name="x")
    x = layers.Dense(8, activation="relu")(x)
    return inputs, layers.Dense(1)(x)


def graph_of_layers():
    return [keras.Input((4,)), layers.Dense(8, activation="relu")]


def named_graph():
    inputs, outputs = graph()
    return {"inputs": inputs, "outputs": outputs}


def chain(kind=Chain):
    parts = [keras.Input((4,), name="x"), layers.Dense(8), layers.Dense(1)]
    return kind(parts, name="chain")


def pruned(model):
    zoo.randomize(model)
    model.compile("adam", "mse")
    hard_prune(model, SparsityPlan.uniform(model, filters=0.5))
    return model


GATHER = Forced("channels by gather")
DATA = np.ones((8, 4), "float32"), np.ones((8, 1), "float32")
KEPT = {
    "as it is": lambda: Mine(*graph(), name="net"),
    "sequential": chain,
    "config": lambda: Warm(*graph(), 2.0),
    "attribute": lambda: Warmer(
        2.0, **dict(zip(("inputs", "outputs"), graph()))
    ),
}


class ModelClassesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        keras.utils.set_random_seed(0)

    @parameterized.parameters(*KEPT)
    def test_is_kept(self, name):
        model = pruned(KEPT[name]())
        small, report = strip(model, return_report=True)
        for found in (small, as_functional(model)):
            self.assertIs(type(found), type(model))
            self.assertEqual(found.name, model.name)
            self.assertEqual(found.inputs[0].name, model.inputs[0].name)
            self.assertLess(max_error(model, found, DATA[0]), 1e-6)
            self.assertFalse(found.compiled)
        self.assertLess(small.count_params(), model.count_params())
        self.assertIs(carry_optimizer(model, small, report), small)
        small.run_eagerly = True
        small.fit(*DATA, epochs=3, verbose=0)
        self.assertEqual((small.steps, model.steps), (3, 0))

    @parameterized.parameters("as it is", "sequential")
    def test_is_kept_by_a_lowering(self, name):
        model = pruned(KEPT[name]())
        zeros.edit(model.layers[-2].kernel, slice(0, 2))
        small, report = strip(model, GATHER, return_report=True)
        self.assertEqual([r.name for r in report.lowered], [GATHER.name])
        self.assertIs(type(small), type(model))
        self.assertLess(max_error(model, small, DATA[0]), 1e-6)

    def test_what_a_lowering_loses_is_said(self):
        model = pruned(Once(*graph()))
        zeros.edit(model.layers[-2].kernel, slice(0, 2))
        with self.assertWarnsRegex(
            UserWarning, "What strip returns .* no Once.* train_step.*only once"
        ):
            small = strip(model, GATHER)
        self.assertLess(max_error(model, small, DATA[0]), 1e-6)

    def test_arguments_are_handed_on(self):
        self.assertEqual(strip(pruned(KEPT["config"]()))._t, 2.0)
        self.assertEqual(strip(pruned(KEPT["attribute"]())).temperature, 2.0)

    def test_weights_of_the_model_s_own(self):
        inputs = keras.Input((4,))
        x = layers.Dense(2)(layers.Dense(8, activation="relu")(inputs))
        model = Tempered(inputs, x)
        model.temperature.assign(7.0)
        small = strip(model)
        self.assertIsInstance(small, Tempered)
        self.assertEqual(
            float(keras.ops.convert_to_numpy(small.temperature)), 7.0
        )

    @parameterized.parameters(True, False)
    def test_training_goes_on_with_weights_of_the_model_s_own(self, outermost):
        model = Tempered(*graph(), name="net")
        model.temperature.assign(7.0)
        if not outermost:
            inputs = keras.Input((4,))
            model = keras.Model(inputs, layers.Dense(1)(model(inputs)))
        model = pruned(model)
        # Whatever its loss: the model's own has no gradient of it.
        model.optimizer.build(model.trainable_variables)
        for variable in model.optimizer.variables:
            if "temperature" in variable.name:
                variable.assign(0.25)
        small, report = strip(model, return_report=True)
        carry_optimizer(model, small, report)
        slots = [
            float(v)
            for v in small.optimizer.variables
            if "temperature" in v.name
        ]
        self.assertEqual(slots, [0.25, 0.25])
        keys = variable_keys.variables_by_key(model)
        self.assertIn("temperature" if outermost else "net/temperature", keys)
        self.assertLen(keys, len(model.weights))

    def test_as_functional_with_weights_of_the_model_s_own(self):
        model = Tempered(*graph())
        model.temperature.assign(7.0)
        found = as_functional(model)
        self.assertIsInstance(found, Tempered)
        self.assertEqual(
            float(keras.ops.convert_to_numpy(found.temperature)), 7.0
        )
        self.assertLess(max_error(model, found, DATA[0]), 1e-6)

    def test_inside_of_another(self):
        inputs = keras.Input((4,))
        inner = Mine(*graph(), name="inner")
        x = chain()(layers.Dense(4)(inner(inputs)))
        small = strip(pruned(Mine(inputs, x)))
        self.assertIsInstance(small, Mine)
        self.assertIsInstance(small.get_layer("inner"), Mine)
        self.assertIsInstance(small.get_layer("chain"), Chain)

    @parameterized.parameters(
        lambda: Nameless(*graph()), lambda: NamelessChain(graph_of_layers())
    )
    def test_keeps_a_name_that_no_constructor_takes(self, make):
        inputs, inner = keras.Input((4,)), make()
        model = pruned(keras.Model(inputs, layers.Dense(1)(inner(inputs))))
        small, report = strip(model, return_report=True)
        self.assertIs(type(small.layers[1]), type(inner))
        self.assertEqual(small.layers[1].name, inner.name)
        self.assertIs(carry_optimizer(model, small, report), small)
        again = strip(inner)
        self.assertEqual(again.name, inner.name)
        self.assertEqual(strip(again).name, inner.name)

    def test_shares_no_object_that_changes(self):
        def loss(y, z):
            return keras.ops.mean((y - z) ** 2)

        optimizer = keras.optimizers.Adam(0.25)
        tool = [{"optimizer": optimizer}, np.ones(2), loss]
        model = pruned(Tools(*graph(), tool))
        optimizer.build(model.trainable_variables)
        small = strip(model)
        self.assertIsInstance(small, Tools)
        self.assertIsNot(small.tool, model.tool)
        found = small.tool[0]["optimizer"]
        self.assertIsNot(found, optimizer)
        self.assertEqual(float(found.learning_rate), 0.25)
        found.build(small.trainable_variables)
        self.assertIsNot(small.tool[1], model.tool[1])
        self.assertIs(small.tool[2], loss)

    def test_shares_no_object_that_says_all(self):
        model = pruned(Tools(*graph(), Named(3.0)))
        small = strip(model)
        self.assertEqual(small.tool.size, 3.0)
        self.assertIsNot(small.tool.inside["a"][0], model.tool.inside["a"][0])

    @parameterized.parameters(
        (Average, "no `get_config` of Average says all"),
        (lambda: Forgets(2.0), "no `get_config` of Forgets says all"),
        (Hands, "no `get_config` of Hands says all"),
        (Both, "no `get_config` of Both says all"),
        (lambda: Scaled(5.0), "no `get_config` of Scaled says all"),
        (lambda: keras.Variable(3.0), "'tool' holds variables"),
        (
            lambda: keras.metrics.MeanMetricWrapper(lambda y, z: y - z),
            "no `get_config` of MeanMetricWrapper says all",
        ),
    )
    def test_what_would_be_shared_is_lost(self, make, reason):
        model = Tools(*graph(), make())
        with self.assertWarnsRegex(
            UserWarning,
            f"no Tools.*that hold variables.* a `get_config` .*{reason}",
        ):
            found = as_functional(model)
        self.assertNotIsInstance(found, Tools)

    @parameterized.parameters(
        (Own, r"multiple values|another model"),
        (lambda: Critic(*graph(), layers.Dense(1)), "needs the layer 'critic'"),
    )
    def test_what_is_lost_is_said(self, make, reason):
        model = pruned(make())
        remedy = (
            f"keras.Model and no {type(model).__name__}. Lost is .* train_step"
            rf".*let the constructor take `\(inputs, outputs, name=None\)`"
            f".*{reason}"
        )
        with self.assertWarnsRegex(UserWarning, remedy):
            small = strip(model)
        self.assertLess(max_error(model, small, DATA[0]), 1e-6)
        with self.assertWarnsRegex(UserWarning, remedy):
            as_functional(model)

    def test_a_call_cannot_be_kept(self):
        model = Hidden()
        model(DATA[0])
        with self.assertWarnsRegex(
            UserWarning, r"(?s)train_step.*a subclass of keras.Model without"
        ):
            as_functional(model)

    def test_nothing_is_said_where_training_is_the_same(self):
        small = strip(pruned(Renamed()))
        self.assertNotIsInstance(small, Renamed)

    def test_a_sequential_one_is_told_what_to_take(self):
        class Fixed(Steps, keras.Sequential):
            def __init__(self):
                super().__init__([keras.Input((4,)), layers.Dense(1)])

        model = Fixed()
        with self.assertWarnsRegex(
            UserWarning, r"constructor take `\(layers, name=None\)`"
        ):
            as_functional(model)

    def test_overridden(self):
        self.assertEqual(
            model_classes.overridden(Mine(*graph())), ["train_step"]
        )
        self.assertEqual(model_classes.overridden(keras.Model(*graph())), [])
        self.assertEqual(model_classes.overridden(Renamed()), [])

    def test_plain_sequential_models(self):
        model = chain(keras.Sequential)
        self.assertEqual(
            type(as_functional(model)), type(keras.Model(*graph()))
        )
        self.assertLess(max_error(model, as_functional(model), DATA[0]), 1e-6)


if __name__ == "__main__":
    absltest.main()
