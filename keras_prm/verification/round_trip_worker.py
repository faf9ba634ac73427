"""The process that loads saved models; it knows Keras alone.

Run as a script. It imports keras_prm only if a model consists of layers of
it: what `strip` returns loads without.
"""

import importlib
import json
import pathlib
import sys

REQUEST = "request.json"
INPUTS = ".inputs.npz"
OUTPUTS = ".outputs.npz"
NOTE = ".note.txt"
ERROR = ".error.txt"


def main(folder):
    """Loads each model of a folder, and writes its outputs or an error.

    Args:
        folder: What `round_trips.Folder` has filled.
    """
    folder = pathlib.Path(folder)
    request = json.loads((folder / REQUEST).read_text())
    # Stock layers first: they shall not need what the others import.
    jobs = sorted(request["jobs"].items(), key=_needs_more)
    sys.modules["keras_prm"] = None  # pyright: ignore[reportArgumentType]
    _set(request["settings"])
    for name, job in jobs:
        if job["custom_objects"] and sys.modules["keras_prm"] is None:
            del sys.modules["keras_prm"]
        try:
            _run_job(folder, name, job)
        except Exception as error:
            (folder / f"{name}{ERROR}").write_text(_error_text(error))


def _set(settings):
    import keras

    for name, value in settings.items():
        getattr(keras.config, f"set_{name}")(value)


def _needs_more(item):
    return len(item[1]["custom_objects"]) > 0


def _run_job(folder, name, job):
    import keras
    import numpy as np

    with np.load(folder / f"{name}{INPUTS}") as arrays:
        inputs = {key: from_file(arrays[key]) for key in arrays.files}
    found, note = {}, ""
    for number in range(job["sets"]):  # anew, for what it remembers
        path = folder / f"{name}.keras"
        model, note = _load_and_note(keras, path, job["custom_objects"])
        own = [x for key, x in inputs.items() if key.startswith(f"{number}_")]
        outputs = _batched_outputs(keras, model, own, job["batch_size"])
        for position, y in enumerate(outputs):
            found[f"{number}_{position:03}"] = y
        del model
        keras.backend.clear_session()
    (folder / f"{name}{NOTE}").write_text(note)
    np.savez(folder / f"{name}{OUTPUTS}", **found)


def _load_and_note(keras, path, names):
    """A model, and what is to be said of how it is loaded."""
    custom_objects = {}
    for key, module, name in names:
        custom_objects[key] = getattr(importlib.import_module(module), name)
    load = keras.models.load_model
    try:
        return load(path, custom_objects, compile=False), ""
    except ValueError as error:
        if "safe_mode" not in str(error):
            raise
    model = load(path, custom_objects, compile=False, safe_mode=False)
    return model, "loads with `safe_mode=False` only, for its lambdas"


def _batched_outputs(keras, model, arrays, batch_size):
    """The outputs as NumPy arrays, computed batch by batch."""
    import numpy as np

    parts, rows = [], len(arrays[0])
    is_fixed = model.inputs[0].shape[0] is not None
    for start in range(0, rows, batch_size):
        picked = np.arange(start, start + batch_size)
        kept = int((picked < rows).sum())
        # The last row fills up the last batch, where it has to be whole.
        picked = np.minimum(picked, rows - 1) if is_fixed else picked[:kept]
        batch = [
            _input_tensor(keras, array[picked], x.dtype)
            for array, x in zip(arrays, model.inputs, strict=True)
        ]
        if not isinstance(model, keras.Sequential):
            batch = keras.tree.pack_sequence_as(model.input, batch)
        else:
            (batch,) = batch
        results = keras.tree.flatten(model(batch, training=False))
        parts.append([_as_array(keras, y)[:kept] for y in results])
    return [np.concatenate(ys) for ys in zip(*parts)]


def _input_tensor(keras, array, dtype):
    if dtype == "string":
        import tensorflow as tf

        return tf.constant(array)
    return keras.ops.convert_to_tensor(array, dtype)


def _as_array(keras, y):
    """A result as an array that a file can hold."""
    if keras.backend.standardize_dtype(y.dtype) == "bfloat16":
        y = keras.ops.cast(y, "float32")
    return for_file(keras.ops.convert_to_numpy(y))


def for_file(array):
    """An array that `numpy.savez` writes as it is: words as ended bytes."""
    import numpy as np

    if array.dtype.kind not in "OSU":
        return array
    words = [
        word if isinstance(word, bytes) else str(word).encode()
        for word in array.flat
    ]
    # NumPy strips zeros off the ends of bytes.
    return np.array([w + b"." for w in words], "S").reshape(array.shape)


def from_file(array):
    """What was given to `for_file`; words are an array of `bytes`."""
    import numpy as np

    if array.dtype.kind != "S":
        return array
    words = np.empty(array.shape, object)
    words.flat = [  # pyright: ignore[reportAttributeAccessIssue]
        word[:-1] for word in array.flat
    ]
    return words


def _error_text(error):
    """The cause of an error; Keras puts it last, after whole configs."""
    text = " ".join(str(error).split())
    text = text.rpartition("Exception encountered:")[2].strip() or text
    if len(text) > 400:
        text = f"{text[:200]} ... {text[-150:]}"
    return f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    main(sys.argv[1])
