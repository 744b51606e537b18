"""Prints integer and real expressions of lengths and numbers as Python, for the signature of an
emitted module.

`//` and `%` are Python's own (floor). Names are looked up in the mapping `known` by string
literals: nothing from a spec
becomes an identifier.
"""

from __future__ import annotations

import math

from attnc.errors import InternalError
from attnc.expressions.index import Axis
from attnc.expressions.tree import Expr, postorder

INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%", "pow": "**",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "and": "and", "or": "or",
}  # fmt: skip
CALLS = {
    "min": "min", "max": "max", "abs": "abs", "floor": "math.floor", "ceil": "math.ceil",
    "round": "round", "exp": "math.exp", "log": "math.log", "sqrt": "math.sqrt", "sin": "math.sin",
    "cos": "math.cos", "asin": "math.asin", "acos": "math.acos", "atan": "math.atan",
    "tanh": "math.tanh", "erf": "math.erf", "to_real": "float", "to_int": "int", "stop": "",
}  # fmt: skip


def print_python(expr: Expr, mapping: str = "known") -> str:
    """One Python expression over `mapping`: numbers by name, lengths as `len_AXIS`."""
    done: dict[bytes, str] = {}
    for node in postorder(expr):
        done[node.digest] = _print_node(node, [done[arg.digest] for arg in node.args], mapping)
    text = done[expr.digest]
    return text[1:-1] if text.startswith("(") and _one_group(text) else text


def _print_node(node: Expr, args: list[str], mapping: str) -> str:
    if node.op == "number":
        value = node.attr
        if isinstance(value, float) and not math.isfinite(value):
            return f'float("{value}")'
        return repr(value)
    if node.op == "param":
        return f"{mapping}[{node.attr!r}]"
    if node.op == "length":
        assert isinstance(node.attr, Axis)
        return f"{mapping}[{'len_' + node.attr.name!r}]"
    if node.op == "start":
        return "0"
    if node.op in INFIX:
        return f"({args[0]} {INFIX[node.op]} {args[1]})"
    if node.op in ("neg", "not"):
        return f"({'-' if node.op == 'neg' else 'not '}{args[0]})"
    if node.op == "where":
        return f"({args[1]} if {args[0]} else {args[2]})"
    if node.op == "to_complex":
        return args[0]
    if node.op in CALLS:
        return f"{CALLS[node.op]}({', '.join(args)})"
    raise InternalError(f"`{node.op}` in an expression of lengths")


def _one_group(text: str) -> bool:
    """Whether the first bracket closes at the end."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place == len(text) - 1
    return False
