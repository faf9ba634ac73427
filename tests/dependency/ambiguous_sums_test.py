r"""`strip` is exact where widths, steps, batch and constants coincide.

Runs some widths by pytest, and more by

    python -m tests.dependency.ambiguous_sums_test \
        --widths=2:1,2:2,3:1,3:2,4:1,4:3,6:3
"""

import importlib.util
import itertools
import tempfile
import time
import warnings

import keras
import numpy as np
from absl import flags
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers
from keras import ops

from benchmarks import coincidences as search
from keras_prm.analysis.trace import trace
from keras_prm.dependency import ambiguous_sums
from keras_prm.litert.export import export_litert
from keras_prm.plans.plan import SparsityPlan
from keras_prm.pruning.hard_prune import hard_prune
from keras_prm.rebuild.strip import strip
from tests.helpers import zeros
from tests.helpers import zoo

flags.DEFINE_list(
    "widths",
    ["3:3", "5:3", "5:1"],
    "Numbers of filters, and of those that are left.",
)

STEPS = 3
BATCHES = (1, 2, 3, 7)
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def ramp(*shape):
    return np.linspace(0.5, 2, np.prod(shape), dtype="float32").reshape(shape)


def with_arrays():
    """From a name to what joins `x (batch, steps, n)` with an array."""
    found = {}
    shapes = {
        "steps": lambda n: (1, STEPS, 1),
        "steps of rank 2": lambda n: (STEPS, 1),
        "channels": lambda n: (n,),
        "channels of rank 3": lambda n: (1, 1, n),
        "whole": lambda n: (STEPS, n),
        "one": lambda n: (1,),
    }
    pairs = {
        "x + a": lambda x, a: x + a,
        "a + x": lambda x, a: ops.add(a, x),
        "x - a": lambda x, a: x - a,
        "a - x": lambda x, a: ops.subtract(a, x),
        "x * a": lambda x, a: x * a,
        "x / a": lambda x, a: x / a,
        "max(x, a)": ops.maximum,
    }
    for (pair, f), (name, shape) in itertools.product(
        pairs.items(), shapes.items()
    ):
        if "+" not in pair and name not in ("steps", "channels"):
            continue

        def join(x, f=f, shape=shape):
            return f(x, ramp(*shape(x.shape[-1])))

        found[f"{pair}, {name}"] = join
    return found


def image(x):
    """`(batch, steps, n)` as an image of as many rows as columns."""
    x = ops.expand_dims(x, 2)
    return ops.concatenate([x] * STEPS, axis=2)


def average(axis):
    return lambda x: ops.mean(x, axis=axis, keepdims=True)


def narrow(x):
    """One channel, which says nothing of how many `x` has."""
    return layers.Dense(1)(x)


def joined(kind, *parts):
    """A layer of several operands, each made of `x`."""
    return lambda x: kind()([part(x) for part in parts])


def same(x):
    return x


OTHERS = {
    "x + narrow": lambda x: x + narrow(x),
    "narrow + x": lambda x: narrow(x) + x,
    "x + mean over steps": lambda x: x + average(1)(x),
    "x + mean over both": lambda x: x + average((1, 2))(x),
    "vector + number": lambda x: x[:, 0] + narrow(x[:, 0]),
    **{
        f"{kind.__name__} {name}": joined(kind, *parts)
        for kind in (layers.Add, layers.Average, layers.Multiply)
        for name, parts in {
            "of a wide and a narrow one": (same, narrow),
            "of a narrow and a wide one": (narrow, same),
            "of three": (same, narrow, average(1)),
        }.items()
    },
    "Subtract": joined(layers.Subtract, same, narrow),
    "image + rows": lambda x: image(x) + ramp(1, STEPS, 1, 1),
    "image + columns": lambda x: image(x) + ramp(STEPS, 1),
    "image + mean of rows": lambda x: image(x) + average((2, 3))(image(x)),
    "image + mean of columns": lambda x: image(x) + average((1, 3))(image(x)),
    "heads": lambda x: layers.EinsumDense(
        "abc,cde->abde", (None, STEPS, x.shape[-1]), bias_axes="de"
    )(x),
    "heads of one": lambda x: layers.EinsumDense(
        "abc,cde->abde", (None, x.shape[-1], 1), bias_axes="de"
    )(x),
    "attention": lambda x: layers.MultiHeadAttention(STEPS, x.shape[-1])(x, x),
    "squeeze": lambda x: ops.squeeze(ops.expand_dims(x, 2)),
    "squeeze of steps": lambda x: ops.squeeze(average(1)(x)),
    "reshape": lambda x: ops.reshape(x, (-1, STEPS * x.shape[-1])),
    "Flatten": lambda x: layers.Flatten()(x),
    "matmul": lambda x: ops.matmul(x, ops.swapaxes(x, 1, 2)),
    "Dot": lambda x: layers.Dot(1)([x, x]),
    "concatenate": lambda x: ops.concatenate([x, x[..., :1]], axis=-1),
    "where": lambda x: ops.where(x > 0, x, ramp(1, STEPS, 1)),
    "softmax": lambda x: ops.softmax(x, axis=1),
    "PReLU": lambda x: layers.PReLU()(x),
    "PReLU over channels": lambda x: layers.PReLU(shared_axes=[2])(x),
    "BatchNormalization": lambda x: layers.BatchNormalization()(x),
    "BatchNormalization of steps": lambda x: layers.BatchNormalization(1)(x),
    "LayerNormalization": lambda x: layers.LayerNormalization()(x),
    "GroupNormalization": lambda x: layers.GroupNormalization(1)(x),
    "UnitNormalization": lambda x: layers.UnitNormalization(1)(x),
    "Rescaling": lambda x: layers.Rescaling(ramp(STEPS, 1), ramp(STEPS, 1))(x),
    "LSTM": lambda x: layers.LSTM(x.shape[-1], return_sequences=True)(x),
    "depthwise": lambda x: layers.DepthwiseConv1D(1)(x),
}
if ON_TENSORFLOW:  # PyTorch and JAX have no oddity to meet
    OTHERS["channels first"] = lambda x: layers.Conv1D(
        x.shape[-1], 1, data_format="channels_first", name="first"
    )(ops.swapaxes(x, 1, 2))
