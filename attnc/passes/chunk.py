"""Recurrences: from the update of a state to a scan kernel.

does      the sequential form: one row at a time, any update text, states that see each other,
          reads before or after the update
needs     one recurrence whose states are over outer axes, rows but the last, and widths
does not  run masks, scores and weights beside a state, or blocks within blocks
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import (
    Array,
    Expr,
    call,
    length,
    position,
    postorder,
    read,
    rewrite,
    substitute,
)
from attnc.graph import Graph, GraphOutput, Recurrence
from attnc.passes.affine import sentence, transitions
from attnc.passes.associative import NotCombined, how_combined
from attnc.passes.associative_shares import in_shares
from attnc.passes.chunkwise import RowByRow, in_chunks
from attnc.passes.hoist import Names, names_in
from attnc.passes.refusals import refuse
from attnc.passes.row_tiles import in_tiles
from attnc.passes.rows import STATES, Rows, Side
from attnc.passes.simplify import simplify_node
from attnc.schedule.scans import Checkpoint, Final, ScanKernel, ScanLoop, Shares
from attnc.schedule.statements import Store

# What no scan prints yet, with the feature that it would be.
_LATER = {
    "topk": "selection",
    "rank": "selection",
    "argmax": "selection",
    "argmin": "selection",
    "solve": "solver",
    "grad": "gradient_state",
}


@dataclass(frozen=True)
class Scan:
    """A recurrence as a kernel, with the axes of its widths and notes for `explain`."""

    kernel: ScanKernel
    widths: tuple[Axis, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Instance:
    """A recurrence as one instance of the grid sees it: `states` over their widths alone; `home`
    brings expressions there."""

    recurrence: Recurrence
    grid: tuple[Index, ...]
    states: tuple[Array, ...]
    widths: tuple[Axis, ...]
    taken: frozenset[str]

    def home(self, expr: Expr, stops: bool = False) -> Expr:
        """The expression with reads of states without the axes along which an instance is one.
        `stops`: what has no derivative stays marked."""
        return _homecoming(self.recurrence.states, self.states, self.grid, stops)(expr)

    def rows(self, names: Names) -> Rows:
        """An empty collection of a row's statements."""
        return Rows(self.grid, self.recurrence.time, frozenset(self.widths), names)

    def own(self, array: Array) -> Array | None:
        """The state of an instance by the array of the graph, or None."""
        return next((state for state in self.states if state.name == array.name), None)


def instance_of(graph: Graph) -> Instance:
    """What one instance of the graph's recurrence is. Raises UnsupportedError for what needs
    another kind of loop."""
    recurrence = _only(graph)
    grid = _grid(graph, recurrence.time)
    states = tuple(_local(state, grid) for state in recurrence.states)
    widths = _widths(graph, recurrence, grid, states)
    return Instance(recurrence, grid, states, widths, frozenset(names_in(graph)))


def scan(graph: Graph, kept: Sequence[Checkpoint] = (), every: int = 0) -> Scan:
    """The kernel of a graph with a recurrence, in its sequential form. `kept`: states that are
    written once in `every` rows, for a backward.

    Raises UnsupportedError for what needs another kind of loop."""
    one = instance_of(graph)
    recurrence, grid, states, home = one.recurrence, one.grid, one.states, one.home
    rows = one.rows(Names(set(one.taken)))
    initial = tuple(rows.settle(home(expr), "before") for expr in recurrence.initial)
    advance = rows.next_of(states, tuple(map(home, recurrence.next)))
    moving = [output for output in graph.outputs if recurrence.time in output.array.indices]
    stores = tuple(_store(rows, output, home, recurrence.reads_old) for output in moving)
    finals = tuple(_final(output, one) for output in graph.outputs if output not in moving)
    loop = ScanLoop(
        recurrence.time,
        None,
        states,
        initial,
        (*rows.lets["row"], *rows.lets["before"]),
        advance,
        tuple(rows.lets["after"]),
    )
    values = tuple(rows.lets["constant"])
    kernel = ScanKernel(graph.name, grid, values, loop, stores, finals, tuple(kept), every)
    said = [sentence(one) for one in transitions(recurrence, grid)]
    names = " and ".join(state.name for state in states)
    chunked, note = _in_chunks(graph, one, moving, finals)
    if chunked is not None:
        chunked = replace(chunked, checkpoints=tuple(kept), every=every)
    tiled, shares, combined = _combined(graph, one, moving, finals, chunked is None)
    if tiled is not None:
        tiled = replace(tiled, checkpoints=tuple(kept), every=every)
    shares = None if kept else shares  # most of a call with gradients is its way back
    kernel = replace(kernel, chunked=chunked, tiled=tiled, shares=shares)
    last = f"{names}: in cache, row by row (sequential form)."
    return Scan(kernel, one.widths, (*said, combined, note, last))


