"""The Schedule: kernels as loop nests with typed tile statements, ready to be printed.

One abstraction carries both families of operators: a *carried loop* walks an axis in tiles while a
*held* tile (of the other axis) stays in registers, and says what is carried, how an element is
lifted into it, how carried values are combined and how they are finished; it reduces (attention's
key loop) or scans (a recurrence over chunks). Forward and dQ hold rows and walk keys; dK/dV and
column sums hold keys and walk rows: the same types with the roles swapped.

Expressions are scalar trees (expressions/tree.py) in which `value` nodes name tile values: the
results of statements of the same kernel. What a statement's value depends on is the set of free
indices of its expression: nothing but grid indices (once a head), held (once a row), walked (once
a key), both (a pair). No tile size, register, thread, dtype or device stands here: those are the
planner's.

Names of values that every stream kernel has
    reference     the running reference m of the stabilizer (base 2), a value over held. In the
                  statements of a loop it is finite: 0 while the row has met no exponent above -inf
                  (so that -inf - -inf never happens, there or in the rescaling). In `finish` and in
                  stores it is the maximum itself, -inf for an empty row.
    held_low, held_high, walked_low, walked_high
                  inclusive bounds of the positions in a tile, ints: the leaves of a Region

Reads. The positions of a read are expressions of grid indices for outer axes (a read on key heads
stands at `h // (len(h) // len(hk))`), and the index itself where a dimension is walked straight
(held, walked, a width). Any other position is clamped into its axis by the printer: at masked pairs
it may lie outside; its value is then ignored, but it must not fault. A read of an input or
workspace whose dtype is not the one wanted is converted on load.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, Expr
from attnc.signature import Signature

Monoid = Literal["sum", "prod", "max", "min"]

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
    only what is below the diagonal counts; `right` and the result over (time, width)."""

    name: str
    matrix: Expr
    right: Expr
    width: Index


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


# --- Regions --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Summary:
    """Run-time lower and upper bounds of an integer or real expression of one index, held or
    walked, over a tile: values `NAME_low` and `NAME_high` in a Region."""

    name: str
    index: Index
    expr: Expr


@dataclass(frozen=True, slots=True)
class Segment:
    """One span of walked positions for a held tile, closed form: start .. stop (half open), of
    which full_start .. full_stop is wholly visible. Expressions of held_low, held_high, grid
    indices and numbers; they may cross (empty)."""

    start: Expr
    full_start: Expr
    full_stop: Expr
    stop: Expr


@dataclass(frozen=True, slots=True)
class Region:
    """Which tiles of (held, walked) are visited: the mask under three-valued interval arithmetic.

    possible   false proves that no pair of the tile is visible (skip it)
    certain    true proves that every pair is (no mask needed)
    summaries  run-time tables that the two use
    segments   closed form of the visible span of a held tile: disjoint and in order (as far as they
               are not empty), exact at tile granularity; () if there is none (use the predicate)
    """

    possible: Expr
    certain: Expr
    summaries: tuple[Summary, ...] = ()
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True, slots=True)
class TileList:
    """Walked tiles chosen at run time by a boolean array over (grid, held group, walked group)."""

    chosen: Array
    held_size: Expr
    walked_size: Expr


# --- Kernels --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WalkedLoop:
    """One key source of a stream kernel: everything about a pair (held, walked).

    Order of evaluation in a tile: walked_values (once a key), products, pair_values (what runs
    along the keys among them), visible (mixed tiles only; it uses no pair value), `exponent` (base
    2; its row maximum over the visible pairs moves the reference), lifted (may use `reference`),
    contributions. A pair is masked where `visible` is false, where the walked position is not
    valid, or where `hidden` (over pair values) is true; None for `visible` is true, for `hidden`
    false.

    around      indices that the walk is repeated for, outermost first, carrying on (the query heads
                of a key head, where keys are held); walked values and operands may be over them
    backward    walked from the last key to the first, where values run along the keys
    deposits    sums into rows of the walked axis
    scatters    sums into tables
    pair_stores one number for each pair
    """

    walked: Index
    walked_values: tuple[Let, ...]
    products: tuple[Product, ...]
    pair_values: tuple[Let | Running, ...]
    visible: Expr | None
    region: Region
    exponent: Expr | None
    lifted: tuple[Let, ...]
    contributions: tuple[Contribution, ...]
    hidden: Expr | None = None
    access: Access = STRIDED
    chosen: TileList | None = None
    around: tuple[Index, ...] = ()
    backward: bool = False
    deposits: tuple[Deposit, ...] = ()
    scatters: tuple[Scatter, ...] = ()
    pair_stores: tuple[PairStore, ...] = ()

    @property
    def running(self) -> tuple[Running, ...]:
        """The values that run along the keys, in the order of use."""
        return tuple(one for one in self.pair_values if isinstance(one, Running))

    @property
    def sums(self) -> tuple[Contribution | Deposit | Scatter, ...]:
        """What a pair adds to something, carried or in memory."""
        return (*self.contributions, *self.deposits, *self.scatters)

    @property
    def writes(self) -> tuple[Deposit | Scatter | PairStore, ...]:
        """What a pair adds to memory or stores there."""
        return (*self.deposits, *self.scatters, *self.pair_stores)


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


