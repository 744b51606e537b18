"""Conditions as systems of inequalities: what is known about indices, and what is asked.

A condition becomes a list of cases, each a conjunction of `form >= 0`. What cannot be said so
(data, reals) is left out and noted as hidden: a proof may ignore facts, a refutation may not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction

from attnc.check.linear import Form, product
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import (
    Array,
    Expr,
    call,
    length,
    number,
    start,
    substitute,
)
from attnc.spec import Definition

PURE = ("index", "param", "length", "start")
MAX_CASES = 48
MAX_INLINE = 12

Case = tuple[Form, ...]


@dataclass
class Theory:
    """Atoms seen, and what is known about them.

    definition   the equation of an array, to read through masks and whole-number equations
    spans        coordinates of product axes: they lie in 0 .. length
    hidden       indices of conditions that could not be said
    lossy        whether something known was left out for its size
    """

    definition: Callable[[Array], Definition | None]
    spans: dict[bytes, tuple[Expr, Expr]]
    atoms: dict[bytes, Expr] = field(default_factory=dict)
    hidden: set[Index] = field(default_factory=set)
    lossy: bool = False
    depth: int = 0

    # ------------------------------------------------------------------------------- and, or

    def conjoin(self, parts: Iterable[list[Case]]) -> list[Case]:
        """All of several conditions. Beyond MAX_CASES later ones are dropped: less is known."""
        found: list[Case] = [()]
        for part in parts:
            if len(found) * len(part) > MAX_CASES:
                self.lossy = True
                continue
            found = [(*one, *other) for one in found for other in part]
        return found

    def disjoin(self, parts: Iterable[list[Case]]) -> list[Case]:
        """One of several conditions."""
        found = [case for part in parts for case in part]
        if len(found) <= MAX_CASES:
            return found
        self.lossy = True
        return [()]

    # ---------------------------------------------------------------------------------- forms

    def form(self, expr: Expr) -> Form:
        """A whole-number expression as a form."""
        op = expr.op
        if op == "number" and isinstance(expr.attr, int):
            return Form({}, Fraction(int(expr.attr)))
        if op in ("add", "sub"):
            left, right = self.form(expr.args[0]), self.form(expr.args[1])
            return left + right if op == "add" else left - right
        if op == "neg":
            return self.form(expr.args[0]).times(-1)
        if op == "mul":
            found = product(self.form(expr.args[0]), self.form(expr.args[1]))
            if found is not None:
                return found
        if op == "read" and expr.kind == "int":
            inlined = self._inlined(expr)
            if inlined is not None:
                return self.form(inlined)
        if op in ("floordiv", "mod"):
            return self._quotient(expr)
        return self._atom(expr)

    def _atom(self, expr: Expr) -> Form:
        self.atoms.setdefault(expr.digest, expr)
        return Form({(expr.digest,): Fraction(1)})

    def _quotient(self, expr: Expr) -> Form:
        """a // n and a % n are atoms; numbers are divided."""
        left, right = expr.args
        if left.op == "number" and right.op == "number":
            a, n = left.attr, right.attr
            if isinstance(a, int) and isinstance(n, int) and n:
                return Form({}, Fraction(a // n if expr.op == "floordiv" else a % n))
        return self._atom(expr)

    def _inlined(self, expr: Expr) -> Expr | None:
        """What an array read stands for, if it is an equation over whole numbers or truths."""
        found = self.definition(expr.array)
        if found is None or self.depth >= MAX_INLINE or expr.kind not in ("int", "bool"):
            return None
        moves = dict(zip(found.array.indices, expr.args, strict=True))
        return substitute(found.expr, moves)

    # ---------------------------------------------------------------------------------- cases

    def cases(self, expr: Expr, truth: bool = True) -> list[Case]:
        """The condition (or its opposite) as alternatives; what cannot be said is always true."""
        op = expr.op
        if op == "not":
            return self.cases(expr.args[0], not truth)
        if op in ("and", "or"):
            parts = (self.cases(arg, truth) for arg in expr.args)
            return self.conjoin(parts) if (op == "and") == truth else self.disjoin(parts)
        if op == "number":
            return [()] if bool(expr.attr) == truth else []
        if op in ("eq", "ne", "lt", "le", "gt", "ge") and expr.args[0].kind == "int":
            return self._comparison(op, expr.args[0], expr.args[1], truth)
        if op in ("eq", "ne") and expr.args[0].kind == "bool":
            same = (op == "eq") == truth
            left, right = expr.args
            both = self.conjoin((self.cases(left), self.cases(right, same)))
            neither = self.conjoin((self.cases(left, False), self.cases(right, not same)))
            return self.disjoin((both, neither))
        if op == "read":
            inlined = self._inlined(expr)
            if inlined is not None:
                self.depth += 1
                found = self.cases(inlined, truth)
                self.depth -= 1
                return found
        if op == "where" and expr.kind == "bool":
            condition, yes, no = expr.args
            chosen = self.conjoin((self.cases(condition), self.cases(yes, truth)))
            other = self.conjoin((self.cases(condition, False), self.cases(no, truth)))
            return self.disjoin((chosen, other))
        self.hidden |= expr.free
        return [()]

    def _comparison(self, op: str, left: Expr, right: Expr, truth: bool) -> list[Case]:
        if not truth:
            opposite = {"eq": "ne", "ne": "eq", "lt": "ge", "le": "gt", "gt": "le", "ge": "lt"}
            op = opposite[op]
        difference = self.form(left) - self.form(right)
        other = difference.times(-1)
        systems: dict[str, list[Case]] = {
            "ge": [(difference,)],
            "gt": [(difference.shifted(-1),)],
            "le": [(other,)],
            "lt": [(other.shifted(-1),)],
            "eq": [(difference, other)],
            "ne": [(difference.shifted(-1),), (other.shifted(-1),)],
        }
        return systems[op]

    # --------------------------------------------------------------------------------- axioms

    def axioms(self, atom: Expr) -> list[Case]:
        """What holds for an atom itself, as alternatives."""
        op = atom.op
        if op == "index":
            assert isinstance(atom.attr, Index)
            return [self._on_axis(atom, atom.attr.axis)]
        here = self._atom(atom)
        if atom.digest in self.spans:
            end = self.form(self.spans[atom.digest][1])
            return [(here, (end - here).shifted(-1))]
        if op == "length":
            return [(here,)]
        if op in ("floordiv", "mod"):
            return self._divided(atom, here)
        if op in ("min", "max") and atom.kind == "int":
            return self._extreme(atom, here)
        if op == "where" and atom.kind == "int":
            return self._chosen(atom, here)
        if op == "abs" and atom.kind == "int":
            inner = self.form(atom.args[0])
            return [
                (inner, here - inner, inner - here),
                (inner.times(-1), here + inner, (here + inner).times(-1)),
            ]
        if op not in PURE:
            self.hidden |= atom.free
        return [()]

    def _on_axis(self, atom: Expr, axis: Axis) -> Case:
        low, end = axis_bounds(axis)
        here, first = self._atom(atom), self.form(low)
        return (here - first, (first + self.form(end) - here).shifted(-1))

    def _divided(self, atom: Expr, here: Form) -> list[Case]:
        """n * (a // n) <= a < n * (a // n) + n, for n > 0; a % n is the rest."""
        if atom.op not in ("floordiv", "mod"):
            return [()]
        a, n = self.form(atom.args[0]), self.form(atom.args[1])
        if n.terms or n.constant <= 0:
            if atom.op == "mod":
                return [(here, (n - here).shifted(-1))] if self._is_positive(n) else [()]
            if not self._is_positive(n):
                self.hidden |= atom.free
                return [()]
        if atom.op == "mod":
            quotient = self._atom(call("floordiv", *atom.args))
            multiple = product(quotient, n)
            if multiple is None:
                return [(here, (n - here).shifted(-1))]
            rest = a - multiple - here
            return [(here, (n - here).shifted(-1), rest, rest.times(-1))]
        multiple = product(here, n)
        if multiple is None:
            return [()]
        return [(a - multiple, (multiple + n - a).shifted(-1))]

    def is_determined(self, atom: Expr) -> bool:
        """Whether `axioms` say exactly what an atom is, given the atoms in it."""
        if atom.kind != "int":
            return False
        if atom.op in ("floordiv", "mod"):
            divisor = self.form(atom.args[1])
            return not divisor.terms and divisor.constant > 0
        if atom.op == "where":
            return self.cases(atom.args[0]) != [()]
        return atom.op in ("abs", "min", "max")

    def _is_positive(self, form: Form) -> bool:
        """Whether a divisor is above 0: a whole number, or a length whose axis has an index."""
        if not form.terms:
            return form.constant > 0
        return (
            all(
                factor > 0 and all(self.atoms[a].op == "length" for a in monomial)
                for monomial, factor in form.terms.items()
            )
            and form.constant >= 0
        )

    def _extreme(self, atom: Expr, here: Form) -> list[Case]:
        sign = 1 if atom.op == "max" else -1
        forms = [self.form(arg).times(sign) for arg in atom.args]
        mine = here.times(sign)
        cases: list[Case] = []
        for chosen in forms:
            others = [chosen - other for other in forms if other is not chosen]
            cases.append((mine - chosen, chosen - mine, *others))
        return cases

    def _chosen(self, atom: Expr, here: Form) -> list[Case]:
        condition, yes, no = atom.args
        one, other = self.form(yes), self.form(no)
        return self.disjoin(
            (
                self.conjoin((self.cases(condition), [(here - one, one - here)])),
                self.conjoin((self.cases(condition, False), [(here - other, other - here)])),
            )
        )


def axis_bounds(axis: Axis) -> tuple[Expr, Expr]:
    """First position and length of an axis."""
    if axis.form == "product":
        total = axis_bounds(axis.parts[0])[1]
        for part in axis.parts[1:]:
            total = call("mul", total, axis_bounds(part)[1])
        return number(0), total
    low = axis.low if axis.low is not None else start(axis) if axis.shifted else number(0)
    return low, axis.length if axis.length is not None else length(axis)
