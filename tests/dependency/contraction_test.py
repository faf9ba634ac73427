"""`Contraction` by itself: rows of what one can check by hand."""

import types

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from keras_prm.dependency.propagation import Contraction
from keras_prm.dependency.values import Value

NAN = np.nan


class Facts:
    """What a contraction asks of a `Liveness`, said outright."""

    def __init__(self, step, constants, wanted, gone=None):
        self.step = step
        self.constants = {(0, 1): np.array(constants, float)}
        size = len(constants)
        self.uses = [np.zeros(size, bool), np.array(wanted, bool)]
        self.is_gone = np.zeros(size, bool) if gone is None else np.array(gone)

    def constant(self, value, axis):
        return self.constants[value.number, axis]

    def agreed(self, step, i):
        return self.constants[0, 1]

    def used(self, value, axis):
        return self.uses[value.number]

    def gone(self, value, axis):
        return self.is_gone

    def array(self, variable):
        return keras.ops.convert_to_numpy(variable)

    def matrices(self, kernel, axes):
        array = self.array(kernel)
        return array.reshape(-1, *array.shape[-2:])

    def reach(self, step):
        return step.reach_of(self.matrices(step.kernel, step.axes))


def step_of(kernel, bias=None, **options):
    """A contraction of one axis with another, by a kernel `(..., in, out)`."""
    kernel = np.array(kernel, "float32")
    groups = options.get("groups", 1)
    sizes = kernel.shape[-2] * groups, kernel.shape[-1]
    if options.get("depthwise"):
        sizes = kernel.shape[-2], kernel.shape[-2] * kernel.shape[-1]
    source, target = (
        Value(number, (None, size), [None, None], "")
        for number, size in enumerate(sizes)
    )
    rank = kernel.ndim
    fields = {
        "axes": ((rank - 2,), (rank - 1,)),
        "groups": 1,
        "depthwise": False,
        "activation": lambda c: c,
        "inside": None,
        "macs": 1,
        "layer": types.SimpleNamespace(),
        "path": "layer",
    }
    return Contraction(
        ((source, 1),),
        ((target, 1),),
        keras.Variable(kernel),
        bias=None if bias is None else keras.Variable(np.array(bias)),
        **fields | options,
    )


class ConstantsTest(parameterized.TestCase):
    def outputs(self, step, constants):
        facts = Facts(step, constants, [True] * step.target[0].shape[1])
        step.propagate_constants(facts)
        return facts.constants[1, 1]

    @parameterized.named_parameters(
        # Output 1 reads inputs 0 and 1, output 0 none that varies.
        ("zeros", [[0, 1], [0, 2]], [NAN, NAN], [0, NAN]),
        ("a_zero_input_adds_nothing", [[1, 0], [0, 2]], [0, NAN], [0, NAN]),
        # Padding may be seen: 3 * 2 is not added everywhere.
        ("a_constant_varies", [[2, 0], [0, 0]], [3, 0], [NAN, 0]),
    )
    def test_without_a_bias(self, kernel, constants, expected):
        found = self.outputs(step_of(kernel), constants)
        np.testing.assert_array_equal(found, expected)

    def test_a_constant_is_multiplied_where_no_tap_sees_padding(self):
        step = step_of([[2, 0], [0, 5]], [1.0, 1.0], inside=np.array(True))
        found = self.outputs(step, [3, NAN])
        np.testing.assert_array_equal(found, [2 * 3 + 1, NAN])

    def test_the_activation_is_applied(self):
        relu = lambda c: np.maximum(c, 0)  # noqa: E731
        step = step_of([[0], [0]], [-4.0], activation=relu)
        np.testing.assert_array_equal(self.outputs(step, [NAN, NAN]), [0])

    def test_a_tap_that_sees_padding(self):
        # Two taps, of which the first may see padding.
        kernel = [[[1.0, 0.0]], [[1.0, 1.0]]]
        step = step_of(kernel, [0.0, 0.0], inside=np.array([False, True]))
        np.testing.assert_array_equal(self.outputs(step, [3]), [NAN, 3])


class UsesTest(parameterized.TestCase):
    def inputs(self, step, wanted, constants=None, gone=None):
        size = step.source[0].shape[1]
        constants = [NAN] * size if constants is None else constants
        facts = Facts(step, constants, wanted, gone)
        step.propagate_uses(facts)
        return facts.uses[0].tolist()

    @parameterized.named_parameters(
        ("read_by_a_wanted_output", [1, 0], [True, False]),
        ("not_wanted", [0, 1], [False, True]),
        ("both", [1, 1], [True, True]),
        ("none", [0, 0], [False, False]),
    )
    def test_a_diagonal(self, wanted, expected):
        self.assertEqual(self.inputs(step_of(np.eye(2)), wanted), expected)

    def test_all_taps_count(self):
        kernel = np.zeros((3, 2, 1))
        kernel[2, 1, 0] = 1.0
        self.assertEqual(self.inputs(step_of(kernel), [1]), [False, True])

    def test_groups_read_their_own_block(self):
        # Two groups of two inputs and one output each.
        step = step_of([[1.0, 0.0], [1.0, 1.0]], groups=2)
        found = self.inputs(step, [1, 1])
        self.assertEqual(found, [True, True, False, True])
        self.assertEqual(self.inputs(step, [0, 1]), [False, False, False, True])

    def test_a_depthwise_kernel(self):
        step = step_of([[[1.0, 0.0], [0.0, 1.0]]], depthwise=True)
        # Channel 0 makes outputs 0 and 1, channel 1 outputs 2 and 3.
        self.assertEqual(self.inputs(step, [1, 0, 0, 0]), [True, False])
        self.assertEqual(self.inputs(step, [0, 1, 1, 0]), [False, False])
        self.assertEqual(self.inputs(step, [0, 0, 0, 1]), [False, True])

    def test_what_goes_and_is_zero_is_not_used(self):
        step, gone = step_of([[1.0], [1.0]]), [True, True]
        self.assertEqual(self.inputs(step, [1], [0, NAN], gone), [False, True])
        # It stays, so it is read, zero or not.
        self.assertEqual(self.inputs(step, [1], [0, NAN]), [True, True])

    def test_a_constant_goes_into_the_bias(self):
        step = step_of([[2.0], [3.0]], [1.0], inside=np.array(True))
        gone = [True, False]
        self.assertEqual(self.inputs(step, [1], [5, NAN], gone), [False, True])
        facts = Facts(step, [5, NAN], [1], gone)
        found = step.response(facts, np.array([5, NAN]))
        np.testing.assert_array_equal(found, [2.0 * 5.0])


if __name__ == "__main__":
    absltest.main()