@dataclass(frozen=True, slots=True)
class StreamKernel:
    """A held tile, carried loops over one or more walked sources, a finish.

    grid_values   values over grid indices only (per batch and head): scalars
    held_values   values over held: one a row
    carried       what all loops carry together; a reference exists if any loop has an exponent
    finish        row values after the loops; may use carried row statistics, `reference`, and folds
                  over the width of a carried tile (norms of the output), binding that very Index
    stores        outputs and workspaces
    split         the grid index over shares of the walked tiles (split keys); None: each instance
                  walks all. Its length is the planner's; an instance walks the split-th share of
                  the tiles that its held tile visits.

    A kernel with deposits or scatters runs the held tiles of one grid instance in order, so that
    its sums have one order and need no atomics; `split` then shares the held tiles, and the arrays
    deposited into have it as first index, for a later map to sum.

    repeated      its products are formed again by another kernel, which relies on the same bits:
                  each is summed in the one order that a backend's products have
    idle          a truth over held values: a held tile whose rows are all idle need be neither
                  walked nor stored. What is stored for an idle row is what it had.
    """

    name: str
    grid: tuple[Index, ...]
    held: Index
    grid_values: tuple[Let, ...]
    held_values: tuple[Let, ...]
    carried: tuple[Carried, ...]
    loops: tuple[WalkedLoop, ...]
    finish: tuple[Let, ...]
    stores: tuple[Store, ...]
    access: Access = STRIDED
    split: Index | None = None
    repeated: bool = False
    idle: Expr | None = None


@dataclass(frozen=True, slots=True)
class MapKernel:
    """Elementwise stores, no carried loop.

    over      the indices, in the order of the tensors; the last is the longest as a rule
    values    scalars over `over` (folds along short axes inside, in fixed order), computed once
    stores    each for every entry of its `width` (None: one number)

    Preparations of rows (rotations, norms), summaries, merges of partial results.
    """

    name: str
    over: tuple[Index, ...]
    values: tuple[Let, ...]
    stores: tuple[Store, ...]


@dataclass(frozen=True, slots=True)
class ScanLoop:
    """A recurrence over `time` in chunks: the state before the chunk, the tile inside, the state
    after.

    inside     statements over (t, s) pairs of a chunk and over t (a masked unnormalised attention
               tile, a solve)
    advance    the state after the chunk, an expression for each carried state, all from old ones

    Sequential form: `inner` is None, and a chunk is one row. `inside` is then over time and widths,
    and `after` holds values of the row from the states after it; stores see those states too.
    """

    time: Index
    inner: Index | None
    states: tuple[Array, ...]
    initial: tuple[Expr, ...]
    inside: tuple[Let | Product | TriangularSolve | Contraction, ...]
    advance: tuple[Expr, ...]
    after: tuple[Let, ...] = ()


