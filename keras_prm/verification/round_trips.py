"""Round trips: models saved, and loaded in a process of their own."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

import numpy as np

from keras_prm.litert import conversion_process
from keras_prm.utils import backend
from keras_prm.verification import round_trip_worker


@dataclasses.dataclass(frozen=True, eq=False)
class RoundTrip:
    """What became of a model that was saved and loaded.

    Args:
        outputs: list of lists of arrays, the outputs for each set of inputs;
            empty if there are none.
        note: Why there are none, or how the file has to be loaded, or `""`.
        size: Bytes of the `.keras` file; `None` if it could not be written.
    """

    outputs: list
    note: str
    size: int | None


class Folder:
    """Saved models and inputs, to be loaded and run all in one process.

    Args:
        path: An empty folder.
    """

    def __init__(self, path):
        self._path = pathlib.Path(path)
        self._jobs = {}
        self._found = {}
        self._sizes = {}

    def add(self, name, model, sets, batch_size):
        """Saves a model.

        Args:
            name: What to call it by, unique.
            model: The model. It is saved without what it is compiled with.
            sets: list of lists of arrays, one per input of the model.
            batch_size: How many samples to run at a time.
        """
        path = self._path / f"{name}.keras"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of lambdas
                model.save(path, include_optimizer=False)
                custom, hidden = conversion_process.custom_parts(model)
        except Exception as error:
            self._fail(name, f"cannot be saved: {_short(error)}")
            return
        self._sizes[name] = path.stat().st_size
        if hidden:
            self._fail(
                name,
                "no other process can import "
                f"{', '.join(sorted(hidden))}: move this to the top level of a "
                "file of its own, and import it from there",
            )
            return
        arrays = {
            f"{number}_{position:03}": _storable(x)
            for number, inputs in enumerate(sets)
            for position, x in enumerate(inputs)
        }
        path = self._path / f"{name}{round_trip_worker.INPUTS}"
        np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
        self._jobs[name] = {
            "custom_objects": custom,
            "sets": len(sets),
            "batch_size": batch_size,
        }

    def load(self):
        """Loads and runs what was added since the last time.

        Returns:
            dict from name to `RoundTrip`.
        """
        if self._jobs:
            self._run()
        found, self._found, self._jobs = self._found, {}, {}
        return found

    def _run(self):
        request = self._path / round_trip_worker.REQUEST
        settings = backend.process_settings()
        request.write_text(
            json.dumps({"settings": settings, "jobs": self._jobs})
        )
        result = subprocess.run(
            [sys.executable, "-P", round_trip_worker.__file__, self._path],
            env=backend.process_environment() | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        for name, job in self._jobs.items():
            outputs, note, error = (
                self._path / f"{name}{kind}"
                for kind in (
                    round_trip_worker.OUTPUTS,
                    round_trip_worker.NOTE,
                    round_trip_worker.ERROR,
                )
            )
            if outputs.exists():
                with np.load(outputs) as arrays:
                    sets = [
                        _arrays_of_set(arrays, n) for n in range(job["sets"])
                    ]
                self._found[name] = RoundTrip(
                    sets, note.read_text(), self._sizes[name]
                )
            elif error.exists():
                self._fail(name, f"cannot be loaded: {error.read_text()}")
            else:
                self._fail(
                    name,
                    f"the process ended with code {result.returncode}; a "
                    "negative one is a signal, -9 often a lack of memory. It "
                    f"said: {result.stderr[-300:]!r}",
                )

    def _fail(self, name, note):
        self._found[name] = RoundTrip([], note, self._sizes.get(name))


def once(model, sets):
    """Saves one model, loads it in another process, and runs it there.

    Args:
        model: The model.
        sets: list of lists of arrays, one per input of the model.

    Returns:
        A `RoundTrip`.
    """
    batch_size = model.inputs[0].shape[0] or 32
    with tempfile.TemporaryDirectory() as path:
        folder = Folder(path)
        folder.add("model", model, sets, batch_size)
        return folder.load()["model"]


def _arrays_of_set(arrays, number):
    """The arrays of one set, in order."""
    names = [name for name in arrays.files if name.startswith(f"{number}_")]
    return [round_trip_worker.from_file(arrays[name]) for name in names]


def _storable(array):
    array = np.asarray(array)
    if array.dtype.kind == "V":
        return array.astype("float32")
    return round_trip_worker.for_file(array)


def _short(error):
    text = " ".join(str(error).split())
    text = text if len(text) < 300 else f"{text[:150]} ... {text[-100:]}"
    return f"{type(error).__name__}: {text}"
