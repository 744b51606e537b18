"""Demands: what a read needs, over indices, numbers, lengths and input tensors alone.

Equations are read through, so that a demand can be tried at small lengths here, for a point where
it fails, and tested by the call. Does not: prove anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from attnc.check.bodies import is_outer
from attnc.check.checker import Checker
from attnc.check.values import Facts, Need, conjuncts
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import POINTWISE, Expr, postorder, substitute

MAX_NODES = 300  # of a condition, equations read through
MAX_POINTS = 200_000  # of a trial
# Lengths of rows and keys, and what stands for an int without a default, at each trial.
TRIALS = ((5, 2), (33, 3), (130, 6))
TABLE_LENGTH = 4096  # of what is neither row, key nor outer axis: a call may give any
LARGE = 1000  # what a call may give for an int that has a default
OUTER_LENGTH = 2
LEAVES = ("number", "index", "param", "length", "start")


@dataclass(frozen=True)
class Demand:
    """`condition` must hold wherever all of `given` do. data: whether input tensors decide."""

    condition: Expr
    given: tuple[Expr, ...]
    data: bool


@dataclass(frozen=True)
class Witness:
    """A point where a demand fails: the position that is read, and where."""

    value: int
    place: str


def make_demand(checker: Checker, need: Need, facts: Facts) -> Demand | None:
    """The demand of a need; None where it, or what is known where it matters, says more than that
    (folds, selections, states)."""
    condition = _plain(checker, need.condition)
    given = [_plain(checker, part) for fact in (*facts, *need.given) for part in conjuncts(fact)]
    if condition is None or any(part is None for part in given):
        return None
    kept = {part.digest: part for part in given if part is not None}
    parts = (condition, *kept.values())
    data = any(node.op == "read" for node in postorder(*parts))
    return Demand(condition, tuple(kept.values()), data)


def _plain(checker: Checker, expr: Expr) -> Expr | None:
    """An expression with equations read through; None where more than tensors is left, or too
    much."""
    done: dict[bytes, Expr | None] = {}
    stack = [expr]
    nodes = 0
    while stack:
        node = stack[-1]
        todo = [arg for arg in node.args if arg.digest not in done]
        if todo:
            stack += todo
            continue
        if node.digest in done:
            stack.pop()
            continue
        args = [done[arg.digest] for arg in node.args]
        whole = [arg for arg in args if arg is not None]
        nodes += 1
        if len(whole) < len(args) or nodes > MAX_NODES:
            done[stack.pop().digest] = None
            continue
        if node.op != "read" or node.array.role == "input":
            known = node.op in LEAVES or node.op in POINTWISE or node.op == "read"
            same = all(new is old for new, old in zip(whole, node.args, strict=True))
            made = node if same else Expr(node.op, tuple(whole), node.attr, node.kind, node.span)
            done[stack.pop().digest] = made if known else None
            continue
        found = checker.definitions.get(node.array.name)
        if found is None:
            done[stack.pop().digest] = None
            continue
        moved = substitute(found.expr, dict(zip(found.array.indices, whole, strict=True)))
        if moved.digest not in done:
            stack.append(moved)
            continue
        done[stack.pop().digest] = done[moved.digest]
    return done[expr.digest]


# ------------------------------------------------------------------------------------------ trials


def find_witness(checker: Checker, demand: Demand) -> Witness | None:
    """The first witness of the trials: of small lengths, so that a reader can follow."""
    return (
        None if demand.data else next((one for one in find_witnesses(checker, demand) if one), None)
    )


def find_witnesses(checker: Checker, demand: Demand) -> list[Witness | None]:
    """A witness, or None, for each of the trials. Numbers have their defaults, tables are long, and
    there are as many rows as keys."""
    return [_trial(checker, demand, size, number) for size, number in TRIALS]


def may_fail(checker: Checker, demand: Demand) -> bool:
    """Whether some trial has a witness, with short tables, large numbers and rows and keys that
    begin later too."""
    return any(
        _trial(checker, demand, size, number, table, least, first) is not None
        for size, number in TRIALS[1:]
        for table in (TABLE_LENGTH, 1)
        for least in (None, LARGE)
        for first in (0, size)
    )


def _trial(
    checker: Checker,
    demand: Demand,
    size: int,
    number: int,
    table: int = TABLE_LENGTH,
    least: int | None = None,
    first: int = 0,
) -> Witness | None:
    """least: what ints with a default are at least, instead of it; first: where axes begin that a
    call may move."""
    import numpy as np

    from attnc.errors import AttncError
    from attnc.expressions.evaluate import Environment, evaluate

    parts = (demand.condition, *demand.given)
    lengths = {axis: _length(axis, size, table) for axis in _axes(checker, parts)}
    params: dict[str, Any] = {}
    try:
        for place, entry in enumerate(checker.numbers):
            blank = {"int": number + place, "real": 1.0, "bool": True}.get(entry.kind, 1)
            default = entry.default
            made = evaluate(default, Environment({}, params, lengths)) if default else blank
            large = default is not None and entry.kind == "int" and not entry.static
            params[entry.name] = max(made, least) if large and least is not None else made
        free = sorted(set().union(*(part.free for part in parts)), key=str)
        starts = {axis: first for axis in lengths if axis.shifted}
        around = Environment({}, params, lengths, starts)
        sizes = [around.length(index.axis) for index in free]
        if int(np.prod(sizes, dtype=np.float64)) > MAX_POINTS or 0 in sizes:
            return None
        positions: dict[Index, Any] = {}
        for place, (index, length) in enumerate(zip(free, sizes, strict=True)):
            shape = [1] * len(free)
            shape[place] = length
            positions[index] = around.start(index.axis) + np.arange(length).reshape(shape)
        here = Environment(positions, params, lengths, starts)
        fails = ~evaluate(demand.condition, here) & np.ones(sizes, bool)
        for part in demand.given:
            fails = fails & evaluate(part, here)
    except (AttncError, ArithmeticError, ValueError):
        return None  # no call has these lengths and numbers
    if not fails.any():
        return None
    rows = np.unravel_index(int(np.argmax(fails)), sizes)
    at = {index: around.start(index.axis) + int(row) for index, row in zip(free, rows, strict=True)}
    position = demand.condition.args[0]
    value = int(evaluate(position, Environment(at, params, lengths)))
    named = [
        f"{index} = {_shown(around, index, at[index])}" for index in free if index in position.free
    ]
    named += [
        f"{entry.name} = {params[entry.name]}"
        for entry in checker.numbers
        if any(node.op == "param" and node.attr == entry.name for node in postorder(*parts))
    ]
    return Witness(value, ", ".join(named) or "every point")


def _shown(around: Any, index: Index, position: int) -> str:
    """A position; of a product axis, its coordinates."""
    if index.axis.form != "product":
        return str(position)
    found: list[int] = []
    for part in reversed(index.axis.parts):
        position, rest = divmod(position, around.length(part))
        found.insert(0, rest)
    return f"({', '.join(map(str, found))})"


def _axes(checker: Checker, parts: tuple[Expr, ...]) -> Iterator[Axis]:
    """The axes whose lengths a trial chooses: all that are measured."""
    yield from (axis for axis in checker.axes if axis.form in ("measured", "coarse"))
    for node in postorder(*parts):
        axis = node.attr.axis if isinstance(node.attr, Index) else node.attr
        if isinstance(axis, Axis):
            yield from (each for each in (axis, *axis.parts) if each.form in ("measured", "coarse"))


def _length(axis: Axis, size: int, table: int) -> int:
    if is_outer(axis):
        return OUTER_LENGTH
    return size if axis.shifted else table
