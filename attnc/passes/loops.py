"""The walked loops of a group of reductions: products, pair values, contributions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce
from typing import Literal

from attnc.expressions.index import Index
from attnc.expressions.tree import TRUE, Array, Expr, number, postorder, value
from attnc.passes.bottom import above_bottom
from attnc.passes.constants import identity
from attnc.passes.contract import Contraction, Preparations
from attnc.passes.factors import ONE, factors_of
from attnc.passes.fold_results import Part, Reduction
from attnc.passes.frame import Frame
from attnc.passes.hoist import Hoister, Names
from attnc.passes.references import REFERENCE, Group, is_reference
from attnc.passes.refusals import refuse
from attnc.passes.regions import regions
from attnc.passes.scans import RunningValues, in_order, scans_in
from attnc.passes.simplify import make
from attnc.schedule.regions import Region
from attnc.schedule.statements import Carried, Contribution, Deposit, Let, PairStore, Scatter
from attnc.schedule.streams import WalkedLoop


@dataclass(frozen=True)
class Added:
    """A sum over pairs that is not carried: it goes to memory pair by pair, or row by row.

    entry    its body and conditions, as of a reduction with one part
    kind     deposit: into rows of the walked axis; scatter: into `array` at `at`; pair: one number
             for each pair, `otherwise` where it is masked"""

    entry: Reduction
    kind: Literal["deposit", "scatter", "pair"]
    array: Array
    at: Expr | None = None
    otherwise: float = 0.0


@dataclass
class CarriedNames:
    """The carried values of a kernel, and their names by reduction."""

    carried: list[Carried] = field(default_factory=list)
    of: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """What the parts over one key source share: their condition, and each with what is its own."""

    walked: Index
    visible: tuple[Expr, ...]
    hidden: tuple[Expr, ...]
    parts: tuple[tuple[Reduction, Part, tuple[Expr, ...]], ...]


class LoopBuilder:
    """Builds the loops of a group: `carried`, `loops`, and the grid and held values they share."""

    def __init__(
        self,
        frame: Frame,
        members: Group,
        preparations: Preparations,
        added: tuple[Added, ...] = (),
    ) -> None:
        self.frame = frame
        self.group = members
        self.added = {one.entry.name: one for one in added}
        self.preparations = preparations
        self.names = Names(set(preparations.names.taken))
        self.hoister = Hoister(frame, self.names)
        self.carried = CarriedNames()
        self.loops: list[WalkedLoop] = []
        self.notes: list[str] = []
        self.vectors = 0

    def build(self) -> None:
        """Fills `carried` and `loops`."""
        sources = [s for s in map(self._source, self.frame.walked) if s is not None]
        self._name_carried(sources)
        self.loops.extend(map(self._loop, sources))

    # --------------------------------------------------------------------- what is carried

    def _source(self, walked: Index) -> Source | None:
        found = [
            (entry, part)
            for entry in self.group.members.values()
            if not is_reference(self.group, entry)
            for part in entry.parts
            if part.walked == walked
        ]
        every = (one.entry for one in self.added.values())
        found += [(e, part) for e in every for part in e.parts if part.walked == walked]
        if not found:
            return None
        first = found[0][1].condition
        shared = [c for c in first if all(c in part.condition for _, part in found)]
        scans = scans_in(self._of_pairs(walked, [part for _, part in found]), walked)
        shared = [c for c in shared if all(c in scan.conditions for scan in scans)]
        parts = tuple(
            (entry, part, tuple(c for c in part.condition if c not in shared))
            for entry, part in found
        )
        computed = [c for c in shared if _is_computed(c, self.frame) or self._is_finished(c)]
        visible = tuple(c for c in shared if c not in computed)
        return Source(walked, visible, tuple(computed), parts)

    def _of_pairs(self, walked: Index, parts: list[Part]) -> list[Expr]:
        """The expressions that a loop forms for each pair."""
        linear = [part.body.exponent for part in parts]
        linear += [self.group.exponents[walked]] if walked in self.group.exponents else []
        terms = [term for form in linear for term, _ in form.terms]
        bodies = (e for part in parts for e in (part.body.mantissa, *part.condition))
        return [*terms, *bodies]

    def _is_finished(self, condition: Expr) -> bool:
        """Whether a condition asks for a row value: it says nothing about positions."""
        names = self.preparations.finished
        return any(n.op == "read" and n.array.name in names for n in postorder(condition))

    def _name_carried(self, sources: list[Source]) -> None:
        for entry in self.group.members.values():
            if is_reference(self.group, entry):
                continue
            rescaled = entry.name in self.group.rescaled
            own = [(p, c) for s in sources for e, p, c in s.parts if e.name == entry.name]
            bare = all(part.body.mantissa == ONE and not c for part, c in own)
            counts = entry.width is None and bare
            name = self.names.fresh(_word(entry, counts and not rescaled))
            self.carried.of[entry.name] = name
            monoid = entry.monoid
            assert monoid in ("sum", "prod", "max", "min")
            self.carried.carried.append(Carried(name, monoid, entry.width, rescaled))  # type: ignore[arg-type]

    # -------------------------------------------------------------------------- one loop

    def _loop(self, source: Source) -> WalkedLoop:
        self.hoister.begin_loop()
        walked = source.walked
        contraction = Contraction(self.frame, walked, self.preparations, self.names)
        score, known = self._score(source)
        split = [
            self._operand(entry, part, self._untested(entry, part, own, known))
            for entry, part, own in source.parts
        ]
        places = [self.added[e.name].at for e, _, _ in source.parts if e.name in self.added]
        at = [place for place in places if place is not None]
        roots = [t for t, _ in split] + at + list(source.hidden) + ([score] if score else [])
        running = RunningValues(self.frame, walked, self.names, source.visible)
        roots = [running.taken_from(root) for root in roots]
        running.check()
        along = [term for _, term in running.found.values()]
        roots = along + roots
        light = (self.preparations.scalars(root, self.frame, walked) for root in roots)
        contracted = [contraction.contract(root) for root in light]
        shared = self.hoister.share(self.hoister.hoist(root) for root in contracted)
        along, shared = list(shared[: len(along)]), shared[len(along) :]
        terms, rest = shared[: len(split)], shared[len(split) + len(at) :]
        cells = iter(shared[len(split) : len(split) + len(at)])
        hidden = rest[: len(source.hidden)]
        base, weight, lifted = self._lifted(rest[-1] if score else None)
        sums = [
            (entry, term, operand)
            for (entry, _, _), term, (_, operand) in zip(source.parts, terms, split, strict=True)
        ]
        contributions = [
            self._contribution(entry, term, operand, weight)
            for entry, term, operand in sums
            if entry.name not in self.added
        ]
        deposits: list[Deposit] = []
        scatters: list[Scatter] = []
        stores: list[PairStore] = []
        for entry, term, operand in sums:
            one = self.added.get(entry.name)
            if one is None:
                continue
            if one.kind == "deposit":
                deposits.append(Deposit(one.array, term, entry.width, operand))
            elif one.kind == "scatter":
                scatters.append(Scatter(one.array, next(cells), term, entry.width, operand))
            else:
                stores.append(PairStore(one.array, term, one.otherwise))
        mask = _all(source.visible)
        if mask is not None:
            mask = self.preparations.scalars(mask, self.frame, walked)
        visible = None if mask is None else self.hoister.hoist(mask)
        self._note(contraction)
        return WalkedLoop(
            walked,
            tuple(self.hoister.lets["walked"]),
            tuple(contraction.products),
            in_order(self.hoister.lets["pair"], running.statements(along)),
            visible,
            region_of(mask, self.frame.held, walked),
            base,
            tuple(lifted),
            tuple(contributions),
            _none_of(hidden),
            around=self.frame.around,
            backward=running.backward,
            deposits=tuple(deposits),
            scatters=tuple(scatters),
            pair_stores=tuple(stores),
        )

    def _untested(
        self, entry: Reduction, part: Part, own: tuple[Expr, ...], known: tuple[Expr, ...]
    ) -> tuple[Expr, ...]:
        """The conditions beyond those that make the exponent -inf: all, where a term may be a
        number over 0, of a row or a key that nothing is seen of."""
        if entry.name not in self.group.rescaled or _divides(part.body.mantissa):
            return own
        return tuple(condition for condition in own if condition not in known)

    def _score(self, source: Source) -> tuple[Expr | None, tuple[Expr, ...]]:
        """The exponent, -inf where none of its reductions sees the pair: a greater one of a hidden
        key would be the reference of smaller ones. And the conditions that they all have beyond
        what is visible, which their terms need not test again."""
        exponent = self.group.exponents.get(source.walked)
        if exponent is None:
            return None, ()
        own = [c for entry, _, c in source.parts if entry.name in self.group.rescaled]
        shared = tuple(c for c in own[0] if all(c in other for other in own))
        score = exponent.expr(self._cost)
        for condition in shared:
            score = make("where", condition, score, number(float("-inf")))
        apart = dict.fromkeys(tuple(c for c in other if c not in shared) for other in own)
        if all(apart):
            score = make("where", _any_of(apart), score, number(float("-inf")))
        return score, shared

    def _cost(self, factor: Expr) -> int:
        """How often a factor is computed: where a constant is best multiplied in."""
        return {"grid": 0, "held": 1, "walked": 2, "pair": 3, "inner": 4}[self.frame.level(factor)]

    def _operand(
        self, entry: Reduction, part: Part, own: tuple[Expr, ...]
    ) -> tuple[Expr, Expr | None]:
        """The term of the pair, and the operand over (walked, width)."""
        term = part.body.mantissa
        if entry.width is None:
            added = self.added.get(entry.name)
            bottom = number(added.otherwise) if added else identity(entry.monoid, "real")
            return _under(own, term, bottom), None
        if entry.monoid != "sum":
            raise refuse("pooling_stage: a maximum of vectors over keys")
        width = entry.width
        inside, outside = factors_of(term).split(lambda f: width in f.free)
        operand = inside.expr
        if any(width in condition.free for condition in own):
            raise refuse("axis_softmax: a mask for each width")
        along = self._along(entry, part, operand)
        if along is None:
            read = self.preparations.scalars(operand, self.frame, part.walked)
            self.vectors += 1
        else:
            read = self.preparations.operand(operand, self.frame, along, width)
        return _under(own, outside.expr, MASKED), read

    def _along(self, entry: Reduction, part: Part, operand: Expr) -> Index | None:
        """The index that a vector operand is over beside its width: that of the walk, of what is
        held where it is deposited, either where it is scattered; None where it is pairwise."""
        held, walked = self.frame.held in operand.free, part.walked in operand.free
        added = self.added.get(entry.name)
        kind = added.kind if added else "carried"
        if held != walked and (walked or kind != "carried") and (held or kind != "deposit"):
            return self.frame.held if held else part.walked
        if kind == "scatter":
            raise refuse("pair_embedding: a vector for each pair, added to a table")
        return None

    def _lifted(self, score: Expr | None) -> tuple[Expr | None, Expr | None, list[Let]]:
        """The exponent, the power of two relative to the reference, and the Let that makes it."""
        if score is None:
            return None, None, []
        if score.op not in ("value", "number"):
            score = self.hoister.let("pair", "score", score)
        rows = (*self.frame.grid, self.frame.held)
        above = make("sub", score, value(REFERENCE, "real", rows))
        weight = Let(self.names.fresh("weight"), make("exp2", above))
        return score, value(weight.name, "real", weight.expr.free), [weight]

    def _contribution(
        self, entry: Reduction, term: Expr, operand: Expr | None, weight: Expr | None
    ) -> Contribution:
        name = self.carried.of[entry.name]
        if entry.name in self.group.rescaled:
            assert weight is not None
            term = weight if term == ONE else make("mul", term, weight)
        return Contribution(name, term, operand)

    def _note(self, contraction: Contraction) -> None:
        if contraction.loops:
            self.notes.append(
                "A sum of each pair is no matrix product: it runs as an inner loop over the width."
            )
        if self.vectors:
            self.notes.append(
                "A vector of each pair is added pair by pair: its sum is no matrix product."
            )


def region_of(mask: Expr | None, held: Index, walked: Index) -> Region:
    """The region of a mask; without one, every tile is whole."""
    return Region(TRUE, TRUE) if mask is None else regions(mask, held, walked)


def _all(conditions: tuple[Expr, ...]) -> Expr | None:
    whole: Expr | None = None
    for condition in conditions:
        whole = condition if whole is None else make("and", whole, condition)
    return whole


def _any_of(cases: Iterable[tuple[Expr, ...]]) -> Expr:
    """Whether all conditions of some case hold; no case is without one."""
    whole = [case for case in map(_all, cases) if case is not None]
    return reduce(lambda one, other: make("or", one, other), whole)


def _divides(term: Expr) -> bool:
    """Whether a term divides by what an earlier loop has finished."""
    below = (node.args[1] for node in postorder(term) if node.op == "div")
    return any(n.op == "read" and n.array.role == "workspace" for n in postorder(*below))


MASKED = number(-0.0)  # the term of a pair outside of a sum of vectors, whatever the vector is


def _under(conditions: tuple[Expr, ...], term: Expr, bottom: Expr) -> Expr:
    """The term where the conditions hold, else what stands for nothing."""
    for condition in conditions:
        term = make("where", condition, term, bottom)
    return term


def _is_computed(condition: Expr, frame: Frame) -> bool:
    """Whether a condition is computed from pair values (products, scores), not from positions and
    reads of the row and the key."""
    if above_bottom(condition) is not None:
        return True
    return any(n.op == "fold" and frame.level(n) == "pair" for n in postorder(condition))


def _none_of(hidden: tuple[Expr, ...]) -> Expr | None:
    found: Expr | None = None
    for condition in hidden:
        opposite = make("not", condition)
        found = opposite if found is None else make("or", found, opposite)
    return found


def _word(entry: Reduction, count: bool) -> str:
    if count:
        return "count"
    if entry.width is not None:
        return "acc"
    return {"sum": "total", "prod": "product_total", "max": "highest", "min": "lowest"}[
        entry.monoid
    ]
