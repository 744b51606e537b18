"""Kernels that hold a tile of one axis and walk another: attention, its gradients, column sums."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.expressions.index import Index
from attnc.expressions.tree import Expr
from attnc.schedule.regions import Region, TileList
from attnc.schedule.statements import (
    STRIDED,
    Access,
    Carried,
    Contribution,
    Deposit,
    Let,
    PairStore,
    Product,
    Running,
    Scatter,
    Store,
)


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
