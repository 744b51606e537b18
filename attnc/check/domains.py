"""Domains: what every read needs is proved, becomes a check of the call, or is reported.

A need that does not follow from what is known is an error where indices alone refute it (`k[j - 1]`
at j = 0), a check of the call where it comes down to lengths and numbers, and otherwise a matter of
data, which the call tests point by point. Boxes on a grid are beyond the proofs here: a need that
is too hard, has no data in it and never fails on small grids is taken to hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction

from attnc.check import messages as m
from attnc.check.checker import Checker
from attnc.check.demands import Demand, find_witness, find_witnesses, make_demand, may_fail
from attnc.check.facts import PURE, Case, Theory, axis_bounds
from attnc.check.linear import Form, Monomial, is_refuted, project, tightened
from attnc.check.values import Facts, Need, conjuncts
from attnc.expressions.index import Index
from attnc.expressions.text import expression_text
from attnc.expressions.tree import COMPARISON, FALSE, TRUE, Expr, call, number, postorder
from attnc.spec import Check, ReadCheck

ROUNDS = 6  # atoms of axioms of atoms
MANY_SYSTEMS = 8  # alternatives: where there are more, a need is tried on small grids first
NUMBERING = re.compile(r"'\d+")  # what tells indices of one name apart; no text has it


def make_theory(checker: Checker) -> Theory:
    return Theory(lambda array: checker.definitions.get(array.name), checker.spans_of)


def prove(checker: Checker, facts: Facts, goal: Expr) -> bool:
    """Whether a condition follows from facts, axes and lengths."""
    if goal == TRUE or any(goal.digest == fact.digest for fact in facts):
        return True
    key = (goal.digest, frozenset(fact.digest for fact in facts))
    known = checker.proved.get(key)
    if known is None:
        known = all(_follows(checker, facts, part) for part in conjuncts(goal))
        checker.proved[key] = known
    return known


def _follows(checker: Checker, facts: Facts, goal: Expr) -> bool:
    if any(goal.digest == fact.digest for fact in facts):
        return True
    theory = make_theory(checker)
    wrong = theory.cases(goal, truth=False)
    if any(not case for case in wrong):
        return False  # nothing is known of what is asked
    for case in wrong:
        if is_refuted((*case, *_axioms_alone(theory, [case]))):
            continue
        if not all(is_refuted(each) for each in _systems(theory, facts, case)):
            return False
    return True


def _axioms_alone(theory: Theory, cases: Sequence[Case]) -> list[Form]:
    """What holds for atoms without alternatives: enough for most proofs."""
    found: list[Form] = []
    seen: set[bytes] = set()
    for _ in range(ROUNDS):
        todo = {atom for case in (*cases, found) for form in case for atom in form.atoms} - seen
        if not todo:
            break
        seen |= todo
        for atom in sorted(todo):
            axioms = theory.axioms(theory.atoms[atom])
            if len(axioms) == 1:
                found += axioms[0]
    return found


def _systems(theory: Theory, facts: Facts, case: Case, whole: bool = False) -> list[Case]:
    """A case with all facts that touch it, and the axioms of their atoms: the alternatives.

    whole: with the facts about the same indices that do not touch it, too, which a refutation has
    no use for, but a solution must satisfy."""
    found: list[Case] = [case]
    known = [(theory.cases(fact), fact) for fact in facts]
    pending = sorted(known, key=lambda pair: len(pair[0]))
    seen: set[bytes] = set()
    for _ in range(ROUNDS):
        atoms = {atom for each in found for form in each for atom in form.atoms}
        used = [part for part, _ in pending if _touches(part, atoms)]
        pending = [pair for pair in pending if not _touches(pair[0], atoms)]
        if whole and not used and not atoms - seen:
            met = {index for atom in atoms for index in theory.atoms[atom].free}
            used = [part for part, fact in pending if fact.free & met]
            pending = [pair for pair in pending if not pair[1].free & met]
        found = theory.conjoin([found, *used])
        atoms |= {atom for part in used for each in part for form in each for atom in form.atoms}
        todo = atoms - seen
        if not used and not todo:
            break
        seen |= todo
        axioms = [theory.axioms(theory.atoms[atom]) for atom in sorted(todo)]
        found = theory.conjoin([found, *sorted(axioms, key=len)])
    else:
        theory.lossy = True
    return found


def _touches(part: Sequence[Case], atoms: set[bytes]) -> bool:
    return any(form.atoms & atoms for case in part for form in case)


# ------------------------------------------------------------------------------- what is not proved


def settle_needs(checker: Checker, needs: Iterable[Need], facts: Facts) -> None:
    """Reports needs that fail, and makes checks of those that lengths and numbers decide. All
    here is demanded."""
    for need in needs:
        for part in conjuncts(need.condition):
            single = replace(need, condition=part)
            if not checker.prove((*facts, *need.given), part):
                _decide(checker, single, facts)


def _decide(checker: Checker, need: Need, facts: Facts) -> None:
    demand = make_demand(checker, need, facts)
    known = (*facts, *need.given)
    theory = make_theory(checker)
    wrong = theory.cases(need.condition, truth=False)
    conditions: list[Expr | None] = [None] if any(not case for case in wrong) else []
    systems = [each for case in wrong if case for each in _systems(theory, known, case, whole=True)]
    many = len(systems) > MANY_SYSTEMS and demand is not None and not demand.data
    if many and demand is not None and not may_fail(checker, demand):
        return
    for system in systems:
        if is_refuted(system):
            continue
        found = _failure(checker, theory, system, need)
        if found == FALSE:
            _report(checker, need, demand)
            return
        conditions.append(found)
    if None in conditions:
        _leave(checker, need, demand)
        return
    for condition in conditions:
        if condition is not None:
            _add_check(checker, need, condition)


def _leave(checker: Checker, need: Need, demand: Demand | None) -> None:
    """A need that data decides, or that was too hard: the call tests it at every point; where it
    fails at whatever lengths, it is a mistake."""
    if demand is None:
        return
    if not demand.data:
        if not may_fail(checker, demand):
            return
        if all(find_witnesses(checker, demand)):
            _report(checker, need, demand)
            return
    check = ReadCheck(demand.condition, demand.given, need.span.text, need.span)
    known = (check.key for check in checker.read_checks)
    if check.key not in known:
        checker.read_checks.append(check)


def _failure(checker: Checker, theory: Theory, system: Case, need: Need) -> Expr | None:
    """When a system of inequalities has no solution, in terms of lengths and numbers: false where
    it has one for all large lengths, None where more than these decides."""
    atoms = {atom for form in system for atom in form.atoms}
    exprs = [theory.atoms[atom] for atom in atoms]
    coordinates = [expr for expr in exprs if expr.digest in theory.spans]
    derived = [expr for expr in exprs if expr not in coordinates and expr.op not in PURE]
    if not all(theory.is_determined(expr) for expr in derived):
        return None
    indices = {expr.attr for expr in exprs if expr.op == "index"}
    whole = {index for expr in coordinates for index in expr.free}
    if (
        theory.lossy
        or theory.hidden & (indices | whole | set(need.condition.free))
        or whole & indices
    ):
        return None
    keep: set[Monomial] = set()
    for form in system:
        for monomial in form.terms:
            inner = [theory.atoms[atom].op for atom in monomial]
            varies = [op for op in inner if op not in ("param", "length", "start")]
            if not varies:
                keep.add(monomial)
            elif len(monomial) > 1:
                return None
    left, exact = project(system, frozenset(keep))
    if left is None:
        return TRUE
    if derived and not exact:
        return None
    decisive = [form for form in left if not _holds_for_large(checker, theory, form)]
    if not decisive:
        return FALSE
    found = FALSE
    for form in left:
        if _always(theory, form):
            continue
        fails = _below_zero(theory, form)
        found = fails if found == FALSE else call("or", found, fails)
    checker.tellings[found.digest] = _telling(theory, decisive)
    return found


def _telling(theory: Theory, decisive: list[Form]) -> str:
    """What a reader of a check is told: the part that decides for ordinary lengths."""
    parts = (expression_text(_below_zero(theory, form), limit=200) for form in decisive)
    return " or ".join(parts)


def _always(theory: Theory, form: Form) -> bool:
    """Whether form >= 0 for all lengths."""
    lengths = all(theory.atoms[atom].op == "length" for atom in form.atoms)
    return lengths and form.constant >= 0 and all(f > 0 for f in form.terms.values())


def _below_zero(theory: Theory, form: Form) -> Expr:
    """form < 0, with what is positive in it on the left and the rest on the right."""
    form = tightened(form)
    left = {monomial: factor for monomial, factor in form.terms.items() if factor > 0}
    right = {monomial: -factor for monomial, factor in form.terms.items() if factor < 0}
    constant = form.constant
    strict = constant != -1
    ours = Form(left, constant if strict and constant > 0 else Fraction(0))
    theirs = Form(right, -constant if strict and constant < 0 else Fraction(0))
    sign = "lt" if strict else "le"
    return call(sign, _expression(theory, ours), _expression(theory, theirs))


def _holds_for_large(checker: Checker, theory: Theory, form: Form) -> bool:
    """Whether form >= 0 once lengths are large and numbers have their defaults."""
    rest = Form({}, form.constant)
    for monomial, factor in form.terms.items():
        exprs = [theory.atoms[atom] for atom in monomial]
        if any(expr.op == "start" for expr in exprs):
            continue  # an offset is 0 unless a call says otherwise
        default = _default(checker, exprs[0]) if len(exprs) == 1 else None
        if default is not None:
            rest = Form({}, rest.constant + factor * default)
        elif factor < 0:
            return False
        else:
            rest = Form({monomial: factor, **rest.terms}, rest.constant)
    return bool(rest.terms) or rest.constant >= 0


def _default(checker: Checker, expr: Expr) -> int | None:
    if expr.op != "param":
        return None
    for entry in checker.numbers:
        if entry.name == expr.attr and entry.default is not None:
            value = entry.default.attr
            return value if isinstance(value, int) and not isinstance(value, bool) else None
    return None


def _expression(theory: Theory, form: Form) -> Expr:
    """A form with whole factors as an expression over its atoms."""
    found: Expr | None = None
    for monomial, factor in sorted(form.terms.items(), key=lambda item: (-item[1], item[0])):
        part = theory.atoms[monomial[0]]
        for atom in monomial[1:]:
            part = call("mul", part, theory.atoms[atom])
        size = abs(int(factor))
        if size != 1:
            part = call("mul", number(size), part)
        if found is None:
            found = part if factor > 0 else call("neg", part)
        else:
            found = call("add" if factor > 0 else "sub", found, part)
    constant = int(form.constant)
    if found is None:
        return number(constant)
    if constant:
        found = call("add" if constant > 0 else "sub", found, number(abs(constant)))
    return found


def _add_check(checker: Checker, need: Need, condition: Expr) -> None:
    if any(check.condition == condition for check in checker.checks):
        return
    text = need.span.text
    where = checker.tellings.get(condition.digest) or expression_text(condition, limit=200)
    said = f"{text} reads outside its axis unless {where}"
    checker.checks.append(Check(condition, said, need.span))


# ------------------------------------------------------------------------------------------ reports


def _report(checker: Checker, need: Need, demand: Demand | None) -> None:
    """`k[j - 1] reads -1 at j = 0`: where the position is least (or greatest), or at a visible
    point found by trial where that is hidden."""
    if need.condition.op not in COMPARISON:
        checker.report(m.read_hidden(need.span, need.span.text))
        return
    theory = make_theory(checker)
    form = theory.form(need.condition.args[0])
    low = need.condition.op == "ge"
    value = Form({}, form.constant)
    spots: list[str] = []
    points: list[Expr] = []
    for monomial, factor in form.terms.items():
        atom = theory.atoms[monomial[0]]
        ends = _ends(theory, atom) if len(monomial) == 1 else None
        if ends is None:
            value = value + Form({monomial: factor})
            continue
        end = ends[0] if (factor > 0) == low else ends[1]
        value = value + end.times(factor)
        points.append(call("eq", atom, _expression(theory, end)))
        spots.append(f"{checker.labels.get(atom.digest, _name(atom))} = {_simple(theory, end)}")
    place = ", ".join(sorted(spots)) or "every point"
    position = _simple(theory, value)
    if demand is not None and (demand.given or not points):
        there = replace(demand, given=(*demand.given, *points))
        told = points and find_witness(checker, there)
        witness = None if told else find_witness(checker, demand)
        if witness is not None:
            position, place = str(witness.value), witness.place
    last = _declared_end(theory, need)
    passed = last if last == position else ""
    position, place = NUMBERING.sub("", position), NUMBERING.sub("", place)
    checker.report(m.read_outside(need.span, need.span.text, position, place, passed))


def _declared_end(theory: Theory, need: Need) -> str:
    """The end of a declared axis that a read must stay before; empty for what a tensor measures."""
    if not need.native or need.condition.op != "lt":
        return ""
    measured = any(node.op == "length" for node in postorder(need.condition.args[1]))
    return "" if measured else _simple(theory, theory.form(need.condition.args[1]))


def _ends(theory: Theory, atom: Expr) -> tuple[Form, Form] | None:
    """The least and the greatest value of an index or coordinate."""
    if atom.digest in theory.spans:
        return Form({}), theory.form(theory.spans[atom.digest][1]).shifted(-1)
    if not isinstance(atom.attr, Index):
        return None
    low, size = axis_bounds(atom.attr.axis)
    first = theory.form(low)
    return first, (first + theory.form(size)).shifted(-1)


def _name(atom: Expr) -> str:
    return atom.attr.name if isinstance(atom.attr, Index) else expression_text(atom)


def _simple(theory: Theory, form: Form) -> str:
    """A form as text, offsets taken as 0."""
    kept = {
        monomial: factor
        for monomial, factor in form.terms.items()
        if all(theory.atoms[atom].op != "start" for atom in monomial)
    }
    return expression_text(_expression(theory, Form(kept, form.constant)))
