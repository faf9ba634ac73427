"""What a frontier is made of, read from a JSON file.

A recipe names the network, how it is trained, and its *points*: how many
filters, and how many columns of each filter, every layer keeps.
"""

import dataclasses
import json
import math
import pathlib

import keras_prm


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One network, one way of training it, many degrees of pruning.

    Args:
        network: Name in `networks.NETWORKS`.
        points: dict from the name of a point to what it keeps: a dict from
            the name of a layer to `(filters, columns)`. Columns are counted
            in one filter, dead input channels left out. A layer that is not
            named keeps all.
        chains: tuple of tuples of names of points: each starts from what
            came out at the one before, the first from the base.
        widths: dict from the name of a point to the number of filters by
            layer with which a network without any empty column stores as
            many weights: what pruning filters alone is compared at.
        shipped: Names of the points whose files are kept.
        batch_size: Images per training step.
        shift: Images are shifted by up to this many pixels.
        dense_epochs: Epochs of dense training.
        admm_epochs: Epochs of ADMM; of other methods, of getting sparse.
        retrain_epochs: Epochs of masked retraining.
        dense_rate: Learning rate of dense training, falls to 0.
        admm_rate: Learning rate of ADMM, constant.
        retrain_rate: Learning rate of retraining, falls to 0.
        rho: ADMM's penalty in the first epoch.
        rho_growth: Factor on `rho` from epoch to epoch.
        updates: ADMM's updates per epoch.
        column_pattern: See `keras_prm.SparsityPlan.explicit`.
        distillation: Weight of the dense model's answers in the loss.
        temperature: Of those answers.
        max_drop: What purification may cost, mean log likelihood of the
            validation labels.
        precision: Keras' dtype policy while networks are at full width.
    """

    network: str
    points: dict
    chains: tuple
    widths: dict
    shipped: tuple = ()
    batch_size: int = 128
    shift: int = 1
    base: dict = dataclasses.field(default_factory=dict)
    dense_epochs: int = 10
    base_admm_epochs: int = 6
    base_retrain_epochs: int = 8
    admm_epochs: int = 10
    retrain_epochs: int = 40
    dense_rate: float = 2e-3
    admm_rate: float = 1e-3
    retrain_rate: float = 2e-3
    rho: float = 3e-3
    rho_growth: float = 1.4
    updates: int = 1
    column_pattern: str = "free"
    distillation: float = 0.5
    temperature: float = 2.0
    max_drop: float = 0.0
    precision: str = "float32"

    @classmethod
    def load(cls, path):
        """Reads a recipe; exits where it cannot."""
        path = pathlib.Path(path)
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, TypeError, ValueError) as error:
            raise SystemExit(f"{path} is no recipe: {error}") from None

    def kept(self, point, filters_only=False):
        """What a point keeps: dict from layer to `(filters, columns)`."""
        if filters_only:
            widths = self.widths[point]
            return {name: (size, None) for name, size in widths.items()}
        return self.points[point]

    def before(self, point):
        """The points of a chain that come before one, a list."""
        for chain in self.chains:
            if point in chain:
                return list(chain[: chain.index(point)])
        return []

    def epochs_to(self, point):
        """Epochs from the dense network to a point, all rounds together."""
        rounds = len(self.before(point)) + 1
        first = self.base_admm_epochs + self.base_retrain_epochs
        return first + rounds * (self.admm_epochs + self.retrain_epochs)

    def settings(self, point, filters_only=False):
        """All that a result of this point depends on, plain values."""
        shared = self._without("points", "chains", "widths", "shipped")
        way = [*self.before(point), point]
        return shared | {"keep": [self.kept(p, filters_only) for p in way]}

    def first_round(self):
        """All that the dense network and the base depend on."""
        return self._without(
            *("points", "chains", "widths", "shipped"),
            *("admm_epochs", "retrain_epochs"),
        )

    def _without(self, *names):
        values = dataclasses.asdict(self)
        return {k: v for k, v in values.items() if k not in names}

    def quick(self):
        """The same in one epoch each, to see that all works."""
        epochs = {
            field.name: 1
            for field in dataclasses.fields(self)
            if field.name.endswith("_epochs")
        }
        return dataclasses.replace(self, **epochs)

    def plan(self, model, keep):
        """The `SparsityPlan` that keeps so much of a chain of layers.

        What has less already keeps all of it.

        Args:
            model: The network, at any width.
            keep: dict from the name of a layer to `(filters, columns)`.
        """
        targets = {}
        for name, size, columns in _sizes(model, keep):
            if name in keep:
                filters_kept, columns_kept = keep[name]
                kept = min(filters_kept or size, size)
                targets[name] = {"filters": 1 - kept / size}
                if columns_kept is not None:
                    share = min(columns_kept / columns, 1.0)
                    targets[name]["columns"] = 1 - share
                    targets[name]["column_pattern"] = self.column_pattern
        return keras_prm.SparsityPlan.explicit(model, targets)


def _sizes(model, keep):
    """Of a chain of layers: name, filters, and columns that can be live.

    A column is live only if its channel is: if the layer before keeps it.
    """
    share = 1.0
    for layer in model.layers:
        if getattr(layer, "kernel", None) is not None:
            *rows, size = layer.kernel.shape
            yield layer.name, size, round(math.prod(rows) * share)
            kept = keep.get(layer.name, (None,))[0] or size
            share = min(kept, size) / size
