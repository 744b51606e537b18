"""The scan of a tile of rows at once, of a recurrence whose rows combine (associative).

    before(t), after(t)        a state's values at every row of the tile, as arrays over time

does      writes a statement for each state, in the order in which they were solved, and puts every
          other statement where what it reads is known
needs     states that solve one after another, and the statements of a row
does not  choose between tiles and chunks
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attnc.expressions.index import Index
from attnc.expressions.tree import (
    Array,
    Expr,
    position,
    postorder,
    read,
)
from attnc.graph import GraphOutput, Recurrence
from attnc.passes.associative import SolvedPair, is_state, solved
from attnc.passes.rows import Rows
from attnc.passes.simplify import topdown
from attnc.schedule.scans import Final, ScanKernel, ScanLoop
from attnc.schedule.statements import (
    Let,
    Scanned,
    ScannedPair,
    Store,
    TileScan,
    scan_parts,
    twins_of,
)


def in_tiles(
    name: str,
    rows: Rows,
    grid: tuple[Index, ...],
    recurrence: Recurrence,
    outputs: Sequence[GraphOutput],
    finals: tuple[Final, ...],
) -> ScanKernel:
    """The kernel that scans tiles of rows, of a recurrence at home in its instance. Raises
    NotCombined."""
    given, time, tiles = recurrence, recurrence.time, Rescanned(rows, recurrence)
    scans = tiles.scans()
    seen = tiles.before if given.reads_old else tiles.after
    stores = []
    for output in outputs:
        rest = [i for i in output.array.indices if i not in rows.grid and i != time]
        expr = rows.settle(tiles.known(output.expr, seen, {}), "before")
        stores.append(Store(output.array, rest[0] if rest else None, expr))
    initial = tuple(rows.settle(expr, "before") for expr in given.initial)
    inside = in_order((*rows.lets["row"], *rows.lets["before"]), scans)
    loop = ScanLoop(time, None, given.states, initial, inside, tiles.last())
    constants = tuple(rows.lets["constant"])
    return ScanKernel(name, grid, constants, loop, tuple(stores), finals)


class Rescanned:
    """The states of a tile's rows: before and after every row, as arrays over time. `later`: rows
    come from the last to the first."""

    def __init__(self, rows: Rows, recurrence: Recurrence, later: bool = False) -> None:
        self.rows, self.recurrence, self.later = rows, recurrence, later
        self.before = {s.name: self._twin(s, "before") for s in recurrence.states}
        self.after = {s.name: self._twin(s, "after") for s in recurrence.states}

    def _twin(self, state: Array, when: str) -> Array:
        name = self.rows.names.fresh(f"{state.name}_{when}")
        return Array(name, (self.recurrence.time, *state.indices), state.kind, "state")

    def scans(self) -> list[Scanned | ScannedPair]:
        """A statement for each state. Raises NotCombined."""
        given, settle = self.recurrence, self.rows.settle
        whole = dict(zip((state.name for state in given.states), given.next, strict=True))
        updates: dict[bytes, Array] = {}  # of the states solved so far
        found: list[Scanned | ScannedPair] = []
        for one in solved(given):
            if isinstance(one, SolvedPair):
                found.append(self._pair(one, updates))
                updates |= {whole[state.name].digest: state for state in one.states}
                continue
            factor, added = (
                settle(self.known(part, self.before, updates), "before")
                for part in (one.factor, one.added)
            )
            pair = self.before[one.state.name], self.after[one.state.name]
            plus = one.algebra.plus
            found.append(Scanned(one.state, *pair, plus, factor, added, self.later))
            updates[whole[one.state.name].digest] = one.state
        return found

    def _pair(self, one: SolvedPair, updates: dict[bytes, Array]) -> ScannedPair:
        a, b, c, d, p, q = (
            self.rows.settle(self.known(part, self.before, updates), "before")
            for part in (*one.factors, *one.added)
        )
        x, y = (state.name for state in one.states)
        before, after = (self.before[x], self.before[y]), (self.after[x], self.after[y])
        return ScannedPair(one.states, before, after, (a, b, c, d), (p, q), self.later)

    def last(self) -> tuple[Expr, ...]:
        """The states after the tile."""
        states = self.recurrence.states
        return tuple(self._at(self.after[state.name], state.indices) for state in states)

    def _at(self, twin: Array, indices: Iterable[Index]) -> Expr:
        return read(twin, map(position, (self.recurrence.time, *indices)))

    def known(
        self,
        expr: Expr,
        seen: dict[str, Array],
        updates: dict[bytes, Array],
    ) -> Expr:
        """The expression with the states as they are in every row; what is the update of another is
        that after the row."""

        def change(node: Expr) -> Expr | None:
            state = updates.get(node.digest)
            if state is not None:
                return self._at(self.after[state.name], state.indices)
            if is_state(node) and node.array.name in seen:
                return read(seen[node.array.name], (position(self.recurrence.time), *node.args))
            return None

        return topdown(expr, change)


def in_order(lets: Iterable[Let], scans: Iterable[TileScan]) -> tuple[Let | TileScan, ...]:
    """Statements, each after those whose values it reads; else as they come."""
    waiting: list[Let | TileScan] = [*lets, *scans]
    makers = {name: one for one in waiting for name in _made(one)}
    done: list[Let | TileScan] = []
    ready: set[int] = set()
    while waiting:
        one = next(
            one
            for one in waiting
            if all(id(makers[name]) in ready for name in _used(one) if name in makers)
        )
        waiting.remove(one)
        done.append(one)
        ready.add(id(one))
    return tuple(done)


def _made(one: Let | TileScan) -> tuple[str, ...]:
    if isinstance(one, Let):
        return (f"value {one.name}",)
    return tuple(f"state {array.name}" for array in twins_of(one))


def _used(one: Let | TileScan) -> set[str]:
    found = set()
    for node in postorder(*scan_parts(one)):
        if node.op == "value":
            found.add(f"value {node.attr}")
        elif is_state(node):
            found.add(f"state {node.array.name}")
    return found
