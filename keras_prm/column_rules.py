"""The rule of `GatherColumns`: columns stand and fall with their channel."""

from __future__ import annotations

import numpy as np

from keras_prm import constants
from keras_prm.sites import Rule
from keras_prm.sites import read_others


def gather_columns(site):
    layer, x, out = site.layer, site.inputs[0], site.outputs[0]
    axis = len(x.shape) - 1
    if layer.kernel_size:
        read_others(site, x, axis, "it slides over it")
    else:
        for other in range(1, axis):
            site.move((x, other), (out, other))
    _, channels = np.divmod(np.array(layer.columns), x.shape[axis])
    ids = site.trace.ids(x, axis)
    out.ids[axis] = ids[channels]
    every = np.arange(len(channels))
    pads = layer.kernel_size and layer.padding != "valid"
    combine = constants.zero_stays if pads else constants.same
    site.trace.flow([(x, axis, channels)], (out, axis, every), combine)


def resize(layer, size, shape):
    """Nothing to change; that it is there ties the widths of all calls."""
    return {}


def configure(call, keep):
    """The columns of the channels that are kept, numbered anew."""
    x = call.inputs[0]
    kept = keep(x, len(x.shape) - 1)
    columns = np.array(call.operation.columns)
    positions, channels = np.divmod(columns, len(kept))
    numbers = positions * kept.sum() + np.cumsum(kept)[channels] - 1
    return {"columns": numbers[kept[channels]].tolist()}


RULE = Rule(gather_columns, resize, configure)
