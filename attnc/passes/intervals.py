"""Bounds of integer expressions over a tile of pairs, as trees over the tile's corners.

Does: interval arithmetic on polynomials over atoms. What depends on one index is exact: in closed
form where it rises or falls with one variable (an index, a remainder, a coordinate), else as a
Summary, its minimum and maximum found at run time. Facts about sums (`0 <= i - j`) narrow the range
of whatever is built on the same sum.
Needs: integers; divisors and symbolic factors are taken for positive, which the caller has to
require (`Registry.required`). Does not: decide anything.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, number, postorder, value
from attnc.passes.integers import (
    Monomial,
    Polynomial,
    add,
    below,
    choose,
    equal,
    greatest,
    least,
    mul,
    polynomial,
    quotient,
    remainder,
    sub,
    total,
    whole,
)
from attnc.schedule.regions import Summary

DEPTH = 40  # atoms within atoms; deeper ones are summed up, or unknown

Key = tuple[tuple[tuple[bytes, ...], int], ...]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Inclusive bounds, None where unknown.

    exact    both are reached in the tile, and they are those of the expression, not of a hull
    root     the variable with which the expression rises (`rising`) or falls, None if none is known
    """

    low: Expr | None
    high: Expr | None
    exact: bool = False
    root: bytes | None = None
    rising: bool = True


UNKNOWN = Bounds(None, None)


@dataclass
class Registry:
    """What the trees of one Region share: its summaries, and what they take for granted."""

    held: Index
    walked: Index
    summaries: dict[str, Summary] = field(default_factory=dict)
    required: dict[bytes, Expr] = field(default_factory=dict)

    @property
    def tile(self) -> frozenset[Index]:
        return frozenset((self.held, self.walked))

    def summary(self, expr: Expr) -> tuple[Expr, Expr]:
        """Values of the run-time minimum and maximum of an expression of one index."""
        (index,) = expr.free & self.tile
        inside = _inside(expr)
        digest = hashlib.blake2b(inside.digest + index.name.encode(), digest_size=4)
        first = next((one.array.name for one in postorder(expr) if one.op == "read"), index.name)
        name = f"range_{first.replace('.', '_')}_{digest.hexdigest()}"
        self.summaries.setdefault(name, Summary(name, index, inside))
        return value(f"{name}_low", expr.kind), value(f"{name}_high", expr.kind)

    def positive(self, expr: Expr) -> None:
        """Takes an expression of the grid and the call for positive."""
        condition = below(number(0), expr)
        if whole(condition) is None and not (condition.op == "number" and condition.attr):
            self.required[condition.digest] = condition


def _inside(expr: Expr) -> Expr:
    """The expression with 0 where a read falls outside its array: no visible pair asks for those
    points, and one more value only widens a range."""
    reads = [node for node in postorder(expr) if node.op == "read"]
    if all(at.op == "index" or not at.free for node in reads for at in node.args):
        return expr
    zero = number(0.0) if expr.kind == "real" else number(0)
    return Expr("default", (expr, zero), None, expr.kind)


