"""The canonical form of a text, for `attnc fmt`.

Does: four spaces an indentation, one space around binary operators, at most one blank line,
brackets that go on aligned under what they hold. Comments stay where they are: one at the end of a
line keeps its column where there is room. Line breaks inside brackets are kept.
Does not: change what a text says; the tree before and after is the same, and that is verified.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnc import syntax
from attnc.errors import InternalError
from attnc.layout import TOKEN, measure_indent
from attnc.parser import parse
from attnc.source import Source

INDENT = 4
# Words after which an operand stands: a bracket or a sign after them is not a call or a sum.
_WORDS = frozenset({"and", "or", "not", "in", "if", "else", "of", "for", "over", "return"})
_TIGHT_BEFORE = frozenset({",", ":", ")", "]", ".", "["})
_TIGHT_AFTER = frozenset({"(", "[", "."})


def format_source(text: str, name: str = "<text>") -> str:
    """The canonical form of a text; SpecError if it does not parse. Formatting twice is once."""
    before = parse(Source(text, name))
    formatted = _Printer(text).print()
    if not syntax.equal(before, parse(Source(formatted, name))):
        raise InternalError(f"formatting changed what {name} says")
    return formatted


@dataclass(slots=True)
class _Bracket:
    """An open bracket: the column of lines inside it, and that of the line it stands in."""

    column: int
    line_column: int


@dataclass(frozen=True, slots=True)
class _Comment:
    """A comment on a line of its own, and whether a blank line stands before it."""

    text: str
    indent: int
    spaced: bool


class _Printer:
    """Prints the tokens of a text one after the other."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines: list[str] = []
        self.line = ""  # what is printed of the current line
        self.line_start = 0  # where it begins in the text
        self.previous = ""  # the token before, in the same logical line
        self.unary = False  # whether that token is a sign
        self.brackets: list[_Bracket] = []
        self.levels = [0]  # indentations of the text that are open
        self.comments: list[_Comment] = []  # seen, and waiting for the next line's level
        self.blank = False  # whether a blank line was seen since the last line
        self.fresh = True  # whether nothing was seen on this line of the text

    def print(self) -> str:
        """The whole text."""
        for match in TOKEN.finditer(self.text):
            kind, token = match.lastgroup, match.group()
            if kind == "newline":
                self.break_line(match.end())
            elif kind == "comment":
                self.comment(token.rstrip(), match.start())
            elif kind != "space":
                self.token(token, match.start())
        self.break_line(len(self.text))
        self.place_comments(0)
        return "\n".join(self.lines) + "\n"

    def break_line(self, position: int) -> None:
        """The end of a line of the text."""
        if self.line:
            self.lines.append(self.line)
            self.blank = False
        elif self.fresh and not self.brackets:
            self.blank = True
        if self.brackets and self.previous in ("(", "["):
            self.brackets[-1].column = self.brackets[-1].line_column + INDENT
        if not self.brackets:
            self.previous = ""
        self.line, self.line_start, self.fresh = "", position, True

    def comment(self, text: str, start: int) -> None:
        """A comment, at the end of a line or on its own."""
        if self.line:
            column = max(len(self.line) + 2, start - self.line_start)
            self.line = self.line.ljust(column) + text
        elif self.brackets:
            self.line = " " * self.brackets[-1].column + text
        else:
            indent = measure_indent(self.text[self.line_start : start])
            self.comments.append(_Comment(text, indent, self.blank))
            self.blank = False
        self.fresh = False

    def token(self, token: str, start: int) -> None:
        """A token: where it begins a line, the line's indentation; else the space before it."""
        if not self.line and not self.brackets:
            self.begin(start)
        elif not self.line:
            inner = self.brackets[-1]
            self.line = " " * (inner.line_column if self.closes(token, inner) else inner.column)
        elif self.spaced(token):
            self.line += " "
        self.fresh = False
        self.unary = token in ("+", "-") and not self.operand_before()
        self.line += token
        self.previous = token
        if token in ("(", "["):
            line_column = len(self.line) - len(self.line.lstrip(" "))
            self.brackets.append(_Bracket(len(self.line), line_column))
        elif token in (")", "]"):
            self.brackets.pop()

    @staticmethod
    def closes(token: str, bracket: _Bracket) -> bool:
        """Whether a token closes, on a line of its own, a bracket that ended its line."""
        return token in (")", "]") and bracket.column == bracket.line_column + INDENT

    def begin(self, start: int) -> None:
        """The first token of a logical line: settles its level and the comments above it."""
        indent = measure_indent(self.text[self.line_start : start])
        depth = sum(level < indent for level in self.levels)
        blank = self.blank
        self.place_comments(depth)
        if blank and self.lines:
            self.lines.append("")
        self.levels = [*self.levels[:depth], indent]
        self.blank = False
        self.line = " " * (INDENT * depth)

    def place_comments(self, depth: int) -> None:
        """Prints the waiting comments: at a level that was open, or else at the next line's."""
        for comment in self.comments:
            level = depth
            if comment.indent in self.levels:
                level = self.levels.index(comment.indent)
            if comment.spaced and self.lines:
                self.lines.append("")
            self.lines.append(" " * (INDENT * level) + comment.text)
        self.comments.clear()

    def operand_before(self) -> bool:
        """Whether the token before ends an operand."""
        last = self.previous
        if last in (")", "]"):
            return True
        return (last[:1].isalnum() or last[:1] == "_") and last not in _WORDS

    def spaced(self, token: str) -> bool:
        """Whether a space stands between the token before and this one."""
        if token == "." and self.previous[:1].isdigit():
            return True
        if token in _TIGHT_BEFORE or self.previous in _TIGHT_AFTER or self.unary:
            return token == "[" and self.previous in _WORDS
        return not (token == "(" and self.operand_before())
