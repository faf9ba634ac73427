"""Runs of columns: what a slice can take at once."""

from __future__ import annotations

import itertools

import numpy as np


def runs(channels):
    """Slices of consecutive channels, as long as they can be."""
    cuts = np.flatnonzero(np.diff(channels) != 1) + 1
    ends = [0, *cuts.tolist(), len(channels)]
    return [slice(*pair) for pair in itertools.pairwise(ends)]


def is_run(channels):
    """Whether channels follow each other."""
    return len(runs(channels)) == 1


def groups(positions):
    """`(position, slice)` of the columns that follow at one position."""
    cuts = np.flatnonzero(np.diff(positions)) + 1
    ends = [0, *cuts.tolist(), len(positions)]
    return [
        (positions[start], slice(start, stop))
        for start, stop in itertools.pairwise(ends)
    ]
