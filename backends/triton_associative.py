"""Prints scan kernels in tiles of rows as Triton: one program walks time CHUNK rows at a time, each
row of a tile one of time, and scans each state along them from what it was before the tile. The
reverse of a scan does so twice a tile: its states forwards, then what it carries backwards.

What two rows do together stands in templates/triton/associative.py.jinja.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from attnc.backends.scan_order import write_parts
from attnc.backends.triton_instance import InstancePrinter
from attnc.backends.triton_scan import ScanPrinter
from attnc.backends.triton_scan_back import ReverseScanPrinter, zero_of
from attnc.backends.triton_scope import Leaf

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr, is_number, postorder, read
from attnc.schedule import Schedule
from attnc.schedule.scans import ReverseScanKernel, ScanKernel
from attnc.schedule.statements import Let, Scanned, ScannedPair, TileScan, scan_parts

ONE = {"sum": "1.0", "max": "0.0", "min": "0.0"}
NOTHING = {"sum": "0.0", "max": 'float("-inf")', "min": 'float("inf")'}
EXTREMUM = {"max": "gpu_larger", "min": "gpu_smaller"}


class TileStatements(InstancePrinter):
    """Prints what the rows of a tile do to states."""

    time: Index
    read: frozenset[str]

    def _tiles(self, time: Index, inside: Iterable[Let | TileScan], ends: Iterable[Expr]) -> None:
        """What a loop over tiles has beside that of an instance: `ends` are the expressions after
        its statements."""
        self.time = time
        self.scope.names.taken.add("CHUNK")
        self.arguments.option("CHUNK")
        self.places.axes = (time.axis, *self.places.axes)
        exprs = (*ends, *(expr for one in inside for expr in scan_parts(one)))
        self.read = frozenset(node.array.name for node in postorder(*exprs) if node.op == "read")

    # --- Where the loop is ------------------------------------------------------------------------

    def _lanes(self) -> list[str]:
        name = self.time.name
        lane, inside, self.row = (
            self.scope.names.fresh(f"{name}_{word}") for word in ("lane", "in", "row")
        )
        self.places.lanes[self.time.axis] = (lane, inside)
        lines = [f"{lane} = tl.arange(0, CHUNK)", *super()._lanes()]
        self.places.add(self.time)
        self.arguments.blocks[self.time] = "CHUNK"
        self.scope = self.scope.extended(inside={self.time: Leaf(inside, (self.time,))})
        return lines

    def _enter_tile(self, number: str, lines: list[str]) -> None:
        """The rows of a tile."""
        lane, inside = self.places.lanes[self.time.axis]
        length = self.arguments.length(self.time.axis.name)
        lines += [
            f"{self.row} = (tl.full([], 0, tl.int64) + {number}) * CHUNK + {lane}",
            f"{inside} = {self.row} < {length}",
        ]
        self._placed(self.time, Leaf(self.row, (self.time,)), lines)

    # --- Statements -------------------------------------------------------------------------------

    def _tile_statement(self, statement: Let | TileScan, lines: list[str]) -> None:
        if isinstance(statement, Let):
            self._let(statement, lines)
            return
        if isinstance(statement, ScannedPair):
            self._scanned_pair(statement, lines)
            return
        first = self.places.states[statement.state.name][0]
        if not {statement.before.name, statement.after.name} & self.read and _is_sum(statement):
            if is_number(statement.added, 0):
                return
            added = self._tile(
                statement.added, statement.after.indices, "0.0", lines, statement.state.name
            )
            lines.append(f"{first} += tl.sum({added}, 0)")
            return
        text = self._scanned(statement, first, lines)
        self._made(statement.before, statement.after, first, text, statement.later, lines)

    def _made(
        self, before: Array, after: Array, first: str, text: str, later: bool, lines: list[str]
    ) -> None:
        """The state after every row, and, where it is read, before."""
        name = self.scope.names.fresh(after.name)
        lines.append(f"{name} = {text}")
        self.places.states[after.name] = (name, after)
        if before.name in self.read:
            other = self.scope.names.fresh(before.name)
            lines.append(f"{other} = gpu_row_before({first}, {name}, {later}, CHUNK)")
            self.places.states[before.name] = (other, before)

    def _scanned_pair(self, one: ScannedPair, lines: list[str]) -> None:
        """Two states after every row of the tile."""
        over = one.after[0].indices
        parts = [
            self._tile(expr, over, unit, lines, stem)
            for expr, unit, stem in zip(
                (*one.factors, *one.added),
                ("1.0", "0.0", "0.0", "1.0", "0.0", "0.0"),
                (*["factor"] * 4, *(state.name for state in one.states)),
                strict=True,
            )
        ]
        names = [self.scope.names.fresh("gone") for _ in range(4)]
        names += [self.scope.names.fresh("made") for _ in range(2)]
        way = ", reverse=True" if one.later else ""
        scan = f"tl.associative_scan(({', '.join(parts)}), 0, gpu_pair_two{way})"
        lines.append(f"{', '.join(names)} = {scan}")
        firsts = [self.places.states[state.name][0] for state in one.states]
        x, y = (f"tl.expand_dims({first}, 0)" for first in firsts)
        for place in (0, 1):
            a, b = names[2 * place : 2 * place + 2]
            text = f"{a} * {x} + {b} * {y} + {names[4 + place]}"
            pair = one.before[place], one.after[place]
            self._made(*pair, firsts[place], text, one.later, lines)

    def _carry_tile(self, one: TileScan, lines: list[str]) -> None:
        """The states after the tile's last row."""
        states = one.states if isinstance(one, ScannedPair) else (one.state,)
        made = one.after if isinstance(one, ScannedPair) else (one.after,)
        for state, twin in zip(states, made, strict=True):
            if twin.name in self.places.states:
                tile, after = (self.places.states[n][0] for n in (state.name, twin.name))
                lines.append(f"{tile} = gpu_row_last({after}, {one.later}, CHUNK)")

    def _scanned(self, one: Scanned, first: str, lines: list[str]) -> str:
        """The state after every row of the tile."""
        over, plus = one.after.indices, one.plus
        added = self._tile(one.added, over, NOTHING[plus], lines, one.state.name)
        begun = f"tl.expand_dims({first}, 0)"
        way = ", reverse=True" if one.later else ""
        if _is_sum(one):
            return f"{begun} + tl.cumsum({added}, 0{way})"
        if is_number(one.factor, float(ONE[plus])):
            most = EXTREMUM[plus]
            return f"{most}({begun}, tl.associative_scan({added}, 0, {most}{way}))"
        factor = self._tile(one.factor, over, ONE[plus], lines, "factor")
        gone, made = map(self.scope.names.fresh, ("gone", "made"))
        pair = f"({factor}, {added}), 0, gpu_pair_{plus}{way}"
        lines.append(f"{gone}, {made} = tl.associative_scan({pair})")
        if plus == "sum":
            return f"{gone} * {begun} + {made}"
        return f"{EXTREMUM[plus]}({gone} + {begun}, {made})"

    def _tile(
        self, expr: Expr, over: Iterable[Index], unit: str, lines: list[str], stem: str
    ) -> str:
        """An expression over these indices, whole; rows that are not there change nothing."""
        printer = self._printer(over, lines, stem)
        inside = printer.expand(self.scope.inside[self.time])
        text = printer.real(printer.number(expr), expr)
        sizes = ", ".join(self.arguments.blocks[index] for index in printer.layout)
        text = f"tl.where({inside}, {text}, {unit}).to(ACC)"
        return printer.bind(stem, f"tl.broadcast_to({text}, [{sizes}])")


