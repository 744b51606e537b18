"""Axes and indices: what an integer ranges over, in every stage.

An axis is an integer interval `start .. start + length`. An index is an integer that knows its
axis. Both are
compared by identity of their number, not by name: two folds over `j` bind two indices.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from attnc.expressions.tree import Expr

AxisForm = Literal["measured", "range", "product", "coarse"]


@dataclass(frozen=True, eq=False, slots=True)
class Axis:
    """One axis of an operator.

    form      measured: its length is read off the tensors that have it; range: `low` and `length`
              are
              expressions of numbers and other lengths; product: row-major over `parts`; coarse:
              `of`
              another axis (key heads of query heads), its length read off tensors, a divisor of
              that one's.
    low       expression of the first position of a range axis, None for 0 (or the call's offset:
              see shifted).
    length    expression of a range axis' length, None where it is measured, or the product of its
              parts.
    shifted   "offset" for the rows of an operator, "key_offset" for its keys: the call may move the
              first position.
    """

    name: str
    form: AxisForm = "measured"
    low: Expr | None = None
    length: Expr | None = None
    parts: tuple[Axis, ...] = ()
    of: Axis | None = None
    shifted: Literal["", "offset", "key_offset"] = ""

    def __repr__(self) -> str:
        return f"Axis({self.name})"


@dataclass(frozen=True, slots=True)
class Index:
    """An integer variable over `axis`. `number` tells apart the indices of one name; it is given in
    the order of
    the text, so that equal texts have equal trees."""

    name: str
    axis: Axis = field(compare=False, hash=False, repr=False)
    number: int = 0

    def __str__(self) -> str:
        return f"{self.name}'{self.number}" if self.number else self.name
