"""Whether the entries of a batch ever mix in a Graph: if not, a batch of batches is one batch."""

from __future__ import annotations

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr, postorder
from attnc.graph import Graph

BATCH = "b"


def keeps_batch_apart(graph: Graph) -> bool:
    """Whether nothing folds over the batch, counts it, or computes with its index."""
    return not any(_mixes(node) for node in postorder(*graph.roots))


def _mixes(node: Expr) -> bool:
    if node.op in ("length", "start"):
        return isinstance(node.attr, Axis) and node.attr.name == BATCH
    if any(index.axis.name == BATCH for index in node.bound):
        return True
    if node.op != "read":
        return any(_is_batch(arg) for arg in node.args)
    return any(
        _is_batch(arg) != (axis.name == BATCH)
        for axis, arg in zip(node.array.axes, node.args, strict=True)
    )


def _is_batch(node: Expr) -> bool:
    return node.op == "index" and isinstance(node.attr, Index) and node.attr.axis.name == BATCH