class TilePrinter(TileStatements, ScanPrinter):
    """A scan printer whose rows lie in tiles."""

    how = "in tiles of rows"

    def __init__(self, kernel: ScanKernel, schedule: Schedule) -> None:
        super().__init__(kernel, schedule)
        loop = kernel.loop
        inside = tuple(one for one in loop.inside if isinstance(one, (Let, Scanned, ScannedPair)))
        ends = (*loop.advance, *(store.expr for store in kernel.stores))
        self._tiles(loop.time, inside, ends)

    def _count(self) -> str:
        return f"(({super()._count()} + CHUNK - 1) // CHUNK)"

    def _rows_a_step(self) -> str:
        return "CHUNK"

    def _step(self, lines: list[str]) -> None:
        self._enter_tile("step", lines)

    def _statement(self, statement: Any, lines: list[str]) -> None:
        self._tile_statement(statement, lines)

    def _carry(self, states: Sequence[Array], exprs: Iterable[Expr], lines: list[str]) -> None:
        for one in self.kernel.loop.inside:
            if isinstance(one, (Scanned, ScannedPair)):
                self._carry_tile(one, lines)


class ReverseTilePrinter(TileStatements, ReverseScanPrinter):
    """A printer of a reversed scan whose blocks are tiles."""

    def __init__(self, kernel: ReverseScanKernel, schedule: Schedule) -> None:
        super().__init__(kernel, schedule)
        assert kernel.tiled is not None
        self.tiled = kernel.tiled
        parts = (part for write in self.tiled.writes for part in write_parts(write))
        self._tiles(kernel.replay.time, self.tiled.inside, parts)

    def print(self) -> dict[str, Any]:
        kernel = self.kernel
        place, lanes = self._place(), self._lanes()
        begin: list[str] = []
        for let in (*kernel.grid_values, *self.tiled.values):
            self._let(let, begin)
        self._still(begin)
        self._begun(kernel.carried, kernel.initial, begin)
        self._begun(kernel.replay.states, map(zero_of, kernel.replay.states), begin)
        body = self._body()
        end = self._ended()
        shifted = list(self.arguments.shifted.values())
        return {
            "function": f"kernel_{kernel.name}_tiles",
            "arguments": self.arguments,
            "prepared": self.arguments.prepared,
            "place": [*place, *shifted, *lanes],
            "begin": begin,
            "time": kernel.replay.time.name,
            "how": "backwards in tiles of rows",
            "count": self._blocks(),
            "rows": body,
            "end": end,
            "comment": [f'"""{", ".join(a.name for a in kernel.carried)} in tiles, backwards."""'],
            "facts": {**self._facts(), "rooms": ()},
        }

    def _blocks(self) -> str:
        return f"({self._length()} + {self.kernel.every - 1}) // {self.kernel.every}"

    def _body(self) -> list[str]:
        """A tile's rows, forwards and backwards, and what they give."""
        block = self.scope.names.fresh("block_row")
        lines = [f"{block} = (tl.full([], 0, tl.int64) + {self._blocks()}) - 1 - step"]
        self._enter_tile(block, lines)
        for one in self.kernel.checkpoints:
            at = self._kept_at(one, block)
            text = self._whole(one.state, read(one.array, at), lines)
            lines.append(f"{self.places.states[one.state.name][0]} = {text}")
        for statement in self.tiled.inside:
            self._tile_statement(statement, lines)
        for write in self.tiled.writes:
            lines += self._written(write)
        for statement in self.tiled.inside:
            if not isinstance(statement, Let) and statement.later:
                self._carry_tile(statement, lines)
        return lines


def _is_sum(one: Scanned) -> bool:
    return one.plus == "sum" and is_number(one.factor, 1)
