"""What a loop sums of a sum over more: the walk innermost, and the rest of it around.

sum(d, i: c_i a_d b_i) with the loop over i is a formula sum(d: a_d S), S = sum(i: c_i b_i): factors
along widths that the walk does not change stay outside, and a difference of vectors of both sides
of a pair, q_i - k_j, is two terms.
"""

from __future__ import annotations

from collections.abc import Callable

from attnc.expressions.index import Index
from attnc.expressions.tree import (
    TRUE,
    Expr,
    fold,
    is_number,
    number,
    position,
    postorder,
    substitute,
)
from attnc.passes.factors import addends_of, factors_of, total
from attnc.passes.frame import Frame
from attnc.passes.outer_sums import Sum
from attnc.passes.placed_sums import solved
from attnc.passes.refusals import refuse
from attnc.passes.roles import Roles
from attnc.passes.separate import Separation
from attnc.passes.simplify import all_of, make

MakeSum = Callable[[Sum], Expr]


def split(
    roles: Roles, whole: Sum, bound: tuple[Index, ...], inside: tuple[Expr, ...], make_sum: MakeSum
) -> Expr:
    """The sum with `bound` innermost, and the rest of it around; widths that stand in no
    condition of the rest are sums within the body."""
    rest = tuple(c for c in whole.conditions if c not in inside)
    tied = frozenset().union(*(c.free for c in rest)) if rest else frozenset()
    local = tuple(
        i for i in whole.bound if i not in bound and not roles.is_outer(i) and i not in tied
    )
    body = whole.body
    for index in local:
        own = tuple(c for c in inside if index in c.free)
        inside = tuple(c for c in inside if index not in c.free)
        body = fold("sum", (index,), body, all_of(own))
    along = tuple(c for c in inside if roles.widths((c,)) and not c.free & frozenset(bound))
    inside = tuple(c for c in inside if c not in along)
    rest = (*rest, *along)
    outer = tuple(i for i in whole.bound if i not in bound and i not in local)
    found = _by_width(roles, Sum(bound, inside, body), make_sum)
    if not outer:
        return found if not rest else make("where", all_of(rest), found, number(0.0))
    return solved(fold("sum", outer, found, all_of(rest)))


def _by_width(roles: Roles, inner: Sum, make_sum: MakeSum) -> Expr:
    """The inner sum with factors along other widths than one outside."""
    wide = roles.widths((inner.body,))
    walked = frozenset(inner.bound)
    factors = factors_of(inner.body).above
    mixed = any(_stays(roles, f, walked) or _tangled(roles, f, walked) for f in factors)
    if len(wide) < 2 and not mixed:
        return make_sum(inner)
    parts = []
    for addend, minus in addends_of(inner.body):
        own, rest = factors_of(addend).split(lambda f: _stays(roles, f, walked))
        tangled = any(_tangled(roles, f, walked) for f in rest.above)
        if tangled or len(roles.widths((rest.expr,))) > 1:
            for row, pair in _terms(roles, inner, addend):
                term = make("mul", row, make_sum(Sum(inner.bound, inner.conditions, pair)))
                parts.append(make("neg", term) if minus else term)
            continue
        found = make_sum(Sum(inner.bound, inner.conditions, rest.expr))
        whole = make("mul", own.expr, found)
        parts.append(make("neg", whole) if minus else whole)
    return total(parts)


def _stays(roles: Roles, factor: Expr, walked: frozenset[Index]) -> bool:
    """Whether a factor along a width is the same for the whole walk: it stays outside."""
    return not factor.free & walked and bool(roles.widths((factor,)))


def _tangled(roles: Roles, factor: Expr, walked: frozenset[Index]) -> bool:
    """Whether a sum along a width is of rows and keys both: q_i - k_j."""
    if factor.op not in ("add", "sub", "where") or not roles.widths((factor,)):
        return False
    held = {i for i in factor.free - walked if roles.of(i.axis) in ("row", "key")}
    return bool(held) and bool(factor.free & walked)


def _where_unequal(roles: Roles, body: Expr, walked: frozenset[Index]) -> Expr:
    """c_ij (x_i - x_j) where the two are equal is 0, which its two terms would be only but for
    roundings of c_ij: of distances it may be great there. `body` has the sum of the squares."""
    for factor in factors_of(body).above:
        if not _tangled(roles, factor, walked) or factor.op != "sub":
            continue
        widths, turned = roles.widths((factor,)), factor.with_args(factor.args[::-1])
        for node in postorder(body):
            along = node.bound[0] if node.op == "fold" and len(node.bound) == 1 else None
            if along is None or len(widths) != 1 or along.axis is not widths[0].axis:
                continue
            own = substitute(node.args[1], {along: position(widths[0])})
            same = node.monoid == "sum" and node.args[0] == TRUE
            if same and _squared(own) in (factor, turned):
                return make("where", make("eq", node, number(0.0)), number(0.0), body)
    return body


def _terms(roles: Roles, inner: Sum, body: Expr) -> list[tuple[Expr, Expr]]:
    """Row factor and rest of each term, by the rules of sums, choices and products."""
    walked = inner.bound[-1]
    held = next(
        (i for i in body.free if roles.of(i.axis) in ("row", "key") and i != walked),
        walked,
    )
    grid = tuple(i for i in body.free if roles.of(i.axis) == "grid")
    rest = tuple(i for i in grid if i not in inner.bound)
    frame = Frame(rest, held, (walked,), inner.bound[:-1])
    found = []
    whole = _where_unequal(roles, body, frozenset(inner.bound))
    for term in Separation(frame, walked, lambda e: e).terms(whole):
        own, plain = factors_of(term.row).split(lambda f: bool(roles.widths((f,))))
        pair = make("mul", plain.expr, term.pair)
        if len(roles.widths((pair,))) > 1:
            raise refuse("linear_state: an outer product summed over keys")
        found.append((own.expr, pair))
    return found


def _squared(expr: Expr) -> Expr | None:
    """What the expression is the square of, if that is how it is written."""
    if expr.op == "pow" and is_number(expr.args[1], 2):
        return expr.args[0]
    return expr.args[0] if expr.op == "mul" and expr.args[0] == expr.args[1] else None
