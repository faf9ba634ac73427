"""`SparsityPlan`: what shall be removed, and from which kernels."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import keras

from keras_prm.analysis.trace import trace
from keras_prm.plans import plan_makers
from keras_prm.plans.plan_forms import asked_of
from keras_prm.plans.plan_forms import digest
from keras_prm.plans.plan_forms import plan_costs
from keras_prm.plans.plan_forms import plan_from_config
from keras_prm.plans.plan_forms import plan_table
from keras_prm.plans.plan_forms import read_plan
from keras_prm.plans.plan_forms import to_config
from keras_prm.plans.projections import removed_count
from keras_prm.plans.records import ChannelGroup
from keras_prm.plans.records import KernelPlan
from keras_prm.utils import atomic_files
from keras_prm.utils import validation
from keras_prm.utils.signatures import Signature

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from collections.abc import Iterable
    from collections.abc import Mapping
    from collections.abc import Sequence
    from typing import Any

    from keras_prm.analysis.width_costs import WidthCosts
    from keras_prm.budgets.budget import Budget
    from keras_prm.plans.shared_budget import SharedBudget
    from keras_prm.reports.plan_costs import PlanCosts


@keras.saving.register_keras_serializable(package="keras_prm")
class SparsityPlan:
    """How many filters and columns of each kernel are to be removed.

    Make one with `SparsityPlan.uniform(...)`, `SparsityPlan.explicit(...)` or,
    by numbers that stay, `SparsityPlan.keep(...)`.
    Filters that can only fall together (the terms of a residual sum, say)
    form one *group*, are scored together and share one target. `print(plan)`
    shows the groups, and how many filters were left alone and why.

    Args:
        kernels: tuple of `KernelPlan`, in the order of the model's
            trainable variables.
        groups: tuple of `ChannelGroup`; their classes are numbered
            consecutively from 0.
        variables: tuple of `(name, shape)`, one per trainable variable of
            the model the plan was made for, in order. An optimizer compares
            it with what it is built on.
        skipped: tuple of `(layers, reason, number of filters)`: filters that
            are left alone, all of the layers' or those that cannot go.
        weights: tuple of `Signature`, one per weight of the model the plan
            was made for: what finds its kernels again in another build of
            the same network. Empty in a plan of an earlier version, which
            goes by names.
        width_costs: `WidthCosts`, the costs of the model by what each group
            keeps; `None` in a plan of an earlier version.
        measured: dict with what was measured of the small model's file, where
            a budget asked for it, see `PlanCosts`.
        shared: `SharedBudget` where ADMM is to find out how many channels
            each group keeps; `None` where the groups say it.

    Example:

    ```python
    plan = keras_prm.SparsityPlan.uniform(model, filters=0.5, columns=0.6)
    plan = keras_prm.SparsityPlan.explicit(
        model, {"conv2": {"filters": 0.9, "columns": 0.5}}
    )
    plan = keras_prm.SparsityPlan.keep(model, {"conv2": (5, 100)})
    ```
    """

    def __init__(
        self,
        kernels: Iterable[KernelPlan],
        groups: Iterable[ChannelGroup],
        variables: Iterable[tuple[str, Sequence[int]]],
        skipped: Iterable[tuple[str, str, int]] = (),
        weights: Iterable[Signature] = (),
        width_costs: WidthCosts | None = None,
        measured: Mapping[str, Any] | None = None,
        shared: SharedBudget | None = None,
    ) -> None:
        self.kernels = tuple(kernels)
        self.groups = tuple(groups)
        self.variables = tuple((n, tuple(s)) for n, s in variables)
        self.skipped = tuple((a, b, size) for a, b, size in skipped)
        self.weights = tuple(weights)
        self.width_costs = width_costs
        self.measured = dict(measured or {})
        self.shared = shared

    @classmethod
    def uniform(
        cls,
        model: keras.Model,
        filters: float = 0.0,
        columns: float = 0.0,
        round_to: int = 1,
        exclude: Iterable[str] = (),
        column_pattern: str = "free",
    ) -> SparsityPlan:
        """The same sparsity for every layer.

        The filters that make the model's outputs are left alone, as are
        those that some layer needs at their full number; `print(plan)` names
        them.

        Args:
            model: A built functional or Sequential model.
            filters: Fraction of the filters to remove, in [0, 1).
            columns: Fraction to remove of the columns that remain once the
                channels of removed filters are gone, in [0, 1).
            round_to: Each layer's number of filters is rounded up to a
                multiple of this, as far as there are so many: widths that
                hardware likes, such as 8.
            exclude: Names or paths of layers to leave alone, together with
                the filters that can only fall with theirs. A layer or model
                with others inside, such as attention, stands for all these.
            column_pattern: Where the columns that stay may lie: `"free"`,
                or so that what stays is computed fast, `"channels"`,
                `"window"` or `"per_channel"`, see `column_patterns`. A layer
                that slides no window over its input, such as EinsumDense,
                stays at `"free"`, as does one whose window has too many
                boxes for `"window"`; `print(plan)` names both. Columns of
                depthwise, grouped, recurrent, attention and embedding layers
                are never removed.

        Raises:
            TypeError: The model is subclassed, or `exclude` is a string.
            ValueError: A fraction is outside [0, 1), `round_to` is below 1,
                there is no such pattern, a name is not in the model or
                stands for several layers, or the model is not built.

        Warns:
            UserWarning: Layers are quantized, which no plan reaches.
        """
        return plan_makers.uniform(
            cls, model, filters, columns, round_to, exclude, column_pattern
        )

    @classmethod
    def whole(
        cls,
        model: keras.Model,
        columns: float = 0.0,
        exclude: Iterable[str] = (),
    ) -> SparsityPlan:
        """A plan that keeps all filters, for `with_kept` to start from.

        Its groups are those of `uniform`, but where the channels of a group
        are not all worth the same, as when some of a residual stream go on
        to a later stage. There those that are alike form a group of their
        own, so that numbers to keep say what the model will cost; see
        `WidthCosts.exact`.

        Args:
            model: A built functional or Sequential model.
            columns: As in `uniform`.
            exclude: As in `uniform`.
        """
        plan = plan_makers.uniform(
            cls, model, 0.5, columns, 1, exclude, "free", alike=True
        )
        return plan.with_kept([group.size for group in plan.groups])

    @classmethod
    def explicit(
        cls,
        model: keras.Model,
        layers: Mapping[str, Mapping[str, float | str]],
        round_to: int = 1,
    ) -> SparsityPlan:
        """A sparsity for each layer that is named, none for the others.

        Args:
            model: A built functional or Sequential model.
            layers: dict from the name or path of a layer
                (`"conv1"`, `"backbone/conv1"`) to a dict with the keys
                `"filters"` and `"columns"`, fractions in [0, 1), and
                `"column_pattern"`, any of which may be missing.
            round_to: As in `uniform`.

        Raises:
            TypeError: The model is subclassed, or a target is no dict.
            ValueError: A fraction is outside [0, 1), `round_to` is below 1,
                there is no such target or pattern, a name is not in the
                model or stands for several layers, filters or columns are
                asked for that cannot be removed, a pattern is asked for
                where there can be none, where the window has too many boxes,
                or without columns, layers that stand in one group are given
                different targets, or the model is not built.
        """
        if not isinstance(layers, dict):
            raise TypeError(
                "Expected `layers` to be a dict such as "
                '{"conv1": {"filters": 0.5}}. For the same targets '
                f"everywhere, use `uniform`. Received: layers={layers!r}"
            )
        return plan_makers.explicit(cls, model, trace(model), layers, round_to)

    @classmethod
    def keep(
        cls,
        model: keras.Model,
        layers: Mapping[str, Sequence[int | None]],
        column_pattern: str = "free",
        network: keras.Model | None = None,
    ) -> SparsityPlan:
        """Numbers of filters and columns that stay, layer by layer.

        What has less already keeps all of it, so that the same numbers may
        be asked of a network again once it is pruned.

        Args:
            model: A built functional or Sequential model.
            layers: dict from the name or path of a layer, or a pattern such
                as `"stage1_*_conv2"` or `"conv[12]"`, to `(filters,
                columns)`; the first match counts, and a layer stands for
                those inside of it. Columns are counted in one
                filter, those of removed input channels left out. None keeps
                all, as do layers that are not named. Of layers whose filters
                can only fall together, name one, or all alike.
            column_pattern: As in `uniform`, of all kernels that lose columns.
            network: Where the model is what pruning has left of a network,
                that network: layers it has lost may still be named.

        Raises:
            TypeError: The model is subclassed, or `layers` holds no pairs of
                whole numbers.
            ValueError: A pattern names no layer with a kernel, a number is
                below 1, or `explicit` cannot do what is asked for.

        Example:

        ```python
        plan = keras_prm.SparsityPlan.keep(
            model, {"stem": (48, None), "stage1_*_conv1": (48, 210)}
        )
        ```
        """
        return plan_makers.keep(cls, model, layers, column_pattern, network)

    @classmethod
    def for_budget(
        cls,
        model: keras.Model,
        budget: Budget,
        allocation: str | Callable[..., Any] = "uniform",
        score: Callable[..., Any] | None = None,
        data: Any = None,
        loss: Any = None,
        evaluate: Callable[..., Any] | None = None,
        columns: float = 0.0,
        round_to: int = 8,
        exclude: Iterable[str] = (),
        floor: float = 0.02,
    ) -> SparsityPlan:
        """A plan that meets a budget: within all its bounds, and close to one.

        It never exceeds a bound of what is counted, and uses the one that
        binds to at least 97 %, as far as widths allow that; bytes and latency
        are measured on a few candidates, latency to 95 %. The model need not
        be trained. `plan.costs()` says what will be left.

        Args:
            model: A built functional or Sequential model; it is only read.
            budget: A `keras_prm.Budget`.
            allocation: Who keeps how much. `"uniform"`, the default: the same
                share of the filters of every group. `"learned"`: ADMM chooses
                the widths at each update, see `shared_budget`; before that
                they are the uniform ones. Or a function from an
                `AllocationProblem` to how many channels each group keeps, an
                int array.
            score: For an allocation of your own that ranks filters, see
                `keras_prm.scores`; in `problem.evidence`.
            data: The same for one that reads gradients, batches.
            loss: The same, the loss.
            evaluate: The same for one that measures: `evaluate(model)`, the
                higher the better.
            columns: Fraction of the columns to remove as well, as in
                `uniform`. They count as left out, as `strip` does with
                `lowering="fewest_parameters"`, and by their share: the few
                columns by which kernels are rounded, and the indices of those
                that stay, are not in it. A plain `strip` stores them as
                zeros, and so do the files that are measured.
            round_to: Widths are multiples of this; of a half, a quarter and
                so on of it where a group would have fewer than four widths
                to choose from, and of all groups where the budget could not
                be met, or not used to 97 %, with what is counted.
            exclude: As in `uniform`.
            floor: What each group keeps at least: a share of its filters,
                or, from 1 on, their number.

        Raises:
            TypeError: `budget` is no `Budget`, or the model is subclassed.
            ValueError: The budget cannot be met, and then the error says
                what the least is; MACs are asked for and unknown; or another
                argument is wrong.

        Example:

        ```python
        budget = keras_prm.Budget(macs=0.5)
        plan = keras_prm.SparsityPlan.for_budget(model, budget)
        print(plan.costs())
        ```
        """
        make: Any = getattr(budget, "plan", None)
        if isinstance(budget, type) or not callable(make):
            raise TypeError(
                "Expected `budget` to be a `keras_prm.Budget`, such as "
                "`keras_prm.Budget(macs=0.5)`. Received: "
                f"budget={budget!r} (of type {type(budget).__name__})"
            )
        found: SparsityPlan = budget.plan(
            model,
            allocation=allocation,
            score=score,
            data=data,
            loss=loss,
            evaluate=evaluate,
            columns=columns,
            round_to=round_to,
            exclude=exclude,
            floor=floor,
        )
        return found

    @property
    def num_classes(self) -> int:
        """Number of channel classes in all groups together."""
        return sum(group.size for group in self.groups)

    def costs(self) -> PlanCosts:
        """What the model will be once it is pruned and stripped.

        Known before any training, and without rebuilding: `print` shows it,
        `to_dict` and `draw` are its other forms.

        Raises:
            ValueError: The plan was saved by an earlier version, which did
                not tell.
        """
        if self.width_costs is None:
            raise ValueError(
                "The plan does not say what widths cost, as it was made by "
                "hand or by an earlier version. Make it anew, by "
                "`SparsityPlan.uniform(model, ...)` or `explicit`. "
                "Received: width_costs=None"
            )
        return plan_costs(self)

    def digest(self) -> bytes:
        """A fingerprint of what is asked of which kernel, 32 bytes.

        Names are left out: those that Keras makes up go on counting.
        """
        return digest(self)

    def at_share(self, share: float) -> SparsityPlan:
        """The plan with a share of each of its targets: a milder plan.

        What iterative pruning asks for on its way. Of the filters that a
        group loses, `share` go, rounded down; of the fraction of columns
        that a kernel loses, `share`; of what a shared budget takes, `share`.
        A larger share never removes fewer, and 1 is the plan itself. Widths
        are multiples of `round_to` only there.

        Args:
            share: Share of each target, in [0, 1].

        Returns:
            A `SparsityPlan` of the same groups and kernels.

        Raises:
            ValueError: `share` is outside [0, 1].
        """
        if not validation.is_real(share) or not 0 <= share <= 1:
            raise ValueError(
                "Expected `share` in [0, 1], the share of the plan's targets "
                "that is asked for. For more sparsity, make another plan. "
                f"Received: share={share!r}"
            )
        share = float(share)
        groups = []
        for group in self.groups:
            gone = removed_count(group.size - group.keep, share)
            note = group.note
            if not gone and group.keep < group.size:
                note = f"too few to remove one at a share of {share:g}"
            keep = group.size - gone
            groups.append(dataclasses.replace(group, keep=keep, note=note))
        kernels = [
            dataclasses.replace(kernel, columns=kernel.columns * share)
            for kernel in self.kernels
        ]
        costs, shared = self.width_costs, self.shared
        if costs is not None:
            if shared is not None:
                shared = shared.at_share(share, costs)
            costs = costs.with_columns([k.columns for k in kernels])
        rest = self.variables, self.skipped, self.weights, costs
        return SparsityPlan(kernels, groups, *rest, shared=shared)

    def with_kept(self, kept: Sequence[int]) -> SparsityPlan:
        """The plan with other numbers of filters to keep.

        Args:
            kept: One whole number per group, from 1 to its size.

        Raises:
            ValueError: There are not as many, or one is out of range.
        """
        sizes = [group.size for group in self.groups]
        kept = list(kept)
        if len(kept) != len(sizes) or not all(
            validation.is_whole(number) and number <= size
            for number, size in zip(kept, sizes)
        ):
            raise ValueError(
                "Expected one whole number per group, from 1 to how many "
                f"channels it has: at most {sizes}. Received: kept={kept}"
            )
        groups = [
            dataclasses.replace(group, keep=int(number), note="")
            for group, number in zip(self.groups, kept)
        ]
        return self._with(groups)

    def with_notes(self, notes: Sequence[str]) -> SparsityPlan:
        """The plan with other words on why groups are left alone.

        Args:
            notes: One per group, `""` where there is nothing to say.
        """
        pairs = zip(self.groups, notes, strict=True)
        groups = [dataclasses.replace(g, note=n) for g, n in pairs]
        return self._with(groups, self.measured, self.shared)

    def with_measured(self, measured: Mapping[str, Any]) -> SparsityPlan:
        """The plan with what was measured of it, see `PlanCosts`."""
        return self._with(self.groups, measured, self.shared)

    def with_shared(self, shared: SharedBudget | None) -> SparsityPlan:
        """The plan whose groups share a budget; `None` fixes their numbers."""
        return self._with(self.groups, self.measured, shared)

    def _with(self, groups, measured=None, shared=None):
        rest = self.variables, self.skipped, self.weights, self.width_costs
        return SparsityPlan(self.kernels, groups, *rest, measured, shared)

    def get_config(self) -> dict[str, Any]:
        """The plan as plain values, which `from_config` and JSON take."""
        return to_config(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SparsityPlan:
        """The plan that `get_config` told.

        Args:
            config: dict, as `get_config` returns it.
        """
        return cls(*plan_from_config(config))

    @validation.renamed(path="filepath")
    def save(self, filepath: str | os.PathLike[str]) -> None:
        """Writes the plan to `filepath` as JSON.

        Args:
            filepath: Path of the file; folders on the way to it are made.

        Raises:
            OSError: It cannot be written; an older file is as it was.
        """
        atomic_files.write_text(filepath, json.dumps(self.get_config()))

    @classmethod
    @validation.renamed(path="filepath")
    def load(cls, filepath: str | os.PathLike[str]) -> SparsityPlan:
        """Reads a plan that `save` wrote.

        Args:
            filepath: Path of the file.

        Raises:
            ValueError: There is no plan in the file.
            FileNotFoundError: There is no such file.
        """
        return cls.from_config(read_plan(filepath))

    def __str__(self):
        return plan_table(self)

    def __repr__(self):
        return (
            f"<SparsityPlan: {len(self.groups)} groups of filters, "
            f"{len(self.kernels)} kernels>"
        )

    def __eq__(self, other):
        return isinstance(other, SparsityPlan) and asked_of(self) == asked_of(
            other
        )

    def __hash__(self):
        return hash((self.kernels, self.groups, self.variables))
