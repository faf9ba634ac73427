"""Pictures of reports, by matplotlib where it is installed."""

from __future__ import annotations


def figure_class():
    """matplotlib's `Figure`, which draws without a screen.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Drawing needs matplotlib. Install it with "
            "`pip install matplotlib`."
        ) from error
    return Figure
