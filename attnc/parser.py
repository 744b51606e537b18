"""The parser: a source becomes a syntax tree, or all its syntax errors.

Does: layout first (attnc/layout.py), then lark over pieces of a few operators each, then the tree.
A line that cannot be read is reported, replaced by a hole of the same length, and its piece is read
again, so that one run finds the mistakes of every line.
Does not: resolve names; nothing in a text is ever evaluated.
"""

from __future__ import annotations

import hashlib
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, cast

from attnc import syntax
from attnc.cache import cache_folder, write_once
from attnc.errors import AttncError, Diagnostic, SpecError
from attnc.layout import (
    MAX_MISTAKES,
    TOKEN,
    Layout,
    Line,
    hole_for,
    measure_indent,
    read_layout,
)
from attnc.mistakes import name_mistake, syntax_diagnostic
from attnc.resources import read_grammar
from attnc.source import Source
from attnc.trouble import Trouble

if TYPE_CHECKING:
    from lark import Lark, Token

MAX_CHARACTERS = 2**20
PIECE = 8192  # characters: pieces are read again after a mistake, so they are small
REREAD = 2**20  # characters that may be read again in all


def parse(source: Source) -> syntax.File:
    """The syntax tree of a source; SpecError with every syntax error that was found."""
    if len(source.text) > MAX_CHARACTERS:
        span = source.span(0, 0)
        size = str(len(source.text))
        raise SpecError([syntax_diagnostic("file-too-large", span, found=size)])
    layout = read_layout(source)
    diagnostics = list(layout.diagnostics)
    if not layout.lines and not diagnostics:
        raise SpecError([syntax_diagnostic("empty-file", source.span(0, 0))])
    if layout.stopped:
        raise SpecError(diagnostics)
    nodes: list[syntax.Node] = []
    for piece in _pieces(layout):
        if len(diagnostics) < MAX_MISTAKES:
            nodes += _parse_piece(piece, diagnostics)
    if diagnostics:
        raise SpecError(diagnostics)
    return syntax.File(
        source.span(0, len(source.text)),
        tuple(node for node in nodes if isinstance(node, syntax.Import)),
        tuple(node for node in nodes if isinstance(node, syntax.Def)),
        tuple(node for node in nodes if isinstance(node, syntax.Operator)),
    )


@dataclass
class _Piece:
    """Some whole imports, defs and operators of a text; holes take lines out of `text`."""

    layout: Layout
    start: int
    text: str


def _pieces(layout: Layout) -> Iterator[_Piece]:
    """The text cut at lines without indentation, PIECE characters or an operator at a time."""
    text = layout.text
    starts = [line.start for line in layout.lines if line.indent == 0]
    begin = 0
    for start in [*starts[1:], len(text)]:
        if start - begin >= PIECE or start == len(text):
            yield _Piece(layout, begin, text[begin:start])
            begin = start


def _parse_piece(piece: _Piece, diagnostics: list[Diagnostic]) -> list[syntax.Node]:
    """The nodes of a piece; its mistakes are added to `diagnostics`."""
    from lark import UnexpectedCharacters, UnexpectedToken

    from attnc.treebuilder import TreeBuilder

    budget = REREAD
    while True:
        try:
            tree = _lark().parse(piece.text + "\n")
        except (UnexpectedToken, UnexpectedCharacters) as error:
            if not _take_out(piece, error, diagnostics):
                return []
        else:
            builder = TreeBuilder(piece.layout.source, piece.start, diagnostics)
            return builder.build(tree)
        budget -= len(piece.text)
        if len(diagnostics) >= MAX_MISTAKES or budget < 0:
            return []


def _take_out(piece: _Piece, error: Any, diagnostics: list[Diagnostic]) -> bool:
    """Reports a line that lark could not read and makes it a hole; False if it is one already."""
    layout = piece.layout
    offset = piece.start + _offset(error, piece)
    line = layout.line_at(offset)
    if line is None or line.broken:
        return False
    diagnostics.append(
        _diagnose(layout.source, line, offset, frozenset(getattr(error, "accepts", None) or ()))
    )
    line.broken = True
    start, end = line.start - piece.start, line.end - piece.start
    piece.text = piece.text[:start] + hole_for(line) + piece.text[end:]
    return True


def _offset(error: Any, piece: _Piece) -> int:
    """Where in the piece the error is; before the line break that was not expected."""
    position = cast(int, error.pos_in_stream)
    token = getattr(error, "token", None)
    layout_token = token is not None and token.type in ("_NL", "_INDENT", "_DEDENT", "$END")
    if not layout_token:
        return position
    return len(piece.text[:position].rstrip())


def _diagnose(source: Source, line: Line, offset: int, accepts: frozenset[str]) -> Diagnostic:
    """The diagnostic for a token that could not be read."""
    places = [
        match.span()
        for match in TOKEN.finditer(source.text, line.start, line.end)
        if match.lastgroup not in ("space", "newline", "comment")
    ]
    index = next((at for at, (_, end) in enumerate(places) if end > offset), len(places))
    split = index < len(places) and places[index][0] < offset
    tokens = tuple(source.text[start:end] for start, end in places)
    mistake = name_mistake(Trouble(tokens, index, accepts, line.indent > 0, split))
    last = len(places) - 1  # the end of the line has no token of its own
    at = {"found": min(index, last), "before": index - 1, "first": 0}[mistake.at]
    return syntax_diagnostic(mistake.code, source.span(*places[at]), **mistake.words)


@cache
def _lark() -> Lark:
    """The parser of the grammar, once in a process. Its tables take 60 ms to make and 8 to read, so
    they are kept in the cache folder; without one they are made."""
    import lark

    grammar = read_grammar("attention.lark")
    version = f"{lark.__version__} {sys.version}"
    digest = hashlib.sha256(f"{version} {grammar}".encode()).hexdigest()[:20]
    try:
        path = cache_folder("grammar") / digest
        if path.exists():
            return lark.Lark.load(BytesIO(b64decode(path.read_bytes())))
        tables = BytesIO()
        made = _made_from(grammar)
        made.save(tables)
        write_once(path, b64encode(tables.getvalue()).decode())
    except (AttncError, OSError, ValueError, LookupError, EOFError, UnpicklingError):
        return _made_from(grammar)
    return made


def _made_from(grammar: str) -> Lark:
    from lark import Lark

    return Lark(
        grammar,
        parser="lalr",
        start="file",
        postlex=_Blocks(),
        keep_all_tokens=True,
        maybe_placeholders=False,
    )


class _Blocks:
    """Between lexer and parser: line breaks inside brackets go, indentation becomes tokens.

    The layout was checked before, so every dedent meets a level.
    """

    always_accept = ("_NL",)

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        """The tokens with _INDENT and _DEDENT; no state is kept, so that threads may share it."""
        from lark import Token

        levels, brackets = [0], 0
        token: Token | None = None
        for token in stream:
            brackets += (token.type in ("LPAR", "LSQB")) - (token.type in ("RPAR", "RSQB"))
            if token.type != "_NL":
                yield token
                continue
            if brackets > 0:
                continue
            yield token
            column = measure_indent(token.rpartition("\n")[2])
            if column > levels[-1]:
                levels.append(column)
                yield Token.new_borrow_pos("_INDENT", "", token)
            while column < levels[-1]:
                levels.pop()
                yield Token.new_borrow_pos("_DEDENT", "", token)
        while len(levels) > 1 and token is not None:
            levels.pop()
            yield Token.new_borrow_pos("_DEDENT", "", token)
