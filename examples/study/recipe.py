"""What recipes are made of: JSON files of networks, trainings and points."""

import dataclasses
import json
import pathlib

from examples.common import networks

RECIPES = pathlib.Path(__file__).absolute().parents[1] / "recipes"
RESULTS = RECIPES.with_name("results")


class Recipe:
    """Base of recipes, which are frozen dataclasses with a `network`."""

    @classmethod
    def load(cls, path):
        """Reads a recipe; exits where it cannot."""
        path = pathlib.Path(path)
        try:
            return cls.from_config(json.loads(path.read_text()))
        except (AttributeError, KeyError) as error:
            raise SystemExit(f"{path} is no recipe: {error!r}") from None
        except (OSError, TypeError, ValueError) as error:
            raise SystemExit(f"{path} is no recipe: {error}") from None

    @classmethod
    def from_config(cls, config):
        """A recipe from what a JSON file holds."""
        return cls(**config)

    def build(self, input_shape, num_classes, **options):
        """The dense network."""
        build = networks.NETWORKS[self.network]
        return build(input_shape, num_classes, **options)


def check(wrong, expected):
    """Raises if anything is wrong, all offenders together.

    Args:
        wrong: dict from what it is to the offenders, if there are any.
        expected: What to write instead.
    """
    if wrong := {name: value for name, value in wrong.items() if value}:
        raise ValueError(f"{expected} Received: {wrong}")


def as_json(values):
    """Values as they come back from a JSON file."""
    return json.loads(json.dumps(values))


@dataclasses.dataclass(frozen=True)
class Training:
    """Training under a learning rate that rises, and falls to 0 as a cosine.

    Args:
        epochs: How many.
        rate: The highest learning rate.
        weight_decay: Factor on the squared norm of the kernels in the loss,
            half of it: what other libraries call so.
        dropout: Rate of all Dropout layers; None: the network's own.
        hole: Pixels of the side of a square that is cut out of each image.
    """

    epochs: int
    rate: float
    weight_decay: float
    dropout: float | None = dataclasses.field(default=None, kw_only=True)
    hole: int = dataclasses.field(default=0, kw_only=True)

    def __post_init__(self):
        _check_numbers(
            self,
            epochs=self.epochs >= 1,
            rate=self.rate > 0,
            weight_decay=self.weight_decay >= 0,
            dropout=self.dropout is None or 0 <= self.dropout < 1,
            hole=self.hole >= 0,
        )


@dataclasses.dataclass(frozen=True)
class Admm(Training):
    """ADMM, under a learning rate that does not change.

    Args:
        epochs: How many; the sparse copies are updated after each.
        rate: The learning rate.
        weight_decay: As of other training.
        rho: The penalty in the first epoch.
        growth: Factor on `rho` from epoch to epoch.
    """

    rho: float
    growth: float

    def __post_init__(self):
        super().__post_init__()
        _check_numbers(self, rho=self.rho > 0, growth=self.growth > 0)


@dataclasses.dataclass(frozen=True)
class Distillation:
    """What a dense network's answers are worth, see `distillation`.

    Args:
        weight: Of the answers in the loss, in [0, 1]; 0: nobody is asked.
        temperature: Of the answers.
        views: How many crops of each image are asked for, and seen.
    """

    weight: float
    temperature: float
    views: int

    def __post_init__(self):
        _check_numbers(
            self,
            weight=0 <= self.weight <= 1,
            temperature=self.temperature > 0,
            views=self.views >= (self.weight > 0),
        )


@dataclasses.dataclass(frozen=True)
class Point:
    """One degree of pruning.

    Args:
        after: `"dense"`, or the point whose network it starts from.
        keep: What is left, see `keras_prm.SparsityPlan.keep`.
        admm: How it gets sparse, if it does by ADMM.
        retrain: How what is left is trained.
        by: How it gets sparse, a name in `phase_pruning.WAYS`.
    """

    after: str
    keep: dict
    admm: Admm | None
    retrain: Training
    by: str = "admm"


def _check_numbers(training, **fine):
    wrong = {
        n: getattr(training, n) for n, is_fine in fine.items() if not is_fine
    }
    if wrong:
        raise ValueError(
            f"{type(training).__name__} cannot have {wrong}. What there may "
            "be is in its docstring."
        )
