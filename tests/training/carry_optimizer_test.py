"""`carry_optimizer`: a step after it is the step that would have come."""

import contextlib
import warnings

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers
from keras import optimizers

from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.plans.plan import SparsityPlan
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.rebuild.strip import strip
from keras_prm.training.carry_optimizer import carry_optimizer
from keras_prm.training.mask_constraint import enforced
from keras_prm.utils import variable_keys
from tests.helpers import zoo
from tests.helpers.lowering_models import Forced
from tests.helpers.zeros import classes
from tests.helpers.zeros import zero_filters


def mlp():
    x = inputs = keras.Input((6,))
    for i, units in enumerate((8, 10)):
        x = layers.Dense(units, activation="relu", name=f"d{i}")(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


def sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(6, 3, activation="relu", name="a"),
            layers.Conv2D(4, 3, activation="relu", name="b"),
            layers.Flatten(),
            layers.Dense(3, name="out"),
        ],
        name="outer",
    )


@keras.saving.register_keras_serializable(package="carrying_test")
class Scale(layers.Layer):
    """Has a weight of rank 0; what it does to channels nobody knows."""

    def build(self, input_shape):
        self.factor = self.add_weight(
            shape=(), initializer="ones", name="factor"
        )

    def call(self, x):
        return x * self.factor


