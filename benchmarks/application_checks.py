"""Prunes and strips one model of keras.applications, and measures it."""

import collections
import math
import re
import time

import keras
import numpy as np

import keras_prm
from benchmarks import application_models
from keras_prm.analysis.trace import trace
from keras_prm.verification import round_trips

FILTERS = 0.5
TOLERANCE = 1e-4
SHARE = 0.5


def check(name, size=None, seed=0, batch_size=2, saved=False):
    """Takes one model through plan, `hard_prune` and `strip`.

    Args:
        name: A constructor of `keras.applications`.
        size: Height and width of the images; `None` takes the default.
        seed: Seed of weights and images.
        batch_size: Images that the outputs are compared on.
        saved: Whether to save the stripped model as well, and to load it in
            a process of its own.

    Returns:
        dict of what was measured, made of plain Python objects. `passed` is
        True where the stripped model computes the same, up to `TOLERANCE`
        of the largest output, and at least `SHARE` of the prunable weights
        are gone.
    """
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    model = application_models.build(name, size)
    application_models.randomize(model, rng)
    plan, plan_seconds = timed(
        keras_prm.SparsityPlan.uniform, model, filters=FILTERS
    )
    masks, prune_seconds = timed(keras_prm.hard_prune, model, plan)
    few = max(1, 512 // model.input_shape[1])
    x = application_models.images(model, few, rng)
    application_models.settle(model, x, rng)
    (small, report), strip_seconds = timed(
        keras_prm.strip, model, return_report=True
    )
    x = application_models.images(model, batch_size, rng)
    row = {
        "model": name,
        "size": model.input_shape[1],
        "seed": seed,
        "layers": len(model.layers),
        "parameters": [report.weights_before, report.weights_after],
        "macs": [keras_prm.costs(m).macs for m in (model, small)],
        "seconds": {
            "plan": round(plan_seconds, 3),
            "hard_prune": round(prune_seconds, 3),
            "strip": round(strip_seconds, 3),
        },
        **shares(trace(model), masks, report),
        **differences(model, small, x),
    }
    row["passed"] = row["max_error"] <= TOLERANCE and row["share"] >= SHARE
    if saved:
        row["saved"] = round_trip(small, x)
        row["passed"] &= row["saved"]["error"] <= TOLERANCE
    return row


def round_trip(small, x):
    """What a model computes once it is saved and loaded elsewhere.

    Returns:
        dict with `error`, see `relative`, infinite if it does not load;
        `note`, what is to be said of it; `bytes` of the file.
    """
    trip = round_trips.once(small, [[x]])
    error = math.inf
    if trip.outputs:
        error = relative(outputs(small, x), trip.outputs[0][0])
    return {"error": error, "note": trip.note, "bytes": trip.size}


def timed(function, *args, **kwargs):
    """The result of a call, and the seconds that it took."""
    start = time.perf_counter()
    result = function(*args, **kwargs)
    return result, time.perf_counter() - start


def differences(model, small, x):
    """How far the outputs of two models lie apart, and those of two images.

    Returns:
        dict with `max_error`, the largest difference in proportion to the
        largest output (or to 1 where that is smaller), and `spread`, the
        same for the outputs of the first two images: outputs that hardly
        depend on the input would prove little.
    """
    want, have = outputs(model, x), outputs(small, x)
    scale = max(1.0, np.abs(want).max())
    return {
        "max_output": float(np.abs(want).max()),
        "max_error": relative(want, have),
        "spread": float(np.abs(want[0] - want[1]).max() / scale),
    }


def relative(want, have):
    """The largest difference, in proportion to the largest number, or to 1."""
    return float(np.abs(want - have).max() / max(1.0, np.abs(want).max()))


def outputs(model, x):
    """Outputs in double precision, one image after the other.

    Keras holds all activations of a call at once, and at 600 x 600 pixels
    they are gigabytes per image.
    """
    parts = [
        keras.ops.convert_to_numpy(model(x[i : i + 1])) for i in range(len(x))
    ]
    return np.concatenate(parts).astype("float64")


def shares(graph, masks, report):
    """What of a model can go, what the masks let go, and what went.

    Returns:
        dict with `classes` and `pinned`, numbers of channel classes;
        `reasons`, see `reasons`; `prunable` and `planned`, the weights on a
        position of a class that is not pinned, and of one that the masks
        remove; `gone`, the weights that the stripped model stores no more;
        `share`, gone in proportion to prunable.
    """
    free = np.ones(graph.num_classes, bool)
    free[list(graph.pinned)] = False
    prunable = touched(graph, free)
    gone = report.weights_before - report.weights_after
    return {
        "classes": graph.num_classes,
        "pinned": len(graph.pinned),
        "reasons": reasons(graph),
        "prunable": prunable,
        "planned": touched(graph, dead_classes(graph, masks)),
        "gone": gone,
        "share": gone / prunable if prunable else math.nan,
    }


def touched(graph, classes):
    """Number of weights that lie on a position of one of the classes.

    Args:
        graph: A finished `DependencyGraph`.
        classes: bool array, one entry per channel class.
    """
    total = 0
    for weight in graph.weights.values():
        shape = tuple(weight.variable.shape)
        others = [
            size if ids is None else int((~classes[graph.classes[ids]]).sum())
            for size, ids in zip(shape, weight.ids)
        ]
        total += math.prod(shape) - math.prod(others)
    return total


def dead_classes(graph, masks):
    """bool array: the channel classes whose filters the masks remove."""
    weights = {w.key: w for w in graph.weights.values()}
    dead = np.zeros(graph.num_classes, bool)
    for key, mask in masks.kernels.items():
        ids = weights[key].ids[-1]
        if ids is not None:
            dead[graph.classes[ids[~mask.filters]]] = True
    return dead


def reasons(graph):
    """Why classes are pinned: dict from reason to `[classes, places]`."""

    def kind(reason):
        """A reason without the name of the place where it holds."""
        if reason.startswith("its width is that of"):
            return "width of a layer without a rule"
        return re.sub(r"^'[^']*': ", "", reason)

    classes = collections.Counter(map(kind, graph.pinned.values()))
    places = collections.Counter(map(kind, {*graph.pinned.values()}))
    return {why: [n, places[why]] for why, n in classes.most_common()}
