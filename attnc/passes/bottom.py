"""What becomes of a fold's body where a score is -inf: a key that counts as masked.

`score != -inf` stands in the condition of every fold over visible keys (see build). It need not be
tested where the body vanishes there anyway, as exp(score) does.
"""

from __future__ import annotations

import math

from attnc.expressions.signs import is_positive
from attnc.expressions.tree import Expr, call, is_infinite, number, number_of, postorder
from attnc.passes.constants import evaluate

NOTHING = {"sum": 0.0, "prod": 1.0, "max": -math.inf, "min": math.inf}


def above_bottom(condition: Expr) -> Expr | None:
    """x of the condition x != -inf."""
    if condition.op != "ne" or not is_infinite(condition.args[1]):
        return None
    return condition.args[0]


def implied(condition: Expr, monoid: str, body: Expr) -> bool:
    """Whether the condition is x != -inf, and the body is the monoid's identity where x is -inf."""
    score = above_bottom(condition)
    return score is not None and limit(body, score) == NOTHING[monoid]


def limit(expr: Expr, score: Expr) -> float | None:
    """The value of the expression where `score` is -inf and all else finite; None if unknown."""
    known: dict[bytes, float | None] = {}
    for node in postorder(expr):
        if node == score:
            known[node.digest] = -math.inf
        elif node.op == "number" and not isinstance(node.attr, bool):
            known[node.digest] = number_of(node)
        else:
            known[node.digest] = _step(node, [known[arg.digest] for arg in node.args])
    return known[expr.digest]


def _step(node: Expr, args: list[float | None]) -> float | None:
    if node.op in ("fold", "read") or not args:
        return None
    if node.op == "where":
        return args[1] if args[1] == args[2] else None
    if node.op in ("mul", "div"):
        return _product(node, args)
    if node.op in ("add", "sub"):
        return _sum(node, args)
    if node.op in ("sigmoid", "softplus", "exp2") and args[0] == -math.inf:
        return 0.0
    if node.op == "sigmoid" and args[0] == math.inf:
        return 1.0
    if node.op == "neg" and args[0] is not None:
        return -args[0]
    if any(arg is None for arg in args):
        return None
    constant = evaluate(call(node.op, *(number(arg) for arg in args if arg is not None)))
    if constant is None or isinstance(constant.attr, bool):
        return None
    return number_of(constant)


def _product(node: Expr, args: list[float | None]) -> float | None:
    left, right = args
    if left == 0 or (right == 0 and node.op == "mul"):
        return 0.0
    for one, other in ((left, node.args[1]), (right, node.args[0])):
        if one is not None and math.isinf(one) and is_positive(other):
            return one if node.op == "mul" or one is left else None
    if left is None or right is None:
        return None
    if node.op == "mul":
        found = left * right
        return None if math.isnan(found) else found
    return left / right if right and math.isfinite(right) else None


def _sum(node: Expr, args: list[float | None]) -> float | None:
    left, right = args
    if right is not None and node.op == "sub":
        right = -right
    infinite = [arg for arg in (left, right) if arg is not None and math.isinf(arg)]
    if len(infinite) == 1:
        return infinite[0]
    return left + right if left is not None and right is not None and not infinite else None
