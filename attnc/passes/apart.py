"""Rows and keys on one axis, told apart: `for i in j over j`.

Every later pass knows what an index stands for by its axis. Where rows range over the axis of their
keys, they get a twin of it: an axis of their own with the same first position and length.

    does      gives the rows of outputs an axis that no key has
    needs     a simplified Graph without iterations and recurrences
    does not  touch inputs, or folds over the axis: these are over keys
"""

from __future__ import annotations

from dataclasses import replace

from attnc.expressions.canonical import canonical
from attnc.expressions.index import Axis, Index
from attnc.expressions.naming import fresh_name
from attnc.expressions.places import ends_of
from attnc.expressions.tree import position, postorder, substitute
from attnc.graph import Graph, GraphOutput


def rows_apart(graph: Graph) -> Graph:
    """The graph with rows on axes that are no keys'."""
    keys = {axis for source in graph.keys for axis in source}
    shared = [index for index in graph.rows if index.axis in keys]
    if not shared or graph.recurrences or graph.iterations:
        return graph
    taken = _names(graph)
    moves: dict[Index, Index] = {}
    for index in shared:
        twin = _twin(index.axis, taken)
        moves[index] = Index(twin.name, twin, index.number)
    return replace(
        graph,
        outputs=tuple(_moved(output, moves) for output in graph.outputs),
        rows=tuple(moves.get(index, index) for index in graph.rows),
    )


def _twin(axis: Axis, taken: set[str]) -> Axis:
    first, size = ends_of(axis)
    return Axis(fresh_name(f"row_of_{axis.name}", taken), "range", first, size)


def _names(graph: Graph) -> set[str]:
    nodes = list(postorder(*graph.roots))
    indices = {index for node in nodes for index in (*node.free, *node.bound)}
    arrays = {node.array for node in nodes if node.op == "read"}
    arrays |= {output.array for output in graph.outputs}
    axes = {index.axis for index in indices} | {axis for array in arrays for axis in array.axes}
    return {axis.name for axis in axes} | {i.name for i in indices} | {a.name for a in arrays}


def _moved(output: GraphOutput, moves: dict[Index, Index]) -> GraphOutput:
    """The output with indices of rows exchanged. One of its other indices may be over the axis of
    the keys too (a map of weights): it stays."""
    array = output.array
    indices = tuple(moves.get(index, index) for index in array.indices)
    exchange = {old: position(new) for old, new in moves.items()}
    expr = canonical(substitute(output.expr, exchange))
    return GraphOutput(replace(array, indices=indices), expr)


__all__ = ["rows_apart"]
