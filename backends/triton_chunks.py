"""Prints a scan kernel in chunks as Triton: one program walks time CHUNK rows at a time, a row of a
chunk in each row of its tiles; what rows do to one another are products of matrices.

How decays between rows are formed and the triangular system is solved stands in
templates/triton/chunks.py.jinja.
"""

from __future__ import annotations

from typing import Any

from attnc.backends.triton_instance import InstancePrinter
from attnc.backends.triton_scan import ScanPrinter
from attnc.backends.triton_scope import Leaf
from attnc.backends.triton_tensors import STATES

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr, is_number
from attnc.schedule import Schedule
from attnc.schedule.scans import ScanKernel
from attnc.schedule.statements import Contraction, Decays, Let, TriangularSolve

OPTIONS = ("CHUNK", "CHUNK_BLOCK", "CHUNK_PRECISION")
DOT = "input_precision=CHUNK_PRECISION, out_dtype=ACC"


class ChunkStatements(InstancePrinter):
    """Prints what the rows of a chunk do to one another and to states."""

    time: Index
    inner: Index

    def _chunks(self, time: Index, inner: Index, schedule: Schedule) -> None:
        """What a loop over chunks has beside that of an instance."""
        self.time, self.inner = time, inner
        self.scope.names.taken.update(OPTIONS)
        for option in OPTIONS:
            self.arguments.option(option)
        self.places.axes = (time.axis, *self.places.axes)
        self.logs: dict[bytes, tuple[str, Index | None]] = {}
        arguments = (*schedule.signature.inputs, *schedule.signature.outputs)
        self.query = frozenset(one.name for one in arguments if one.dtype == "query")

    # --- Where the loop is ------------------------------------------------------------------------

    def _lanes(self) -> list[str]:
        name = self.time.name
        lane, inside, row = (
            self.scope.names.fresh(f"{name}_{word}") for word in ("lane", "in", "row")
        )
        self.places.lanes[self.time.axis] = (lane, inside)
        self.row = row
        lines = [f"{lane} = tl.arange(0, CHUNK)", *super()._lanes()]
        for index in self._row_indices():
            self.places.add(index)
            self.arguments.blocks[index] = "CHUNK"
            self.scope = self.scope.extended(inside={index: Leaf(inside, (index,))})
        return lines

    def _row_indices(self) -> tuple[Index, ...]:
        """The indices that are over the rows of a chunk."""
        return self.time, self.inner

    def _block(self, axis: Axis) -> str:
        return "CHUNK" if axis is self.time.axis else super()._block(axis)

    def _enter_chunk(self, first: str, length: str, lines: list[str]) -> None:
        """The rows of a chunk that begins there."""
        lane, inside = self.places.lanes[self.time.axis]
        lines += [
            f"{self.row} = (tl.full([], 0, tl.int64) + {first}) * CHUNK + {lane}",
            f"{inside} = {self.row} < {length}",
        ]
        self._placed(self.time, Leaf(self.row, (self.time,)), lines)

    # --- Statements -------------------------------------------------------------------------------

    def _statement(self, statement: Any, lines: list[str]) -> None:
        if isinstance(statement, Let):
            self._let(statement, lines)
            return
        text, over = self._product(statement, lines)
        name = self.scope.names.fresh(statement.name)
        lines.append(f"{name} = {text}")
        leaf = Leaf(name, self.places.ordered(over))
        self.scope = self.scope.extended(values={statement.name: leaf})

    def _product(self, statement: Any, lines: list[str]) -> tuple[str, tuple[Index, ...]]:
        """The text of a statement and what it is over."""
        if isinstance(statement, Contraction):
            return self._contraction(statement, lines)
        if isinstance(statement, Decays):
            return self._decays(statement, lines)
        assert isinstance(statement, TriangularSolve)
        return self._solve(statement, lines)

    def _decays(self, one: Decays, lines: list[str]) -> tuple[str, tuple[Index, ...]]:
        log, _ = self._log(one.log, lines)
        if one.which == "since":
            log = f"gpu_shifted({log}, 1, CHUNK)" if one.before else log
            return f"tl.exp(tl.cumsum({log}, 0))", (self.time,)
        if one.which == "until":
            rest = f"tl.cumsum(gpu_shifted({log}, -1, CHUNK), 0, reverse=True)"
            return f"tl.exp({rest})", (self.time,)
        pairs = f"gpu_between({log}, {one.before}, CHUNK)"
        return pairs if one.which == "between" else f"tl.trans({pairs})", (self.time, self.inner)

    def _solve(self, one: TriangularSolve, lines: list[str]) -> tuple[str, tuple[Index, ...]]:
        matrix = self._tile(one.matrix, (self.time, self.inner), lines, one.name)
        right = self._tile(one.right, (self.time, one.width), lines, one.name)
        text = f"gpu_solved({matrix}, {right}, CHUNK, CHUNK_BLOCK, CHUNK_PRECISION)"
        text = right if is_number(one.matrix, 0) else text
        if one.left is not None:
            left = self._tile(one.left, (self.time, self.inner), lines, one.name)
            text = f"tl.dot({left}, {text}, {DOT})"
        return text, (self.time, one.width)

    def _contraction(self, one: Contraction, lines: list[str]) -> tuple[str, tuple[Index, ...]]:
        of_state = one.right.op == "read" and one.right.array.role in STATES
        if of_state and self.time not in one.right.free:
            return self._from_state(one, lines)
        if one.along == self.inner:
            return self._over_rows(one, lines)
        if one.along == self.time:
            return self._into_state(one, lines)
        return self._pairs(one, lines), (self.time, self.inner)

    def _pairs(self, one: Contraction, lines: list[str]) -> str:
        """A number for each pair of rows."""
        over = (self.time, one.along)
        narrow = self._is_query(one.left) and self._is_query(one.right)
        left, right = (
            self._tile(expr, over, lines, one.name, narrow) for expr in (one.left, one.right)
        )
        log = None if one.log is None or is_number(one.log, 0) else self._log(one.log, lines)
        if log is not None and log[1] is not None:
            if narrow:
                left, right = f"{left}.to(ACC)", f"{right}.to(ACC)"
            return (
                f"gpu_decayed_pairs({left}, {right}, {log[0]}, {one.before}, CHUNK, CHUNK_BLOCK, "
                "CHUNK_PRECISION)"
            )
        precision = DOT.replace("CHUNK_", "") if narrow else DOT
        dot = f"tl.dot({left}, tl.trans({right}), {precision})"
        if one.log is None:
            return dot
        if log is None:
            return f"tl.where(gpu_seen({one.before}, CHUNK), {dot}, 0.0)"
        return f"{dot} * gpu_between({log[0]}, {one.before}, CHUNK)"

    def _over_rows(self, one: Contraction, lines: list[str]) -> tuple[str, tuple[Index, ...]]:
        """The sum over earlier rows of pairs and what these rows add."""
        pairs = self._tile(one.left, (self.time, self.inner), lines, one.name)
        width = self._width(one.right)
        if width is None:
            right = self._tile(one.right, (self.time,), lines, one.name)
            return f"tl.sum({pairs} * {right}[None, :], 1)", (self.time,)
        right = self._tile(one.right, (self.time, width), lines, one.name)
        if one.log is None:
            return f"tl.dot({pairs}, {right}, {DOT})", (self.time, width)
        log, _ = self._log(one.log, lines)
        options = f"{one.before}, CHUNK, CHUNK_BLOCK, CHUNK_PRECISION"
        return f"gpu_decayed_rows({pairs}, {right}, {log}, {options})", (self.time, width)

    def _from_state(self, one: Contraction, lines: list[str]) -> tuple[str, tuple[Index, ...]]:
        """What rows read of the state before the chunk."""
        tile, state = self.places.states[one.right.array.name]
        across = next((index for index in state.indices if index != one.along), None)
        left = self._tile(one.left, (self.time, one.along), lines, one.name)
        start, width = None, None
        if one.log is not None:
            log, width = self._log(one.log, lines)
            shifted = "gpu_shifted" if width is None else "gpu_shifted_rows"
            log = f"{shifted}({log}, 1, CHUNK)" if one.before else log
            start = self._bound("start", f"tl.exp(tl.cumsum({log}, 0))", lines)
        if start is not None and width == one.along:
            left = f"{left} * {start}"
        if across is None:
            text = f"tl.sum({self._bracketed(left)} * {tile}[None, :], 1)"
            scaled = f"{text} * {start}" if start is not None and width is None else text
            return scaled, (self.time,)
        turned = self.places.ordered(state.indices) != (one.along, across)
        text = f"tl.dot({left}, {f'tl.trans({tile})' if turned else tile}, {DOT})"
        if start is not None and width != one.along:
            text = f"{text} * {start}{'[:, None]' if width is None else ''}"
        return text, (self.time, across)

    def _into_state(self, one: Contraction, lines: list[str]) -> tuple[str, tuple[Index, ...]]:
        """What the rows of the chunk add to the state after it."""
        key, across = self._width(one.left), self._width(one.right)
        assert key is not None
        left = self._tile(one.left, (self.time, key), lines, one.name)
        over = (self.time,) if across is None else (self.time, across)
        right = self._tile(one.right, over, lines, one.name)
        if one.log is not None:
            log, width = self._log(one.log, lines)
            shifted = "gpu_shifted" if width is None else "gpu_shifted_rows"
            rest = f"tl.exp(tl.cumsum({shifted}({log}, -1, CHUNK), 0, reverse=True))"
            rest = self._bound("rest", rest, lines)
            if width is not None and width == across:
                right = f"({right} * {rest})"
            else:
                left = f"({left} * {rest}{'[:, None]' if width is None else ''})"
        if across is None:
            return f"tl.sum({left} * {right}[:, None], 0)", (key,)
        if self.places.ordered((key, across)) == (key, across):
            return f"tl.dot(tl.trans({left}), {right}, {DOT})", (key, across)
        return f"tl.dot(tl.trans({right}), {left}, {DOT})", (key, across)

    # --- Operands ---------------------------------------------------------------------------------

    def _tile(
        self, expr: Expr, over: tuple[Index, ...], lines: list[str], stem: str, narrow: bool = False
    ) -> str:
        """An operand over these indices, 0 outside: rows and lanes that are not there add nothing.
        `narrow`: a plain read as it lies in memory."""
        printer = self._printer(over, lines, stem)
        checks = " & ".join(printer.expand(self.scope.inside[index]) for index in over)
        if narrow:
            return printer.bind(stem, printer.load(expr))
        text = printer.real(printer.number(expr), expr)
        return printer.bind(stem, f"tl.where({checks}, {text}, 0.0)")

    def _log(self, expr: Expr, lines: list[str]) -> tuple[str, Index | None]:
        """Logarithms of decays over rows, and the width that they are over too; 0 outside."""
        if expr.digest not in self.logs:
            width = self._width(expr)
            over = (self.time,) if width is None else (self.time, width)
            self.logs[expr.digest] = (self._tile(expr, over, lines, "log"), width)
        return self.logs[expr.digest]

    def _width(self, expr: Expr) -> Index | None:
        found = [i for i in self.places.of(expr) if i not in (self.time, self.inner)]
        assert len(found) < 2
        return found[0] if found else None

    def _is_query(self, expr: Expr) -> bool:
        """Whether an operand lies in memory in the dtype of the query."""
        return (
            expr.op == "read"
            and expr.array.name in self.query
            and all(at.op in ("index", "value", "number") for at in expr.args)
        )

    def _bound(self, wanted: str, text: str, lines: list[str]) -> str:
        name = self.scope.names.fresh(wanted)
        lines.append(f"{name} = {text}")
        return name

    def _bracketed(self, text: str) -> str:
        return f"({text})" if " " in text else text


class ChunkPrinter(ChunkStatements, ScanPrinter):
    """A scan printer whose loop is over chunks."""

    how = "in chunks"

    def __init__(self, kernel: ScanKernel, schedule: Schedule) -> None:
        super().__init__(kernel, schedule)
        loop = kernel.loop
        assert loop.inner is not None
        self._chunks(loop.time, loop.inner, schedule)

    def _facts(self) -> dict[str, Any]:
        """And whether a chunk has more than one state's products in registers, or decays of
        widths beside them."""
        loop = self.kernel.loop
        solves = any(isinstance(one, TriangularSolve) for one in loop.inside)
        logs = [one.log for one in loop.inside if isinstance(one, Contraction) and one.log]
        crowded = solves or len(loop.states) > 1
        spread = any(self._width(log) is not None for log in logs)
        return {**super()._facts(), "crowded": crowded, "short": crowded or spread}

    def _count(self) -> str:
        return f"(({super()._count()} + CHUNK - 1) // CHUNK)"

    def _rows_a_step(self) -> str:
        return "CHUNK"

    def _step(self, lines: list[str]) -> None:
        self._enter_chunk("step", ScanPrinter._count(self), lines)
