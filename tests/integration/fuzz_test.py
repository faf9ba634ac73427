r"""`strip` is exact on random models.

Runs a few examples by pytest, and as many as one likes by

    python -m tests.integration.fuzz_test --num_examples=1000 --seed=1

A failure is shrunk and printed as a literal `Program`;
`fuzz_test.check(Program(...))` runs it again. What `strip` returns is loaded
in another process, too, and computes the same there:

    python -m tests.integration.fuzz_test --num_saved=1000 \
        FuzzTest.test_loads_again
"""

import itertools
import sys
import tempfile
import warnings
from unittest import mock

import hypothesis
import keras
import numpy as np
import pytest
from absl import flags
from absl.testing import absltest
from absl.testing import parameterized
from hypothesis import strategies as st
from keras import layers

from keras_prm.rebuild.strip import strip
from keras_prm.rules import registry
from keras_prm.utils import keras_graph
from keras_prm.utils import variable_keys
from keras_prm.verification import round_trips
from tests.helpers import fuzzing
from tests.helpers import zeros
from tests.helpers.fuzz_rows import ROWS
from tests.helpers.fuzzing import Program
from tests.helpers.fuzzing import Step
from tests.helpers.lowering_models import Drawn

flags.DEFINE_integer("num_examples", 50, "How many random models to try.")
flags.DEFINE_integer("num_saved", 15, "How many of them to save and load.")
flags.DEFINE_integer("seed", 0, "Which random models.")

TOLERANCE = 1e-5
# Rows left out, as `strip` is known to be wrong with them.
KNOWN = ()


def drawn(program):
    """`(model, x)`: the model of a program, and what it is tried on."""
    model = fuzzing.build(program)
    x = fuzzing.arrays(program, model)
    hypothesis.assume(_is_finite(model, x))
    return model, x


def check(program):
    """Raises an `AssertionError` unless `strip` is exact on a program."""
    model, x = drawn(program)
    weights, config = model.get_weights(), repr(model.get_config())
    small = strip(model)
    _check_untouched(model, weights, config)
    _check_structure(model, small)
    _check_outputs(model, small, x)
    _check_batches(model, small, x)
    lowered = strip(model, Drawn())
    _check_structure(model, lowered)
    _check_outputs(model, lowered, x)
    if not _has_a_last_group(model, small):
        assert zeros.shapes(strip(small)) == zeros.shapes(small), (
            "A second strip removes more."
        )


def _has_a_last_group(model, small):
    """A grouped convolution with one group left has finer channels."""
    groups = [
        {
            path: getattr(layer, "groups", 1)
            for path, layer in variable_keys.layer_paths(m)
        }
        for m in (model, small)
    ]
    return any(n == 1 < groups[0].get(path, 1) for path, n in groups[1].items())


def _is_finite(model, x):
    """Also False where the model cannot be called: not our business."""
    try:
        outputs = zeros.outputs_of(model, x)
    except Exception:
        return False
    return all(np.isfinite(y).all() for y in outputs)


def _check_untouched(model, weights, config):
    for variable, old, new in zip(model.weights, weights, model.get_weights()):
        assert np.array_equal(old, new), f"{variable.path} changed"
    assert repr(model.get_config()) == config, "the config changed"


def _check_structure(model, small):
    assert small.count_params() <= model.count_params(), "it grew"
    assert small.output_names == model.output_names, small.output_names
    names = [[x.name for x in m.inputs] for m in (model, small)]
    assert names[0] == names[1], names
    for tensors in "input", "output":
        old, new = getattr(model, tensors), getattr(small, tensors)
        keras.tree.assert_same_structure(old, new)
        for a, b in zip(keras.tree.flatten(old), keras.tree.flatten(new)):
            assert a.shape == b.shape and a.dtype == b.dtype, (a, b)


def _check_outputs(model, small, x):
    outputs = zeros.outputs_of(small, x)
    assert all(np.isfinite(y).all() for y in outputs), "it is not finite"
    error = zeros.max_error(model, small, x)
    if error >= TOLERANCE:
        hypothesis.assume(_inner_tensors_are_finite(model, x))
        allowed = TOLERANCE + 30 * _rounding(model, x)
        assert error < allowed, f"off by {error:.2g}, allowed {allowed:.2g}"


def _check_batches(model, small, x, sizes=(1, 2, 3, 5)):
    """Where the size of the batch does not matter to a model, it never does."""
    for size in sizes:
        rows = keras.tree.map_structure(lambda a: a[:size], x)
        old, new = (_change(m, x, rows) for m in (model, small))
        assert old > TOLERANCE or new < 10 * TOLERANCE, (
            f"of {size} samples it is off by {new:.2g}"
        )


def _change(model, x, rows):
    """How far what a model makes of some rows depends on the others."""
    try:
        found = zeros.outputs_of(model, rows)
    except Exception:  # it squeezes a batch of one away, say
        return np.inf
    pairs = [*zip(zeros.outputs_of(model, x), found)]
    if any(a[: len(b)].shape != b.shape for a, b in pairs):
        return np.inf
    scaled = [
        np.abs(a[: len(b)] - b).max() / max(1.0, np.abs(a).max())
        for a, b in pairs
    ]
    return max(scaled)


