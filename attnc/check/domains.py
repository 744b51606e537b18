"""Domains: what every read needs is proved, becomes a check of the call, or is reported."""

from __future__ import annotations

from collections.abc import Iterable

from attnc.check.checker import Checker
from attnc.check.values import Facts, Need
from attnc.expressions.tree import TRUE, Expr


def prove(facts: Facts, goal: Expr) -> bool:
    """Whether a condition follows from facts."""
    return goal == TRUE or any(goal == fact for fact in facts)


def settle_needs(checker: Checker, needs: Iterable[Need], facts: Facts) -> None:
    """What is left to prove where everything is demanded."""
