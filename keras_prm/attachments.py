"""What a layer's config attaches to its weights and outputs, made to fit.

Initializers, regularizers and constraints may be made for a width: they hold
arrays with an entry for each channel, or reshape to a size that there is no
more. A smaller layer needs smaller ones, or none.
"""

from __future__ import annotations

import dataclasses
import inspect
import warnings

import keras
import numpy as np
from keras import ops

from keras_prm import config_arrays
from keras_prm import topology

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


def kind_of(argument):
    """`"initializer"`, `"regularizer"`, `"constraint"` or `None`."""
    return next((kind for kind in _KINDS if argument.endswith(kind)), None)


def fitted(layer, config, extents, outputs):
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
        value = None if kind is None else _live(layer, name, config[name], kind)
        if value is None or _is_plain(value):
            continue
        if kind == "initializer":
            own = [extents(v) for v in _weights(layer, name, value)]
            if not _still_makes(value, own):
                default = default_of(type(layer), name)
                what = f"{_name(value)} became {_name(default)}"
                found[name] = default, f"{what}, as the weights are there", True
            continue
        if kind == "regularizer" and name.startswith("activity"):
            own, runs = outputs, _judges_outputs
        else:
            own = [extents(v) for v in _weights(layer, name, value)]
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
    smaller, is_cut, is_guess = _smaller(_config_of(value), extents)
    if smaller is not None and (is_cut or is_guess):
        rebuilt = _rebuilt(value, smaller)
        if rebuilt and all(runs(rebuilt, e.after) for e in extents):
            how = "made anew for the new width" if is_guess else "cut"
            return rebuilt, f"{_name(value)} was {how}", not is_guess
    elif smaller is not None and all(runs(value, e.after) for e in extents):
        return None
    shapes = [f"{_text(e.before)} became {_text(e.after)}" for e in extents]
    what = f"{_name(value)} was dropped, as {', '.join(shapes)}"
    return None, what, False


def release_arrays(layer):
    """Takes arrays out of the initializers inside of a layer, in place.

    Args:
        layer: A layer whose weights are there.
    """
    for part in topology.sublayers(layer):
        for name, value in list(vars(part).items()):
            if kind_of(name) != "initializer" or value is None:
                continue
            if config_arrays.holds(_config_of(value)):
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
            f"Regularizers and constraints of '{model.name}' that were made "
            "for widths which are smaller now had to change; outputs do not "
            "depend on them, training does. Set what you want on the layers "
            "of the smaller model before you train it, such as "
            "`small.get_layer(name).kernel_regularizer = ...`. Received: "
            f"{'; '.join(found)}.",
            stacklevel=stacklevel + 1,
        )


def _live(layer, name, value, kind):
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


def _weights(layer, name, value):
    """The weights that an argument is for, those of inner layers as well."""
    kind = kind_of(name)
    stem = name.removesuffix(f"_{kind}")
    found = {}
    for part in topology.sublayers(layer):
        for attribute in (stem, f"{stem}_kernel"):
            own = getattr(part, attribute, None)
            if any(own is v for v in layer.weights):
                found[id(own)] = own
    for variable in layer.weights:
        if getattr(variable, kind, None) is value:
            found[id(variable)] = variable
    return list(found.values())


def _config_of(value):
    """What an object is made of, as far as it tells; else `None`."""
    try:
        return value.get_config()
    except Exception:
        return None


def _is_plain(value):
    """Whether it is of Keras, and holds nothing but numbers and names."""
    config = _config_of(value)
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
    """Whether an initializer can stay in the config of a smaller layer."""
    config = _config_of(initializer)
    sizes = {n for extent in extents for n in extent.before}
    if config is not None and config_arrays.holds(config, sizes):
        return False
    shapes = {e.after for e in extents if not e.is_same}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of lambdas
            saved = keras.initializers.serialize(initializer)
        keras.initializers.get(saved)
        return all(tuple(initializer(s).shape) == s for s in shapes)
    except Exception:
        return False


def _smaller(config, extents):
    """A config with arrays cut and widths replaced.

    Returns:
        `(config, is_cut, is_guess)`: the config, `None` where an array cannot
        be cut; whether an array was; whether a number was taken for a width.
    """
    if config is None:
        return {}, False, False
    lost, done = {}, []
    for extent in extents:
        lost.update(extent.lost)
    sizes = {n for extent in extents for n in extent.before if n}

    def cut(array):
        found = [extent.cut(array) for extent in extents]
        shapes = {None if x is None else x.shape for x in found}
        if None in shapes or len(shapes) > 1:
            raise ValueError
        done.append(found[0].shape != array.shape)
        return found[0]

    try:
        smaller = config_arrays.change(config, cut, sizes)
    except ValueError:
        return None, False, False
    guesses = {
        name: lost[value]
        for name, value in smaller.items()
        if type(value) is int and value > 1 and value in lost
        if not config_arrays.is_axis(name)
    }
    return smaller | guesses, any(done), bool(guesses)


def _rebuilt(value, config):
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


def _name(value):
    if isinstance(value, str):
        return value
    return getattr(value, "__name__", type(value).__name__)


def _text(shape):
    return "x".join("?" if n is None else str(n) for n in shape)
