"""From lark's tree to the syntax tree.

Does: one node for each form of the grammar, bottom up without recursion; what the grammar leaves
open (the form of a fold's binders, where `return` stands, reserved words) is settled here.
Does not: know any name's meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

from lark import Token, Tree

from attnc import syntax
from attnc.errors import Diagnostic, InternalError
from attnc.mistakes import syntax_diagnostic
from attnc.source import Source, Span
from attnc.syntax import Binder, Expression, Name, Node

MAX_DEPTH = 200  # of nested expressions and blocks; a chain of + is not nesting
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


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Hole(Node):
    """A line that was reported and taken out; it never leaves this file."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Return(Node):
    """`return operand`, until its def takes it; it never leaves this file."""

    operand: Expression


# A list stands for a part of the grammar that is no node: arguments, binders, a block.
Built: TypeAlias = Node | Token | list[Any]
Method: TypeAlias = Callable[[list[Built]], Built]


class TreeBuilder:
    """Builds the statements of one piece of a source.

    offset: where the piece begins in the source. Mistakes are gathered in `diagnostics`.
    """

    def __init__(self, source: Source, offset: int, diagnostics: list[Diagnostic]) -> None:
        self.source = source
        self.offset = offset
        self.diagnostics = diagnostics
        self.too_deep: Span | None = None

    def build(self, tree: Tree[Token]) -> list[Node]:
        """The imports, defs and operators of a `file` tree, in order."""
        order: list[Tree[Token]] = []
        stack = [tree]
        while stack:
            top = stack.pop()
            order.append(top)
            stack.extend(child for child in top.children if isinstance(child, Tree))
        built: dict[int, Built] = {}
        depths: dict[int, int] = {}
        for one in reversed(order):  # children come after their parents, hence before in reverse
            built[id(one)] = self._build_one(one, built, depths)
        return [node for node in cast(list[Built], built[id(tree)]) if isinstance(node, Node)]

    def _build_one(
        self, tree: Tree[Token], built: dict[int, Built], depths: dict[int, int]
    ) -> Built:
        """One tree whose children are built already."""
        children: list[Built] = []
        inner: list[int] = []
        for child in tree.children:
            if not isinstance(child, Tree):
                children.append(child)
                continue
            children.append(built.pop(id(child)))
            inner.append(depths.pop(id(child)))
        method: Method = getattr(self, f"_{tree.data}")
        node = method(children)
        spine = tree.data == "binary" and cast(Token, children[1]).type != "POWER"
        levels = (
            [*inner[:1], *(depth + 1 for depth in inner[1:])]
            if spine
            else [
                depth + (tree.data not in ("file", "args", "binders", "condition", "group"))
                for depth in inner
            ]
        )
        depths[id(tree)] = max(levels, default=1)
        if depths[id(tree)] > MAX_DEPTH and self.too_deep is None:
            self.too_deep = self._span(children)
            self._report("nested-too-deep", self.too_deep, limit=str(MAX_DEPTH))
        return node

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

    def _statements(self, block: list[Built]) -> tuple[Any, ...]:
        """The statements of a block that may not return."""
        nodes = self._nodes(block)
        for node in nodes:
            if isinstance(node, Return):
                self._report("return-outside", node.span)
        return tuple(node for node in nodes if not isinstance(node, Hole | Return))

    # --- Files -----------------------------------------------------------------------------------

    def _import_(self, children: list[Built]) -> Node:
        module, *names = self._names(children)
        return syntax.Import(self._span(children), module, tuple(names))

    def _def_(self, children: list[Built]) -> Node:
        span = self._span(children)
        name = self._names(children)[0]
        lists = self._lists(children)
        body, result = self._body(name, lists, children)
        headed = [part for part in lists if part and isinstance(part[0], syntax.Parameter)]
        parameters: tuple[syntax.Parameter, ...] = self._nodes(headed[-1])
        indices: list[Name] = []
        for parameter in self._nodes(headed[0]) if len(headed) > 1 else ():
            if parameter.default is not None:
                self._report("index-with-default", parameter.span, found=parameter.name.name)
            indices.append(parameter.name)
        return syntax.Def(span, name, tuple(indices), parameters, body, result)

    def _body(
        self, name: Name, lists: list[list[Built]], children: list[Built]
    ) -> tuple[tuple[syntax.Statement, ...], Expression]:
        """The statements and the result of a def."""
        if isinstance(children[-2], Node):
            return (), cast(Expression, children[-2])
        nodes = self._nodes(lists[-1])
        last = nodes[-1]
        if isinstance(last, Return):
            return self._statements(list(nodes[:-1])), last.operand
        if not any(isinstance(node, Hole | Return) for node in nodes):
            self._report("missing-return", name.span, found=name.name)
        return tuple(node for node in nodes if not isinstance(node, Hole | Return)), name

    def _parameter(self, children: list[Built]) -> Node:
        default = cast(Expression, children[2]) if len(children) > 1 else None
        return syntax.Parameter(self._span(children), self._names(children)[0], default)

    def _operator(self, children: list[Built]) -> Node:
        kind = cast(Any, str(children[0]))
        parts: dict[str, list[Built]] = {}
        *headers, block = self._lists(children)
        for part in headers:
            parts[cast(Token, part[0]).type] = part
        arguments = self._names(parts["LPAR"]) if "LPAR" in parts else None
        rows = self._nodes(self._lists(parts["FOR"])[0]) if "FOR" in parts else None
        keys = None
        if "OVER" in parts:
            keys = tuple(self._nodes(source) for source in self._lists(parts["OVER"]))
        for binder in [*(rows or ()), *(one for source in keys or () for one in source)]:
            self._insist_no_of(binder)
        statements = self._statements(block)
        span, name = self._span(children), self._names(children)[0]
        return syntax.Operator(span, kind, name, arguments, rows, keys, statements)

    def _insist_no_of(self, binder: Binder) -> None:
        if binder.form == "of":
            self._report("of-outside-fold", binder.span, found=binder.span.text)

    def _hole(self, children: list[Built]) -> Node:
        return Hole(self._span(children))

    # --- Statements ------------------------------------------------------------------------------

    def _axis(self, form: Any, children: list[Built]) -> Node:
        names = self._names(children)
        bound: Expression | None = None
        coordinates: tuple[Binder, ...] = ()
        if form == "of":
            *names_, bound = names
            names = tuple(names_)
        elif form == "product":
            coordinates = self._nodes(self._lists(children)[0])
            for binder in coordinates:
                self._insist_below(binder)
        else:
            bound = self._nodes(children)[-1]
        return syntax.Axis(self._span(children), names, form, bound, coordinates)

    def _insist_below(self, binder: Binder) -> None:
        if binder.form != "below":
            self._report("coordinate-form", binder.span, found=binder.name.name)

    def _axis_below(self, children: list[Built]) -> Node:
        return self._axis("below", children)

    def _axis_within(self, children: list[Built]) -> Node:
        return self._axis("within", children)

    def _axis_of(self, children: list[Built]) -> Node:
        return self._axis("of", children)

    def _axis_product(self, children: list[Built]) -> Node:
        return self._axis("product", children)

    def _declaration(self, children: list[Built]) -> Node:
        stage = cast(Any, str(children[0]))
        return syntax.Declaration(self._span(children), stage, self._nodes(children))

    def _declared(self, children: list[Built]) -> Node:
        words = [child for child in children if isinstance(child, Token)]
        scalar = next(word for word in words if word.type == "SCALAR")
        default = self._nodes(children)
        dims = self._binders_of(children)
        for binder in dims or ():
            self._insist_no_of(binder)
        return syntax.Declared(
            self._span(children),
            self._names(children),
            cast(Any, str(scalar)),
            dims,
            default[0] if default else None,
        )

    def _clause(self, children: list[Built]) -> Node:
        kind = cast(Any, str(children[0]))
        expr = self._nodes(children)[-1]
        return syntax.Clause(self._span(children), kind, self._binders_of(children), expr)

    def _update(self, children: list[Built]) -> Node:
        statements = self._statements(self._lists(children)[0])
        return syntax.Update(self._span(children), statements)

    def _emit(self, children: list[Built]) -> Node:
        name, expr = self._names(children)[0], self._nodes(children)[-1]
        return syntax.Emit(self._span(children), name, self._binders_of(children), expr)

    def _define(self, children: list[Built]) -> Node:
        name, expr = self._names(children)[0], self._nodes(children)[-1]
        return syntax.Define(self._span(children), name, self._binders_of(children), expr)

    def _solve(self, children: list[Built]) -> Node:
        span, name = self._span(children), self._names(children)[0]
        bracket, equation = self._nodes(children)
        low = high = bracket
        if isinstance(bracket, syntax.RangeExpr):
            low, high = bracket.low, bracket.high
        else:
            self._report("solve-bracket", bracket.span, found=name.name)
        left = right = equation
        if isinstance(equation, syntax.Compare) and equation.ops == ("==",):
            left, right = equation.operands
        else:
            self._report("solve-equation", equation.span, found=name.name)
        return syntax.Solve(span, name, low, high, left, right)

    def _repeat(self, children: list[Built]) -> Node:
        binder = self._nodes(children)[0]
        if binder.form == "of":
            self._insist_no_of(binder)
        elif binder.form == "plain":
            self._report("repeat-count", binder.span, found=binder.name.name)
        statements = self._statements(self._lists(children)[0])
        return syntax.Repeat(self._span(children), binder, statements)

    def _return_(self, children: list[Built]) -> Node:
        return Return(self._span(children), self._nodes(children)[0])

    # --- Binders ---------------------------------------------------------------------------------

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
            self._report("within-form", bound.span, found=name.name, bound=_short(bound.span))
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
        self._report("binder-form", arg.span, found=_short(arg.span))
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
            self._report("number-too-large", span, found=_short(span))
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
        self._report("call-of-value", callee.span, found=_short(callee.span))
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


def _short(span: Span) -> str:
    """The text of a span in one line of at most 40 characters."""
    text = " ".join(span.text.split())
    return text if len(text) <= 40 else text[:37] + "..."