def _in_chunks(
    graph: Graph, one: Instance, moving: Sequence[GraphOutput], finals: tuple[Final, ...]
) -> tuple[ScanKernel | None, str]:
    """The chunkwise form, and what is said of it."""
    own, outputs = _at_home(one, moving)
    rows = one.rows(Names(set(one.taken)))
    try:
        kernel = in_chunks(f"{graph.name}_chunks", rows, own, outputs, finals)
    except RowByRow as reason:
        return None, f"No chunkwise form: {reason}."
    where = "on a GPU where rows are many and matrix units take their numbers"
    return kernel, f"Chunkwise form: what a chunk of rows does, as products of matrices; {where}."


def _at_home(one: Instance, moving: Sequence[GraphOutput]) -> tuple[Recurrence, list[GraphOutput]]:
    """The recurrence and its results as the instance has them."""
    given = one.recurrence
    initial, after = tuple(map(one.home, given.initial)), tuple(map(one.home, given.next))
    own = Recurrence(given.time, one.states, initial, after, given.reads_old)
    return own, [replace(output, expr=one.home(output.expr)) for output in moving]


def _combined(
    graph: Graph,
    one: Instance,
    moving: Sequence[GraphOutput],
    finals: tuple[Final, ...],
    tiles: bool,
) -> tuple[ScanKernel | None, Shares | None, str]:
    """The forms of rows that combine, and what is said of them. `tiles`: if no chunk is better."""
    own, outputs = _at_home(one, moving)
    tiled: ScanKernel | None = None
    try:
        said = f"Associative scan: {how_combined(own)}"
        if tiles:
            rows = one.rows(Names(set(one.taken)))
            tiled = in_tiles(f"{graph.name}_tiles", rows, one.grid, own, outputs, finals)
            said = f"{said}; tiles of rows on a GPU"
    except NotCombined as reason:
        return None, None, f"Sequential, no associative scan: {reason}."
    try:
        shares = in_shares(one.rows(Names(set(one.taken))), own)
    except NotCombined as reason:
        return tiled, None, f"{said}; no shares of rows on a CPU: {reason}."
    return tiled, shares, f"{said}; shares of rows on a CPU, for one instance with many rows."


def _store(rows: Rows, output: GraphOutput, home: Callable[[Expr], Expr], reads_old: bool) -> Store:
    states: Side = "before" if reads_old else "after"
    expr = rows.settle(home(output.expr), states)
    if reads_old and rows.level(expr, states) == "before":
        expr = rows.let(expr, states)
    rest = [i for i in output.array.indices if i not in rows.grid and i != rows.time]
    return Store(output.array, rest[0] if rest else None, expr)


def _final(output: GraphOutput, one: Instance) -> Final:
    """A result that is not over time: the last value of a state."""
    found = last_state(output, one)
    if found is None:
        raise refuse("state_io: a result that is not over time")
    return Final(output.array, found, place_of(output.array, one.grid))


def last_state(output: GraphOutput, one: Instance) -> Array | None:
    """The state whose last value a result is, or None."""
    expr, at = output.expr, tuple(map(position, output.array.indices))
    if expr.op != "read" or expr.array.role not in STATES or expr.args != at:
        return None
    return one.own(expr.array)


