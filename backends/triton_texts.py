"""Small texts of Triton and questions about nodes, for the printer."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

from attnc.expressions.tree import Expr, is_number, postorder

INFIX = {
    "add": "+", "sub": "-", "mul": "*", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">",
    "ge": ">=", "and": "&", "or": "|",
}  # fmt: skip
IDENTITY = {"sum": 0.0, "prod": 1.0, "max": -math.inf, "min": math.inf}


def literal(node: Expr) -> str:
    """A number as Triton text."""
    value = node.attr
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    return repr(value)


def exact(text: str, node: Expr) -> str:
    """An operand of a function: a literal would reach it as float32."""
    return f"tl.full([], {text}, ACC)" if node.op == "number" else text


def is_single(node: Expr) -> bool:
    """Whether a literal is the same number in float32 (what is no literal is)."""
    if node.op != "number" or not isinstance(node.attr, float) or math.isinf(node.attr):
        return True
    return math.isnan(node.attr) or struct.unpack("f", struct.pack("f", node.attr))[0] == node.attr


def unwrapped(text: str) -> str:
    """The text without brackets that enclose all of it."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and place < len(text) - 1:
            return text
    return text[1:-1]


def is_true(expr: Expr) -> bool:
    return expr.op == "number" and expr.attr is True


def is_false(expr: Expr) -> bool:
    return expr.op == "number" and expr.attr is False


def logic(op: str, node: Expr, args: list[str]) -> str:
    """`&` and `|`; constant operands are absorbed, since Triton has no tile of a Python truth."""
    keep = [t for t, a in zip(args, node.args, strict=True) if a.op != "number"]
    absorbing = is_false if op == "and" else is_true
    if any(absorbing(arg) for arg in node.args):
        return "False" if op == "and" else "True"
    if not keep:
        return "True" if op == "and" else "False"
    return keep[0] if len(keep) == 1 else f"({keep[0]} {INFIX[op]} {keep[1]})"


def identity(node: Expr) -> str:
    value = IDENTITY[node.monoid]
    if node.kind == "real":
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    largest = 2**63 - 1
    return {"sum": "0", "prod": "1", "max": str(-largest), "min": str(largest)}[node.monoid]


def operands(node: Expr) -> tuple[Expr, ...]:
    """The operands that are printed outside the node: those of folds and choices stand in their own
    lines."""
    return () if node.op in ("fold", "given") else node.args


def unscoped(root: Expr) -> Iterator[Expr]:
    """Nodes under the root, operands first, each once, not looking into folds, nor into reads:
    their positions are printed by the read itself, straight or computed."""
    return postorder(root, operands=lambda node: () if node.op == "read" else operands(node))


def is_plain(node: Expr) -> bool:
    """Whether a read stands at plain indices, or numbers, only."""
    return all(arg.op == "index" or is_number(arg) for arg in node.args)
