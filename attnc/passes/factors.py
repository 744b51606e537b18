"""Products as lists of factors: taken apart, split by index set, and put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from attnc.expressions.tree import Expr, is_number, number
from attnc.passes.simplify import make

ONE = number(1.0)
ZERO = number(0.0)


@dataclass(frozen=True, slots=True)
class Factors:
    """A product: factors above, factors below, a sign."""

    above: tuple[Expr, ...] = ()
    below: tuple[Expr, ...] = ()
    negative: bool = False

    def __mul__(self, other: Factors) -> Factors:
        negative = self.negative != other.negative
        return Factors(self.above + other.above, self.below + other.below, negative)

    def inverse(self) -> Factors:
        return Factors(self.below, self.above, self.negative)

    def split(self, test: Callable[[Expr], bool]) -> tuple[Factors, Factors]:
        """The factors that pass the test (with the sign), and those that do not."""
        passed = Factors(
            tuple(f for f in self.above if test(f)),
            tuple(f for f in self.below if test(f)),
            self.negative,
        )
        rest = Factors(
            tuple(f for f in self.above if not test(f)),
            tuple(f for f in self.below if not test(f)),
        )
        return passed, rest

    @property
    def expr(self) -> Expr:
        """The product as an expression."""
        above, below = multiply(self.above), multiply(self.below)
        whole = above if below == ONE else make("div", above, below)
        return make("neg", whole) if self.negative else whole


def multiply(factors: Iterable[Expr]) -> Expr:
    """The product in order; 1.0 of nothing."""
    product: Expr | None = None
    for factor in factors:
        product = factor if product is None else make("mul", product, factor)
    return ONE if product is None else product


def factors_of(expr: Expr) -> Factors:
    """The factors of a real expression, through products, quotients and signs, in order."""
    if expr.kind != "real":
        return Factors((expr,))
    found = Factors()
    stack = [(expr, True)]
    while stack:
        node, above = stack.pop()
        if node.op == "neg":
            found = Factors(found.above, found.below, not found.negative)
            stack.append((node.args[0], above))
        elif node.op == "mul" and node.kind == "real":
            stack.extend(((node.args[1], above), (node.args[0], above)))
        elif node.op == "div":
            stack.extend(((node.args[1], not above), (node.args[0], above)))
        elif not is_number(node, 1):
            found = found * (Factors((node,)) if above else Factors((), (node,)))
    return found


def addends_of(expr: Expr) -> tuple[tuple[Expr, bool], ...]:
    """The addends of a real expression with whether each is subtracted, in order."""
    found: list[tuple[Expr, bool]] = []
    stack = [(expr, False)]
    while stack:
        node, minus = stack.pop()
        if node.op in ("add", "sub") and node.kind == "real":
            stack.extend(((node.args[1], minus != (node.op == "sub")), (node.args[0], minus)))
        elif node.op == "neg":
            stack.append((node.args[0], not minus))
        else:
            found.append((node, minus))
    return tuple(found)


def total(addends: Iterable[Expr]) -> Expr:
    """The sum in order; 0.0 of nothing."""
    found: Expr | None = None
    for addend in addends:
        found = addend if found is None else make("add", found, addend)
    return ZERO if found is None else found