def _inner_tensors_are_finite(model, x):
    """What `strip` asks for, in the outermost model at least."""
    tensors = [y for call in keras_graph.nodes(model) for y in call.outputs]
    return _is_finite(keras.Model(model.input, tensors), x)


def _rounding(model, x, step=1e-6):
    """How far rounding may carry the outputs: that of nudged weights."""
    weights = model.get_weights()
    rng = np.random.default_rng(0)
    want = zeros.outputs_of(model, x)
    worst = 0.0
    for _ in range(3):
        model.set_weights(
            [
                w * (1 + step * rng.uniform(-1, 1, w.shape))
                if w.dtype.kind == "f"
                else w
                for w in weights
            ]
        )
        for old, new in zip(want, zeros.outputs_of(model, x)):
            scale = max(1.0, np.abs(old).max())
            worst = max(worst, np.abs(old - new).max() / scale)
    model.set_weights(weights)
    return worst


def run(test, programs, num_examples, seed, shrink=True):
    """Calls `test(program)` with random programs, the same ones each time.

    Keras warns of models that are odd but legal, as a softmax of one channel.
    """
    phases = [hypothesis.Phase.generate]
    settings = hypothesis.settings(
        max_examples=num_examples,
        phases=phases + [hypothesis.Phase.shrink] * shrink,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        report_multiple_bugs=False,
    )
    test = hypothesis.given(program=programs)(test)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hypothesis.seed(seed)(settings(test))()


def paste(program):
    """Python that runs a program again."""
    steps = "\n".join(f"#   {line}" for line in fuzzing.trace(program))
    return (
        f"# The steps that are built:\n{steps}\n"
        "from tests.integration import fuzz_test\n"
        "from tests.helpers.fuzzing import Program\n"
        "from tests.helpers.fuzzing import Step\n\n"
        f"fuzz_test.check({program!r})"
    )


# Wrong rules: for each layer, that of another one, and what to draw.
MUTANTS = {
    "activation": (layers.Activation, layers.Identity, "Activation"),
    "product": (layers.Multiply, layers.Add, "pair_of_branches Multiply"),
    "padding": (layers.ZeroPadding1D, layers.Cropping1D, "ZeroPadding1D"),
    "unit": (layers.UnitNormalization, layers.Identity, "UnitNormalization"),
}


class FuzzTest(parameterized.TestCase):
    def test_strip_is_exact(self):
        counter = itertools.count(1)
        flag = flags.FLAGS

        def test(program):
            if (number := next(counter)) % 50 == 0:
                print(f"{number} models", file=sys.stderr, flush=True)
            hypothesis.note(paste(program))
            check(program)

        names = [n for n in fuzzing.names() if n not in KNOWN]
        run(
            test,
            fuzzing.programs(names),
            flag["num_examples"].value,
            flag["seed"].value,
        )

    def test_loads_again(self):
        """In one process for all, which has no keras_prm."""
        saved = {}
        with tempfile.TemporaryDirectory() as path:
            folder = round_trips.Folder(path)

            def test(program):
                model, x = drawn(program)
                small = strip(model)
                name = f"model{len(saved)}"
                saved[name] = program, zeros.outputs_of(small, x)
                folder.add(name, small, [keras.tree.flatten(x)], 3)

            names = [n for n in fuzzing.names() if n not in KNOWN]
            run(
                test,
                fuzzing.programs(names),
                flags.FLAGS["num_saved"].value,
                flags.FLAGS["seed"].value,
                shrink=False,
            )
            found = folder.load()
        for name, (program, want) in saved.items():
            with self.subTest(name):
                trip, message = found[name], paste(program)
                self.assertEqual(trip.note, "", message)
                for a, b in zip(want, trip.outputs[0], strict=True):
                    np.testing.assert_allclose(b, a, 1e-5, 1e-5, True, message)

    @parameterized.parameters(*MUTANTS)
    @pytest.mark.slow
    def test_finds_a_wrong_rule(self, name):
        layer, other, rows = MUTANTS[name]
        rows = ["kernel", *rows.split()]
        programs = fuzzing.programs(rows, 6, [st.just((5, 4))])
        wrong = {layer: registry.RULES[other]}

        def test(program):
            model, x = drawn(program)
            _check_outputs(model, strip(model), x)

        with mock.patch.dict(registry.RULES, wrong):
            with self.assertRaisesRegex(AssertionError, "off by"):
                run(test, programs, 200, seed=0, shrink=False)

    @parameterized.parameters(*ROWS)
    def test_row_applies(self, name):
        """A row that never does is a mistake in the row."""

        def test(program):
            steps = "\n".join(fuzzing.trace(program))
            if f" = {name}(" in steps:
                raise StopIteration  # The first one is enough.

        programs = fuzzing.programs([name, "ops.expand_dims"], 4)
        with self.assertRaises(StopIteration):
            run(test, programs, 200, seed=0, shrink=False)

    def test_programs_are_literals(self):
        program = Program(
            inputs=((4,), ("int", 5)),
            steps=(Step("Dense", (0,), {"units": 3}), Step("Shared")),
        )
        self.assertEqual(eval(repr(program)), program)
        self.assertIn(repr(program), paste(program))


if __name__ == "__main__":
    absltest.main()
