"""Derivatives that an update asks for: `grad(loss, M)` as an expression of the step.

does      reverse mode over the loss of one row, by the rules of derivative_rules: what a user
          would have written by hand, an ordinary update that may be differentiated again
needs     the loss in closed form, the array that it is differentiated by as an input, whose
          indices stand nowhere in it
does not  go through states: they are variables of the step
"""

from __future__ import annotations

from dataclasses import replace

from attnc.expressions.canonical import canonical
from attnc.expressions.tree import Array, Expr, read, rewrite
from attnc.graph import Graph
from attnc.passes.differentiate import Pullback, finished
from attnc.passes.factors import ONE
from attnc.passes.simplify import simplify_expr


def slope_by(expr: Expr, variable: Array) -> Expr:
    """The derivative of a number by the entry of an array at the array's own indices."""
    states: dict[str, Array] = {}

    def as_input(node: Expr) -> Expr:
        if node.op != "read" or node.array.role == "input":
            return node
        named = replace(node.array, role="input", name=f"step {node.array.name}")
        states[named.name] = node.array
        return read(named, node.args)

    def as_state(node: Expr) -> Expr:
        known = node.op == "read" and node.array.name in states
        return read(states[node.array.name], node.args) if known else node

    loss = canonical(simplify_expr(rewrite(expr, as_input)))
    pullback = Pullback(Graph("grad", ()), frozenset((variable.name,)), False, ())
    pullback.begin_at(loss, ONE, frozenset())
    pullback.run()
    return rewrite(finished(pullback.gradient(variable, variable.indices)), as_state)
