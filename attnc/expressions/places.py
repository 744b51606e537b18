"""Which positions an axis has, by what is said of it."""

from __future__ import annotations

from attnc.expressions.index import Axis
from attnc.expressions.tree import Expr, length, number, start


def same_places(one: Axis, other: Axis) -> bool:
    """Whether two axes have the same positions: one was made like the other."""
    return one is other or ends_of(one) == ends_of(other)


def ends_of(axis: Axis) -> tuple[Expr, Expr]:
    """The first position of an axis and its length, as expressions."""
    return first_of(axis), size_of(axis)


def size_of(axis: Axis) -> Expr:
    """How many positions an axis has."""
    return length(axis) if axis.length is None else axis.length


def first_of(axis: Axis) -> Expr:
    """The first position of an axis."""
    if axis.shifted:
        return start(axis)
    return number(0) if axis.low is None else axis.low


__all__ = ["ends_of", "first_of", "same_places", "size_of"]
