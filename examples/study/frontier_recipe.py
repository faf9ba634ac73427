"""What a frontier is made of, read from a JSON file.

A recipe names the network, how it is trained, and its *points*: how many
filters, and how many columns of each filter, every layer keeps.
"""

import dataclasses

import keras_prm
from examples.common import networks
from examples.study.recipe import Recipe
from examples.study.recipe import as_json
from examples.study.recipe import check


@dataclasses.dataclass(frozen=True)
class FrontierRecipe(Recipe):
    """One network, one way of training it, many degrees of pruning.

    Args:
        network: Name in `networks.NETWORKS`.
        base: What the first round keeps, like a point.
        points: dict from the name of a point to what it keeps: a dict from
            the name of a layer to `(filters, columns)`. Columns are counted
            in one filter, dead input channels left out. A layer that is not
            named keeps all, as `None` does.
        chains: Lists of names of points, each point in one of them: it
            starts from what came out at the one before, the first one from
            the base.
        widths: dict from the name of a point to the number of filters by
            layer with which a network without any empty column stores as
            many weights: what pruning filters alone is compared at.
        shipped: Names of the points whose files are kept.
        batch_size: Images per training step.
        shift: Images are shifted by up to this many pixels.
        dense_epochs: Epochs of dense training.
        base_admm_epochs: Epochs of ADMM in the first round.
        base_retrain_epochs: Epochs of masked retraining in the first round.
        admm_epochs: Epochs of ADMM in later rounds; of other methods, of
            getting sparse.
        retrain_epochs: Epochs of masked retraining in later rounds.
        long_retraining: dict from the name of a point to its epochs of masked
            retraining, where they are not `retrain_epochs`.
        dense_rate: Learning rate of dense training, falls to 0.
        admm_rate: Learning rate of ADMM, constant.
        retrain_rate: Learning rate of retraining, falls to 0.
        rho: ADMM's penalty in the first epoch of a round.
        rho_growth: Factor on `rho` from epoch to epoch.
        column_pattern: See `keras_prm.SparsityPlan.explicit`.
        distillation: Weight of the dense network's answers in the loss.
        temperature: Of those answers.
        max_drop: What purification may cost, mean log likelihood of the
            validation labels.
        precision: Keras' dtype policy while the network is at full width.

    Raises:
        ValueError: A name is not known, a point is in no chain or in two, or
            a layer has more filters than where its chain comes from.
    """

    network: str
    base: dict
    points: dict
    chains: list
    widths: dict
    shipped: list
    batch_size: int
    shift: int
    dense_epochs: int
    base_admm_epochs: int
    base_retrain_epochs: int
    admm_epochs: int
    retrain_epochs: int
    long_retraining: dict
    dense_rate: float
    admm_rate: float
    retrain_rate: float
    rho: float
    rho_growth: float
    column_pattern: str
    distillation: float
    temperature: float
    max_drop: float
    precision: str

    def __post_init__(self):
        chained = [point for chain in self.chains for point in chain]
        wrong = {
            "network": {self.network} - set(networks.NETWORKS),
            "chains": set(chained) ^ set(self.points),
            "chains, twice": {p for p in chained if chained.count(p) > 1},
            "widths": set(self.widths) - set(self.points),
            "long_retraining": set(self.long_retraining) - set(self.points),
            "shipped": set(self.shipped) - set(self.points),
        }
        check(
            {name: sorted(names) for name, names in wrong.items()},
            "Names do not fit together. Expected a network among "
            f"{list(networks.NETWORKS)}, and every point in one chain.",
        )
        for chain in self.chains:
            left = {name: filters for name, (filters, _) in self.base.items()}
            for point in chain:
                self._check_narrower(point, left)

    def _check_narrower(self, point, left):
        """A filter that is gone does not come back; updates what is left."""
        for name, (filters, _) in self.points[point].items():
            if filters is None:
                continue
            if filters > (left.get(name) or filters):
                raise ValueError(
                    "A point has at most the filters of the one before it. "
                    f"Received: {filters} in {name} of {point!r}, where "
                    f"{left[name]} are left"
                )
            left[name] = filters

    def before(self, point):
        """The points of a chain that come before one, a list."""
        chain = next(chain for chain in self.chains if point in chain)
        return list(chain[: chain.index(point)])

    def way(self, point):
        """The points from the base to a point, a list of names."""
        return [*self.before(point), point]

    @property
    def base_epochs(self):
        """Epochs from the dense network to the base."""
        return self.base_admm_epochs + self.base_retrain_epochs

    def epochs_to(self, point):
        """Epochs from the dense network to a point, all rounds together."""
        way = self.way(point)
        retraining = sum(map(self.retraining, way))
        return self.base_epochs + self.admm_epochs * len(way) + retraining

    def retraining(self, point):
        """Epochs of masked retraining in the last round to a point."""
        return self.long_retraining.get(point, self.retrain_epochs)

    def kept(self, point, filters_only=False):
        """What a point keeps: dict from layer to `(filters, columns)`."""
        if filters_only:
            widths = self.widths[point]
            return {name: (size, None) for name, size in widths.items()}
        return self.points[point]

    def settings(self, *names):
        """Some of its values, as JSON has them.

        Without `names`: all that tells how networks are trained.
        """
        by_point = ("base", "points", "chains", "widths", "shipped")
        by_point += ("long_retraining",)
        values = dataclasses.asdict(self)
        names = names or [name for name in values if name not in by_point]
        return as_json({name: values[name] for name in names})

    def quick(self):
        """One epoch each and two points only, to see that all works."""
        first = list(dict.fromkeys(self.chains[n][0] for n in (0, -1)))
        epochs = {
            field.name: 1
            for field in dataclasses.fields(self)
            if field.name.endswith("_epochs")
        }
        return dataclasses.replace(
            self,
            chains=[[name] for name in first],
            long_retraining={},
            points={name: self.points[name] for name in first},
            widths={n: self.widths[n] for n in first if n in self.widths},
            shipped=[],
            **epochs,
        )

    def plan(self, model, keep):
        """The `SparsityPlan` that keeps so much."""
        return keras_prm.SparsityPlan.keep(model, keep, self.column_pattern)