class Ranges:
    """Bounds over one tile under the facts of one conjunction."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.facts: dict[Key, tuple[Expr | None, Expr | None]] = {}
        self.known: dict[bytes, Bounds] = {}
        self.summing = True

    def closed(self, base: Polynomial) -> bool:
        """Whether a base of one index is bounded exactly without a Summary."""
        self.summing, kept = False, self.known
        self.known = {}
        result = self.natural(base)
        self.summing, self.known = True, kept
        return result.exact

    def learn(self, base: Polynomial, low: Expr | None, high: Expr | None) -> None:
        """The range of a base (see normal), natural bounds and constraints together."""
        self.facts[key_of(base)] = (low, high)
        self.known.clear()

    def of(self, sums: Polynomial, depth: int = 0) -> Bounds:
        """Bounds of a polynomial."""
        free, constant = self.split(sums)
        if not free.terms:
            here = total(constant)
            return Bounds(here, here, True)
        base, scale = normal(free)
        fact = self.facts.get(key_of(base))
        known = None if fact is None else Bounds(*fact, True, _root(base))
        inner = known or self.natural(base, depth)
        return _shifted(_scaled(inner, number(scale), scale > 0), total(constant))

    def split(self, sums: Polynomial) -> tuple[Polynomial, Polynomial]:
        """The part that depends on the pair, and the rest."""
        tile = self.registry.tile
        free = {m: c for m, c in sums.terms.items() if any(one.free & tile for one in m)}
        rest = {m: c for m, c in sums.terms.items() if m not in free}
        return Polynomial(free), Polynomial(rest)

    def natural(self, base: Polynomial, depth: int = 0) -> Bounds:
        """Bounds of a base by its own terms: those of each index apart, then those of both."""
        groups: dict[frozenset[Index], dict[Monomial, int]] = {}
        for monomial, coefficient in base.terms.items():
            indices: frozenset[Index] = frozenset().union(*(one.free for one in monomial))
            groups.setdefault(indices & self.registry.tile, {})[monomial] = coefficient
        parts = [
            self._group(indices, Polynomial(terms), depth) for indices, terms in groups.items()
        ]
        result = parts[0]
        for part in parts[1:]:
            result = _sum(result, part, exact=len(groups) == 2 and all(len(g) == 1 for g in groups))
        return result

    def _group(self, indices: frozenset[Index], part: Polynomial, depth: int) -> Bounds:
        result: Bounds | None = None
        for monomial, coefficient in part.terms.items():
            here = self._monomial(monomial, coefficient, depth)
            if result is None:
                result = here
                continue
            together = result.root == here.root is not None and result.rising == here.rising
            result = _sum(result, here, exact=together and result.exact and here.exact)
        assert result is not None
        if len(indices) == 1 and not result.exact and self.summing:
            low, high = self.registry.summary(total(part))
            return Bounds(low, high, True)
        return result

    def _monomial(self, monomial: Monomial, coefficient: int, depth: int) -> Bounds:
        free = [factor for factor in monomial if factor.free & self.registry.tile]
        if len(free) != 1:
            return UNKNOWN
        rest = Polynomial({tuple(one for one in monomial if one is not free[0]): 1})
        factor = total(rest)
        inner = self.atom(free[0], depth)
        if factor.op != "number":
            self.registry.positive(factor)
        return _scaled(inner, mul(number(coefficient), factor), coefficient > 0)

    def atom(self, expr: Expr, depth: int = 0) -> Bounds:
        """Bounds of an expression that is no sum or product (inexact ones not yet a Summary)."""
        if expr.digest not in self.known:
            fact = self.facts.get(key_of(Polynomial({(expr,): 1})))
            if fact is not None:
                self.known[expr.digest] = Bounds(*fact, True, expr.digest)
            else:
                self.known[expr.digest] = self._atom(expr, depth)
        return self.known[expr.digest]

    def _atom(self, expr: Expr, depth: int) -> Bounds:
        if expr.op == "index":
            side = "held" if expr.attr == self.registry.held else "walked"
            low, high = value(f"{side}_low", "int"), value(f"{side}_high", "int")
            return Bounds(low, high, True, expr.digest)
        if depth > DEPTH or expr.kind != "int":
            return UNKNOWN
        if expr.op in ("floordiv", "mod") and not expr.args[1].free & self.registry.tile:
            self.registry.positive(expr.args[1])
            inner = self.of(polynomial(expr.args[0]), depth + 1)
            return _divided(inner, expr.args[1]) if expr.op == "floordiv" else _wrapped(inner, expr)
        if expr.op in ("min", "max"):
            return self._extreme(expr, depth)
        if expr.op == "abs":
            return _absolute(self.of(polynomial(expr.args[0]), depth + 1), expr)
        if expr.op == "where" and not expr.args[0].free & self.registry.tile:
            yes, no = (self.of(polynomial(arg), depth + 1) for arg in expr.args[1:])
            return _chosen(expr.args[0], yes, no)
        return UNKNOWN

    def _extreme(self, expr: Expr, depth: int) -> Bounds:
        pick = least if expr.op == "min" else greatest
        parts = [self.of(polynomial(arg), depth + 1) for arg in expr.args]
        moving = [part for part in parts if part.root is not None]
        lows = [part.low for part in parts if part.low is not None]
        highs = [part.high for part in parts if part.high is not None]
        # One unknown side of a min leaves its other sides as upper bounds.
        low = pick(lows) if len(lows) == len(parts) else None
        high = pick(highs) if len(highs) == len(parts) else None
        if expr.op == "min" and highs:
            high = pick(highs)
        if expr.op == "max" and lows:
            low = pick(lows)
        one_way = len({(part.root, part.rising) for part in moving}) == 1
        fixed = all(part.exact for part in moving) and all(
            part.exact and part.low == part.high for part in parts if part.root is None
        )
        if fixed and not moving:
            return Bounds(low, high, True)
        if one_way and fixed:
            return Bounds(low, high, True, moving[0].root, moving[0].rising)
        return Bounds(low, high)


def key_of(base: Polynomial) -> Key:
    """What tells bases apart."""
    return tuple(sorted((tuple(f.digest for f in m), c) for m, c in base.terms.items()))


def normal(free: Polynomial) -> tuple[Polynomial, int]:
    """A polynomial as scale * base: coefficients without a common divisor, the first (in a fixed
    order of terms) positive."""
    first = min(free.terms, key=lambda monomial: tuple(factor.digest for factor in monomial))
    scale = math.gcd(*free.terms.values()) * (1 if free.terms[first] > 0 else -1)
    return Polynomial({m: c // scale for m, c in free.terms.items()}), scale


def _root(base: Polynomial) -> bytes:
    if len(base.terms) == 1:
        ((monomial, coefficient),) = base.terms.items()
        if len(monomial) == 1 and coefficient == 1:
            return monomial[0].digest
    return repr(key_of(base)).encode()


# --- arithmetic ---------------------------------------------------------------------------------


def _scaled(inner: Bounds, factor: Expr, rising: bool) -> Bounds:
    """factor * inner, whose sign is known."""
    low = None if inner.low is None else mul(factor, inner.low)
    high = None if inner.high is None else mul(factor, inner.high)
    if not rising:
        low, high = high, low
    return Bounds(low, high, inner.exact, inner.root, inner.rising == rising)


def _shifted(inner: Bounds, by: Expr) -> Bounds:
    low = None if inner.low is None else add(inner.low, by)
    high = None if inner.high is None else add(inner.high, by)
    return Bounds(low, high, inner.exact, inner.root, inner.rising)


def _sum(left: Bounds, right: Bounds, exact: bool) -> Bounds:
    low = None if left.low is None or right.low is None else add(left.low, right.low)
    high = None if left.high is None or right.high is None else add(left.high, right.high)
    exact = exact and left.exact and right.exact
    return Bounds(low, high, exact, left.root if left.root == right.root else None, left.rising)


def _divided(inner: Bounds, divisor: Expr) -> Bounds:
    low = None if inner.low is None else quotient(inner.low, divisor)
    high = None if inner.high is None else quotient(inner.high, divisor)
    return Bounds(low, high, inner.exact, inner.root, inner.rising)


def _wrapped(inner: Bounds, expr: Expr) -> Bounds:
    """A remainder: as it is while the tile stays within one period, else anything."""
    modulus = expr.args[1]
    last = sub(modulus, number(1))
    if inner.low is None or inner.high is None:
        return Bounds(number(0), last)
    if inner.low == inner.high:
        here = remainder(inner.low, modulus)
        return Bounds(here, here, inner.exact)
    one = equal(quotient(inner.low, modulus), quotient(inner.high, modulus))
    low = choose(one, remainder(inner.low, modulus), number(0))
    high = choose(one, remainder(inner.high, modulus), last)
    return Bounds(low, high, inner.exact and inner.root is not None, expr.digest)


def _absolute(inner: Bounds, expr: Expr) -> Bounds:
    if inner.low is None or inner.high is None:
        return Bounds(number(0), None)
    mirrored = mul(number(-1), inner.low), mul(number(-1), inner.high)
    low = greatest((number(0), inner.low, mirrored[1]))
    high = greatest((mirrored[0], inner.high))
    return Bounds(low, high, inner.exact and inner.root is not None, expr.digest)


def _chosen(condition: Expr, yes: Bounds, no: Bounds) -> Bounds:
    low = None if yes.low is None or no.low is None else choose(condition, yes.low, no.low)
    high = None if yes.high is None or no.high is None else choose(condition, yes.high, no.high)
    same = yes.exact and no.exact and (yes.root, yes.rising) == (no.root, no.rising)
    return Bounds(low, high, same, yes.root if same else None, yes.rising)
