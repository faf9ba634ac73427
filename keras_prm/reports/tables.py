"""Tables of text: columns to the right, Markdown that reads as plain text."""

from __future__ import annotations


def number(value, unknown=""):
    """A count as text, with commas: `12345` is `"12,345"`.

    Args:
        value: int or float, which is rounded, or `None`.
        unknown: str, what is shown for `None`. Default: nothing.
    """
    return unknown if value is None else f"{value:,.0f}"


def padded(rows):
    """Cells that line up on the right.

    Args:
        rows: list of rows, each a sequence of as many str.

    Returns:
        list of list of str; those of a column are equally long.
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        [cell.rjust(width) for cell, width in zip(row, widths)] for row in rows
    ]


def aligned(rows, texts):
    """Lines: cells to the right in columns, then a text.

    Args:
        rows: list of rows, each a sequence of as many str; the first is the
            head.
        texts: list of str, one behind each row.

    Returns:
        list of str.
    """
    cells = padded(rows)
    return ["  ".join([*row, text]).rstrip() for row, text in zip(cells, texts)]


def markdown(rows, pad=True):
    """Rows as a table in Markdown, where `|` in a cell is escaped.

    Args:
        rows: list of rows, each a sequence of as many str; the first is the
            head.
        pad: bool, whether cells are filled with blanks so that columns line
            up, on the right, where the text is read as it is. Default True;
            False suits tables with cells of a hundred characters.

    Returns:
        str, lines without a last line break.

    Example:

    ```python
    print(markdown([("model", "bytes"), ("dense", "1,728,312")]))
    # | model |     bytes |
    # |------:|----------:|
    # | dense | 1,728,312 |
    ```
    """
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    rows = padded(rows) if pad else rows
    lines = [f"| {' | '.join(row)} |" for row in rows]
    rules = [f"{'-' * (len(cell) + 1)}:" if pad else "---" for cell in rows[0]]
    lines.insert(1, f"|{'|'.join(rules)}|")
    return "\n".join(lines)