JOINS = {**with_arrays(), **OTHERS}


def model_of(join, width, live, seed=0):
    """Filters of which some are pruned, joined, and read by another layer."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((STEPS, 2))
    x = layers.Conv1D(width, 1, activation="tanh")(inputs)
    outputs = layers.Dense(2)(join(x))
    model = keras.Model(inputs, outputs)
    zoo.randomize(model, seed)
    if live < width:
        plan = SparsityPlan.uniform(model, filters=1 - live / width)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of those that cannot go
            hard_prune(model, plan)
    return model


def largest_error(model, small):
    """Over batches of all sizes, of which the last is what counts."""
    x = np.random.default_rng(0).normal(size=(BATCHES[-1], STEPS, 2))
    x = x.astype("float32")
    want = ops.convert_to_numpy(model(x))
    worst = 0.0
    for size in BATCHES:
        found = ops.convert_to_numpy(small(x[:size]))
        assert found.shape == want[:size].shape, (found.shape, want.shape)
        worst = max(worst, np.abs(found - want[:size]).max())
    return worst


class StripTest(parameterized.TestCase):
    @parameterized.named_parameters((name, name) for name in JOINS)
    def test_is_exact_at_every_width(self, name):
        for pair in flags.FLAGS["widths"].value:
            with self.subTest(pair):
                model = model_of(JOINS[name], *map(int, pair.split(":")))
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of nothing to remove
                    small = strip(model)
                self.assertLess(largest_error(model, small), 1e-5)

    @parameterized.parameters(
        (lambda x: x + ramp(1, STEPS, 1), (None, 3, 3)),
        (lambda x: x + narrow(x), (None, 3, 3)),
        (lambda x: layers.Add()([x, narrow(x), x]), (None, 3, 3)),
    )
    def test_costs_no_channel(self, join, shape):
        small = strip(model_of(join, 5, 3))
        self.assertEqual(small.layers[1].output.shape, shape)

    @parameterized.parameters(
        (lambda x, y: layers.Add()([x, y, x]),),
        (lambda x, y: layers.Average()([y, x]),),
        (lambda x, y: x + y,),
        (lambda x, y: y + x,),
    )
    def test_where_no_order_is_safe(self, join):
        """Steps without channels and channels without steps, of a size."""
        inputs = keras.Input((STEPS, 2)), keras.Input((1, 4))
        wide = layers.Conv1D(5, 1, name="wide")
        x = join(layers.Conv1D(1, 1)(inputs[0]), wide(inputs[1]))
        model = keras.Model(inputs, layers.Dense(2, name="out")(x))
        zoo.randomize(model)
        for weight in (*wide.weights, model.get_layer("out").kernel):
            removed = slice(STEPS, None)
            edge = (..., removed) if weight.shape[-1] == 5 else (removed,)
            zeros.edit(weight, *edge)
        small = strip(model)
        self.assertEqual(small.get_layer("wide").filters, STEPS)
        rng = np.random.default_rng(0)
        for size in BATCHES:
            x = [rng.normal(size=(size, *i.shape[1:])) for i in inputs]
            x = [array.astype("float32") for array in x]
            want, found = (ops.convert_to_numpy(f(x)) for f in (model, small))
            np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)

    def test_heads_of_one_keep_a_second_dimension(self):
        model = model_of(JOINS["heads"], 5, 5)
        heads = next(x for x in model.layers if hasattr(x, "equation"))
        for weight in heads.weights:
            zeros.edit(weight, ..., slice(1, None))
        small = strip(model)
        self.assertLess(largest_error(model, small), 1e-5)
        kernel = small.get_layer(heads.name).kernel
        self.assertEqual(kernel.shape[-1], 2 if ON_TENSORFLOW else 1)

    def test_what_a_model_has_of_its_own(self):
        """TensorFlow's meaning where it adds otherwise, told by a reason."""
        if not ON_TENSORFLOW:
            self.skipTest("TensorFlow adds in this way")
        inputs = keras.Input(batch_shape=(1, STEPS, 2))
        x = layers.Conv1D(STEPS, 1, name="a")(inputs)
        model = keras.Model(inputs, layers.Dense(2)(x + narrow(x)))
        graph = trace(model)
        self.assertIn("along another axis", graph.skipped[0][1])
        inputs = keras.Input((STEPS, 2))
        first = layers.Conv1D(STEPS, 1, data_format="channels_first", name="b")
        x = first(ops.swapaxes(inputs, 1, 2))
        x = layers.Dense(2)(ops.swapaxes(x, 1, 2))
        graph = trace(keras.Model(inputs, x))
        self.assertIn("'b' has as many as positions", graph.pinned.values())

    def test_the_file_agrees_with_the_model(self):
        """Whatever the batch that it is made for, and the backend."""
        litert = importlib.util.find_spec("ai_edge_litert")
        if litert is None or importlib.util.find_spec("tensorflow") is None:
            self.skipTest("there is no converter")

        def join(x):
            return layers.Add()([x + ramp(1, STEPS, 1), narrow(x)])

        with tempfile.TemporaryDirectory() as folder:
            for size in None, 1:
                path = f"{folder}/a.tflite"
                model = model_of(join, 3, 3)
                found = export_litert(model, path, batch_size=size)
                self.assertLess(found.max_rel_error, 1e-5)


