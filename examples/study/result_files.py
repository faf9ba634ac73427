"""Results as files: a folder that is whole or made anew."""

import hashlib
import json
import math
import pathlib

import keras
import numpy as np

RATIOS = (
    ("conv_ratio", "conv_weights"),
    ("ratio", "weights"),
    ("stored_ratio", "stored"),
)


def ratio(before, after):
    """The compression; infinite where a network has lost all its weights."""
    return before / after if after else math.inf


def compression(first, last):
    """What the last of some accounts holds, and its ratios to the first."""
    return {count: last[count] for _, count in RATIOS} | {
        name: ratio(first[count], last[count]) for name, count in RATIOS
    }


def fingerprint(data):
    """A few letters that other images or splits would change."""
    found = hashlib.sha256()
    for split in data.values():
        step = max(50, len(split.y) // 2000)
        found.update(np.ascontiguousarray(split.x[::step]).tobytes())
        found.update(np.ascontiguousarray(split.y).tobytes())
    return found.hexdigest()[:16]


def load_model(path):
    """A model without its optimizer."""
    return keras.models.load_model(path, compile=False)


def read(path, name="summary.json"):
    """What a JSON file in a folder holds, its summary if none is named."""
    return json.loads((path / name).read_text())


def read_arrays(path):
    """The arrays of an `.npz` file by their names, in their order."""
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def is_done(path, settings, name="summary.json"):
    """Whether what is in a folder was made from these settings."""
    try:
        found = json.loads((path / name).read_text())
    except (OSError, ValueError):
        return False
    return found.get("settings") == settings


def begin(path):
    """A folder that is empty, but for what another environment left."""
    for name in ("summary.json", "small.keras", "small.tflite"):
        (path / name).unlink(missing_ok=True)
    path.mkdir(parents=True, exist_ok=True)


def write_json(path, value):
    """Writes a JSON file that is there whole or not at all."""
    part = pathlib.Path(f"{path}.part")
    part.write_text(json.dumps(value, indent=1))
    part.replace(path)
