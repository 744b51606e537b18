"""Sums over an index whose place a condition says.

    sum(x if x + c == y: f(x))        f(y - c), where that is a place of x
    sum(x if x // n == y: f(x))       the sum over the n places of y; as well of x % n == y

does      solves conditions for an index of integers, and puts the sum at the places found
needs     simplified sums
does not  know what the index stands for
"""

from __future__ import annotations

from attnc.expressions.index import Axis, Index
from attnc.expressions.naming import fresh_name
from attnc.expressions.places import ends_of, first_of
from attnc.expressions.signs import is_positive
from attnc.expressions.tree import (
    Expr,
    is_number,
    length,
    number,
    position,
    postorder,
    start,
    substitute,
)
from attnc.expressions.tree import fold as sum_over
from attnc.graph import conjuncts
from attnc.passes.simplify import all_of, make


def solved(fold: Expr) -> Expr:
    """A sum over x whose condition says x + c == y, at the one x that this is; one that says
    x // n == y or x % n == y, over the run of places where this holds."""
    if fold.op != "fold" or fold.monoid != "sum":
        return fold
    parts = conjuncts(fold.args[0])
    for part in parts:
        for index in fold.bound:
            side, other = _sides(part, index)
            if side is None or other is None:
                continue
            rest = [p for p in parts if p is not part]
            if side.op == "index":
                return _at(fold, index, other, rest)
            if _is_run(side, index):
                return _along(fold, index, side, other, rest)
    return fold


def _is_run(side: Expr, index: Index) -> bool:
    """Whether it is x // n or x % n of an x that begins at 0."""
    if side.op not in ("floordiv", "mod") or side.args[0] != position(index):
        return False
    size = side.args[1]
    return index not in size.free and is_positive(size) and is_number(first_of(index.axis), 0)


def _along(fold: Expr, index: Index, side: Expr, other: Expr, conditions: list[Expr]) -> Expr:
    """The sum over the places of one quotient, or of one remainder."""
    size = side.args[1]
    whole = ends_of(index.axis)[1]
    quotients = make("floordiv", make("sub", make("add", whole, size), number(1)), size)
    taken = {i.axis.name for node in postorder(fold) for i in (*node.free, *node.bound)}
    name = fresh_name(f"run_of_{index.axis.name}", taken)
    longest = make("min", size, whole) if side.op == "floordiv" else quotients
    run = Axis(name, "range", number(0), longest)
    step = Index(name, run, index.number)
    if side.op == "floordiv":
        at = make("add", make("mul", other, size), position(step))
        inside = (make("le", number(0), other), make("lt", other, quotients))
    else:
        at = make("add", make("mul", position(step), size), other)
        inside = (make("le", number(0), other), make("lt", other, size))
    moves = {index: at}
    tests = [*inside, make("lt", at, whole), *(substitute(c, moves) for c in conditions)]
    bound = tuple(step if one == index else one for one in fold.bound)
    return solved(sum_over("sum", bound, substitute(fold.args[1], moves), all_of(tests)))


def says_place(condition: Expr, index: Index) -> bool:
    """Whether a condition says which place the index is: `e == x`, e of something else."""
    pairs = (condition.args, condition.args[::-1]) if condition.op == "eq" else ()
    return any(a == position(index) and index not in b.free for a, b in pairs)


def settled(part: Expr, index: Index) -> Expr | None:
    """The one place at which a condition lets an index be: x of `i - u == x` lets i be at x + u."""
    side, other = _sides(part, index)
    return other if side is not None and side.op == "index" else None


def _sides(part: Expr, index: Index) -> tuple[Expr, Expr] | tuple[None, None]:
    """x, or what is not taken apart, and what it equals where the condition holds."""
    if part.op != "eq":
        return None, None
    for side, other in (part.args, part.args[::-1]):
        if index not in side.free or index in other.free:
            continue
        while side.op in ("add", "sub"):
            left, right = side.args
            if index in left.free and index in right.free:
                return None, None
            if index in left.free:
                opposite = "sub" if side.op == "add" else "add"
                other, side = make(opposite, other, right), left
            elif side.op == "add":
                other, side = make("sub", other, left), right
            else:
                other, side = make("sub", left, other), right
        if side.op != "index" or side.attr == index:
            return side, other
    return None, None


def _at(fold: Expr, index: Index, at: Expr, conditions: list[Expr]) -> Expr:
    low = start(index.axis)
    inside = make("le", low, at)
    inside = make("and", inside, make("lt", at, make("add", low, length(index.axis))))
    moves = {index: at}
    whole = all_of((inside, *(substitute(condition, moves) for condition in conditions)))
    body = substitute(fold.args[1], moves)
    rest = tuple(other for other in fold.bound if other != index)
    if not rest:
        return make("where", whole, body, number(0.0))
    return solved(sum_over("sum", rest, body, whole))
