"""Random models for `strip`: programs, how they are drawn and built.

A program is a literal: printed, it can be pasted and built again. Every
program is valid. Its steps pick among the tensors they apply to, and one that
applies to none is left out, so that taking steps away, as shrinking does,
leaves a program.
"""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
from hypothesis import strategies as st
from keras import ops

from tests.helpers import zoo
from tests.helpers.fuzz_rows import KERNELS
from tests.helpers.fuzz_rows import ROWS
from tests.helpers.fuzz_rows import Row

MAX_SIZE = 1500


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of a program.

    Args:
        name: A row of `ROWS`, or of `MODELS` below.
        operands: Which of the tensors that fit, from the last one: (0, 0)
            are the last two.
        options: The arguments of the row.
    """

    name: str
    operands: tuple = (0,)
    options: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Program:
    """A model with weights.

    Args:
        inputs: Shapes without the batch; of integers if it starts with
            `"int"`, as in `("int", 5)`.
        steps: The steps, in order.
        zeros: Names in `ZEROS`, one per layer with a kernel, over and over.
        seed: Of the weights, and of which of them are zero.
        inner: Which further tensor is an output, or `None`.
        named: Whether inputs and outputs are dicts.
        head: Whether a Dense layer reads what would be outputs, so that
            their channels can go.
    """

    inputs: tuple
    steps: tuple
    zeros: tuple = ("none",)
    seed: int = 0
    inner: int | None = None
    named: bool = False
    head: bool = False


# Building.


def build(program):
    """The model of a program, its weights drawn and zeroed."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(program.seed)
    names = [f"in{i}" for i, _ in enumerate(program.inputs)]
    inputs = [_input(s, n) for s, n in zip(program.inputs, names)]
    graph = _Graph(inputs)
    graph.run(program.steps)
    outputs = graph.leaves()[-3:]
    if program.head:
        outputs = [_head(y) for y in outputs]
    if program.inner is not None:
        inner = graph.tensors[program.inner % len(graph.tensors)]
        outputs = [y for y in outputs if y is not inner] + [inner]
    if program.named:
        inputs = dict(zip(names, inputs))
        outputs = {f"out{i}": y for i, y in enumerate(outputs)}
    elif len(outputs) == 1:
        outputs = outputs[0]
    model = keras.Model(inputs, outputs)
    zoo.randomize(model, program.seed)
    write_zeros(model, program.zeros, program.seed)
    return model


def trace(program):
    """The steps of a program that are built, one line each."""
    inputs = [_input(s, None) for s in program.inputs]
    graph = _Graph(inputs)
    graph.run(program.steps)
    return graph.lines


def _input(shape, name):
    if shape[0] == "int":
        return keras.Input(shape[1:], dtype="int32", name=name)
    return keras.Input(shape, name=name)


def _head(x):
    is_float = x.dtype.startswith("float") and x.shape[-1] is not None
    return keras.layers.Dense(2)(x) if is_float else x


class _Graph:
    """The tensors of a program while it is built."""

    def __init__(self, tensors):
        self.tensors = list(tensors)
        self.calls = []
        self.lines = []
        self._read = set()

    def run(self, steps):
        for step in steps:
            operands = self._operands(step)
            if operands:
                self._call(step, operands)

    def leaves(self):
        return [x for x in self.tensors if id(x) not in self._read]

    def _operands(self, step):
        """The tensors that a step takes, or `None` if there are none."""
        row = (ROWS | MODELS)[step.name]
        if step.name == "Shared":
            return self._pick(step, 0, lambda x: self._shared(x))
        first = self._pick(step, 0, lambda x: _takes(row, x))
        if first is None:
            return None
        found = [first[0]]
        for i in range(1, row.arity):
            other = self._pick(
                step,
                i,
                lambda x: _takes(row, x) and row.matches(_of(first), _of([x])),
            )
            if other is None:
                return None
            found += other
        return found

    def _pick(self, step, i, fits):
        found = [x for x in reversed(self.tensors) if fits(x)]
        if not found:
            return None
        index = step.operands[i] if i < len(step.operands) else 0
        return [found[(i + index) % len(found)]]

    def _shared(self, x):
        """What was called already, on operands of the shape of `x`."""
        return [f for f, key in self.calls if key == (tuple(x.shape), x.dtype)]

    def _call(self, step, operands):
        try:
            function = self._function(step, operands)
            outputs = keras.tree.flatten(function(*operands))
        except Exception:  # Each backend refuses by errors of its own.
            return
        if not all(map(_is_small, outputs)):
            return
        if len(operands) == 1:
            key = (tuple(operands[0].shape), operands[0].dtype)
            self.calls.append((function, key))
        self._note(step, operands, outputs)
        self._read.update(id(x) for x in operands)
        known = {id(x) for x in self.tensors}
        self.tensors += [y for y in outputs if id(y) not in known]

    def _function(self, step, operands):
        if step.name == "Shared":
            found = self._shared(operands[0])
            return found[step.options.get("which", 0) % len(found)]
        row = (ROWS | MODELS)[step.name]
        return row.make(_of(operands), **step.options)

    def _note(self, step, operands, outputs):
        found = [*self.tensors, *outputs]
        names = [
            ", ".join(f"x{_index(found, y)}" for y in xs)
            for xs in (outputs, operands)
        ]
        options = ", ".join(f"{k}={v!r}" for k, v in step.options.items())
        shapes = ", ".join(str(tuple(y.shape)) for y in outputs)
        self.lines.append(
            f"{names[0]} = {step.name}({options})({names[1]})  # {shapes}"
        )


