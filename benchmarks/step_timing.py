"""Timing the training steps of several models that run in turn.

Nothing here imports Keras, so that it serves every version of it.
"""

import time

import numpy as np


def batches(shape, batch_size, rng, number=8):
    """Random images and labels: list of `(x, y)`."""
    return [
        (
            rng.random((batch_size, *shape), "float32"),
            rng.integers(0, 10, batch_size),
        )
        for _ in range(number)
    ]


def seconds(steps, data, rounds, warmup):
    """Seconds per step, `(rounds, steps)`; the first place rotates.

    Args:
        steps: List of functions that take `(x, y)` and train one step.
        data: List of batches, used in turn.
        rounds: Rounds that are timed.
        warmup: Rounds before them.
    """
    times = np.zeros((rounds, len(steps)))
    for number in range(-warmup, rounds):
        x, y = data[number % len(data)]
        for turn in range(len(steps)):
            i = (turn + number) % len(steps)
            start = time.perf_counter()
            steps[i](x, y)
            if number >= 0:
                times[number, i] = time.perf_counter() - start
    return times


def groups(times, num_groups):
    """Means over the copies of each group, `(rounds, num_groups)`.

    The columns of `times` are the groups in order, copy after copy.
    """
    return times.reshape(len(times), -1, num_groups).mean(axis=1)


def ratio(times, over, under, rng):
    """Median ratio within a round, with a bootstrap interval of 95 %."""
    ratios = times[:, over] / times[:, under]
    draws = rng.choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return np.median(ratios), low, high
