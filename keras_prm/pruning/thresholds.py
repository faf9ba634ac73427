"""Thresholds of purification, and what lies under them."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """What purification calls small, relative to the layer's own medians.

    A column is *live* if its squared norm is at least `column` times the
    layer's median over columns that are not zero. A channel falls if the
    share of its columns that are live is below `share` AND the mean squared
    norm of all its columns is below `channel` times the layer's median over
    channels. A filter falls if its squared norm is below `filter` times the
    layer's median over filters that are not zero.

    The medians are those at the start. Of a kernel that has lost a third of
    its filters, bounds for columns and channels are a third lower from then
    on, and for filters where it has lost columns: what stays is not weaker
    for what fell.

    Args:
        column: Bound for columns, >= 0.
        share: Bound for the live share of a channel, in [0, 1].
        channel: Bound for the energy of a channel, >= 0.
        filter: Bound for the energy of a filter, >= 0.

    Raises:
        ValueError: A bound is negative or NaN, or `share` above 1.
    """

    column: float = 0.1
    share: float = 0.5
    channel: float = 0.1
    filter: float = 0.1

    def __post_init__(self):
        bad = {k: v for k, v in vars(self).items() if not v >= 0}
        if bad or self.share > 1:
            raise ValueError(
                "Thresholds must be >= 0, and `share` at most 1. "
                f"Received: {bad or {'share': self.share}}. 0 keeps all."
            )

    def absolute(
        self,
        strength: float,
        medians: tuple[float, float, float],
    ) -> Thresholds:
        """The bounds on squared norms themselves.

        Args:
            strength: Factor on all three energies. However large it is, a
                column at the layer's median counts as live, so that a
                channel of strong columns never falls.
            medians: The layer's medians `(column, channel, filter)`.
        """
        column, channel, filter_ = medians
        return Thresholds(
            min(self.column * strength, 1.0) * column,
            self.share,
            self.channel * strength * channel,
            self.filter * strength * filter_,
        )

    def for_what_is_left(
        self,
        live: tuple[int, int],
        before: tuple[int, int],
    ) -> Thresholds:
        """Absolute bounds once some columns and filters have fallen.

        A column has less energy where filters have fallen, a filter where
        columns have. In what is left neither is weaker for it: without this,
        one sweep would bring on the next until all has fallen.

        Args:
            live: How many columns and how many filters are not zero.
            before: How many were not at the start.
        """
        if 0 in (*live, *before):
            return self
        columns, filters = (n / of for n, of in zip(live, before))
        return Thresholds(
            self.column * filters,
            self.share,
            self.channel * filters,
            self.filter * columns,
        )


def num_live(kernel):
    """How many columns and how many filters of a kernel are not zero."""
    live = kernel != 0
    return live.any(axis=-1).sum(), live.any(
        axis=(*range(kernel.ndim - 1),)
    ).sum()


def medians(kernel, channel_of, num_channels):
    """The medians `(column, channel, filter)` that thresholds relate to.

    Each is the median of the squared norms (for channels, of their mean
    over the channel's columns) that are not zero.
    """
    columns = _column_energies(kernel)
    energy, _ = _channel_energies(columns, channel_of, num_channels)
    return _median(columns), _median(energy), _median(_filter_energies(kernel))


def small_channels(kernel, channel_of, num_channels, limits):
    """Channels that purification removes from one kernel.

    Args:
        kernel: `(..., in, out)`.
        channel_of: int array `(in,)`, the channel of every input position.
        num_channels: How many channels there are.
        limits: Absolute `Thresholds`.

    Returns:
        bool array `(num_channels,)`, True for a channel that is not zero
        yet and whose live share and mean energy are both under their
        bounds. The strongest channel never falls.
    """
    columns = _column_energies(kernel)
    # Filters that fell may have had more than their share of the energy.
    bound = min(limits.column, _median(columns))
    live = (columns >= bound) & (columns > 0)
    energy, sizes = _channel_energies(columns, channel_of, num_channels)
    share = np.bincount(channel_of, live.sum(0), num_channels) / sizes
    falls = (share < limits.share) & (energy < limits.channel)
    falls[np.argmax(energy)] = False
    return falls & (energy > 0)


def small_filters(kernel, limits):
    """Filters `(out,)` that purification removes; never the strongest."""
    energy = _filter_energies(kernel)
    falls = energy < limits.filter
    falls[np.argmax(energy)] = False
    return falls & (energy > 0)


def _column_energies(kernel):
    """Squared norms `(positions, in)`."""
    energies = np.square(kernel, dtype="float64").sum(axis=-1)
    return energies.reshape(-1, energies.shape[-1])


def _channel_energies(columns, channel_of, num_channels):
    """Mean squared norm of each channel's columns, and their number."""
    sizes = np.bincount(channel_of, minlength=num_channels) * len(columns)
    sums = np.bincount(channel_of, columns.sum(axis=0), num_channels)
    return sums / sizes, sizes


def _filter_energies(kernel):
    energies = np.square(kernel, dtype="float64")
    return energies.sum(axis=tuple(range(kernel.ndim - 1)))


def _median(energies):
    """The median of those that are not zero."""
    energies = energies[energies > 0]
    return np.median(energies) if energies.size else 0.0