def is_always_safe(shapes):
    """Whether no addition from the left goes astray, at any sizes."""
    for sizes in itertools.product((1, 2, 3, 4), repeat=len(shapes[0])):
        known = [
            tuple(size if n is None else n for n, size in zip(shape, sizes))
            for shape in shapes
        ]
        total = known[0]
        for shape in known[1:]:
            if ambiguous_sums.is_misplaced(total, shape):
                return False
            total = np.broadcast_shapes(total, shape)
    return True


class OrderTest(parameterized.TestCase):
    @parameterized.parameters(2, 3, 4)
    def test_is_found_where_there_is_one(self, rank):
        """Against all orders of up to five operands."""
        rng, found = np.random.default_rng(rank), set()
        for _ in range(100):
            whole = [rng.choice([1, 2, 3, 3]) for _ in range(rank)]
            unknown = rng.uniform(size=rank - 1) < (0.7, *[0.2] * (rank - 2))
            whole[:-1] = np.where(unknown, None, whole[:-1])
            long = rng.uniform(size=(rng.integers(2, 6), rank)) < 0.5
            shapes = [tuple(np.where(row, whole, 1).tolist()) for row in long]
            order = ambiguous_sums.safe_order(shapes)
            exists = any(
                is_always_safe(each) for each in itertools.permutations(shapes)
            )
            self.assertEqual(order is not None, exists, shapes)
            if exists:
                self.assertCountEqual(order, range(len(shapes)))
                self.assertTrue(is_always_safe([shapes[i] for i in order]))
            found.add(exists)
        self.assertEqual(found, {True, False} if rank > 2 else {True})

    def test_that_is_safe_stays(self):
        shapes = [(None, 3, 3), (None, 1, 3), (1, 1, 1)]
        self.assertEqual(ambiguous_sums.safe_order(shapes), [0, 1, 2])

    def test_of_many_operands(self):
        """There are more orders of 30 than can be tried."""
        steps, channels = (None, 3, 1), (None, 1, 3)
        shapes = [channels, steps] * 15
        start = time.process_time()
        self.assertIsNone(ambiguous_sums.safe_order(shapes))
        order = ambiguous_sums.safe_order([*shapes[:-1], (None, 3, 3)])
        self.assertLess(time.process_time() - start, 0.5)
        self.assertEqual(order[14:17], [29, 0, 2])


class SearchTest(parameterized.TestCase):
    @parameterized.parameters(
        (((None, 6, None, 1), (6,)), True),
        (((None, 6, 6, 3), (6,)), True),
        (((None, 6, 6, 6), (6,)), False),
    )
    def test_an_operand_of_fewer_axes(self, shapes, expected):
        self.assertEqual(ambiguous_sums.is_misplaced(*shapes), expected)

    def test_where_backends_add_otherwise(self):
        """`is_misplaced` says of each pair of shapes what is found."""
        cases = [*search.binary_cases(["add"], 3)]
        rng = np.random.default_rng(0)
        found = {shapes for _, shapes in search.differing(cases, rng)}
        want = {s for _, s in cases if ambiguous_sums.is_misplaced(*s)}
        self.assertEqual(found, want if ON_TENSORFLOW else set())

    @parameterized.parameters(*sorted({"subtract", "multiply", "maximum"}))
    def test_others_do_not(self, name):
        cases = search.binary_cases([name], 2)
        rng = np.random.default_rng(0)
        self.assertEmpty(search.differing(cases, rng))


if __name__ == "__main__":
    absltest.main()
