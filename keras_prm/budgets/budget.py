"""`Budget`: what a model may cost once it is pruned."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from keras_prm.analysis.width_costs import NAMES
from keras_prm.budgets import planning
from keras_prm.equivalence import tolerances
from keras_prm.utils import validation

if TYPE_CHECKING:
    from typing import Any

    import keras

    from keras_prm.plans.plan import SparsityPlan

TARGETS = ("host",)

_ABSOLUTE = (*NAMES, "file_bytes")
_FILE = ("file_bytes", "latency", "latency_ms")
_EXAMPLE = "such as `keras_prm.Budget(macs=0.5)`"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """What a model may cost once it is pruned.

    A number up to 1 is a share of what the dense model costs, one above is
    absolute. Where several are given, all of them hold.

    Args:
        macs: Multiply-accumulates per sample, as `keras_prm.costs` counts
            them.
        parameters: Entries of all weights that are stored.
        conv_weights: Entries of convolution kernels: what the paper counts.
        file_bytes: Bytes of the `.tflite` file.
        latency: Share of the dense model's time on LiteRT, in (0, 1].
        latency_ms: Milliseconds per sample on LiteRT, any positive number.
        target: The device whose latency is meant: `"host"`, one thread of
            this machine, which is also the default.
        quantize: How the file is quantized whose bytes or latency are meant,
            as `export_litert` takes it: None (float32), `"float16"`,
            `"dynamic_range"` or `"int8"`. The dense file it is compared with
            is quantized alike.

    Raises:
        TypeError: A bound is no number.
        ValueError: There is no bound, one is not positive and finite, or
            `target` or `quantize` is unknown, or says something of a file
            that no bound is of.

    Example:

    ```python
    plan = keras_prm.SparsityPlan.for_budget(
        model, keras_prm.Budget(macs=0.25, parameters=500_000)
    )
    print(plan.costs())
    ```
    """

    macs: float | None = None
    parameters: float | None = None
    file_bytes: float | None = None
    latency: float | None = None
    latency_ms: float | None = None
    target: str | None = None
    quantize: str | None = None
    conv_weights: float | None = None

    def __post_init__(self):
        bounds = self.bounds()
        if not bounds:
            raise ValueError(
                "A budget says what a model may cost at most. Give it at "
                f"least one of {[*_ABSOLUTE, 'latency', 'latency_ms']}, "
                f"{_EXAMPLE}. Received: none of them"
            )
        _check_numbers(bounds)
        if self.latency is not None and self.latency_ms is not None:
            raise ValueError(
                "Give `latency`, a share, or `latency_ms`, not both. "
                f"Received: latency={self.latency!r}, "
                f"latency_ms={self.latency_ms!r}"
            )
        if self.target is not None and self.target not in TARGETS:
            raise ValueError(
                f"There is no such target. Expected one of {TARGETS}, or None, "
                f"which is the same. Received: target={self.target!r}"
            )
        if self.quantize is not None and not tolerances.is_mode(self.quantize):
            raise ValueError(
                "Expected `quantize` to be None, 'float32', 'float16', "
                "'dynamic_range' or 'int8', as in `export_litert`. "
                f"Received: quantize={self.quantize!r}"
            )
        self._check_of_file(bounds)

    def bounds(self) -> dict[str, float]:
        """The bounds that are given, by name."""
        found = {n: getattr(self, n) for n in (*_ABSOLUTE, *_FILE[1:])}
        return {n: x for n, x in found.items() if x is not None}

    def _check_of_file(self, bounds):
        said = {"target": self.target, "quantize": self.quantize}
        said = {name: value for name, value in said.items() if value}
        if said and not any(name in bounds for name in _FILE):
            raise ValueError(
                f"{[*said]} say of which file {[*_FILE]} are, and none of "
                f"these is given. Give one, or leave {[*said]} out. "
                f"Received: {said}"
            )

    def plan(self, model: keras.Model, **options: Any) -> SparsityPlan:
        """The plan that meets it.

        Args:
            model: The model.
            **options: As `SparsityPlan.for_budget` takes them, all of them.
        """
        return planning.plan_for(model, self, **options)


def _check_numbers(bounds):
    others = {n: x for n, x in bounds.items() if not validation.is_real(x)}
    if others:
        raise TypeError(
            "Expected the bounds of a budget to be numbers: a share of the "
            "dense model in (0, 1], or above 1 an absolute number. "
            f"Received: {others}"
        )
    bad = {n: x for n, x in bounds.items() if not 0 < x < math.inf}
    if bad:
        raise ValueError(
            "Expected the bounds of a budget to be positive and finite: a "
            "share of the dense model in (0, 1], or above 1 an absolute "
            f"number. Received: {bad}"
        )
    if bounds.get("latency", 1) > 1:
        raise ValueError(
            "Expected `latency` in (0, 1], a share of the dense model's time. "
            "For milliseconds, use `latency_ms`. "
            f"Received: latency={bounds['latency']!r}"
        )
