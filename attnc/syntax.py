"""The syntax tree: frozen dataclasses, one for each form of the grammar, a span on every node.

Nodes compare by identity; `equal` compares two trees by form, spans aside. A sum of ten thousand
terms is a left-nested `Binary` ten thousand deep, so nothing here recurses, and what walks a tree
must not either: use `children` with a stack, or `walk`. Other nesting is bounded by the parser.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from attnc.source import Span

Scalar = Literal["real", "int", "bool", "complex"]
ClauseKind = Literal["mask", "score", "normalize", "read"]
Stage = Literal["input", "param", "static", "state"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Node:
    """What all nodes share: where they stand in the text."""

    span: Span

    def __repr__(self) -> str:
        text = self.span.text
        shown = text if len(text) <= 40 else text[:37] + "..."
        return f"<{type(self).__name__} {self.span} {shown!r}>"


# --- Expressions ---------------------------------------------------------------------------------
# Parentheses around one expression leave no node; the expression's span then includes them.


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Name(Node):
    """A name, where it is read and where it is introduced."""

    name: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Number(Node):
    """A number as written; value is an int for digits alone, else a float."""

    text: str
    value: int | float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Tuple(Node):
    """`(y, x)`: coordinates on a product axis; two items or more."""

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Member(Node):
    """`base.name`: a coordinate of an index, or an emit of a block."""

    base: Expression
    name: Name


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Named(Node):
    """`name = value` among the arguments of a call, a fold or a subscript."""

    name: Name
    value: Expression


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class At(Node):
    """`base[a, b, h = c]`: a read of an array."""

    base: Expression
    args: tuple[Argument, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Call(Node):
    """`function(a, b, c = d)`."""

    function: Name
    args: tuple[Argument, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Fold(Node):
    """`function(j, l in j | m if condition: a, b)`: one tuple of binders for each source."""

    function: Name
    sources: tuple[tuple[Binder, ...], ...]
    condition: Expression | None
    args: tuple[Argument, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Unary(Node):
    """`-x` and `+x`."""

    op: Literal["-", "+"]
    operand: Expression


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Binary(Node):
    """`left op right`; every operator but `**` groups from the left."""

    op: Literal["+", "-", "*", "/", "//", "%", "@", "**"]
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Compare(Node):
    """A chain `a <= b < c`: one operator fewer than operands. `j in a .. b` is one too."""

    operands: tuple[Expression, ...]
    ops: tuple[Literal["==", "!=", "<", "<=", ">", ">=", "in"], ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Logic(Node):
    """`a and b and c`, or the same with `or`; two operands or more."""

    op: Literal["and", "or"]
    operands: tuple[Expression, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Not(Node):
    """`not x`."""

    operand: Expression


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Default(Node):
    """`expr else fallback`: the fallback stands where a read in expr is outside its array."""

    expr: Expression
    fallback: Expression


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RangeExpr(Node):
    """`low .. high`, half open."""

    low: Expression
    high: Expression


Expression: TypeAlias = (
    Name
    | Number
    | Tuple
    | Member
    | At
    | Call
    | Fold
    | Unary
    | Binary
    | Compare
    | Logic
    | Not
    | Default
    | RangeExpr
)
Argument: TypeAlias = Expression | Named


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Binder(Node):
    """Introduces an index.

    plain: `j`, no bound. below: `r < n`, bound is n. within: `r in a .. b`, bound is a RangeExpr,
    or `l in j`, bound is the Name j. of: `h of hk`, bound is the Name hk (in folds only).
    """

    name: Name
    form: Literal["plain", "below", "within", "of"]
    bound: Expression | None


# --- Statements ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Declared(Node):
    """One group of a declaration: `beta, g: real[b, h, t] = 0`. dims is None without brackets."""

    names: tuple[Name, ...]
    scalar: Scalar
    dims: tuple[Binder, ...] | None
    default: Expression | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Declaration(Node):
    """`input`, `param`, `static` or `state`, with its groups."""

    stage: Stage
    groups: tuple[Declared, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Axis(Node):
    """An axis declaration.

    below: `axis c < n`, bound is n. within: `axis rel in a .. b`, bound is a RangeExpr (or a Name).
    of: `axis g of h`, bound is the Name h. product: `axis i, j = (y < height, x < width)`,
    coordinates are the binders in the parentheses (of any form but `of`), bound is None.
    """

    names: tuple[Name, ...]
    form: Literal["below", "within", "of", "product"]
    bound: Expression | None
    coordinates: tuple[Binder, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Clause(Node):
    """`mask`, `score`, `normalize` or `read`. binders is None without brackets."""

    kind: ClauseKind
    binders: tuple[Binder, ...] | None
    expr: Expression


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Update(Node):
    """`update:` and its block: one step of the states."""

    statements: tuple[Statement, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Emit(Node):
    """`emit name[binders] = expr`. binders is None without brackets."""

    name: Name
    binders: tuple[Binder, ...] | None
    expr: Expression


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Define(Node):
    """`name[binders] = expr`: an equation. binders is None without brackets."""

    name: Name
    binders: tuple[Binder, ...] | None
    expr: Expression


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Solve(Node):
    """`solve name in low .. high: left == right`."""

    name: Name
    low: Expression
    high: Expression
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Repeat(Node):
    """`repeat r < n:` and its block; the binder has any form but `of`."""

    binder: Binder
    statements: tuple[Statement, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Operator(Node):
    """`attention name(arguments) for rows over keys:` and its block; also nested in a body.

    arguments, rows and keys are None where they are not written. keys has one tuple of binders for
    each source: `over j, l | m` is ((j, l), (m,)).
    """

    kind: Literal["attention", "pipeline"]
    name: Name
    arguments: tuple[Name, ...] | None
    rows: tuple[Binder, ...] | None
    keys: tuple[tuple[Binder, ...], ...] | None
    statements: tuple[Statement, ...]


Statement: TypeAlias = (
    Axis | Declaration | Clause | Update | Emit | Define | Solve | Repeat | Operator
)


# --- Files ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Import(Node):
    """`from module import names`."""

    module: Name
    names: tuple[Name, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Parameter(Node):
    """A parameter of a def, with its default."""

    name: Name
    default: Expression | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Def(Node):
    """`def name(indices: parameters) = result`, or with a body and a `return`.

    Without a colon in the parentheses, indices is empty and all are parameters. Before the colon
    stand names without defaults.
    """

    name: Name
    indices: tuple[Name, ...]
    parameters: tuple[Parameter, ...]
    body: tuple[Statement, ...]
    result: Expression


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class File(Node):
    """A file: imports, defs and operators, each in the order of the text."""

    imports: tuple[Import, ...]
    defs: tuple[Def, ...]
    operators: tuple[Operator, ...]


# --- Walks ---------------------------------------------------------------------------------------


def _items(value: object) -> Iterator[object]:
    """The values inside a field: of nested tuples, each item."""
    if not isinstance(value, tuple):
        yield value
        return
    for item in value:
        yield from _items(item)  # tuples nest at most twice


def _field_names(node: Node) -> tuple[str, ...]:
    """The names of a node's fields, span aside."""
    return node.__match_args__[1:]