def scaled():
    x = inputs = keras.Input((6,))
    x = Scale(name="scale")(x)
    x = layers.Dense(8, activation="relu", name="a")(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


def normalized(x, name):
    """Without a bias before the normalization: its gradient is but noise."""
    x = layers.Conv2D(
        6, 3, padding="same", use_bias=False, name=f"{name}_conv"
    )(x)
    return layers.BatchNormalization(name=f"{name}_bn")(x)


def residual():
    inputs = keras.Input((8, 8, 3))
    x = layers.ReLU()(normalized(inputs, "stem"))
    y = normalized(layers.ReLU()(normalized(x, "one")), "two")
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


def nested():
    inner = keras.Input((8, 8, 6))
    body = keras.Model(
        inner, layers.ReLU()(normalized(inner, "same")), name="body"
    )
    head = keras.Sequential(
        [
            keras.Input((8, 8, 6)),
            layers.Conv2D(5, 3, activation="relu", name="same_conv"),
        ],
        name="head",
    )
    inputs = keras.Input((8, 8, 3))
    x = head(body(layers.ReLU()(normalized(inputs, "stem"))))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


MODELS = {
    "mlp": mlp,
    "sequential": sequential,
    "scaled": scaled,
    "residual": residual,
    "nested": nested,
}


def admm(model):
    return ADMMWrapper(optimizers.SGD(0.1, momentum=0.9), plan_of(model))


OPTIMIZERS = {
    "sgd": lambda model: optimizers.SGD(0.05, momentum=0.9),
    "nesterov": lambda model: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda model: optimizers.Adam(0.01),
    "adamw": lambda model: optimizers.AdamW(0.01, global_clipnorm=0.1),
    "amsgrad": lambda model: optimizers.Adam(
        0.01,
        amsgrad=True,
        use_ema=True,
        ema_momentum=0.5,
        ema_overwrite_frequency=2,
        gradient_accumulation_steps=2,
    ),
    "schedule": lambda model: optimizers.Adam(
        optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    ),
    "rmsprop": lambda model: optimizers.RMSprop(
        0.01, momentum=0.5, centered=True
    ),
    "nadam": lambda model: optimizers.Nadam(0.01),
    "lion": lambda model: optimizers.Lion(0.01),
    "adagrad": lambda model: optimizers.Adagrad(0.1),
    "adadelta": lambda model: optimizers.Adadelta(1.0),
    "adamax": lambda model: optimizers.Adamax(0.01),
    "ftrl": lambda model: optimizers.Ftrl(0.1),
    "lamb": lambda model: optimizers.Lamb(0.01),
    "schedule_free": lambda model: optimizers.ScheduleFreeAdamW(0.01),
    # The usual factor depends on a kernel's size, which is another now.
    "muon": lambda model: optimizers.Muon(
        0.01, rms_rate=None, exclude_layers=["out"]
    ),
    "loss_scale": lambda model: optimizers.LossScaleOptimizer(
        optimizers.Adam(0.01), initial_scale=8.0, dynamic_growth_steps=2
    ),
    "admm": admm,
    "loss_scale_admm": lambda model: optimizers.LossScaleOptimizer(
        admm(model), initial_scale=8.0
    ),
    "multi": lambda model: optimizers.MultiOptimizer(
        optimizers.OptimizerMap(
            optimizers.SGD(0.1, momentum=0.9),
            {"d0/.*": optimizers.Adam(0.01)},
        )
    ),
}


def plan_of(model):
    return SparsityPlan.uniform(model, filters=0.5)


def data_of(model, seed=1):
    rng = np.random.default_rng(seed)
    x = zoo.inputs_of(model, batch=16, seed=seed)
    return x, rng.normal(size=(16, model.output_shape[-1])).astype("float32")


def read(variable):
    return keras.ops.convert_to_numpy(variable)


def train(model, optimizer, steps=3, **kwargs):
    """Trains a model at half its filters; its masks are returned."""
    masks = hard_prune(model, plan_of(model))
    kwargs = {"loss": "mse", "jit_compile": False, **kwargs}
    model.compile(optimizer, **kwargs)
    with contextlib.ExitStack() as stack:
        with warnings.catch_warnings():
            # An ADMMWrapper is to be carried as others are.
            warnings.filterwarnings("ignore", ".*with a bare optimizer")
            stack.enter_context(enforced(model, masks))
        for seed in range(steps):
            model.train_on_batch(*data_of(model, seed))
    return masks


def make(name, optimizer="adam", steps=3, **kwargs):
    """A trained model, its masks, what it is stripped to and the report."""
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    zoo.randomize(model)
    masks = train(model, OPTIMIZERS[optimizer](model), steps, **kwargs)
    return model, masks, *strip(model, return_report=True)


def keys(model):
    names = {id(v): k for k, v in variable_keys.variables_by_key(model).items()}
    return [names[id(v)] for v in model.trainable_variables]


def cut(variable, report, key):
    array = read(variable)
    for axis, at in enumerate(report.kept.get(key, ())):
        array = array if at is None else np.take(array, at, axis)
    return array


def farthest(model, small, report):
    """The largest difference of a weight from what it has come from."""
    old = variable_keys.variables_by_key(model)
    return max(
        np.abs(cut(old[key], report, key) - read(v)).max()
        for key, v in variable_keys.variables_by_key(small).items()
    )


def step(model, masks=None):
    held = enforced(model, masks) if masks else contextlib.nullcontext()
    with held:
        return model.train_on_batch(*data_of(model, seed=9))


def without_penalty(model):
    """Takes an `ADMMWrapper` out of a model; its inner optimizer goes on."""
    outer = model.optimizer
    inner = getattr(outer, "inner_optimizer", None)
    if isinstance(outer, ADMMWrapper):
        model.optimizer = outer.inner_optimizer
    elif isinstance(inner, ADMMWrapper):
        outer.inner_optimizer = inner.inner_optimizer


class StepTest(parameterized.TestCase):
    """The weights after a step, when training goes on with the masks held."""

    def check(self, model, masks, small, report, atol=2e-6):
        without_penalty(model)
        carry_optimizer(model, small, report)
        self.assertLess(small.count_params(), model.count_params())
        self.assertLess(farthest(model, small, report), 1e-7)
        before = [read(v) for v in small.trainable_variables]
        for _ in range(2):
            self.assertAlmostEqual(step(model, masks), step(small), places=5)
            self.assertLess(farthest(model, small, report), atol)
        moved = zip(before, small.trainable_variables)
        self.assertGreater(max(np.abs(a - read(b)).max() for a, b in moved), 0)

    @parameterized.parameters(*OPTIMIZERS)
    def test_optimizer(self, name):
        self.check(*make("mlp", name, run_eagerly=True))

    @parameterized.product(
        name=("sequential", "scaled", "residual", "nested"),
        optimizer=("sgd", "adam"),
    )
    def test_model(self, name, optimizer):
        self.check(*make(name, optimizer), atol=2e-5)

    @parameterized.parameters("sgd", "amsgrad", "rmsprop", "loss_scale", "admm")
    def test_a_fresh_optimizer_makes_another_step(self, name):
        model, masks, small, report = make(
            "mlp", name, steps=4, run_eagerly=True
        )
        without_penalty(model)
        fresh = OPTIMIZERS[name](model)
        small.compile(
            getattr(fresh, "inner_optimizer", fresh), "mse", run_eagerly=True
        )
        for _ in range(2):
            step(model, masks)
            step(small)
        self.assertGreater(farthest(model, small, report), 1e-3)


class ZooTest(parameterized.TestCase):
    @parameterized.parameters(*zoo.MODELS)
    def test_slots_are_cut_as_their_weights(self, name):
        model = zoo.make(name)
        classes(model, np.random.default_rng(0))
        model.compile(optimizers.SGD(momentum=0.9))
        model.optimizer.build(model.trainable_variables)
        momenta = model.optimizer.variables[2:]
        rng = np.random.default_rng(1)
        for momentum in momenta:
            momentum.assign(rng.normal(size=momentum.shape))
        small, report = strip(model, return_report=True)
        carry_optimizer(model, small, report)
        old = dict(zip(keys(model), momenta, strict=True))
        new = zip(keys(small), small.optimizer.variables[2:], strict=True)
        for key, momentum in new:
            want = cut(old[key], report, key) if key in old else 0.0
            np.testing.assert_allclose(read(momentum), want, err_msg=key)


class AveragesTest(parameterized.TestCase):
    """What holds values of a weight follows a bias that takes up constants."""

    def make(self, optimizer, use_bias=True):
        keras.utils.set_random_seed(0)
        x = inputs = keras.Input((6,))
        x = layers.Dense(8, activation="sigmoid", name="a")(x)
        y = layers.Dense(3, use_bias=use_bias, name="out")(x)
        model = keras.Model(inputs, y)
        zoo.randomize(model)
        zero_filters(model, a=[1, 3])  # the sigmoid of their bias is left
        model.compile(optimizer, "mse", run_eagerly=True)
        for _ in range(2):
            step(model)
        zero_filters(model, a=[1, 3])
        small, report = strip(model, return_report=True)
        self.assertLen(report.kept["a/bias"][0], 6)
        return model, carry_optimizer(model, small, report)

    @parameterized.parameters(True, False)
    def test_average(self, use_bias):
        optimizer = optimizers.SGD(1e-6, use_ema=True)
        model, small = self.make(optimizer, use_bias)
        x, _ = data_of(model)
        want = read(model(x))
        for each in (model, small):
            weights = each.trainable_variables
            each.optimizer.finalize_variable_values(weights)
            np.testing.assert_allclose(read(each(x)), want, atol=1e-3)

    def test_schedule_free(self):
        model, small = self.make(optimizers.ScheduleFreeAdamW(1e-6))
        x, _ = data_of(model)
        want = read(model(x))
        step(small)
        np.testing.assert_allclose(read(small(x)), want, atol=1e-3)


class CompileTest(parameterized.TestCase):
    def test_compiled_alike(self):
        model, _, small, report = make(
            "mlp", metrics=["mae"], loss="mae", run_eagerly=True
        )
        same = carry_optimizer(model, small, report)
        self.assertIs(same, small)
        self.assertEqual(small.loss, "mae")
        self.assertTrue(small.run_eagerly)
        self.assertCountEqual(
            small.evaluate(*data_of(small), verbose=0, return_dict=True),
            ["loss", "mae"],
        )

    def test_state(self):
        model, _, small, report = make("sequential", "adam", steps=3)
        model.optimizer.learning_rate = 0.125
        carry_optimizer(model, small, report)
        old, new = model.optimizer, small.optimizer
        self.assertIsNot(old, new)
        self.assertEqual(int(new.iterations), 3)
        self.assertEqual(float(new.learning_rate), 0.125)
        filters = report.kept["a/kernel"][3]
        channels = report.kept["b/kernel"][2]
        self.assertLen(filters, 3)
        self.assertEqual(filters, channels)
        # iteration, learning rate, then momentum and velocity by turns:
        # a/kernel, a/bias, b/kernel
        for at in (2, 3):
            np.testing.assert_array_equal(
                read(old.variables[at])[..., list(filters)],
                read(new.variables[at]),
            )
        after = report.kept["b/kernel"][3]
        for at in (6, 7):
            np.testing.assert_array_equal(
                read(old.variables[at])[:, :, list(channels)][..., after],
                read(new.variables[at]),
            )
            self.assertGreater(np.abs(read(new.variables[at])).min(), 0)

    def test_loss_scale(self):
        model, _, small, report = make("mlp", "loss_scale", steps=3)
        self.assertEqual(float(model.optimizer.dynamic_scale), 16.0)
        carry_optimizer(model, small, report)
        self.assertEqual(float(small.optimizer.dynamic_scale), 16.0)
        self.assertEqual(int(small.optimizer.step_counter), 1)

    @parameterized.parameters(True, False)
    def test_mixed_precision(self, auto):
        keras.config.set_dtype_policy("mixed_float16")
        try:
            model, _, small, report = make("mlp", auto_scale_loss=auto)
        finally:
            keras.config.set_dtype_policy("float32")
        carry_optimizer(model, small, report)
        kind = optimizers.LossScaleOptimizer if auto else optimizers.Adam
        self.assertIs(type(model.optimizer), kind)
        self.assertIs(type(small.optimizer), kind)
        want = int(model.optimizer.iterations)
        self.assertEqual(int(small.optimizer.iterations), want)

    @parameterized.parameters("admm", "loss_scale_admm")
    def test_admm_is_left_behind(self, name):
        model, _, small, report = make("mlp", name)
        carry_optimizer(model, small, report)
        optimizer = small.optimizer
        if name != "admm":
            self.assertEqual(float(optimizer.dynamic_scale), 8.0)
            optimizer = optimizer.inner_optimizer
        self.assertIs(type(optimizer), optimizers.SGD)
        self.assertEqual(int(optimizer.iterations), 3)

    def test_muon_as_it_is(self):
        keras.utils.set_random_seed(0)
        model = mlp()
        optimizer = optimizers.Muon(0.01, exclude_layers=["out"])
        train(model, optimizer)
        small, report = strip(model, return_report=True)
        with self.assertWarnsRegex(UserWarning, "train.*`rms_rate=None`"):
            carry_optimizer(model, small, report)
        self.assertLen(small.optimizer.variables, len(optimizer.variables))
        self.assertLen(optimizer.variables, 2 + 6 + 4)
        step(small)

    def test_frozen_layers(self):
        model, _, small, report = make("mlp")
        model.get_layer("d0").trainable = False
        model.compile("adam", "mse")
        step(model)
        small, report = strip(model, return_report=True)
        carry_optimizer(model, small, report)
        self.assertLen(small.optimizer.variables, 2 + 2 * 4)
        self.assertEqual(int(small.optimizer.iterations), 1)

    def test_nothing_removed(self):
        model = mlp()
        model.compile("adam", "mse")
        step(model)
        small, report = strip(model, return_report=True)
        carry_optimizer(model, small, report)
        self.assertAlmostEqual(step(model), step(small), places=5)

    def test_without_the_report(self):
        model = mlp()
        model.compile("adam", "mse")
        with self.assertRaisesRegex(TypeError, "return_report=True.*None"):
            carry_optimizer(model, strip(model), None)

    def test_without_a_step_there_is_nothing_to_carry(self):
        model = mlp()
        model.compile(optimizers.Adam(0.125), "mse")
        small, report = strip(model, return_report=True)
        carry_optimizer(model, small, report)
        self.assertEqual(float(small.optimizer.learning_rate), 0.125)
        self.assertEqual(int(small.optimizer.iterations), 0)
        step(small)


def squared(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


class Unnamed(layers.Layer):
    def build(self, input_shape):
        self.factor = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        return x * self.factor


class ErrorsTest(parameterized.TestCase):
    def raises(self, pattern, *arguments):
        small = arguments[1]
        with self.assertRaisesRegex(ValueError, pattern):
            carry_optimizer(*arguments)
        self.assertFalse(small.compiled)

    def test_not_compiled(self):
        model = mlp()
        pattern = r"Call `model.compile\(\.\.\.\)` and train"
        self.raises(pattern, model, *strip(model, return_report=True))

    def test_loss_that_cannot_be_serialized(self):
        model, _, small, report = make("mlp", loss=lambda y, z: squared(y, z))
        self.raises("write a lambda as a function", model, small, report)

    def test_no_compile_config(self):
        class Silent(keras.Model):
            def get_compile_config(self):
                return None

        inputs = keras.Input((6,))
        model = Silent(inputs, layers.Dense(3)(inputs))
        model.compile("adam", "mse")
        found = strip(model, return_report=True)
        self.raises("compile the smaller model yourself", model, *found)

    def test_metric_from_nowhere(self):
        def metric(y_true, y_pred):
            return squared(y_true, y_pred)

        model, _, small, report = make("mlp", metrics=[metric])
        self.raises("register_keras_serializable", model, small, report)
        with keras.saving.custom_object_scope({"metric": metric}):
            carry_optimizer(model, small, report)

    def test_report_of_another_model(self):
        model, _, small, _ = make("mlp")
        _, _, _, report = make("residual")
        self.raises("Pass what one call gave", model, small, report)

    def test_report_of_other_channels(self):
        model, masks, small, report = make("mlp")
        with enforced(model, masks):
            other = keras.models.clone_model(model)
        zoo.randomize(other, seed=5)
        hard_prune(other, plan_of(other))
        _, wrong = strip(other, return_report=True)
        self.assertNotEqual(report.kept, wrong.kept)
        pattern = "do not fit: .*d1/kernel"
        self.raises(pattern, model, small, wrong)

    def test_columns_that_are_lowered(self):
        model = sequential()
        model.compile("adam", "mse")
        step(model)
        kernel = model.get_layer("b").kernel
        array = np.array(keras.ops.convert_to_numpy(kernel))
        array[::2, 1:] = 0
        kernel.assign(array)
        found = strip(model, Forced("columns by gather"), return_report=True)
        self.raises("and lower it afterwards.*b/kernel", model, *found)

    def test_model_trained_on(self):
        model, _, small, report = make("mlp")
        step(model)
        self.raises("before training either", model, small, report)

    def test_weight_without_a_name(self):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,))
        model = keras.Model(inputs, Unnamed()(layers.Dense(3)(inputs)))
        model.compile("adam", "mse")
        step(model)
        found = strip(model, return_report=True)
        self.raises("layers of your own a name", model, *found)

    def test_adafactor(self):
        model = mlp()
        model.compile(optimizers.Adafactor(), "mse", run_eagerly=True)
        step(model)
        found = strip(model, return_report=True)
        self.raises("type Adafactor.*Compile the smaller model", model, *found)

    def test_other_weights_trained_than_before(self):
        model, _, small, report = make("mlp")
        for each in (model, small):
            each.get_layer("d0").trainable = False
        self.raises("Set `trainable` on its layers", model, small, report)

    def test_optimizer_that_chooses_by_path(self):
        model = sequential()
        optimizer = optimizers.Muon(0.01, exclude_layers=["outer/out"])
        model.compile(optimizer, "mse")
        step(model)
        found = strip(model, return_report=True)
        self.raises("choose by names of layers", model, *found)


if __name__ == "__main__":
    absltest.main()
