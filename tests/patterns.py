"""What the patterns of columns are, for tests."""

import numpy as np

NOT_FREE = ("channels", "window", "per_channel")


def is_feasible(support, live, keep, pattern):
    """The definitions, of a bool array `(..., in)`."""
    taps = support.reshape(-1, support.shape[-1])
    per_channel = taps.sum(axis=0)
    if per_channel[live == 0].any():
        return False
    if pattern == "channels":
        whole = np.isin(per_channel, (0, len(taps))).all()
        number = np.count_nonzero(per_channel)
        return bool(whole) and number <= max(1, keep // len(taps))
    if support.sum() > keep:
        return False
    level = -(-keep // int(live.sum()))
    if pattern == "window":
        places = np.argwhere(support.any(axis=-1))
        box = places.max(axis=0) - places.min(axis=0) + 1
        return int(np.prod(box)) <= level
    return pattern == "free" or per_channel.max() <= level
