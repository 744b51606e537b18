"""Kernels without a carried loop: elementwise stores, one step of a recurrence, selections."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr
from attnc.schedule.statements import Let, Store


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
