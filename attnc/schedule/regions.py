"""Which tiles of held and walked positions a kernel visits, and which of them need no mask."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr


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
