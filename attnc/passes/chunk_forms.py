"""What states become over many rows: vectors along two widths, decays, and what hands on to what.

does      parts what is added to a state, or corrects it, into a vector along the width that reads
          contract and one along the other; finds which terms two states have in common, and which
          state is handed on to another as a whole
needs     transitions of states at home in their instance; the widths that results contract
does not  make statements

Two states may see each other where one alone is handed on to the other entry by entry, times a
number (momentum: S <- a S + b Z + ..., Z <- c Z + ...); products of vectors with either may correct
both. Over rows the pair has the triangular matrix [a b; 0 c] of decays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr, position
from attnc.passes.affine import (
    RankOne,
    Term,
    Transition,
    corrections_of,
    log_decay,
    shrinks,
)
from attnc.passes.factors import ZERO, Factors, addends_of, factors_of
from attnc.passes.simplify import make

RANK = 4  # most corrections of a row: a system of n has some n^3 / 3 products more than one
KINDS = ("sum", "scalar", "diagonal", "low rank", "diagonal plus low rank")


class RowByRow(Exception):
    """Why a recurrence has no chunkwise form, in a sentence's end."""


@dataclass
class Group:
    """Terms x(t) y(t)^T of one x: `known` of y, and the coefficients of products with states, by
    their place in a family's `rights`, if the states are corrected along x."""

    x: Expr
    known: list[Expr] = field(default_factory=list)
    corrections: dict[int, Expr] = field(default_factory=dict)
    y: Expr | None = None


@dataclass
class Form:
    """One state: `key` is the width that its products contract, `across` the other.

    log      of the decay; None: a running sum
    groups   what is added at a row; of two states that see each other some are the same
    leader   the state that is handed on to this one, times `link`
    """

    state: Array
    key: Index
    across: Index | None
    log: Expr | None
    groups: list[Group]
    leader: Form | None = None
    link: Expr | None = None

    @property
    def log_across(self) -> Expr | None:
        """The logarithm of a decay along the other width."""
        return self.log if self.log is not None and self.across in self.log.free else None

    @property
    def log_key(self) -> Expr | None:
        """The logarithm of a decay of one number, or along the contracted width."""
        return ZERO if self.log is None else None if self.log_across is not None else self.log


@dataclass
class Family:
    """States that see one another: one, or two of which the second is handed on to the first.

    rights   the states and the vectors whose products before the row correct them
    """

    forms: list[Form]
    rights: list[tuple[str, Expr]]

    @property
    def groups(self) -> list[Group]:
        """What is added to any, once each."""
        found: list[Group] = []
        for group in (group for form in self.forms for group in form.groups):
            if not any(group is one for one in found):
                found.append(group)
        return found


def linked_states(moves: Sequence[Transition]) -> frozenset[str]:
    """The states that see one another, by name; none, or two.

    Raises RowByRow for what no state may be, however it is read."""
    names = {move.state.name: _read_by(move) for move in moves if move.coupled}
    linked = frozenset(names).union(*names.values())
    words = " and ".join(move.state.name for move in moves if move.state.name in linked)
    if len(linked) > 2:
        raise RowByRow(f"{words} see one another, and products of decays are of two")
    handed = [move for move in moves if any(_is_whole(term) for term in move.coupled)]
    if len(handed) > 1:
        raise RowByRow(f"{words} are handed on to each other: a rotation, or more than a triangle")
    for move in moves:
        _log(move, move.state.name in linked)
    return linked


def _is_whole(term: Term) -> bool:
    """Whether a state is read entry by entry, at its own place."""
    assert term.read is not None
    return not term.bound and term.read.args == tuple(map(position, term.read.array.indices))


def families_of(moves: Sequence[Transition], contracted: Mapping[str, set[Index]]) -> list[Family]:
    """The families of all states; `contracted`: along which widths results contract each.

    Raises RowByRow with what stands in the way."""
    linked = linked_states(moves)
    pair = [move for move in moves if move.state.name in linked]
    found = [_family(pair, contracted)] if pair else []
    return found + [_family([one], contracted) for one in moves if one.state.name not in linked]


def _read_by(transition: Transition) -> set[str]:
    return {term.read.array.name for term in transition.coupled if term.read is not None}


def _family(moves: Sequence[Transition], contracted: Mapping[str, set[Index]]) -> Family:
    states = {move.state.name: move.state for move in moves}
    beside = {name: _beside(move, states) for name, move in zip(states, moves, strict=True)}
    corrections = {
        move.state.name: [
            *((move.state.name, one) for one in move.low_rank),
            *beside[move.state.name][1],
        ]
        for move in moves
    }
    keys = set().union(*(contracted.get(name, set()) for name in states))
    keys |= {one.along for found in corrections.values() for _, one in found}
    words = " and ".join(states)
    if len(keys) != 1:
        which = "several widths" if keys else "no width"
        raise RowByRow(f"results contract {words} along {which}")
    (key,) = keys
    if len({state.indices for state in states.values()}) > 1:
        raise RowByRow(f"{words} are of unlike shapes")
    family = Family([], [])
    for move in moves:
        form = _form(move, key)
        groups = _groups(family, form, move, corrections[move.state.name])
        form.groups = [_known(family.groups, group) for group in groups]
        family.forms.append(form)
    links = [name for name, (link, _) in beside.items() if link is not None]
    if len(moves) > 1 and any(
        form.log is not None and _wide(form.log, form) for form in family.forms
    ):
        raise RowByRow(f"{words} see each other, and a decay varies along a width")
    for form in family.forms:
        if form.state.name in links:
            form.link = beside[form.state.name][0]
            form.leader = next(one for one in family.forms if one is not form)
    _limit(family, words)
    return family


