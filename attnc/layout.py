"""The layout of a text: its logical lines, brackets and indentation, and what no grammar can read.

Does: cuts the text into logical lines (line breaks inside brackets do not count), reports mistakes
of characters, brackets and indentation, all of them, and replaces each line that has one by a hole,
so that the parser sees a text of the same length with clean layout.
Does not: know the grammar of a line.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

from attnc.errors import Diagnostic
from attnc.mistakes import CLAUSES, HEADS, OPERATORS, strange_token, syntax_diagnostic
from attnc.range_mistakes import interval
from attnc.source import Source

MAX_BRACKETS = 200
MAX_MISTAKES = 50
HOLE = "\x01"
TAB_LENGTH = 8

TOKEN = re.compile(
    r"""(?P<space>[ \t]+)|(?P<newline>\r?\n)|(?P<comment>\#[^\n]*)
      |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
      |(?P<number>(?:\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\d+)(?!\w|\.(?!\.)))
      |(?P<strange>\.\.\.+|\.(?=\d)[\w.]+|\d(?:[eE][+-]\d|\w|\.(?!\.))*
          |&&?|\|\||=>|->|=<|:=|<>|!==|===|!(?!=)|(?:\*\*|//|[-+*/@%])=|=!
          |"[^"\n]*"?|'[^'\n]*'?|[^\x00-\x7f]\w*)
      |(?P<open>[(\[])|(?P<close>[)\]])
      |(?P<operator>\*\*|//|==|!=|<=|>=|\.\.|[-+*/%@<>=,:.|])
      |(?P<other>.)""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_CLOSING = {"(": ")", "[": "]"}
_NAMED = r"[A-Za-z_]\w*(?:[ \t]*\[[^\]\n]*\])?"
# A line that begins a statement wherever it stands, so that a bracket before it was never closed.
_STATEMENT = re.compile(
    r"[ \t]*(?:(?:attention|pipeline|def|axis|input|param|static|state|emit|solve|repeat|from)"
    r"[ \t]+[A-Za-z_]|(?:mask|score|normalize|read)(?:[ \t]*\[[^\]\n]*\])?[ \t]*:|update[ \t]*:)",
    re.ASCII,
)
_EQUATION = re.compile(rf"^[ \t]*(?:{_NAMED}[ \t]*=(?!=)|return\b)", re.MULTILINE | re.ASCII)
_GLUE = OPERATORS - {"of", "over", "for"} | {",", "."}


@dataclass(slots=True)
class Line:
    """A logical line: start .. end without its comment, and the tokens that layout looks at."""

    start: int
    indent: int
    end: int = 0
    first: str = ""
    last: str = ""
    last_start: int = 0
    colon: bool = False  # whether a colon stands outside brackets
    broken: bool = False  # reported: a hole takes its place


@dataclass
class Layout:
    """What reading the layout gives: the lines, the cleaned text, and the mistakes found."""

    source: Source
    lines: list[Line] = field(default_factory=list)
    hidden: list[Line] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    text: str = ""
    stopped: bool = False  # too wrong to go on: the text is not parsed

    def line_at(self, offset: int) -> Line | None:
        """The logical line at an offset, or the last before it."""
        index = bisect_right(self.lines, offset, key=lambda line: line.start) - 1
        return self.lines[max(index, 0)] if self.lines else None


def hole_for(line: Line) -> str:
    """What takes a broken line's place, of the same length: a hole, and the colon of a block."""
    length = line.end - line.start
    if line.last == ":" and length > 1:
        return HOLE + " " * (length - 2) + ":"
    return HOLE + " " * (length - 1)


def replaced(text: str, pieces: Iterable[tuple[int, int, str]]) -> str:
    """`text` with pieces start .. end, in order, exchanged for texts of the same length."""
    parts: list[str] = []
    position = 0
    for start, end, piece in pieces:
        parts += text[position:start], piece
        position = end
    return "".join(parts) + text[position:]


def measure_indent(blank: str) -> int:
    """Columns of an indentation; a tab goes to the next multiple of TAB_LENGTH."""
    column = 0
    for character in blank:
        column += TAB_LENGTH - column % TAB_LENGTH if character == "\t" else 1
    return column


def read_layout(source: Source) -> Layout:
    """Reads the logical lines of a source and what is wrong with their layout."""
    layout = Layout(source)
    scanner = _Scanner(layout)
    scanner.scan()
    layout.stopped = scanner.stopped or _check_tabs(layout)
    if layout.stopped:
        return layout
    _Indentation(layout).check()
    holes = [(line.start, line.end, hole_for(line)) for line in layout.lines if line.broken]
    blanks = [(line.start, line.end, " " * (line.end - line.start)) for line in layout.hidden]
    layout.text = replaced(source.text, sorted(holes + blanks))
    return layout


class _Scanner:
    """Cuts a text into logical lines."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.source = layout.source
        self.text = layout.source.text
        self.line: Line | None = None
        self.brackets: list[int] = []
        self.stopped = False
        self.budget = 4 * len(self.text) + 100_000  # characters that may be read again

    def report(self, code: str, start: int, end: int, **words: str) -> None:
        """Reports a mistake; the line it stands in is not parsed."""
        found = syntax_diagnostic(code, self.source.span(start, end), **words)
        self.layout.diagnostics.append(found)
        self.stopped = self.stopped or len(self.layout.diagnostics) >= MAX_MISTAKES
        if self.line is not None:
            self.line.broken = True

    def scan(self) -> None:
        """Goes through the text once, except where an unclosed bracket sends it back."""
        position, indent_start = 0, 0
        text, length = self.text, len(self.text)
        while position < length and not self.stopped:
            match = TOKEN.match(text, position)
            assert match is not None
            kind, start, position = match.lastgroup, match.start(), match.end()
            if kind == "newline":
                position = self.break_line(position)
                indent_start = position if self.line is None else indent_start
            elif kind not in ("space", "comment"):
                self.take(kind or "", match.group(), start, indent_start)
            if position >= length and self.brackets:
                position = self.cut_open()
                indent_start = position
        self.finish()

    def take(self, kind: str, found: str, start: int, indent_start: int) -> None:
        """One token that belongs to a line."""
        if self.line is None:
            indent = measure_indent(self.text[indent_start:start])
            self.line = Line(start, indent, first=found)
        line = self.line
        line.end, line.last, line.last_start = start + len(found), found, start
        line.colon = line.colon or (found == ":" and not self.brackets)
        if kind == "open":
            self.open(start)
        elif kind == "close":
            self.close(found, start)
        elif kind in ("strange", "other") and not line.broken:
            self.report_strange(found, start)

    def report_strange(self, found: str, start: int) -> None:
        """A character or an operator that the language does not have."""
        code, words = strange_token(found)
        self.report(code, start, start + len(found), **words)

    def open(self, start: int) -> None:
        self.brackets.append(start)
        if len(self.brackets) > MAX_BRACKETS:
            self.report("nested-too-deep", start, start + 1, limit=str(MAX_BRACKETS))
            self.stopped = True

    def close(self, found: str, start: int) -> None:
        """A closing bracket; one that fits an outer bracket says that the inner is not closed."""
        wanted_open = "(" if found == ")" else "["
        opened = [self.text[bracket] for bracket in self.brackets[-2:]]
        if opened and opened[-1] == wanted_open:
            self.brackets.pop()
        elif not opened:
            self.report_bracket("bracket-not-opened", start, found=found)
        elif opened[0] == wanted_open:
            inner = self.brackets[-1]
            words = {"found": opened[-1], "wanted": _CLOSING[opened[-1]]}
            self.report_bracket("bracket-not-closed", inner, **words)
            del self.brackets[-2:]
        else:
            self.mismatch(found, start)

    def mismatch(self, found: str, start: int) -> None:
        """A bracket closed by one of another form: a half-open interval, or a slip."""
        opening = self.brackets.pop()
        opened, inside = self.text[opening], self.text[opening + 1 : start]
        if re.search(r"\bin\s*$", self.text[:opening][-20:]):
            words = [m.group() for m in TOKEN.finditer(inside) if m.group().strip()]
            better = interval(opened, words, found)
            if better:
                self.report_bracket("range-brackets", start, better=better)
                return
        wanted = _CLOSING[opened]
        self.report_bracket("bracket-mismatch", start, found=found, wanted=wanted)

    def report_bracket(self, code: str, start: int, **words: str) -> None:
        """Reports a bracket, the first of a line only: one may upset all that follow."""
        if self.line is not None and not self.line.broken:
            self.report(code, start, start + 1, **words)

    def break_line(self, position: int) -> int:
        """After a line break: ends the logical line unless a bracket is open. Where to go on."""
        if not self.brackets:
            self.finish()
        elif _STATEMENT.match(self.text, position):
            return self.cut_open(position)
        return position

    def cut_open(self, limit: int | None = None) -> int:
        """Ends a line whose bracket is never closed before `limit`. Where to go on."""
        limit = len(self.text) if limit is None else limit
        first = self.text.find("\n", self.brackets[0], limit)
        first = limit if first < 0 else first + 1
        start = max(bracket for bracket in self.brackets if bracket < first)
        opened = self.text[start]
        self.brackets.clear()
        self.report_bracket("bracket-not-closed", start, found=opened, wanted=_CLOSING[opened])
        equation = _EQUATION.search(self.text, first, limit)
        position = equation.start() if equation else limit
        self.budget -= limit - position
        self.stopped = self.stopped or self.budget < 0
        if self.line is not None:
            piece = self.text[self.line.start : position]
            self.line.end = self.line.start + len(piece.rstrip())
            self.line.last = piece.rstrip()[-1:]
        self.finish()
        return position

    def finish(self) -> None:
        """Ends the logical line, if there is one."""
        if self.line is not None:
            self.layout.lines.append(self.line)
        self.line = None


def _check_tabs(layout: Layout) -> bool:
    """Reports the first indentation that mixes tabs with spaces, in a line or in the text."""
    text, kinds = layout.source.text, set[str]()
    for line in layout.lines:
        begin = text.rfind("\n", 0, line.start) + 1
        blank = text[begin : line.start]
        kinds.update(blank)
        if len(kinds) > 1:
            span = layout.source.span(begin, line.start)
            layout.diagnostics.append(syntax_diagnostic("tabs-and-spaces", span))
            return True
    return False


class _Indentation:
    """Checks how lines are indented under each other; takes misplaced lines out."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.levels = [0]

    def report(self, code: str, line: Line, start: int, end: int, **words: str) -> None:
        line.broken = True
        if len(self.layout.diagnostics) < MAX_MISTAKES:
            span = self.layout.source.span(start, end)
            self.layout.diagnostics.append(syntax_diagnostic(code, span, **words))

    def check(self) -> None:
        """Goes through the lines and keeps those that have a place."""
        kept: list[Line] = []
        skipping: int | None = None  # lines at this indent or deeper follow a misplaced one
        for line in self.layout.lines:
            if skipping is not None and line.indent >= skipping:
                self.layout.hidden.append(line)
                continue
            skipping = None
            if self.place(line, kept[-1] if kept else None):
                kept.append(line)
            else:
                skipping = line.indent
                self.layout.hidden.append(line)
        if kept and kept[-1].last == ":":
            self.report_empty(kept[-1])
        self.layout.lines = kept

    def place(self, line: Line, before: Line | None) -> bool:
        """Whether a line stands where the one before lets it stand; reports it if not."""
        level = self.levels[-1]
        opens = before is not None and before.last == ":"
        if opens and line.indent > level:
            self.levels.append(line.indent)
            return True
        if before is not None and opens:
            self.report_empty(before)
        if line.indent > level:
            return self.deeper(line, before)
        inner = str(level)
        while self.levels[-1] > line.indent:
            self.levels.pop()
        if self.levels[-1] == line.indent:
            return True
        words = {"inner": inner, "wanted": str(self.levels[-1])}
        self.report("bad-dedent", line, line.start, line.end, **words)
        return False

    def report_empty(self, line: Line) -> None:
        """A line that ends in a colon with nothing indented under it."""
        if not line.broken:
            self.report("empty-block", line, line.start, line.end, found=line.first[:40])
        line.last = ""

    def deeper(self, line: Line, before: Line | None) -> bool:
        """A line indented more than a line that opens no block."""
        if before is None:
            self.report("first-line-indented", line, line.start, line.end)
            return False
        if before.first in HEADS and not before.colon:
            return self.headless(line, before)
        if before.broken:
            return False
        if before.last in _GLUE or line.first in _GLUE:
            self.report("line-goes-on", before, before.last_start, before.end)
        else:
            self.report("unexpected-indent", line, line.start, line.end)
        return False

    def headless(self, line: Line, before: Line) -> bool:
        """A line under a header without its colon; under a clause it is not a statement."""
        if not before.broken:
            opens = before.first == "def" and before.last == "="
            code = "def-of-lines" if opens else "missing-colon"
            self.report(code, before, before.last_start, before.end, found=before.first)
        if before.first in CLAUSES:
            return False
        before.last = ":"
        self.levels.append(line.indent)
        return True
