"""Plans by what is kept, in numbers, rather than by what is removed."""

import fnmatch
import math

import keras_prm


def plan(model, keep, column_pattern="free", network=None):
    """The `SparsityPlan` that keeps so many filters and columns.

    What has less already keeps all of it.

    Args:
        model: The network, at any width.
        keep: dict from the name of a layer, or a pattern such as
            `"stage1_*_conv2"`, to `(filters, columns)`. Columns are counted
            in one filter, dead input channels left out. None keeps all, as
            do layers that are not named. Of layers whose filters can only
            fall together, one has to be named; the first match counts.
        column_pattern: See `keras_prm.SparsityPlan.explicit`.
        network: Where the model is what pruning has left of a network, that
            network: layers it has lost may still be named.

    Raises:
        ValueError: A pattern names no layer with a kernel.
    """
    layers = _with_kernels(model)
    names = list(layers if network is None else _with_kernels(network))
    idle = [p for p in keep if not fnmatch.filter(names, p)]
    if idle:
        raise ValueError(
            "Every pattern has to name a layer that has a kernel. "
            f"Received: {idle}. There are: {names}"
        )
    kept = {
        name: next(keep[p] for p in keep if fnmatch.fnmatchcase(name, p))
        for name in layers
        if any(fnmatch.fnmatchcase(name, p) for p in keep)
    }
    filters = {}
    for name, (number, _) in kept.items():
        size = layers[name].kernel.shape[-1]
        if number is not None:
            filters[name] = {"filters": 1 - min(number, size) / size}
    live = _live_columns(
        keras_prm.SparsityPlan.explicit(model, filters), layers
    )
    targets = {name: dict(filters.get(name, {})) for name in kept}
    for name, (_, number) in kept.items():
        if number is not None:
            share = min(number / live[name], 1.0)
            targets[name] |= {
                "columns": 1 - share,
                "column_pattern": column_pattern,
            }
    return keras_prm.SparsityPlan.explicit(model, targets)


def _with_kernels(model):
    return {
        layer.name: layer
        for layer in model.layers
        if getattr(layer, "kernel", None) is not None
    }


def _live_columns(plan, layers):
    """How many columns can be live where these filters are left."""
    share = {}
    for group in plan.groups:
        numbers = range(group.start, group.start + group.size)
        share |= dict.fromkeys(numbers, group.keep / group.size)
    found = {
        name: math.prod(layer.kernel.shape[:-1])
        for name, layer in layers.items()
    }
    for kernel in plan.kernels:
        name = kernel.key.split("/")[-2]
        shares = [share.get(number, 1.0) for number in kernel.in_classes]
        found[name] = round(found[name] * sum(shares) / len(shares))
    return found