def place_of(array: Array, grid: tuple[Index, ...]) -> tuple[Expr, ...]:
    """Where an array over outer axes and widths stands for one instance."""
    return tuple(member(index, grid) or position(index) for index in array.indices)


# ------------------------------------------------------------------------------- what can be run


def _only(graph: Graph) -> Recurrence:
    """The one recurrence of the graph."""
    if graph.iterations:
        raise refuse("column_norm: arrays that are repeated")
    if graph.keys:
        raise refuse("query_carry: a state beside a mask, score or weight")
    (recurrence,) = graph.recurrences
    arrays = {state.name for state in recurrence.states}
    for node in postorder(*graph.roots):
        if node.op in _LATER:
            raise refuse(f"{_LATER[node.op]}: `{node.op}` in a recurrence")
        if node.kind == "complex":
            raise refuse("complex: complex numbers in a recurrence")
        if node.op == "read" and node.array.role != "input" and node.array.name not in arrays:
            raise refuse("pipeline")
    return recurrence


def _grid(graph: Graph, time: Index) -> tuple[Index, ...]:
    """What a scan is repeated for: the indices before time in the result."""
    indices = graph.outputs[0].array.indices
    if time not in indices:
        raise refuse("state_io: a result that is not over time")
    return indices[: indices.index(time)]


def _local(state: Array, grid: tuple[Index, ...]) -> Array:
    """The state of one instance of the grid: over its widths alone."""
    inner = (i for i in state.indices if i not in grid and member(i, grid) is None)
    return replace(state, indices=tuple(inner))


def member(index: Index, grid: tuple[Index, ...]) -> Expr | None:
    """Where an index of groups stands for one instance: `h // (len(h) // len(hk))`."""
    for other in grid:
        if index.axis.of is other.axis:
            size = call("floordiv", length(other.axis), length(index.axis))
            return call("floordiv", position(other), size)
    return None


def _homecoming(
    given: tuple[Array, ...], states: tuple[Array, ...], grid: tuple[Index, ...], stops: bool
) -> Callable[[Expr], Expr]:
    """Reads of states without the axes along which an instance is one. `stops` stay if asked."""
    whole = {state.name: state.indices for state in given}
    own = {state.name: state for state in states}
    groups = {index: member(index, grid) for state in given for index in state.indices}
    moves = {index: place for index, place in groups.items() if place is not None}

    def change(node: Expr) -> Expr:
        if node.op == "stop" and not stops:
            return node.args[0]
        if node.op == "read" and node.array.name in own and node.array.role in STATES:
            state = own[node.array.name]
            pairs = zip(whole[state.name], node.args, strict=True)
            return read(state, (at for index, at in pairs if index in state.indices))
        return simplify_node(node)

    return lambda expr: rewrite(substitute(expr, moves), change)


def _widths(
    graph: Graph, recurrence: Recurrence, grid: tuple[Index, ...], states: Iterable[Array]
) -> tuple[Axis, ...]:
    """The axes that a row is over: those of states and results, and those that its folds bind,
    but for heads, batches and time."""
    found = {index.axis: None for state in states for index in state.indices}
    for output in graph.outputs:
        rest = [i for i in output.array.indices if i not in grid and i != recurrence.time]
        if recurrence.time not in output.array.indices:
            continue
        if len(rest) > 1:
            raise refuse("out_matrix: a row of the result that is a matrix")
        found.update((index.axis, None) for index in rest)
    outer = {recurrence.time.axis, *(index.axis for index in grid)}
    for node in postorder(*graph.roots):
        for index in node.bound:
            if index.axis not in outer and index.axis.form != "coarse" and _is_fixed(index.axis):
                found.setdefault(index.axis)
    return tuple(found)


def _is_fixed(axis: Axis) -> bool:
    """Whether the length is that of a tensor, or a number: not one that the call chooses."""
    return axis.length is None or axis.length.op == "number"
