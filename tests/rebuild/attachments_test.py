"""What a layer's config attaches to weights and outputs fits the smaller."""

import json
import os
import tempfile
import warnings
import zipfile

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers
from keras import ops

from keras_prm.inlining.as_functional import as_functional
from keras_prm.plans.plan import SparsityPlan
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.rebuild import config_arrays
from keras_prm.rebuild.strip import strip
from tests.helpers import zoo
from tests.helpers.zeros import max_error

Constant = keras.initializers.Constant
register = keras.saving.register_keras_serializable("attachments_test")


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@register
class Pretrained(keras.initializers.Initializer):
    """Starts at a matrix, which its config writes out as lists."""

    def __init__(self, matrix):
        self.matrix = np.asarray(matrix, "float32")

    def __call__(self, shape, dtype=None):
        return ops.convert_to_tensor(self.matrix, dtype)

    def get_config(self):
        return {"matrix": self.matrix.tolist()}


@register
class Weighted(keras.regularizers.Regularizer):
    """Has a list of numbers that is made for no width."""

    def __init__(self, weights):
        self.weights = weights

    def __call__(self, x):
        return sum(self.weights) * ops.sum(ops.square(x))

    def get_config(self):
        return {"weights": self.weights}


@register
class Eye(keras.initializers.Initializer):
    """Makes one shape, whichever it is asked for."""

    def __init__(self, k):
        self.k = k

    def __call__(self, shape, dtype=None):
        return ops.eye(self.k, dtype=dtype)

    def get_config(self):
        return {"k": self.k}


@register
class Orthogonal(keras.regularizers.Regularizer):
    """Reads outputs as square matrices."""

    def __init__(self, k):
        self.k = k

    def __call__(self, x):
        x = ops.reshape(x, (-1, self.k, self.k))
        gram = ops.matmul(x, ops.transpose(x, (0, 2, 1)))
        return ops.sum(ops.square(gram - ops.eye(self.k)))

    def get_config(self):
        return {"k": self.k}


@register
class Towards(keras.regularizers.Regularizer):
    """Pulls towards an array, be it of weights or of outputs."""

    def __init__(self, target):
        self.target = np.asarray(target, "float32")

    def __call__(self, x):
        return ops.sum(ops.square(x - ops.convert_to_tensor(self.target)))

    def get_config(self):
        return {"target": self.target.tolist()}


@register
class Balanced(keras.regularizers.Regularizer):
    """Is made for a number of units, and divides by it."""

    def __init__(self, units, axis=-1):
        self.units = units
        self.axis = axis

    def __call__(self, x):
        return ops.sum(ops.square(x)) / self.units

    def get_config(self):
        return {"units": self.units, "axis": self.axis}


@register
class Eyelike(keras.regularizers.Regularizer):
    """Takes vectors of one length alone."""

    def __init__(self, k):
        self.k = k

    def __call__(self, x):
        return ops.sum(ops.square(ops.matmul(ops.eye(self.k), x)))

    def get_config(self):
        return {"k": self.k}


@register
class Ordered(keras.regularizers.Regularizer):
    """Goes by the order of its channels, and by its own."""

    def __init__(self, steps):
        self.steps = steps

    def __call__(self, x):
        ranks = ops.arange(x.shape[-1], dtype=x.dtype)
        return ops.sum(ranks * ops.abs(x)) * self.steps[0]

    def get_config(self):
        return {"steps": self.steps}


@register
class Mixture(keras.initializers.Initializer):
    """Makes any shape of a list that is no weight."""

    def __init__(self, values):
        self.values = values

    def __call__(self, shape, dtype=None):
        return ops.full(shape, sum(self.values), dtype)

    def get_config(self):
        return {"values": self.values}


@register
class Below(keras.constraints.Constraint):
    """Has a bound for each filter."""

    def __init__(self, bounds):
        self.bounds = bounds

    def __call__(self, w):
        return ops.minimum(w, ops.convert_to_tensor(self.bounds))

    def get_config(self):
        value = keras.saving.serialize_keras_object(self.bounds)
        return {"bounds": value}

    @classmethod
    def from_config(cls, config):
        bounds = keras.saving.deserialize_keras_object(config["bounds"])
        return cls(np.asarray(bounds, "float32"))


@register
class Recorded(layers.Layer):
    """Keras records what it is given; it has no `get_config`."""

    def __init__(self, units, kernel_initializer="he_normal", **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, shape):
        self.kernel = self.add_weight(
            shape=(shape[-1], self.units), initializer=self.kernel_initializer
        )

    def call(self, x):
        return ops.matmul(x, self.kernel)


