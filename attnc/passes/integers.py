"""Integer arithmetic on trees, folded as it is built: what the bounds of `regions` are made of.

Does: sums as polynomials (sorted monomials with whole coefficients), so that equal terms cancel and
comparisons come out in one form (`held_low < walked_high + window`, nothing negative on a side);
minima, maxima, quotients and truths without what is known.
Needs: integers and truths, pure. Does not: know what a leaf ranges over, or touch reals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from attnc.expressions.tree import FALSE, TRUE, Expr, call, number

Monomial = tuple[Expr, ...]
EXPANSION = 24  # a product of sums that has more terms than this stays a product
NESTING = 24  # products within products that are looked into

FLIPPED = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "eq": "ne", "ne": "eq"}


@dataclass(frozen=True, eq=False, slots=True)
class Polynomial:
    """A sum of monomials with whole coefficients, none of them 0. The empty monomial is 1."""

    terms: Mapping[Monomial, int]

    @property
    def constant(self) -> int | None:
        """The value of a polynomial that is a number."""
        if not self.terms:
            return 0
        return self.terms[()] if len(self.terms) == 1 and () in self.terms else None

    def __add__(self, other: Polynomial) -> Polynomial:
        terms = dict(self.terms)
        for monomial, coefficient in other.terms.items():
            terms[monomial] = terms.get(monomial, 0) + coefficient
        return Polynomial({key: value for key, value in terms.items() if value})

    def __mul__(self, other: Polynomial) -> Polynomial:
        terms: dict[Monomial, int] = {}
        for left, a in self.terms.items():
            for right, b in other.terms.items():
                key = tuple(sorted((*left, *right), key=lambda factor: factor.digest))
                terms[key] = terms.get(key, 0) + a * b
        return Polynomial({key: value for key, value in terms.items() if value})

    def __neg__(self) -> Polynomial:
        return Polynomial({key: -value for key, value in self.terms.items()})

    def __sub__(self, other: Polynomial) -> Polynomial:
        return self + -other


ZERO = Polynomial({})
ONE = Polynomial({(): 1})


def polynomial(expr: Expr, depth: int = 0) -> Polynomial:
    """An integer tree as a polynomial over its parts that are not sums, products or numbers."""
    terms: dict[Monomial, int] = {}
    stack: list[tuple[Expr, int]] = [(expr, 1)]
    while stack:
        node, scale = stack.pop()
        if node.op == "number":
            assert isinstance(node.attr, int)
            terms[()] = terms.get((), 0) + scale * node.attr
        elif node.op in ("add", "sub"):
            sign = 1 if node.op == "add" else -1
            stack.append((node.args[0], scale))
            stack.extend((arg, sign * scale) for arg in node.args[1:])
        elif node.op == "neg":
            stack.append((node.args[0], -scale))
        elif node.op in ("floordiv", "mod") and whole(node.args[1]) == 1:
            if node.op == "floordiv":
                stack.append((node.args[0], scale))
        elif node.op == "mul":
            for monomial, coefficient in _product(node, depth).terms.items():
                terms[monomial] = terms.get(monomial, 0) + scale * coefficient
        else:
            terms[(node,)] = terms.get((node,), 0) + scale
    return Polynomial({key: value for key, value in terms.items() if value})


def _product(node: Expr, depth: int) -> Polynomial:
    if depth >= NESTING:
        return Polynomial({(node,): 1})
    result = ONE
    for arg in node.args:
        factor = polynomial(arg, depth + 1)
        if len(result.terms) * len(factor.terms) > EXPANSION:
            return Polynomial({(node,): 1})
        result = result * factor
    return result


def total(sums: Polynomial) -> Expr:
    """The tree of a polynomial: positive terms first, then the negative ones, then the number."""
    constant = sums.terms.get((), 0)
    positive = [(m, c) for m, c in sums.terms.items() if m and c > 0]
    negative = [(m, c) for m, c in sums.terms.items() if m and c < 0]
    result: Expr | None = None
    if not positive and constant > 0:
        result, constant = number(constant), 0
    for monomial, coefficient in positive:
        term = _term(monomial, coefficient)
        result = term if result is None else call("add", result, term)
    for monomial, coefficient in negative:
        term = _term(monomial, -coefficient)
        result = call("neg", term) if result is None else call("sub", result, term)
    if result is None:
        return number(constant)
    if constant == 0:
        return result
    return call("add" if constant > 0 else "sub", result, number(abs(constant)))


def _term(monomial: Monomial, coefficient: int) -> Expr:
    result: Expr | None = None if coefficient == 1 else number(coefficient)
    for factor in monomial:
        result = factor if result is None else call("mul", result, factor)
    assert result is not None
    return result


def whole(expr: Expr) -> int | None:
    """The value of an integer constant."""
    if expr.op != "number" or isinstance(expr.attr, bool) or not isinstance(expr.attr, int):
        return None
    return expr.attr


def add(*parts: Expr) -> Expr:
    result = ZERO
    for part in parts:
        result = result + polynomial(part)
    return total(result)


def sub(left: Expr, right: Expr) -> Expr:
    return total(polynomial(left) - polynomial(right))


def mul(left: Expr, right: Expr) -> Expr:
    return total(polynomial(call("mul", left, right)))


def difference(left: Expr, right: Expr) -> int | None:
    """left - right, where it is a known number."""
    return (polynomial(left) - polynomial(right)).constant


def least(parts: Iterable[Expr]) -> Expr:
    return _extreme("min", parts)


def greatest(parts: Iterable[Expr]) -> Expr:
    return _extreme("max", parts)


def _extreme(op: str, parts: Iterable[Expr]) -> Expr:
    """min or max of the parts, without those that another is known to beat."""
    kept: list[Expr] = []
    flat = [one for part in parts for one in (part.args if part.op == op else (part,))]
    for part in flat:
        beaten = False
        for place, other in enumerate(kept):
            ahead = difference(part, other)
            if ahead is None:
                continue
            if (ahead < 0) == (op == "min") and ahead != 0:
                kept[place] = part
            beaten = True
            break
        if not beaten:
            kept.append(part)
    result = kept[0]
    for part in kept[1:]:
        result = call(op, result, part)
    return result


def quotient(left: Expr, divisor: Expr) -> Expr:
    """Floor division by a divisor that is not 0."""
    a, d = whole(left), whole(divisor)
    if d == 1:
        return left
    if a is not None and d:
        return number(a // d)
    if a == 0:
        return left
    return call("floordiv", left, divisor)


def remainder(left: Expr, divisor: Expr) -> Expr:
    a, d = whole(left), whole(divisor)
    if d == 1:
        return number(0)
    if a is not None and d:
        return number(a % d)
    return call("mod", left, divisor)


# --- truths -------------------------------------------------------------------------------------


def at_most(left: Expr, right: Expr) -> Expr:
    """left <= right."""
    room = polynomial(right) - polynomial(left)
    if room.constant is not None:
        return TRUE if room.constant >= 0 else FALSE
    common = math.gcd(*(value for key, value in room.terms.items() if key))
    slack = room.terms.get((), 0) // common  # whole numbers: rounded down
    room = Polynomial({key: value // common for key, value in room.terms.items() if key})
    above = {key: value for key, value in room.terms.items() if value > 0}
    below = {key: -value for key, value in room.terms.items() if value < 0}
    if slack == -1:
        return call("lt", total(Polynomial(below)), total(Polynomial(above)))
    side = above if slack > 0 else below
    if slack:
        side[()] = abs(slack)
    return call("le", total(Polynomial(below)), total(Polynomial(above)))


def below(left: Expr, right: Expr) -> Expr:
    """left < right."""
    return at_most(add(left, number(1)), right)


def equal(left: Expr, right: Expr) -> Expr:
    ahead = difference(left, right)
    if ahead is not None:
        return TRUE if ahead == 0 else FALSE
    return call("eq", left, right)


def both(*parts: Expr) -> Expr:
    return _joined("and", TRUE, FALSE, parts)


def either(*parts: Expr) -> Expr:
    return _joined("or", FALSE, TRUE, parts)


def _joined(op: str, neutral: Expr, final: Expr, parts: tuple[Expr, ...]) -> Expr:
    kept: dict[bytes, Expr] = {}
    for part in parts:
        if part == final:
            return final
        if part != neutral and part.digest not in kept:
            if negation(part).digest in kept:
                return final
            kept[part.digest] = part
    # A balanced tree: conjunctions of thousands stay shallow.
    level = list(kept.values())
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        level = [call(op, *pair) for pair in pairs] + level[len(level) // 2 * 2 :]
    return level[0] if level else neutral


def negation(part: Expr) -> Expr:
    """not part, of comparisons of integers the opposite one."""
    if part.op == "number":
        return FALSE if part.attr else TRUE
    if part.op == "not":
        return part.args[0]
    if part.op in FLIPPED and all(arg.kind == "int" for arg in part.args):
        left, right = part.args
        if part.op in ("lt", "le"):  # keep to < and <=, sides exchanged
            return call("le" if part.op == "lt" else "lt", right, left)
        return call(FLIPPED[part.op], left, right)
    if part.op in ("and", "or") and all(arg.op != "and" and arg.op != "or" for arg in part.args):
        return call("or" if part.op == "and" else "and", *(negation(arg) for arg in part.args))
    return call("not", part)


def opposite(root: Expr) -> Expr:
    """not root, pushed down to the comparisons."""
    done: dict[bytes, Expr] = {}
    stack: list[tuple[Expr, bool]] = [(root, False)]
    while stack:
        node, ready = stack.pop()
        if node.digest in done:
            continue
        if node.op not in ("and", "or"):
            done[node.digest] = negation(node)
        elif ready:
            parts = tuple(done[arg.digest] for arg in node.args)
            done[node.digest] = either(*parts) if node.op == "and" else both(*parts)
        else:
            stack.append((node, True))
            stack.extend((arg, False) for arg in node.args)
    return done[root.digest]


def choose(condition: Expr, yes: Expr, no: Expr) -> Expr:
    if condition.op == "number":
        return yes if condition.attr else no
    return yes if yes == no else call("where", condition, yes, no)
