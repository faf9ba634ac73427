"""Files that are replaced in one step, or stay as they were."""

from __future__ import annotations

import contextlib
import os
import pathlib


@contextlib.contextmanager
def replacing(path):
    """A file to write that takes the place of another one in the end.

    It lies beside `path`, is forced to the disk and renamed, so that at
    `path` there is always either the old file or the new one.

    Args:
        path: `pathlib.Path` of the file to replace.

    Yields:
        The path to write to.

    Raises:
        OSError: The disk is full, say. The old file is as it was.
    """
    beside = temporary(path)
    try:
        yield beside
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text(path, text):
    """Writes a text file in one step; what a link leads to, where it is one.

    Folders on the way to it are made.

    Args:
        path: str or path-like.
        text: str.

    Raises:
        OSError: The disk is full, say. The old file is as it was.
    """
    path = pathlib.Path(path).resolve()
    if path.exists() and not path.is_file():  # a device, such as a terminal
        path.write_text(text)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        beside.write_text(text)


def temporary(path):
    """The path that this process writes to before it replaces `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _sync_folder(folder):
    """Forces the renaming itself to the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
