"""What the results of several seeds come to."""

import statistics


def median(rows, key):
    """Median over the seeds."""
    return statistics.median(row[key] for row in rows)


def spread(rows, key="test_accuracy"):
    """`median (lowest–highest)` in per cent."""
    values = [100 * row[key] for row in rows]
    middle = f"{statistics.median(values):.2f}"
    if len(values) == 1:
        return middle
    to = " to " if min(values) < 0 else "–"
    return f"{middle} ({min(values):.2f}{to}{max(values):.2f})"


def middle(rows):
    """The results of the seed whose validation accuracy is the middle one."""
    rows = sorted(rows, key=lambda row: row["valid_accuracy"])
    return rows[(len(rows) - 1) // 2]
