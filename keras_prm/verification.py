"""A certificate: how far a smaller model is from the one it came from."""

from __future__ import annotations

import dataclasses
import pathlib

import keras
import numpy as np

from keras_prm import backends
from keras_prm import conversion
from keras_prm import parity
from keras_prm import round_trips
from keras_prm import samples as samples_of
from keras_prm import tables
from keras_prm import topology
from keras_prm.costs import Costs
from keras_prm.costs import costs
from keras_prm.costs import saved_bytes
from keras_prm.litert import LiteRTModel


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far one candidate is from the model on one set of inputs.

    Args:
        candidate: `"stripped"`, `"litert"`, or `"saved"`: the stripped model
            as a process of its own loads it.
        inputs: `"random"` or `"given"`.
        samples: How many samples were compared.
        max_abs_error: Largest absolute difference of any output.
        max_rel_error: The largest of each output's error, divided by the
            largest absolute value of that output; see `parity`.
        tolerance: Largest `max_rel_error` that counts as rounding; `None`
            for a quantised file, which is not judged.
        note: What else is to be said, such as why it could not be compared.
    """

    candidate: str
    inputs: str
    samples: int
    max_abs_error: float
    max_rel_error: float
    tolerance: float | None
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the error is one of rounding, or not judged but finite.

        It is infinite where shapes differ, or outputs are NaN or infinite.
        """
        if self.tolerance is None:
            return bool(np.isfinite(self.max_rel_error))
        return self.max_rel_error <= self.tolerance


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What `verify` found. `print` shows it; `bool` is `ok`.

    Args:
        comparisons: Tuple of `Comparison`.
        before: `Costs` of the model.
        after: `Costs` of the stripped model.
        keras_bytes: Bytes of `.keras` files of both, without optimizer.
        litert_bytes: Bytes of the LiteRT file; `None` without one.
        saved_bytes: Bytes of the `.keras` file that was loaded again; `None`
            without one.
    """

    comparisons: tuple[Comparison, ...]
    before: Costs
    after: Costs
    keras_bytes: tuple[int, int]
    litert_bytes: int | None
    saved_bytes: int | None = None

    @property
    def ok(self) -> bool:
        """Whether everything equals the model up to rounding.

        A quantised LiteRT file is only held to be of finite error.
        """
        return all(c.ok for c in self.comparisons)

    @property
    def max_abs_error(self) -> float:
        """Largest error of the stripped model on any inputs."""
        return max(
            c.max_abs_error
            for c in self.comparisons
            if c.candidate == "stripped"
        )

    def __bool__(self):
        return self.ok

    def __str__(self):
        lines = [
            *self._verdicts(),
            "candidate  inputs   samples  max abs error  max rel error",
        ]
        lines += [
            f"{c.candidate:10} {c.inputs:7}  {c.samples:7}  "
            f"{c.max_abs_error:13.2e}  {c.max_rel_error:13.2e}"
            for c in self.comparisons
        ]
        lines.append("                       before         after  ratio")
        for name, before, after in self._sizes():
            ratio = f"{before / after:5.1f}x" if before and after else ""
            before, after = tables.number(before), tables.number(after)
            lines.append(f"{name:15} {before:>13} {after:>13} {ratio}".rstrip())
        if None in (self.before.macs, self.after.macs):
            lines.append("MACs are unknown where layers of your own compute.")
        return "\n".join(lines)

    def _verdicts(self):
        names = {"stripped": "stripped model", "litert": "LiteRT file"}
        names["saved"] = "saved model"
        if self.saved_bytes is not None:
            names["saved"] += f" of {self.saved_bytes:,} bytes"
        for candidate, name in names.items():
            found = [c for c in self.comparisons if c.candidate == candidate]
            if found:
                verdict = "equal up to rounding"
                limit = f"tolerance {found[0].tolerance}, relative"
                if found[0].tolerance is None:
                    verdict, limit = "quantised", "not judged"
                if not all(c.ok for c in found):
                    verdict = "DIFFERENT"
                if found[0].note:
                    limit = f"{limit}; {found[0].note}"
                    if found[0].max_abs_error == np.inf:
                        verdict, limit = "NOT LOADED", found[0].note
                yield f"The {name} is {verdict} ({limit})."

    def _sizes(self):
        yield "parameters", self.before.parameters, self.after.parameters
        yield (
            "CONV kernels",
            self.before.conv_parameters,
            self.after.conv_parameters,
        )
        yield "MACs", self.before.macs, self.after.macs
        yield ".keras bytes", *self.keras_bytes
        if self.litert_bytes is not None:
            yield ".tflite bytes", None, self.litert_bytes


def verify(
    model, small, tflite=None, inputs=None, seed=0, tolerance=None, saved=False
):
    """Compares a model with its stripped form, and with a LiteRT file.

    Args:
        model: The model before `strip`, with its weights at zero where they
            were pruned.
        small: The model after it.
        tflite: Path of the LiteRT file made from `small`, or `None`.
        inputs: Real inputs to compare on besides random ones: an array, or a
            structure of arrays as the model takes it. The first 256 samples
            are used. Defaults to `None`: random ones alone, which are 32
            samples, uniform in [-1, 1), integers 0 and 1.
        seed: Seed of the random inputs. Defaults to 0.
        tolerance: Largest error that counts as rounding, of each output,
            relative to its largest absolute value. `None` takes 1e-4 for the
            stripped model, 1e-3 for the file, whose kernels sum otherwise,
            1e-2 for one in float16, and more for a model that computes in
            half precision. A quantised file is measured and not judged.
        saved: Whether to save `small` as well, to load it in a process of
            its own, on the CPU, and to compare what that one computes. It
            takes as long as to import Keras anew. Layers of your own have to
            be importable there. Defaults to `False`.

    Returns:
        A `Certificate`. It says what was found and raises nothing if the
        models differ; test it with `if certificate:` or `certificate.ok`.

    Raises:
        TypeError: A model is subclassed.
        ValueError: The models' inputs or outputs have different shapes, or
            `inputs` do not fit them.
        FileNotFoundError: There is no such `tflite`.
        ImportError: `ai-edge-litert` is not installed, with `tflite`.
    """
    views = topology.plain(model), topology.plain(small)
    _check_signatures(*views)
    samples = {"random": _random_inputs(views[0], seed)}
    if inputs is not None:
        samples["given"] = _first(views[0], inputs)
    limits, runner = _limits(model, tolerance), None
    if tflite is not None:
        several = len(views[0].inputs) > 1
        names = conversion.input_names(small) if several else None
        runner = LiteRTModel(tflite, input_names=names)
        own = parity.FILE_TOLERANCES[runner.precision]
        if own is None:
            limits["litert"] = None
        elif tolerance is None:
            limits["litert"] = max(limits["stripped"], own)
    trip, limits["saved"], notes = None, limits["stripped"], {}
    if saved:
        trip = round_trips.once(small, list(samples.values()))
        notes["saved"] = trip.note
    comparisons = []
    for number, (kind, arrays) in enumerate(samples.items()):
        expected = _run(views[0], arrays)
        rows = len(arrays[0])
        results = {"stripped": _run(views[1], arrays)}
        if runner is not None:
            found = runner.predict(arrays if len(arrays) > 1 else arrays[0])
            results["litert"] = found if isinstance(found, list) else [found]
        if trip is not None:
            results["saved"] = trip.outputs[number] if trip.outputs else None
        for candidate, found in results.items():
            errors = [np.inf] * 2  # of a model that could not be loaded
            if found is not None:
                pairs = zip(expected, found, strict=True)
                each = (parity.errors(*pair) for pair in pairs)
                errors = map(max, zip(*each))
            limit, note = limits[candidate], notes.get(candidate, "")
            comparisons.append(
                Comparison(candidate, kind, rows, *errors, limit, note)
            )
    return Certificate(
        tuple(comparisons),
        costs(model),
        costs(small),
        (saved_bytes(model), saved_bytes(small)),
        None if tflite is None else pathlib.Path(tflite).stat().st_size,
        None if trip is None else trip.size,
    )


def _limits(model, tolerance):
    if tolerance is not None:
        return {"stripped": tolerance, "litert": tolerance}
    used = {layer.compute_dtype for _, layer in topology.layer_paths(model)}
    by_type = parity.MODEL_TOLERANCES
    found = [limit for name, limit in by_type.items() if name in used]
    limit = max(found, default=by_type["float32"])
    return {"stripped": limit}


def _run(view, arrays):
    structure = keras.tree.pack_sequence_as(view.input, arrays)
    size = view.inputs[0].shape[0] or 32
    with backends.full_precision():
        outputs = view.predict(structure, batch_size=size, verbose=0)
    return [np.asarray(x) for x in keras.tree.flatten(outputs)]


def _random_inputs(view, seed, samples=32):
    rng = np.random.default_rng(seed)
    samples = view.inputs[0].shape[0] or samples
    arrays = []
    for x in view.inputs:
        shape = (samples, *(n or 32 for n in x.shape[1:]))
        if "int" in x.dtype:
            arrays.append(rng.integers(0, 2, shape).astype(x.dtype))
        else:
            array = rng.uniform(-1, 1, shape).astype(x.dtype)
            if len(shape) == 3:  # steps of zeros, which layers may mask
                array[samples // 2 :, shape[1] // 2 :] = 0
            arrays.append(array)
    return arrays


def _first(view, inputs, samples=256):
    arrays = [
        samples_of.to_numpy(x)[:samples]
        for x in samples_of.in_order(view, inputs)
    ]
    expected = [tuple(x.shape[1:]) for x in view.inputs]
    if len(arrays) != len(expected) or any(
        len(a.shape) - 1 != len(e)
        or any(m not in (None, n) for n, m in zip(a.shape[1:], e))
        for a, e in zip(arrays, expected)
    ):
        raise ValueError(
            f"The inputs do not fit the model. Expected shapes {expected} "
            f"after the batch axis. Received: {[a.shape for a in arrays]}"
        )
    return arrays


def _check_signatures(view, small):
    for kind in ("inputs", "outputs"):
        shapes = [
            [tuple(x.shape[1:]) for x in getattr(m, kind)]
            for m in (view, small)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"The models have different {kind} and cannot be compared. "
                "Pass a model and what `strip` made of it. "
                f"Received: {shapes[0]} and {shapes[1]}"
            )
