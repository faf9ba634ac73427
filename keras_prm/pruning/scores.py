"""Scores: what a filter or a column is worth.

A score is a function of one argument, the `KernelRows` of one kernel, that
returns a number for each of them: the larger it is, the longer the structure
stays. All that plans, masks and callbacks do with the numbers is the same
for all scores, so that a new one is a few lines:

```python
def largest_weight(structures):
    return np.abs(structures.weights).max(axis=1)

masks = keras_prm.hard_prune(model, plan, score=largest_weight)
```

Only the order within one kernel counts there, and the proportions where
filters of several kernels fall together: see `hard_prune`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Score(Protocol):
    """A function that says what the filters or columns of a kernel are worth.

    Any function with one argument is one; there is no need to derive from it.
    """

    def __call__(self, structures: KernelRows, /) -> np.ndarray:
        """Returns a float array `(n,)`; the largest stay the longest.

        Args:
            structures: `KernelRows` of `n` filters or columns.
        """
        ...


class Unavailable(ValueError):
    """A score asks for what is not known of these structures.

    Args:
        name: The attribute it asked for.
    """

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The score reads `structures.{name}`, which these structures "
            f"do not have. Make them with `KernelRows(weights, {name}=...)`."
        )
        self.name = name


class KernelRows:
    """The filters, or the columns, of one kernel, as rows of a table.

    Rows that are zero already are not among them: they go first, whatever
    the score.

    Args:
        weights: float32 `(n, entries)`: a filter's weights, or a column's
            weights in the filters that stay.
        gradients: float32 `(n, entries)`: the loss on ONE batch of `data`,
            differentiated by the weights. A score that reads them is called
            for one batch after the other, and the mean of what it returns
            counts.
        gamma: float32 `(n,)`: the absolute value of the gamma by which
            BatchNormalization scales each filter.

    Raises:
        Unavailable: On reading `gradients` or `gamma` where they are not
            known.
    """

    def __init__(
        self,
        weights: np.ndarray,
        gradients: np.ndarray | None = None,
        gamma: np.ndarray | None = None,
    ) -> None:
        self.weights = weights
        self._gradients = gradients
        self._gamma = gamma

    @property
    def gradients(self) -> np.ndarray:
        """The loss differentiated by the weights, `(n, entries)`."""
        if self._gradients is None:
            raise Unavailable("gradients")
        return self._gradients

    @property
    def gamma(self) -> np.ndarray:
        """BatchNormalization's absolute gamma of each, `(n,)`."""
        if self._gamma is None:
            raise Unavailable("gamma")
        return self._gamma


def l1_norm(structures: KernelRows) -> np.ndarray:
    """The sum of the absolute weights, `sum_k |w_k|`.

    Args:
        structures: `KernelRows` of `n` filters or columns.

    Returns:
        Float array `(n,)`.

    Reference:
        - [Li et al., 2017](https://arxiv.org/abs/1608.08710).
    """
    return np.abs(structures.weights).sum(axis=1)


def l2_norm(structures: KernelRows) -> np.ndarray:
    """The Euclidean norm, `sqrt(sum_k w_k^2)`.

    What it keeps of one kernel alone is the nearest kernel with so many
    filters, or columns.

    Args:
        structures: `KernelRows` of `n` filters or columns.

    Returns:
        Float array `(n,)`.

    Reference:
        - [Han et al., 2015](https://arxiv.org/abs/1506.02626), of weights.
    """
    return np.linalg.norm(structures.weights, axis=1)


def batch_norm_gamma(structures: KernelRows) -> np.ndarray:
    """The scale that BatchNormalization gives a filter's output, `|gamma|`.

    Network slimming: meant for models trained with an L1 penalty on gamma
    (`BatchNormalization(gamma_regularizer="l1")`). Columns have no gamma.

    Args:
        structures: `KernelRows` of `n` filters or columns.

    Returns:
        Float array `(n,)`.

    Raises:
        Unavailable: No BatchNormalization scales the filters, or they are
            columns. From `hard_prune` it is a `ValueError` that names them.

    Reference:
        - [Liu et al., 2017](https://arxiv.org/abs/1708.06519).
    """
    return structures.gamma


def geometric_median(structures: KernelRows) -> np.ndarray:
    """The distance to all others, `sum_j ||w_i - w_j||`.

    Small near the geometric median of the kernel's filters, where the
    others can stand in for it, however large it is.

    Args:
        structures: `KernelRows` of `n` filters or columns.

    Returns:
        Float array `(n,)`.

    Reference:
        - [He et al., 2019](https://arxiv.org/abs/1811.00250).
    """
    w = structures.weights
    # Row by row: all differences at once would be n tables.
    return np.array([np.linalg.norm(w - row, axis=1).sum() for row in w])


def taylor(structures: KernelRows) -> np.ndarray:
    """The squared change of the loss without it, to first order.

    `(sum_k g_k w_k)^2`, with the gradient `g` of the loss on one batch; the
    mean over the batches of `data`.

    Args:
        structures: `KernelRows` of `n` filters or columns.

    Returns:
        Float array `(n,)`.

    Raises:
        Unavailable: There are no gradients. `hard_prune` takes them on `data`.

    Reference:
        - [Molchanov et al., 2019](https://arxiv.org/abs/1906.10771).
    """
    change = (structures.gradients * structures.weights).sum(axis=1)
    return change**2


Structures = KernelRows  # what it was called before
