"""The backward of a Graph, as a Graph: reverse mode over scalar trees in closed form.

    does      gives each node an adjoint over its own free indices, users before operands, by the
              edges of derivative_rules; sends the adjoints of reads to the gradients of the inputs
    needs     a simplified Graph without iterations and recurrences
    does not  save anything: forward values stand in the result as the expressions that they are, so
              a lowering finds them by digest; conditions, positions, selections and random numbers
              have no derivative

The result reads the forward's inputs and one cotangent for each real output, and has one output for
each real input that the forward reads. It is a Graph like any other: differentiate it again for
second order, or take its tangent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from attnc.build import output_indices
from attnc.errors import NoDerivative
from attnc.expressions.canonical import canonical
from attnc.expressions.index import Axis, Index
from attnc.expressions.naming import fresh_name
from attnc.expressions.tree import (
    FALSE,
    Array,
    Expr,
    call,
    length,
    position,
    postorder,
    read,
    start,
    substitute,
)
from attnc.graph import Graph, GraphOutput
from attnc.passes.adjoints import Adjoint, Closer, merged, times
from attnc.passes.coarse import Coarse
from attnc.passes.contexts import Opened
from attnc.passes.derivative_folds import infinite_without_keys, read_under
from attnc.passes.derivative_rules import edges_of, released
from attnc.passes.edges import Edge, Edges, refuse
from attnc.passes.factors import ONE, ZERO, Factors, total
from attnc.passes.simplify import make, simplify_expr


def differentiate(graph: Graph, inputs: Sequence[str] | None = None) -> Graph:
    """The gradients of the graph's real inputs (or of those named), `<input>_grad`, as functions of
    its inputs and of the cotangents `<output>_grad` of its real outputs.

    Raises NoDerivative for an input that is no real or that the graph does not read, and
    UnsupportedError for what the pass cannot do yet."""
    check_smooth(graph)
    wanted = _wanted(graph, inputs)
    names = Names.of(graph)
    given = cotangents(graph, names)
    pullback = Pullback(graph, frozenset(array.name for array in wanted))
    for output in graph.outputs:
        if output.array.name in given:
            pullback.begin(output, given[output.array.name])
    pullback.run()
    outputs = []
    for array in wanted:
        indices = tuple(output_indices(array.indices).values())
        named = Array(names.fresh(f"{array.name}_grad"), indices, "real", "output", array.span)
        outputs.append(GraphOutput(named, finished(pullback.gradient(array, indices))))
    return replace(graph, name=names.fresh(f"{graph.name}_grad"), outputs=tuple(outputs))


def check_smooth(graph: Graph) -> None:
    """Raises UnsupportedError for graphs with iterations, recurrences or complex outputs."""
    if graph.iterations:
        raise refuse("column_norm")
    if graph.recurrences:
        raise refuse("linear_state")
    if any(output.array.kind == "complex" for output in graph.outputs):
        raise refuse("lti_ssm: complex numbers")


def finished(expr: Expr) -> Expr:
    """An output's expression, simplified, with bound indices named as everywhere."""
    return canonical(simplify_expr(released(expr)))


# --- names ----------------------------------------------------------------------------------------


@dataclass
class Names:
    """Names of arrays, each given once."""

    taken: set[str]

    @staticmethod
    def of(graph: Graph) -> Names:
        return Names({array.name for array in inputs_of(graph)})

    def fresh(self, name: str) -> str:
        return fresh_name(name, self.taken)


def inputs_of(graph: Graph) -> tuple[Array, ...]:
    """The inputs that the graph reads, each once, in order of their names."""
    found = {
        node.array.name: node.array
        for node in postorder(*graph.roots)
        if node.op == "read" and node.array.role == "input"
    }
    return tuple(found[name] for name in sorted(found))


def cotangents(graph: Graph, names: Names | None = None) -> dict[str, Array]:
    """The cotangent of each real output, by the output's name: an input of the derivative."""
    names = names or Names.of(graph)
    return {
        output.array.name: like(output.array, names.fresh(f"{output.array.name}_grad"))
        for output in graph.outputs
        if output.array.kind == "real"
    }


def like(array: Array, name: str) -> Array:
    """An input of the shape of `array`."""
    return Array(name, array.indices, "real", "input", array.span)


def _wanted(graph: Graph, inputs: Sequence[str] | None) -> tuple[Array, ...]:
    known = {array.name: array for array in inputs_of(graph)}
    if inputs is None:
        return tuple(array for array in known.values() if array.kind == "real")
    for name in inputs:
        if name not in known:
            raise NoDerivative(graph.name, name, "the outputs do not depend on it")
        if known[name].kind != "real":
            raise NoDerivative(graph.name, name, f"it is {_KINDS[known[name].kind]}")
    return tuple(known[name] for name in inputs)


