"""The linear part of stream: a fold's body as a sum of row factor times pair factor.

    sum_j (u_ij / R_i) v_j = (sum_j u_ij v_j) / R_i

What does not depend on the key leaves the fold; what is left has no finished row value in it (a
`value` node), or is handed to `store`, which computes the row value in a kernel before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attnc.expressions.index import Index
from attnc.expressions.signs import is_positive, never_negative
from attnc.expressions.tree import Expr, is_number, number_of, postorder
from attnc.passes.factors import ONE, ZERO, Factors, addends_of, factors_of
from attnc.passes.frame import Frame
from attnc.passes.linear import Linear
from attnc.passes.simplify import make, simplify_node

Store = Callable[[Expr], Expr]


@dataclass(frozen=True, slots=True)
class Term:
    """row * pair; the row factor is the same for all keys."""

    row: Expr
    pair: Expr


@dataclass(frozen=True)
class Separation:
    """Separates bodies over the pairs of `held` and `walked`; `store` replaces finished row values
    in an expression where they cannot leave the fold."""

    frame: Frame
    walked: Index
    store: Store

    def terms(self, body: Expr) -> tuple[Term, ...]:
        """Terms whose sum is the body. Bodies are shallow where this recurs: it goes down sums,
        products and choices only, and `factors_of`, `addends_of` flatten the long chains."""
        if not self._walks(body):
            return (Term(body, ONE),)
        if not finished(body) and not self._tangled(body):
            return (self._plain(body),)
        rule = _RULES.get(body.op)
        found = rule(self, body) if rule is not None and body.kind == "real" else None
        return found or (Term(ONE, self.store(body) if finished(body) else body),)

    def _walks(self, expr: Expr) -> bool:
        return self.walked in expr.free or bool(expr.free & set(self.frame.around))

    def _tangled(self, body: Expr) -> bool:
        """Whether a factor depends on the pair and on a width: a value stream inside a choice or a
        sum, which must come out to be the operand of a product."""
        both = {self.frame.held, self.walked}
        return any(
            both <= factor.free and factor.op in ("where", "add", "sub") and self._widths(factor)
            for factor in factors_of(body).above
        )

    def _widths(self, expr: Expr) -> frozenset[Index]:
        return expr.free - self.frame.rows - {self.walked, *self.frame.around}

    def _plain(self, body: Expr) -> Term:
        row, pair = factors_of(body).split(lambda f: not self._walks(f))
        return Term(row.expr, pair.expr)

    def _sum(self, body: Expr) -> tuple[Term, ...]:
        found: list[Term] = []
        for addend, minus in addends_of(body):
            signed = ((make("neg", t.row) if minus else t.row, t.pair) for t in self.terms(addend))
            found.extend(Term(row, pair) for row, pair in signed)
        return tuple(found)

    def _product(self, body: Expr) -> tuple[Term, ...] | None:
        factors = factors_of(body)
        found: tuple[Term, ...] = (Term(ONE, ONE),)
        for factor in factors.above:
            found = tuple(_times(a, b) for a in found for b in self.terms(factor))
        for factor in factors.below:
            below = self.terms(factor)
            if len(below) != 1:
                return None
            found = tuple(_over(a, below[0]) for a in found)
        if factors.negative:
            found = tuple(Term(make("neg", t.row), t.pair) for t in found)
        return found

    def _choice(self, body: Expr) -> tuple[Term, ...]:
        condition, yes, no = body.args
        if not self._walks(condition):
            chosen = [Term(_choose(condition, t.row, ZERO), t.pair) for t in self.terms(yes)]
            other = [Term(_choose(condition, ZERO, t.row), t.pair) for t in self.terms(no)]
        else:
            if finished(condition):
                condition = self.store(condition)
            chosen = [Term(t.row, self._where(condition, t.pair, True)) for t in self.terms(yes)]
            other = [Term(t.row, self._where(condition, t.pair, False)) for t in self.terms(no)]
        found = (*chosen, *other)
        return tuple(t for t in found if not is_number(t.row, 0) and not is_number(t.pair, 0))

    def _where(self, condition: Expr, pair: Expr, yes: bool) -> Expr:
        """pair where the condition is `yes`, else 0; factors along a width stay outside."""
        wide, rest = factors_of(pair).split(lambda f: bool(self._widths(f)))
        if self._widths(condition):
            wide, rest = Factors(), factors_of(pair)
        args = (rest.expr, ZERO) if yes else (ZERO, rest.expr)
        return (Factors((_choose(condition, *args),)) * wide).expr

    def _exp(self, body: Expr) -> tuple[Term, ...]:
        """exp(a + b) with a for the row: exp(a) * exp(b)."""
        whole = Linear.of(body.args[0])
        row, pair = whole.split(lambda term: not self._walks(term))
        rest = pair.expr()
        inner = self.store(rest) if finished(rest) else rest
        return (Term(make("exp", row.expr()), make("exp", inner)),)

    def _power(self, body: Expr) -> tuple[Term, ...] | None:
        base, power = body.args
        found = self.terms(base)
        if self._walks(power) or len(found) != 1:
            return None
        whole = power.op == "number" and number_of(power).is_integer()
        if not whole and not never_negative(found[0].row):
            return None
        return (Term(*(make("pow", part, power) for part in (found[0].row, found[0].pair))),)

    def _clipped(self, body: Expr) -> tuple[Term, ...] | None:
        """max(r * p, 0) = r * max(p, 0) for r > 0."""
        for one, other in (body.args, body.args[::-1]):
            found = self.terms(other) if is_number(one, 0) else ()
            if len(found) == 1 and is_positive(found[0].row):
                return (Term(found[0].row, make(body.op, found[0].pair, one)),)
        return None


def _times(a: Term, b: Term) -> Term:
    return Term(_join(a.row, b.row), make("mul", a.pair, b.pair))


def _join(a: Expr, b: Expr) -> Expr:
    """a * b, inside a choice of zero: a branch that is written 0 stays 0."""
    for one, other in ((a, b), (b, a)):
        if one.op == "where" and is_number(one.args[2], 0):
            return _choose(one.args[0], _join(one.args[1], other), ZERO)
        if one.op == "where" and is_number(one.args[1], 0):
            return _choose(one.args[0], ZERO, _join(one.args[2], other))
    return (factors_of(a) * factors_of(b)).expr


def _over(a: Term, b: Term) -> Term:
    return Term(_join(a.row, make("div", ONE, b.row)), make("div", a.pair, b.pair))


def _choose(condition: Expr, yes: Expr, no: Expr) -> Expr:
    return make("where", condition, yes, no)


def finished(expr: Expr) -> bool:
    """Whether the expression uses the result of a key fold."""
    return any(node.op == "value" for node in postorder(expr))


def row_parts(expr: Expr, walked: Index) -> tuple[Expr, ...]:
    """The greatest subtrees with finished values that are the same for all keys."""
    found: dict[bytes, Expr] = {}
    stack = [expr]
    while stack:
        node = stack.pop()
        if not finished(node):
            continue
        if node.kind == "real" and not any(index.axis is walked.axis for index in node.free):
            found.setdefault(node.digest, node)
        else:
            stack.extend(reversed(node.args))
    return tuple(found.values())


def exchange(expr: Expr, known: dict[bytes, Expr]) -> Expr:
    """The tree with subtrees replaced, found from the root down."""
    done: dict[bytes, Expr] = dict(known)
    stack = [(expr, False)]
    while stack:
        node, ready = stack.pop()
        if node.digest in done:
            continue
        if ready or not node.args:
            done[node.digest] = simplify_node(
                node.with_args(tuple(done[a.digest] for a in node.args))
            )
            continue
        stack.append((node, True))
        stack.extend((arg, False) for arg in node.args)
    return done[expr.digest]


Rule = Callable[[Separation, Expr], "tuple[Term, ...] | None"]
_RULES: dict[str, Rule] = {
    "add": Separation._sum, "sub": Separation._sum,
    "mul": Separation._product, "div": Separation._product, "neg": Separation._product,
    "where": Separation._choice, "exp": Separation._exp, "pow": Separation._power,
    "max": Separation._clipped, "min": Separation._clipped,
}  # fmt: skip
