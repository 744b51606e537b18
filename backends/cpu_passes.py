"""The statements of a recurrence's row in the order in which they run: those over the same two
widths are joined into passes (cpu_pass), so that a state is loaded and stored once where several
statements use it.

Statements are put at the earliest level where what they read is finished; a level is statements of
their own, then passes. Within one the order is that of the text. What nothing reads is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from attnc.backends.cpu_lanes import Buffer
from attnc.backends.cpu_pass import PassPrinter, Plane, Planned
from attnc.backends.cpu_rows import RowPrinter
from attnc.backends.cpu_scope import Scope
from attnc.backends.scan_order import names_read

from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, postorder

Emit = Callable[[Scope, list[str]], Scope]


@dataclass
class Step:
    """A statement: the names it makes (all of old values) and their expressions; `emit` prints it
    by itself; `plane` if a pass may have it."""

    names: tuple[str, ...]
    exprs: tuple[Expr, ...]
    emit: Emit
    plane: Plane | None = None
    level: int = 0
    reads: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.reads = names_read(self.exprs)

    def after(self, first: Step, made: bool) -> int:
        """The earliest level after another step: `made`, this reads what that makes; else this
        makes anew what that reads."""
        if first.plane is None:
            return first.level
        if self.plane is None or self.plane.axes != first.plane.axes:
            return first.level + 1
        return first.level + 1 if made and first.plane.mode != "map" else first.level


@dataclass
class RowPasses:
    """The statements of one row, collected and then printed.

    orders   the axes in memory order of what statements make, by name
    """

    rows: RowPrinter
    steps: list[Step] = field(default_factory=list)
    orders: dict[str, tuple[Index, ...]] = field(default_factory=dict)

    # --- What is collected ------------------------------------------------------------------------

    def let(self, name: str, expr: Expr, emit: Emit) -> None:
        """A value of the row."""
        order = self.rows.order_of(expr)
        self.steps.append(Step((name,), (expr,), emit, self._plane((expr,), order)))
        self.orders[name] = order

    def assign(self, pairs: Sequence[tuple[str, Buffer, Expr]], emit: Emit) -> None:
        """Carried arrays of the same axes, all from old values."""
        names, exprs = tuple(name for name, _, _ in pairs), tuple(expr for _, _, expr in pairs)
        self.steps.append(Step(names, exprs, emit, self._plane(exprs, pairs[0][1].indices)))

    def other(self, exprs: Iterable[Expr], emit: Emit) -> None:
        """What makes no value: a store."""
        self.steps.append(Step((), tuple(exprs), emit))

    def _plane(self, exprs: Sequence[Expr], target: tuple[Index, ...]) -> Plane | None:
        """How a pass runs the statement, None if it does not."""
        folded = len(exprs) == 1 and exprs[0].op == "fold"
        parts, bound = (exprs[0].args, exprs[0].bound) if folded else (exprs, ())
        every = {*target, *bound}
        if len(every) != 2 or len(bound) > 1 or any(expr.kind != "real" for expr in exprs):
            return None
        if any(self.rows.slots.width(index.axis) is None for index in every):
            return None
        orders = set() if folded else {target}
        for node in postorder(*parts):
            if node.op in ("fold", "random"):
                return None
            if node.op == "read" and not self._straight(node, every):
                return None
            order = self._order(node)
            if len(order) == 2:
                orders.add(order)
        if len(orders) != 1:
            return None
        outer, lane = orders.pop()
        if {outer, lane} != every:
            return None
        if not folded:
            return Plane(outer, lane, "map")
        if bound == (outer,):
            return Plane(outer, lane, "down")
        return Plane(outer, lane, "across") if exprs[0].monoid == "sum" else None

    def _straight(self, node: Expr, every: set[Index]) -> bool:
        """Whether a read is an input's that is copied, or an array's at indices of the pass."""
        if node.array.role == "input":
            return node.free - frozenset(self.rows.grid) - {self.rows.time} <= every
        return all(at.op == "index" and at.attr in every for at in node.args)

    def _order(self, node: Expr) -> tuple[Index, ...]:
        """The indices at the axes of a carried array or value that a node reads."""
        if node.op == "value" and str(node.attr) in self.orders:
            return self.orders[str(node.attr)]
        if node.op == "value" or (node.op == "read" and node.array.role != "input"):
            return self.rows.axes_of(node)
        return ()

    # --- When each statement runs -----------------------------------------------------------------

    def _levels(self) -> int:
        """Gives every step its level; how many levels there are."""
        made: dict[str, Step] = {}
        readers: dict[str, list[Step]] = {}
        for step in self.steps:
            before = [(made[name], True) for name in (*step.reads, *step.names) if name in made]
            before += [(one, False) for name in step.names for one in readers.pop(name, ())]
            step.level = max((step.after(*one) for one in before), default=0)
            for name in step.reads:
                readers.setdefault(name, []).append(step)
            made.update(dict.fromkeys(step.names, step))
        return max((step.level for step in self.steps), default=-1) + 1

    def _pruned(self, kept: frozenset[str]) -> list[Step]:
        """The steps that make what is kept, or what others read, or store."""
        found: list[Step] = []
        wanted = set(kept)
        for step in reversed(self.steps):
            if not step.names or wanted & set(step.names):
                found.append(step)
                wanted |= step.reads
        return found[::-1]

    # --- What is printed --------------------------------------------------------------------------

    def print(self, scope: Scope, lines: list[str], kept: Iterable[str]) -> Scope:
        """Every statement; `kept`: names that are read after the row."""
        last = frozenset(kept)
        self.steps = self._pruned(last)
        for level in range(self._levels()):
            here = [step for step in self.steps if step.level == level]
            groups: dict[tuple[object, object], list[Step]] = {}
            for step in here:
                if step.plane is None:
                    scope = step.emit(scope, lines)
                else:
                    groups.setdefault(step.plane.axes, []).append(step)
            for steps in groups.values():
                others = (one.reads for one in self.steps if one not in steps)
                lines += self._pass(scope, steps, last.union(*others))
        return scope

    def _pass(self, scope: Scope, steps: Sequence[Step], needed: frozenset[str]) -> list[str]:
        lines: list[str] = []
        planned = []
        for step in steps:
            assert step.plane is not None
            lines += self.rows.stage(scope, step.exprs)
            planned.append(Planned(step.plane, step.names, step.exprs))
        made = ", ".join(name for step in steps for name in step.names)
        return [*lines, f"// {made}", *PassPrinter(self.rows, scope, needed).lines(planned)]
