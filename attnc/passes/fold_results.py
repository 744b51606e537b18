"""What folds over keys come to: results that loops carry, and row values that are stored."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr, Kind
from attnc.passes.exponents import Scaled


@dataclass(frozen=True)
class Part:
    """One key source's share of a reduction: its condition, and its body as mantissa and exponent
    (base 2). Both are over the pair and the reduction's width.

    domain    name of the set of keys that the fold is over: what `condition` says, and what need
              not be tested because the body vanishes there"""

    walked: Index
    condition: tuple[Expr, ...]
    body: Scaled
    domain: str


@dataclass(frozen=True)
class Reduction:
    """The result of folding over keys: over grid, held and `width`; stands as `value(name)`.

    exact    a maximum that pairs are compared with: one of their own numbers, bit for bit"""

    name: str
    monoid: str
    kind: Kind
    width: Index | None
    parts: tuple[Part, ...]
    level: int = 0
    exact: bool = False


@dataclass(frozen=True)
class Pending:
    """A row value that later passes read from memory: mantissa, and exponent if it has one."""

    expr: Expr
    mantissa: Array
    exponent: Array | None
    level: int
