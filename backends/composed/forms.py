"""Formulas that a library does in less memory or time than their dense form.

    Grouped    sum(j if f(j) == c: x[j])            sums by group: index_add, scatter
    Running    sum(s if s <= t: x[s])               a cumulative sum, product, maximum
    Lagged     sum(s if s <= t: h[t - s] * x[s])    a causal convolution, by FFT
    Nested     sum(r: sum(d: x))                    one sum
    Transformed  sum(t: x[t] * cos(2 * pi * f * t / n))   a Fourier transform
    Windowed   sums and extremes over windows       convolutions, pooling (windows.py)
    Bagged     sums of rows that are looked up      embedding bags (lookups.py)

Each says which operands it needs; the printer prints it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from attnc.backends.composed.lookups import Bagged, bagged
from attnc.backends.composed.windows import Windowed, apart, windowed

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import (
    TRUE,
    Expr,
    call,
    fold,
    length,
    number_of,
    position,
    postorder,
    rewrite,
    start,
    substitute,
)
from attnc.graph import conjuncts

ORDERS = {"le": False, "lt": True}  # whether the point itself is left out


@dataclass(frozen=True)
class Grouped:
    """A fold over the points whose group `by` is the free `index`; `body` and `condition` have the
    group written out, but for what folds without the points: `inner` by name, over groups."""

    index: Index
    by: Expr
    condition: Expr
    body: Expr
    inner: tuple[tuple[str, Expr], ...] = ()

    @property
    def operands(self) -> tuple[Expr, ...]:
        return (*(expr for _, expr in self.inner), self.by, self.condition, self.body)


@dataclass(frozen=True)
class Running:
    """A fold over what comes before the free `index`, itself among it unless `strict`."""

    index: Index
    strict: bool
    condition: Expr
    body: Expr

    @property
    def operands(self) -> tuple[Expr, ...]:
        return (self.condition, self.body)


@dataclass(frozen=True)
class Lagged:
    """A sum over what comes before, of a function `lagged` of the distance (over `index`, from 0)
    times one of the point."""

    index: Index
    strict: bool
    lagged: Expr
    body: Expr

    @property
    def operands(self) -> tuple[Expr, ...]:
        return (self.lagged, self.body)


@dataclass(frozen=True)
class Transformed:
    """A sum over `time` of a body times the cosine or the sine of 2 pi * frequency * time / n."""

    part: str
    time: Index
    frequency: Index
    body: Expr

    @property
    def operands(self) -> tuple[Expr, ...]:
        return (self.body,)


Form = Grouped | Running | Lagged | Transformed | Windowed | Bagged


def form_of(node: Expr) -> Form | None:
    """The form of a fold; None where it is none of these."""
    if node.op != "fold" or not node.bound:
        return None
    whole = _transformed(node) or windowed(node) or bagged(node)
    if whole is not None:
        return whole
    parts = list(conjuncts(node.args[0]))
    for part in parts:
        rest = _joined([other for other in parts if other is not part])
        found = _grouped(node, part, rest) or _ordered(node, part, rest)
        if found is not None:
            return found
    return None


def merged(expr: Expr) -> Expr:
    """The expression with a sum of a sum as one, where neither has a condition."""

    def change(node: Expr) -> Expr:
        while _plain_sum(node) and _plain_sum(node.args[1]):
            node = fold("sum", (*node.bound, *node.args[1].bound), node.args[1].args[1])
        return apart(node)

    return rewrite(expr, change)


def _plain_sum(node: Expr) -> bool:
    return node.op == "fold" and node.monoid == "sum" and node.args[0] == TRUE


def _joined(parts: list[Expr]) -> Expr:
    result = TRUE
    for part in parts:
        result = part if result == TRUE else call("and", result, part)
    return result


def _grouped(node: Expr, part: Expr, rest: Expr) -> Grouped | None:
    """`f(bound) == free`, of which `f` has no index of the free one's axis among its own."""
    if part.op != "eq" or node.kind not in ("real", "int"):
        return None
    bound = set(node.bound)
    for index, by in (part.args, tuple(reversed(part.args))):
        free = index.attr
        if index.op != "index" or not isinstance(free, Index) or free in bound:
            continue
        if not by.free & bound or free in by.free or by.op == "index":
            continue
        inner: dict[str, Expr] = {}
        parts = [_set_apart(each, free, bound, by, inner) for each in (node.args[1], rest)]
        body, condition = (substitute(each, {free: by}) for each in parts)
        return Grouped(free, by, condition, body, tuple(inner.items()))
    return None


