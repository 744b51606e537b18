"""Kernels that walk time and carry states: recurrences, in chunks of rows, and their adjoints."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr
from attnc.schedule.chunks import ChunkStatement
from attnc.schedule.statements import (
    Contraction,
    Decays,
    Let,
    Product,
    Store,
    TileScan,
    TriangularSolve,
)


@dataclass(frozen=True, slots=True)
class ScanLoop:
    """A recurrence over `time` in chunks: the state before the chunk, the tile inside, the state
    after.

    inside     statements over (t, s) pairs of a chunk and over t (a masked unnormalised attention
               tile, a solve)
    advance    the state after the chunk, an expression for each carried state, all from old ones

    Sequential form: `inner` is None, and a chunk is one row. `inside` is then over time and widths,
    and `after` holds values of the row from the states after it; stores see those states too.

    Tiles of rows: `inner` is None and `inside` has a Scanned for each state, which is read as that
    has it in every row. `advance` is then what it is after the tile's last row.
    """

    time: Index
    inner: Index | None
    states: tuple[Array, ...]
    initial: tuple[Expr, ...]
    inside: tuple[Let | Product | TriangularSolve | Contraction | Decays | TileScan, ...]
    advance: tuple[Expr, ...]
    after: tuple[Let, ...] = ()


@dataclass(frozen=True, slots=True)
class Shares:
    """What a stretch of rows does to the states before it, whatever these are.

    values    over the grid and widths, as a kernel has them
    loop      walks its rows, from states that are nothing, and with the products of factors
    joined    each state after the stretch, of the state before it and of what the loop ends with
    """

    values: tuple[Let, ...]
    loop: ScanLoop
    joined: tuple[Expr, ...]


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
    chunked       the same in chunks of rows, where that is known; printers take either
    tiled         the same in tiles of rows that are scanned, where rows combine
    shares        what a share of the rows does to a state, where rows combine"""

    name: str
    grid: tuple[Index, ...]
    grid_values: tuple[Let, ...]
    loop: ScanLoop
    stores: tuple[Store, ...]
    finals: tuple[Final, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    every: int = 0
    chunked: ScanKernel | None = None
    tiled: ScanKernel | None = None
    shares: Shares | None = None


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
class ReverseChunks:
    """The loop of a reversed scan in chunks: what begins and ends it, its checkpoints and results
    are those of the ReverseScanKernel whose `chunked` it is. A chunk's first states are computed
    from the checkpoint before its block.

    values    of an instance
    arrays    of the statements that are read at indices: name, and what each is over
    forward   of a chunk: its statements, for `onward`, the states after it
    inside    statements of the way back
    writes    rows of gradients, for all rows of a chunk
    advance   what is carried before the chunk, from what was carried after it
    """

    values: tuple[Let, ...]
    inner: Index
    arrays: tuple[Array, ...]
    forward: tuple[ChunkStatement, ...]
    onward: tuple[Expr, ...]
    inside: tuple[ChunkStatement, ...]
    writes: tuple[RowWrite, ...]
    advance: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class ReverseTiles:
    """The loop of a reversed scan in tiles of `every` rows: what begins and ends it, its
    checkpoints and results are those of the ReverseScanKernel whose `tiled` it is.

    values    of an instance
    inside    statements: a Scanned for each state of `replay`, then for each of `carried`
    writes    rows of gradients, all of a tile's: `over` begins with time
    """

    values: tuple[Let, ...]
    inside: tuple[Let | TileScan, ...]
    writes: tuple[RowWrite, ...]


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
    chunked    the same in chunks of rows, where that is known; printers take either
    tiled      the same in tiles of rows that are scanned, where that is known
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
    chunked: ReverseChunks | None = None
    tiled: ReverseTiles | None = None
