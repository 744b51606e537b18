"""Exponent tracking: a real expression as mantissa * 2^exponent, with the exponent kept apart.

Where the exponents of a numerator and a denominator cancel, they cancel as formulas, so that no
power that could overflow is ever formed; where terms of different exponents are added, they are
aligned at the greater one. This is all that is needed to derive the running maximum of a softmax,
and it asks for no normalizer by name.

    exp(x)            1 * 2^(x log2 e)
    a * b, a / b      exponents add, subtract
    a + b             aligned: (a 2^(s - t) + b 2^(r - t)) * 2^t with t = max(s, r)
    log(m 2^t)        log m + t ln 2
    max, comparisons  aligned; `== 0` needs the mantissa only
    a ** c, sqrt      the exponent is multiplied
    anything else     the product is formed: m * exp2(t)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from attnc.expressions.signs import never_negative
from attnc.expressions.tree import COMPARISON, Expr, is_number, number, postorder
from attnc.passes.constants import LN_2, LOG2_E
from attnc.passes.factors import ONE, ZERO, Factors, factors_of
from attnc.passes.linear import Linear
from attnc.passes.simplify import make, simplify_node

NONE = Linear()
_POWERS = ("exp", "exp2")
LEAST = -1e30  # far below every exponent of a number that is not zero
Leaf = Callable[[Expr], "Scaled | None"]


@dataclass(frozen=True, slots=True)
class Scaled:
    """mantissa * 2^exponent."""

    mantissa: Expr
    exponent: Linear = NONE

    @property
    def is_zero(self) -> bool:
        return is_number(self.mantissa, 0)

    @property
    def may_be_infinite(self) -> bool:
        """Whether the exponent may be inf or NaN, for a row without keys: its mantissa is 0."""
        return any(c < 0 and _may_be_bottom(term) for term, c in self.exponent.terms)

    def collapsed(self) -> Expr:
        """The number itself. A zero that a condition chose stays zero whatever the exponent."""
        if not self.exponent or self.is_zero:
            return self.mantissa
        found = times_power(self.mantissa, make("exp2", self.exponent.expr()))
        if not self.may_be_infinite:
            return found
        zero = make("eq", self.mantissa, ZERO)  # the power may be infinite, or NaN
        return make("where", zero, ZERO, found) if found.op != "where" else found


def _may_be_bottom(term: Expr) -> bool:
    """Whether a term of an exponent is -inf for a row without keys: a maximum over its keys."""
    if term.op == "read":
        return term.array.role == "workspace" and not term.array.name.startswith("finished")
    return term.op == "value" or (term.op == "fold" and term.args[1].op != "number")


def times_power(mantissa: Expr, power: Expr) -> Expr:
    """mantissa * power, with the power inside choices of zero, where it may be infinite."""
    if mantissa == ONE:
        return power
    factors = factors_of(mantissa)
    for place, factor in enumerate(factors.above):
        found = chosen(factor)
        if found is not None:
            condition, inner, yes = found
            inside = times_power(inner, power)
            branches = (inside, ZERO) if yes else (ZERO, inside)
            changed = make("where", condition, *branches)
            above = (*factors.above[:place], changed, *factors.above[place + 1 :])
            return Factors(above, factors.below, factors.negative).expr
    return make("mul", mantissa, power)


def chosen(factor: Expr) -> tuple[Expr, Expr, bool] | None:
    """c, x and true of where(c, x, 0), c, x and false of where(c, 0, x), None of all else."""
    if factor.op != "where":
        return None
    condition, yes, no = factor.args
    if is_number(no, 0):
        return condition, yes, True
    return (condition, no, False) if is_number(yes, 0) else None


def scaled(root: Expr, leaf: Leaf = lambda node: None, aligning: bool = True) -> Scaled:
    """The expression with its exponent apart. `leaf` may know a node's form (carried sums that are
    relative to a reference); None leaves the node to the rules. Without `aligning`, addends of
    different exponents are formed: for exponents that are known to be small. So are those of a
    power's own exponent, which is a number that a kernel must hold: a score is the same sum, bit
    for bit, in whatever is made of it."""
    known: dict[bytes, Scaled] = {}
    raised = _raised(root) if aligning else frozenset[bytes]()
    uses: set[bytes] = set()  # nodes above a tile value
    for node in postorder(root):
        if node.op == "value" or any(arg.digest in uses for arg in node.args):
            uses.add(node.digest)
        opaque = node.op == "fold" and node.digest not in uses and not _powers_leave(node)
        given = Scaled(node) if opaque else leaf(node)
        if given is None:
            args = tuple(known[arg.digest] for arg in node.args)
            formed = (not aligning or node.digest in raised) and _differ(node, args)
            given = _plain(node, args) if formed else _step(node, args)
        known[node.digest] = given
    return known[root.digest]


def _raised(root: Expr) -> frozenset[bytes]:
    """The sums that stand in exponents alone; within a logarithm a power is one of its number."""
    inside: set[tuple[bytes, bool]] = set()
    sums: dict[bool, set[bytes]] = {True: set(), False: set()}
    stack = [(root, False)]
    while stack:
        node, within = stack.pop()
        if (node.digest, within) in inside:
            continue
        inside.add((node.digest, within))
        if _RULES.get(node.op) is _aligned:
            sums[within].add(node.digest)
        below = node.op in _POWERS or (within and node.op not in ("log", "log2"))
        stack.extend((arg, below) for arg in node.args)
    return frozenset(sums[True] - sums[False])


def _powers_leave(node: Expr) -> bool:
    """Whether a fold (a product, an inner loop) has a power beside it in every entry."""
    factors = factors_of(node.args[1])
    bound = frozenset(node.bound)
    powers = (f for f in (*factors.above, *factors.below) if f.op in _POWERS)
    return node.monoid == "sum" and any(not power.free & bound for power in powers)


def _differ(node: Expr, args: tuple[Scaled, ...]) -> bool:
    """Whether a sum or comparison is of terms with exponents of their own. A zero has any."""
    if _RULES.get(node.op) not in (_aligned, _compared) or any(one.is_zero for one in args):
        return False
    return not args[0].exponent.same(args[1].exponent)


def _step(node: Expr, args: tuple[Scaled, ...]) -> Scaled:
    rule = _RULES.get(node.op)
    if rule is not None and node.kind in ("real", "bool"):
        found = rule(node, args)
        if found is not None:
            return found
    return _plain(node, args)


def _plain(node: Expr, args: tuple[Scaled, ...]) -> Scaled:
    return Scaled(simplify_node(node.with_args(tuple(arg.collapsed() for arg in args))))


def _exp(node: Expr, args: tuple[Scaled, ...]) -> Scaled:
    natural = Linear.of(args[0].collapsed())
    logs, rest = natural.split(lambda term: term.op == "log" and never_negative(term.args[0]))
    mantissa = ONE
    for term, coefficient in logs.terms:  # exp(c log m) = m ** c
        if coefficient in (1.0, -1.0):
            op = "mul" if coefficient == 1 else "div"
            mantissa = make(op, mantissa, term.args[0])
        else:
            rest = rest + Linear(((term, coefficient),))
    return Scaled(mantissa, rest.times(LOG2_E))


def _exp2(node: Expr, args: tuple[Scaled, ...]) -> Scaled:
    return Scaled(ONE, Linear.of(args[0].collapsed()))


def _product(node: Expr, args: tuple[Scaled, ...]) -> Scaled:
    a, b = args
    exponent = a.exponent + b.exponent if node.op == "mul" else a.exponent - b.exponent
    return Scaled(make(node.op, a.mantissa, b.mantissa), exponent)


def _negated(node: Expr, args: tuple[Scaled, ...]) -> Scaled:
    return Scaled(make(node.op, args[0].mantissa), args[0].exponent)


def _aligned(node: Expr, args: tuple[Scaled, ...]) -> Scaled:
    if not args[0].exponent and not args[1].exponent:
        return _plain(node, args)
    mantissas, exponent = align(args[0], args[1])
    return Scaled(make(node.op, *mantissas), exponent)


def _compared(node: Expr, args: tuple[Scaled, ...]) -> Scaled:
    if node.args[0].kind != "real":
        return _plain(node, args)
    mantissas, _ = align(args[0], args[1])
    return Scaled(make(node.op, *mantissas))


def _log(node: Expr, args: tuple[Scaled, ...]) -> Scaled:
    (a,) = args
    inner = make("log", a.mantissa)
    if not a.exponent:
        return Scaled(inner)
    return Scaled(make("add", a.exponent.times(LN_2).expr(), inner))


def _log2(node: Expr, args: tuple[Scaled, ...]) -> Scaled:
    (a,) = args
    inner = make("log2", a.mantissa)
    return Scaled(make("add", a.exponent.expr(), inner) if a.exponent else inner)


def _power(node: Expr, args: tuple[Scaled, ...]) -> Scaled | None:
    base, power = args[0], node.args[1]
    if not base.exponent or power.op != "number" or not isinstance(power.attr, (int, float)):
        return None
    raised = simplify_node(node.with_args((base.mantissa, power)))
    return Scaled(raised, base.exponent.times(float(power.attr)))


def _root(node: Expr, args: tuple[Scaled, ...]) -> Scaled:
    return Scaled(make("sqrt", args[0].mantissa), args[0].exponent.times(0.5))


def _where(node: Expr, args: tuple[Scaled, ...]) -> Scaled | None:
    condition, yes, no = args[0].collapsed(), args[1], args[2]
    if not yes.exponent and not no.exponent:
        return None
    chosen = make("where", condition, yes.mantissa, no.mantissa)
    if yes.is_zero or no.is_zero or yes.exponent.same(no.exponent):
        return Scaled(chosen, no.exponent if yes.is_zero else yes.exponent)
    exponent = make("where", condition, yes.exponent.expr(), no.exponent.expr())
    return Scaled(chosen, Linear(((exponent, 1.0),)))


def _fold(node: Expr, args: tuple[Scaled, ...]) -> Scaled | None:
    """A sum over a width of terms with one exponent."""
    body = args[1]
    bound = set(node.bound)
    if node.monoid == "prod" or not body.exponent:
        return None
    if any(term.free & bound for term, _ in body.exponent.terms):
        return None
    inner = node.with_args((args[0].collapsed(), body.mantissa))
    return Scaled(inner, body.exponent)


def align(a: Scaled, b: Scaled) -> tuple[tuple[Expr, Expr], Linear]:
    """Two mantissas under one exponent, the greater of the two."""
    if a.exponent.same(b.exponent) or b.is_zero:
        return (a.mantissa, b.mantissa), a.exponent
    if a.is_zero:
        return (a.mantissa, b.mantissa), b.exponent
    first, second = _where_not_zero(a), _where_not_zero(b)
    top = above_bottom(make("max", first, second))
    return (_under(a.mantissa, first, top), _under(b.mantissa, second, top)), Linear(((top, 1.0),))


def _where_not_zero(value: Scaled) -> Expr:
    """The exponent, -inf where a condition makes the mantissa 0: nothing is aligned to that."""
    exponent = value.exponent.expr()
    stack = list(factors_of(value.mantissa).above)
    told = False  # whether a choice tells a row without keys from others
    while stack:
        found = chosen(stack.pop())
        if found is not None:
            condition, inner, yes = found
            never = number(-math.inf)
            exponent = make("where", condition, *((exponent, never) if yes else (never, exponent)))
            told = told or any(_may_be_bottom(node) for node in postorder(condition))
            stack.extend(factors_of(inner).above)
    if not told and value.may_be_infinite:
        zero = make("eq", value.mantissa, ZERO)
        exponent = make("where", zero, number(-math.inf), exponent)
    return exponent


def above_bottom(exponent: Expr) -> Expr:
    """An exponent that is never -inf, so that differences to it are no NaN: what is 2^-inf to it is
    0 to any number that a kernel can hold."""
    return make("max", exponent, number(LEAST))


def _under(mantissa: Expr, exponent: Expr, top: Expr) -> Expr:
    """A mantissa relative to a greater exponent."""
    power = make("exp2", make("sub", exponent, top))
    return power if mantissa == ONE else make("mul", mantissa, power)


Rule = Callable[[Expr, tuple[Scaled, ...]], "Scaled | None"]
_RULES: dict[str, Rule] = {
    "exp": _exp, "exp2": _exp2, "mul": _product, "div": _product,
    "neg": _negated, "abs": _negated, "add": _aligned, "sub": _aligned,
    "max": _aligned, "min": _aligned, "log": _log, "log2": _log2, "pow": _power, "sqrt": _root,
    "where": _where, "fold": _fold, **dict.fromkeys(COMPARISON, _compared),
}  # fmt: skip

__all__ = ["NONE", "Scaled", "align", "scaled"]
