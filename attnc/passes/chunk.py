"""Recurrences: from the update of a state to a scan kernel.

does      the sequential form: one row at a time, any update text, states that see each other,
          reads before or after the update
needs     one recurrence whose states are over outer axes, rows but the last, and widths
does not  run masks, scores and weights beside a state, or blocks within blocks
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
from attnc.passes.hoist import Names
from attnc.passes.reductions import refuse
from attnc.passes.rows import STATES, Rows, Side
from attnc.passes.simplify import simplify_node
from attnc.schedule import Final, ScanKernel, ScanLoop, Store

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


def scan(graph: Graph) -> Scan:
    """The kernel of a graph with a recurrence, in its sequential form.

    Raises UnsupportedError for what needs another kind of loop."""
    recurrence = _only(graph)
    grid = _grid(graph, recurrence.time)
    states = tuple(_local(state, grid) for state in recurrence.states)
    home = _homecoming(recurrence.states, states, grid)
    widths = _widths(graph, recurrence, grid, states)
    taken = {node.array.name for node in postorder(*graph.roots) if node.op == "read"}
    taken |= {str(node.attr) for node in postorder(*graph.roots) if node.op == "param"}
    taken |= {output.array.name for output in graph.outputs}
    rows = Rows(frozenset(grid), recurrence.time, frozenset(widths), Names(taken))
    initial = tuple(rows.settle(home(expr), "before") for expr in recurrence.initial)
    advance = rows.next_of(states, tuple(map(home, recurrence.next)))
    moving = [output for output in graph.outputs if recurrence.time in output.array.indices]
    stores = tuple(_store(rows, output, home, recurrence.reads_old) for output in moving)
    finals = tuple(
        _final(output, grid, dict(zip(recurrence.states, states, strict=True)))
        for output in graph.outputs
        if output not in moving
    )
    loop = ScanLoop(
        recurrence.time,
        None,
        states,
        initial,
        (*rows.lets["row"], *rows.lets["before"]),
        advance,
        tuple(rows.lets["after"]),
    )
    kernel = ScanKernel(graph.name, grid, tuple(rows.lets["constant"]), loop, stores, finals)
    said = [sentence(one) for one in transitions(recurrence, grid)]
    names = " and ".join(state.name for state in states)
    return Scan(kernel, widths, (*said, f"{names}: in cache, row by row (sequential form)."))


def _store(rows: Rows, output: GraphOutput, home: Callable[[Expr], Expr], reads_old: bool) -> Store:
    states: Side = "before" if reads_old else "after"
    expr = rows.settle(home(output.expr), states)
    if reads_old and rows.level(expr, states) == "before":
        expr = rows.let(expr, states)
    rest = [i for i in output.array.indices if i not in rows.grid and i != rows.time]
    return Store(output.array, rest[0] if rest else None, expr)


def _final(output: GraphOutput, grid: tuple[Index, ...], states: dict[Array, Array]) -> Final:
    """A result that is not over time: the last value of a state."""
    array, expr = output.array, output.expr
    found = [own for given, own in states.items() if given.name == array.name]
    if not found or expr.op != "read" or expr.args != tuple(map(position, array.indices)):
        raise refuse("state_io: a result that is not over time")
    at = tuple(_member(index, grid) or position(index) for index in array.indices)
    return Final(array, found[0], at)


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
    inner = (i for i in state.indices if i not in grid and _member(i, grid) is None)
    return replace(state, indices=tuple(inner))


def _member(index: Index, grid: tuple[Index, ...]) -> Expr | None:
    """Where an index of groups stands for one instance: `h // (len(h) // len(hk))`."""
    for other in grid:
        if index.axis.of is other.axis:
            size = call("floordiv", length(other.axis), length(index.axis))
            return call("floordiv", position(other), size)
    return None


def _homecoming(
    given: tuple[Array, ...], states: tuple[Array, ...], grid: tuple[Index, ...]
) -> Callable[[Expr], Expr]:
    """Reads of states without the axes along which an instance is one."""
    whole = {state.name: state.indices for state in given}
    own = {state.name: state for state in states}
    groups = {index: _member(index, grid) for state in given for index in state.indices}
    moves = {index: place for index, place in groups.items() if place is not None}

    def change(node: Expr) -> Expr:
        if node.op == "stop":
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
