"""From lark's tree to the syntax tree: the walk, files and statements.

Does: one node for each form of the grammar, bottom up without recursion; what the grammar leaves
open (where `return` stands, the form of a bracket or a count) is settled here.
Does not: know any name's meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from lark import Token, Tree

from attnc import syntax
from attnc.syntax import Binder, Expression, Name, Node
from attnc.tree_expressions import Built, ExpressionBuilder

MAX_DEPTH = 200  # of nested expressions and blocks; a chain of + is not nesting
FLAT = frozenset({"file", "args", "binders", "condition", "group"})  # rules that nest nothing

Method: TypeAlias = Callable[[list[Built]], Built]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Hole(Node):
    """A line that was reported and taken out; it never leaves this file."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Return(Node):
    """`return operand`, until its def takes it; it never leaves this file."""

    operand: Expression


class TreeBuilder(ExpressionBuilder):
    """Builds the statements of one piece of a source."""

    def build(self, tree: Tree[Token]) -> list[Node]:
        """The imports, defs and operators of a `file` tree, in order."""
        self.too_deep = False
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
        depths[id(tree)] = _depth(tree, inner)
        if depths[id(tree)] > MAX_DEPTH and not self.too_deep:
            self.too_deep = True
            self._report("nested-too-deep", self._span(children), limit=str(MAX_DEPTH))
        return node

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
                self._insist_no_of(binder)
        else:
            bound = self._nodes(children)[-1]
        return syntax.Axis(self._span(children), names, form, bound, coordinates)

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
        self._insist_no_of(binder)
        statements = self._statements(self._lists(children)[0])
        return syntax.Repeat(self._span(children), binder, statements)

    def _return_(self, children: list[Built]) -> Node:
        return Return(self._span(children), self._nodes(children)[0])

    def _statements(self, block: list[Built]) -> tuple[Any, ...]:
        """The statements of a block that may not return."""
        nodes = self._nodes(block)
        for node in nodes:
            if isinstance(node, Return):
                self._report("return-outside", node.span)
        return tuple(node for node in nodes if not isinstance(node, Hole | Return))


def _depth(tree: Tree[Token], inner: list[int]) -> int:
    """How deep a tree is nested, from the depths of its children."""
    if not inner:
        return 1
    if tree.data == "binary" and cast(Token, tree.children[1]).type != "POWER":
        return max(inner[0], 1 + inner[1])  # the left side of a chain is no nesting
    return max(inner) + (tree.data not in FLAT)
