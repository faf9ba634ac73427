"""What a summary says of the files beside it, and whether it is so."""

import hashlib
import json

import keras_prm
from examples.study import measuring
from examples.study import result_files

FILES = ("small.keras", "small.tflite", "int8.tflite")


def measured(folder, test, dense, top=None):
    """What a summary says of its files, measured anew.

    Args:
        folder: Where the files are.
        test: The `Split` of the test images.
        dense: Counts of the dense network, for the ratios.
        top: See `measuring.shares_right`.
    """
    model = result_files.load_model(folder / "small.keras")
    counts = keras_prm.costs(model)
    found = {
        "conv_weights": counts.conv_weights,
        "weights": counts.kernel_weights,
        "stored": counts.parameters,
        "macs": counts.macs,
        "tflite_bytes": (folder / "small.tflite").stat().st_size,
    }
    for ratio, count in result_files.RATIOS:
        found[ratio] = result_files.ratio(dense[count], found[count])
    logits = {"small.keras": measuring.logits_of(model, test)}
    for name in FILES[1:]:
        logits[name] = measuring.file_logits(folder / name, test)
    shares = {
        name: measuring.shares_right(values, test.y, top)
        for name, values in logits.items()
    }
    if top is not None:
        found[f"test_top{top}"] = {n: s[f"top{top}"] for n, s in shares.items()}
    accuracies = {n: s["accuracy"] for n, s in shares.items()}
    return found | {
        "test_accuracy": accuracies["small.tflite"],
        "test_accuracies": accuracies,
        "files": {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in FILES
        },
    }


def differences(summary, found, tolerance=2e-4):
    """Where measurements differ from claims, a list of texts.

    Shares and ratios may differ by `tolerance`. All else has to agree.
    """
    claims, values = _flat(summary), _flat(found)
    return [
        f"{name}: claims {claims.get(name)}, has {value}"
        for name, value in values.items()
        if not _agree(claims.get(name), value, tolerance)
    ]


def _flat(summary):
    found = {}
    for name, value in summary.items():
        inner = value if isinstance(value, dict) else {"": value}
        found |= {f"{name} {key}".strip(): v for key, v in inner.items()}
    return found


def _agree(claim, value, tolerance):
    if isinstance(value, float) and isinstance(claim, float):
        return abs(claim - value) <= tolerance
    return claim == value


def check(results, images):
    """Prints what the shipped models do; the number of false claims.

    Args:
        results: The folder that they are in, or in folders of.
        images: Function of a size and a margin, see `image_bytes.load`, that
            returns the `Split` of the test images.
    """
    paths = sorted(results.rglob("summary.json"))
    if not paths:
        raise SystemExit(f"Nothing is shipped in {results}. Mind --results.")
    wrong = 0
    for path in paths:
        summary = json.loads(path.read_text())
        size = result_files.load_model(path.parent / FILES[0]).input_shape[1]
        test = images(size, summary["settings"].get("margin", 0))
        found = measured(
            path.parent, test, summary["stages"][0], summary.get("top")
        )
        # Another processor may round a logit otherwise.
        texts = differences(summary, found, max(2e-4, 2 / len(test.y)))
        wrong += len(texts)
        accuracies = ", ".join(
            f"{name} {100 * value:.2f}"
            for name, value in found["test_accuracies"].items()
        )
        print(f"{path.parent.name}: {accuracies}; {found['stored']:,} stored")
        for text in texts:
            print(f"  FALSE: {text}")
    return wrong
