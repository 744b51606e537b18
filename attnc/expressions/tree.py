"""Scalar trees: the expressions of the Spec and of the Schedule.

Every expression is one number (bool, int, real or complex) as a function of its free indices: a
vector over d is a
scalar tree with the free index d, a dot product a fold that binds it. Nodes are immutable, know
their kind, their
free indices and a digest of their content (equal digests, equal trees; spans do not count), and are
only walked by
the iterative functions below, so that depth never meets Python's recursion limit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from attnc.expressions.index import Axis, Index
from attnc.source import Span

Kind = Literal["bool", "int", "real", "complex"]
Role = Literal["input", "definition", "state", "local", "output", "workspace"]

ARITHMETIC = (
    "add",
    "sub",
    "mul",
    "div",
    "floordiv",
    "mod",
    "pow",
    "neg",
    "min",
    "max",
    "abs",
    "sign",
)
COMPARISON = ("eq", "ne", "lt", "le", "gt", "ge")
LOGIC = ("and", "or", "not")
# exp2, log2, log1p, softplus, sigmoid are never written: passes and printers introduce them.
FUNCTIONS = (
    "exp", "log", "sqrt", "sin", "cos", "asin", "acos", "atan", "tanh", "erf", "floor", "ceil",
    "round", "re", "im", "conj", "stop", "exp2", "log2", "log1p", "softplus", "sigmoid",
)  # fmt: skip
REAL_VALUED = frozenset((
    "div", "exp", "log", "sqrt", "sin", "cos", "asin", "acos", "atan", "tanh", "erf",
    "exp2", "log2", "log1p", "softplus", "sigmoid",
))  # fmt: skip
CASTS = ("to_int", "to_real", "to_complex")
POINTWISE = frozenset((*ARITHMETIC, *COMPARISON, *LOGIC, *FUNCTIONS, *CASTS, "where"))
LEAVES = frozenset(("number", "index", "param", "length", "start", "unknown", "value"))
MONOIDS = ("sum", "prod", "max", "min")
SELECTS = ("topk", "rank", "argmax", "argmin")
# Never written either: what the regions of a Schedule ask of a table of truths.
BOXES = ("some", "every")
GIVEN = "given"  # passes alone make it
OPS = POINTWISE | LEAVES | {"read", "fold", "default", "solve", "random", "grad", *SELECTS, *BOXES}
OPS |= {GIVEN}


@dataclass(frozen=True, eq=False, slots=True)
class Array:
    """A named array of a Spec: an input, the left side of an equation, a state, an output.

    `indices` are dummies, one for each dimension in the order of the tensor (outer axes first); a
    definition's
    expression has just these free. Names are unique in a Spec (`coarse.weight` for the weight of
    block `coarse`).
    """

    name: str
    indices: tuple[Index, ...]
    kind: Kind
    role: Role
    span: Span | None = None

    @property
    def axes(self) -> tuple[Axis, ...]:
        return tuple(index.axis for index in self.indices)

    def __repr__(self) -> str:
        return f"Array({self.name}[{', '.join(map(str, self.indices))}])"


Payload = None | bool | int | float | str | Index | Axis | Array | tuple[Index | str | int, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Expr:
    """One node. `op` says what, `args` the operands, `attr` what is not an operand:

    number    attr = a bool, int or float (inf and nan included)
    index     attr = Index                        its position
    param     attr = name                         a param or static of the Spec
    length    attr = Axis; start: attr = Axis     run-time integers
    unknown   attr = name                         the unknown of an enclosing solve
    value     attr = name                         a named tile value of a Schedule (never in a Spec)
    read      attr = Array, args = one position for each of its dimensions (the entry at position -
              start of the axis)
    fold      attr = (monoid, *bound indices), args = (condition, body)
    topk      attr = bound indices, args = (condition, key, count, *position asked for): bool
    rank      attr = bound indices, args = (condition, key, *position asked for): int
    argmax, argmin   attr = bound indices (one), args = (condition, key): int
    default   args = (expression, fallback)       fallback where a read in the expression is outside
              its array
    solve     attr = name of the unknown, args = (low, high, left, right)
    random    attr = ordinal in the text, args = (b, h, i, j) positions
    grad      attr = Array, args = (expression, *position in the array)
    some, every   attr = Array of truths, args = (low, high) of each dimension, both inclusive:
              whether an entry of that box is true, whether all are; outside the array none is
    given     attr = Array, args = (expression, other): the other where a call lacks that input
    others    pointwise
    """

    op: str
    args: tuple[Expr, ...] = ()
    attr: Payload = None
    kind: Kind = "real"
    span: Span | None = None
    # The indices that this node binds in its operands (empty but for folds and selections).
    bound: tuple[Index, ...] = field(init=False, repr=False)
    free: frozenset[Index] = field(init=False, repr=False)
    digest: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.op not in OPS:
            raise AssertionError(f"unknown operation {self.op!r}")
        object.__setattr__(self, "bound", _bound(self))
        object.__setattr__(self, "free", _free(self))
        object.__setattr__(self, "digest", _digest(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expr) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def with_args(self, args: tuple[Expr, ...]) -> Expr:
        """The same node over other operands."""
        if len(args) == len(self.args):
            for new, old in zip(args, self.args, strict=True):
                if new is not old:
                    break
            else:
                return self
        return Expr(self.op, args, self.attr, self.kind, self.span)

    @property
    def monoid(self) -> str:
        """sum, prod, max or min of a fold."""
        assert self.op == "fold" and isinstance(self.attr, tuple) and isinstance(self.attr[0], str)
        return self.attr[0]

    @property
    def array(self) -> Array:
        """The array of a read, grad, some or every."""
        assert isinstance(self.attr, Array)
        return self.attr


def scoped(expr: Expr) -> int:
    """How many of the leading operands see the node's bound indices: 2 (condition, body) for folds
    and selections."""
    return 2 if expr.bound else 0


def _bound(expr: Expr) -> tuple[Index, ...]:
    if expr.op != "fold" and expr.op not in SELECTS:
        return ()
    assert isinstance(expr.attr, tuple)
    return tuple(part for part in expr.attr if isinstance(part, Index))


def _free(expr: Expr) -> frozenset[Index]:
    if expr.op == "index":
        assert isinstance(expr.attr, Index)
        return frozenset((expr.attr,))
    bound = expr.bound
    if not bound:
        return _joined(expr.args)
    inner = _joined(expr.args[:2]).difference(bound)
    return inner.union(*(arg.free for arg in expr.args[2:]))


def _joined(args: tuple[Expr, ...]) -> frozenset[Index]:
    """The free indices of the operands together; most often those of one of them, shared."""
    found: frozenset[Index] = frozenset()
    for arg in args:
        if not arg.free <= found:
            found = arg.free if found <= arg.free else found | arg.free
    return found


def _digest(expr: Expr) -> bytes:
    head = f"{expr.op}|{expr.kind}|{_attr_text(expr.attr)}|".encode()
    content = b"".join((head, *[arg.digest for arg in expr.args]))
    return hashlib.blake2b(content, digest_size=16).digest()


def _attr_text(attr: Payload) -> str:
    if attr is None:
        return ""
    if isinstance(attr, tuple):
        return ",".join(_attr_text(part) for part in attr)
    if isinstance(attr, Index):
        return f"{attr.name}#{attr.number}@{attr.axis.name}"
    if isinstance(attr, (Axis, Array)):
        return attr.name
    return f"{type(attr).__name__}:{attr!r}"


# ----------------------------------------------------------------------------------------------
# building


def number(value: bool | int | float, span: Span | None = None) -> Expr:
    kind: Kind = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "real"
    return Expr("number", (), value, kind, span)


TRUE = number(True)
FALSE = number(False)


def position(index: Index, span: Span | None = None) -> Expr:
    """The position of an index, an int."""
    return Expr("index", (), index, "int", span)


def param(name: str, kind: Kind, span: Span | None = None) -> Expr:
    return Expr("param", (), name, kind, span)


def length(axis: Axis, span: Span | None = None) -> Expr:
    return Expr("length", (), axis, "int", span)


def start(axis: Axis, span: Span | None = None) -> Expr:
    return Expr("start", (), axis, "int", span)


def value(name: str, kind: Kind, over: Iterable[Index] = ()) -> Expr:
    """A tile value of a Schedule by name; `over` are the indices that it depends on."""
    node = Expr("value", (), name, kind)
    object.__setattr__(node, "free", frozenset(over))
    return node


def read(array: Array, at: Iterable[Expr], span: Span | None = None) -> Expr:
    node = Expr("read", tuple(at), array, array.kind, span)
    if len(node.args) != len(array.indices):
        raise AssertionError(
            f"{array.name} has {len(array.indices)} axes, read at {len(node.args)}"
        )
    return node


def fold(
    monoid: str,
    bound: Iterable[Index],
    body: Expr,
    condition: Expr = TRUE,
    span: Span | None = None,
) -> Expr:
    return Expr("fold", (condition, body), (monoid, *bound), body.kind, span)


def call(op: str, *args: Expr, kind: Kind | None = None, span: Span | None = None) -> Expr:
    """A pointwise operation. Its kind, unless given: bool for comparisons and logic, real for
    functions, else the
    widest of the operands (`where`: of its branches)."""
    if kind is None:
        kind = infer_kind(op, args)
    return Expr(op, args, None, kind, span)


def infer_kind(op: str, args: tuple[Expr, ...]) -> Kind:
    """The kind of a pointwise operation over operands whose kinds are legal for it."""
    if op in COMPARISON or op in LOGIC:
        return "bool"
    if op == "to_int" or op in ("floor", "ceil", "round"):
        return "int"
    if op == "to_complex":
        return "complex"
    if op in ("to_real", "re", "im"):
        return "real"
    operands = args[1:] if op == "where" else args
    widest = widest_kind(arg.kind for arg in operands)
    if op in REAL_VALUED and widest != "complex":
        return "real"
    if op == "abs" and widest == "complex":
        return "real"
    return widest


_WIDTH: dict[Kind, int] = {"bool": 0, "int": 1, "real": 2, "complex": 3}


def widest_kind(kinds: Iterable[Kind]) -> Kind:
    return max(kinds, key=_WIDTH.__getitem__)


# -----------------------------------------------------------------------------------------------
# walking


def _all_operands(node: Expr) -> tuple[Expr, ...]:
    return node.args


def postorder(
    *roots: Expr,
    done: Container[bytes] = (),
    operands: Callable[[Expr], tuple[Expr, ...]] = _all_operands,
) -> Iterator[Expr]:
    """Every node under the roots once (equal nodes are one), operands before the nodes that use
    them; nothing of nodes whose digests are in `done`, of each node what `operands` gives."""
    seen: set[bytes] = set()
    stack = list(reversed(roots))
    while stack:
        node = stack[-1]
        if node.digest in seen or node.digest in done:
            stack.pop()
            seen.add(node.digest)
            continue
        waiting = [arg for arg in operands(node) if arg.digest not in seen]
        if waiting:  # the node is looked at once more when they are done
            waiting.reverse()
            stack += waiting
            continue
        stack.pop()
        seen.add(node.digest)
        yield node


def rewrite(root: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """The tree with `change` applied to every node from the leaves up (to nodes whose operands are
    changed already)."""
    done: dict[bytes, Expr] = {}
    for node in postorder(root):
        done[node.digest] = change(node.with_args(tuple([done[arg.digest] for arg in node.args])))
    return done[root.digest]


def substitute(root: Expr, exchange: dict[Index, Expr]) -> Expr:
    """The tree with free indices replaced by expressions; where a fold binds an index of the same
    name, that is another. Bound indices must not be free in the replacements (indices are numbered
    apart, so they never are)."""
    return substitute_all((root,), exchange)[0]


def substitute_all(roots: Iterable[Expr], exchange: dict[Index, Expr]) -> tuple[Expr, ...]:
    """`substitute` for several trees, what they share once."""
    roots = tuple(roots)
    moved = (old for old, new in exchange.items() if new.op != "index" or new.attr != old)
    hit = frozenset(moved)
    if not hit:
        return roots

    done: dict[bytes, Expr] = {}
    stack = list(roots)
    while stack:
        node = stack[-1]
        if node.digest in done:
            stack.pop()
        elif hit.isdisjoint(node.free):
            done[node.digest] = node
        elif node.op == "index":
            assert isinstance(node.attr, Index)
            done[node.digest] = exchange[node.attr]
        elif not hit.isdisjoint(node.bound):
            inner = scoped(node)
            rest = {old: new for old, new in exchange.items() if old not in node.bound}
            within = substitute_all(node.args[:inner], rest)
            done[node.digest] = node.with_args(
                (*within, *substitute_all(node.args[inner:], exchange))
            )
        elif waiting := [arg for arg in node.args if arg.digest not in done]:
            stack += waiting
        else:
            done[node.digest] = node.with_args(tuple([done[arg.digest] for arg in node.args]))
    return tuple(done[root.digest] for root in roots)


def number_of(expr: Expr) -> float:
    """The value of a constant."""
    assert isinstance(expr.attr, (bool, int, float))
    return float(expr.attr)


def is_number(expr: Expr, wanted: float | None = None) -> bool:
    """Whether the node is a constant (and equals `wanted`)."""
    if expr.op != "number":
        return False
    return wanted is None or (expr.attr == wanted and not isinstance(expr.attr, bool))


def is_infinite(expr: Expr) -> bool:
    return expr.op == "number" and isinstance(expr.attr, float) and math.isinf(expr.attr)
