"""Linear forms: sums of real terms with constant coefficients, in which equal terms cancel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attnc.expressions.tree import Expr, number, number_of, postorder
from attnc.passes.constants import LOG2_E
from attnc.passes.factors import Factors, addends_of, factors_of, total
from attnc.passes.simplify import make

Rank = Callable[[Expr], int]


@dataclass(frozen=True, slots=True)
class Linear:
    """constant + the sum of coefficient * term."""

    terms: tuple[tuple[Expr, float], ...] = ()
    constant: float = 0.0

    @staticmethod
    def of(expr: Expr, scale: float = 1.0) -> Linear:
        """scale * expr, taken apart at sums and constant factors."""
        found = Linear()
        for addend, minus in addends_of(expr):
            found = found + _term(addend, -scale if minus else scale)
        return found

    def __add__(self, other: Linear) -> Linear:
        merged = dict(self.terms)
        for term, coefficient in other.terms:
            merged[term] = merged.get(term, 0.0) + coefficient
        kept = tuple((term, c) for term, c in merged.items() if c != 0)
        return Linear(kept, self.constant + other.constant)

    def __sub__(self, other: Linear) -> Linear:
        return self + other.times(-1.0)

    def times(self, scale: float) -> Linear:
        """Every coefficient times `scale`."""
        if scale == 0:
            return Linear()
        return Linear(tuple((t, c * scale) for t, c in self.terms), self.constant * scale)

    def split(self, test: Callable[[Expr], bool]) -> tuple[Linear, Linear]:
        """The terms that pass the test, and the others with the constant."""
        passed = tuple(pair for pair in self.terms if test(pair[0]))
        rest = tuple(pair for pair in self.terms if not test(pair[0]))
        return Linear(passed), Linear(rest, self.constant)

    def same(self, other: Linear) -> bool:
        """Equal as functions, as far as equal terms show it."""
        return not (self - other)

    def __bool__(self) -> bool:
        return bool(self.terms) or self.constant != 0

    def expr(self, rank: Rank = lambda factor: 0) -> Expr:
        """The form as an expression; a coefficient goes into the factor of least rank, which is to
        be the one that is computed least often."""
        shared = self._shared() or self._matched()
        if shared:
            return total(part.expr(rank) for part in shared)
        parts = [_scaled_term(term, coefficient, rank) for term, coefficient in self.terms]
        constant = [number(self.constant)] if self.constant or not parts else []
        return total((*parts, *constant))

    def _shared(self) -> tuple[Linear, ...]:
        """2 s - l - m, with l and m finished: s - l and s - m. Each difference is small and nearly
        exact, where 2 s is large and its rounding is that of a weight. () for other forms."""
        finished = [t for t, c in self.terms if c.is_integer() and t.op == "read"]
        below, above = self.split(finished.__contains__)
        count = sum(abs(c) for _, c in below.terms)
        if count < 2 or not above.terms:
            return ()
        if any(not (c / count / LOG2_E).is_integer() for _, c in above.terms):
            return ()
        each = above.times(1 / count)
        signed = [(t, 1.0 if c > 0 else -1.0) for t, c in below.terms for _ in range(int(abs(c)))]
        return tuple(each + Linear((one,)) for one in signed)

    def _matched(self) -> tuple[Linear, ...]:
        """s - l + t - m, with l and m finished: s - l and t - m, for the same reason. Those belong
        together that are of the same places."""
        below = [one for one in self.terms if one[0].op == "read"]
        above = [one for one in self.terms if one[0].op != "read"]
        if len(below) < 2 or len(above) != len(below) or self.constant:
            return ()
        found = []
        for one in sorted(above, key=lambda pair: -len(_places(pair[0]))):
            other = max(below, key=lambda pair: len(_places(pair[0]) & _places(one[0])))
            if other[1] != -one[1]:
                return ()
            below.remove(other)
            found.append(Linear((one, other)))
        return tuple(found)


def _places(term: Expr) -> frozenset[bytes]:
    """The positions that a term computes."""
    nodes = postorder(term)
    return frozenset(node.digest for node in nodes if node.kind == "int" and node.args)


def _term(addend: Expr, scale: float) -> Linear:
    """scale * addend, where the addend is no sum: constant factors join the coefficient."""
    factors = factors_of(addend)
    coefficient = -scale if factors.negative else scale
    numbers, rest = factors.split(lambda f: f.op == "number")
    for above in numbers.above:
        coefficient *= number_of(above)
    for below in numbers.below:
        divisor = number_of(below)
        if divisor == 0:
            return Linear(((addend, scale),))
        coefficient /= divisor
    if not rest.above and not rest.below:
        return Linear((), coefficient)
    return Linear(((rest.expr, coefficient),)) if coefficient else Linear(((addend, scale),))


def _scaled_term(term: Expr, coefficient: float, rank: Rank) -> Expr:
    if coefficient in (1.0, -1.0):
        return term if coefficient == 1 else make("neg", term)
    factors = factors_of(term)
    least = min(map(rank, (*factors.above, *factors.below)), default=0)
    cheap, rest = factors.split(lambda factor: rank(factor) == least)
    if not rest.above:
        return (Factors((number(coefficient),)) * factors).expr
    scale = (cheap * Factors((number(coefficient),))).expr
    return (rest * Factors((scale,))).expr
