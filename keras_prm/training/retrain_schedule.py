"""`retrain_schedule`: the learning rate after pruning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_prm.admm.attachment import find_wrapper
from keras_prm.utils import keras_hooks
from keras_prm.utils import validation

if TYPE_CHECKING:
    from typing import Any

# A schedule is asked at so many steps for its highest rate.
_NUM_ASKED = 256


def retrain_schedule(
    optimizer: Any, steps: int, share: float = 1.0, warmup: float = 0.05
) -> keras.optimizers.schedules.CosineDecay:
    """The learning rate for training on after `hard_prune`.

    A network that has lost most of its channels has to learn anew what these
    did, which the small rate that a training ends with does not allow. So
    the rate begins again at the highest one of the training before, after a
    short rise, and falls to 0 along a cosine:

    ```
    rate(t) = share * peak * (1 + cos(pi * t / steps)) / 2
    ```

    Args:
        optimizer: The optimizer that the dense model was trained with, or an
            `ADMMWrapper` around it; or its highest learning rate, a float;
            or a `LearningRateSchedule`. Of a schedule the highest rate counts
            over the steps that were made, or, before any, over `steps`. A
            rate that a callback sets, such as `ReduceLROnPlateau`, leaves no
            trace in the optimizer: pass the highest one as a number then.
        steps: How many steps the retraining has: epochs times the steps of
            each.
        share: The part of the highest rate to begin with, in (0, 1].
            Defaults to 1.
        warmup: The part of the steps in which it rises to that, in [0, 1).
            Defaults to 0.05.

    Returns:
        A `keras.optimizers.schedules.CosineDecay`.

    Raises:
        TypeError: `optimizer` has no learning rate.
        ValueError: The rate is not above 0, or another argument is out of
            range.

    Example:

    ```python
    rate = keras_prm.retrain_schedule(model.optimizer, steps=30 * len(train))
    model.compile(keras.optimizers.Adam(rate), loss=loss)
    model.fit(train, epochs=30, callbacks=[keras_prm.StructuredMask(masks)])
    ```

    Reference:
        - [Renda et al., 2020](https://arxiv.org/abs/2003.02389), who begin
          again with the rates of the training before.
    """
    validation.check_whole(
        "steps", steps, "steps", "Pass the epochs times the steps of each."
    )
    for name, value, low in (("share", share, False), ("warmup", warmup, True)):
        validation.check_real(name, value, "a number in [0, 1]", "")
        if not (0 <= value < 1 if low else 0 < value <= 1):
            raise ValueError(
                f"`{name}` is a part, in {'[0, 1)' if low else '(0, 1]'}. "
                f"Received: {name}={value!r}. Leave it out for the default."
            )
    peak = share * _peak(optimizer, steps)
    rising = int(warmup * steps)
    if not rising:
        return keras.optimizers.schedules.CosineDecay(peak, int(steps))
    return keras.optimizers.schedules.CosineDecay(
        0.0, int(steps) - rising, warmup_target=peak, warmup_steps=rising
    )


def _peak(optimizer, steps):
    """The highest learning rate of a training."""
    made = 0
    rate = optimizer
    if isinstance(optimizer, keras.optimizers.Optimizer):
        optimizer = find_wrapper(optimizer) or optimizer
        while hasattr(optimizer, "inner_optimizer"):
            optimizer = optimizer.inner_optimizer
        made = int(keras.ops.convert_to_numpy(optimizer.iterations))
        rate = keras_hooks.rate_of(optimizer)
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        asked = np.linspace(0, made or steps, _NUM_ASKED).astype(int)
        rate = max(_number(rate(step)) for step in asked.tolist())
    elif isinstance(rate, keras.Variable):
        rate = _number(rate)
    if not validation.is_real(rate):
        raise TypeError(
            "Expected an optimizer, its highest learning rate or its "
            f"schedule. Received: optimizer={optimizer!r}. Pass, for example, "
            "`model.optimizer` or `1e-3`."
        )
    if not rate > 0:
        raise ValueError(
            "The learning rate before was not above 0, so there is none to "
            f"begin again with. Received: {rate}. Pass a rate, such as `1e-3`."
        )
    return float(rate)


def _number(value):
    return float(keras.ops.convert_to_numpy(value))