def _set_apart(
    expr: Expr, free: Index, bound: set[Index], by: Expr, inner: dict[str, Expr]
) -> Expr:
    """The expression with each fold over a group, but not over its points, as a name."""

    def apart(node: Expr) -> bool:
        return node.op == "fold" and free in node.free and not node.free & bound

    done: dict[bytes, Expr] = {}
    for node in postorder(expr, operands=lambda node: () if apart(node) else node.args):
        if not apart(node):
            done[node.digest] = node.with_args(tuple(done[arg.digest] for arg in node.args))
            continue
        name = f"of each group {node.digest.hex()}"
        inner[name] = node
        others = sorted(node.free - {free}, key=str)
        done[node.digest] = Expr("unknown", (by, *map(position, others)), name, node.kind)
    return done[expr.digest]


def _ordered(node: Expr, part: Expr, rest: Expr) -> Running | Lagged | None:
    """`s <= t`, of which `s` is bound alone and `t` is free, on one axis."""
    if len(node.bound) != 1:
        return None
    left, right = part.args if len(part.args) == 2 else (None, None)
    op = part.op
    if op in ("ge", "gt"):
        left, right, op = right, left, {"ge": "le", "gt": "lt"}[op]
    if op not in ORDERS or left is None or right is None:
        return None
    inner, outer = left.attr, right.attr
    if left.op != "index" or right.op != "index":
        return None
    assert isinstance(inner, Index) and isinstance(outer, Index)
    if inner != node.bound[0] or outer == inner or outer.axis is not inner.axis:
        return None
    if outer in rest.free:
        return None
    if outer not in node.args[1].free:
        return Running(outer, ORDERS[op], rest, node.args[1])
    return _lagged(node, inner, outer, ORDERS[op]) if rest == TRUE else None


def _lagged(node: Expr, inner: Index, outer: Index, strict: bool) -> Lagged | None:
    if node.monoid != "sum" or node.kind != "real":
        return None
    lag = call("sub", position(outer), position(inner))
    at = call("sub", position(outer), start(outer.axis))
    lagged, others = [], []
    for factor in _factors(node.args[1]):
        if outer not in factor.free:
            others.append(factor)
            continue
        moved = rewrite(factor, lambda each: _MARK if each == lag else each)
        if moved.free & {inner, outer}:
            return None
        lagged.append(rewrite(moved, lambda each: at if each == _MARK else each))
    if not lagged or not any(inner in other.free for other in others):
        return None
    return Lagged(outer, strict, _product(lagged), _product(others))


_MARK = Expr("unknown", (), "the lag of a convolution", "int")


def _factors(body: Expr) -> list[Expr]:
    found: list[Expr] = []
    stack = [body]
    while stack:
        each = stack.pop()
        if each.op == "mul":
            stack += reversed(each.args)
        else:
            found.append(each)
    return found


def _product(factors: list[Expr]) -> Expr:
    result = factors[0]
    for factor in factors[1:]:
        result = call("mul", result, factor)
    return result


def _transformed(node: Expr) -> Transformed | None:
    if node.op != "fold" or node.monoid != "sum" or node.kind != "real" or node.args[0] != TRUE:
        return None
    if len(node.bound) != 1:
        return None
    time = node.bound[0]
    factors = _factors(node.args[1])
    for factor in factors:
        frequency = _turning(factor, time)
        others = [other for other in factors if other is not factor]
        if frequency is None or not others:
            continue
        body = _product(others)
        if frequency not in body.free and time in body.free:
            return Transformed(factor.op, time, frequency, body)
    return None


def _turning(factor: Expr, time: Index) -> Index | None:
    """The frequency f of cos(2 pi * f * time / n) or of a sine; n is the length of time's axis."""
    if factor.op not in ("cos", "sin") or factor.args[0].op != "div":
        return None
    above, below = factor.args[0].args
    indices, numbers = [], 1.0
    for each in _factors(above):
        each = each.args[0] if each.op == "to_real" else each
        for part in _factors(each):
            if part.op == "index" and isinstance(part.attr, Index):
                indices.append(part.attr)
            elif part.op == "number":
                numbers *= number_of(part)
            else:
                return None
    below = below.args[0] if below.op == "to_real" else below
    others = [index for index in indices if index != time]
    if len(indices) != 2 or len(others) != 1 or abs(numbers - 2 * math.pi) > 1e-12:
        return None
    axes = (time.axis, others[0].axis)
    if below not in _sizes(time.axis) or any(axis.low or axis.shifted for axis in axes):
        return None
    return others[0]


def _sizes(axis: Axis) -> list[Expr]:
    """The length of an axis, and what it is said to be."""
    return [length(axis), *([] if axis.length is None else [axis.length])]


def chooses(expr: Expr) -> bool:
    """Whether an expression sorts."""
    return any(node.op in ("topk", "rank", "argmax", "argmin") for node in postorder(expr))