def chain(*parts, shape=(8,)):
    x = inputs = keras.Input(shape)
    for part in parts:
        x = part(x)
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


def attend(**options):
    inputs = keras.Input((5, 4))
    mha = layers.MultiHeadAttention(4, 4, **options)
    return keras.Model(inputs, layers.Dense(2)(mha(inputs, inputs)))


def pruned(model, fraction=0.5):
    zoo.randomize(model)
    hard_prune(model, SparsityPlan.uniform(model, filters=fraction))
    return model


def config_of_file(path):
    with zipfile.ZipFile(path) as file:
        return json.loads(file.read("config.json"))


# Initializers that hold arrays, in each kind of layer that takes some.
HOLDERS = {
    "dense": lambda: chain(
        layers.Dense(
            16,
            kernel_initializer=Constant(numbers(8, 16)),
            bias_initializer=Constant(numbers(16)),
        )
    ),
    "conv": lambda: chain(
        layers.Conv2D(6, 3, kernel_initializer=Constant(numbers(3, 3, 3, 6))),
        layers.DepthwiseConv2D(
            2, depthwise_initializer=Constant(numbers(2, 2, 6, 1))
        ),
        layers.SeparableConv2D(
            4, 2, pointwise_initializer=Constant(numbers(1, 1, 6, 4))
        ),
        layers.Flatten(),
        shape=(6, 6, 3),
    ),
    "embedding": lambda: keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(
                20, 16, embeddings_initializer=Constant(numbers(20, 16))
            ),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2),
        ]
    ),
    "normalized": lambda: chain(
        layers.Dense(16),
        layers.BatchNormalization(
            beta_initializer=Constant(numbers(16)),
            moving_mean_initializer=Constant(numbers(16)),
        ),
        layers.PReLU(alpha_initializer=Constant(numbers(16))),
    ),
    "recurrent": lambda: chain(
        layers.GRU(
            8,
            recurrent_initializer=Constant(numbers(8, 24)),
            return_sequences=True,
        ),
        layers.Bidirectional(
            layers.LSTM(8, kernel_initializer=Constant(numbers(8, 32)))
        ),
        shape=(5, 8),
    ),
    "wrapped": lambda: chain(
        layers.TimeDistributed(
            layers.Dense(16, kernel_initializer=Constant(numbers(8, 16)))
        ),
        shape=(5, 8),
    ),
    "attention": lambda: attend(
        kernel_initializer=Constant(numbers(4)),
    ),
    "of one's own": lambda: chain(
        layers.Dense(16, kernel_initializer=Pretrained(numbers(8, 16)))
    ),
    "of one shape": lambda: chain(layers.Dense(8, kernel_initializer=Eye(8))),
    "a function": lambda: chain(
        layers.Dense(8, kernel_initializer=lambda shape, dtype: ops.ones(shape))
    ),
    "a list": lambda: chain(
        layers.Dense(4, bias_initializer=Constant([1, 2, 3, 4]))
    ),
    "inside a cell": lambda: chain(
        layers.Dense(8),
        layers.Dense(6),
        layers.RNN(
            layers.GRUCell(4, recurrent_initializer=Constant(numbers(4, 12)))
        ),
        shape=(5, 8),
    ),
}


class InitializersTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        keras.utils.set_random_seed(0)

    @parameterized.parameters(*HOLDERS)
    def test_what_strip_returns_is_a_whole_model(self, name):
        model = pruned(HOLDERS[name]())
        x = zoo.inputs_of(model)
        small, report = strip(model, return_report=True)
        self.assertLess(small.count_params(), model.count_params())
        self.assertLess(max_error(model, small, x), 1e-5)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "small.keras")
            small.save(path)
            text = json.dumps(config_of_file(path))
            loaded = keras.models.load_model(path)
        for word in ("__numpy__", "Pretrained", "Eye", "__lambda__"):
            self.assertNotIn(word, text)
        self.assertEqual(max_error(small, loaded, x), 0.0)
        keras.models.clone_model(small)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nothing to remove
            self.assertLess(max_error(small, strip(small), x), 1e-6)
        if name != "inside a cell":
            self.assertIn("the weights are there", str(report))

    def test_the_default_takes_the_place(self):
        model = pruned(HOLDERS["dense"]())
        dense = strip(model).layers[1]
        self.assertIsInstance(
            dense.kernel_initializer, keras.initializers.GlorotUniform
        )
        self.assertIsInstance(dense.bias_initializer, keras.initializers.Zeros)

    def test_a_layer_that_stays_as_it_is(self):
        model = HOLDERS["dense"]()
        zoo.randomize(model)
        for small in (self.stripped(model), as_functional(model)):
            self.assertNotIn("__numpy__", json.dumps(small.get_config()))
            self.assertEqual(max_error(model, small, zoo.inputs_of(model)), 0)

    def stripped(self, model):
        with self.assertWarnsRegex(UserWarning, "nothing to remove"):
            return strip(model)

    @parameterized.parameters(
        Constant(0.25), keras.initializers.HeNormal(seed=3)
    )
    def test_others_stay(self, initializer):
        model = chain(layers.Dense(16, kernel_initializer=initializer))
        small, report = strip(pruned(model), return_report=True)
        self.assertEqual(
            small.layers[1].get_config()["kernel_initializer"],
            model.layers[1].get_config()["kernel_initializer"],
        )
        self.assertEqual(report.changed, ())

    @parameterized.parameters([[0.5, 0.25]], [[0.5] * 16], [[*range(16)]])
    def test_a_list_that_is_no_weight_stays(self, values):
        model = chain(
            layers.Dense(16, kernel_initializer=Mixture(values)),
            layers.Dense(16, bias_initializer=Mixture(values)),
        )
        small, report = strip(pruned(model), return_report=True)
        self.assertEqual(report.changed, ())
        kept = small.layers[1].kernel_initializer, small.layers[2]
        self.assertEqual(kept[0].get_config(), {"values": values})
        self.assertEqual(kept[1].bias_initializer.values, values)

    def test_a_layer_whose_arguments_keras_records(self):
        model = chain(
            layers.Dense(8), layers.Dense(6), Recorded(4, "ones", name="r")
        )
        small = strip(pruned(model))
        config = small.get_layer("r").get_config()
        self.assertEqual(config["kernel_initializer"], "ones")
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "small.keras")
            small.save(path)
            loaded = keras.models.load_model(path)
        self.assertEqual(max_error(small, loaded, zoo.inputs_of(model)), 0.0)


class RegularizersTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        keras.utils.set_random_seed(0)

    def dense(self, units=16, **options):
        model = chain(layers.Dense(units, name="a", **options))
        zoo.randomize(model)
        kernel = np.array(ops.convert_to_numpy(model.layers[1].kernel))
        kernel[:, 1::2] = 0
        model.layers[1].kernel.assign(kernel)
        bias = np.array(ops.convert_to_numpy(model.layers[1].bias))
        bias[1::2] = 0
        model.layers[1].bias.assign(bias)
        return model

    def fit(self, small):
        small.compile("sgd", "mse")
        small.fit(np.zeros((3, 8)), np.zeros((3, 2)), verbose=0)

    @parameterized.parameters("activity", "kernel")
    def test_made_for_another_width(self, kind):
        """Two samples of 8 look like one of 16 to what reshapes."""
        name = f"{kind}_regularizer"
        k = 4 if kind == "activity" else 8
        model = self.dense(16, **{name: Orthogonal(k)})
        if kind == "kernel":
            model = self.dense(8, **{name: Orthogonal(8)})
        with self.assertWarnsRegex(
            UserWarning,
            f"(?s)assumed: a: {name}: Orthogonal.*dropped.*set it on the w",
        ):
            small, report = strip(model, return_report=True)
        self.assertIsNone(getattr(small.get_layer("a"), name))
        self.assertEqual([row[:2] for row in report.changed], [("a", name)])
        self.assertIn(
            f"changed: a: {name}: Orthogonal was dropped", str(report)
        )
        self.fit(small)

    @parameterized.parameters(
        ("kernel_regularizer", (8, 16)),
        ("kernel_regularizer", (16,)),
        ("kernel_regularizer", (1, 16)),
        ("bias_regularizer", (16,)),
        ("activity_regularizer", (16,)),
    )
    def test_arrays_are_cut_as_the_weights_are(self, name, shape):
        target = numbers(*shape)
        model = self.dense(16, **{name: Towards(target)})
        small, report = strip(model, return_report=True)
        found = getattr(small.get_layer("a"), name)
        np.testing.assert_array_equal(found.target, target[..., ::2])
        self.assertEqual(report.changed, (("a", name, "Towards was cut"),))
        self.fit(small)

    def test_an_array_of_either_axis_is_dropped(self):
        model = self.dense(8, kernel_regularizer=Towards(numbers(8)))
        with self.assertWarnsRegex(UserWarning, "Towards was dropped"):
            small = strip(model)
        self.assertIsNone(small.get_layer("a").kernel_regularizer)

    def test_a_bound_per_filter(self):
        bounds = numbers(16)
        model = self.dense(16, kernel_constraint=Below(bounds))
        small = strip(model)
        kernel = small.get_layer("a").kernel
        np.testing.assert_array_equal(kernel.constraint.bounds, bounds[::2])
        self.assertIs(small.get_layer("a").kernel_constraint, kernel.constraint)
        self.fit(small)

    def test_a_number_that_is_the_old_width_and_works_stays(self):
        regularizer = Balanced(16, axis=16)
        model = self.dense(16, activity_regularizer=regularizer)
        with self.assertWarnsRegex(
            UserWarning, "Balanced stays, with 'units' = 16 in it, taken for no"
        ):
            small = strip(model)
        found = small.get_layer("a").activity_regularizer
        self.assertEqual((found.units, found.axis), (16, 16))

    def test_a_number_that_is_the_old_width_and_fails_is_made_anew(self):
        model = self.dense(16, bias_regularizer=Eyelike(16))
        with self.assertWarnsRegex(
            UserWarning, "a: bias_regularizer: .* anew, 'k' = 16 taken for a"
        ):
            small = strip(model)
        self.assertEqual(small.get_layer("a").bias_regularizer.k, 8)
        self.fit(small)

    @parameterized.parameters(
        *[
            (kind, numbers)
            for kind in ("kernel", "bias", "activity")
            for numbers in ([0.1] * 16, [0.5 * n for n in range(16)], [2] * 16)
        ]
    )
    def test_a_list_that_is_not_per_channel_stays(self, kind, numbers):
        """It is as long as there are channels by chance, and works."""
        name = f"{kind}_regularizer"
        model = self.dense(16, **{name: Weighted(numbers)})
        small, report = strip(model, return_report=True)
        kept = getattr(small.get_layer("a"), name)
        self.assertEqual(kept.get_config(), {"weights": numbers})
        self.assertEqual(report.changed, ())
        self.fit(small)

    def test_a_list_on_a_square_kernel_that_is_not_per_channel(self):
        model = self.dense(8, kernel_regularizer=Weighted([0.25] * 8))
        small, report = strip(model, return_report=True)
        self.assertLen(small.get_layer("a").kernel_regularizer.weights, 8)
        self.assertEqual(report.changed, ())

    def test_equal_bounds_are_one_per_filter_too(self):
        model = self.dense(16, kernel_constraint=Below([2.0] * 16))
        small, report = strip(model, return_report=True)
        self.assertLen(small.get_layer("a").kernel_constraint.bounds, 8)
        self.assertEqual(
            report.changed, (("a", "kernel_constraint", "Below was cut"),)
        )

    def test_a_list_of_which_it_is_not_clear_is_cut_with_a_warning(self):
        model = self.dense(16, kernel_regularizer=Ordered([0.5] * 16))
        with self.assertWarnsRegex(
            UserWarning,
            "a: kernel_regularizer: Ordered was cut, 'steps' taken for one "
            "number per channel",
        ):
            small = strip(model)
        self.assertLen(small.get_layer("a").kernel_regularizer.steps, 8)

    def test_what_is_set_on_the_weight_is_trained_with(self):
        """As the warning advises."""
        model = self.dense(8, kernel_regularizer=Orthogonal(8))
        with self.assertWarnsRegex(UserWarning, "layer.kernel.regularizer ="):
            small = strip(model)
        self.assertEqual(small.losses, [])
        layer, new = small.get_layer("a"), keras.regularizers.L2(1.0)
        layer.kernel.regularizer = layer.kernel_regularizer = new
        self.assertLen(small.losses, 1)
        config = small.get_layer("a").get_config()
        self.assertEqual(config["kernel_regularizer"]["class_name"], "L2")

    def test_of_a_layer_that_passes_channels_on(self):
        model = chain(
            layers.Dense(16),
            layers.Activation("relu", activity_regularizer=Orthogonal(4)),
        )
        with self.assertWarnsRegex(UserWarning, "activity_regularizer"):
            small = strip(pruned(model))
        self.assertIsNone(small.layers[2].activity_regularizer)

    def test_of_a_cell(self):
        layer = layers.LSTM(8, recurrent_regularizer=Towards(numbers(8, 32)))
        model = pruned(chain(layer, shape=(5, 8)))
        small, report = strip(model, return_report=True)
        (units,) = report.kept_channels.values()
        self.assertLen(units, 4)
        gates = np.concatenate([np.asarray(units) + 8 * i for i in range(4)])
        np.testing.assert_array_equal(
            small.layers[1].recurrent_regularizer.target,
            numbers(8, 32)[np.ix_(units, gates)],
        )

    @parameterized.parameters(
        {"kernel_regularizer": keras.regularizers.L2(0.1)},
        {"kernel_regularizer": "orthogonal_regularizer"},
        {"kernel_constraint": keras.constraints.MaxNorm(2, axis=[0, 1])},
        {"activity_regularizer": keras.regularizers.L1(0.1)},
        {"bias_constraint": "non_neg"},
    )
    def test_those_of_keras_stay(self, **options):
        (name,) = options
        model = self.dense(**options)
        small, report = strip(model, return_report=True)
        old, new = (
            getattr(m.get_layer("a"), name).get_config() for m in (model, small)
        )
        self.assertEqual(new, old)
        self.assertEqual(report.changed, ())

    def test_a_list_on_a_layer_that_stays_as_it_is(self):
        model = keras.Sequential(
            [keras.Input((8,)), layers.Dense(6), layers.Dense(3)]
        )
        model.layers[1].bias_regularizer = Weighted([0.1, 0.2])
        small = strip(strip(model))
        kept = small.layers[-1].bias_regularizer
        self.assertEqual(kept.get_config(), {"weights": [0.1, 0.2]})

    def test_what_fails_on_the_model_itself_is_left_alone(self):
        def fails(x):
            raise ValueError("always")

        model = self.dense(16)
        model.get_layer("a").activity_regularizer = fails
        self.assertIs(strip(model).get_layer("a").activity_regularizer, fails)


