"""Initializers, regularizers and constraints, made to fit a smaller layer.

Initializers, regularizers and constraints may be made for a width: they hold
arrays with an entry for each channel, or reshape to a size that there is no
more. A smaller layer needs smaller ones, or none.
"""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from keras_prm.rebuild import config_arrays
from keras_prm.utils import keras_hooks

if TYPE_CHECKING:
    from typing import Any

_KINDS = {
    "initializer": keras.initializers,
    "regularizer": keras.regularizers,
    "constraint": keras.constraints,
}
_BATCHES = (1, 2, 3)  # what reshapes to (-1, k, k) may run on one of them


@dataclasses.dataclass(frozen=True)
class Change:
    """What became of one argument of a layer.

    Args:
        path: The layer's place in the hierarchy.
        argument: Its name.
        what: What was done, in words.
        is_sure: Whether what is there now surely means what it did.
    """

    path: str
    argument: str
    what: str
    is_sure: bool

    def __str__(self):
        return f"{self.path}: {self.argument}: {self.what}"


def kind_of(argument: str) -> Any:
    """`"initializer"`, `"regularizer"`, `"constraint"` or `None`."""
    return next((kind for kind in _KINDS if argument.endswith(kind)), None)


def fitted_attachments(layer, config, extents, outputs):
    """The arguments of a config that have to be others for a smaller layer.

    Args:
        layer: The layer that the smaller one stands for.
        config: The smaller layer's config, as far as it is known.
        extents: `extents(variable)` is the `Extent` of one of its weights.
        outputs: list of the `Extent`s of its outputs.

    Returns:
        dict from argument to `(value, what, is_sure)`: what it shall be, and
        the fields of its `Change`.
    """
    found = {}
    for name in config:
        kind = kind_of(name)
        value = (
            None
            if kind is None
            else _live_object(layer, name, config[name], kind)
        )
        if value is None or _is_plain(value):
            continue
        if kind == "initializer":
            own = [extents(v) for v in _weights_of(layer, name, value)]
            if _still_makes(value, own):
                own = own or [extents(v) for v in layer.weights]
                if not _holds_weights(value, own):
                    continue
            default = default_of(type(layer), name)
            what = f"{_object_name(value)} became {_object_name(default)}"
            found[name] = default, f"{what}, as the weights are there", True
            continue
        if kind == "regularizer" and name.startswith("activity"):
            own, runs = outputs, _judges_outputs
        else:
            own = [extents(v) for v in _weights_of(layer, name, value)]
            runs = _judges if kind == "regularizer" else _restrains
        changed = fit(value, own, runs)
        if changed is not None:
            found[name] = changed
    return found


def fit(value, extents, runs):
    """What has to stand for a regularizer or a constraint.

    Args:
        value: The object or function.
        extents: list of the `Extent`s of what it is called on.
        runs: `runs(value, shape)`, whether it can be called on a tensor of
            this shape, and returns what it should.

    Returns:
        `(new value, what, is_sure)`, see `Change`; `None` if it can stay.
    """
    extents = [extent for extent in extents if not extent.is_same]
    if not extents:
        return None  # what it is for stays as it was
    if not all(runs(value, extent.before) for extent in extents):
        return None  # nothing can be said of it
    config = _config_or_none(value)
    works = all(runs(value, e.after) for e in extents)
    if config is None:
        return None if works else _dropped(value, extents)
    names = _names_of_arrays(config, extents)
    binding = config_arrays.NONE
    if names:
        binding = config_arrays.channel_arrays(
            value, config, extents, lambda new: _rebuilt(value, new)
        )
    if works and binding == config_arrays.NONE:
        widths = _replaced(config, extents)
        if not widths:
            return None
        sizes = _width_names(config, widths)
        what = f"{_object_name(value)} stays, with {sizes} in it"
        return value, f"{what}, taken for no width", False
    return _smaller(value, config, extents, runs, binding, names) or _dropped(
        value, extents
    )


