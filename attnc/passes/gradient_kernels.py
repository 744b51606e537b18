"""Kernels for the sums of a derivative: rows held, keys held, what goes to memory beside them.

    two sweeps    rows are held for what rows get; keys are held for what keys get
    one sweep     keys are held, and what rows get is deposited, or rows are held, and what keys get
                  is deposited: each pair is computed once

does      makes a stream kernel for each way of holding, with every sum that it can make; gives each
          sum's array to the maps that finish
needs     sums in canonical indices (gradients), row values at hand
does not  order kernels
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import (
    TRUE,
    Array,
    Expr,
    fold,
    position,
    postorder,
    read,
    rewrite,
    substitute,
)
from attnc.passes.bottom import implied
from attnc.passes.contract import Preparations
from attnc.passes.exponents import Scaled
from attnc.passes.factors import factors_of
from attnc.passes.finish import Lowering, Target
from attnc.passes.fold_results import Part, Reduction
from attnc.passes.frame import Frame
from attnc.passes.key_heads import group_size
from attnc.passes.loops import Added
from attnc.passes.pair_sums import PairSum
from attnc.passes.powers import formed
from attnc.passes.reductions import Reductions
from attnc.passes.roles import Roles
from attnc.passes.separate import Separation, exchange
from attnc.passes.simplify import all_of, make, simplify_node
from attnc.passes.stream import NO_EXPONENT, emit
from attnc.schedule import Kernel, RepeatKernels, Workspace
from attnc.schedule.streams import StreamKernel


def repeated(kernel: Kernel) -> Kernel:
    """The kernel, one whose pairs are computed again by others."""
    if isinstance(kernel, RepeatKernels):
        return replace(kernel, kernels=tuple(map(repeated, kernel.kernels)))
    return replace(kernel, repeated=True) if isinstance(kernel, StreamKernel) else kernel


@dataclass(frozen=True)
class Formula:
    """An output, or the workspace of a sum, as a formula of sums that one kernel makes."""

    array: Array
    width: Index | None
    expr: Expr


@dataclass
class Holder:
    """One kernel: a frame, what it finishes, and what it adds to memory.

    coarse   the place of a fine index that the frame has as a coarse one
    """

    name: str
    frame: Frame
    coarse: tuple[Expr, Index] | None = None
    formulas: list[Formula] = field(default_factory=list)
    added: list[PairSum] = field(default_factory=list)

    def into(self, expr: Expr) -> Expr:
        """An expression over canonical indices in those of the frame."""
        if self.coarse is not None:
            place, coarse = self.coarse
            expr = exchange(expr, {place.digest: position(coarse)})
        moved = substitute(expr, dict(self.frame.places))
        return rewrite(moved, simplify_node) if self.frame.places else moved


def heads_of(coarse: Index, roles: Roles) -> tuple[Index, Index, Expr]:
    """The query heads of a key head: their index, that of their place among them, and what the
    first is by the second."""
    assert coarse.axis.of is not None
    fine = roles.own(coarse.axis.of)
    assert fine is not None
    size = group_size(coarse.axis)
    group = Index(roles.group, Axis(roles.group, "range", length=size), 0)
    return fine, group, make("add", make("mul", position(coarse), size), position(group))


def key_holder(one: PairSum, roles: Roles) -> Holder:
    """The kernel that holds the keys of a sum over rows."""
    ends = 1 if one.width is not None else 0
    grid = one.array.indices[: len(one.array.indices) - 1 - ends]
    around, places = one.around, ()
    if one.coarse is not None:
        fine, group, head = heads_of(one.coarse[1], roles)
        places = ((fine, head),)  # type: ignore[assignment]
        around = (*around, group)
    walked = (roles.frame.held,)
    frame = Frame(grid, one.key, walked, around, places)
    return Holder(f"keys_{one.key.name}", frame, one.coarse)


def deposited(one: PairSum) -> PairSum:
    """A sum over rows (and heads) for each key as what a loop that holds rows adds to the keys that
    it walks."""
    if one.hold != "key":
        return one
    places = {one.coarse[1]: one.coarse[0]} if one.coarse else {}
    body, *conditions = (substitute(e, places) for e in (one.body, *one.conditions))
    return replace(one, hold="deposit", body=body, conditions=tuple(conditions))


def can_deposit(one: PairSum, frame: Frame) -> bool:
    """Whether a loop with this frame, which holds rows, can add a sum to the keys that it walks: as
    a product with what is along the rows, for each of all heads."""
    if one.hold != "key":
        return True
    fine = one.coarse[0].free if one.coarse else frozenset()
    if one.monoid != "sum" or not set(frame.grid) <= {*one.array.indices, *one.around, *fine}:
        return False
    along = [f.free for f in factors_of(one.body).above if one.width in f.free]
    return all(frame.held in free and one.key not in free for free in along)


@dataclass
class Kernels:
    """Makes the kernels of holders, and says where each sum can be read."""

    roles: Roles
    preparations: Preparations
    kernels: list[Kernel] = field(default_factory=list)
    workspaces: list[Workspace] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reads: dict[str, Expr] = field(default_factory=dict)
    share: Index = field(init=False)  # of a walked axis, where rows are summed in shares

    def __post_init__(self) -> None:
        name = self.preparations.names.fresh("split")
        self.share = Index(name, Axis(name), 0)

    def emit(self, holder: Holder, prefix: str) -> None:
        """The kernel of a holder."""
        frame = holder.frame
        lowering = Lowering(frame, Reductions(frame, bounded=True), self.preparations)
        lowering.reductions.names = self.preparations.names
        targets = []
        for formula in holder.formulas:
            whole = lowering.reductions.finish(formula.expr)
            targets.append(Target(formula.array, formula.width, whole))
            if formula.array.role == "workspace":
                self.workspaces.append(Workspace(formula.array, "accumulate"))
        shared = any(self._kind(one, frame) != "pair" for one in holder.added)
        share = self.share if shared else None
        added = tuple(
            each for one in holder.added for each in self._added(one, holder, share, lowering)
        )
        emit(lowering, f"{prefix}_{holder.name}", tuple(targets), added, share)
        assert not lowering.reductions.pending, "row values are at hand before"
        self.kernels.extend(map(repeated, lowering.kernels))
        self.workspaces.extend(lowering.workspaces)
        loose = [note for note in lowering.notes if note != NO_EXPONENT]
        self.notes.extend(note for note in loose if note not in self.notes)

    @staticmethod
    def _kind(one: PairSum, frame: Frame) -> Literal["deposit", "scatter", "pair"]:
        if one.hold in ("row", "deposit"):
            return "deposit"
        assert one.hold in ("scatter", "pair")
        return "scatter" if one.hold == "scatter" else "pair"

    def _added(
        self, one: PairSum, holder: Holder, share: Index | None, lowering: Lowering
    ) -> list[Added]:
        """A sum that the kernel puts into memory, term by term, and where its array stands."""
        frame = holder.frame
        kind = self._kind(one, frame)
        body = holder.into(one.body)
        tests = [holder.into(c) for c in one.conditions]
        kept = tuple(c for c in tests if not implied(c, "sum", body))
        (walked,) = (i for i in frame.walked if i in (one.key, self.roles.frame.held))
        array = self._array(one, holder, share if kind != "pair" else None)
        at = None if one.at is None else holder.into(one.at)
        if array.role == "workspace":
            self.workspaces.append(Workspace(array, "accumulate"))
        found: list[Added] = []
        whole = formed(body, lowering.frame, lowering.reductions.names)
        for term in self._terms(whole, one, frame, walked):
            part = Part(walked, kept, Scaled(term), "")
            name = f"added {one.array.name} {len(found)}"
            entry = Reduction(name, "sum", "real", one.width, (part,))
            found.append(Added(entry, kind, array, at, one.otherwise))
        return found

    @staticmethod
    def _terms(body: Expr, one: PairSum, frame: Frame, walked: Index) -> list[Expr]:
        """The body, or its terms where what is along the width is no factor of it."""
        width = one.width
        inside = [f for f in factors_of(body).above if width is not None and width in f.free]
        held = frame.held
        plain = all(not (held in f.free and walked in f.free) for f in inside)
        sums = [f for f in inside if f.op in ("add", "sub", "where") and len(inside) > 1]
        if width is None or (plain and not sums):
            return [body]
        terms = Separation(frame, walked, lambda expr: expr).terms(body)
        return [(factors_of(t.row) * factors_of(t.pair)).expr for t in terms]

    def _array(self, one: PairSum, holder: Holder, share: Index | None) -> Array:
        """The array of a sum over the kernel's own outer indices, and how it is read back."""
        if one.array.role == "output":
            return one.array
        frame = holder.frame
        coarse = one.coarse[1] if one.coarse else None
        ends = [i for i in one.array.indices if i not in (*self.roles.frame.grid, coarse)]
        indices = (*((share,) if share else ()), *frame.outer, *ends)
        array = Array(one.array.name, indices, "real", "workspace")
        at = {index: self._back(index, holder) for index in indices}
        summed = [*((share,) if share else ()), *one.around]
        if coarse is not None:
            fine, group, head = heads_of(coarse, self.roles)
            at[fine] = head
            summed.append(group)
        found = read(array, at.values())
        self.reads[one.array.name] = fold("sum", tuple(summed), found) if summed else found
        return array

    def _back(self, index: Index, holder: Holder) -> Expr:
        """A frame's outer index as an expression of canonical ones."""
        if holder.coarse is None:
            return position(index)
        place, coarse = holder.coarse
        if index == coarse:
            return place
        if index in holder.frame.around and index.axis.name == self.roles.group:
            (fine, _) = holder.frame.places[0]
            return make("sub", position(fine), make("mul", place, group_size(coarse.axis)))
        return position(index)


