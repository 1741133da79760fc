"""Rows for people: columns as wide as their widest cell, a head when there is something below it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from blocks_network.cli.output import note, paint, result

__all__ = ["show_table"]


def show_table(head: Sequence[str], rows: Iterable[Sequence[object]], *, none: str) -> None:
    """Rows on standard output; `none` on standard error when there are no rows."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        note(none)
        return
    widths = [max(len(line[index]) for line in [list(head), *cells]) for index in range(len(head))]
    result(paint(_line(head, widths), "bold", sys.stdout))
    for line in cells:
        result(_line(line, widths))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _cell(value: object) -> str:
    """One line of printable text: what others have written must not move the terminal's cursor."""
    text = "-" if value is None or value == "" else str(value)
    return "".join(letter if letter.isprintable() else " " for letter in text)
