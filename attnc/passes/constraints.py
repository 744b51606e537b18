"""A comparison of integers as bounds of a sum over the pair: `i // s <= j - 1` says where its base
may lie.

Does: collects both sides, takes out what is free of the pair, common divisors, symbolic factors
and floor divisions. Needs: integer comparisons; takes divisors and symbolic factors for positive
and enters them in the registry.
Does not: bound the base.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from attnc.expressions.tree import Expr, number
from attnc.passes.integers import (
    FLIPPED,
    Polynomial,
    add,
    mul,
    polynomial,
    quotient,
    sub,
    total,
)
from attnc.passes.intervals import Ranges, key_of, normal


@dataclass(frozen=True, slots=True)
class Constraint:
    """low <= base <= high, None where open. The base is free of constants and normal (see
    intervals.normal)."""

    base: Polynomial
    low: Expr | None
    high: Expr | None

    @property
    def atom(self) -> Expr | None:
        """The base, if it is one atom."""
        if len(self.base.terms) != 1:
            return None
        ((monomial, coefficient),) = self.base.terms.items()
        return monomial[0] if coefficient == 1 and len(monomial) == 1 else None


def constraint(atom: Expr, holds: bool, ranges: Ranges) -> Constraint:
    """A comparison of integers (not `!=`), true or false, that depends on the pair. Its sums may
    cancel: the base is then empty, and the bounds say what is left."""
    op = atom.op if holds else FLIPPED[atom.op]
    assert op != "ne"
    away = polynomial(atom.args[0]) - polynomial(atom.args[1])
    step = {"lt": -1, "gt": 1}.get(op, 0)
    low = number(step) if op in ("gt", "ge", "eq") else None
    high = number(step) if op in ("lt", "le", "eq") else None
    return _reduced(away, low, high, ranges)


def _reduced(sums: Polynomial, low: Expr | None, high: Expr | None, ranges: Ranges) -> Constraint:
    """low <= sums <= high by its base."""
    while True:
        free, rest = ranges.split(sums)
        shift = total(rest)
        low = None if low is None else sub(low, shift)
        high = None if high is None else sub(high, shift)
        if not free.terms:
            return Constraint(free, low, high)
        base, scale = normal(free)
        if scale < 0:
            low, high = _negated(high), _negated(low)
        if abs(scale) != 1:
            low, high = _over(low, high, number(abs(scale)))
        base, low, high = _without_factors(base, low, high, ranges)
        found = Constraint(base, low, high)
        atom = found.atom
        if atom is None or atom.op != "floordiv" or atom.args[1].free & ranges.registry.tile:
            return found
        if key_of(base) in ranges.facts:  # the row of a box: narrowed itself, not through its index
            return found
        divisor = atom.args[1]
        ranges.registry.positive(divisor)
        low = None if low is None else mul(low, divisor)
        high = None if high is None else add(mul(high, divisor), divisor, number(-1))
        sums = polynomial(atom.args[0])


def _negated(side: Expr | None) -> Expr | None:
    return None if side is None else mul(number(-1), side)


def _over(low: Expr | None, high: Expr | None, divisor: Expr) -> tuple[Expr | None, Expr | None]:
    """Bounds of x from bounds of divisor * x: up and down to whole numbers."""
    if low is not None:
        low = mul(number(-1), quotient(mul(number(-1), low), divisor))
    return low, None if high is None else quotient(high, divisor)


def _without_factors(
    base: Polynomial, low: Expr | None, high: Expr | None, ranges: Ranges
) -> tuple[Polynomial, Expr | None, Expr | None]:
    """The base divided by what is free of the pair in all of its terms."""
    tile = ranges.registry.tile
    fixed = [Counter(one for one in m if not one.free & tile) for m in base.terms]
    common = fixed[0]
    for other in fixed[1:]:
        common = common & other
    for factor in common.elements():
        ranges.registry.positive(factor)
        low, high = _over(low, high, factor)
        terms = {}
        for monomial, coefficient in base.terms.items():
            place = monomial.index(factor)
            terms[monomial[:place] + monomial[place + 1 :]] = coefficient
        base = Polynomial(terms)
    return base, low, high
