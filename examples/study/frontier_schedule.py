"""Which results are wanted, and which of them can be made side by side."""

from examples.study.frontier_methods import METHODS
from examples.study.recipe import check


def wanted(recipe, methods, points, seeds):
    """All `(method, point, seed)` that are asked for, in a good order.

    Args:
        recipe: The `FrontierRecipe`.
        methods: Names of methods.
        points: Names of points; all, if there are none.
        seeds: Seeds, as text.

    Raises:
        ValueError: A name is not known, or a seed is not a number.
    """
    check(
        {
            "methods": sorted({*methods} - {*METHODS}),
            "points": sorted({*points} - {*recipe.points}),
            "seeds": [seed for seed in seeds if not seed.isdigit()],
        },
        f"Expected methods among {list(METHODS)}, points among "
        f"{list(recipe.points)} and seeds that are whole numbers.",
    )
    ordered = [point for chain in recipe.chains for point in chain]
    return [
        (method, point, int(seed))
        for method in methods
        for seed in seeds
        for point in ordered
        if (not points or point in points) and applies(recipe, method, point)
    ]


def applies(recipe, method, point):
    """Whether a method can be compared at a point."""
    way = METHODS[method].way(recipe, point)
    has_widths = all(name in recipe.widths for name in way)
    return has_widths or not METHODS[method].filters_only


def of_data(known, data):
    """What is known of the same images, and the same split of them.

    Args:
        known: dict from `(method, point, seed)` to a summary.
        data: dict from each seed to the fingerprint of its images.
    """
    return {
        job: row
        for job, row in known.items()
        if row["settings"]["data"] == data[job[2]]
    }


def unknown(jobs, known, settings):
    """The jobs whose results are not known yet.

    Args:
        jobs: List of `(method, point, seed)`.
        known: dict from such a job to its summary.
        settings: dict from each of the jobs to what its result depends on.
    """
    return [
        job
        for job in jobs
        if job not in known or known[job]["settings"] != settings[job]
    ]


def phases(jobs, recipe):
    """Groups of jobs, in phases.

    The jobs of a group are done one after another: each starts from what the
    one before it left. The groups of a phase touch nothing in common. In the
    first phase each seed makes what several groups start from, as if it were
    a job at the point None.

    Returns:
        List of phases, each a list of lists of `(method, point, seed)`.
    """
    seeds = {}
    own, others = {}, {}
    for method, point, seed in jobs:
        after = METHODS[method].after
        if method not in (job[0] for job in seeds.setdefault(seed, [])):
            seeds[seed].append((method, None, seed))
        groups = own if after in (None, method) else others
        first = (recipe.before(point) or [point])[0]
        key = (method if groups is own else "", first, seed)
        groups.setdefault(key, []).append((method, point, seed))
    found = [seeds, own, others]
    return [list(groups.values()) for groups in found if groups]