_KINDS = {"int": "an integer", "bool": "a truth", "complex": "complex"}


# --- adjoints -------------------------------------------------------------------------------------


def wide_axes(graph: Graph) -> tuple[Axis, ...]:
    """The axes of batch, heads, rows and keys, in order: what sums over them is a walk over rows or
    keys, what sums over others a product along a width. Widths are measured on the last axis of a
    tensor; that inner blocks have rows and keys of their own shows in nothing else."""
    rows = [index.axis for index in graph.rows]
    long = dict.fromkeys((*rows, *(axis for source in graph.keys for axis in source)))
    arrays = (*(output.array for output in graph.outputs), *inputs_of(graph))
    found: dict[Axis, None] = {}
    widths: set[Axis] = set()
    for array in arrays:
        if array.kind == "real" and len(array.axes) > 1 and array.axes[-1] not in long:
            widths.add(array.axes[-1])
        found.update(dict.fromkeys(array.axes))
    for node in postorder(*graph.roots):
        found.update((index.axis, None) for index in node.bound)
    widths -= {axis for axis in widths if axis.form != "measured" or axis in long}
    return tuple(axis for axis in found if axis not in widths)


@dataclass
class Pullback:
    """The adjoints of a graph's nodes (see the module).

    wanted        names of inputs
    heads_apart   whether parts of keys alone are said over key heads (see coarse.py)
    axes          those of batch, heads, rows and keys, if not all that the graph has
    """

    graph: Graph
    wanted: frozenset[str]
    heads_apart: bool = True
    axes: tuple[Axis, ...] | None = None
    coarse: Coarse = field(default_factory=Coarse)
    edges: dict[bytes, Edges] = field(default_factory=dict)
    active: dict[bytes, bool] = field(default_factory=dict)
    order: list[Expr] = field(default_factory=list)
    pending: dict[bytes, list[Adjoint]] = field(default_factory=dict)
    reads: dict[str, list[tuple[Expr, Adjoint]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        axes = wide_axes(self.graph) if self.axes is None else self.axes
        self.wide = frozenset(axes)
        rows = tuple(index.axis for index in self.graph.rows)
        keys = frozenset[Axis]().union(*self.graph.keys)
        self.tokens = keys.union(rows)
        self.closer = Closer(axes, rows, keys)

    def begin(self, output: GraphOutput, cotangent: Array) -> None:
        """An output's adjoint is its cotangent."""
        given = read(cotangent, map(position, cotangent.indices))
        self.begin_at(output.expr, given, frozenset(output.array.indices))

    def begin_at(self, expr: Expr, given: Expr, over: frozenset[Index]) -> None:
        """The adjoint of an expression is `given`, to be summed over these indices."""
        self.explore(expr)
        self._contribute(expr, Adjoint(over, (), (), Factors((given,))))

    def explore(self, root: Expr) -> None:
        """Edges and order of what is under the root, operands before users."""
        stack = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if node.digest in self.active:
                continue
            if not ready:
                if node.digest not in self.edges:
                    edges = edges_of(node, self.wide)
                    self.edges[node.digest] = tuple(self._by_key_head(node, e) for e in edges)
                stack.append((node, True))
                stack.extend((edge.child, False) for edge in reversed(self.edges[node.digest]))
                continue
            reads = node.op == "read" and node.array.name in self.wanted
            below = any(self.active[edge.child.digest] for edge in self.edges[node.digest])
            self.active[node.digest] = reads or below
            self.order.append(node)

    def _by_key_head(self, node: Expr, edge: Edge) -> Edge:
        """The edge to an operand said over key heads, if it depends on no query head besides."""
        if not self.heads_apart:
            return edge
        found = self.coarse.over(edge.child, node.free | frozenset(edge.bound))
        return edge if found is None else replace(edge, child=found[0], pin=found[1])

    def _contribute(self, node: Expr, adjoint: Adjoint) -> None:
        if self.active[node.digest]:
            self.pending.setdefault(node.digest, []).append(adjoint)

    def run(self) -> None:
        """Every adjoint, users before operands."""
        for node in reversed(self.order):
            contributions = self.pending.pop(node.digest, [])
            if not contributions:
                continue
            contributions.reverse()  # in the order of the text
            if node.op == "read":
                self.reads.setdefault(node.array.name, []).extend(
                    (node, adjoint) for adjoint in contributions
                )
                continue
            adjoints = merged(contributions)
            if not self._kept_with_divisor(node):
                adjoints = merged(self.closer.closed(each, node.free) for each in adjoints)
            for adjoint in adjoints:
                for edge in self.edges[node.digest]:
                    self._contribute(edge.child, _through(edge, self._met(edge, adjoint)))

    def _met(self, edge: Edge, adjoint: Adjoint) -> Adjoint:
        """The adjoint asked for only where the folds that it has left are over something, if the
        edge's slope may be infinite elsewhere and the operand is read there."""
        if not adjoint.met or edge.bound or read_under(edge.child, self.wide):
            return adjoint
        if not infinite_without_keys(edge.factor, self.wide):
            return adjoint
        seen = (_any(left.seen for left in one) for one in adjoint.met)
        return replace(adjoint, guards=_joined(adjoint.guards, seen))

    def _kept_with_divisor(self, node: Expr) -> bool:
        """Whether a node is an exponential that is the same for all rows and keys, as that of a
        learned sink: it is summed with the row sums that it is divided by, for alone either may
        overflow."""
        return node.op == "exp" and not any(index.axis in self.tokens for index in node.free)

    # --------------------------------------------------------------------------- gradients

    def gradient(self, array: Array, indices: tuple[Index, ...]) -> Expr:
        """The gradient of an input over `indices`: the adjoints of its reads, each where it
        reads."""
        apart = [Index(index.name, index.axis, -1 - n) for n, index in enumerate(indices)]
        reads = self.reads.get(array.name, [])
        sites = [_placed(node, each, apart, self.tokens) for node, each in reads]
        keep = frozenset(apart)
        closed = [self.closer.closed(each, keep, whole=True) for each in merged(sites)]
        asked = (replace(each, domain=(), guards=(*each.domain, *each.guards)) for each in closed)
        parts = [each.expr() for each in merged(asked)]
        moves = {old: position(new) for old, new in zip(apart, indices, strict=True)}
        return substitute(total(parts), moves) if parts else ZERO


def _through(edge: Edge, adjoint: Adjoint) -> Adjoint:
    """The contribution of a node's adjoint to an operand."""
    if edge.folded is None:
        found = _within_fold(edge, adjoint)
    else:
        domain = adjoint.domain if edge.seen is None else _joined(adjoint.domain, (edge.seen,))
        guards = _joined(adjoint.guards, edge.guards)
        product = times(adjoint.product, edge.folded)
        found = Adjoint(adjoint.over, domain, guards, product, adjoint.met)
    if edge.pin is None:
        return found
    tie = call("eq", edge.pin.place, position(edge.pin.index))
    over, domain = found.over | {edge.pin.index}, _joined(found.domain, (tie,))
    return replace(found, over=over, domain=domain)


def _within_fold(edge: Edge, adjoint: Adjoint) -> Adjoint:
    adjoint = adjoint.asking(edge.conditions)
    domain = adjoint.domain
    if edge.bound:  # at a point of a fold the fold has seen one
        met = Opened(edge.bound, edge.conditions, ONE).seen
        domain = tuple(condition for condition in domain if condition != met)
    return Adjoint(
        adjoint.over | frozenset(edge.bound),
        _joined(domain, edge.conditions),
        _joined(adjoint.guards, edge.guards),
        times(adjoint.product, edge.factor),
        adjoint.met,
    )


def _any(truths: Iterable[Expr]) -> Expr:
    whole = FALSE
    for truth in truths:
        whole = truth if whole == FALSE else make("or", whole, truth)
    return whole


def _joined(first: Iterable[Expr], second: Iterable[Expr]) -> tuple[Expr, ...]:
    return tuple(dict.fromkeys((*first, *second)))


def _placed(node: Expr, adjoint: Adjoint, dummies: list[Index], tokens: frozenset[Axis]) -> Adjoint:
    """The adjoint of a read where it reads: over the array's dummies, and what is to be summed. A
    row that reads what is over keys stays a row: which of them the place is, a condition says."""
    exchange: dict[Index, Expr] = {}
    moves: dict[Index, Index] = {}
    conditions: list[Expr] = []
    for place, dummy in zip(node.args, dummies, strict=True):
        index = place.attr
        if not isinstance(index, Index) or index in moves or _other(index, dummy, tokens):
            conditions.append(call("eq", place, position(dummy)))
            continue
        moves[index] = dummy
        exchange[index] = position(dummy)
        if index.axis is not dummy.axis:
            conditions.extend(_within(position(dummy), index.axis))
    adjoint = adjoint.asking(conditions)
    placed = replace(adjoint, domain=_joined(adjoint.domain, conditions))
    placed = placed.renamed(moves, exchange)
    return replace(placed, over=placed.over | frozenset(dummies))


def _other(index: Index, dummy: Index, tokens: frozenset[Axis]) -> bool:
    """Whether a row or a key reads along an axis that is not its own."""
    return index.axis is not dummy.axis and index.axis in tokens


def _within(place: Expr, axis: Axis) -> tuple[Expr, Expr]:
    first = start(axis)
    return make("ge", place, first), make("lt", place, make("add", first, length(axis)))
