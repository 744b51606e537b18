"""Statements of a reversed scan in chunks of rows, beside those of a forward chunk.

The reverse of a chunk is made of products of tiles again. Its statements name arrays of the chunk:
over time (the rows of the chunk), over widths, or over pairs (time, inner), read like states are.
Of a pair the second index is the earlier row.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnc.expressions.index import Index
from attnc.expressions.tree import Expr
from attnc.schedule.statements import Contraction, Let, TriangularSolve


@dataclass(frozen=True, slots=True)
class RowSum:
    """`name` = at each row the sum of `expr`, over (time[, width]), over the rows before it, or
    after it where `later`; `own`: with the row itself."""

    name: str
    expr: Expr
    later: bool
    own: bool


@dataclass(frozen=True, slots=True)
class Pairs:
    """`name` = the pairs with the factor exp(sum of `log` over the rows between), 0 where a pair
    does not count: `log` over time or 0, as in a Contraction."""

    name: str
    pair: Expr
    log: Expr
    before: bool


@dataclass(frozen=True, slots=True)
class LaterRows:
    """`name` = at each row the sum over the rows t from it on of pair[t, row] * right[t], with the
    factor of `log`, over (time, width), if it is given: a contraction along the later row."""

    name: str
    pair: Expr
    right: Expr
    log: Expr | None
    before: bool


@dataclass(frozen=True, slots=True)
class LogGradient:
    """`name` = at each row u the sum of all pairs (t, s) whose factor has row u's logarithm: with
    s < u <= t, or u < t where `before`. A pair counts `pair`, for each entry of a width times
    left[t] * right[s] and the factor of `log`, where they are given."""

    name: str
    pair: Expr
    before: bool
    left: Expr | None = None
    right: Expr | None = None
    log: Expr | None = None


@dataclass(frozen=True, slots=True)
class TransposedSolve:
    """`name` = X of (1 + matrix) transposed X = right, of the matrix what is below the diagonal."""

    name: str
    matrix: Expr
    right: Expr
    width: Index


ChunkStatement = (
    Let | Contraction | TriangularSolve | RowSum | Pairs | LaterRows | LogGradient | TransposedSolve
)


def parts_of(statement: ChunkStatement) -> tuple[Expr, ...]:
    """The expressions of a statement."""
    names = ("expr", "pair", "matrix", "left", "right", "log")
    found = (getattr(statement, name, None) for name in names)
    return tuple(one for one in found if one is not None)
