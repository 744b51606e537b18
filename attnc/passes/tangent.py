"""The forward mode of a Graph, as a Graph: values, and how they change along a direction.

    does      gives each node a tangent over its own free indices, operands before users, by the
              same edges that differentiate follows backwards; a recurrence carries the tangents of
              its states beside them (`<state>_dot`), which is a recurrence again
    needs     a simplified Graph without iterations
    does not  take row factors out of folds: the lowering does that as for the forward's own

The result reads the forward's inputs and a tangent `<input>_dot` for each real input; its outputs
are the forward's, then `<output>_dot` for each real one.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, Expr, read, rewrite
from attnc.graph import Graph, GraphOutput, Recurrence
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
    check_smooth(replace(graph, recurrences=()))
    if graph.recurrences:
        moving = Moving(graph, tangents(graph, along))
        return replace(moving.graph, outputs=(*graph.outputs, *moving.outputs.values()))
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
    """The tangents of a graph's nodes; `given`: those of its inputs by name; `axes`: as those of a
    Pullback."""

    graph: Graph
    given: dict[str, Array]
    axes: tuple[Axis, ...] | None = None
    done: dict[bytes, Expr] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = frozenset(self.given)
        self.walk = Pullback(self.graph, given, heads_apart=False, axes=self.axes)

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
        whole = not _runs_along(node)
        return total(self.walk.closer.closed(e, nothing, whole).expr() for e in parts)

    def _contributions(self, node: Expr) -> Iterable[Adjoint]:
        for edge in self.walk.edges[node.digest]:
            if edge.child.digest in self.done:
                change = self.done[edge.child.digest]
                product = times(edge.factor, factors_of(change))
                moves = (make("ne", change, ZERO),) if node.op in POLES else ()
                guards = (*edge.guards, *moves)
                yield Adjoint(frozenset(edge.bound), edge.conditions, guards, product)


def _runs_along(node: Expr) -> bool:
    """Whether the node folds over keys for each key: what is of that key leaves the fold, so that
    one walk along the keys makes it for all."""
    own = {index.axis for index in node.bound}
    return any(index.axis in own for index in node.free)


# --- recurrences ----------------------------------------------------------------------------------


@dataclass
class Moving:
    """The tangent recurrence: S_dot[t] = dF(S[t - 1], x) along (S_dot[t - 1], x_dot).

    graph    the graph; after it is made, with the tangents of its states carried
    given    the tangents of inputs by name
    dots     those of states that move, by the state's name
    outputs  those of outputs that move, by the output's name
    """

    graph: Graph
    given: dict[str, Array]
    dots: dict[str, Array] = field(default_factory=dict)
    outputs: dict[str, GraphOutput] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = Names({array.name for array in (*inputs_of(self.graph), *self.given.values())})
        names.taken.update(output.array.name for output in self.graph.outputs)
        for one in self.graph.recurrences:
            names.taken.update(state.name for state in one.states)
        recurrences = tuple(self._moved(one, names) for one in self.graph.recurrences)
        for output in self.graph.outputs:
            expr = self._dot(output.expr) if output.array.kind == "real" else ZERO
            if expr == ZERO:
                continue
            carried = self.dots.get(output.array.name)
            name = names.fresh(f"{output.array.name}_dot") if carried is None else carried.name
            named = Array(name, output.array.indices, "real", "output", output.array.span)
            self.outputs[output.array.name] = GraphOutput(named, expr)
        self.graph = replace(self.graph, name=f"{self.graph.name}_dot", recurrences=recurrences)

    def _moved(self, one: Recurrence, names: Names) -> Recurrence:
        """The recurrence with a tangent for each state that moves: those whose first or next value
        does, until no further one follows from the others."""
        real = [(n, state) for n, state in enumerate(one.states) if state.kind == "real"]
        while True:
            added = False
            for n, state in real:
                if state.name in self.dots:
                    continue
                if ZERO == self._dot(one.initial[n]) == self._dot(one.next[n]):
                    continue
                known = self.given.get(state.name)  # that of a first value which the call gives
                name = names.fresh(f"{state.name}_dot") if known is None else known.name
                self.dots[state.name] = Array(name, state.indices, "real", "state", state.span)
                added = True
            if not added:
                break
        own = [(n, self.dots[state.name]) for n, state in real if state.name in self.dots]
        return replace(
            one,
            states=(*one.states, *(dot for _, dot in own)),
            initial=(*one.initial, *(self._dot(one.initial[n]) for n, _ in own)),
            next=(*one.next, *(self._dot(one.next[n]) for n, _ in own)),
        )

    def _dot(self, expr: Expr) -> Expr:
        """The tangent of an expression, states in it being what they are named after."""
        states = {state.name: state for one in self.graph.recurrences for state in one.states}

        def leaf(node: Expr) -> Expr:
            if node.op != "read" or node.array.role == "input" or node.array.name not in states:
                return node
            named = replace(states[node.array.name], role="input", name=f"state {node.array.name}")
            return read(named, node.args)

        def back(node: Expr) -> Expr:
            if node.op == "read" and node.array.name.startswith("state "):
                return read(states[node.array.name.removeprefix("state ")], node.args)
            return node

        given = {**self.given, **{f"state {name}": dot for name, dot in self.dots.items()}}
        push = Pushforward(self.graph, given, ())
        return rewrite(finished(push.of(rewrite(expr, leaf))), back)
