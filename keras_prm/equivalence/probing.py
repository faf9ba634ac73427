"""Probes: inputs to compare models on, and what the models make of them."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from keras_prm.equivalence import model_state
from keras_prm.equivalence import number_checks
from keras_prm.equivalence import random_inputs
from keras_prm.equivalence import tolerances
from keras_prm.utils import backend
from keras_prm.utils import datasets

_BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class Probe:
    """Inputs, and what a model makes of them.

    Args:
        arrays: list of arrays, one per input.
        outputs: list of arrays, one per output.
        text: What the inputs are, for people.
        is_random: bool, False for a user's inputs.
        zeros: list of arrays, one row of zeros; None where the model itself
            does not run on it.
        has_zeros: Whether that row is the last one of `arrays`.
        is_finite_on_zeros: Whether the model's outputs are finite there.
        problem: Why agreement on these says nothing, or `""`.
    """

    arrays: list
    outputs: list
    text: str
    is_random: bool = False
    zeros: list | None = None
    has_zeros: bool = False
    is_finite_on_zeros: bool = False
    problem: str = ""

    def __str__(self):
        if not self.is_random:
            return self.text
        zeros = "one of them zeros"
        if not self.has_zeros:
            zeros = "none of them zeros, on which the model is not finite"
        if self.zeros is None:
            zeros = "none of them zeros, which the model does not take"
        rows = len(self.arrays[0])
        return f"{rows} random samples, {zeros}: {self.text}"

    def without_zeros(self):
        """The same without the row of zeros."""
        if not self.has_zeros:
            return self
        return dataclasses.replace(
            self,
            arrays=[x[:-1] for x in self.arrays],
            outputs=[y[:-1] for y in self.outputs],
            has_zeros=False,
        )


def run_from_reset(view, arrays):
    """What a model computes from its first state on; as `run_model`."""
    model_state.reset(view)
    return run_model(view, arrays)


def run_model(view, arrays):
    """What a model computes at inference, a list of arrays.

    Args:
        view: A functional model, not compiled.
        arrays: list of arrays, one per input; of any number of rows, whatever
            the model's batch size is.
    """
    fixed, parts = view.inputs[0].shape[0], []
    for x, rows in datasets.portions(arrays, fixed or _BATCH_SIZE, bool(fixed)):
        structure = keras.tree.pack_sequence_as(view.input, tensors(x))
        with backend.full_precision():
            # Not by `predict`, whose compiler may take NaN for 0, and which
            # on JAX forgets states.
            found = view(structure, training=False)
        parts.append(
            [
                np.asarray(keras.ops.convert_to_numpy(y))[:rows]
                for y in keras.tree.flatten(found)
            ]
        )
    return [np.concatenate(ys) for ys in zip(*parts)]


def tensors(arrays):
    """Arrays as Keras takes them: words, and what is beside, as tensors alone.

    Args:
        arrays: A structure of arrays.
    """
    flat = keras.tree.flatten(arrays)
    if all(array.dtype.kind not in "OSU" for array in flat):
        return arrays
    return keras.tree.map_structure(keras.ops.convert_to_tensor, arrays)


def of_random(
    model, compute, num_rows=random_inputs.NUM_ROWS, seed=0, runs=None
):
    """Random inputs on which a model computes what can be compared.

    Those of `random_inputs.attempts` are taken in turn; the first ones win of
    which all outputs are finite and react, and which `runs` takes.

    Args:
        model: A functional or Sequential model.
        compute: Function from a list of arrays to the model's outputs.
        num_rows: int, see `random_inputs.attempts`.
        seed: int.
        runs: Function from a list of arrays to bool, what else must take
            them; None: nothing.

    Returns:
        `Probe`; the last row of its inputs is zeros, unless the model has no
        finite outputs there.

    Raises:
        ValueError: The model can run none of them.
    """
    best, most, first_error = None, -1, None
    perfect = 2 + (runs is not None)
    for drawn in random_inputs.attempts(model, num_rows, seed):
        try:
            _check_sizes(model, drawn.arrays)
            probe = _probe(drawn, compute)
        except Exception as error:
            first_error = first_error or error
            continue
        worth = _finite(probe.outputs)
        if worth == 1:
            worth += not probe.problem
        if worth == 2 and runs is not None:
            worth += runs([x[:-1] for x in drawn.arrays])
        if worth > most:
            best, most = probe, worth
        if worth == perfect:
            break
    if best is None:
        raise ValueError(
            f"Cannot run the model '{model.name}' on random inputs. Received: "
            f"{number_checks.one_line(first_error)}. Pass some real ones as "
            "`inputs`."
        ) from first_error
    return best


def _check_sizes(model, arrays):
    """Raises where the sizes chosen are too small for what comes after.

    TensorFlow computes something all the same.
    """
    if any(None in x.shape[1:] for x in model.inputs):
        found = [
            keras.KerasTensor((None, *array.shape[1:]), x.dtype)
            for array, x in zip(arrays, model.inputs)
        ]
        structure = keras.tree.pack_sequence_as(model.input, found)
        model.compute_output_spec(structure)


def _probe(drawn, compute):
    arrays, has_zeros = drawn.arrays, True
    zeros = [x[-1:] for x in arrays]
    try:
        outputs = compute(arrays)
    except Exception:
        arrays, has_zeros, zeros = [x[:-1] for x in arrays], False, None
        outputs = compute(arrays)
    probe = Probe(
        arrays, outputs, drawn.text, True, zeros, has_zeros, has_zeros
    )
    if has_zeros and _finite([y[-1:] for y in outputs]) < 1:
        probe = dataclasses.replace(
            probe.without_zeros(), is_finite_on_zeros=False
        )
    problem = tolerances.why_untested(probe.outputs)
    return dataclasses.replace(probe, problem=problem)


def _finite(outputs):
    """The share of finite numbers, in the output that has fewest."""
    shares = [
        tolerances.is_finite(y).mean() if y.size else 1.0 for y in outputs
    ]
    return float(min(shares))


def of_given(model, compute, arrays):
    """A user's inputs, and what a model makes of them.

    Args:
        model: A functional or Sequential model.
        compute: Function from a list of arrays to the model's outputs.
        arrays: list of arrays, one per input.

    Raises:
        ValueError: The model cannot run them.
    """
    try:
        outputs = compute(arrays)
    except Exception as error:
        raise ValueError(
            f"Cannot run the model '{model.name}' on the samples given. "
            f"Received: {number_checks.one_line(error)}. Pass samples as "
            "`inputs` that the model takes."
        ) from error
    problem = tolerances.why_untested(outputs)
    if problem and all((x == x[:1]).all() for x in arrays):
        # Equal inputs have equal outputs; others tell whether it is dead.
        try:
            problem = of_random(model, compute).problem
        except ValueError:
            problem = ""
        problem = tolerances.why_undefined(outputs) or problem
    text, zeros = _text_of(arrays), _zero_rows(arrays)
    try:
        is_finite = _finite(compute(zeros)) == 1
    except Exception:  # such as a model without a batch of its own
        zeros, is_finite = None, False
    return Probe(
        *(arrays, outputs, text, False, zeros),
        is_finite_on_zeros=is_finite,
        problem=problem,
    )


def _text_of(arrays):
    """What a user's inputs are, for people."""
    is_odd = np.zeros(len(arrays[0]), bool)
    for x in arrays:
        is_odd |= ~tolerances.is_finite(x).reshape(len(x), -1).all(axis=1)
    text = f"{len(arrays[0])} samples given"
    if is_odd.any():
        text += f", {is_odd.sum()} of them with NaN or infinity"
    return text


def _zero_rows(arrays):
    zeros = [np.zeros_like(x[:1]) for x in arrays]
    for array in zeros:
        if array.dtype.kind in "OSU":
            array[:] = ""
    return zeros
