"""The projection of a plan in NumPy, which knows nothing of the package's.

For free columns: filters and columns in turn, from either end, until nothing
changes; the support of most energy is taken.
"""

import numpy as np


def project(kernels, plan):
    """What stays of kernels laid out `(..., in, out)`.

    Returns:
        0/1 array per channel class; list of 0/1 arrays `(..., in)`.
    """
    energies = [np.square(w, dtype=float) for w in kernels]
    energies = [e / (e.sum() or 1.0) for e in energies]
    everything = (
        np.ones(plan.num_classes),
        [np.ones(e.shape[:-1]) for e in energies],
    )
    starts = [
        everything,
        (everything[0], _columns(energies, plan, everything[0])),
    ]
    return max(
        (_settled(energies, plan, *start) for start in starts),
        key=lambda support: _energy(energies, plan, *support),
    )


def _settled(energies, plan, channels, columns):
    for _ in range(50):
        before = channels
        channels = _channels(energies, plan, channels, columns)
        columns = _columns(energies, plan, channels)
        if np.array_equal(channels, before):
            break
    return channels, columns


def _own(channels, classes):
    """The value of each position's class; 1 where it is of none."""
    return np.append(channels, 1.0)[np.asarray(classes)]


def _largest(values, keep):
    kept = np.argsort(-values, kind="stable")[:keep]
    return np.isin(np.arange(len(values)), kept).astype(float)


def _channels(energies, plan, channels, columns):
    scores = np.zeros(plan.num_classes + 1)
    for kernel, energy, kept in zip(plan.kernels, energies, columns):
        energy = energy * kept[..., None]
        flat = energy.reshape(-1, *energy.shape[-2:])
        np.add.at(scores, np.asarray(kernel.out_classes), flat.sum((0, 1)))
        flat = flat * _own(channels, kernel.out_classes)
        np.add.at(scores, np.asarray(kernel.in_classes), flat.sum((0, 2)))
    parts = [
        _largest(scores[g.start : g.start + g.size], g.keep)
        for g in plan.groups
    ]
    return np.concatenate(parts) if parts else channels


def _columns(energies, plan, channels):
    found = []
    for kernel, energy in zip(plan.kernels, energies):
        inputs = _own(channels, kernel.in_classes)
        energy = (energy * _own(channels, kernel.out_classes)).sum(-1)
        live = np.broadcast_to(inputs, energy.shape)
        number = int(live.sum())
        keep = number - min(int(number * kernel.columns + 1e-6), number - 1)
        picked = _largest(np.where(live > 0, energy, -1.0).reshape(-1), keep)
        found.append(picked.reshape(energy.shape))
    return found


def _energy(energies, plan, channels, columns):
    return sum(
        float((e * m[..., None] * _own(channels, k.out_classes)).sum())
        for k, e, m in zip(plan.kernels, energies, columns)
    )
