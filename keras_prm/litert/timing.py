"""Timing of several jobs in turn, so that a slow moment meets all."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from keras_prm.litert.model import LiteRTModel
from keras_prm.utils import validation

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from typing import Any


def rounds(jobs, runs, warmup=0):
    """Times jobs round by round, each job once a round.

    Every round begins with another job and goes on in the same order, so
    that none is always first, and what slows the machine down for a while
    meets all alike. That makes the ratios *within* a round worth more than
    ratios between medians.

    Args:
        jobs: list of functions without arguments.
        runs: int, rounds that are timed.
        warmup: int, rounds before them that are not timed. Default 0.

    Returns:
        float array of seconds, `(runs, jobs)`.

    Example:

    ```python
    seconds = rounds([dense.invoke, pruned.invoke], runs=50, warmup=5)
    speedups = seconds[:, 0] / seconds[:, 1]
    ```
    """
    seconds = np.zeros((runs, len(jobs)))
    for count in range(-warmup, runs):
        for turn in range(len(jobs)):
            i = (turn + count) % len(jobs)
            start = time.perf_counter()
            jobs[i]()
            end = time.perf_counter()
            if count >= 0:
                seconds[count, i] = end - start
    return seconds


def latency(
    models: Sequence[LiteRTModel | bytes | str | os.PathLike[str]],
    inputs: Any,
    runs: int = 50,
    warmup: int = 5,
    num_threads: int = 1,
) -> list[float]:
    """Measures how long several LiteRT files take, interleaved in one run.

    Every round invokes each model once, beginning with another one each
    time; see `rounds`. `keras_prm.benchmark` says more about each model.

    Args:
        models: list of paths, bytes or `LiteRTModel`s.
        inputs: One batch for all; see `LiteRTModel.predict`.
        runs: int, rounds that are timed. Default 50.
        warmup: int, rounds before them, not timed. Default 5.
        num_threads: int, for the models that are opened here. Default 1.

    Returns:
        list of float, the median seconds per invocation of each model.

    Raises:
        ImportError: `ai-edge-litert` is not installed.
        FileNotFoundError: There is no such file.
        ValueError: `models` is not a list, `runs` or `warmup` is no whole
            number or too small, or the inputs do not match those of a model.

    Example:

    ```python
    dense, pruned = latency(["dense.tflite", "pruned.tflite"], images[:1])
    ```
    """
    if (
        not isinstance(models, (list, tuple))
        or not validation.is_whole(runs)
        or not validation.is_whole(warmup, 0)
    ):
        raise ValueError(
            "Cannot measure latency. Expected a list of models and at least "
            "one run, whole numbers of runs and of those to warm up. "
            f"Received: models of type {type(models).__name__}, "
            f"runs={runs!r}, warmup={warmup!r}. For one model pass `[model]`."
        )
    runs, warmup = int(runs), int(warmup)
    opened = [
        model
        if isinstance(model, LiteRTModel)
        else LiteRTModel(model, num_threads)
        for model in models
    ]
    for model in opened:
        model.load(inputs)
    seconds = rounds([model.invoke for model in opened], runs, warmup)
    return np.median(seconds, axis=0).tolist()
