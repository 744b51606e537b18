"""What stands inside a kernel: access to memory, values, products, what is added and stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr

Monoid = Literal["sum", "prod", "max", "min"]
Which = Literal["between", "after", "since", "until"]


# --- Access --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Strided:
    """The address of a row is base + row * stride."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Sequences of a batch lie end to end: row r of batch b is row `starts[b] + r` of one long
    sequence."""

    starts: Array


@dataclass(frozen=True, slots=True)
class Paged:
    """Row r of batch b lies in page `table[b, r // page]` at slot `r % page`."""

    table: Array
    page: Expr


Access = Strided | Packed | Paged
STRIDED = Strided()


# --- Statements -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Let:
    """`name = expr`, a tile value over the free indices of its expression (of one kernel: in order,
    each name once). Folds inside the expression run over short axes (widths) as inner loops."""

    name: str
    expr: Expr


@dataclass(frozen=True, slots=True)
class Product:
    """`name = sum over width of left * right`: a matrix product of two tiles, over (held, walked).

    `left` is a read over (grid, held, width), `right` a read over (grid, walked, width): plain
    loads of inputs or workspaces, in the query dtype (another dtype is converted on load),
    accumulated in the accumulation type. A left without held (one learned query for a head) is the
    same for all rows.
    """

    name: str
    width: Index
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Carried:
    """One value carried along the loop: a row statistic (`width` None), or a tile of `width` for
    each held position.

    `rescaled`: it is kept relative to the reference, multiplied by exp2(old - new) when that moves.
    """

    name: str
    monoid: Monoid
    width: Index | None = None
    rescaled: bool = False


@dataclass(frozen=True, slots=True)
class Contribution:
    """What a pair adds to a carried value: `term` (over the pair), times `operand` (a read over
    grid, walked and the carried width, plain as in Product; None for a row statistic). Masked pairs
    contribute the identity of the monoid. A constant term (a count: 1) is free of the pair.

    An operand that is not over walked alone beside grid and width (`is_pairwise`) is an expression
    of reads over the pair and the width: a vector for each pair, no product of two tiles."""

    carried: str
    term: Expr
    operand: Expr | None = None


def is_pairwise(operand: Expr, along: Index, other: Index) -> bool:
    """Whether an operand is no plain read along `along` (of held and walked), but an expression of
    the pair and the width."""
    return along not in operand.free or other in operand.free


@dataclass(frozen=True, slots=True)
class Running:
    """`name` = the fold of `expr`, a term of the pair, over the pairs of the row that the walk met
    before this one (`inclusive`: and this one): a scan inside the loop. Masked pairs count nothing.
    A loop with one walks all its tiles in order.

    ahead   over the pairs that the walk has yet to meet. Of sums only: a walk before finds what all
            pairs come to, and what is left of that is kept in two numbers, for it may be far
            smaller. `expr` uses nothing that is ahead."""

    name: str
    expr: Expr
    monoid: Monoid
    inclusive: bool = False
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class Deposit:
    """`array[..., walked, width] += sum over held of term * operand`: what a held tile adds to the
    rows that it walks (dQ in the loop that holds keys).

    `array` is a workspace or output over the grid, `around`, the walked index and `width` (None:
    one number a row); `operand` a plain read over (grid, held, width), None for one number, or
    pairwise as in Contribution."""

    array: Array
    term: Expr
    width: Index | None = None
    operand: Expr | None = None


@dataclass(frozen=True, slots=True)
class Scatter:
    """`array[..., at, width] += term * operand` for each visible pair: the gradient of a table that
    pairs look up (`table[i - j]`; with a width, `r[i - j, d]`).

    `array` is a workspace or output over the grid (and `around`, where it has its indices), the
    axis of `at` and `width`; `operand` a plain read over (grid, held or walked, width). As with
    deposits, the array begins at 0."""

    array: Array
    at: Expr
    term: Expr
    width: Index | None = None
    operand: Expr | None = None


@dataclass(frozen=True, slots=True)
class PairStore:
    """`array[..., held, ..., walked, ...] = term` for each pair of valid positions, `otherwise`
    where the pair is masked or its tile is not visited: the gradient of a dense bias, weights or
    scores that are asked for.

    `array` is a workspace or output over the grid, `around`, held and walked, in any order."""

    array: Array
    term: Expr
    otherwise: float = 0.0


@dataclass(frozen=True, slots=True)
class TriangularSolve:
    """`name` = X of (1 + matrix) X = right, within a chunk: `matrix` over (time, inner), of which
    only what is below the diagonal counts; `right` and the result over (time, width).

    left    with it `name` = left X, all over pairs, 0 on the diagonal and above it (`width` is
            inner): what an unknown that is eliminated leaves between two others"""

    name: str
    matrix: Expr
    right: Expr
    width: Index
    left: Expr | None = None


@dataclass(frozen=True, slots=True)
class Decays:
    """`name` = exp(sum of `log` over rows u), `log` over time: one number a head and row.

    between  over (time, inner), s < u <= t, 0 for pairs with s > t
    after    the same of later rows: over (time, inner), the row itself before `inner`
    since    over time: from the chunk's first row, u <= t
    until    over time: to its last row, u > t
    before   without the row itself, or the later row: u < t; a pair has s < t
    """

    name: str
    log: Expr
    which: Which
    before: bool = False


@dataclass(frozen=True, slots=True)
class Contraction:
    """`name = sum over `along` of left * right`: a product of two tiles of a chunk. Operands are
    over time (its rows are those of the chunk) and widths; `right` is taken at the row `inner`
    where `left`, or the result, is over that.

    along a width          left over (time, along); right over (time, along) gives a pair (time,
                           inner); right a read of a state before the chunk gives a row
    along inner            left over (time, inner): a pair; right over (time[, width]): a row
    along time             right at left's own row: what the chunk adds to a state

    log     with it each term has the factor exp(sum of `log` over rows u): those between its two
            sides. In a pair, or along inner, s < u <= t, and pairs with s > t count nothing; of a
            state before the chunk u <= t; along time u > t. None: no factor, all pairs count.
    before  the row itself is no part of it: u < t, and only pairs with s < t
    """

    name: str
    along: Index
    left: Expr
    right: Expr
    log: Expr | None = None
    before: bool = False


@dataclass(frozen=True, slots=True)
class Scanned:
    """A state in every row of a tile, from what it is before the tile:

        state <- factor * state + added        plus "sum"
        state <- max(factor + state, added)    plus "max", and "min" alike

    before, after    the state before and after each row: arrays over time and the state's indices,
                     known to what follows
    factor, added    over time, grid and the state's indices; rows combine in any order
    later            rows come from the last to the first: before a row is after the next one
    """

    state: Array
    before: Array
    after: Array
    plus: Literal["sum", "max", "min"]
    factor: Expr
    added: Expr
    later: bool = False


@dataclass(frozen=True, slots=True)
class ScannedPair:
    """Two states over the same indices that see each other, in every row of a tile:

        x, y <- a * x + b * y + p, c * x + d * y + q        factors (a, b, c, d), added (p, q)

    All else is as in a Scanned."""

    states: tuple[Array, Array]
    before: tuple[Array, Array]
    after: tuple[Array, Array]
    factors: tuple[Expr, Expr, Expr, Expr]
    added: tuple[Expr, Expr]
    later: bool = False


@dataclass(frozen=True, slots=True)
class Store:
    """`array[array.indices] = expr` for each valid position.

    `array.indices` are indices of the kernel itself (grid or over, held, `width`) in the order of
    the tensor; where it lacks one of the grid, all instances store the same. `width` None: one
    number a row. In a stream kernel `expr` may use carried tiles at
    their width, finish values, and reads over (grid, held, width): gates, skips.
    """

    array: Array
    width: Index | None
    expr: Expr


TileScan: TypeAlias = Scanned | ScannedPair


def scan_parts(one: Let | TileScan) -> tuple[Expr, ...]:
    """The expressions of a statement of a tile."""
    if isinstance(one, Let):
        return (one.expr,)
    if isinstance(one, Scanned):
        return (one.factor, one.added)
    return (*one.factors, *one.added)


def twins_of(one: TileScan) -> tuple[Array, ...]:
    """What a scan makes known: states before and after every row."""
    if isinstance(one, Scanned):
        return (one.before, one.after)
    return (*one.before, *one.after)
