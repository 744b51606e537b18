"""Choices: what `topk` takes must be there.

A fold without a condition has a row of known length. A count that is larger, or below none, is a
mistake where numbers alone say so, and a check of the call where lengths and params decide. An
empty row has nothing to choose from, and is no mistake. Does not: judge counts that data decides,
or rows that a condition or a mask cuts, of which all are taken where there are fewer.
"""

from __future__ import annotations

from collections.abc import Sequence

from attnc import syntax
from attnc.check import messages as m
from attnc.check.checker import Checker
from attnc.check.facts import axis_bounds
from attnc.check.values import Environment
from attnc.expressions.index import Index
from attnc.expressions.text import expression_text
from attnc.expressions.tree import Expr, call, number, postorder
from attnc.spec import Check

OF_THE_CALL = ("number", "param", "length", "start")
ARITHMETIC = ("add", "sub", "mul", "floordiv", "mod", "min", "max", "neg")


def settle_count(
    checker: Checker, node: syntax.Fold, bound: Sequence[Index], count: Expr, env: Environment
) -> None:
    """Reports or has the call test a count that need not fit the row of these indices."""
    size = number(1)
    for index in bound:
        own = axis_bounds(index.axis)[1]
        size = own if size == number(1) else call("mul", size, own)
    fits = call("and", call("ge", count, number(0)), call("le", count, size))
    if checker.prove(env.facts, fits):
        return
    ops = {part.op for part in postorder(fits)} - {"and", "ge", "le"}
    if not ops <= {*OF_THE_CALL, *ARITHMETIC}:
        return
    axes = ", ".join(index.name for index in bound)
    if not ops & {"param", "length", "start"}:
        from attnc.expressions.evaluate import Environment as Numbers  # NumPy takes a while
        from attnc.expressions.evaluate import evaluate

        taken, there = (int(evaluate(part, Numbers()).item()) for part in (count, size))
        if there and not 0 <= taken <= there:
            checker.report(m.count_beyond_row(node.span, axes, env.place, taken, there))
        return
    condition = call("or", fits, call("eq", size, number(0)))
    if all(check.condition != condition for check in checker.checks):
        wanted = expression_text(call("le", count, size), limit=200)
        where = f" in {env.place}" if env.place else ""
        said = f"{node.span.text}{where} chooses more than there is of {axes} unless {wanted}"
        checker.checks.append(Check(condition, said, node.span))
