"""What takes more than one look: solve, repeat, and the rows of a block with states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from attnc.backends.numpy_oracle import grid as g
from attnc.backends.numpy_oracle.dependence import unknown_name
from attnc.backends.numpy_oracle.frame import Frame, final, place_of, seen_from
from attnc.backends.numpy_oracle.grid import Grid, Trouble
from attnc.backends.numpy_oracle.pointwise import pointwise

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr
from attnc.spec import Block, Definition, Repeat

if TYPE_CHECKING:
    from attnc.backends.numpy_oracle.evaluator import Evaluator


def solve(evaluator: Evaluator, node: Expr, low: Grid, high: Grid, frame: Frame) -> Grid:
    """Bisection, vectorised, down to the last bit of the bracket."""
    name = unknown_name(str(node.attr))
    inner = Frame({name: low}, frame)

    def difference(at: Grid) -> Grid:
        inner.names[name] = at
        left, right = (evaluator.value(side, inner) for side in node.args[2:])
        return pointwise("sub", "real", "", [left, right])

    bracket, ends = (low, high), (difference(low), difference(high))
    falls = g.compare(np.greater_equal, *ends)
    dims, (low, high, falls, *_) = g.joined(g.plain(low), g.plain(high), falls, *ends)
    width = np.maximum(np.abs(low.mantissa), np.abs(high.mantissa))
    bit = width * float(np.finfo(np.float64).eps) / 2
    while ((high.mantissa - low.mantissa) > bit).any():
        middle = Grid(dims, low.mantissa + (high.mantissa - low.mantissa) / 2)
        ended = (middle.mantissa == low.mantissa) | (middle.mantissa == high.mantissa)
        if (ended | ~(low.mantissa < high.mantissa)).all():  # of no keys a bracket has no inside
            break
        at = difference(middle)
        positive = g.compare(np.greater, at, g.constant(0.0))
        negative = g.compare(np.less, at, g.constant(0.0))
        above = g.over(g.choose(falls, positive, negative), dims)  # the root lies above middle
        low, high = g.choose(above, middle, low), g.choose(above, high, middle)
    root = Grid(dims, low.mantissa + (high.mantissa - low.mantissa) / 2)
    troubles = (*low.troubles, *high.troubles, *difference(root).troubles)
    troubles = (*troubles, *_uncrossed(node, root, falls, bracket, ends))
    return replace(root, troubles=g.collected(troubles))


def _uncrossed(
    node: Expr, root: Grid, falls: Grid, bracket: tuple[Grid, Grid], ends: tuple[Grid, Grid]
) -> tuple[Trouble, ...]:
    """Where both ends of the bracket lie on one side, by more than rounding: the first such row is
    told with its ends and the sides' difference there."""
    near = Grid(root.dims, 1e-9 * np.maximum(1.0, np.abs(root.mantissa)))
    first, last = g.choose(falls, *ends), g.choose(falls, ends[1], ends[0])
    bad = g.either(g.compare(np.less, first, g.negative(near)), g.compare(np.greater, last, near))
    if not bad.mantissa.any():
        return ()
    _, (bad, *rows) = g.joined(bad, *map(g.plain, (*bracket, *ends)))
    at = np.unravel_index(int(np.argmax(bad.mantissa)), bad.mantissa.shape)
    low, high, below, above = (
        float(np.broadcast_to(one.mantissa, bad.mantissa.shape)[at]) for one in rows
    )
    name, wanted = str(node.attr), "a bracket at whose ends the sides differ in sign"
    came = f"the same sign at both{place_of(node)}: left less right is {below:.4g} at {low:.4g}"
    return (Trouble(name, wanted, f"{came} and {above:.4g} at {high:.4g}", False, bad),)


def repeated(evaluator: Evaluator, repeat: Repeat) -> dict[str, Grid]:
    own = {each.array.name for each in repeat.statements}
    frame = Frame({}, evaluator.root)
    for name, start in evaluator.sources.definitions.items():  # one may read those before it
        if name in own:
            frame.names[name] = final(evaluator.value(start.expr, frame))
    for step in range(int(evaluator.value(repeat.count).mantissa)):
        frame.names[repeat.index] = g.constant(step + evaluator.start(repeat.index.axis))
        for each in repeat.statements:
            frame.names[each.array.name] = final(evaluator.value(each.expr, frame))
    return {str(name): value for name, value in frame.names.items() if name != repeat.index}


def run(evaluator: Evaluator, block: Block, wanted: Sequence[Definition]) -> dict[str, Grid]:
    """A block with states, row by row: its final states, and the wanted definitions recorded
    along the rows."""
    row = block.rows[-1]
    before = Frame({}, evaluator.root)
    clauses = frozenset(
        array.name
        for source in block.sources
        for array in (source.mask, source.score, source.weight)
        if array is not None
    )
    frame = Frame({}, evaluator.root, before=before, clauses=clauses)
    for state in block.states:
        given = evaluator.call.states.get(state.array.name)
        frame.names[state.array.name] = given or final(evaluator.value(state.initial))
    recorded: dict[str, list[Grid]] = {each.array.name: [] for each in wanted}
    for step in range(evaluator.size(row)):
        frame.names[row] = g.constant(evaluator.start(row.axis) + step)
        before.names = dict(frame.names)
        if not block.reads_old:
            _update(evaluator, block, frame)
        for each in wanted:
            seen = seen_from(frame, each.array.name)
            recorded[each.array.name].append(final(evaluator.value(each.expr, seen)))
        if block.reads_old:
            _update(evaluator, block, frame)
    results = {s.array.name: frame.names[s.array.name] for s in block.states}
    for each in wanted:
        results[each.array.name] = _stacked(evaluator, each.array, row, recorded[each.array.name])
    return results


def _update(evaluator: Evaluator, block: Block, frame: Frame) -> None:
    for line in block.updates:
        frame.names[line.array.name] = final(evaluator.value(line.expr, frame))


def _stacked(evaluator: Evaluator, array: Array, row: Index, steps: list[Grid]) -> Grid:
    rest = tuple(index for index in array.indices if index != row)
    shape = tuple(evaluator.size(index) for index in rest)
    dims = (row, *rest)
    if not steps:
        kind = {"bool": np.bool_, "int": np.int64, "complex": np.complex128}
        return Grid(dims, np.zeros((0, *shape), dtype=kind.get(array.kind, np.float64)))
    parts = [g.over(step, rest) for step in steps]
    mantissa = np.stack([np.broadcast_to(part.mantissa, shape) for part in parts])
    exponent = None
    if any(part.exponent is not None for part in parts):
        own = [0.0 if part.exponent is None else part.exponent for part in parts]
        exponent = np.stack([np.broadcast_to(each, shape) for each in own])
    troubles = [
        replace(t, where=_at_step(evaluator, t.where, row, place))
        for place, part in enumerate(parts)
        for t in part.troubles
    ]
    return Grid(dims, mantissa, exponent, g.collected(troubles))


def _at_step(evaluator: Evaluator, where: Grid, row: Index, place: int) -> Grid:
    here = Grid((row,), np.arange(evaluator.size(row)) == place)
    return g.both(here, where)
