"""Several key sources under one normalizer: folds over them that meet in a sum are carried as one.

sum_j a_ij / R_i + sum_m b_im / R_i    becomes    (sum over j and m) / R_i

does      joins reductions over different sources whose row factors are the same
needs     the output as a formula of reductions
does not  join what has another factor, monoid or width: that is carried apart
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from attnc.expressions.tree import Expr, is_number, postorder, rewrite, value
from attnc.passes.factors import factors_of
from attnc.passes.separate import exchange

if TYPE_CHECKING:
    from attnc.passes.fold_results import Reduction
    from attnc.passes.reductions import Reductions

SEEN = "seen "  # before the names of domains: whether the row has met a key of one of them
_HOLE = value("hole", "real")


def join_sources(expr: Expr, reductions: Reductions) -> Expr:
    """The formula with folds over several sources as one reduction each."""
    return rewrite(expr, lambda node: _joined(node, reductions))


def _joined(node: Expr, reductions: Reductions) -> Expr:
    """r * F + r * G for folds F, G over different sources is r * (F + G), carried as one."""
    if node.op != "add" or node.kind != "real":
        return node
    left, right = (_handle(arg, reductions) for arg in node.args)
    if left is None or right is None:
        return node
    first, second = left[0], right[0]
    around = _same_around(left[1], right[1])
    if around is None:
        return node
    walked = {part.walked for part in first.parts}
    fits = first.monoid == second.monoid == "sum" and first.width == second.width
    if not fits or any(part.walked in walked for part in second.parts):
        return node
    joined = reductions.join(first, second)
    return exchange(around, {_HOLE.digest: reductions.value_of(joined.name, joined.width)})


def _handle(node: Expr, reductions: Reductions) -> tuple[Reduction, Expr] | None:
    """A reduction and the row expression around it, with `1.0` where it stood."""
    inner = node
    if inner.op == "where" and (is_number(inner.args[1], 0) or is_number(inner.args[2], 0)):
        place = 1 if is_number(inner.args[2], 0) else 2
        below = _handle(inner.args[place], reductions)
        if below is None:
            return None
        args = tuple(below[1] if at == place else arg for at, arg in enumerate(inner.args))
        return below[0], inner.with_args(args)
    factors = factors_of(inner)
    for place, factor in enumerate(factors.above):
        entry = reductions.entries.get(str(factor.attr)) if factor.op == "value" else None
        if entry is not None:
            rest = factors.above[:place] + factors.above[place + 1 :]
            around = replace(factors, above=(_HOLE, *rest))
            return entry, around.expr
    return None


def _same_around(left: Expr, right: Expr) -> Expr | None:
    """The row expression around two folds, if it is the same but for the domains whose keys it asks
    about: together it asks about both."""
    first, second = _asked(left), _asked(right)
    if len(first) != 1 or len(second) != 1:
        return left if left == right else None
    (a,), (b,) = first, second
    domains = dict.fromkeys((str(a.attr) + "+" + str(b.attr)[len(SEEN) :])[len(SEEN) :].split("+"))
    both = value(SEEN + "+".join(domains), "bool", a.free)
    merged = exchange(left, {a.digest: both})
    return merged if merged == exchange(right, {b.digest: both}) else None


def _asked(expr: Expr) -> list[Expr]:
    return [n for n in postorder(expr) if n.op == "value" and str(n.attr).startswith(SEEN)]
