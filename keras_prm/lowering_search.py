"""Choosing a lowering for each layer: by bytes, or by the cost model."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_prm import lowering_costs
from keras_prm import lowerings

# A lowering has to promise this share of the dense layer's time to be taken:
# predictions err, and what is nearly as fast is not worth a custom layer.
_PREDICTED = 0.7
_NUM_TIMED = 4


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was chosen for one layer, and why.

    Args:
        site: The `ColumnSite`.
        lowering: The `Lowering`, or `None` for the dense kernel.
        dense: Time of the dense layer, µs; `None` where nobody asked.
        time: Time of what was chosen, µs, or `None`.
        reason: How, or why not.
    """

    site: lowerings.ColumnSite
    lowering: lowerings.Lowering | None
    dense: float | None = None
    time: float | None = None
    reason: str = ""


def by_bytes(site):
    """The smallest in a file; of equals, what the model finds fastest."""
    options = [None, *lowerings.candidates(site)]

    def rank(option):
        return lowering_costs.file_bytes(site, option), _predicted(site, option)

    best = min(options, key=rank)
    return Choice(site, best, reason="smallest")


def by_model(site):
    """What the cost model finds fastest by a clear margin."""
    if None in site.space:
        return undecided(site)
    options = lowerings.candidates(site)
    times = [_predicted(site, option) for option in options]
    dense, best = _predicted(site, None), int(np.argmin(times))
    if times[best] <= _PREDICTED * dense:
        return Choice(site, options[best], dense, times[best], "predicted")
    reason = f"'{options[best].name}' is not predicted to pay"
    return Choice(site, None, dense, dense, reason)


def promising(site):
    """The lowerings that the cost model finds best, and not hopeless."""
    options = lowerings.candidates(site)
    times = {option: _predicted(site, option) for option in options}
    limit = 1.5 * _predicted(site, None)
    found = [o for o in sorted(options, key=times.get) if times[o] <= limit]
    return found[:_NUM_TIMED]


def _predicted(site, lowering):
    if None in site.space:
        return 0.0
    sizes = lowering_costs.operations(site, lowering)
    return lowering_costs.MODEL.microseconds(sizes)


def undecided(site):
    """The `Choice` where neither a device nor the model can tell."""
    return Choice(site, None, reason="the size of its input is not known")