@dataclass(frozen=True, slots=True)
class Final:
    """`array[at] = state[state.indices]` after the last row. `at` holds expressions of grid indices
    and the state's own; where several instances have one place, they store the same."""

    array: Array
    state: Array
    at: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`array[grid, block, state.indices]` = the state before the first row of each block, which has
    `every` rows: what a reversed scan starts from again."""

    array: Array
    state: Array


@dataclass(frozen=True, slots=True)
class ScanKernel:
    """A carried loop that scans: one grid instance walks time, carrying states, and stores at every
    chunk. Values of the grid may be over widths.

    checkpoints   states that are kept once in `every` rows
    chunked       the same in chunks of rows, where that is known; printers take either"""

    name: str
    grid: tuple[Index, ...]
    grid_values: tuple[Let, ...]
    loop: ScanLoop
    stores: tuple[Store, ...]
    finals: tuple[Final, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    every: int = 0
    chunked: ScanKernel | None = None


@dataclass(frozen=True, slots=True)
class RowWrite:
    """`array[at] = term` for each entry of `over`, or, where it `adds`, `+= term` where the
    condition holds and `at` lies within the array. `at` holds expressions of grid indices, time and
    `over`. Arrays that are added to are workspaces over the grid and further axes; they begin at
    0, and a grid instance adds to its own slice in the order of its rows."""

    array: Array
    at: tuple[Expr, ...]
    over: tuple[Index, ...]
    term: Expr
    condition: Expr | None = None
    adds: bool = False


@dataclass(frozen=True, slots=True)
class ReverseScanKernel:
    """The adjoint of a scan: one grid instance walks time backwards in blocks of `every` rows. A
    block's states are computed again from the checkpoint before it (`replay`, whose `initial` is
    empty) and stay in cache; then its rows run from the last to the first.

    twins      the states of `replay` after a row, as its statements read them beside those before
    carried    what goes from row to row, backwards: cotangents of states, sums over rows
    initial    their values after the last row
    inside     values of a row that read nothing carried
    absorbed   what is carried with what the row's results add to it, an expression for each
    given      values that read what is carried, so completed
    writes     rows of gradients
    advance    what is carried before the row, all from old values
    last       values of the instance after the first row, for
    ending     what is carried then, with what the initial states add to it; `ended`: writes then
    finals     of what is carried
    cotangents the inputs in which gradients are linear
    """

    name: str
    grid: tuple[Index, ...]
    grid_values: tuple[Let, ...]
    replay: ScanLoop
    every: int
    checkpoints: tuple[Checkpoint, ...]
    twins: tuple[Array, ...]
    carried: tuple[Array, ...]
    initial: tuple[Expr, ...]
    inside: tuple[Let, ...]
    absorbed: tuple[Expr, ...]
    given: tuple[Let, ...]
    writes: tuple[RowWrite, ...]
    advance: tuple[Expr, ...]
    last: tuple[Let, ...]
    ending: tuple[Expr, ...]
    ended: tuple[RowWrite, ...]
    finals: tuple[Final, ...]
    cotangents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StepKernel:
    """One step of a recurrence: states in, states and a row out, no loop over time."""

    name: str
    grid: tuple[Index, ...]
    values: tuple[Let, ...]
    states: tuple[Array, ...]
    next: tuple[Expr, ...]
    stores: tuple[Store, ...]


@dataclass(frozen=True, slots=True)
class SelectKernel:
    """`array[over, candidate]` = whether the candidate is among the `count` greatest by `key` of
    those that meet `condition`, the lowest index first among equals."""

    name: str
    over: tuple[Index, ...]
    candidate: Index
    condition: Expr
    key: Expr
    count: Expr
    array: Array


@dataclass(frozen=True, slots=True)
class RepeatKernels:
    """The kernels in order, once for each value of `index` (alternating row and column passes,
    solver rounds). A backend may end the rounds when every kernel finds all its rows idle."""

    index: Index
    count: Expr
    kernels: tuple[Kernel, ...]


Kernel = (
    StreamKernel
    | MapKernel
    | ScanKernel
    | ReverseScanKernel
    | StepKernel
    | SelectKernel
    | RepeatKernels
)


def leaves(kernels: Iterable[Kernel]) -> tuple[Kernel, ...]:
    """The kernels, those of rounds in the place of the rounds."""
    found: list[Kernel] = []
    for kernel in kernels:
        found.extend(leaves(kernel.kernels) if isinstance(kernel, RepeatKernels) else (kernel,))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Workspace:
    """An array that kernels pass on: dtype "query" (that of q, so that matrix units apply), or
    "accumulate"."""

    array: Array
    dtype: Literal["query", "accumulate"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Kernels in order, what they pass on, and the one signature of the operator.

    widths     the axes of widths: compile-time sizes
    notes      for explain: what was derived and which strategy was taken, one sentence each
    """

    name: str
    signature: Signature
    kernels: tuple[Kernel, ...]
    workspaces: tuple[Workspace, ...]
    widths: tuple[Axis, ...]
    notes: tuple[str, ...] = ()