def _smaller(value, config, extents, runs, binding, names):
    """What `fit` returns for what is made of a smaller config, or `None`."""
    smaller = _cut_config(config, extents)
    if smaller is None:
        return None
    widths = _replaced(smaller, extents)
    for new in {}, widths:
        rebuilt = _rebuilt(value, smaller | new)
        if not (names or new) or not rebuilt:
            continue
        if not all(runs(rebuilt, e.after) for e in extents):
            continue
        if new:
            what = (
                f"was made anew, {_width_names(config, new)} taken for a width"
            )
        elif binding == config_arrays.CHANNELS:
            return rebuilt, f"{_object_name(value)} was cut", True
        else:
            what = f"was cut, {_quoted(names)} taken for one number per channel"
        return rebuilt, f"{_object_name(value)} {what}", False
    return None


def _dropped(value, extents):
    shapes = [
        f"{_shape_text(e.before)} became {_shape_text(e.after)}"
        for e in extents
    ]
    return (
        None,
        f"{_object_name(value)} was dropped, as {', '.join(shapes)}",
        False,
    )


def release_arrays(layer):
    """Takes arrays out of the initializers inside of a layer, in place.

    Args:
        layer: A layer whose weights are there.
    """
    for part in keras_hooks.sublayers(layer):
        for name, value in list(vars(part).items()):
            if kind_of(name) != "initializer" or value is None:
                continue
            own = _weights_of(part, name.lstrip("_"), value) or part.weights
            own = [_unchanged(v) for v in own]
            if _holds_weights(value, own):
                default = default_of(type(part), name.lstrip("_"))
                setattr(part, name, keras.initializers.get(default))


def default_of(layer_class, argument):
    """The initializer that a class takes if it is given none."""
    for kind in layer_class.__mro__:
        found = inspect.signature(kind.__init__).parameters.get(argument)
        if found is not None and found.default not in (found.empty, None):
            return found.default
    return "zeros"


def warn(model, changes, stacklevel):
    """Warns of what a smaller model trains with otherwise, if anything."""
    found = [str(change) for change in changes if not change.is_sure]
    if found:
        warnings.warn(
            f"Arguments of layers of '{model.name}' may be made for widths "
            "that are smaller now. Outputs do not depend on them, training "
            f"does. Received, with what was assumed: {'; '.join(found)}. To "
            "train the smaller model with another one, set it on the weight, "
            "and on the layer for what is saved: `layer.kernel.regularizer = "
            "layer.kernel_regularizer = ...`.",
            stacklevel=stacklevel + 1,
        )


def _live_object(layer, name, value, kind):
    """The object that an argument stands for, or `None`."""
    if value is None:
        return None
    if callable(value) and not isinstance(value, type):
        return value
    for attribute in (name, f"_{name}"):
        own = getattr(layer, attribute, None)
        if callable(own) and not isinstance(own, type):
            return own
    try:
        return _KINDS[kind].get(value)
    except Exception:  # of another meaning, or of an unknown class
        return None


def _weights_of(layer, name, value):
    """The weights that an argument is for, those of inner layers as well."""
    kind = kind_of(name)
    stem = name.removesuffix(f"_{kind}")
    found = {}
    for part in keras_hooks.sublayers(layer):
        for attribute in (stem, f"{stem}_kernel"):
            own = getattr(part, attribute, None)
            if any(own is v for v in layer.weights):
                found[id(own)] = own
    for variable in layer.weights:
        if getattr(variable, kind, None) is value:
            found[id(variable)] = variable
    return list(found.values())


def _config_or_none(value):
    """What an object is made of, as far as it tells; else `None`."""
    try:
        return value.get_config()
    except Exception:
        return None


def _is_plain(value):
    """Whether it is of Keras, and holds nothing but numbers and names."""
    config = _config_or_none(value)
    return (
        config is not None
        and type(value).__module__.partition(".")[0] == "keras"
        and all(
            isinstance(x, (int, float, str, type(None)))
            for name, x in config.items()
            if not config_arrays.is_axis(name) and name != "seed"
        )
    )


