"""What the C++ template of a stream kernel prints: one frozen class for each part of it."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.expressions.tree import Expr
from attnc.schedule.statements import Product


@dataclass(frozen=True)
class KeptText:
    """Values kept one a position: the fields of a struct of arrays, and the lines that fill it."""

    fields: tuple[str, ...]
    fill: tuple[str, ...]


@dataclass(frozen=True)
class StoreText:
    rows: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class SummaryText:
    title: str
    type: str
    rows: str
    slots: str
    slot: str
    turns: str
    owner: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class SweepLoopText:
    """What one loop adds to walked rows (deposits) and tables (scatters).

    taken    by product its place in the kernel ahead, -1 where that has none"""

    taken: str
    around: str
    hidden: str
    guarded: str
    layer_uses: str
    first_deposit: int
    deposits: int
    first_scatter: int
    scatters: int
    first_plane: int
    planes: int
    places: tuple[str, ...]


@dataclass(frozen=True)
class PanelText:
    """One array that deposits or scatters add to.

    kept    whether other kernels alone read it"""

    title: str
    width: str
    layer: str
    turns: str
    wanted: str
    kept: str
    held: str
    pairwise: str
    rows: str
    target: str
    operand: str


@dataclass(frozen=True)
class PlaneText:
    """One array of a number for each pair."""

    title: str
    layer: str
    target: str


@dataclass(frozen=True)
class SweepText:
    """The panels of a kernel (its deposits, then its scatters) and its arrays over pairs.

    owners    by panel the first one of the same array, in whose memory both are summed"""

    deposits: int
    scatters: int
    layer_uses: str
    turns: str
    share: str
    shares: str
    valid: str
    panels: tuple[PanelText, ...]
    owners: tuple[int, ...]
    planes: tuple[PlaneText, ...]


@dataclass(frozen=True)
class VectorText:
    """An operand that is a vector of each pair, of the term or panel at `place`."""

    place: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class RunningText:
    """A value that runs along the keys of a row: what a pair adds, and how."""

    unit: str
    combined: str
    inclusive: str
    summed: str
    ahead: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class TableText:
    """A table that tells held rows apart: where it begins, and its rows that held, that walked
    positions ask for."""

    at: str
    held: tuple[str, ...]
    walked: tuple[str, ...]


@dataclass(frozen=True)
class LoopText:
    """What the template prints of one walked loop."""

    title: str
    products: tuple[Product, ...]
    terms: tuple[Expr, ...]
    depths: str
    targets: str
    layers: int
    layer: str
    product_wanted: str
    term_wanted: str
    mask: str
    has_exponent: str
    start: str
    count: str
    length: str
    lefts: tuple[str, ...]
    rights: tuple[str, ...]
    pairwise: str
    operands: tuple[str, ...]
    vectors: tuple[VectorText, ...]
    running: tuple[RunningText, ...]
    upward: str
    walked: KeptText
    possible: tuple[str, ...]
    certain: tuple[str, ...]
    tables: tuple[TableText, ...]
    alike: tuple[str, ...]
    walked_alike: str
    exponent: tuple[str, ...]
    lift: tuple[str, ...]
    sweep: SweepLoopText | None


@dataclass(frozen=True)
class StreamText:
    """What the template prints of a stream kernel."""

    title: str
    name: str
    statistics: int
    tiles: int
    products_most: int
    layers_most: int
    running_most: int
    reference: str
    wanted: str
    widths: str
    tile_widths: str
    tile_rescaled: str
    statistic_rescaled: str
    statistic_units: str
    store_widths: str
    combine: tuple[str, ...]
    fields: tuple[str, ...]
    grid_count: str
    enter: tuple[str, ...]
    start: str
    count: str
    held: KeptText
    idle: str
    by_row: str
    summaries: tuple[SummaryText, ...]
    loops: tuple[LoopText, ...]
    loop_names: str
    finish: KeptText
    stores: tuple[StoreText, ...]
    sweep: SweepText | None
