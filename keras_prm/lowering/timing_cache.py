"""Measurements in a file that several processes may share."""

from __future__ import annotations

import json
import os
import pathlib


def check(path):
    """Raises unless measurements can be kept in a file.

    Raises:
        TypeError: `path` is no path.
        ValueError: It is a folder, in none, or the file of something else.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            "Cannot keep what lowerings took. Expected the path of a file, or "
            f"None. Received: cache={path!r}"
        )
    path = pathlib.Path(path)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ValueError(
            "Cannot keep what lowerings took. Expected the path of a file in "
            f"a folder that exists. Received: cache={str(path)!r}"
        )
    read(path)


def read(path):
    """dict from key to list of microseconds; empty where there is no file.

    Raises:
        ValueError: The file holds something else.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return {}
    try:
        lines = map(json.loads, path.read_text().splitlines())
        return {
            key: list(map(float, row))
            for rows in lines
            for key, row in rows.items()
        }
    except (ValueError, AttributeError, TypeError, OSError) as error:
        raise ValueError(
            "Cannot read what lowerings took. Expected a file that "
            "`AutoLowering(cache=...)` wrote; delete it to measure anew. "
            f"Received: cache={str(path)!r} ({error})"
        ) from error


def add(path, rows):
    """Adds rows, in one line: processes that add at once lose none."""
    line = f"{json.dumps(rows)}\n".encode()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, line)
    finally:
        os.close(file)
