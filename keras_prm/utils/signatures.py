"""Signatures of weights, by which they are known in another build.

Keys hold names, and those that Keras makes up differ from one build of a
network to the next. So plans and masks remember all weights of the model that
they were made for, in order, and find them again in another build by their
place, their shape and the class of their layer. Names serve twice: in
messages, and where they tell that a weight of equal shape stands elsewhere.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import re
import weakref
from typing import TYPE_CHECKING

import keras

from keras_prm.utils import variable_keys

if TYPE_CHECKING:
    from typing import Any


@dataclasses.dataclass(frozen=True)
class Signature:
    """What one weight of a model is known by.

    Args:
        key: Its key.
        layer: The class of the layer that holds it.
        shape: Its shape.
        trainable: Whether it was trained when the signature was taken.
        source: A weak reference to the variable, by which it is known again
            while it lives; `None` for what was read from a file.
    """

    key: str
    layer: str
    shape: tuple[int, ...]
    trainable: bool
    source: Any = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def owner(self) -> str:
        """The name of the innermost layer that holds it."""
        return _owner(self.key)

    @property
    def name(self) -> str:
        """Its name within this layer."""
        return self.key.rpartition("/")[2]

    def __str__(self):
        return f"{self.name} of {self.layer} '{self.owner}' {self.shape}"

    def __reduce__(self):
        # Weak references can be neither pickled nor copied.
        return Signature, (self.key, self.layer, self.shape, self.trainable)

    def to_list(self):
        """The signature as `json` can write it."""
        return [self.key, self.layer, list(self.shape), self.trainable]

    @classmethod
    def from_list(cls, row):
        """Reads what `to_list` returned."""
        key, layer, shape, trainable = row
        return cls(key, layer, tuple(shape), bool(trainable))


def signatures(model):
    """The `Signature` of every weight, in the order of `model.weights`.

    Args:
        model: A built functional or Sequential model.

    Returns:
        tuple of `Signature`.
    """
    owned = variable_keys.owned(model).items()
    owners = {id(v): (key, layer) for key, (v, layer) in owned}
    trainable = {id(v) for v in model.trainable_variables}
    found = []
    for variable in model.weights:
        key, layer = owners.get(id(variable), (variable.path, model))
        found.append(
            Signature(
                key,
                type(layer).__name__,
                tuple(variable.shape),
                id(variable) in trainable,
                weakref.ref(variable),
            )
        )
    return tuple(found)


def are_of(weights, keys, model):
    """Whether weights are the very variables of a model.

    Args:
        weights: tuple of `Signature`.
        keys: Those that are meant.
        model: The model.
    """
    own = {id(variable) for variable in model.variables}
    rows = {row.key: row for row in weights}
    return all(_variable_identity(rows.get(key)) in own for key in keys)


def known_as(weights, model, keys):
    """What weights of the model that something was made for are called here.

    They are the very variables, if `model` has them all; else the two models
    have to agree in all their weights; else in names that Keras did not make
    up, and in these weights' shapes and classes.

    Args:
        weights: tuple of `Signature`, of the model it was made for.
        model: The model it is used on.
        keys: Keys among them.

    Returns:
        `(names, difference)`: dict from each of `keys` to the key in `model`,
        or `None`; and where the models differ first, in words, or `""`.
    """
    own = signatures(model)
    rows = {row.key: row for row in weights}
    by_variable: dict[int | None, str]
    by_variable = {id(row.source()): row.key for row in own}
    names = {
        key: by_variable.get(_variable_identity(rows.get(key))) for key in keys
    }
    if None not in names.values():
        return names, ""
    names, difference = counterparts(weights, own)
    if not difference:
        return {key: names.get(key, key) for key in keys}, ""
    here = {row.key: row for row in own}
    if all(_same_by_name(rows.get(key), here.get(key)) for key in keys):
        return {key: key for key in keys}, ""
    return None, difference


def counterparts(weights, others):
    """What each weight of a model is called in one that is built alike.

    Args:
        weights: tuple of `Signature` of one model.
        others: The same of another model.

    Returns:
        `(names, difference)`: dict from key to key, and where the two differ
        first, in words, or `""`; there are no names then.
    """
    difference = _difference(weights, others)
    if difference:
        return {}, difference
    pairs = zip(weights, others, strict=True)
    return {one.key: other.key for one, other in pairs}, ""


def trained_otherwise(weights, variables):
    """Why an optimizer cannot train on these variables by something's keys.

    Args:
        weights: tuple of `Signature`.
        variables: What the optimizer is built on, in order: the trainable
            variables of that model, or of one that is built alike.

    Returns:
        What differs and how to mend it, or `""`.
    """
    expected = [row for row in weights if row.trainable]
    received = [
        Signature(
            v.path or v.name, row.layer if row else "", tuple(v.shape), True
        )
        for v, row in itertools.zip_longest(variables, expected)
        if v is not None
    ]
    found = _difference(expected, received, weights)
    places = _known_places(weights, variables)
    same = any(place is not None for place in places)
    if same and None in places and _lives_in(expected, variables):
        return (
            f"{places.count(None)} variables of others are trained as well. "
            "ADMMWrapper takes all trainable variables of the model that it "
            "is compiled into: make the plan from that model, if it is "
            "functional, or give the network that is planned an optimizer of "
            "its own, with the ADMMWrapper, and the others another one"
        )
    if not same:
        if not found:
            return ""  # names that Keras makes up count from anywhere
        places = _named_places(weights, variables)
    if None not in places:
        rows = [weights[i] for i in places]
        if rows == expected:
            return ""
        missing = [row for row in expected if row not in rows]
        thawed = [row.key for row in rows if not row.trainable]
        if missing or thawed:
            left_out = [
                row for row in missing if same and _is_trainable_now(row)
            ]
            return _other_flags(left_out, missing, thawed)
    if not found:
        return ""
    return (
        f"{found}. Make the plan from the model that is trained, after "
        "setting `trainable` on its layers"
    )


def _other_flags(left_out, missing, thawed):
    if left_out:
        return (
            f"{[row.key for row in left_out]} are trainable, and it is not "
            "given them. ADMMWrapper takes all trainable variables of the "
            "model that its plan was made from: make the plan from the model "
            "that is trained, and put any MultiOptimizer inside ADMMWrapper, "
            "not around"
        )
    frozen = [row.key for row in missing]
    changes = []
    if frozen:
        changes.append(f"{frozen} were trained then and are not now")
    if thawed:
        changes.append(f"{thawed} are trained now and were not then")
    return (
        f"{'; '.join(changes)}. Set `trainable` on their layers as it was, or "
        "make the plan anew from the model that is trained, after setting "
        "`trainable`"
    )


def _lives_in(rows, variables):
    """Whether all of some weights are among variables."""
    found = {id(v) for v in variables}
    return all(_variable_identity(row) in found for row in rows)


def _is_trainable_now(row):
    """Whether a variable that still lives is trainable now."""
    variable = row.source and row.source()
    return variable is not None and variable.trainable


def _known_places(weights, variables):
    """Where the very variables stand among `weights`; `None` if nowhere."""
    known = {_variable_identity(row): i for i, row in enumerate(weights)}
    return [known.get(id(v)) for v in variables]


def _named_places(weights, variables):
    """The same by name and shape, where there is one such weight."""
    names = collections.defaultdict(list)
    for i, row in enumerate(weights):
        names[_tail(row.key), row.shape].append(i)
    places = [names.get((_tail(v.path), tuple(v.shape)), []) for v in variables]
    return [place[0] if len(place) == 1 else None for place in places]


def _difference(expected, received, known=()):
    """Where two models differ first, in words; `""` if they are alike.

    Args:
        expected: list of `Signature` of one model.
        received: list of `Signature` of the other.
        known: All of the first model's, where `expected` are not all.
    """
    for a, b in itertools.zip_longest(expected, received):
        if a is None or b is None or _structure(a) != _structure(b):
            return f"expected {a or 'no more'}, received {b or 'no more'}"
    owners = [row.owner for row in known or expected]
    place = moved(
        [row.owner for row in expected], [row.owner for row in received], owners
    )
    if place is None:
        return ""
    a, b = expected[place], received[place]
    return f"expected {a}, received {b}, a name that was elsewhere"


def _structure(row):
    name = re.sub(r"_\d+$", "", row.name)
    return row.layer, name, row.shape


def moved(expected, received, known):
    """Where names first tell that weights changed places; `None` if nowhere.

    Names that the other model does not have tell nothing, nor do names with
    numbers inside, such as `block_1_conv`, unless it has them all. Of
    numbered names, `dense_2` and `dense_3`, the numbers count from anywhere:
    if they do not run on alike, but fit other ones of the known, those are
    meant. Those of names that Keras makes up tell nothing where they run on
    alike, or where none of them is left out: layers may be made in any order.

    Args:
        expected: list of names, one per weight.
        received: list of names, one per weight.
        known: list of all names that `expected` is taken from.
    """
    numbers = collections.defaultdict(set)
    for base, number in map(_numbered, known):
        numbers[base].add(number)
    all_known = set(map(_numbered, received)) <= set(map(_numbered, known))
    shared = collections.defaultdict(list)
    pairs = zip(map(_numbered, expected), map(_numbered, received))
    for place, ((base, old), (other, new)) in enumerate(pairs):
        if base == other:
            shared[base].append((place, old, new))
        elif other in numbers and (all_known or not _counts(other)):
            return place
    for base, rows in shared.items():
        found = {new for _, _, new in rows}
        shifts = {new - old for _, old, new in rows}
        if shifts == {0}:
            continue
        given = base.replace("_", "") not in _class_names()
        if not given and {old for _, old, _ in rows} >= numbers[base]:
            continue  # all of them: in which order they were made
        if len(shifts) == 1 and not (given and found <= numbers[base]):
            continue
        tried = {rows[0][2] - number for number in numbers[base]}
        if any({n - s for n in found} <= numbers[base] for s in tried):
            return next(place for place, old, new in rows if old != new)
    return None


@functools.cache
def _class_names():
    """What the names that Keras makes up begin with, less underscores."""
    return {name.lower() for name in dir(keras.layers)}


def _counts(name):
    return any(part.isdecimal() for part in name.split("_"))


def _numbered(name):
    """A name less its number, and the number, 0 where there is none."""
    base, _, number = name.rpartition("_")
    return (base, int(number)) if base and number.isdecimal() else (name, 0)


def _same_by_name(a, b):
    """Whether two weights are one by a name that somebody gave them."""
    if a is None or b is None or _structure(a) != _structure(b):
        return False
    return a.layer.lower() not in {
        _numbered(name)[0].replace("_", "") for name in a.key.split("/")
    }


def _variable_identity(row):
    """The `id` of a row's variable while it lives, else `None`."""
    variable = row and row.source and row.source()
    return None if variable is None else id(variable)


def _owner(path):
    return "/".join(path.split("/")[-2:-1])


def _tail(path):
    return "/".join(path.split("/")[-2:])
