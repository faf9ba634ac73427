"""How a network on images is trained, pruned and retrained, as a JSON file."""

import dataclasses
import inspect

import keras_prm
from examples.common import networks
from examples.study.recipe import Admm
from examples.study.recipe import Distillation
from examples.study.recipe import Point
from examples.study.recipe import Recipe
from examples.study.recipe import Training
from examples.study.recipe import as_json
from examples.study.recipe import check

WAYS = ("admm", "magnitude", "elsewhere")
PRECISIONS = ("float32", "mixed_bfloat16")
# From what recipes call them to what `keras_prm.strip` does.
LOWERINGS = {"none": "none", "fewest": "fewest_parameters"}
LOWERINGS |= {name: name for name in ("auto", "model", "smallest")}
OF_POINTS = ("distillation", "column_pattern", "max_drop", "lowering")


@dataclasses.dataclass(frozen=True)
class PhaseRecipe(Recipe):
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
            the fewest weights, as `"fewest_parameters"`. `"none"`: they stay.

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
        seen, after, by = {"dense"}, [], []
        for name, point in self.points.items():
            after += [n for n in [point.after] if n not in seen]
            by += [n for n in [point.by] if n not in WAYS]
            seen.add(name)
        network = {self.network} - {*networks.NETWORKS}
        check(
            {"network": sorted(network), "after": after, "by": by},
            "Names do not fit together. Expected a network among "
            f"{list(networks.NETWORKS)}, and points that come after 'dense' "
            f"or a point that stands before, by one of {list(WAYS)}.",
        )
        check(
            self._misfits(),
            "Expected a network that takes its width and the options, "
            "numbers that can be, 'average' in (0, 1) and beside 'again', "
            f"a precision among {list(PRECISIONS)}, a lowering among "
            f"{list(LOWERINGS)}, points whose names can be those of folders, "
            "and 'admm' for those that are pruned by it.",
        )

    def _misfits(self):
        """What is wrong, by what it is; see `check`."""
        build = inspect.signature(networks.NETWORKS[self.network]).parameters
        points = self.points.items()
        least = {"width": 1, "image_size": 1, "batch_size": 1}
        least |= {"pixels": 0, "margin": 0, "max_drop": 0}
        return {
            "network, of one width": "width" not in build and self.network,
            # After input_shape, num_classes and width.
            "options": sorted({*self.options} - {*list(build)[3:]}),
            "numbers": [n for n in least if getattr(self, n) < least[n]],
            "average": self.average is not None
            and (self.again is None or not 0 < self.average < 1)
            and self.average,
            "top": self.top is not None and self.top < 1,
            "precision": self.precision not in PRECISIONS and self.precision,
            "lowering": self.lowering not in LOWERINGS and self.lowering,
            "points, their names": [
                n for n in self.points if n == "dense" or "/" in n
            ],
            "points, without 'admm'": [
                n
                for n, point in points
                if point.by == "admm" and not point.admm
            ],
            "points that are pruned elsewhere, of a network without 'widths'": [
                n
                for n, point in points
                if point.by == "elsewhere" and "widths" not in build
            ],
        }

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

    def build(self, input_shape, num_classes, **options):
        """The dense network, in float32; options may be other `widths`."""
        options = {"width": self.width} | self.options | options
        return super().build(input_shape, num_classes, **options)

    def try_out(self):
        """Fails, before hours have gone by, where it is of no use."""
        model = self._network()
        for point in self.points:
            self.plan(model, point)

    def plan(self, model, point):
        """The `SparsityPlan` of a point.

        Args:
            model: The network, at any width, or what is left of it.
            point: Name of the point.
        """
        return keras_prm.SparsityPlan.keep(
            model,
            self.points[point].keep,
            self.column_pattern,
            network=self._network(),
        )

    def _network(self):
        return self.build((self.image_size, self.image_size, 3), 10)

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
        return as_json(values)

    def way(self, point):
        """The points from the dense network to a point, a list of names."""
        before = self.points[point].after
        return [*(self.way(before) if before != "dense" else ()), point]


def _without_defaults(value):
    """Dataclasses as dicts of what is not said by their defaults."""
    if isinstance(value, dict):
        return {name: _without_defaults(v) for name, v in value.items()}
    if not dataclasses.is_dataclass(value):
        return value
    found = {}
    for field in dataclasses.fields(value):
        mine, default = getattr(value, field.name), field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if mine != default:
            found[field.name] = _without_defaults(mine)
    return found
