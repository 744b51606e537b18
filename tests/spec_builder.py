"""Specs built by hand, for tests of the stages below the checker.

`Operator` makes the axes, the arrays and the equations of an attention block from Python functions
over expressions; `X` is an expression with operators, so that a test reads like the text it stands
for:

    spec = Operator().attention(
        mask=lambda o, i, j: j <= i,
        score=lambda o, i, j: o.dot(i, j) * o.scale,
        weight=lambda o, s, j: exp(s(j)) / o.sum(j, exp(s(j))),
    )
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from attnc.expressions import tree
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import TRUE, Array, Expr, Kind
from attnc.source import Source, Span
from attnc.spec import Block, Definition, Input, KeySource, Number, Spec

SOURCE = Source("", "built by hand")
SPAN = Span(SOURCE, 0, 0)


@dataclass(frozen=True, eq=False)
class X:
    """An expression with Python's operators (comparisons make conditions; `&` is and, `|` or)."""

    expr: Expr

    def __add__(self, other: Any) -> X:
        return op("add", self, other)

    def __radd__(self, other: Any) -> X:
        return op("add", other, self)

    def __sub__(self, other: Any) -> X:
        return op("sub", self, other)

    def __rsub__(self, other: Any) -> X:
        return op("sub", other, self)

    def __mul__(self, other: Any) -> X:
        return op("mul", self, other)

    def __rmul__(self, other: Any) -> X:
        return op("mul", other, self)

    def __truediv__(self, other: Any) -> X:
        return op("div", self, other)

    def __rtruediv__(self, other: Any) -> X:
        return op("div", other, self)

    def __floordiv__(self, other: Any) -> X:
        return op("floordiv", self, other)

    def __mod__(self, other: Any) -> X:
        return op("mod", self, other)

    def __pow__(self, other: Any) -> X:
        return op("pow", self, other)

    def __neg__(self) -> X:
        return op("neg", self)

    def __lt__(self, other: Any) -> X:
        return op("lt", self, other)

    def __le__(self, other: Any) -> X:
        return op("le", self, other)

    def __gt__(self, other: Any) -> X:
        return op("gt", self, other)

    def __ge__(self, other: Any) -> X:
        return op("ge", self, other)

    def same(self, other: Any) -> X:
        return op("eq", self, other)

    def __and__(self, other: Any) -> X:
        return op("and", self, other)

    def __or__(self, other: Any) -> X:
        return op("or", self, other)

    def __invert__(self) -> X:
        return op("not", self)


def lift(value: Any) -> Expr:
    """The expression of a number, an index or an X."""
    if isinstance(value, X):
        return value.expr
    if isinstance(value, Index):
        return tree.position(value)
    return value if isinstance(value, Expr) else tree.number(value)


def op(name: str, *args: Any) -> X:
    operands = [lift(arg) for arg in args]
    branches = operands[1:] if name == "where" else operands
    if name not in tree.LOGIC:
        widest = tree.widest_kind(operand.kind for operand in branches)
        wanted: Kind = "real" if name in tree.REAL_VALUED else widest
        if wanted == "real":
            real = [tree.call("to_real", b) if b.kind == "int" else b for b in branches]
            operands = [*operands[: len(operands) - len(branches)], *real]
    return X(tree.call(name, *operands))


def _unary(name: str) -> Callable[[Any], X]:
    return lambda value: op(name, value)


exp, log, sqrt, tanh = _unary("exp"), _unary("log"), _unary("sqrt"), _unary("tanh")


def where(condition: Any, yes: Any, no: Any) -> X:
    return op("where", condition, yes, no)


def relu(value: Any) -> X:
    return op("max", value, 0.0)


def ratio(a: Any, b: Any) -> X:
    return where(op("eq", b, 0.0), 0.0, op("div", a, b))