class ConfigArraysTest(parameterized.TestCase):
    def test_finds_what_is_written_out(self):
        def holds(config, sizes=()):
            found = []
            config_arrays.change(config, found.append, sizes)
            return bool(found)

        self.assertTrue(holds({"a": {"value": [[1, 2], [3, 4]]}}))
        self.assertTrue(holds({"a": [0.5, 0.25]}))
        self.assertTrue(holds({"a": np.ones(3)}))
        self.assertFalse(holds({"a": np.ones(()), "b": 3, "c": "d"}))
        self.assertFalse(holds({"axis": np.ones(3), "shape": [2, 3]}))
        self.assertTrue(holds({"shape": [2, 3]}, sizes={2}))
        self.assertFalse(holds({"a": [True, False], "b": [[1], [1, 2]]}))

    @parameterized.parameters(
        list, np.float64, np.float32, keras.ops.convert_to_tensor
    )
    def test_numbers_of_any_library(self, convert):
        config = {"a": [*convert([0.5, 0.25])], "b": [[*convert([1.5])]] * 2}
        found = config_arrays.change(config, lambda array: 2 * array)
        self.assertEqual(found, {"a": [1.0, 0.5], "b": [[3.0], [3.0]]})
        self.assertIs(type(found["a"][0]), float)

    def test_what_is_no_number(self):
        words = {"a": [*np.array(["a", "b"])], "b": [np.True_, np.False_]}
        kept = config_arrays.change(words, lambda array: None)
        self.assertEqual(kept, words)
        axes = {"shape": [*np.array([2, 3])]}
        self.assertEqual(config_arrays.change(axes, lambda x: None), axes)

    def test_cuts_by_the_only_axis_of_a_length(self):
        extent = config_arrays.Extent(
            (None, 5, 4), (None, 5, 2), (None, None, (1, 3))
        )
        np.testing.assert_array_equal(extent.cut(np.arange(4)), [1, 3])
        matrix = np.arange(16).reshape(4, 4)
        np.testing.assert_array_equal(extent.cut(matrix), [[5, 7], [13, 15]])
        np.testing.assert_array_equal(extent.cut(np.arange(5)), np.arange(5))
        self.assertEqual(extent.lost, {4: 2})

    def test_does_not_guess_between_two_axes(self):
        extent = config_arrays.Extent((4, 4), (4, 2), (None, (1, 3)))
        self.assertIsNone(extent.cut(np.arange(4)))
        self.assertEqual(extent.cut(np.ones((4, 4))).shape, (4, 2))


if __name__ == "__main__":
    absltest.main()
