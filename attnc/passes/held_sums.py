"""Sums over pairs by what the loop holds: rows, for sums over keys, or keys, for sums over rows.

k_grad[b, hk, j, d] = sum(h, i if h // n == hk: body) is a loop that holds keys and walks the query
heads of a key head around, or one that holds rows and adds to the keys that it walks.
"""

from __future__ import annotations

from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, length, number, substitute
from attnc.graph import conjuncts
from attnc.passes.constants import identity
from attnc.passes.factors import addends_of, factors_of
from attnc.passes.inner_sums import split
from attnc.passes.key_heads import coarse_place
from attnc.passes.outer_sums import Sum
from attnc.passes.pair_sums import PairSums, positions
from attnc.passes.refusals import refuse
from attnc.passes.roles import Roles
from attnc.passes.simplify import make


def held_by_row(sums: PairSums, whole: Sum, key: Index) -> Expr:
    """A sum over the keys of a row."""
    whole = _of_query_heads(sums, whole)
    pinned = sums.pinned(whole)
    inside = tuple(c for c in whole.conditions if c not in pinned)
    return split(sums.roles, whole, (key,), inside, lambda inner: _row_sum(sums, inner, key))


def held_by_key(
    sums: PairSums, whole: Sum, key: Index, row: Index, pinned: tuple[Expr, ...]
) -> Expr:
    """A sum over the rows of a key, and over what else `pinned` does not tie to the output."""
    whole = _of_query_heads(sums, whole)
    coarse, tied, summed = _heads(sums, whole, pinned)
    inside = tuple(c for c in whole.conditions if c not in pinned)
    if coarse is not None:  # its place in the group is walked around
        rest = (*inside, *tied)
        whole = Sum(whole.bound, tuple(c for c in whole.conditions if c in rest), whole.body)
    bound = (*summed, row)
    return split(
        sums.roles,
        whole,
        bound,
        inside,
        lambda inner: _key_sum(sums, inner, key, tuple(summed), coarse),
    )


def column_extremum(sums: PairSums, node: Expr) -> Expr:
    """The greatest or least of a column, made by a loop that holds keys."""
    whole = Sum(node.bound, conjuncts(node.args[0]), node.args[1])
    (key,) = (i for i in node.free if sums.roles.of(i.axis) == "key")
    pinned = sums.pinned(whole)
    coarse, tied, summed = _heads(sums, whole, pinned)
    row = next(i for i in node.bound if sums.roles.of(i.axis) == "row")
    if tied or set(node.bound) != {*summed, row}:
        raise refuse("out_colstats: a maximum over rows and more")
    inside = tuple(c for c in whole.conditions if c not in pinned)
    inner = Sum((*summed, row), inside, whole.body)
    found = _key_sum(sums, inner, key, tuple(summed), coarse, node.monoid)
    if whole.body.op != "where" or whole.body.args[2].op != "number":
        return found
    # Of a key that does not count no pair is met, and each row stands for what it is unseen.
    none = make("eq", found, identity(node.monoid, "real"))
    unmet = make("and", make("gt", length(row.axis), number(0)), none)
    return make("where", unmet, whole.body.args[2], found)


def _row_sum(sums: PairSums, inner: Sum, key: Index) -> Expr:
    moves = sums.canonical(inner.free | {key})
    frame = sums.roles.frame
    missing = set((*frame.grid, frame.held)) - set(moves.values())
    if missing:
        raise refuse("map_stage: a derivative that is the same for all rows")
    over = (*frame.grid, frame.held)
    return sums.kept("row", inner, moves, key, over)


def _key_sum(
    sums: PairSums,
    inner: Sum,
    key: Index,
    summed: tuple[Index, ...],
    coarse: tuple[Expr, Index, Index] | None,
    monoid: str = "sum",
) -> Expr:
    moves = sums.canonical(inner.free | set(inner.bound))
    fine = coarse[2] if coarse else None
    grid: list[Index] = []
    places: dict[Index, Index] = {}
    for index in sums.roles.frame.grid:
        original = next((old for old, new in moves.items() if new == index), None)
        if original is None:
            continue
        if original == fine:
            assert coarse is not None
            own = Index(coarse[1].axis.name, coarse[1].axis, 0)
            grid.append(own)
            places[own] = coarse[1]
        elif original not in summed:
            grid.append(index)
            places[index] = original
    around = tuple(moves[i] for i in summed if i != fine)
    held = moves[key]
    places[held] = key
    tie = None
    if coarse is not None:
        canonical_place = substitute(coarse[0], positions(moves))
        tie = (canonical_place, Index(coarse[1].axis.name, coarse[1].axis, 0))
        moves = {**moves, coarse[1]: tie[1]}
    over = (*grid, held)
    return sums.kept("key", inner, moves, key, over, places, around, tie, monoid=monoid)


def _heads(
    sums: PairSums, whole: Sum, pinned: tuple[Expr, ...]
) -> tuple[tuple[Expr, Index, Index] | None, list[Expr], list[Index]]:
    """What ties a query head to its key head (place, key head, query head), what else ties the
    sum to the output, and the outer indices that are summed."""
    coarse: tuple[Expr, Index, Index] | None = None
    tied: list[Expr] = []
    for condition in pinned:
        place = coarse_place(condition, sums.roles)
        fine = next(iter(place[0].free), None) if place else None
        if place and coarse is None and fine in whole.bound:
            assert fine is not None
            coarse = (place[0], place[1], fine)
        else:
            tied.append(condition)
    free = frozenset().union(*(c.free for c in tied)) if tied else frozenset()
    free |= _outside(sums.roles, whole)
    summed = [i for i in whole.bound if sums.roles.of(i.axis) == "grid" and i not in free]
    if coarse is not None and coarse[2] not in summed:
        coarse = None
        tied = list(pinned)
    return coarse, tied, summed


def _of_query_heads(sums: PairSums, whole: Sum) -> Sum:
    """The sum with the key heads of the output that it ties to query heads as these heads'."""
    for condition in whole.conditions:
        found = coarse_place(condition, sums.roles)
        if found is None or found[1] not in sums.dummies or not found[0].free & set(whole.bound):
            continue
        moves = {found[1]: found[0]}
        rest = (c if c is condition else substitute(c, moves) for c in whole.conditions)
        whole = Sum(whole.bound, tuple(rest), substitute(whole.body, moves))
    return whole


def is_outer_product(roles: Roles, whole: Sum, walked: Index) -> bool:
    """Whether what changes along a walk is along several widths: an outer product, which no
    loop carries."""
    for addend, _ in addends_of(whole.body):
        factors = (f for f in factors_of(addend).above if walked in f.free)
        if len(roles.widths(factors)) > 1:
            return True
    return False


def _outside(roles: Roles, whole: Sum) -> frozenset[Index]:
    """The indices of factors along widths that are the same for all rows, where what is left
    has a width of its own: they stay outside of a walk over rows."""
    if len(roles.widths((whole.body,))) < 2:
        return frozenset()
    row = next(i for i in whole.bound if roles.of(i.axis) == "row")
    factors = factors_of(whole.body).above
    own = (f.free for f in factors if row not in f.free and roles.widths((f,)))
    return frozenset().union(*own)
