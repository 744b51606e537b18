"""Algebra that is always right.

    does      folds constants, drops neutral operands and impossible branches, recognises softplus
              and the logistic function in the forms that people write, resolves lengths and starts
              that are known
    needs     nothing
    does not  reorder sums, or use that a number is finite: 0 * x stays (x may be NaN), x - x too

`make` builds one simplified node; `simplify_expr` does a tree, `simplify` a Graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from attnc.expressions.canonical import canonical
from attnc.expressions.softplus import exponential_plus_one, softplus_argument
from attnc.expressions.tree import (
    FALSE,
    TRUE,
    Expr,
    Kind,
    call,
    infer_kind,
    is_number,
    number,
    rewrite,
    substitute,
)
from attnc.graph import Graph
from attnc.passes.constants import evaluate, identity, to_real

Rule = Callable[[Expr], Expr]


def simplify(graph: Graph) -> Graph:
    """The graph with every expression simplified; outputs keep their names and order."""

    return graph.mapped(lambda expr: canonical(simplify_expr(expr)))


def simplify_expr(expr: Expr) -> Expr:
    """The tree simplified from the leaves up."""
    return rewrite(expr, simplify_node)


def topdown(expr: Expr, change: Callable[[Expr], Expr | None]) -> Expr:
    """The tree with the greatest subtrees replaced that `change` knows; None: look inside."""
    done: dict[bytes, Expr] = {}
    stack = [(expr, False)]
    while stack:
        node, ready = stack.pop()
        if node.digest in done:
            continue
        if ready:
            args = tuple(done[arg.digest] for arg in node.args)
            done[node.digest] = simplify_node(node.with_args(args))
            continue
        found = change(node)
        if found is not None or not node.args:
            done[node.digest] = node if found is None else found
            continue
        stack.append((node, True))
        stack.extend((arg, False) for arg in node.args)
    return done[expr.digest]


def make(op: str, *args: Expr, kind: Kind | None = None) -> Expr:
    """A pointwise node over simplified operands, simplified. Integers meeting reals are widened."""
    if op in _WIDENING and kind is None:
        args = _widened(args)
    return simplify_node(call(op, *args, kind=kind or infer_kind(op, args)))


def all_of(conditions: Iterable[Expr]) -> Expr:
    """The conjunction of conditions, simplified; true of none."""
    whole = TRUE
    for condition in conditions:
        whole = make("and", whole, condition)
    return whole


_WIDENING = frozenset(("add", "sub", "mul", "div", "min", "max"))


def _widened(args: tuple[Expr, ...]) -> tuple[Expr, ...]:
    kinds = {arg.kind for arg in args}
    return tuple(map(to_real, args)) if kinds == {"int", "real"} else args


def simplify_node(node: Expr) -> Expr:
    """One node over simplified operands."""
    rule = _RULES.get(node.op)
    if node.args and all(arg.op == "number" for arg in node.args):
        constant = evaluate(node)
        if constant is not None:
            return constant
    return rule(node) if rule else node


def _add(node: Expr) -> Expr:
    left, right = node.args
    if is_number(left, 0) and left.kind == node.kind:
        return right if right.kind == node.kind else node
    if is_number(right, 0):
        return left if left.kind == node.kind else node
    if right.op == "neg":
        return simplify_node(call("sub", left, right.args[0], kind=node.kind))
    if left.op == "neg":
        return simplify_node(call("sub", right, left.args[0], kind=node.kind))
    return node


def _sub(node: Expr) -> Expr:
    left, right = node.args
    if is_number(right, 0) and left.kind == node.kind:
        return left
    if is_number(left, 0) and right.kind == node.kind:
        return simplify_node(call("neg", right, kind=node.kind))
    if right.op == "neg":
        return simplify_node(call("add", left, right.args[0], kind=node.kind))
    if is_number(left, 1) and right.op == "sigmoid":  # 1 - 1 / (1 + exp(-x))
        return call("sigmoid", simplify_node(call("neg", right.args[0])))
    return node


def _mul(node: Expr) -> Expr:
    left, right = node.args
    for one, other in ((left, right), (right, left)):
        if is_number(one, 1) and other.kind == node.kind:
            return other
        if is_number(one, -1) and other.kind == node.kind:
            return simplify_node(call("neg", other, kind=node.kind))
        if is_number(one, 0) and node.kind == "int":  # an integer is never NaN
            return number(0)
    if left.op == "neg" and right.op == "neg":
        return simplify_node(call("mul", left.args[0], right.args[0], kind=node.kind))
    return node


def _div(node: Expr) -> Expr:
    left, right = node.args
    if is_number(right, 1) and left.kind == node.kind:
        return left
    below = exponential_plus_one(right)
    if below is None:
        return node
    if is_number(left, 1):  # 1 / (1 + exp(x))
        return call("sigmoid", simplify_node(call("neg", below)))
    if left.op == "exp" and left.args[0] == below:  # exp(x) / (1 + exp(x))
        return call("sigmoid", below)
    return node


def _log(node: Expr) -> Expr:
    (inner,) = node.args
    below = softplus_argument(node)
    if below is not None:
        return call("softplus", below)
    if inner.op == "exp" and inner.kind == "real":
        return inner.args[0]
    if inner.op == "sigmoid":
        opposite = simplify_node(call("neg", inner.args[0]))
        return simplify_node(call("neg", call("softplus", opposite)))
    return node


def _neg(node: Expr) -> Expr:
    (inner,) = node.args
    if inner.op == "neg":
        return inner.args[0]
    if inner.op == "sub":  # exact, but for the sign of a zero
        return call("sub", inner.args[1], inner.args[0], kind=node.kind)
    return node


def _pow(node: Expr) -> Expr:
    base, power = node.args
    if is_number(base, 1) and base.kind == node.kind:  # 1 even for a power that is NaN
        return base
    return base if is_number(power, 1) and base.kind == node.kind else node


def _floordiv(node: Expr) -> Expr:
    left, right = node.args
    return left if is_number(right, 1) and node.kind == "int" else node


def _mod(node: Expr) -> Expr:
    return number(0) if is_number(node.args[1], 1) and node.kind == "int" else node


def _extremum(node: Expr) -> Expr:
    left, right = node.args
    neutral = -math.inf if node.op == "max" else math.inf
    if left == right or is_number(right, neutral):
        return left if left.kind == node.kind else node
    if is_number(left, neutral):
        return right if right.kind == node.kind else node
    return node


def _and(node: Expr) -> Expr:
    left, right = node.args
    if FALSE in (left, right):
        return FALSE
    if left in (TRUE, right):
        return right
    return left if right == TRUE else node


def _or(node: Expr) -> Expr:
    left, right = node.args
    if TRUE in (left, right):
        return TRUE
    if left in (FALSE, right):
        return right
    return left if right == FALSE else node


_OPPOSITE = {"lt": "ge", "ge": "lt", "gt": "le", "le": "gt", "eq": "ne", "ne": "eq"}


def _not(node: Expr) -> Expr:
    (inner,) = node.args
    if inner.op == "not":
        return inner.args[0]
    exact = inner.op in ("eq", "ne") or all(arg.kind == "int" for arg in inner.args)
    if inner.op in _OPPOSITE and exact:  # not (x < y) is not x >= y where one is NaN
        return simplify_node(call(_OPPOSITE[inner.op], *inner.args))
    return node


def _compare(node: Expr) -> Expr:
    left, right = node.args
    if left == right and left.kind == "int":
        return TRUE if node.op in ("eq", "le", "ge") else FALSE
    if node.op in ("eq", "ne") and left.kind == "bool" and right.op == "number":
        keep = (right.attr is True) == (node.op == "eq")
        return left if keep else simplify_node(call("not", left))
    return node


def _where(node: Expr) -> Expr:
    condition, yes, no = node.args
    if condition == TRUE:
        return yes
    if condition == FALSE:
        return no
    if yes == no:
        return yes
    if condition.op == "not":
        return simplify_node(call("where", condition.args[0], no, yes, kind=node.kind))
    if yes == TRUE and no == FALSE:
        return condition
    if yes == FALSE and no == TRUE:
        return simplify_node(call("not", condition))
    if yes.op == "where" and yes.args[0] == condition:
        return simplify_node(call("where", condition, yes.args[1], no, kind=node.kind))
    if no.op == "where" and no.args[0] == condition:
        return simplify_node(call("where", condition, yes, no.args[2], kind=node.kind))
    return node


def _cast(node: Expr) -> Expr:
    (inner,) = node.args
    if node.op == "to_real" and inner.op == "to_int" and inner.args[0].op == "value":
        return inner.args[0]  # a count, carried as a real: it is whole
    return inner if f"to_{inner.kind}" == node.op else node


def _fold(node: Expr) -> Expr:
    condition, body = node.args
    if condition == FALSE:
        return identity(node.monoid, node.kind)
    if node.monoid == "sum" and is_number(body, 0):
        return body
    return _pinned(node)


def _pinned(node: Expr) -> Expr:
    """Within a fold over r whose condition says r == e, r is e: nothing is gained but names, so
    only a condition that its own conjunct repeats is dropped."""
    condition, body = node.args
    if body.op == "where" and body.args[0] == condition:
        return node.with_args((condition, body.args[1]))
    return node


def _length(node: Expr) -> Expr:
    axis = node.attr
    known = getattr(axis, "length", None)
    return simplify_expr(known) if isinstance(known, Expr) else node


def _start(node: Expr) -> Expr:
    axis = node.attr
    if getattr(axis, "shifted", ""):
        return node
    low = getattr(axis, "low", None)
    return simplify_expr(low) if isinstance(low, Expr) else number(0)


def pin(expr: Expr, exchange: dict[Expr, Expr]) -> Expr:
    """The tree with equal subtrees exchanged, simplified again from there up."""

    def change(node: Expr) -> Expr:
        return exchange[node] if node in exchange else simplify_node(node)

    return rewrite(expr, change)


__all__ = ["make", "pin", "simplify", "simplify_expr", "simplify_node", "substitute"]

_RULES: dict[str, Rule] = {
    "add": _add, "sub": _sub, "mul": _mul, "div": _div, "neg": _neg, "pow": _pow, "log": _log,
    "floordiv": _floordiv, "mod": _mod, "min": _extremum, "max": _extremum,
    "and": _and, "or": _or, "not": _not, "where": _where, "fold": _fold,
    "to_int": _cast, "to_real": _cast, "to_complex": _cast, "length": _length, "start": _start,
    "eq": _compare, "ne": _compare, "lt": _compare, "le": _compare, "gt": _compare, "ge": _compare,
}  # fmt: skip
