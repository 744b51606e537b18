"""Invariants of Graphs."""

from __future__ import annotations

from attnc.expressions.tree import COMPARISON, LOGIC, Expr, postorder
from attnc.graph import Graph
from attnc.verify.terms import bound_apart, broken, names_of


def verify_graph(graph: Graph) -> None:
    """Raises InternalError for the first invariant that the graph breaks."""
    known = {a.name for loop in graph.iterations for a in loop.arrays}
    known |= {a.name for step in graph.recurrences for a in step.states}
    for output in graph.outputs:
        extra = output.expr.free - set(output.array.indices)
        if extra:
            raise broken("closed", f"{output.array.name} depends on {names_of(extra)}")
    for root in graph.roots:
        _verify_scopes(root)
        for node in postorder(root):
            _verify_node(node, known)


def _verify_node(node: Expr, known: set[str]) -> None:
    if node.op in ("default", "value"):
        raise broken("closed", f"`{node.op}` in a graph")
    if node.op == "read" and node.array.role == "definition" and node.array.name not in known:
        raise broken("known", f"{node.array.name} is an equation that was not put in")
    if node.op in LOGIC and any(arg.kind != "bool" for arg in node.args):
        raise broken("kinds", f"`{node.op}` of {[arg.kind for arg in node.args]}")
    if node.op == "where" and node.args[0].kind != "bool":
        raise broken("kinds", f"`where` asks a {node.args[0].kind}")
    if node.op == "fold" and node.args[0].kind != "bool":
        raise broken("kinds", f"a fold's condition is a {node.args[0].kind}")
    if node.op in COMPARISON and len({arg.kind for arg in node.args} - {"int", "real"}) > 1:
        raise broken("kinds", f"`{node.op}` of {[arg.kind for arg in node.args]}")
    if node.op == "read" and any(arg.kind != "int" for arg in node.args):
        raise broken("kinds", f"{node.array.name} is read at a place that is no int")


def _verify_scopes(root: Expr) -> None:
    """No fold binds what is bound or free around it."""
    captured = bound_apart(root, "a graph") & root.free
    if captured:
        raise broken("apart", f"{names_of(captured)} is bound and free")
