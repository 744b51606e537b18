"""The mask over a tile: can a pair be visible, are all of them, and in which spans.

Does: three-valued interval arithmetic on the mask's formula. `possible` is the disjunctive form of
the mask, one conjunction at a time: what a conjunction states about one sum (`0 <= i - j`,
`i - j < w`) is intersected, and narrows what is built on it (`(i - j) % d == 0`). `certain` is the
same for the negation: no pair is hidden. What one index decides and no closed form bounds exactly
becomes a Summary, found at run time; a table of truths that both decide (`chosen[i, j // 64]`) is
asked for the box of entries that a tile reads.
Needs: a bool tree over the pair and grid indices; lengths and positions below 2**30, params within
2**62. A Summary ranges over the valid positions of its tile; a real one with a NaN among its
entries is NaN on both sides.
Does not: ever claim what is not so (a divisor that is not positive, a sum that could leave 64 bits
make a tile mixed); sample; know an operator, a tile size or a device. The trees hold for every
range of positions, aligned or not.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from attnc.expressions.index import Index
from attnc.expressions.tree import COMPARISON, TRUE, Expr, call, number, postorder
from attnc.passes.boxes import WHOLE, Box, boxes
from attnc.passes.constraints import Constraint, constraint
from attnc.passes.formula import Conjunction, Disjunction, Literal, disjunctions
from attnc.passes.guards import safe
from attnc.passes.integers import (
    Polynomial,
    add,
    at_most,
    both,
    either,
    greatest,
    least,
    negation,
    opposite,
    polynomial,
    remainder,
    sub,
    whole,
)
from attnc.passes.intervals import Key, Ranges, Registry, key_of
from attnc.passes.reals import possible_comparison
from attnc.passes.segments import segments
from attnc.schedule.regions import Region, Summary

BOXES = 48  # a mask of more conjunctions, times pairs of boxes, is bounded over whole tiles


def regions(visible: Expr, held: Index, walked: Index) -> Region:
    """The Region of a mask for tiles of `held` positions against ranges of `walked` ones, in
    either loop order."""
    registry = Registry(held, walked)
    shown, hidden = disjunctions(visible, registry.tile)
    parts = [boxes(visible, index, registry) for index in (held, walked)]
    if len(shown) * len(parts[0]) * len(parts[1]) > BOXES:
        parts = [WHOLE, WHOLE]
    some_visible = either(
        *(_possible_in(shown, registry, pair) for pair in itertools.product(*parts))
    )
    some_hidden = possible(hidden, registry)
    taken = tuple(registry.required.values())
    may = either(opposite(both(*taken, safe(some_visible, *taken))), some_visible)
    must = both(*taken, safe(some_hidden, *taken), opposite(some_hidden))
    return Region(may, must, _used(registry, may, must), segments(shown, registry))


def _used(registry: Registry, *roots: Expr) -> tuple[Summary, ...]:
    names = {str(node.attr) for node in postorder(*roots) if node.op == "value"}
    return tuple(
        summary
        for name, summary in registry.summaries.items()
        if f"{name}_low" in names or f"{name}_high" in names
    )


def possible(disjunction: Disjunction, registry: Registry, pair: tuple[Box, ...] = ()) -> Expr:
    """Whether a pair of the tile may satisfy a disjunction: one of its conjunctions."""
    return either(*(_possible_together(one, registry, pair) for one in disjunction))


def _possible_in(shown: Disjunction, registry: Registry, pair: tuple[Box, ...]) -> Expr:
    """Whether a pair of two boxes of the tile may be visible."""
    return both(*(box.exists for box in pair), possible(shown, registry, pair))


@dataclass
class _Fact:
    """What a conjunction says about one base."""

    base: Polynomial
    atom: Expr | None
    lows: list[Expr] = field(default_factory=list)
    highs: list[Expr] = field(default_factory=list)

    def add(self, found: Constraint) -> None:
        if found.low is not None:
            self.lows.append(found.low)
        if found.high is not None:
            self.highs.append(found.high)


def _possible_together(literals: Conjunction, registry: Registry, pair: tuple[Box, ...]) -> Expr:
    ranges = Ranges(registry)
    for box in pair:
        box.teach(ranges)
    facts: dict[Key, _Fact] = {}
    others: list[Literal] = []
    tests: list[Expr] = []
    for literal in literals:
        if literal.nested is not None:
            tests.append(possible(literal.nested, registry, pair))
        elif not literal.atom.free & registry.tile:
            tests.append(literal.atom if literal.holds else negation(literal.atom))
        elif _compares_integers(literal.atom) and not _better_as_truth(literal, ranges):
            found = constraint(literal.atom, literal.holds, ranges)
            facts.setdefault(key_of(found.base), _Fact(found.base, found.atom)).add(found)
        else:
            others.append(literal)
    for fact in sorted(facts.values(), key=lambda one: _rank(one, registry)):
        tests += _tests(fact, ranges)
    tests += [_test(literal, ranges) for literal in others]
    return both(*tests)


def _compares_integers(atom: Expr) -> bool:
    return atom.op in COMPARISON and all(arg.kind == "int" for arg in atom.args)


def _better_as_truth(literal: Literal, ranges: Ranges) -> bool:
    """An equality of one index without a closed form: its truth is exact at run time, a range is
    not."""
    atom = literal.atom
    if len(atom.free & ranges.registry.tile) != 1 or atom.op != "eq":
        return False
    base = constraint(atom, literal.holds, ranges).base
    return bool(base.terms) and not ranges.closed(base)


def _rank(fact: _Fact, registry: Registry) -> tuple[int, int, int, int]:
    """Indices first, then what is built on one index, then sums over pairs, then remainders of
    those."""
    indices: set[Index] = set()
    height = 0
    for factor in (one for monomial in fact.base.terms for one in monomial):
        indices |= factor.free & registry.tile
        height = max(height, sum(1 for _ in postorder(factor)))
    wraps = fact.atom is not None and fact.atom.op == "mod" and len(indices) == 2
    return len(indices), int(wraps), len(fact.base.terms), height


def _tests(fact: _Fact, ranges: Ranges) -> list[Expr]:
    """Whether the range of a base can meet its facts; teaches `ranges` what is left of it."""
    if not fact.base.terms:
        zero = number(0)
        return [at_most(low, zero) for low in fact.lows] + [at_most(zero, h) for h in fact.highs]
    if fact.atom is not None and fact.atom.op == "mod":
        return _wrapped_tests(fact, fact.atom, ranges)
    bounds = ranges.of(fact.base)
    lows = fact.lows + ([bounds.low] if bounds.low is not None else [])
    highs = fact.highs + ([bounds.high] if bounds.high is not None else [])
    tests = [
        at_most(low, high)
        for low in lows
        for high in highs
        if not (low is bounds.low and high is bounds.high)
    ]
    ranges.learn(fact.base, greatest(lows) if lows else None, least(highs) if highs else None)
    return tests


def _wrapped_tests(fact: _Fact, atom: Expr, ranges: Ranges) -> list[Expr]:
    """Whether some x of a range has a remainder in low .. high: the first at or after its begin
    with remainder `low` is in it, or its begin has such a remainder itself."""
    dividend, modulus = atom.args
    if modulus.free & ranges.registry.tile:
        return []
    if whole(modulus) == 1:
        return [at_most(low, number(0)) for low in fact.lows] + [
            at_most(number(0), high) for high in fact.highs
        ]
    bounds = ranges.of(fact.base)
    last = sub(modulus, number(1))
    low, high = greatest((number(0), *fact.lows)), least((last, *fact.highs))
    lows, highs = [number(0), *fact.lows], [last, *fact.highs]
    tests = [at_most(a, b) for a in lows for b in highs]
    inner = ranges.of(polynomial(dividend))
    if inner.low is not None and inner.high is not None:
        first = add(inner.low, remainder(sub(low, inner.low), modulus))
        meets = at_most(first, inner.high)
        if low != high:
            behind = remainder(sub(inner.low, low), modulus)
            meets = either(meets, at_most(behind, sub(high, low)))
        tests.append(meets)
    ends = [end for end in (bounds.low, bounds.high) if end is not None]
    if len(ends) == 2:
        ranges.learn(fact.base, greatest((low, ends[0])), least((high, ends[1])))
    return tests


def _test(literal: Literal, ranges: Ranges) -> Expr:
    """Comparisons of reals, reads, and whatever else has a truth: what one index decides by its
    truth at run time, what takes both by intervals, else "maybe"."""
    atom = literal.atom
    if len(atom.free & ranges.registry.tile) == 1:
        truth = call("where", atom, number(1), number(0))
        low, high = ranges.registry.summary(truth)
        return at_most(number(1), high) if literal.holds else at_most(low, number(0))
    if atom.op in COMPARISON and all(arg.kind in ("int", "real") for arg in atom.args):
        found = possible_comparison(atom, literal.holds, ranges)
        return TRUE if found is None else found
    if atom.op == "read":
        return _read_test(atom, literal.holds, ranges)
    return TRUE


def _read_test(atom: Expr, holds: bool, ranges: Ranges) -> Expr:
    """Whether a table of truths has an entry that holds (or one that does not) in the box that a
    tile reads."""
    corners: list[Expr] = []
    for position in atom.args:
        bounds = ranges.of(polynomial(position))
        if bounds.low is None or bounds.high is None:
            return TRUE
        corners += (bounds.low, bounds.high)
    if holds:
        return Expr("some", tuple(corners), atom.array, "bool")
    return negation(Expr("every", tuple(corners), atom.array, "bool"))
