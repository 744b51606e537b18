"""The visible span of a held tile in closed form: which walked positions to visit, and which need
no mask.

A conjunction like `0 <= i - j and i - j < w` says for each held position where the walked ones
begin and end. Where both bounds rise or fall with the same variable of the held index, a tile's
rows together see one span, from the least begin to the greatest end, and all of them see the one
from the greatest begin to the least end. A disjunction is several such spans, put in order and cut
so that none overlaps another.

Does: this for masks whose every literal is a bound of the walked index by the held one, a
condition on held rows, on the grid, or a small dilation. Needs: nothing. Does not: approximate; a
mask that does not fit has no segments, and its tiles are found by the Region's predicate.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from attnc.expressions.index import Index
from attnc.expressions.tree import TRUE, Expr, length, number, position, start
from attnc.passes.constraints import Constraint, constraint
from attnc.passes.formula import Conjunction, Disjunction
from attnc.passes.guards import safe
from attnc.passes.integers import (
    Polynomial,
    add,
    at_most,
    both,
    choose,
    difference,
    greatest,
    least,
    mul,
    negation,
    polynomial,
    quotient,
    remainder,
    sub,
    total,
    whole,
)
from attnc.passes.intervals import Bounds, Key, Ranges, Registry, key_of
from attnc.schedule.regions import Segment

SPANS = 3  # more are found faster by the predicate
DILATION = 16  # with a larger one, whole tiles lie between the keys of a row

ONE = number(1)
ZERO = number(0)


class _Unfit(Exception):
    """The mask has no closed spans."""


@dataclass(frozen=True, slots=True)
class _Span:
    """The walked positions first .. stop (half open) of one conjunction; None where it has no
    bound. `some`: there are held positions in the tile that it is about; `all`: it is about every
    one."""

    first: Expr | None
    full_first: Expr | None
    full_stop: Expr | None
    stop: Expr | None
    some: Expr = TRUE
    all: Expr = TRUE


def segments(shown: Disjunction, registry: Registry) -> tuple[Segment, ...]:
    """Disjoint spans in order that hold every visible pair of a held tile; none if there is no
    closed form."""
    local = Registry(registry.held, registry.walked)
    try:
        spans = _merged([_span(conjunction, local) for conjunction in shown], local)
        if not spans or len(spans) > SPANS or local.summaries:
            return ()
        result = _apart([_closed(span, local) for span in _ordered(spans)])
    except _Unfit:
        return ()
    ends = [end for one in result for end in (one.start, one.full_start, one.full_stop, one.stop)]
    taken = tuple(local.required.values())
    guard = both(*taken, safe(*ends, *taken))
    if guard == TRUE:
        return result
    low, high = _axis(registry.walked)
    rest = [Segment(high, high, high, high)] * (len(result) - 1)
    mixed = [Segment(low, low, low, high), *rest]
    return tuple(_choose(guard, one, other) for one, other in zip(result, mixed, strict=True))


def _axis(walked: Index) -> tuple[Expr, Expr]:
    """The first position of the walked axis, and the one after its last."""
    shifted = walked.axis.shifted or walked.axis.low is not None
    first = start(walked.axis) if shifted else ZERO
    return first, add(first, length(walked.axis))


def _choose(condition: Expr, yes: Segment, no: Segment) -> Segment:
    return Segment(
        choose(condition, yes.start, no.start),
        choose(condition, yes.full_start, no.full_start),
        choose(condition, yes.full_stop, no.full_stop),
        choose(condition, yes.stop, no.stop),
    )


# --- one conjunction ----------------------------------------------------------------------------


@dataclass
class _Sides:
    """Bounds of the walked index, by the held ones of a tile: each as an interval over the tile."""

    firsts: list[Bounds] = field(default_factory=list)
    stops: list[Bounds] = field(default_factory=list)


def _span(literals: Conjunction, registry: Registry) -> _Span:
    ranges = Ranges(registry)
    held: dict[Key, list[Constraint]] = {}
    pairs: list[Constraint] = []
    some: list[Expr] = []
    for literal in literals:
        atom = literal.atom
        if literal.nested is not None:
            raise _Unfit
        if not atom.free & registry.tile:
            some.append(atom if literal.holds else negation(atom))
            continue
        if any(arg.kind != "int" for arg in atom.args) or atom.op not in _COMPARED:
            raise _Unfit
        found = constraint(atom, literal.holds, ranges)
        if registry.walked in _indices(found.base):
            pairs.append(found)
        else:
            held.setdefault(key_of(found.base), []).append(found)
    every = list(some)
    for facts in held.values():
        _narrow(facts, ranges, some, every)
    sides = _Sides()
    for pair in _without_dilation(pairs, registry):
        _bound(pair, ranges, sides)
    full = number(False) if any(_modulus(one) for one in pairs) else both(*every)
    return _Span(
        _side(sides.firsts, "low", greatest),
        _side(sides.firsts, "high", greatest),
        _side(sides.stops, "low", least),
        _side(sides.stops, "high", least),
        both(*some),
        full,
    )


_COMPARED = ("lt", "le", "gt", "ge", "eq")


def _indices(base: Polynomial) -> frozenset[Index]:
    return frozenset().union(*(one.free for monomial in base.terms for one in monomial))


def _narrow(facts: list[Constraint], ranges: Ranges, some: list[Expr], every: list[Expr]) -> None:
    """A condition on held rows: which there are, whether it is about all."""
    base = facts[0].base
    lows = [fact.low for fact in facts if fact.low is not None]
    highs = [fact.high for fact in facts if fact.high is not None]
    if not base.terms:
        tests = [at_most(low, ZERO) for low in lows] + [at_most(ZERO, high) for high in highs]
        some += tests
        every += tests
        return
    bounds = ranges.of(base)
    if bounds.low is None or bounds.high is None or facts[0].atom is None or not bounds.exact:
        raise _Unfit
    if facts[0].atom.op == "mod":
        raise _Unfit  # rows in between are about nothing: no one span
    some += [at_most(low, bounds.high) for low in lows]
    some += [at_most(bounds.low, high) for high in highs]
    every += [at_most(low, bounds.low) for low in lows]
    every += [at_most(bounds.high, high) for high in highs]
    ranges.learn(base, greatest([bounds.low, *lows]), least([bounds.high, *highs]))


def _modulus(pair: Constraint) -> int | None:
    """m of a constraint `x % m == r` with a small m."""
    atom = pair.atom
    if atom is None or atom.op != "mod":
        return None
    m = whole(atom.args[1])
    same = pair.low is not None and pair.low == pair.high
    if m is None or not 1 < m <= DILATION or not same:
        raise _Unfit
    return m


def _without_dilation(pairs: list[Constraint], registry: Registry) -> list[Constraint]:
    """The constraints without `x % m == r`, those on x itself drawn in to where that holds."""
    result = [pair for pair in pairs if _modulus(pair) is None]
    for pair in pairs:
        m = _modulus(pair)
        if m is None:
            continue
        assert pair.atom is not None and pair.low is not None
        inner = polynomial(pair.atom.args[0])
        if _indices(inner) != registry.tile:
            raise _Unfit
        modulus, residue = number(m), pair.low
        for place, other in enumerate(result):
            for sign in (1, -1):
                base = other.base if sign > 0 else -other.base
                if (inner - base).constant is not None:
                    # x = sign * base + shift, so base == (residue - shift) * sign, modulo m
                    shift = number((inner - base).constant or 0)
                    target = mul(number(sign), sub(residue, shift))
                    result[place] = _drawn_in(other, target, modulus)
    return result


def _drawn_in(pair: Constraint, residue: Expr, modulus: Expr) -> Constraint:
    low, high = pair.low, pair.high
    if low is not None:
        low = add(low, remainder(sub(residue, low), modulus))
    if high is not None:
        high = sub(high, remainder(sub(high, residue), modulus))
    return Constraint(pair.base, low, high)


def _bound(pair: Constraint, ranges: Ranges, sides: _Sides) -> None:
    """low <= c * w + rest <= high, w the walked index or a floor division of it, as bounds of w."""
    registry = ranges.registry
    walked = {m: c for m, c in pair.base.terms.items() if any(registry.walked in f.free for f in m)}
    if len(walked) != 1:
        raise _Unfit
    ((monomial, scale),) = walked.items()
    rest = Polynomial({m: c for m, c in pair.base.terms.items() if m not in walked})
    if len(monomial) != 1:
        raise _Unfit
    low = None if pair.low is None else polynomial(pair.low) - rest
    high = None if pair.high is None else polynomial(pair.high) - rest
    if scale < 0:
        low, high = (None if high is None else -high), (None if low is None else -low)
    if abs(scale) != 1:
        low = None if low is None else -_floor(-low, abs(scale))
        high = None if high is None else _floor(high, abs(scale))
    atom, unit = monomial[0], ONE
    if atom.op == "floordiv" and not atom.args[1].free & registry.tile:
        atom, unit = atom.args
        registry.positive(unit)
    if atom != position(registry.walked):
        raise _Unfit
    if low is not None:
        sides.firsts.append(_moving(low * polynomial(unit), ranges))
    if high is not None:
        sides.stops.append(_moving((high + polynomial(ONE)) * polynomial(unit), ranges))


def _floor(sums: Polynomial, divisor: int) -> Polynomial:
    return polynomial(quotient(total(sums), number(divisor)))


def _moving(bound: Polynomial, ranges: Ranges) -> Bounds:
    """A bound of the walked index over the held tile, which it has to follow in one direction."""
    if ranges.registry.walked in _indices(bound):
        raise _Unfit
    free, _ = ranges.split(bound)
    if free.terms and len(free.terms) == 1 and not ranges.closed(free):
        raise _Unfit
    found = ranges.of(bound)
    if found.low is None or found.high is None or not found.exact:
        raise _Unfit
    return found


def _side(bounds: list[Bounds], corner: str, pick: object) -> Expr | None:
    """The least or greatest of several bounds, if they move together."""
    if not bounds:
        return None
    moving = {(one.root, one.rising) for one in bounds if one.low != one.high}
    if len(moving) > 1:
        raise _Unfit
    ends = [getattr(one, corner) for one in bounds]
    return greatest(ends) if pick is greatest else least(ends)


# --- several ------------------------------------------------------------------------------------


def _merged(spans: list[_Span], registry: Registry) -> list[_Span]:
    """Spans that have no begin are one, up to the farthest end; those without an end likewise."""
    low, high = _axis(registry.walked)
    heads = [span for span in spans if span.first is None]
    tails = [span for span in spans if span.first is not None and span.stop is None]
    rest = [span for span in spans if span.first is not None and span.stop is not None]
    if len(heads) > 1:
        stops = [choose(one.some, one.stop or high, low) for one in heads]
        full = [choose(one.all, one.full_stop or high, low) for one in heads]
        heads = [_Span(None, None, greatest(full), greatest(stops))]
    if len(tails) > 1:
        firsts = [choose(one.some, one.first or low, high) for one in tails]
        full = [choose(one.all, one.full_first or low, high) for one in tails]
        tails = [_Span(least(firsts), least(full), None, None)]
    return [*heads, *rest, *tails]


def _ordered(spans: list[_Span]) -> list[_Span]:
    """By their begin, which has to be known: one without a begin comes first."""
    result: list[_Span] = []
    for span in spans:
        place = len(result)
        while place and _before(span, result[place - 1]):
            place -= 1
        result.insert(place, span)
    for left, right in itertools.pairwise(result):
        if not _before(left, right):
            raise _Unfit
    return result


def _before(left: _Span, right: _Span) -> bool:
    """Whether left is known not to begin after right."""
    if left.first is None:
        return True
    if right.first is None:
        return False
    ahead = difference(right.first, left.first)
    return ahead is not None and ahead >= 0


def _closed(span: _Span, registry: Registry) -> Segment:
    """The span with the ends of the axis where it has none, empty where it is about no held row."""
    low, high = _axis(registry.walked)
    first = low if span.first is None else span.first
    stop = high if span.stop is None else span.stop
    full_first = low if span.full_first is None else span.full_first
    full_stop = high if span.full_stop is None else span.full_stop
    full_stop = choose(span.all, full_stop, full_first)
    return Segment(first, full_first, full_stop, choose(span.some, stop, first))


def _apart(found: list[Segment]) -> tuple[Segment, ...]:
    """Each span cut where an earlier one reaches into it (an empty one reaches nowhere: its stop is
    not after its start, and that not after the next)."""
    result: list[Segment] = []
    for one in found:
        reach = [earlier.stop for earlier in result]
        result.append(
            Segment(
                greatest([one.start, *reach]),
                greatest([one.full_start, *reach]),
                one.full_stop,
                one.stop,
            )
        )
    return tuple(result)
