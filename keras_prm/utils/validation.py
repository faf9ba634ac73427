"""Checks of arguments of public functions."""

from __future__ import annotations

import functools
import json
import numbers
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import ParamSpec
from typing import TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

if TYPE_CHECKING:
    from typing import Any
    from typing import TypeGuard


def is_int(value: Any) -> TypeGuard[int]:
    """Whether it is an int of Python's or NumPy's, and no bool."""
    return isinstance(value, numbers.Integral) and not is_bool(value)


def is_whole(value: Any, least: int = 1) -> TypeGuard[int]:
    """Whether it is an int, and not below."""
    return is_int(value) and int(value) >= least


def is_real(value: object) -> TypeGuard[float]:
    """Whether it is a real number, and no bool."""
    return isinstance(value, numbers.Real) and not is_bool(value)


def is_count(value, least=1):
    """As `is_whole`; a float such as 1e4 as well, where it is whole."""
    is_float = isinstance(value, (float, np.floating)) and value % 1 == 0
    return bool(is_whole(value, least) or (is_float and value >= least))


def check_whole(name, value, counts, advice, least=1):
    """Raises a ValueError unless an argument is a whole number, no bool.

    Args:
        name: Of the argument.
        value: What was passed.
        counts: What it counts, such as `"epochs"`.
        advice: How to mend it, a sentence.
        least: The least that it may be.
    """
    if not is_whole(value, least):
        raise ValueError(
            f"`{name}` counts {counts} and must be an integer of at least "
            f"{least}. Received: {name}={value!r}. {advice}"
        )


def check_real(name, value, kinds, advice):
    """Raises a TypeError unless an argument is a real number, no bool.

    Args:
        name: Of the argument.
        value: What was passed.
        kinds: What it may be, such as `"a float, or a schedule"`.
        advice: How to mend it, a sentence.
    """
    if not is_real(value):
        raise TypeError(
            f"`{name}` must be {kinds}. Received: {name}={value!r}. {advice}"
        )


def json_object(text):
    """The dict that a JSON text holds; an empty one if it holds none."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def is_bool(value):
    """Whether it is True or False."""
    return isinstance(value, bool)


def is_iterable(value):
    """Whether one can go through it."""
    try:
        iter(value)
    except TypeError:
        return False
    return True


def former_name(old: str, new: str) -> property:
    """A property for what an attribute or a method was called before."""

    def get(self: Any) -> Any:
        warnings.warn(
            f"`{type(self).__name__}.{old}` is called `{new}` now; the old "
            "name goes in the next release.",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(self, new)

    return property(get, doc=f"What `{new}` was called before.")


def renamed(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Lets a function go on taking arguments by their former names.

    Args:
        **names: The names of now, by those of before.
    """

    def decorate(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            for old, new in names.items():
                if old in kwargs and new in kwargs:
                    raise TypeError(
                        f"`{old}` of `{function.__qualname__}` is the former "
                        f"name of `{new}`. Pass `{new}` alone. Received: "
                        f"{old}={kwargs[old]!r}, {new}={kwargs[new]!r}"
                    )
                if old in kwargs:
                    warnings.warn(
                        f"`{old}` of `{function.__qualname__}` is called "
                        f"`{new}` now; the old name goes in the next release.",
                        DeprecationWarning,
                        stacklevel=2,
                    )
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate
