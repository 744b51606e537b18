"""The Graph: an operator in index notation without order.

Its nodes are scalar trees (expressions/tree.py) in closed form: equations are inlined, equal
subtrees are one node, and every node has its index set (`free`), its type (`kind`) and its domain
(the condition under which it is asked for: those of the folds above it). Query and key indices are
symmetric. No running maximum, tile, kernel, layout or device stands here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, Expr, postorder

if TYPE_CHECKING:
    import networkx


class NodeKind(Enum):
    """What a node is to the passes, read off its operation and operands."""

    CONSTANT = "constant"  # numbers, params, lengths
    INDEX = "index"
    LOAD = "load"  # a read whose positions are indices and affine forms of them
    GATHER = "gather"  # a read at a position that itself is read or computed from data
    MAP = "map"  # pointwise
    REDUCE = "reduce"  # a fold
    SCAN = "scan"  # a fold over the part of an axis before or after a free index of the same axis
    SCATTER = "scatter"  # a fold whose condition pins free indices to functions of the bound ones
    SELECT = "select"  # topk, rank, argmax, argmin
    SOLVE = "solve"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Iteration:
    """Arrays that are replaced together, `count` times: array <- next, all from old values,
    beginning at `initial`.
    After it, the arrays are read as any other."""

    index: Index
    count: Expr
    arrays: tuple[Array, ...]
    initial: tuple[Expr, ...]
    next: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Recurrence:
    """States along `time`: at each t, state <- next (an expression of the old states). Reads of a
    state in `next` see it before the step; in outputs, after the step, or before it where
    `reads_old`. A local of the step that outputs read stands among the states."""

    time: Index
    states: tuple[Array, ...]
    initial: tuple[Expr, ...]
    next: tuple[Expr, ...]
    reads_old: bool = False


@dataclass(frozen=True, slots=True)
class GraphOutput:
    """`array[array.indices] = expr`."""

    array: Array
    expr: Expr


@dataclass(frozen=True, slots=True)
class Graph:
    """Outputs (the result first), and what they read that is defined by iterating or by recurrence,
    in order.

    rows, keys    what the text called rows and keys, without a meaning of their own here: the row
                  indices of the result, and the axes of each key source. A schedule holds the one
                  and walks the other, or the reverse.
    """

    name: str
    outputs: tuple[GraphOutput, ...]
    iterations: tuple[Iteration, ...] = ()
    recurrences: tuple[Recurrence, ...] = ()
    rows: tuple[Index, ...] = ()
    keys: tuple[tuple[Axis, ...], ...] = ()

    @property
    def roots(self) -> tuple[Expr, ...]:
        """Every expression of the graph."""
        loops = tuple(
            expr for loop in self.iterations for expr in (loop.count, *loop.initial, *loop.next)
        )
        steps = tuple(expr for step in self.recurrences for expr in (*step.initial, *step.next))
        return (*loops, *steps, *(output.expr for output in self.outputs))

    def mapped(self, change: Callable[[Expr], Expr]) -> Graph:
        """The graph with every expression changed; names and order stay."""

        def each(exprs: tuple[Expr, ...]) -> tuple[Expr, ...]:
            return tuple(map(change, exprs))

        return replace(
            self,
            outputs=tuple(GraphOutput(out.array, change(out.expr)) for out in self.outputs),
            iterations=tuple(
                replace(
                    loop,
                    count=change(loop.count),
                    initial=each(loop.initial),
                    next=each(loop.next),
                )
                for loop in self.iterations
            ),
            recurrences=tuple(
                replace(step, initial=each(step.initial), next=each(step.next))
                for step in self.recurrences
            ),
        )

    def network(self) -> networkx.DiGraph[Expr]:
        """A view for order and reachability: edges from operands to users. Operand order lives in
        the nodes (one edge stands for `x * x`)."""
        import networkx

        net: networkx.DiGraph[Expr] = networkx.DiGraph()
        for node in postorder(*self.roots):
            net.add_node(node)
            net.add_edges_from((arg, node) for arg in node.args)
        return net

    def layers(self) -> tuple[networkx.DiGraph[Expr], list[list[Expr]]]:
        """The network without constants and indices, and its nodes by depth, for pictures."""
        import networkx

        net = self.network()
        plain = (NodeKind.CONSTANT, NodeKind.INDEX)
        net.remove_nodes_from([node for node in net if node_kind(node) in plain])
        return net, [list(layer) for layer in networkx.topological_generations(net)]


def node_kind(node: Expr) -> NodeKind:
    """Which kind of node this is (see NodeKind)."""
    if node.op in ("number", "param", "length", "start"):
        return NodeKind.CONSTANT
    if node.op in ("index", "value", "unknown"):
        return NodeKind.INDEX
    if node.op == "read":
        reads = any(
            below.op in ("read", "fold", "solve") for arg in node.args for below in postorder(arg)
        )
        return NodeKind.GATHER if reads else NodeKind.LOAD
    if node.op == "fold":
        return _fold_kind(node)
    if node.op in ("topk", "rank", "argmax", "argmin"):
        return NodeKind.SELECT
    if node.op == "solve":
        return NodeKind.SOLVE
    return NodeKind.DEFAULT if node.op == "default" else NodeKind.MAP


def _fold_kind(node: Expr) -> NodeKind:
    bound = set(node.bound)
    for conjunct in conjuncts(node.args[0]):
        if conjunct.op == "eq" and _pins(conjunct, bound):
            return NodeKind.SCATTER
        if conjunct.op in ("lt", "le", "gt", "ge") and _orders_one_axis(conjunct.args, bound):
            return NodeKind.SCAN
    return NodeKind.REDUCE


def _pins(equality: Expr, bound: set[Index]) -> bool:
    """One side is a free index alone, the other a function of the bound indices: `r == i - j`."""
    left, right = equality.args
    pairs = ((left, right), (right, left))
    return any(a.op == "index" and a.attr not in bound and b.free & bound for a, b in pairs)


def _orders_one_axis(sides: tuple[Expr, ...], bound: set[Index]) -> bool:
    """A bound index against a free one of the same axis: `l > j`."""
    match [side.attr for side in sides if side.op == "index"]:
        case [Index() as first, Index() as second]:
            return first.axis is second.axis and (first in bound) != (second in bound)
    return False


def conjuncts(condition: Expr) -> tuple[Expr, ...]:
    """The parts of nested `and`s, in order; none for true."""
    parts: list[Expr] = []
    stack = [condition]
    while stack:
        node = stack.pop()
        if node.op == "and":
            stack.extend(reversed(node.args))
        elif not (node.op == "number" and node.attr is True):
            parts.append(node)
    return tuple(parts)