def _still_makes(initializer, extents):
    """Whether an initializer makes what a smaller layer asks of it."""
    shapes = {e.after for e in extents if not e.is_same}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of lambdas
            saved = keras.initializers.serialize(initializer)
        keras.initializers.get(saved)
        return all(tuple(initializer(s).shape) == s for s in shapes)
    except Exception:
        return False


def _holds_weights(initializer, extents):
    """Whether numbers in it may be those of a weight."""
    sizes, shapes = _sizes(extents) | {1}, []

    def look(array):
        shapes.append(array.shape)
        return array

    config_arrays.change(_config_or_none(initializer), look, sizes)
    found = any(sizes.issuperset(shape) for shape in shapes)
    return found and not _is_free(initializer, extents)


def _is_free(initializer, extents):
    """Whether it makes the same if a list of it is put into another order."""

    def turned(array):
        if array.ndim > 1:
            raise ValueError  # a matrix is one of weights
        return np.roll(config_arrays.unequal(array), 1)

    config, results = _config_or_none(initializer), []
    try:
        for function in config_arrays.unequal, turned:
            new = config_arrays.change(config, function, _sizes(extents))
            new = _rebuilt(initializer, new)
            results.append([np.asarray(new(e.before)) for e in extents])
        return bool(results[0]) and all(map(np.allclose, *results))
    except Exception:  # no list of numbers, or of another order
        return False


def _unchanged(variable):
    shape = tuple(variable.shape)
    return config_arrays.Extent(shape, shape, (None,) * len(shape))


def _cut_config(config, extents):
    """A config with arrays cut; `None` where one of them cannot be."""

    def cut(array):
        found = [extent.cut(array) for extent in extents]
        shapes = {None if x is None else x.shape for x in found}
        if None in shapes or len(shapes) > 1:
            raise ValueError
        return found[0]

    try:
        return config_arrays.change(config, cut, _sizes(extents))
    except ValueError:
        return None


def _names_of_arrays(config, extents):
    """Entries of a config with an array that may be cut for a new width."""
    found = []
    for name, value in config.items():
        may_be = []

        def look(array, may_be=may_be):
            cuts = [extent.cut(array) for extent in extents]
            may_be += [x is None or x.shape != array.shape for x in cuts]
            return array

        config_arrays.change({name: value}, look, _sizes(extents))
        if any(may_be):
            found.append(name)
    return found


def _replaced(config, extents):
    """Numbers in a config that are old widths, by the new ones."""
    lost = {}
    for extent in extents:
        lost.update(extent.lost)
    return {
        name: lost[value]
        for name, value in config.items()
        if type(value) is int and value > 1 and value in lost
        if not config_arrays.is_axis(name)
    }


def _sizes(extents):
    return set().union(*(extent.sizes for extent in extents))


def _quoted(names):
    return ", ".join(map(repr, names))


def _width_names(config, names):
    """The numbers that are old widths, for people."""
    return ", ".join(f"{name!r} = {config[name]}" for name in names)


def _rebuilt(value: Any, config: Any) -> Any:
    try:
        return type(value).from_config(config)
    except Exception:
        return None


def _judges(regularizer, shape):
    """Whether it makes one number of a weight."""
    return _gives(regularizer, shape, ())


def _judges_outputs(regularizer, shape):
    """Whether it makes one number of outputs, for any number of samples."""
    sizes = [n or 4 for n in shape[1:]]
    batches = _BATCHES if shape[0] is None else (shape[0],)
    return all(_gives(regularizer, (n, *sizes), ()) for n in batches)


def _restrains(constraint, shape):
    """Whether it makes a weight of a weight."""
    return _gives(constraint, shape, shape)


def _gives(function, shape, expected):
    numbers = np.random.default_rng(0).uniform(0.1, 1.0, shape)
    try:
        result = function(ops.convert_to_tensor(numbers.astype("float32")))
        return tuple(ops.shape(result)) == tuple(expected)
    except Exception:
        return False


def _object_name(value):
    if isinstance(value, str):
        return value
    return getattr(value, "__name__", type(value).__name__)


def _shape_text(shape):
    return "x".join("?" if n is None else str(n) for n in shape)
