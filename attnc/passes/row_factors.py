"""What stands beside a fold and is the same for all keys of a row.

A fold over nothing is 0, even where the factor is not finite: then the product says so itself.
"""

from __future__ import annotations

from attnc.expressions.index import Axis
from attnc.expressions.signs import is_positive, never_negative
from attnc.expressions.tree import Expr, is_number, postorder
from attnc.passes.factors import ONE, ZERO, factors_of
from attnc.passes.frame import Frame
from attnc.passes.separate import finished
from attnc.passes.simplify import make


def times_row(result: Expr, row: Expr, seen: Expr, known: Frame | None = None) -> Expr:
    """result * row, 0 where the row has `seen` no key. `known`: the frame, where row values are at
    hand."""
    if row == ONE:
        return result
    if is_number(row, 0):
        return ZERO
    if row.op == "where" and is_number(row.args[2], 0):
        inner = times_row(result, row.args[1], seen, known)
        return make("where", row.args[0], inner, ZERO)
    if row.op == "where" and is_number(row.args[1], 0):
        return make("where", row.args[0], ZERO, _times_nonzero(result, row, seen, known))
    if is_finite(row, known) if known is not None else _finite(row):
        return make("mul", result, row)
    return make("mul", result, make("where", seen, row, ZERO))


def _times_nonzero(result: Expr, row: Expr, seen: Expr, known: Frame | None) -> Expr:
    """result * x for where(b == 0, 0, x): x may divide by b."""
    test, x = row.args[0], row.args[2]
    if test.op == "eq" and is_number(test.args[1], 0):
        above, below = factors_of(x).above, factors_of(x).below
        rest = [f for f in below if f != test.args[0]]
        if all(map(_finite, above)) and all(map(is_positive, rest)):
            return make("mul", result, x)
    return times_row(result, x, seen, known)


def is_finite(row: Expr, known: Frame) -> bool:
    """As `_finite`, of row values at hand; a width is not 0 where anything is carried along it."""
    axes = {index.axis for index in (*known.outer, known.held, *known.walked)}
    factors = factors_of(row)
    if any(node.op in ("exp", "exp2") for node in postorder(row)):
        return False
    below = (is_positive(f) or _of_widths(f, axes) for f in factors.below)
    return all(below) and all(map(_finite, factors.above))


def _of_widths(expr: Expr, axes: set[Axis]) -> bool:
    """Whether the expression is made of numbers and lengths of other axes than these."""
    leaves = [node for node in postorder(expr) if not node.args]
    return all(
        leaf.op == "number" or (leaf.op == "length" and leaf.attr not in axes) for leaf in leaves
    )


def _finite(row: Expr) -> bool:
    """Whether the row factor is finite wherever its leaves are: no division by what may be 0, no
    logarithm or negative power of it."""
    for node in postorder(row):
        if node.op == "div" and not is_positive(node.args[1]):
            return False
        if node.op in ("log", "log2", "log1p") and not is_positive(node.args[0]):
            return False
        if node.op == "pow" and not never_negative(node.args[1]):
            return False
        if node.op in ("exp", "exp2") and finished(node):
            return False
        if node.op == "value" and str(node.attr).startswith("max"):
            return False
    return True
