"""From lark's tree to the syntax tree: expressions, binders, and what all forms share.

Does: one node for each form; a fold's binders, which the grammar reads as arguments, get their form
here, and what is no binder is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, cast

from lark import Token

from attnc import syntax
from attnc.errors import Diagnostic, InternalError
from attnc.mistakes import shortened, syntax_diagnostic
from attnc.source import Source, Span
from attnc.syntax import Binder, Expression, Name, Node

MAX_INTEGER = 2**63 - 1
RESERVED = frozenset({"and", "or", "not", "if", "else", "in", "of", "for", "over", "lambda"}) | {
    "attention",
    "pipeline",
    "def",
    "return",
    "from",
    "import",
}
LAYOUT = frozenset({"_NL", "_INDENT", "_DEDENT"})

# A list stands for a part of the grammar that is no node: arguments, binders, a block.
Built: TypeAlias = Node | Token | list[Any]


class ExpressionBuilder:
    """Builds expressions and binders; the methods are named after the rules of the grammar.

    offset: where the piece of text begins in the source. Mistakes are gathered in `diagnostics`.
    """

    def __init__(self, source: Source, offset: int, diagnostics: list[Diagnostic]) -> None:
        self.source = source
        self.offset = offset
        self.diagnostics = diagnostics

    # --- Places ----------------------------------------------------------------------------------

    def _place(self, token: Token) -> Span:
        start, end = cast(int, token.start_pos), cast(int, token.end_pos)
        return Span(self.source, self.offset + start, self.offset + end)

    def _edge(self, children: Iterable[Built], backwards: bool) -> Span | None:
        """The place of the first child that has one, or of the last."""
        for child in children:
            if isinstance(child, Node):
                return child.span
            if isinstance(child, Token):
                found = None if child.type in LAYOUT else self._place(child)
            else:  # lists nest three deep at most
                found = self._edge(reversed(child) if backwards else child, backwards)
            if found is not None:
                return found
        return None

    def _span(self, children: Sequence[Built]) -> Span:
        """From the first child through the last."""
        first, last = self._edge(children, False), self._edge(reversed(children), True)
        if first is None or last is None:
            raise InternalError("a form of the grammar without a place")
        return first.through(last)

    def _report(self, code: str, span: Span, **words: str) -> None:
        self.diagnostics.append(syntax_diagnostic(code, span, **words))

    # --- Parts -----------------------------------------------------------------------------------

    def _new_name(self, token: Token) -> Name:
        """The name in a token; a reserved word is reported."""
        if token in RESERVED:
            self._report("reserved-word", self._place(token), found=str(token))
        return Name(self._place(token), str(token))

    def _names(self, children: Sequence[Built]) -> tuple[Name, ...]:
        tokens = (child for child in children if isinstance(child, Token))
        return tuple(self._new_name(token) for token in tokens if token.type == "NAME")

    def _list(self, children: list[Built]) -> list[Built]:
        """A comma-separated part: its nodes, with the tokens that give it a place."""
        return children

    _parameters = _arguments = _rows = _keys = _binders = _subscript = _args = _list
    _block = _condition = _file = _list

    @staticmethod
    def _nodes(children: Sequence[Built]) -> tuple[Any, ...]:
        """The nodes right in a part."""
        return tuple(child for child in children if isinstance(child, Node))

    @staticmethod
    def _lists(children: Sequence[Built]) -> list[list[Built]]:
        return [child for child in children if isinstance(child, list)]

    @staticmethod
    def _words(children: Sequence[Built]) -> list[str]:
        return [str(child) for child in children if isinstance(child, Token)]

    def _binders_of(self, children: Sequence[Built]) -> tuple[Binder, ...] | None:
        """The binders in the brackets of a statement; None without brackets."""
        for part in self._lists(children):
            return self._nodes(self._lists(part)[0])
        return None

    # --- Binders ---------------------------------------------------------------------------------

    def _insist_no_of(self, binder: Binder) -> None:
        if binder.form == "of":
            self._report("of-outside-fold", binder.span, found=binder.span.text)

    def _binder(self, children: list[Built]) -> Node:
        return Binder(self._span(children), self._names(children)[0], "plain", None)

    def _below(self, children: list[Built]) -> Node:
        bound = self._nodes(children)[0]
        return Binder(self._span(children), self._names(children)[0], "below", bound)

    def _within(self, children: list[Built]) -> Node:
        bound = self._nodes(children)[0]
        return self._bound_within(self._span(children), self._names(children)[0], bound)

    def _bound_within(self, span: Span, name: Name, bound: Expression) -> Binder:
        if not isinstance(bound, Name | syntax.RangeExpr):
            self._report("within-form", bound.span, found=name.name, bound=_shown(bound.span))
        return Binder(span, name, "within", bound)

    def _of(self, children: list[Built]) -> Node:
        name, group = self._names(children)
        return Binder(self._span(children), name, "of", group)

    def _member_of(self, children: list[Built]) -> Node:
        return self._of(children)

    def _fold_binder(self, arg: Node) -> Binder | None:
        """The binder that an argument before a fold's colon says."""
        if isinstance(arg, Binder):
            return arg
        if isinstance(arg, Name):
            return Binder(arg.span, arg, "plain", None)
        if isinstance(arg, syntax.Compare) and isinstance(arg.operands[0], Name):
            name, bound = arg.operands[0], arg.operands[-1]
            if arg.ops == ("<",):
                return Binder(arg.span, name, "below", bound)
            if arg.ops == ("in",):
                return self._bound_within(arg.span, name, bound)
        self._report("binder-form", arg.span, found=_shown(arg.span))
        return None

    # --- Expressions -----------------------------------------------------------------------------

    def _name(self, children: list[Built]) -> Node:
        return self._names(children)[0]

    def _number(self, children: list[Built]) -> Node:
        token = cast(Token, children[0])
        span, text = self._place(token), str(token)
        value: int | float = float(text)
        if text.isdigit():
            value = int(text) if len(text) < 40 else MAX_INTEGER + 1
        if value in (float("inf"),) or (isinstance(value, int) and value > MAX_INTEGER):
            self._report("number-too-large", span, found=_shown(span))
            value = 0
        return syntax.Number(span, text, value)

    def _group(self, children: list[Built]) -> Node:
        span, items = self._span(children), self._nodes(children)
        if len(items) > 1:
            return syntax.Tuple(span, items)
        return cast(Node, replace(items[0], span=span))

    def _member(self, children: list[Built]) -> Node:
        base = self._nodes(children)[0]
        return syntax.Member(self._span(children), base, self._names(children)[0])

    def _named(self, children: list[Built]) -> Node:
        value = self._nodes(children)[0]
        return syntax.Named(self._span(children), self._names(children)[0], value)

    def _arguments_of(self, part: list[Built]) -> tuple[Any, ...]:
        """Arguments that are values: a binder among them is reported."""
        nodes = self._nodes(part)
        for node in nodes:
            if isinstance(node, Binder):
                self._insist_no_of(node)
        return tuple(node for node in nodes if not isinstance(node, Binder))

    def _at(self, children: list[Built]) -> Node:
        base, args = self._nodes(children)[0], self._lists(children)[0]
        return syntax.At(self._span(children), base, self._arguments_of(args))

    def _function(self, callee: Node) -> Name:
        """The function's name: functions are called by name only."""
        if isinstance(callee, Name):
            return callee
        self._report("call-of-value", callee.span, found=_shown(callee.span))
        return Name(callee.span, "")

    def _call(self, children: list[Built]) -> Node:
        function = self._function(self._nodes(children)[0])
        args = [arg for part in self._lists(children) for arg in self._arguments_of(part)]
        return syntax.Call(self._span(children), function, tuple(args))

    def _fold(self, children: list[Built]) -> Node:
        function = self._function(self._nodes(children)[0])
        *heads, args = self._lists(children)
        condition: Expression | None = None
        if isinstance(heads[-1][0], Token) and heads[-1][0].type == "IF":
            condition = self._nodes(heads.pop())[0]
        found = [[self._fold_binder(arg) for arg in self._nodes(head)] for head in heads]
        sources = tuple(tuple(one for one in source if one is not None) for source in found)
        span = self._span(children)
        return syntax.Fold(span, function, sources, condition, self._arguments_of(args))

    def _sign(self, children: list[Built]) -> Node:
        op = cast(Any, str(children[0]))
        return syntax.Unary(self._span(children), op, self._nodes(children)[0])

    def _binary(self, children: list[Built]) -> Node:
        left, op, right = children
        span = self._span(children)
        return syntax.Binary(
            span, cast(Any, str(op)), cast(Expression, left), cast(Expression, right)
        )

    def _compare(self, children: list[Built]) -> Node:
        ops = tuple(self._words(children))
        return syntax.Compare(self._span(children), self._nodes(children), cast(Any, ops))

    def _logic(self, children: list[Built]) -> Node:
        op = cast(Any, self._words(children)[0])
        return syntax.Logic(self._span(children), op, self._nodes(children))

    def _not_(self, children: list[Built]) -> Node:
        return syntax.Not(self._span(children), self._nodes(children)[0])

    def _range_(self, children: list[Built]) -> Node:
        low, high = self._nodes(children)
        return syntax.RangeExpr(self._span(children), low, high)

    def _default(self, children: list[Built]) -> Node:
        expr, fallback = self._nodes(children)
        return syntax.Default(self._span(children), expr, fallback)


def _shown(span: Span) -> str:
    """The text of a span in a message."""
    return shortened(span.text)
