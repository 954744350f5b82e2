"""Tables in plain text: no word is broken and no name is cut, however narrow the terminal is."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

_GAP = "  "
_STACKED = "    "

#: The narrowest last column in which free text is wrapped.
_NARROWEST = 16

#: The blank between a number and its unit or noun, which stay in one line.
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=[A-Za-z])")

#: A line as pieces: cells, and the blanks between them.
Pieces = list[str]


def table_lines(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> Iterator[Pieces]:
    """Yield the lines of a table.

    Where it is too wide, the last column, which may hold free text, is wrapped. Where it still is,
    each row becomes a line for each of its cells, with the names of their columns.

    Parameters
    ----------
    columns : sequence of `str`
        The headings; of a column named ``>…`` cells are aligned to the right.
    rows : sequence of sequence of `str`
    width : `int`
        Characters.
    """
    heads = [column.lstrip(">") for column in columns]
    widths = [max(len(row[number]) for row in (heads, *rows)) for number in range(len(heads))]
    before_last = sum(widths[:-1]) + len(_GAP) * (len(heads) - 1)
    room = width - before_last
    layout = [(one, column.startswith(">")) for one, column in zip(widths, columns, strict=True)]
    if widths[-1] <= room:
        yield from (_row(row, layout) for row in (heads, *rows))
    elif room >= _NARROWEST and not layout[-1][1]:
        yield _row(heads, layout)
        for row in rows:
            first, *rest = wrapped(row[-1], room)
            yield _row([*row[:-1], first], layout)
            yield from ([" " * before_last, each] for each in rest)
    else:
        for row in rows:
            yield from _stacked(heads, row, width)


def wrapped(text: str, width: int, first: str = "", then: str = "") -> list[str]:
    """Return a text in lines, broken between words only; the first and others begin as given."""
    lines = textwrap.wrap(
        _BEFORE_UNIT.sub("\0", text),
        width,
        initial_indent=first,
        subsequent_indent=then,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\0", " ") for line in lines] or [first.rstrip()]


def _row(cells: Sequence[str], layout: Sequence[tuple[int, bool]]) -> Pieces:
    pieces = []
    for cell, (width, right) in zip(cells, layout, strict=True):
        blanks = " " * (width - len(cell))
        pieces += [blanks, cell, _GAP] if right else [cell, blanks + _GAP]
    while pieces and not pieces[-1].strip():
        pieces.pop()
    return pieces


def _stacked(heads: Sequence[str], cells: Sequence[str], width: int) -> Iterator[Pieces]:
    yield [cells[0]]
    for head, cell in zip(heads[1:], cells[1:], strict=True):
        if cell:
            name = f"{_STACKED}{head}: " if head else _STACKED
            first, *rest = wrapped(cell, width - len(name), then=_STACKED)
            yield [name, first]
            yield from ([each] for each in rest)
