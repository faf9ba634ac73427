"""Forms of a plan: its config, its file, its digest, and its text."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import pathlib
from typing import TYPE_CHECKING

from keras_prm.analysis.width_costs import WidthCosts
from keras_prm.plans.column_patterns import check_patterns
from keras_prm.plans.records import ChannelGroup
from keras_prm.plans.records import KernelPlan
from keras_prm.plans.shared_budget import SharedBudget
from keras_prm.reports import tables
from keras_prm.reports.plan_costs import PlanCosts
from keras_prm.utils import validation
from keras_prm.utils.signatures import Signature

if TYPE_CHECKING:
    from typing import Any

# By a word of why filters stay: what to do about it.
_WAYS = {
    "no rule": "give layers without a rule one by `keras_prm.register_rule`",
    "quantized": "make the plan before `model.quantize`",
    "not trainable": "set `trainable = True` before the plan is made",
}


# What the config of every plan has, of any version.
_PARTS = ("kernels", "groups", "variables")


# What names a kernel or a group, and asks for nothing.
_NAMES = ("key", "name", "note")


# Left out, so that state that was saved before there were patterns loads.
_NO_PATTERN = ("column_pattern", "free")


def to_config(plan):
    """A plan as dicts, lists, strings and numbers."""
    costs = plan.width_costs
    told = {} if costs is None else {"costs": costs.to_config()}
    if plan.measured:
        told["measured"] = dict(plan.measured)
    return asked_of(plan) | told


def asked_of(plan):
    """The part of a plan's config that says what is asked of which model."""
    shared = plan.shared
    return {
        **({} if shared is None else {"shared": shared.to_config()}),
        "kernels": [dataclasses.asdict(k) for k in plan.kernels],
        "groups": [dataclasses.asdict(g) for g in plan.groups],
        "variables": [[n, list(s)] for n, s in plan.variables],
        "skipped": [list(row) for row in plan.skipped],
        "weights": [row.to_list() for row in plan.weights],
    }


def plan_from_config(config):
    """The arguments of `SparsityPlan` that a config holds, a tuple.

    Raises:
        ValueError: A kernel has a pattern that there is not.
    """
    kernels = [KernelPlan(**_with_tuples(k)) for k in config["kernels"]]
    check_patterns({kernel.key: kernel.column_pattern for kernel in kernels})
    groups = [ChannelGroup(**group) for group in config["groups"]]
    skipped, weights = config.get("skipped", ()), config.get("weights", ())
    weights = [Signature.from_list(row) for row in weights]
    costs = config.get("costs")  # plans of earlier versions have none
    costs = costs and WidthCosts.from_config(costs)
    shared = config.get("shared")
    shared = shared and SharedBudget.from_config(shared)
    rest = skipped, weights, costs, config.get("measured"), shared
    return kernels, groups, config["variables"], *rest


def _with_tuples(config: dict[str, Any]) -> dict[str, Any]:
    """A config with tuples, of which JSON makes lists."""
    return {
        name: tuple(value) if isinstance(value, (list, tuple)) else value
        for name, value in config.items()
    }


def with_other_names(plan, names):
    """A plan with other names for its kernels and groups.

    Args:
        plan: A `SparsityPlan`.
        names: dict from the key of each of its kernels to the new one.

    Returns:
        A plan that goes by these names alone.
    """
    layers = {
        old.rpartition("/")[0]: new.rpartition("/")[0]
        for old, new in names.items()
    }
    kernels = [dataclasses.replace(k, key=names[k.key]) for k in plan.kernels]
    groups = [
        dataclasses.replace(
            group,
            name="+".join(layers.get(x, x) for x in group.name.split("+")),
        )
        for group in plan.groups
    ]
    rest = plan.variables, plan.skipped, (), plan.width_costs, plan.measured
    return type(plan)(kernels, groups, *rest, plan.shared)


def read_plan(path):
    """The config in a file that `SparsityPlan.save` wrote.

    Raises:
        ValueError: There is no plan in the file.
    """
    text = pathlib.Path(path).read_bytes().decode(errors="replace")
    config = validation.json_object(text)
    if isinstance(config.get("vectors"), dict):
        raise ValueError(
            f"There are masks in {path}, and no plan. Load them by "
            f"`keras_prm.Masks.load({str(path)!r})`."
        )
    if not all(isinstance(config.get(part), list) for part in _PARTS):
        raise ValueError(
            f"There is no plan in {path}. Expected a file that "
            f"`SparsityPlan.save` wrote. Received: {text[:80]!r}"
        )
    return config


def digest(plan):
    """A fingerprint of what is asked of which kernel, 32 bytes.

    Names are left out: those that Keras makes up go on counting.
    """
    config = asked_of(plan)
    parts = [
        [
            value
            for name, value in entry.items()
            if name not in _NAMES and (name, value) != _NO_PATTERN
        ]
        for entry in config["kernels"] + config["groups"]
    ]
    if "shared" in config:
        parts.append(config["shared"])
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def plan_costs(plan):
    """What a plan leaves of its model: a `PlanCosts`."""
    costs = plan.width_costs
    found = costs.whole(), costs.at([group.keep for group in plan.groups])
    dense, pruned = (x | {"float32_bytes": 4 * x["parameters"]} for x in found)
    groups = tuple((g.name, g.keep, g.size) for g in plan.groups)
    rest = costs.exact, costs.macs_note, dict(plan.measured)
    is_fixed = plan.shared is None
    return PlanCosts(dense, pruned, groups, *rest, is_fixed)


def plan_table(plan):
    """What a plan removes, line by line."""
    rows = [
        (g.keep, g.size, f"{g.name}: {g.note}" if g.note else g.name)
        for g in plan.groups
    ]
    rows += [("all", size, f"{at}: {why}") for at, why, size in plan.skipped]
    lines = _table(("filters kept", "of", "layers"), rows)
    if plan.shared is not None:
        lines.append("to begin with; ADMM chooses them within the budget")
    rows = [
        (
            f"{k.columns:.0%}",
            math.prod(k.matrix_shape[:-1]),
            k.key + _pattern(k),
        )
        for k in plan.kernels
        if k.columns
    ]
    if rows:
        lines += _table(("columns removed", "of", "kernel"), rows)
    return "\n".join(lines)


def _table(head, rows):
    rows = [head, *rows]
    cells = [(str(kept), str(size)) for kept, size, _ in rows]
    return tables.aligned(cells, [text for *_, text in rows])


def _pattern(kernel):
    if kernel.note:
        return f": {kernel.column_pattern}, {kernel.note}"
    free = kernel.column_pattern == "free"
    return "" if free else f": {kernel.column_pattern}"


def advice(plan):
    """What to do about a plan that removes nothing, and why it does not."""
    if not plan.skipped:
        return (
            "Give `SparsityPlan.uniform` or `explicit` fractions above 0. "
            "Received: a plan without kernels"
        )
    whys = " ".join(why for _, why, _ in plan.skipped)
    ways = [way for word, way in _WAYS.items() if word in whys]
    if not all("quantized" in why for _, why, _ in plan.skipped):
        ways.append(
            "ask for `columns`, fractions above 0, where layers have any that "
            "can go"
        )
    rows = "; ".join(
        f"'{layers}' ({number} filters): {why}"
        for layers, why, number in plan.skipped
    )
    text = ", or ".join(ways)
    return (
        f"For it to remove something, {text}. Received: a plan that leaves "
        f"alone {rows}"
    )