def _index(tensors, x):
    return next(i for i, y in enumerate(tensors) if y is x)


def _of(tensors):
    return tuple(tensors[0].shape[1:])


def _takes(row, x):
    return (
        len(x.shape) in row.ranks
        and x.dtype.startswith(row.dtype)
        and None not in x.shape[1:]
    )


def _is_small(x):
    size = np.prod(x.shape[1:]) if None not in x.shape[1:] else 0
    return 1 <= len(x.shape[1:]) and 0 < size <= MAX_SIZE


def _nested(shape, steps, sequential):
    """A model of the steps; a Sequential one if they are single layers."""
    inner = keras.Input(shape)
    graph = _Graph([inner])
    graph.run(steps)
    found = [f for f, _ in graph.calls]
    if sequential:
        found = [f for f in found if isinstance(f, keras.layers.Layer)]
        return keras.Sequential([keras.Input(shape), *_unique(found)])
    outputs = graph.leaves()[-2:]
    if not graph.lines:
        raise ValueError("none of the steps applies")
    return keras.Model(inner, outputs[0] if len(outputs) == 1 else outputs)


def _unique(items):
    return list({id(x): x for x in items}.values())


_ANY = (2, 3, 4)
MODELS = {
    "Shared": Row(None, _ANY, {"which": st.integers(0, 3)}, weight=12),
    "Nested": Row(
        lambda shape, steps: _nested(shape, steps, False),
        _ANY,
        {"steps": st.deferred(lambda: _few_steps())},
        weight=4,
    ),
    "Sequential": Row(
        lambda shape, steps: _nested(shape, steps, True),
        _ANY,
        {"steps": st.deferred(lambda: _few_steps())},
        weight=2,
    ),
}

# Weights.


def _half(rng, size):
    return rng.random(size) < 0.5


def _kernels(weights):
    return [v for v in weights if len(v.shape) > 1]


def _filters(weights, rng, vectors=False):
    for kernel in _kernels(weights):
        which = _half(rng, kernel.shape[-1])
        for v in weights if vectors else [kernel]:
            if v is kernel or tuple(v.shape) == which.shape:
                _edit(v, ..., which)


def _inputs(weights, rng):
    for kernel in _kernels(weights):
        _edit(kernel, ..., _half(rng, kernel.shape[-2]), slice(None))


def _columns(weights, rng):
    for kernel in _kernels(weights):
        _edit(kernel, _half(rng, kernel.shape[:-1]))


def _borders(weights, rng):
    for kernel in _kernels(weights):
        if len(kernel.shape) > 2:
            side = slice(0, 1) if rng.random() < 0.5 else slice(-1, None)
            _edit(kernel, side)
            if len(kernel.shape) > 3:
                _edit(kernel, slice(None), slice(1, None))


def _vectors(weights, rng):
    for v in weights:
        if len(v.shape) == 1 and "moving" not in v.path:
            _edit(v, _half(rng, v.shape[0]))


def _all_kernels(weights, rng):
    del rng
    for kernel in _kernels(weights):
        _edit(kernel, ...)


def _all(weights, rng):
    del rng
    for v in weights:
        if "moving_variance" not in v.path:
            _edit(v, ...)


