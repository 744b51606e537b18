"""Sums over pairs at places that depend on row and key both: the gradient of a table.

table_grad[h, x] = sum(i, j if i - j == x: body) is added by each pair to its own cell; of several
dimensions, x[i // n, j], one axis of cells counts them all.
"""

from __future__ import annotations

from attnc.expressions.canonical import fresh_index, indices_in
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr, call, length, number, position, start, substitute
from attnc.passes.inner_sums import split
from attnc.passes.pair_sums import PairSums, positions
from attnc.passes.refusals import refuse
from attnc.passes.roles import Sum
from attnc.passes.simplify import make, simplify_node


def in_parts(sums: PairSums, whole: Sum, key: Index, held: Index, tied: tuple[Expr, ...]) -> Expr:
    """Sums over parts of the walked axis for what is held, as `x[i // n, j]` gets them: into a
    table that has a place for each part and each of the held axis."""
    taken = indices_in(*whole.exprs)
    own = fresh_index(held, (*taken, *whole.bound, held))
    moves = {held: position(own)}
    here = call("eq", position(own), position(held))
    conditions = (*(substitute(c, moves) for c in whole.conditions), here)
    summed = Sum((*whole.bound, own), conditions, substitute(whole.body, moves))
    tied = (*(substitute(c, moves) for c in tied), here)
    return scattered(sums, summed, own if held == key else key, tied)


def scattered(sums: PairSums, whole: Sum, key: Index, both: tuple[Expr, ...]) -> Expr:
    """Sums at places that depend on row and key: one axis of cells for all the dimensions."""
    pairs = []
    for condition in both:
        sides = condition.args if condition.op == "eq" else ()
        found = [
            (a, b.attr)
            for a, b in (sides, sides[::-1])
            if len(sides) == 2 and b.op == "index" and b.attr in sums.dummies
        ]
        if len(found) != 1:
            raise refuse("bias_table: a table that is read at no place of its own")
        pairs.append(found[0])
    axes = tuple(dummy.axis for _, dummy in pairs)
    cells, at, where = _cells(axes, [p for p, _ in pairs], [position(d) for _, d in pairs])
    row = next(i for i in whole.bound if sums.roles.of(i.axis) == "row")
    others = sums.pinned(whole)
    inside = tuple(c for c in whole.conditions if c not in others)
    rest = tuple(c for c in whole.conditions if c in others and c not in both)
    slim = Sum(whole.bound, (*inside, *rest), whole.body)
    return split(
        sums.roles,
        slim,
        (row, key),
        inside,
        lambda inner: _cell_sum(sums, inner, key, cells, at, where),
    )


def _cell_sum(sums: PairSums, inner: Sum, key: Index, cells: Axis, at: Expr, where: Expr) -> Expr:
    moves = sums.canonical(inner.free | set(inner.bound))
    grid = sums.roles.frame.grid
    if set(grid) - set(moves.values()):
        raise refuse("map_stage: a derivative that is the same for all rows")
    cell = Index(cells.name, cells, 0)
    place = substitute(at, positions(moves))
    places = {new: old for old, new in moves.items()}
    return sums.kept("scatter", inner, moves, key, (*grid, cell), places, at=place, cell=where)


def _cells(
    axes: tuple[Axis, ...], places: list[Expr], dummies: list[Expr]
) -> tuple[Axis, Expr, Expr]:
    """One axis for a table's, and an entry's place on it, of the pair and of the output."""
    if len(axes) == 1:
        return axes[0], places[0], dummies[0]
    size: Expr = number(1)
    at: Expr = number(0)
    where: Expr = number(0)
    for axis, place, dummy in zip(axes, places, dummies, strict=True):
        span = simplify_node(length(axis))
        first = simplify_node(start(axis))
        size = make("mul", size, span)
        at = make("add", make("mul", at, span), make("sub", place, first))
        where = make("add", make("mul", where, span), make("sub", dummy, first))
    return Axis("cells", "range", length=size), at, where
