"""After the loops: formulas of reductions become statements of row values, and stores.

does      resolves exponents (those that cancel are gone), reads carried values by name inside
          their kernel, or from where they were spilled
needs     the reductions of every target in one of the carries
does not  make loops
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr, fold, number, position, read, rewrite, value
from attnc.passes.constants import LN_2
from attnc.passes.contract import Preparations
from attnc.passes.exponents import Scaled, above_bottom, scaled
from attnc.passes.frame import Frame
from attnc.passes.hoist import CHEAP, Hoister, Names
from attnc.passes.linear import Linear
from attnc.passes.loops import CarriedNames, LoopBuilder
from attnc.passes.reductions import Reductions
from attnc.passes.references import REFERENCE, Group, is_reference
from attnc.passes.simplify import make
from attnc.passes.sources import SEEN
from attnc.schedule import Kernel, Workspace
from attnc.schedule.maps import MapKernel
from attnc.schedule.statements import Carried, Let, Store


@dataclass(frozen=True)
class Target:
    """`array = expr`: an output or a workspace, as a formula of reductions.

    part    what of it: all, or its mantissa or exponent (base 2)"""

    array: Array
    width: Index | None
    expr: Expr
    part: Literal["whole", "mantissa", "exponent"] = "whole"


@dataclass
class Lowering:
    """What lowering a Graph collects. `turned`: what stands for the arrays of iterations."""

    frame: Frame
    reductions: Reductions
    preparations: Preparations
    kernels: list[Kernel] = field(default_factory=list)
    workspaces: list[Workspace] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    turned: dict[str, Array] = field(default_factory=dict)


@dataclass
class Carry:
    """A group with the loops that compute it.

    witnesses   for the domains that are asked about, the members that say whether a key was met
    restored    what stands for its carried values in a kernel that comes later
    """

    group: Group
    names: CarriedNames
    builder: LoopBuilder
    witnesses: dict[str, tuple[str, ...]]
    restored: dict[str, Expr] = field(default_factory=dict)

    def carried(self) -> tuple[Carried, ...]:
        """The carried values, the reference last where there is one."""
        tracked = bool(self.group.exponents)
        reference = (Carried(REFERENCE, "max"),) if tracked else ()
        return (*self.names.carried, *reference)


def spill(
    frame: Frame, carry: Carry, prefix: str, lead: tuple[Index, ...] = ()
) -> tuple[Store, ...]:
    """Stores of every carried value and the reference to arrays `prefix_NAME`, which from now on
    stand for them (unless `lead` asks for an index more, which a merge has to fold)."""
    stores = []
    for carried in carry.carried():
        ends = (carried.width,) if carried.width else ()
        over = (*frame.grid, frame.held, *ends)
        array = Array(f"{prefix}_{carried.name}", (*lead, *over), "real", "workspace")
        stores.append(Store(array, carried.width, value(carried.name, "real", over)))
        if not lead:
            carry.restored[carried.name] = read(array, map(position, over))
    return tuple(stores)


def merged(carry: Carry, arrays: dict[str, Array], part: Index) -> dict[str, Expr]:
    """For each carried value, and the reference, the combination of its parts along the first axis
    of its array, in the order of the parts."""

    def at(name: str, own: Index = part) -> Expr:
        return read(arrays[name], map(position, (own, *arrays[name].indices[1:])))

    found: dict[str, Expr] = {}
    power = number(1.0)
    if REFERENCE in arrays:
        each = Index(part.name, part.axis, part.number + 1)  # within a sum over the parts
        top = fold("max", (each,), at(REFERENCE, each))
        found[REFERENCE] = top
        power = make("exp2", make("sub", at(REFERENCE), above_bottom(top)))
    for carried in carry.names.carried:
        body = make("mul", at(carried.name), power) if carried.rescaled else at(carried.name)
        found[carried.name] = fold(carried.monoid, (part,), body)
    return found


@dataclass
class Finish:
    """Formulas of reductions -> statements and stores after the loops."""

    lowering: Lowering
    carries: list[Carry]

    def lower(self, targets: tuple[Target, ...]) -> tuple[list[Let], tuple[Store, ...]]:
        """The finish Lets and the stores of the targets."""
        frame = self.lowering.frame
        over = (*frame.grid, frame.held)
        widths = [target.width for target in targets if target.width is not None]
        inner = Frame(over, widths[0] if widths else Index("none", frame.held.axis, -1), ())
        taken = set(self.lowering.preparations.names.taken)
        for carry in self.carries:
            taken |= carry.builder.names.taken
        hoister = Hoister(inner, Names(taken))
        formulas = hoister.share((self.formula(target) for target in targets), "grid")
        stores = []
        for target, expr in zip(targets, formulas, strict=True):
            if target.width is None and expr.op not in CHEAP:
                expr = hoister.let("grid", f"{target.array.name}_row", hoister.hoist(expr, "grid"))
            stores.append(Store(target.array, target.width, hoister.hoist(expr, "held")))
        return hoister.lets["grid"], tuple(stores)

    def formula(self, target: Target) -> Expr:
        """The target in terms of carried values."""
        whole = scaled(target.expr, self._leaf)
        if target.part == "mantissa":
            return whole.mantissa
        if target.part == "exponent":
            exponent = whole.exponent.expr()
            return rewrite(exponent, _bounded) if target.array.role == "workspace" else exponent
        for stored in self.lowering.reductions.pending.values():
            if target.array is stored.exponent:
                return whole.exponent.expr()
            if target.array is stored.mantissa and stored.exponent is not None:
                return whole.mantissa
        return whole.collapsed()

    def _leaf(self, node: Expr) -> Scaled | None:
        if node.op != "value":
            return None
        if str(node.attr).startswith(SEEN):
            return Scaled(self._seen(str(node.attr).removeprefix(SEEN)))
        for carry in self.carries:
            entry = carry.group.members.get(str(node.attr))
            if entry is None:
                continue
            if is_reference(carry.group, entry):
                top = value(REFERENCE, "real", (*self.lowering.frame.rows,))
                return Scaled(make("mul", self._read_back(carry, top), number(LN_2)))
            over = sorted(node.free, key=lambda index: (index.name, index.number))
            result = carry.group.result(entry.name, carry.names.of[entry.name], over)
            terms = tuple((self._read_back(carry, t), c) for t, c in result.exponent.terms)
            exponent = Linear(terms, result.exponent.constant)
            return Scaled(self._read_back(carry, result.mantissa), exponent)
        return None

    def _seen(self, domains: str) -> Expr:
        """Whether the row has met a key of the domains."""
        found: Expr | None = None
        rows = (*self.lowering.frame.grid, self.lowering.frame.held)
        for carry in self.carries:
            for name in carry.witnesses[domains]:
                if name in carry.group.members:
                    carried = value(carry.names.of[name], "real", rows)
                    met = make("ne", self._read_back(carry, carried), number(0.0))
                    found = met if found is None else make("or", found, met)
        assert found is not None
        return found

    @staticmethod
    def _read_back(carry: Carry, expr: Expr) -> Expr:
        """The expression with carried values read from where they were spilled, if they were."""
        if not carry.restored:
            return expr

        def change(node: Expr) -> Expr:
            return carry.restored.get(str(node.attr), node) if node.op == "value" else node

        return rewrite(expr, change)


def _bounded(node: Expr) -> Expr:
    """A reference that is never -inf: later kernels take differences of exponents, which are to be
    no NaN for a row without keys."""
    bare = node.op == "value" and node.attr == REFERENCE
    return above_bottom(node) if bare else node


def finish_kernels(
    lowering: Lowering, name: str, carries: list[Carry], targets: tuple[Target, ...]
) -> list[Kernel]:
    """Finishes from restored values: one map, or one for each width that stores have."""
    over = (*lowering.frame.grid, lowering.frame.held)
    lets, stores = Finish(lowering, carries).lower(targets)
    return [MapKernel(name, over, tuple(lets), stores)]
