"""Makers of plans: from what is asked of layers to a `SparsityPlan`.

`SparsityPlan`'s class methods, which say what the arguments are, without the
class: `cls` is what is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_prm.analysis.channel_groups import ClassTable
from keras_prm.analysis.trace import trace
from keras_prm.analysis.trace import warn_of_quantized
from keras_prm.analysis.width_costs import width_costs
from keras_prm.plans import kept_numbers
from keras_prm.plans import plan_builder
from keras_prm.plans import plan_checks
from keras_prm.utils import signatures

if TYPE_CHECKING:
    from typing import Any


def uniform(
    cls, model, filters, columns, round_to, exclude, pattern, alike=False
):
    """The same fractions of every layer.

    Args:
        cls: `SparsityPlan`.
        model: The model.
        filters: Fraction of the filters to remove.
        columns: Fraction of the columns to remove.
        round_to: What widths are multiples of.
        exclude: Names of layers to leave alone.
        pattern: The column pattern.
        alike: Whether groups are split into those whose channels are alike.
    """
    graph = trace(model)
    paths = plan_checks.kernel_paths(graph)
    plan_checks.check_names(exclude, paths, "exclude")
    excluded = plan_checks.matching(exclude, paths)
    targets: dict[str, Any] = {"filters": filters, "columns": columns}
    plan_checks.check_fractions(targets)
    if filters or columns:
        what = "SparsityPlan.uniform leaves layers out"
        warn_of_quantized(graph, what, stacklevel=3)
    nothing = dict.fromkeys(targets, 0.0)
    targets["column_pattern"] = pattern
    wanted = {path: nothing if path in excluded else targets for path in paths}
    labels = ClassTable(graph).labels if alike else None
    return _build(cls, model, graph, wanted, round_to, False, labels)


def explicit(cls, model, graph, layers, round_to=1):
    """Fractions for each layer that is named.

    Args:
        cls: `SparsityPlan`.
        model: The model.
        graph: Its `DependencyGraph`.
        layers: dict from the name of a layer to its targets.
        round_to: What widths are multiples of.
    """
    paths = plan_checks.kernel_paths(graph)
    plan_checks.check_names(layers, paths, "layers")
    wanted = {
        path: targets
        for name, targets in layers.items()
        for path in plan_checks.matching([name], paths)
    }
    return _build(cls, model, graph, wanted, round_to, strict=True)


def keep(cls, model, layers, column_pattern, network):
    """Numbers of filters and columns that stay.

    Args:
        cls: `SparsityPlan`.
        model: The model.
        layers: dict from a pattern of names to `(filters, columns)`.
        column_pattern: Where the columns that stay may lie.
        network: What the model was before it was pruned, or `None`.
    """
    graph = trace(model)
    kernels = plan_checks.kernel_paths(graph)
    whole = graph if network is None else trace(network)
    kept = kept_numbers.matched(
        layers, kernels, plan_checks.kernel_paths(whole)
    )
    targets = dict.fromkeys(kept, {})
    targets |= kept_numbers.filter_targets(kept, graph, kernels)
    filters = explicit(cls, model, graph, targets)
    columns = kept_numbers.column_targets(
        kept, filters, kernels, column_pattern
    )
    targets |= {path: targets[path] | columns[path] for path in columns}
    return explicit(cls, model, graph, targets)


def _build(cls, model, graph, wanted, round_to, strict, labels=None):
    """The plan of fractions per layer.

    Args:
        cls: `SparsityPlan`.
        model: The model.
        graph: Its `DependencyGraph`.
        wanted: dict from layer path to its targets.
        round_to: What widths are multiples of.
        strict: Whether what cannot be done is an error.
        labels: What tells classes of a group apart, or `None`.
    """
    plan_checks.check_targets(wanted, round_to)
    groups, numbers, skipped = plan_builder.filter_groups(
        model, graph, wanted, round_to, strict, labels
    )
    if strict:
        plan_checks.check_reach(model, graph, wanted)
        plan_checks.check_pattern_layers(graph, wanted)
    else:
        skipped += plan_builder.unreached(graph)
    kernels = plan_builder.kernels(model, graph, wanted, numbers)
    variables = [(v.name, v.shape) for v in model.trainable_variables]
    weights = signatures.signatures(model)
    members = plan_builder.members(groups, numbers)
    costs = width_costs(model, graph, members, kernels)
    return cls(kernels, groups, variables, skipped, weights, costs)
