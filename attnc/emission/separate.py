"""What may run apart: the entries of a batch, if they never mix, so that a batch of batches is one;
rows, where no equation folds over them; and what is solved for."""

from __future__ import annotations

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr, postorder
from attnc.graph import Graph
from attnc.spec import Spec

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


def solves(spec: Spec) -> bool:
    """Whether an equation has an unknown."""
    lines = (spec.root.result, *spec.root.emits, *spec.definitions.values())
    return any(node.op == "solve" for node in postorder(*(line.expr for line in lines)))


def rows_apart(spec: Spec) -> bool:
    """Whether a row can be computed without the others: no equation folds over its axis."""
    if not spec.root.rows or not spec.root.sources:
        return False
    keys = {key.axis for source in spec.root.sources for key in source.keys}
    return spec.root.rows[-1].axis not in keys
