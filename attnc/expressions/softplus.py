"""log(1 + exp(x)) in a text: what is evaluated as it stands loses small values to the 1."""

from __future__ import annotations

from attnc.expressions.tree import Expr, is_number


def exponential_plus_one(node: Expr) -> Expr | None:
    """x of 1 + exp(x)."""
    if node.op != "add" or node.kind != "real":
        return None
    for one, other in (node.args, node.args[::-1]):
        if is_number(one, 1) and other.op == "exp" and other.kind == "real":
            return other.args[0]
    return None


def softplus_argument(node: Expr) -> Expr | None:
    """x of log(1 + exp(x))."""
    return exponential_plus_one(node.args[0]) if node.op == "log" else None
