import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.admm.optimizer_checks import INNER_ARGUMENTS
from keras_prm.admm.optimizer_checks import check_arguments
from keras_prm.admm.optimizer_checks import check_finite
from keras_prm.admm.optimizer_checks import check_inner
from keras_prm.admm.optimizer_checks import check_variables
from keras_prm.plans.plan import SparsityPlan
from keras_prm.plans.records import KernelPlan


def make_plan():
    kernels = [
        KernelPlan("a/kernel", 0, (2, 3), (-1,) * 2, (-1,) * 3, 0.5),
        KernelPlan("b/kernel", 2, (3, 1), (-1,) * 3, (-1,), 0.5),
    ]
    variables = [("kernel", (2, 3)), ("bias", (3,)), ("kernel", (3, 1))]
    return SparsityPlan(kernels, [], variables)


class ArgumentsTest(parameterized.TestCase):
    def check(self, **changes):
        arguments = {
            "plan": make_plan(),
            "rho": 0.1,
            "update_every": 100,
            "rho_change": "rescale",
            "ramp": None,
            "kwargs": {},
        }
        check_arguments(**(arguments | changes))

    @parameterized.parameters(
        {},
        {"rho": 0},
        {"rho": np.float32(0.5)},
        {"rho": keras.optimizers.schedules.PolynomialDecay(0.1, 10, 0.5)},
        {"update_every": np.int64(1)},
        {"rho_change": "restart"},
    )
    def test_accepts(self, **changes):
        self.check(**changes)

    @parameterized.parameters(
        ("rho", -1.0, ValueError, "finite and at least 0.*`rho=1e-2`"),
        ("rho", float("nan"), ValueError, "finite and at least 0"),
        ("rho", float("inf"), ValueError, "finite and at least 0"),
        ("rho", "high", TypeError, "for example, `rho=1e-2`"),
        ("rho", True, TypeError, "for example, `rho=1e-2`"),
        ("update_every", 0, ValueError, "`update_every=100`"),
        ("update_every", 2.5, ValueError, "`update_every=100`"),
        ("update_every", True, ValueError, "`update_every=100`"),
        ("rho_change", "jump", ValueError, "Use 'restart' for `rho` in stages"),
        ("plan", {}, TypeError, "SparsityPlan.uniform"),
        ("kwargs", {"roh": 0.1}, TypeError, "correct their spelling"),
    )
    def test_refuses(self, name, value, error, message):
        with self.assertRaisesRegex(error, message):
            self.check(**{name: value})

    @parameterized.parameters(*INNER_ARGUMENTS)
    def test_names_where_an_argument_belongs(self, name):
        with self.assertRaisesRegex(
            ValueError, f"Set `{name}` on the inner optimizer"
        ):
            self.check(kwargs={name: 0.5})


class InnerTest(parameterized.TestCase):
    @parameterized.parameters(None, 0.1, keras.losses.MeanSquaredError())
    def test_not_an_optimizer(self, inner):
        with self.assertRaisesRegex(TypeError, r"`keras.optimizers.Adam\("):
            check_inner(inner, keras.optimizers.Muon)

    def test_wrapped_twice(self):
        with self.assertRaisesRegex(ValueError, "Wrap its `inner_optimizer`"):
            check_inner(keras.optimizers.Muon(), keras.optimizers.Muon)

    def test_accumulation_where_it_is_not_counted(self):
        def multi(steps):
            inner = keras.optimizers.SGD(gradient_accumulation_steps=steps)
            mapping = keras.optimizers.OptimizerMap(inner)
            return keras.optimizers.MultiOptimizer(mapping)

        check_inner(multi(None), keras.optimizers.Muon)
        with self.assertRaisesRegex(ValueError, "larger batch"):
            check_inner(multi(4), keras.optimizers.Muon)

    def test_loss_scale_inside(self):
        inner = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
        with self.assertRaisesRegex(
            ValueError, "Put LossScaleOptimizer around ADMMWrapper"
        ):
            check_inner(inner, keras.optimizers.Muon)


class VariablesTest(parameterized.TestCase):
    def variables(self, *shapes):
        names = ("kernel", "bias", "kernel")
        return [
            keras.Variable(np.zeros(shape), name=name)
            for name, shape in zip(names, shapes, strict=False)
        ]

    def test_accepts(self):
        check_variables(self.variables((2, 3), (3,), (3, 1)), make_plan())

    @parameterized.named_parameters(
        ("shape", [(2, 4), (4,), (4, 1)], r"3 differ\. #0: .*\(2, 4\)"),
        ("missing", [(2, 3), (3,)], r"1 differ\. #2: .*received None"),
    )
    def test_refuses_others(self, shapes, message):
        with self.assertRaisesRegex(
            ValueError, message + ".*after setting `trainable`"
        ):
            check_variables(self.variables(*shapes), make_plan())

    @parameterized.parameters(np.nan, np.inf)
    def test_refuses_what_is_not_finite(self, value):
        kernels = [keras.Variable(np.zeros(2)), keras.Variable([0.0, value])]
        with self.assertRaisesRegex(
            ValueError, r"\['b/kernel'\]\. Load or initialize them anew"
        ):
            check_finite(kernels, make_plan())


if __name__ == "__main__":
    absltest.main()
