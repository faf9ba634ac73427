"""Strategies that choose a lowering for each layer."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from keras_prm.lowering import cost_model
from keras_prm.lowering import methods

if TYPE_CHECKING:
    from collections.abc import Sequence

    import keras

# A lowering has to promise this share of the dense layer's time to be taken:
# predictions err, and what is nearly as fast is not worth a custom layer.
_PREDICTED = 0.7
_NUM_TIMED = 4
_UNMODELLED = (
    "the cost model is one of float32: lowering='auto' measures other files"
)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was chosen for one layer, and why.

    Args:
        kernel: The `SparseKernel`.
        lowering: The `Lowering`, or `None` for the dense kernel.
        dense: Time of the dense layer, µs; `None` where nobody asked.
        time: Time of what was chosen, µs, or `None`.
        reason: How, or why not.
    """

    kernel: methods.SparseKernel
    lowering: methods.Lowering | None
    dense: float | None = None
    time: float | None = None
    reason: str = ""


class Lowerer:
    """How it is decided which layers are lowered, and how.

    A strategy of one's own overrides `choose_one`; `choose` where layers
    depend on each other.
    """

    def check(self) -> None:
        """Raises where it cannot decide anything, before work is done."""

    def choose(self, kernels: Sequence[methods.SparseKernel]) -> list[Choice]:
        """A `Choice` for every `SparseKernel`.

        Args:
            kernels: The layers that can be lowered, in order.
        """
        return [self.choose_one(sparse) for sparse in kernels]

    def choose_one(self, sparse: methods.SparseKernel) -> Choice:
        """The `Choice` for one of them: a lowering, or `None` for none.

        Args:
            sparse: The layer; `candidates(sparse)` are its lowerings.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not say how it chooses. Override "
            "`choose_one(sparse)`, which returns a `Choice`."
        )

    def files(self) -> tuple[str, ...]:
        """How the files that it chooses for are quantized, if it tells."""
        own = getattr(self, "quantize", None)
        return () if own is None else (own,)

    def objection(self, lowered: keras.Model, dense: keras.Model) -> str:
        """Why the dense model is to be kept as a whole, `""` if it is not.

        Args:
            lowered: The model in which layers are lowered.
            dense: The same model before.
        """
        del lowered, dense
        return ""


@dataclasses.dataclass(frozen=True)
class _ForFiles(Lowerer):
    """One that is told how files are quantized; `None` means float32."""

    quantize: str | None = None

    def __post_init__(self):
        if self.quantize is None:
            object.__setattr__(self, "quantize", "float32")


@dataclasses.dataclass(frozen=True)
class SmallestLowering(_ForFiles):
    """The smallest in a file; of equals, what the model finds fastest.

    Args:
        quantize: How the file will be quantized, as `export_litert` is told.
    """

    def choose_one(self, sparse: methods.SparseKernel) -> Choice:
        """The way of one layer that takes the fewest bytes in a file."""
        key = _by_size(sparse, self.quantize)
        best = min([None, *methods.candidates(sparse)], key=key)
        return Choice(sparse, best, reason="smallest")


@dataclasses.dataclass(frozen=True)
class FewestParametersLowering(_ForFiles):
    """What stores the fewest numbers; of equals, the smallest in a file.

    What papers count. A file may be larger for it, by the operations that
    pick columns: `SmallestLowering` looks at the file.

    Args:
        quantize: How the file will be quantized; counts among equals alone,
            so that what is chosen is not held to be for such files.
    """

    def files(self) -> tuple[str, ...]:
        """None in particular: numbers are counted, however they are stored."""
        return ()

    def choose_one(self, sparse: methods.SparseKernel) -> Choice:
        """The way of one layer that stores the fewest numbers."""

        def key(option):
            kernel = (
                sparse.array if option is None else option.kernel(sparse.array)
            )
            mode = self.quantize or "float32"
            size = cost_model.file_bytes(sparse, option, mode)
            return kernel.size, size

        best = min([None, *methods.candidates(sparse)], key=key)
        return Choice(sparse, best, reason="fewest parameters")


@dataclasses.dataclass(frozen=True)
class ModelLowering(_ForFiles):
    """What the cost model finds fastest, clearly, on one thread and on two.

    It knows of convolutions in float32 alone, as which float16 runs as well.
    Of files that multiply in int8 nothing is lowered.

    Args:
        quantize: How the file will be quantized, as `export_litert` is told.
    """

    def files(self) -> tuple[str, ...]:
        """How the files are quantized that its model speaks of."""
        floats = ("float32", "float16")  # which run alike
        return floats if self.quantize in floats else super().files()

    def choose_one(self, sparse: methods.SparseKernel) -> Choice:
        """The way of one layer that is predicted to be the fastest."""
        if self.quantize not in ("float32", "float16"):
            return Choice(sparse, None, reason=_UNMODELLED)
        if None in sparse.space:
            return undecided(sparse)
        options = methods.candidates(sparse)
        ratios = [_worst_ratio(sparse, option) for option in options]
        best = options[int(np.argmin(ratios))]
        dense = predicted(sparse, None)
        if min(ratios) <= _PREDICTED:
            time = predicted(sparse, best)
            return Choice(sparse, best, dense, time, "predicted")
        reason = f"'{best.name}' is not predicted to pay"
        return Choice(sparse, None, dense, dense, reason)


def _worst_ratio(sparse, option):
    """The time of a lowering over that of the dense layer."""
    return max(
        predicted(sparse, option, threads) / predicted(sparse, None, threads)
        for threads in cost_model.MODELS
    )


def _by_size(sparse, quantize):
    def key(option):
        time = 0.0 if None in sparse.space else predicted(sparse, option)
        return cost_model.file_bytes(sparse, option, quantize), time

    return key


def promising(
    sparse: methods.SparseKernel,
    num_threads: int = 1,
) -> list[methods.Lowering]:
    """The lowerings that the cost model finds best, and not hopeless."""
    options = methods.candidates(sparse)
    times = {o: predicted(sparse, o, num_threads) for o in options}
    limit = 1.5 * predicted(sparse, None, num_threads)
    ordered = sorted(options, key=lambda option: times[option])
    return [o for o in ordered if times[o] <= limit][:_NUM_TIMED]


def predicted(
    sparse: methods.SparseKernel,
    lowering: methods.Lowering | None,
    num_threads: int = 1,
) -> float:
    """Microseconds by the cost model; the sizes have to be known."""
    sizes = cost_model.operation_counts(sparse, lowering)
    known = cost_model.MODELS
    return known[min(num_threads, max(known))].microseconds(sizes)


def undecided(sparse: methods.SparseKernel) -> Choice:
    """The `Choice` where neither a device nor the model can tell."""
    return Choice(sparse, None, reason="the size of its input is not known")
