"""How far back a recurrence reads its inputs: what a state has to hold beside the states.

A read `k[t - window]` reaches `window` rows back; one in a fold over `u < taps` as far as any `u`
does. A read that has no such bound by numbers and lengths alone (`x[0]`, a sum over all rows, a
position that data says), or that may lie ahead, leaves the recurrence without a step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce

from attnc.expressions.index import Axis, Index
from attnc.expressions.text import expression_text
from attnc.expressions.tree import (
    Expr,
    call,
    length,
    number,
    number_of,
    position,
    postorder,
)
from attnc.graph import Graph

Range = tuple[Expr, Expr]  # inclusive


@dataclass(frozen=True)
class Lags:
    """reach     how many rows back an input is read: (least, most), over numbers and lengths
    unbounded    a read without such a bound, as text; "" if there is none"""

    reach: dict[str, Range] = field(default_factory=dict)
    unbounded: str = ""


def lags_of(graph: Graph) -> Lags:
    """What the rows of a recurrence read of other rows, its first states aside, and outputs that
    are not over time: of the rows of the call."""
    found: dict[str, Range] = {}
    for recurrence in graph.recurrences:
        time = recurrence.time
        outputs = [output for output in graph.outputs if time in output.array.indices]
        roots = (*recurrence.next, *(output.expr for output in outputs))
        for node in postorder(*roots):
            for at in _positions(node, time.axis):
                if at == position(time):
                    continue
                reach = _difference(at, time)
                if reach is None or (reach[0].op == "number" and number_of(reach[0]) < 0):
                    return Lags({}, expression_text(node))
                name = node.array.name
                found[name] = _hull(found[name], reach) if name in found else reach
    return Lags(found)


def _positions(node: Expr, axis: Axis) -> Iterable[Expr]:
    """Where on the axis an input is read."""
    if node.op == "read" and node.array.role == "input":
        pairs = zip(node.args, node.array.axes, strict=True)
        yield from (at for at, own in pairs if own is axis)


def _hull(one: Range, other: Range) -> Range:
    return _extreme("min", one[0], other[0]), _extreme("max", one[1], other[1])


def _extreme(op: str, left: Expr, right: Expr) -> Expr:
    if left.op == right.op == "number":
        pick = min if op == "min" else max
        return number(pick(_whole(left), _whole(right)))
    return left if left == right else call(op, left, right)


def _difference(at: Expr, time: Index) -> Range | None:
    """The range of `t - at`; None where it has no bound."""
    if at.op in ("min", "max", "where") and time in at.free:
        branches = at.args[1:] if at.op == "where" else at.args
        if at.op == "max":  # the first row, 0, is never ahead
            branches = tuple(one for one in branches if one != number(0))
        ranges = [_difference(branch, time) for branch in branches]
        known = [one for one in ranges if one is not None]
        return reduce(_hull, known) if len(known) == len(ranges) else None
    terms: dict[Expr, int] = {}
    _collect(at, -1, terms)
    terms[position(time)] = terms.get(position(time), 0) + 1
    low = high = number(0)
    for term, factor in terms.items():
        if not factor:
            continue
        bounds = None if time in term.free else _range(term)
        if bounds is None:
            return None
        low = _plus(low, bounds[0] if factor > 0 else bounds[1], factor)
        high = _plus(high, bounds[1] if factor > 0 else bounds[0], factor)
    return low, high


def _plus(total: Expr, term: Expr, factor: int) -> Expr:
    if term.op == "number" and total.op == "number":
        return number(_whole(total) + factor * _whole(term))
    more = term if factor == 1 else call("mul", number(factor), term)
    return more if total == number(0) else call("add", total, more)


def _collect(expr: Expr, factor: int, terms: dict[Expr, int]) -> None:
    """Adds `factor * expr` to a sum of terms."""
    stack = [(expr, factor)]
    while stack:
        node, by = stack.pop()
        if node.op in ("add", "sub"):
            first, *rest = node.args
            stack.append((first, by))
            stack += [(one, -by if node.op == "sub" else by) for one in rest]
        elif node.op == "neg":
            stack.append((node.args[0], -by))
        elif node.op == "mul" and node.args[0].op == "number" and len(node.args) == 2:
            stack.append((node.args[1], by * _whole(node.args[0])))
        elif node.op == "mul" and node.args[-1].op == "number" and len(node.args) == 2:
            stack.append((node.args[0], by * _whole(node.args[1])))
        elif node.op == "number":
            terms[number(1)] = terms.get(number(1), 0) + by * _whole(node)
        else:
            terms[node] = terms.get(node, 0) + by


def _whole(expr: Expr) -> int:
    return int(number_of(expr))


def _range(term: Expr) -> Range | None:
    """The least and the largest value of an integer over all its indices."""
    if term.op == "index":
        assert isinstance(term.attr, Index)
        return _extent(term.attr.axis)
    if term.op in ("min", "max"):
        ranges = [_range(arg) for arg in term.args]
        known = [one for one in ranges if one is not None]
        if len(known) < len(ranges):
            return None
        lows, highs = zip(*known, strict=True)
        return (
            reduce(lambda a, b: _extreme(term.op, a, b), lows),
            reduce(lambda a, b: _extreme(term.op, a, b), highs),
        )
    if term.op == "mod" and not _moves(term.args[1]):
        return number(0), call("sub", term.args[1], number(1))
    return None if _moves(term) else (term, term)


def _extent(axis: Axis) -> Range | None:
    """First and last position of an axis that the call does not move."""
    if axis.shifted or axis.parts:
        return None
    size = axis.length if axis.length is not None else length(axis)
    low = axis.low if axis.low is not None else number(0)
    if _moves(low) or _moves(size):
        return None
    return low, _plus(_plus(low, size, 1), number(1), -1)


def _moves(expr: Expr) -> bool:
    """Whether more than numbers and lengths decide the value."""
    fixed = ("number", "param", "length", "add", "sub", "mul", "neg", "min", "max", "floordiv")
    return any(node.op not in (*fixed, "mod") for node in postorder(expr))