def _filters_and_inputs(weights, rng):
    _filters(weights, rng)
    _inputs(weights, rng)


ZEROS = {
    "none": lambda weights, rng: None,
    "filters": _filters,
    "inputs": _inputs,
    "vectors": _vectors,
    "filters and inputs": _filters_and_inputs,
    "filters and vectors": lambda w, rng: _filters(w, rng, vectors=True),
    "columns": _columns,
    "borders": _borders,
    "all kernels": _all_kernels,
    "all": _all,
}


def _edit(variable, *index):
    value = np.array(ops.convert_to_numpy(variable))
    value[index] = 0
    variable.assign(value)


def write_zeros(model, names, seed):
    """Zeroes the weights of each layer by the next of the names."""
    groups = {}
    for variable in model.trainable_weights:
        groups.setdefault(variable.path.rpartition("/")[0], []).append(variable)
    for i, weights in enumerate(groups.values()):
        rng = np.random.default_rng((seed, i))
        ZEROS[names[i % len(names)]](weights, rng)


def arrays(program, model, batch=11):
    """Random inputs; the last step of the first sequence is masked.

    The batch is larger than widths are: backends may take another way where
    it is as large as one of them.
    """
    rng = np.random.default_rng(program.seed)

    def array(x):
        shape = (batch, *x.shape[1:])
        if x.dtype.startswith("int"):
            return rng.integers(0, 9, shape).astype(x.dtype)
        value = rng.normal(size=shape).astype("float32")
        if len(shape) == 3:
            value[0, -1] = 0
        return value

    return keras.tree.map_structure(array, model.input)


# Drawing.


def names(models=True):
    """The names of all rows, each as often as its weight says."""
    rows = ROWS | (MODELS if models else {})
    return [name for name, row in rows.items() for _ in range(row.weight)]


@st.composite
def _step(draw, names):
    """One step, of one of the names."""
    name = draw(st.sampled_from(names))
    row = (ROWS | MODELS)[name]
    count = 1 if name == "Shared" else row.arity
    operands = draw(st.tuples(*[_OPERAND] * count))
    return Step(name, operands, draw(st.fixed_dictionaries(row.options)))


_OPERAND = st.sampled_from((0, 0, 0, 0, 1, 1, 2, 3))


def _few_steps():
    found = st.lists(_step(names(False)), min_size=1, max_size=4)
    return found.map(tuple)


_CHANNELS = st.integers(2, 6)
_LENGTH = st.integers(4, 7)
SHAPES = (
    st.tuples(_LENGTH, _LENGTH, _CHANNELS),
    st.tuples(_LENGTH, _CHANNELS),
    st.tuples(_CHANNELS),
    st.tuples(_LENGTH, _LENGTH, _CHANNELS),
    st.tuples(_LENGTH, _CHANNELS),
    st.tuples(st.just("int"), _LENGTH),
    st.tuples(st.just(4), st.just(4), st.just(4), st.integers(2, 3)),
)


def programs(rows=None, max_blocks=9, shapes=SHAPES):
    """Programs.

    Args:
        rows: Names of the rows to draw from, all by default.
        max_blocks: The largest number of steps with a kernel.
        shapes: Strategies of shapes of inputs.
    """
    one = st.one_of(*shapes)
    return st.builds(
        Program,
        inputs=st.one_of(_tuples(one, 1, 1), _tuples(one, 1, 3)),
        steps=_steps(list(rows or names()), max_blocks),
        zeros=_tuples(st.sampled_from([*["filters"] * 8, *ZEROS]), 1, 5),
        seed=st.integers(0, 99),
        inner=st.sampled_from((None, None, None, 0, 1, 2, 3)),
        named=st.booleans(),
        head=st.sampled_from((False, True, True, True)),
    )


def _steps(rows, size):
    """Blocks of a step with a kernel and a few others.

    Many kernels, as only between two of them a channel can go, and blocks, as
    a list is seldom drawn as long as this.
    """
    kernels = [n for n in rows if n in KERNELS]
    block = _tuples(_step(rows), 0, 2)
    if kernels:
        first = _step(kernels).map(lambda step: (step,))
        block = st.tuples(first, block).map(lambda parts: sum(parts, ()))
    blocks = st.lists(block, min_size=1, max_size=size)
    return blocks.map(lambda parts: sum(parts, ()))


def _tuples(strategy, low, high):
    return st.lists(strategy, min_size=low, max_size=high).map(tuple)
