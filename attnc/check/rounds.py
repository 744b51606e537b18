"""Rounds: a `repeat` ends after so many that a call ends too.

A count that numbers alone make too large is a mistake in the text; one that lengths decide is a
check of the call. Does not: judge what a round costs.
"""

from __future__ import annotations

from attnc import syntax
from attnc.check import messages as m
from attnc.check.checker import Checker
from attnc.check.values import Environment
from attnc.expressions.text import expression_text
from attnc.expressions.tree import Expr, call, number, postorder
from attnc.spec import Check

MOST_ROUNDS = 2**16  # each is a launch of kernels at least


def settle_rounds(checker: Checker, binder: syntax.Binder, count: Expr, env: Environment) -> bool:
    """Whether a repeat may have this count; reports it, or has the call test it."""
    few = call("le", count, number(MOST_ROUNDS))
    if checker.prove(env.facts, few):
        return True
    name = binder.name.name
    parts = {part.op for part in postorder(count)}
    if "param" in parts:  # a static without a value: asked again when it has one
        return True
    if parts & {"length", "start"}:
        wanted = expression_text(few, limit=200)
        said = f"at most {MOST_ROUNDS} rounds of `repeat {name}`: {wanted}"
        checker.checks.append(Check(few, said, binder.span))
        return True
    from attnc.expressions.evaluate import Environment as Numbers  # NumPy takes a while
    from attnc.expressions.evaluate import evaluate

    rounds = int(evaluate(count, Numbers()).item())
    if rounds > MOST_ROUNDS:
        checker.report(m.repeat_too_long(binder.span, name, rounds, MOST_ROUNDS))
    return rounds <= MOST_ROUNDS
