"""Checkpoint files that a killed process leaves whole."""

from __future__ import annotations

import json
import pathlib

import numpy as np

from keras_prm.utils import atomic_files
from keras_prm.version import __version__

FORMAT = 1


def prepare(path: pathlib.Path):
    """Makes sure, before a long training, that `path` can be written.

    Makes the folder, and removes the temporary files of killed processes.

    Raises:
        ValueError: `path` is a folder.
        OSError: The folder cannot be made or written to.
    """
    if path.is_dir():
        raise ValueError(
            "A checkpoint is a file, and this is a folder. "
            f"Received: filepath={str(path)!r}. Name a file in it, such as "
            f"{str(path / 'training.npz')!r}."
        )
    probe = atomic_files.temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for entry in path.parent.iterdir():
            if entry.name.startswith(f".{path.name}.") and (
                entry.suffix == ".tmp"
            ):
                entry.unlink(missing_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"Cannot write checkpoints to {path.parent}: {error}. Give "
            "`AtomicCheckpoint` a path in a folder that can be written to. "
            f"Received: filepath={str(path)!r}"
        ) from error


def write(path: pathlib.Path, header: dict, arrays: list[np.ndarray]):
    """Replaces the file at `path` in one step.

    Args:
        path: The file.
        header: What `json` can write; `read` returns it with the keys
            `"format"`, `"version"` and `"arrays"` added.
        arrays: Arrays of any dtype; those of `ml_dtypes` too.

    Raises:
        OSError: The disk is full, say. The old file is as it was.
    """
    header = header | {
        "format": FORMAT,
        "version": __version__,
        "arrays": [[a.dtype.name, list(a.shape)] for a in arrays],
    }
    # As bytes, since `.npz` files forget what bfloat16 is.
    entries = {str(i): _as_bytes(a) for i, a in enumerate(arrays)}
    entries["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    with atomic_files.replacing(path) as temporary:
        with open(temporary, "wb") as file:
            np.savez(file, **entries)  # pyright: ignore[reportArgumentType]


def read(path: pathlib.Path):
    """What `write` wrote: `(header, arrays)`.

    Raises:
        ValueError: The file is no checkpoint, is damaged, or is of a format
            that only another version knows. It is left as it is.
    """
    try:
        # Every part has a checksum, which NumPy compares as it reads.
        # NumPy would leave a damaged file open, were it to open it.
        with open(path, "rb") as file, np.load(file) as data:
            header = json.loads(data["header"].tobytes())
            known = header["format"] == FORMAT
            rows = header["arrays"] if known else []
            arrays = [
                data[str(i)].view(np.dtype(dtype)).reshape(shape)
                for i, (dtype, shape) in enumerate(rows)
            ]
    except FileNotFoundError:
        raise
    # A damaged archive fails in too many ways to name them.
    except Exception as error:
        raise ValueError(
            f"{path} is no checkpoint, or is damaged ({type(error).__name__}: "
            f"{error}). Expected a file that `AtomicCheckpoint` wrote. Delete "
            "it to train from the beginning, or give another path."
        ) from error
    if not known:
        raise ValueError(
            f"Expected a checkpoint of format {FORMAT}. Received: {path}, "
            f"of format {header['format']}, which keras_prm "
            f"{header['version']} wrote. Use that version, or delete the "
            "file to train from the beginning."
        )
    return header, arrays


def _as_bytes(array):
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
