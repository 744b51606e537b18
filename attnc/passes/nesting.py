"""Exponents of values within values: in which order they are subtracted.

A key's weight in a column is 2^(s_ij - c_j); a row over such weights has the greatest of s_ij - c_j
as its own exponent, l_i. In (s_ij - c_j) - l_i that key's difference is 0 without a rounding; in
(s_ij - l_i) - c_j two numbers are rounded that may be far greater than the difference.

does      counts how many folds stand in one another, and subtracts inner exponents first
needs     the names of the arrays that hold exponents, in `Names.exponents`
does not  split 2 s - l - m (see linear)
"""

from __future__ import annotations

from attnc.expressions.tree import Expr, postorder, rewrite
from attnc.passes.factors import addends_of, total
from attnc.passes.hoist import Names
from attnc.passes.simplify import make, simplify_node


def nesting(expr: Expr, names: Names) -> int:
    """How many folds stand in one another; an array of exponents counts as those of its value."""
    depth: dict[bytes, int] = {}
    for node in postorder(expr):
        below = max((depth[arg.digest] for arg in node.args), default=0)
        own = names.exponents.get(node.array.name, 0) if node.op == "read" else 0
        depth[node.digest] = max(below + (node.op == "fold"), own)
    return depth[expr.digest]


def outward(expr: Expr, names: Names) -> Expr:
    """The expression with the exponents in its powers in the order of what they are relative to."""
    known = names.exponents
    if len(known) < 2:
        return expr

    def rank(addend: Expr) -> int:
        return known.get(addend.array.name, 0) if addend.op == "read" else 0

    def change(node: Expr) -> Expr:
        if node.op != "exp2":
            return simplify_node(node)
        parts = addends_of(node.args[0])
        exponents = [one for one in parts if rank(one[0])]
        ordered = sorted(exponents, key=lambda one: rank(one[0]))
        if exponents == ordered:
            return simplify_node(node)
        places = iter(ordered)
        moved = (next(places) if rank(one[0]) else one for one in parts)
        return make("exp2", total(make("neg", p) if minus else p for p, minus in moved))

    return rewrite(expr, change)
