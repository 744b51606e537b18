"""Sums over pairs at places that depend on row and key both: the gradient of a table.

table_grad[h, x] = sum(i, j if i - j == x: body) is added by each pair to its own cell; of several
dimensions, x[i // n, j], one axis of cells counts them all.

What is added to a cell is a number times a vector of the row or of the key. Where both have a part
in the vector, as in a convolution times a gate, a table of rows is gathered instead:

    sum(i, u if i - u == x: t[u, d] * y[i, d])  =  sum(u: t[u, d] * y[x + u, d])     held by rows x
"""

from __future__ import annotations

from attnc.expressions.canonical import fresh_index, indices_in
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import (
    Expr,
    call,
    length,
    number,
    position,
    read,
    start,
    substitute,
)
from attnc.passes.factors import Factors, factors_of
from attnc.passes.held_sums import held_by_row
from attnc.passes.inner_sums import split
from attnc.passes.outer_sums import Sum
from attnc.passes.pair_sums import PairSums, positions
from attnc.passes.placed_sums import settled
from attnc.passes.refusals import refuse
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
    gathered = _gathered(sums, whole, key, both)
    if gathered is not None:
        return held_by_row(sums, gathered, key)
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


def _gathered(sums: PairSums, whole: Sum, key: Index, both: tuple[Expr, ...]) -> Sum | None:
    """The sum over keys for each row of a table of rows, where what is added is a vector of row and
    key both, and one row alone adds to a cell for a key."""
    row = next(i for i in whole.bound if sums.roles.of(i.axis) == "row")
    along, rest = factors_of(whole.body).split(lambda f: bool(sums.roles.widths((f,))))
    own, others = along.split(lambda f: row in f.free and key not in f.free)
    mixed = (*others.above, *others.below, *rest.above, *rest.below, *whole.conditions)
    if not own.above or not any(key in factor.free for factor in others.above):
        return None
    if any(row in one.free and sums.roles.folds_keys(one) for one in mixed):
        return None  # what another row has finished is at hand for vectors alone
    at = settled(both[0], row) if len(both) == 1 else None
    if at is None or not any(i in sums.dummies and i.axis is row.axis for i in at.free):
        return None
    if len(sums.roles.widths((own.expr,))) == 1:
        own = Factors((_vector(sums, own.expr),))
    moves = {row: at}
    low = start(row.axis)
    inside = make("le", low, at), make("lt", at, make("add", low, length(row.axis)))
    conditions = (substitute(c, moves) for c in whole.conditions if c is not both[0])
    bound = tuple(index for index in whole.bound if index != row)
    return Sum(bound, (*inside, *conditions), substitute((own * others * rest).expr, moves))


def _vector(sums: PairSums, expr: Expr) -> Expr:
    """A vector of a row, made once, before the loops that read it at other rows."""
    (wide,) = sums.roles.widths((expr,))
    width = Index(wide.axis.name, wide.axis, 0)
    moves = {**positions(sums.canonical(expr.free)), wide: position(width)}
    named = sums.values.exchange(substitute(expr, moves), pair=False)
    rows = (*sums.roles.frame.grid, sums.roles.frame.held)
    over = (*(i for i in rows if i in named.free), width)
    array = sums.values.array_of(named, over, "row_vector")
    places = {own: old for old, own in sums.canonical(expr.free).items()} | {width: wide}
    return read(array, [position(places[index]) for index in array.indices])


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