def sum_of(one: PairSum, holder: Holder) -> Expr:
    """The fold that a holder carries for a sum."""
    frame = holder.frame
    walked = one.key if one.hold == "row" else frame.walked[0]
    whole = all_of(map(holder.into, one.conditions))
    return fold(one.monoid, (*frame.around, walked), holder.into(one.body), whole)


def direct(
    output: Array, expr: Expr, sums: dict[str, PairSum], hold: str, axes: frozenset[Axis]
) -> tuple[Expr, tuple[Index, ...], Index | None] | None:
    """The output's formula over the indices of the kernel that makes its sums, if it can finish it:
    every sum is read straight at the output's own indices, in no fold with a condition."""
    found = {n.array.name for n in _reads(expr) if n.array.name in sums}
    if not found or any(sums[name].hold != hold for name in found):
        return None
    moves: dict[Index, Index] = {}
    bound = {index for node in postorder(expr) for index in node.bound}
    for node in _reads(expr):
        if node.array.name not in sums:
            continue
        for own, at in zip(node.array.indices, node.args, strict=True):
            index = at.attr
            if at.op != "index" or not isinstance(index, Index):
                return None
            if index in bound:
                if own != sums[node.array.name].width:
                    return None
                continue
            if moves.setdefault(index, own) != own:
                return None
    if any(n.op == "fold" and n.args[0] != TRUE and _sums_below(n, sums) for n in postorder(expr)):
        return None
    one = sums[next(iter(found))]
    rows = set(one.array.indices) - ({one.width} if one.width else set())
    widths = [i for i in output.indices if moves.get(i) not in rows]
    if len(set(moves.values())) < len(moves) or len(widths) > 1:
        return None
    if not rows <= set(moves.values()) or (widths and widths[0] != output.indices[-1]):
        return None
    if widths and widths[0].axis not in axes:
        return None
    if any(n.bound and n.free & set(widths) and _sums_below(n, sums) for n in postorder(expr)):
        return None  # a product with a matrix: no tile holds two widths
    for name in found:
        own_rows = set(sums[name].array.indices) - {sums[name].width}
        if own_rows != rows:
            return None
    width = None
    if widths:
        width = moves.setdefault(widths[0], Index(widths[0].axis.name, widths[0].axis, 0))
    indices = tuple(moves[i] for i in output.indices)
    return substitute(expr, {a: position(b) for a, b in moves.items()}), indices, width


def _sums_below(node: Expr, sums: dict[str, PairSum]) -> bool:
    return any(n.array.name in sums for n in _reads(node))


def _reads(expr: Expr) -> list[Expr]:
    return [node for node in postorder(expr) if node.op == "read"]


def in_kernel(expr: Expr, sums: dict[str, PairSum], holder: Holder) -> Expr:
    """A formula with the folds in place of the reads of sums, in the holder's indices."""

    def change(node: Expr) -> Expr:
        if node.op != "read" or node.array.name not in sums:
            return simplify_node(node)
        one = sums[node.array.name]
        whole = sum_of(one, holder)
        if one.width is None:
            return whole
        return substitute(whole, {one.width: node.args[-1]})

    return rewrite(holder.into(expr), change)


def read_back(expr: Expr, known: dict[str, Expr], sums: dict[str, PairSum]) -> Expr:
    """A formula with each sum read from where its kernel has put it."""

    def change(node: Expr) -> Expr:
        if node.op != "read" or node.array.name not in known:
            return simplify_node(node)
        moves = dict(zip(sums[node.array.name].array.indices, node.args, strict=True))
        return substitute(known[node.array.name], moves)

    return rewrite(expr, change)
