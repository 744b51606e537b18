"""References: which reductions are carried relative to one running maximum.

A reduction whose body has an exponent that depends on the pair is carried relative to a reference,
the running maximum of that exponent over the row. Reductions share a reference where their
exponents differ by terms of the row (these stay outside), or by a term that is never positive (it
stays in the mantissa). Others are carried by another kernel with a reference of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from attnc.expressions.index import Index
from attnc.expressions.signs import never_positive
from attnc.expressions.tree import value
from attnc.passes.constants import LOG2_E
from attnc.passes.exponents import NONE, Scaled
from attnc.passes.factors import ONE
from attnc.passes.fold_results import Part, Reduction
from attnc.passes.linear import Linear
from attnc.passes.reductions import Reductions
from attnc.passes.simplify import make

REFERENCE = "reference"


@dataclass
class Group:
    """Reductions under one reference: for each key source its exponent (base 2); for each reduction
    its parts with only what differs from it left in the mantissa, and the exponent of its result
    beyond the reference."""

    exponents: dict[Index, Linear] = field(default_factory=dict)
    members: dict[str, Reduction] = field(default_factory=dict)
    rescaled: set[str] = field(default_factory=set)
    offsets: dict[str, Linear] = field(default_factory=dict)

    def result(self, name: str, carried: str, over: Iterable[Index]) -> Scaled:
        """The value of a member whose carried value is named `carried`."""
        entry = self.members[name]
        exponent = self.offsets.get(name, NONE)
        if name in self.rescaled:
            reference = value(REFERENCE, "real", self._rows(entry, over))
            exponent = exponent + Linear(((reference, 1.0),))
        return Scaled(value(carried, entry.kind, over), exponent)

    @staticmethod
    def _rows(entry: Reduction, over: Iterable[Index]) -> tuple[Index, ...]:
        return tuple(index for index in over if index != entry.width)


def group(entries: Iterable[Reduction]) -> list[Group]:
    """The reductions in groups, in order: first those with exponents where they fit, then plain
    sums in the first group, and maxima where they are the reference itself."""
    groups: list[Group] = []
    members: list[list[Reduction]] = []
    plain: list[Reduction] = []
    for entry in entries:
        if entry.monoid != "sum" or not any(_pair_exponent(part) for part in entry.parts):
            plain.append(entry)
            continue
        for place, own in enumerate(members):
            wider = _together([*own, entry])
            if wider is not None:
                groups[place] = wider
                own.append(entry)
                break
        else:
            alone = _together([entry])
            assert alone is not None, "a reduction alone in its group always fits"
            groups.append(alone)
            members.append([entry])
    if plain and not groups:
        groups.append(Group())
    for entry in plain:
        _admit_plain(groups[0], entry)
    return groups


def _together(entries: list[Reduction]) -> Group | None:
    """One group of all the entries, under the exponents of one of them, or None."""
    for base in entries:
        found = Group(exponents={part.walked: part.body.exponent for part in base.parts})
        if all(_admit(found, entry) for entry in entries):
            return found
    return None


def _pair_exponent(part: Part) -> Linear:
    return _split(part, part.body.exponent)[0]


def _split(part: Part, exponent: Linear) -> tuple[Linear, Linear]:
    """The terms that depend on the key, and those of the row."""
    return exponent.split(lambda term: part.walked in term.free)


def _admit(candidate: Group, entry: Reduction) -> bool:
    """Adds an entry with an exponent to the group if it fits."""
    found: list[tuple[Part, Linear]] = []
    exponents = dict(candidate.exponents)
    for part in entry.parts:
        base = exponents.setdefault(part.walked, part.body.exponent)
        pair, row = _split(part, part.body.exponent - base)
        if pair and not never_positive(pair.expr()):
            return False
        mantissa = part.body.mantissa
        if pair:
            mantissa = make("mul", mantissa, make("exp2", pair.expr()))
        found.append((replace(part, body=Scaled(mantissa)), row))
    shared = found[0][1]
    parts = tuple(part if row.same(shared) else _times(part, (row - shared)) for part, row in found)
    candidate.exponents = exponents
    candidate.members[entry.name] = replace(entry, parts=parts)
    candidate.rescaled.add(entry.name)
    candidate.offsets[entry.name] = shared
    return True


def _times(part: Part, exponent: Linear) -> Part:
    power = make("exp2", exponent.expr())
    mantissa = power if part.body.mantissa == ONE else make("mul", part.body.mantissa, power)
    return replace(part, body=Scaled(mantissa))


def _admit_plain(candidate: Group, entry: Reduction) -> None:
    """Adds a sum without a pair exponent, or a fold by another monoid."""
    offset = entry.parts[0].body.exponent
    parts = []
    for part in entry.parts:
        difference = part.body.exponent - offset
        bare = replace(part, body=Scaled(part.body.mantissa))
        parts.append(_times(bare, difference) if difference else bare)
    candidate.members[entry.name] = replace(entry, parts=tuple(parts))
    candidate.offsets[entry.name] = offset


def witness(groups: list[Group], reductions: Reductions, domains: list[str]) -> tuple[str, ...]:
    """Members that are not 0 exactly where the row has met a key of one of the domains (NaN is not
    0): a count, or a sum of powers of two the greatest of which is one. A count is added where
    there is none."""
    for members in groups:
        for entry in members.members.values():
            if _counts(members, entry) and {part.domain for part in entry.parts} == set(domains):
                return (entry.name,)
    if len(domains) > 1:
        return tuple(name for one in domains for name in witness(groups, reductions, [one]))
    walked, conditions = reductions.domains[domains[0]]
    name = f"count of {domains[0]}"
    part = Part(walked, conditions, Scaled(ONE), domains[0])
    _admit_plain(groups[0], Reduction(name, "sum", "real", None, (part,)))
    return (name,)


def _counts(members: Group, entry: Reduction) -> bool:
    plain = all(part.body.mantissa == ONE for part in entry.parts)
    return plain and entry.monoid == "sum" and entry.width is None


def is_reference(candidate: Group, entry: Reduction) -> bool:
    """Whether a maximum is the reference itself, in natural units."""
    if entry.monoid != "max" or len(entry.parts) != 1 or entry.width is not None or entry.exact:
        return False
    (part,) = entry.parts
    base = candidate.exponents.get(part.walked)
    if base is None or len(candidate.exponents) != 1:
        return False
    tracked = [candidate.members[name].parts[0] for name in candidate.rescaled]
    same = all(set(other.condition) == set(part.condition) for other in tracked)
    return same and Linear.of(part.body.mantissa, LOG2_E).same(base)