class Operator:
    """The frame of an attention operator: axes b, h, hk, i, j, d, e, inputs q, k, v."""

    def __init__(self, rows: Axis | None = None) -> None:
        self.numbers = itertools.count(1)
        self.b, self.h = Axis("b"), Axis("h")
        self.hk = Axis("hk", "coarse", of=self.h)
        self.j = Axis("j", shifted="key_offset")
        self.i = rows or Axis("i", shifted="offset")
        self.d, self.e = Axis("d"), Axis("e")
        self.inputs: list[Input] = []
        self.params: list[Number] = []
        self.definitions: list[Definition] = []
        self.bi, self.hi = self.index(self.b), self.index(self.h)
        self.q = self.input("q", self.b, self.h, self.i, self.d, positional=True)
        self.k = self.input("k", self.b, self.hk, self.j, self.d, positional=True)
        self.v = self.input("v", self.b, self.hk, self.j, self.e, positional=True)
        self.scale = op("div", 1.0, sqrt(tree.call("to_real", tree.length(self.d))))

    def index(self, axis: Axis) -> Index:
        return Index(axis.name, axis, next(self.numbers))

    def input(self, name: str, *axes: Axis, kind: Kind = "real", positional: bool = False) -> Array:
        array = Array(name, tuple(self.index(axis) for axis in axes), kind, "input", SPAN)
        self.inputs.append(Input(array, positional, None, SPAN))
        return array

    def param(self, name: str, kind: Kind = "int", default: float | None = None) -> X:
        value = None if default is None else tree.number(default)
        self.params.append(Number(name, kind, False, value, SPAN))
        return X(tree.param(name, kind))

    def at(self, array: Array, *inner: Any) -> X:
        """A read of an input: outer axes filled by name, key heads at h // (len(h) // len(hk))."""
        outer: dict[Axis, Expr] = {self.b: tree.position(self.bi), self.h: tree.position(self.hi)}
        group = tree.call("floordiv", tree.length(self.h), tree.length(self.hk))
        outer[self.hk] = tree.call("floordiv", tree.position(self.hi), group)
        given = iter(inner)
        places = [outer[axis] if axis in outer else lift(next(given)) for axis in array.axes]
        return X(tree.read(array, places))

    def sum(self, over: Index | Sequence[Index], body: Any, condition: Any = None) -> X:
        return self.fold("sum", over, body, condition)

    def fold(
        self, monoid: str, over: Index | Sequence[Index], body: Any, condition: Any = None
    ) -> X:
        bound = (over,) if isinstance(over, Index) else tuple(over)
        test = TRUE if condition is None else lift(condition)
        return X(tree.fold(monoid, bound, lift(body), test))

    def dot(self, i: Any, j: Any, left: Callable[[X], X] = lambda x: x) -> X:
        d = self.index(self.d)
        return self.sum(d, left(self.at(self.q, i, d)) * self.at(self.k, j, d))

    def define(self, name: str, indices: Sequence[Index], expr: Any) -> Array:
        body = lift(expr)
        array = Array(name, tuple(indices), body.kind, "definition", SPAN)
        self.definitions.append(Definition(array, body, SPAN))
        return array

    def spec(
        self,
        name: str,
        result: X,
        rows: Sequence[Index],
        left: Sequence[Index],
        sources: Sequence[KeySource],
        offered: Sequence[Definition] = (),
        outer: Sequence[Index] | None = None,
    ) -> Spec:
        lead = (self.bi, self.hi) if outer is None else tuple(outer)
        array = Array(name, (*lead, *rows, *left), lift(result).kind, "output", SPAN)
        block = Block(
            name,
            tuple(rows),
            tuple(sources),
            tuple(self.definitions),
            (),
            (),
            Definition(array, lift(result), SPAN),
            (),
            tuple(offered),
            SPAN,
        )
        axes = (self.b, self.h, self.hk, self.i, self.j, self.d, self.e)
        known = {d.array.name: d for d in self.definitions}
        return Spec(
            name, SOURCE, axes, tuple(self.params), tuple(self.inputs), block, (), definitions=known
        )

    def attention(
        self,
        name: str = "operator",
        mask: Callable[[Index, Index], Any] | None = None,
        score: Callable[[Index, Index], Any] | None = None,
        weight: Callable[[Row, Index], Any] | None = None,
        read: Callable[[Row, Index], Any] | None = None,
    ) -> Spec:
        """One key source, one row index: clauses from functions of indices, `weight` and `read`
        from functions of a Row. The defaults: everything visible, a scaled dot product, softmax,
        and the weighted sum of the values."""
        i, j, e = self.index(self.i), self.index(self.j), self.index(self.e)
        outer = (self.bi, self.hi)
        masked = mask(i, j) if mask else tree.TRUE
        m = self.define("mask", (*outer, i, j), masked)
        s = self.define(
            "score", (*outer, i, j), score(i, j) if score else self.dot(i, j) * self.scale
        )
        row = Row(self, i, m, s)
        w = self.define("weight", (*outer, i, j), (weight or softmax)(row, j))
        row.weights = w
        result = (
            read(row, e) if read else row.total(lambda m: row.weight(m) * self.at(self.v, m, e))
        )
        lse = log(row.total(lambda m: exp(row.score(m))))
        offered = Definition(Array("lse", (*outer, i), "real", "output", SPAN), lift(lse), SPAN)
        return self.spec(name, result, (i,), (e,), (KeySource((j,), m, s, w),), (offered,))


class Row:
    """A bound row: its scores, its weights, folds over its visible keys."""

    def __init__(self, frame: Operator, i: Index, mask: Array, score: Array) -> None:
        self.frame, self.i, self.masks, self.scores = frame, i, mask, score
        self.weights: Array | None = None

    def _at(self, array: Array, j: Any) -> X:
        return X(tree.read(array, (*map(tree.position, array.indices[:3]), lift(j))))

    def score(self, j: Any) -> X:
        return self._at(self.scores, j)

    def weight(self, j: Any) -> X:
        assert self.weights is not None
        return self._at(self.weights, j)

    def visible(self, j: Any) -> X:
        return self._at(self.masks, j)

    def total(self, body: Callable[[Index], Any], monoid: str = "sum") -> X:
        """A fold over the visible keys."""
        j = self.frame.index(self.frame.j)
        return self.frame.fold(monoid, j, body(j), self.visible(j))


def softmax(row: Row, j: Index) -> X:
    return exp(row.score(j)) / row.total(lambda m: exp(row.score(m)))


def causal(name: str = "causal") -> Spec:
    """mask: j <= i; score: dot(q[i], k[j]) * scale; normalize: softmax(j: score)."""
    return Operator().attention(name, mask=lambda i, j: op("le", j, i))