def _wide(expr: Expr, form: Form) -> bool:
    return not expr.free.isdisjoint(form.state.indices)


def _limit(family: Family, words: str) -> None:
    if len(family.rights) > RANK or sum(bool(g.corrections) for g in family.groups) > RANK:
        rank = max(len(family.rights), sum(bool(g.corrections) for g in family.groups))
        raise RowByRow(f"{words} is corrected in rank {rank}")


def _beside(
    move: Transition, states: Mapping[str, Array]
) -> tuple[Expr | None, list[tuple[str, RankOne]]]:
    """Of the terms of another state: the number by which it is handed on, and corrections."""
    link: Expr | None = None
    found: list[tuple[str, RankOne]] = []
    for term in move.coupled:
        assert term.read is not None
        other = states[term.read.array.name]
        if _is_whole(term):
            if not term.coefficient.free.isdisjoint(other.indices):
                raise RowByRow(f"{move.state.name} takes {other.name} by a number for each entry")
            link = term.coefficient if link is None else make("add", link, term.coefficient)
            continue
        parts = corrections_of(Term(term.coefficient, term.read, term.bound), other, move.widths)
        if not parts:
            raise RowByRow(f"{move.state.name} reads {other.name} by no product of vectors")
        found += [(other.name, part) for part in parts]
    return link, found


def _form(transition: Transition, key: Index) -> Form:
    state = transition.state
    rest = [index for index in state.indices if index != key]
    if len(rest) > 1:
        raise RowByRow(f"{state.name} has more than two widths")
    return Form(state, key, rest[0] if rest else None, _log(transition, True), [])


def _known(groups: Iterable[Group], group: Group) -> Group:
    """The group that is the same, or this."""
    same = (g for g in groups if g.x == group.x and g.known == group.known)
    return next((g for g in same if g.corrections == group.corrections), group)


def _groups(
    family: Family, form: Form, transition: Transition, corrections: list[tuple[str, RankOne]]
) -> list[Group]:
    """What is added to a state at a row, and what corrects it."""
    groups: dict[Expr, Group] = {}
    for addend, minus in addends_of(transition.added or ZERO):
        if addend == ZERO:
            continue
        x, y = _parted(factors_of(addend), form)
        group = groups.setdefault(x, Group(x))
        group.known.append(make("neg", y) if minus else y)
    if corrections and (form.across is None or form.log_across is not None):
        raise RowByRow(
            f"{form.state.name} is corrected along the width that its decay does not vary along"
        )
    for name, one in corrections:
        x, scalar = _parted(factors_of(one.left), form)
        vector, minus = one.vector
        if (name, vector) not in family.rights:
            family.rights.append((name, vector))
        place, scalar = (
            family.rights.index((name, vector)),
            make("neg", scalar) if minus else scalar,
        )
        found = groups.setdefault(x, Group(x)).corrections
        found[place] = make("add", found[place], scalar) if place in found else scalar
    return list(groups.values())


def _parted(factors: Factors, form: Form) -> tuple[Expr, Expr]:
    """A product as a vector along the key and one along the other width, the sign with it."""
    key, across = form.key, form.across
    x, y = factors.split(lambda factor: key in factor.free)
    if key not in x.expr.free or (across is not None and across in x.expr.free):
        raise RowByRow(f"what is added to {form.state.name} is no product of two vectors")
    return Factors(x.above, x.below).expr, Factors(y.above, y.below, factors.negative).expr


def _log(transition: Transition, coupled: bool) -> Expr | None:
    """The logarithm of the decay; None of a decay of 1."""
    name = transition.state.name
    alone = replace(transition, coupled=()) if coupled else transition
    if alone.kind not in KINDS:
        reason = f": {transition.reason}" if transition.reason else ""
        beside = f" and reads {' and '.join(sorted(_read_by(transition)))} too"
        raise RowByRow(
            f"the update of {name} is {alone.kind}{reason}{beside if transition.coupled else ''}"
        )
    log = log_decay(transition)
    if transition.decay is None or log is None:
        raise RowByRow(f"the decay of {name} has no logarithm that is known")
    if not shrinks(transition):
        raise RowByRow(f"that the decay of {name} is at most 1 is not proved")
    return None if log == ZERO else log