def children(node: Node) -> tuple[Node, ...]:
    """The nodes right under a node, in the order of its fields."""
    values = (getattr(node, name) for name in _field_names(node))
    return tuple(item for value in values for item in _items(value) if isinstance(item, Node))


def walk(node: Node) -> Iterator[Node]:
    """All nodes of a tree, parents first, in the order of the text; iterative."""
    stack = [node]
    while stack:
        top = stack.pop()
        yield top
        stack.extend(reversed(children(top)))


def equal(left: Node, right: Node) -> bool:
    """Whether two trees are the same but for their spans; iterative."""
    stack: list[tuple[object, object]] = [(left, right)]
    while stack:
        one, other = stack.pop()
        if type(one) is not type(other):
            return False
        if isinstance(one, tuple) and isinstance(other, tuple):
            if len(one) != len(other):
                return False
            stack.extend(zip(one, other, strict=True))
        elif isinstance(one, Node):
            names = _field_names(one)
            stack.extend((getattr(one, name), getattr(other, name)) for name in names)
        elif one != other:
            return False
    return True


def print_tree(node: Node) -> str:
    """The tree as indented lines: a node a line, with its plain fields and its place."""
    lines: list[str] = []
    stack: list[tuple[int, Node]] = [(0, node)]
    while stack:
        depth, top = stack.pop()
        plain = [getattr(top, name) for name in _field_names(top)]
        words = [str(value) for value in plain if isinstance(value, str | int | float)]
        place = f"{top.span.line}:{top.span.column}"
        lines.append("  " * depth + " ".join([type(top).__name__, *words, f"@{place}"]))
        stack.extend((depth + 1, child) for child in reversed(children(top)))
    return "\n".join(lines) + "\n"
