"""A Graph as text: what `attnc show --emit graph` prints.

One line for each node that more than one other uses, in order, then the outputs. Heavy leaves
(numbers, indices, plain reads) are not named.
"""

from __future__ import annotations

from attnc.expressions.text import expression_text
from attnc.expressions.tree import LEAVES, Array, Expr, postorder, value
from attnc.graph import Graph, NodeKind, node_kind

NAMED_FROM = 24  # characters of text from which a shared node gets a line of its own


def graph_text(graph: Graph) -> str:
    """The text of a graph, one statement a line."""
    namer = _Namer(graph)
    lines = [f"graph {graph.name}"]
    if graph.rows:
        lines.append(f"  rows {', '.join(map(str, graph.rows))}")
    for axes in graph.keys:
        lines.append(f"  keys {', '.join(axis.name for axis in axes)}")
    lines.extend(f"  {line}" for line in namer.lines)
    for loop in graph.iterations:
        lines.append(f"  repeat {loop.index} < {namer.text(loop.count)}")
        for array, first, after in zip(loop.arrays, loop.initial, loop.next, strict=True):
            lines.append(f"    {_left(array)} = {namer.text(first)} then {namer.text(after)}")
    for step in graph.recurrences:
        lines.append(f"  along {step.time}")
        for array, first, after in zip(step.states, step.initial, step.next, strict=True):
            lines.append(f"    {_left(array)} = {namer.text(first)} then {namer.text(after)}")
    for output in graph.outputs:
        lines.append(f"  {_left(output.array)} = {namer.text(output.expr)}")
    return "\n".join(lines) + "\n"


def _left(array: Array) -> str:
    return f"{array.name}[{', '.join(map(str, array.indices))}]" if array.indices else array.name


class _Namer:
    """Names for the nodes that are used more than once, and the lines that define them."""

    def __init__(self, graph: Graph) -> None:
        self.lines: list[str] = []
        self.done: dict[bytes, Expr] = {}
        uses: dict[bytes, int] = {}
        for node in postorder(*graph.roots):
            for arg in node.args:
                uses[arg.digest] = uses.get(arg.digest, 0) + 1
        counts: dict[NodeKind, int] = {}
        for node in postorder(*graph.roots):
            changed = node.with_args(tuple(self.done[arg.digest] for arg in node.args))
            if uses.get(node.digest, 0) > 1 and self._worth(node, changed):
                kind = node_kind(node)
                counts[kind] = counts.get(kind, 0) + 1
                name = f"{kind.value}{counts[kind]}"
                over = ", ".join(sorted(map(str, node.free)))
                self.lines.append(f"{name}[{over}] = {expression_text(changed)}")
                changed = value(name, node.kind, node.free)
            self.done[node.digest] = changed

    @staticmethod
    def _worth(node: Expr, changed: Expr) -> bool:
        return node.op not in LEAVES and len(expression_text(changed, limit=80)) >= NAMED_FROM

    def text(self, expr: Expr) -> str:
        return expression_text(self.done[expr.digest])
