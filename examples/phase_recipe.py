"""How a network on images is trained, pruned and retrained, as a JSON file."""

import dataclasses
import inspect
import json
import pathlib

from examples import keeping
from examples import networks
from keras_prm.rebuild import lower_columns

WAYS = ("admm", "magnitude", "elsewhere")
LOWERINGS = ("none", "fewest", *lower_columns.LOWERERS)
OF_POINTS = ("distillation", "column_pattern", "max_drop", "lowering")


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
        keep: What is left, see `keeping.plan`.
        admm: How it gets sparse, if it does by ADMM.
        retrain: How what is left is trained.
        by: How it gets sparse, a name in `phase_pruning.WAYS`.
    """

    after: str
    keep: dict
    admm: Admm | None
    retrain: Training
    by: str = "admm"


@dataclasses.dataclass(frozen=True)
class PhaseRecipe:
    """One network, one way of training it, several degrees of pruning.

    Args:
        dataset: The images it is for, a TFDS name.
        network: Name in `networks.NETWORKS`.
        width: Filters of its first layer.
        image_size: Pixels of height and width that it sees.
        precision: Keras' dtype policy in training.
        batch_size: Images per training step.
        pixels: Largest shift of a crop along each axis.
        flips: Whether every second crop is mirrored.
        dense: How the dense network is trained.
        distillation: What the dense network teaches the others.
        column_pattern: See `keras_prm.SparsityPlan.explicit`.
        max_drop: How far purification may take the answers to the validation
            images from what they were, see `measuring.mean_divergence`.
        points: dict from the name of a point to its `Point`.
        again: How the dense network is trained once more, from where it is; a
            warm restart. None: it is not.
        average: What its end has then in the dense network, which is the mean
            of both ends, in (0, 1). None: it is the dense network.
        options: dict of what else the network takes.
        margin: Pixels on each side of images that are there for crops alone.
        top: Counts labels among so many answers as well; None does not.
        lowering: What becomes of empty columns in the small network, a name
            that `keras_prm.strip` takes, or `"fewest"`: those forms that have
            the fewest weights, see `fewest_parameters`. `"none"`: they stay.

    Raises:
        ValueError: A name is not known, or points want what is not there.
    """

    dataset: str
    network: str
    width: int
    image_size: int
    precision: str
    batch_size: int
    pixels: int
    dense: Training
    distillation: Distillation
    column_pattern: str
    max_drop: float
    points: dict
    again: Training | None = None
    average: float | None = None
    options: dict = dataclasses.field(default_factory=dict)
    margin: int = 0
    flips: bool = True
    top: int | None = None
    lowering: str = "fewest"

    def __post_init__(self):
        seen = {"dense"}
        wrong = [n for n in [self.network] if n not in networks.NETWORKS]
        for name, point in self.points.items():
            wrong += [n for n in [point.after] if n not in seen]
            wrong += [n for n in [point.by] if n not in WAYS]
            seen.add(name)
        if wrong:
            raise ValueError(
                "Names do not fit together. Expected a network among "
                f"{list(networks.NETWORKS)}, and points that come after "
                "'dense' or a point that stands before, by one of "
                f"{list(WAYS)}. Received: {wrong}"
            )

        self._check()

    def _check(self):
        known = ("float32", "mixed_bfloat16")
        build = inspect.signature(networks.NETWORKS[self.network])
        wrong = {
            "network, of one width": "width" not in build.parameters
            and self.network,
            # After input_shape, num_classes and width.
            "options": sorted({*self.options} - {*list(build.parameters)[3:]}),
            "numbers": [
                name
                for name, least in (
                    ("width", 1),
                    ("image_size", 1),
                    ("batch_size", 1),
                    ("pixels", 0),
                    ("margin", 0),
                    ("max_drop", 0),
                )
                if getattr(self, name) < least
            ],
            "average": self.average is not None
            and (self.again is None or not 0 < self.average < 1)
            and self.average,
            "top": self.top is not None and self.top < 1,
            "precision": self.precision not in known and self.precision,
            "lowering": self.lowering not in LOWERINGS and self.lowering,
            "points, their names": [
                n for n in self.points if n == "dense" or "/" in n
            ],
            "points, without 'admm'": [
                n
                for n, point in self.points.items()
                if point.by == "admm" and point.admm is None
            ],
            "points that are pruned elsewhere, of a network without 'widths'": [
                n
                for n, point in self.points.items()
                if point.by == "elsewhere" and "widths" not in build.parameters
            ],
        }
        if wrong := {name: value for name, value in wrong.items() if value}:
            raise ValueError(
                "Expected a network that takes its width and the options, "
                "numbers that can be, 'average' in (0, 1) and beside 'again', "
                "a precision of 'float32' or 'mixed_bfloat16', a lowering "
                f"among {list(LOWERINGS)}, "
                "points whose names can be those of folders, and 'admm' for "
                f"those that are pruned by it. Received: {wrong}"
            )

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
        """A recipe from what a JSON file holds.

        `"admm"` and `"retrain"` are those of every point that has none.
        """
        config = dict(config)
        usual = {name: config.pop(name, None) for name in ("admm", "retrain")}
        points = {}
        for name, point in config.pop("points").items():
            point = usual | point
            if not point["retrain"]:
                raise ValueError(
                    "Every point needs 'retrain', its own or that of the "
                    f"recipe. Received none for: {name!r}"
                )
            admm, retrain = point.pop("admm"), point.pop("retrain")
            points[name] = Point(
                admm=admm and Admm(**admm),
                retrain=Training(**retrain),
                **point,
            )
        if again := config.pop("again", None):
            config["again"] = Training(**again)
        return cls(
            dense=Training(**config.pop("dense")),
            distillation=Distillation(**config.pop("distillation")),
            points=points,
            **config,
        )

    def quick(self):
        """The first point alone, of a slim network, in few small steps."""
        name, point = next(iter(self.points.items()))
        width, factor = 8, 8 / self.width

        def few(training, epochs=1):
            rate = training.rate / 8
            return dataclasses.replace(training, epochs=epochs, rate=rate)

        point = dataclasses.replace(
            point,
            after="dense",
            keep={
                pattern: [n and max(1, round(n * factor)) for n in numbers]
                for pattern, numbers in point.keep.items()
            },
            admm=point.admm and few(point.admm),
            retrain=few(point.retrain, 2),
        )
        return dataclasses.replace(
            self,
            width=width,
            batch_size=32,
            dense=few(self.dense, 2),
            again=self.again and few(self.again),
            distillation=dataclasses.replace(self.distillation, views=1),
            points={name: point},
        )

    def at_size(self, image_size):
        """The same of images of so many pixels."""
        return dataclasses.replace(self, image_size=image_size)

    def build(self, input_shape, num_classes):
        """The dense network, in float32."""
        return networks.NETWORKS[self.network](
            input_shape, num_classes, self.width, **self.options
        )

    def try_out(self):
        """Fails, before hours have gone by, where it is of no use."""
        model = self.build((self.image_size, self.image_size, 3), 10)
        for point in self.points:
            self.plan(model, point)

    def plan(self, model, point):
        """The `SparsityPlan` of a point.

        Args:
            model: The network, at any width, or what is left of it.
            point: Name of the point.
        """
        return keeping.plan(
            model,
            self.points[point].keep,
            self.column_pattern,
            network=self.build((self.image_size, self.image_size, 3), 10),
        )

    def settings(self, point=None):
        """All that the dense network, or a point, depends on; as JSON has it.

        Fields at their defaults are left out, so that what was made before a
        recipe could say more stays what it is.

        Args:
            point: Name of the point; None: the dense network.
        """
        values = _without_defaults(self)
        points = values.pop("points")
        for name in ("dataset", "top"):  # the images are, of the former
            values.pop(name, None)
        if point is None:
            for name in OF_POINTS:
                values.pop(name, None)
        else:
            values["way"] = [points[name] for name in self.way(point)]
        return json.loads(json.dumps(values))

    def way(self, point):
        """The points from the dense network to a point, a list of names."""
        before = self.points[point].after
        return [*(self.way(before) if before != "dense" else ()), point]


def _check_numbers(training, **fine):
    wrong = {
        n: getattr(training, n) for n, is_fine in fine.items() if not is_fine
    }
    if wrong:
        raise ValueError(
            f"{type(training).__name__} cannot have {wrong}. What there may "
            "be is in its docstring."
        )


def _without_defaults(value):
    """Dataclasses as dicts of what is not said by their defaults."""
    if isinstance(value, dict):
        return {name: _without_defaults(v) for name, v in value.items()}
    if not dataclasses.is_dataclass(value):
        return value
    found = {}
    for field in dataclasses.fields(value):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        mine = getattr(value, field.name)
        if mine != default:
            found[field.name] = _without_defaults(mine)
    return found
