"""Outputs of every shape: rows, columns (one number for each key), pairs.

    out[i], lse[i]                 the loop that holds rows (stream)
    colsum[j] = sum(i: weight)     a loop that holds keys, on row values that the first has finished
    weight[i, j]                   a number for each pair, stored by a loop of its own

The second kind is what the sums of a derivative are, and the same passes lower it.

does      parts outputs by what they are over; orders the kernels: rows first, with the row values
          that the others read
needs     a simplified Graph whose result is over rows
does not  know any emit by name
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from attnc.expressions.index import Axis
from attnc.expressions.tree import Expr, postorder
from attnc.graph import Graph, GraphOutput
from attnc.passes.derivative_lowering import Backward, in_order
from attnc.passes.finish import Lowering, Target
from attnc.passes.iterate import renamed
from attnc.passes.refusals import check_supported, refuse
from attnc.passes.stream import emit_passes, targets_of
from attnc.schedule import Workspace


@dataclass
class Outputs:
    """The outputs of a graph on their way to kernels.

    rows       the frame and reductions of outputs over rows, and their targets
    others     what lowers the others, None where there are none
    """

    graph: Graph
    rows: Lowering
    targets: tuple[Target, ...]
    others: Backward | None = None

    @staticmethod
    def of(graph: Graph) -> Outputs:
        """Raises UnsupportedError for what kernels cannot run yet."""
        held, others = parted(graph)
        if not held:
            raise refuse("out_colstats: a result that is not over rows")
        rows, targets = targets_of(replace(graph, outputs=held))
        if not others:
            return Outputs(graph, rows, targets)
        others = tuple(replace(one, expr=renamed(one.expr, rows.turned)) for one in others)
        rest = replace(graph, outputs=others, iterations=())
        check_supported(n for n in postorder(*rest.roots) if not _of_a_row(n, graph.keys))
        lowering = Backward(rest, rows.frame, "two", {}, rows.reductions, "workspace")
        lowering.run()
        rows.reductions.names.taken |= lowering.names.taken
        return Outputs(graph, rows, targets, lowering)

    def emit(self, kept: tuple[Target, ...] = ()) -> Lowering:
        """Every kernel, in order. `kept`: more row values that are outputs."""
        rows, others = self.rows, self.others
        if others is None:
            emit_passes(rows, self.graph.name, (*self.targets, *kept))
            return rows
        stored = tuple(others.values.saved_targets)
        rows.workspaces.extend(Workspace(target.array, "accumulate") for target in stored)
        emit_passes(rows, self.graph.name, (*self.targets, *kept, *stored))
        rows.kernels.extend(in_order((*others.preparations.kernels, *others.made.kernels)))
        rows.workspaces.extend((*others.preparations.workspaces, *others.made.workspaces))
        names = ", ".join(output.array.name for output in others.graph.outputs)
        rows.notes.append(f"One more pass over the pairs, for {names}.")
        return rows


def parted(graph: Graph) -> tuple[tuple[GraphOutput, ...], tuple[GraphOutput, ...]]:
    """The outputs over rows, and those over keys or pairs."""
    keys = {axis for source in graph.keys for axis in source}
    held: list[GraphOutput] = []
    others: list[GraphOutput] = []
    for output in graph.outputs:
        (held if _is_row(output, keys, graph) else others).append(output)
    return tuple(held), tuple(others)


def _is_row(output: GraphOutput, keys: set[Axis], graph: Graph) -> bool:
    axes = [index.axis for index in output.array.indices]
    held = graph.rows[-1].axis if graph.rows else None
    if held is not None:
        if held not in axes:
            return False
        axes.remove(held)  # keys may be the same axis: channels that see channels
    return not any(axis in keys for axis in axes)


def _of_a_row(node: Expr, keys: Iterable[Iterable[Axis]]) -> bool:
    """A solve of no key: its root is a value of the row, which loops over rows leave to others."""
    walked = {axis for source in keys for axis in source}
    return node.op == "solve" and not any(index.axis in walked for index in node.free)


def lower_outputs(graph: Graph) -> Lowering:
    """The kernels of a graph without states.

    Raises UnsupportedError for what kernels cannot run yet."""
    return Outputs.of(graph).emit()


__all__ = ["Outputs", "lower_outputs", "parted"]
