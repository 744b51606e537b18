"""Source text and places in it.

A `Source` is one text to read: a file, a string, or the docstring of a Python function. A `Span` is
a piece of it. Lines and columns are counted in the outer file, so that an error inside a docstring
points into the Python file.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

EXCERPT_WIDTH = 96  # columns of source shown beside the line number
TAB_WIDTH = 4


@dataclass(frozen=True)
class Source:
    """A text with its name; text embedded in another file knows where it lies there.

    first_line: number of the text's first line in the outer file, from 1.
    indent: columns that were cut from the start of every line.
    """

    text: str
    name: str
    first_line: int = 1
    indent: int = 0

    @cached_property
    def line_starts(self) -> tuple[int, ...]:
        """Offsets at which the lines begin; the first is 0."""
        starts = [0]
        position = self.text.find("\n")
        while position >= 0:
            starts.append(position + 1)
            position = self.text.find("\n", position + 1)
        return tuple(starts)

    def line_index(self, offset: int) -> int:
        """The index, from 0, of the line of this text in which `offset` lies; O(log lines)."""
        return bisect_right(self.line_starts, offset) - 1

    def line_text(self, index: int) -> str:
        """Line `index`, from 0, without its line break."""
        start = self.line_starts[index]
        last = index + 1 == len(self.line_starts)
        end = len(self.text) if last else self.line_starts[index + 1] - 1
        return self.text[start:end].removesuffix("\r")

    def span(self, start: int, end: int | None = None) -> Span:
        """The span from offset `start` up to `end`; an empty one at `start` without `end`."""
        return Span(self, start, start if end is None else end)

    def __repr__(self) -> str:
        return f"Source({self.name!r}, {len(self.text)} characters)"


@dataclass(frozen=True, slots=True)
class Span:
    """The characters start .. end (half open) of a source."""

    source: Source
    start: int
    end: int

    @property
    def line(self) -> int:
        """Line of the first character in the outer file, from 1."""
        return self.source.first_line + self.source.line_index(self.start)

    @property
    def column(self) -> int:
        """Column of the first character in the outer file, from 1; a tab is one column."""
        line = self.source.line_index(self.start)
        return self.source.indent + self.start - self.source.line_starts[line] + 1

    @property
    def text(self) -> str:
        """The characters themselves."""
        return self.source.text[self.start : self.end]

    def through(self, other: Span) -> Span:
        """From the first character of the two spans to the last, both in the same source."""
        start, end = min(self.start, other.start), max(self.end, other.end)
        return Span(self.source, start, end)

    def excerpt(self) -> str:
        """The source line and, under it, a line of carets; a long line is cut around them.

        Of a span over several lines the first is shown. Control characters never reach the
        terminal.
        """
        source = self.source
        index = source.line_index(self.start)
        line = source.line_text(index)
        first = min(self.start - source.line_starts[index], len(line))
        last = min(self.end - source.line_starts[index], len(line))
        if len(line) > 8 * EXCERPT_WIDTH:  # only the neighbourhood of the carets is looked at
            begin = max(first - 2 * EXCERPT_WIDTH, 0)
            line = line[begin : first + 2 * EXCERPT_WIDTH]
            first, last = first - begin, min(last - begin, len(line))
        cells = _cells(line)
        left = sum(len(text) + wide for text, wide in cells[:first])
        width = max(sum(len(text) + wide for text, wide in cells[first:last]), 1)
        shown, left, width = _cut(cells, first, left, width)
        number = str(self.line)
        gutter = " " * len(number)
        carets = " " * left + "^" * width
        return f" {number} | {shown}".rstrip() + f"\n {gutter} | {carets}"

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}"

    def __repr__(self) -> str:
        return f"Span({self}, {self.start}..{self.end})"


def _cells(line: str) -> list[tuple[str, int]]:
    """Each character as (what is printed, columns it takes beyond that text's length)."""
    cells: list[tuple[str, int]] = []
    column = 0
    for character in line:
        if character == "\t":
            cell = (" " * (TAB_WIDTH - column % TAB_WIDTH), 0)
        elif not character.isprintable():
            cell = ("\N{REPLACEMENT CHARACTER}", 0)
        elif unicodedata.combining(character):
            cell = (character, -1)
        else:
            cell = (character, int(unicodedata.east_asian_width(character) in "WF"))
        column += len(cell[0]) + cell[1]
        cells.append(cell)
    return cells


def _cut(cells: list[tuple[str, int]], first: int, left: int, width: int) -> tuple[str, int, int]:
    """The line cut to EXCERPT_WIDTH around the carets: its text, the carets' column and width."""
    total = sum(len(text) + wide for text, wide in cells)
    if total <= EXCERPT_WIDTH:
        return "".join(text for text, _ in cells), left, width
    begin, skipped = first, 0
    room = EXCERPT_WIDTH // 3
    while begin > 0 and skipped + len(cells[begin - 1][0]) + cells[begin - 1][1] <= room:
        begin -= 1
        skipped += len(cells[begin][0]) + cells[begin][1]
    shown, end = 0, begin
    while end < len(cells) and shown + len(cells[end][0]) + cells[end][1] <= EXCERPT_WIDTH:
        shown += len(cells[end][0]) + cells[end][1]
        end += 1
    head = "..." if begin else ""
    tail = "..." if end < len(cells) else ""
    text = head + "".join(cell for cell, _ in cells[begin:end]) + tail
    return text, len(head) + skipped, max(min(width, shown - skipped), 1)
