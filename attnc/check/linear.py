"""Linear forms over integer atoms, and whether a system of inequalities has a solution.

An atom is whatever stands for an integer: an index, a length, a param, a quotient. A form is a sum
of products of atoms with rational factors, so a product of two atoms counts as one variable.
Systems are refuted by Fourier-Motzkin elimination over the rationals, tightened for integers; what
is not refuted may still have no solution.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm

Monomial = tuple[bytes, ...]  # digests of atoms, sorted; () is the constant
Factor = Fraction | int  # whole in tightened forms, which are most

MAX_INEQUALITIES = 160
MAX_DEGREE = 3


@dataclass(frozen=True)
class Form:
    """A sum of monomials with factors; `constant` is the factor of the empty one."""

    terms: Mapping[Monomial, Factor]
    constant: Factor = 0

    def __add__(self, other: Form) -> Form:
        terms = dict(self.terms)
        for monomial, factor in other.terms.items():
            terms[monomial] = terms.get(monomial, 0) + factor
        kept = {monomial: factor for monomial, factor in terms.items() if factor}
        return Form(kept, self.constant + other.constant)

    def times(self, factor: Factor) -> Form:
        if not factor:
            return Form({})
        scaled = {monomial: each * factor for monomial, each in self.terms.items()}
        return Form(scaled, self.constant * factor)

    def __sub__(self, other: Form) -> Form:
        return self + other.times(-1)

    def shifted(self, constant: int) -> Form:
        return Form(self.terms, self.constant + constant)

    @property
    def atoms(self) -> frozenset[bytes]:
        return frozenset(atom for monomial in self.terms for atom in monomial)


def product(left: Form, right: Form) -> Form | None:
    """The product of two forms; None where its degree is too large."""
    terms: dict[Monomial, Factor] = {}
    constant: Factor = 0
    one = [*left.terms.items(), ((), left.constant)]
    other = [*right.terms.items(), ((), right.constant)]
    for first, factor in one:
        for second, other_factor in other:
            value = factor * other_factor
            monomial = tuple(sorted((*first, *second)))
            if not value:
                continue
            if len(monomial) > MAX_DEGREE:
                return None
            if monomial:
                terms[monomial] = terms.get(monomial, 0) + value
            else:
                constant += value
    return Form({monomial: factor for monomial, factor in terms.items() if factor}, constant)


def tightened(form: Form) -> Form:
    """form >= 0 with whole, coprime factors and the constant rounded down."""
    if not form.terms:
        return form
    scale = lcm(*[factor.denominator for factor in form.terms.values()])
    whole = {monomial: int(factor * scale) for monomial, factor in form.terms.items()}
    common = gcd(*whole.values())
    terms = {monomial: factor // common for monomial, factor in whole.items()}
    return Form(terms, form.constant * scale // common)


def eliminate(system: Iterable[Form], keep: frozenset[Monomial] = frozenset()) -> list[Form] | None:
    """What a system of `form >= 0` says about the monomials to keep: all others eliminated. None
    where it has no solution. A system that grows too large loses inequalities, which is safe: it
    says less."""
    forms = _reduced(system)
    while forms is not None:
        variables = {monomial for form in forms for monomial in form.terms} - keep
        if not variables:
            return forms
        growth = _growth(forms)
        forms = _without(forms, min(variables, key=lambda v: (growth[v], v)))
    return None


def project(system: Iterable[Form], keep: frozenset[Monomial]) -> tuple[list[Form] | None, bool]:
    """The same, and whether it is exact for whole numbers: then whatever satisfies what is left is
    part of a solution. A step is exact where of any two inequalities that are joined one has the
    variable once, or both leave room for a whole number (the Omega test's dark shadow; Pugh, 1991);
    variables of the first kind go first."""
    forms = _reduced(system)
    exact = True
    while forms is not None:
        exact = exact and len(forms) < MAX_INEQUALITIES
        variables = {monomial for form in forms for monomial in form.terms} - keep
        if not variables:
            break
        now, growth = forms, _growth(forms)
        chosen = min(variables, key=lambda v: (not _is_exact(now, v), growth[v], v))
        exact = exact and (_is_exact(now, chosen) or _has_room(now, chosen))
        forms = _without(now, chosen)
    return forms, exact


def _is_exact(forms: list[Form], variable: Monomial) -> bool:
    factors = [form.terms[variable] for form in forms if variable in form.terms]
    above = all(factor == 1 for factor in factors if factor > 0)
    return above or all(factor == -1 for factor in factors if factor < 0)


def _has_room(forms: list[Form], variable: Monomial) -> bool:
    """Whether a whole number fits between any two bounds of a variable, by the other forms."""
    above = [form for form in forms if form.terms.get(variable, 0) > 0]
    below = [form for form in forms if form.terms.get(variable, 0) < 0]
    for low in above:
        for high in below:
            a, b = low.terms[variable], -high.terms[variable]
            if a == 1 or b == 1:
                continue
            room = (low.times(b) + high.times(a)).shifted(-int((a - 1) * (b - 1)))
            if not is_refuted((*forms, room.times(-1).shifted(-1))):
                return False
    return True


def is_refuted(system: Iterable[Form]) -> bool:
    """Whether `form >= 0` for all forms has no solution."""
    return eliminate(system) is None


def _growth(forms: list[Form]) -> dict[Monomial, int]:
    """How many inequalities more there are when a variable is eliminated, of each variable."""
    above: dict[Monomial, int] = {}
    below: dict[Monomial, int] = {}
    for form in forms:
        for variable, factor in form.terms.items():
            side, other = (above, below) if factor > 0 else (below, above)
            side[variable] = side.get(variable, 0) + 1
            other.setdefault(variable, 0)
    return {v: above[v] * below[v] - above[v] - below[v] for v in above}


def _without(forms: list[Form], variable: Monomial) -> list[Form] | None:
    above = [form for form in forms if form.terms.get(variable, 0) > 0]
    below = [form for form in forms if form.terms.get(variable, 0) < 0]
    rest = [form for form in forms if variable not in form.terms]
    for low in above:
        for high in below:
            joined = low.times(-high.terms[variable]) + high.times(low.terms[variable])
            rest.append(joined)
    return _reduced(rest)


def _reduced(forms: Iterable[Form]) -> list[Form] | None:
    """Tightened, each direction once with its strongest constant; None for a contradiction."""
    found: dict[frozenset[tuple[Monomial, Factor]], Form] = {}
    for form in forms:
        form = tightened(form)
        if not form.terms:
            if form.constant < 0:
                return None
            continue
        key = frozenset(form.terms.items())
        known = found.get(key)
        if known is None or form.constant < known.constant:
            found[key] = form
    for form in found.values():
        opposite = frozenset((monomial, -factor) for monomial, factor in form.terms.items())
        other = found.get(opposite)
        if other is not None and form.constant + other.constant < 0:
            return None
    kept = sorted(found.values(), key=lambda form: len(form.terms))
    return kept[:MAX_INEQUALITIES]
