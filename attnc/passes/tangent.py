"""The forward mode of a Graph, as a Graph: values, and how they change along a direction.

    does      gives each node a tangent over its own free indices, operands before users, by the
              same edges that differentiate follows backwards
    needs     a simplified Graph without iterations and recurrences
    does not  take row factors out of folds: the lowering does that as for the forward's own

The result reads the forward's inputs and a tangent `<input>_dot` for each real input; its outputs
are the forward's, then `<output>_dot` for each real one.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr, read
from attnc.graph import Graph, GraphOutput
from attnc.passes.adjoints import Adjoint, merged, times
from attnc.passes.differentiate import (
    Names,
    Pullback,
    check_smooth,
    finished,
    inputs_of,
    like,
)
from attnc.passes.factors import ZERO, factors_of, total
from attnc.passes.simplify import make

# Functions that have a value where their slope is infinite, as log(0) of a row without keys: what
# does not change moves them by 0.
POLES = frozenset(("log", "log2", "log1p", "sqrt", "pow"))


def tangent(graph: Graph, along: Container[str] | None = None) -> Graph:
    """The graph's outputs, and their derivatives along `<input>_dot` (see the module), those that
    are not 0. `along`: the inputs that move, if not all.

    Raises UnsupportedError for what the derivative rules cannot do yet."""
    check_smooth(graph)
    given = tangents(graph, along)
    names = Names({array.name for array in (*inputs_of(graph), *given.values())})
    names.taken.update(output.array.name for output in graph.outputs)
    push = Pushforward(graph, given)
    moved = []
    for output in graph.outputs:
        if output.array.kind == "real":
            array, expr = output.array, finished(push.of(output.expr))
            if expr == ZERO and along is not None:
                continue
            name = names.fresh(f"{array.name}_dot")
            named = Array(name, array.indices, "real", "output", array.span)
            moved.append(GraphOutput(named, expr))
    return replace(graph, name=f"{graph.name}_dot", outputs=(*graph.outputs, *moved))


def tangents(graph: Graph, along: Container[str] | None = None) -> dict[str, Array]:
    """The tangent of each real input that moves, by the input's name: an input of the result."""
    names = Names.of(graph)
    names.taken.update(output.array.name for output in graph.outputs)
    return {
        array.name: like(array, names.fresh(f"{array.name}_dot"))
        for array in inputs_of(graph)
        if array.kind == "real" and (along is None or array.name in along)
    }


@dataclass
class Pushforward:
    """The tangents of a graph's nodes; `given`: those of its inputs by name."""

    graph: Graph
    given: dict[str, Array]
    done: dict[bytes, Expr] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.walk = Pullback(self.graph, frozenset(self.given), heads_apart=False)

    def of(self, root: Expr) -> Expr:
        """The tangent of an expression, over its free indices."""
        before = len(self.walk.order)
        self.walk.explore(root)
        for node in self.walk.order[before:]:
            if self.walk.active[node.digest]:
                self.done[node.digest] = self._node(node)
        return self.done.get(root.digest, ZERO)

    def _node(self, node: Expr) -> Expr:
        if node.op == "read":
            return read(self.given[node.array.name], node.args)
        parts = merged(self._contributions(node))
        nothing: frozenset[Index] = frozenset()
        return total(self.walk.closer.closed(e, nothing, whole=True).expr() for e in parts)

    def _contributions(self, node: Expr) -> Iterable[Adjoint]:
        for edge in self.walk.edges[node.digest]:
            if edge.child.digest in self.done:
                change = self.done[edge.child.digest]
                product = times(edge.factor, factors_of(change))
                moves = (make("ne", change, ZERO),) if node.op in POLES else ()
                guards = (*edge.guards, *moves)
                yield Adjoint(frozenset(edge.bound), edge.conditions, guards, product)
