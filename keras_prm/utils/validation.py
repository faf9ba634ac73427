"""What counts as a number, or as JSON, in arguments of public functions."""

from __future__ import annotations

import json
import numbers
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any
    from typing import TypeGuard


def is_whole(value: Any, least: int = 1) -> TypeGuard[int]:
    """Whether it is an int of Python's or NumPy's, no bool, and not below."""
    is_int = isinstance(value, numbers.Integral) and not is_bool(value)
    return is_int and int(value) >= least


def is_real(value: object) -> TypeGuard[float]:
    """Whether it is a real number, and no bool."""
    return isinstance(value, numbers.Real) and not is_bool(value)


def is_count(value, least=1):
    """As `is_whole`; a float such as 1e4 as well, where it is whole."""
    is_float = isinstance(value, (float, np.floating)) and value % 1 == 0
    return bool(is_whole(value, least) or (is_float and value >= least))


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
