"""A Graph as text: what `attnc show --emit graph` prints.

One line for each node that more than one other uses, in order, then the outputs. Nodes that differ
in their indices alone are one line: they are read at the indices that they have, like an array.
Heavy leaves (numbers, indices, plain reads) are not named.
"""

from __future__ import annotations

from attnc.expressions.index import Index
from attnc.expressions.text import expression_text, index_names
from attnc.expressions.tree import LEAVES, Array, Expr, position, postorder, read, scoped
from attnc.graph import Graph, NodeKind, node_kind

ORDER = ("b", "h", "hk", "i", "j", "d", "e")  # of a named node's indices; others follow
NAMED_FROM = 24  # characters of text from which a shared node gets a line of its own
FOLDED_FROM = 120  # and from which any fold inside of another formula does


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
        lines.append(f"  {namer.equation(output.array, output.expr)}")
    return "\n".join(lines) + "\n"


def _left(array: Array) -> str:
    return f"{array.name}[{', '.join(map(str, array.indices))}]" if array.indices else array.name


class _Shapes:
    """Numbers for nodes, the same for nodes that differ in the indices alone, and the free indices
    of each in an order that these have in common."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[object, ...], int] = {}
        self.found: dict[bytes, tuple[int, tuple[Index, ...]]] = {}

    def enter(self, node: Expr) -> int:
        """The number of a node whose operands were entered."""
        if node.digest in self.found:
            return self.found[node.digest][0]
        order: dict[Index, int] = {}
        parts: list[object] = [node.op, node.kind]
        for index in self._own(node):
            parts.append((index.axis.name, order.setdefault(index, len(order))))
        parts.append(self._payload(node))
        for place, arg in enumerate(node.args):
            number, indices = self.found[arg.digest]
            hidden = () if place < scoped(node) else node.bound
            seen = [(order.setdefault(i, len(order)), i in hidden) for i in indices]
            parts.append((number, *seen))
        free = tuple(index for index in order if index in node.free)
        number = self.numbers.setdefault(tuple(parts), len(self.numbers))
        self.found[node.digest] = number, free
        return number

    @staticmethod
    def _own(node: Expr) -> tuple[Index, ...]:
        return (node.attr,) if isinstance(node.attr, Index) else node.bound

    @staticmethod
    def _payload(node: Expr) -> object:
        if node.bound:
            assert isinstance(node.attr, tuple)
            return tuple(part for part in node.attr if not isinstance(part, Index))
        if isinstance(node.attr, Index):
            return None
        return type(node.attr).__name__, getattr(node.attr, "name", repr(node.attr))


class _Namer:
    """Names for the nodes that are used more than once, and the lines that define them."""

    def __init__(self, graph: Graph) -> None:
        self.lines: list[str] = []
        self.done: dict[bytes, Expr] = {}
        self.counts: dict[NodeKind, int] = {}
        self.shapes = _Shapes()
        self.arrays: dict[int, Array | None] = {}
        uses: dict[int, int] = {}
        nodes = list(postorder(*graph.roots))
        whole = {root.digest for root in graph.roots}
        for node in nodes:
            known = len(self.shapes.numbers)
            if self.shapes.enter(node) == known:  # the first of its shape
                for arg in node.args:
                    number = self.shapes.enter(arg)
                    uses[number] = uses.get(number, 0) + 1
        for node in nodes:
            changed = node.with_args(tuple(self.done[arg.digest] for arg in node.args))
            shared = uses.get(self.shapes.enter(node), 0) > 1
            if shared or (node.digest not in whole and _is_long_fold(changed)):
                changed = self._named(node, changed)
            self.done[node.digest] = changed

    def _named(self, node: Expr, changed: Expr) -> Expr:
        """The node as a read of the array that holds its shape; the first of them defines it."""
        number, free = self.shapes.found[node.digest]
        ranks = {name: rank for rank, name in enumerate(ORDER)}
        indices = sorted(free, key=lambda index: ranks.get(index.axis.name, len(ranks)))
        if number not in self.arrays:
            self.arrays[number] = self._define(node, changed, tuple(indices))
        array = self.arrays[number]
        return changed if array is None else read(array, map(position, indices))

    def _define(self, node: Expr, changed: Expr, indices: tuple[Index, ...]) -> Array | None:
        """The array of a node, with its line; None for what is too short to deserve one."""
        if node.op in LEAVES or len(expression_text(changed, limit=80)) < NAMED_FROM:
            return None
        kind = node_kind(node)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        array = Array(f"{kind.value}{self.counts[kind]}", indices, node.kind, "definition")
        self.lines.append(_equation(array, changed))
        return array

    def text(self, expr: Expr) -> str:
        return expression_text(self.done[expr.digest])

    def equation(self, array: Array, expr: Expr) -> str:
        """`array[indices] = expr`."""
        return _equation(array, self.done[expr.digest])


def _is_long_fold(node: Expr) -> bool:
    return node.op == "fold" and len(expression_text(node, limit=FOLDED_FROM)) >= FOLDED_FROM


def _equation(array: Array, expr: Expr) -> str:
    names = index_names(expr)
    left = ", ".join(names.get(index, index.name) for index in array.indices)
    return f"{array.name}{f'[{left}]' if left else ''} = {expression_text(expr)}"
