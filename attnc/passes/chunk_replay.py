"""A forward chunk of a recurrence once more, for its reverse: what statements make are arrays of
the chunk, read at indices as states are, so that rules of derivatives may rename these.

does      inlines the values of rows, keeps the statements with plain operands, says what each is
          over
needs     the chunkwise form of a forward
does not  differentiate
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr, fold, postorder, rewrite
from attnc.passes.chunk import Instance
from attnc.passes.chunkwise import RowByRow
from attnc.passes.factors import ZERO
from attnc.passes.hoist import Names
from attnc.passes.rows import Rows
from attnc.passes.scan_inputs import own
from attnc.passes.simplify import make
from attnc.schedule.chunks import ChunkStatement, parts_of
from attnc.schedule.scans import ScanKernel
from attnc.schedule.statements import Contraction, Let, TriangularSolve


@dataclass(kw_only=True)
class ChunkReplay:
    """Collects statements of a chunk, those of the forward first.

    taken       names that are given already
    arrays      what statements make, by name; `made`: by the name that the forward has for it
    inlined     values of rows
    """

    forward: ScanKernel
    one: Instance
    taken: set[str]
    statements: list[ChunkStatement] = field(default_factory=list)
    arrays: dict[str, Array] = field(default_factory=dict)
    inlined: dict[str, Expr] = field(default_factory=dict)
    made: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        loop = self.forward.loop
        assert loop.inner is not None
        self.time, self.inner = loop.time, loop.inner
        self.grid = frozenset(self.one.grid)
        self.names = Names(set(self.taken))
        self.names.taken |= {let.name for let in self.forward.grid_values}
        self.rows: Rows = self.one.rows(self.names)
        for let in self.forward.grid_values:
            self.inlined[let.name] = self._plain(let.expr)

    def _plain(self, expr: Expr) -> Expr:
        """An expression of the forward without values: they are inlined, or arrays of the chunk."""

        def change(node: Expr) -> Expr:
            if node.op != "value":
                return node
            name = str(node.attr)
            return self.inlined[name] if name in self.inlined else own(self.made[name])

        return rewrite(expr, change)

    def _settled(self, expr: Expr) -> Expr:
        """The expression with its folds as values; their statements follow those before."""
        settled = self.rows.settle(expr, "before")
        for lets in (self.rows.lets["row"], self.rows.lets["before"]):
            self.statements += lets
            lets.clear()
        return settled

    def _operand(self, expr: Expr) -> Expr:
        """An expression as a read, a number or a value of its own."""
        settled = self._settled(expr)
        if settled.op in ("read", "number", "value"):
            return settled
        found = self.rows.let(settled, "before")
        self._settled(ZERO)
        return found

    def _named(self, wanted: str, over: Iterable[Index]) -> Array:
        name = self.names.fresh(wanted)
        self.arrays[name] = Array(name, tuple(over), "real", "local")
        return self.arrays[name]

    def _local(self, wanted: str, over: Iterable[Index], expr: Expr) -> Expr:
        """An expression as an array of the chunk."""
        settled = self._settled(expr)
        array = self._named(wanted, over)
        self.statements.append(Let(array.name, settled))
        return own(array)

    def _summed(self, wanted: str, over: Iterable[Index], expr: Expr) -> Expr:
        """The sum of an expression over the rows of the chunk."""
        over = tuple(over)
        array = self._local(wanted, (self.time, *over), expr)
        return self._local_as(wanted, over, fold("sum", (self.time,), array))

    def _local_as(self, wanted: str, over: Iterable[Index], expr: Expr) -> Expr:
        """The same of an expression as it stands: a sum over rows is no value of a row."""
        array = self._named(wanted, over)
        self.statements.append(Let(array.name, expr))
        return own(array)

    def _widths(self, *exprs: Expr) -> tuple[Index, ...]:
        """The widths that expressions are over."""
        outer = {*self.grid, self.time, self.inner}
        found = {index for expr in exprs for index in expr.free if index not in outer}
        return tuple(sorted(found, key=lambda index: (index.name, index.number)))

    # --- The chunk once more ----------------------------------------------------------------------

    def _forward(self) -> list[ChunkStatement]:
        """The statements of the forward's chunk, printed for this one; the same, inlined."""
        found: list[ChunkStatement] = []
        for one in self.forward.loop.inside:
            if isinstance(one, Let) and not any(self.time in n.bound for n in postorder(one.expr)):
                self.inlined[one.name] = self._plain(one.expr)
                continue
            if not isinstance(one, (Let, Contraction, TriangularSolve)):
                raise RowByRow("states see one another")
            if isinstance(one, TriangularSolve) and one.left is not None:
                raise RowByRow("a state is corrected along several vectors")
            inlined = changed(one, self._plain)
            array = self._named(one.name, self._over(inlined))
            self.made[one.name] = array
            found.append(replace(inlined, name=array.name))
            self.statements.append(self._operands(found[-1]))
        return found

    def _over(self, one: ChunkStatement) -> tuple[Index, ...]:
        """What a statement's result is over."""
        if isinstance(one, Let):
            return self._widths(one.expr)
        if isinstance(one, TriangularSolve):
            if one.left is not None:
                raise RowByRow("a row's corrections are several")
            return self.time, one.width
        assert isinstance(one, Contraction)
        if self._of_state(one):
            return self.time, *(i for i in self._widths(one.right) if i != one.along)
        if one.along == self.inner:
            widths = self._widths(one.right)
            if one.log is not None and not widths:
                raise RowByRow(f"{one.name} decays along a width that it does not have")
            return self.time, *widths
        if one.along == self.time:
            return self._widths(one.left) + self._widths(one.right)
        return self.time, self.inner

    def _of_state(self, one: Contraction) -> bool:
        """Whether rows are contracted with a state, not with rows."""
        return one.right.op == "read" and one.right.array.role == "state"

    def _operands(self, one: ChunkStatement) -> ChunkStatement:
        """A statement of plain operands."""
        if not isinstance(one, Let):
            return changed(one, self._operand)
        assert one.expr.op == "exp" and one.expr.args[0].op == "fold"
        return replace(
            one, expr=make("exp", fold("sum", (self.time,), self._operand(self._log(one))))
        )

    @staticmethod
    def _log(one: Let) -> Expr:
        """The logarithm that the decay over a whole chunk is made of."""
        return one.expr.args[0].args[1]


def changed(one: ChunkStatement, change: Callable[[Expr], Expr]) -> ChunkStatement:
    """A statement of other operands."""
    names = ("expr", "pair", "matrix", "left", "right", "log")
    found = {name: getattr(one, name, None) for name in names}
    changed: dict[str, Any] = {n: change(expr) for n, expr in found.items() if expr is not None}
    return replace(one, **changed)


def needed(
    statements: Iterable[ChunkStatement], exprs: Iterable[Expr]
) -> tuple[ChunkStatement, ...]:
    """Those that expressions are made of, in their order."""
    names = _names(exprs)
    found: list[ChunkStatement] = []
    for one in reversed(tuple(statements)):
        if one.name in names:
            names |= _names(parts_of(one))
            found.append(one)
    return tuple(reversed(found))


def _names(exprs: Iterable[Expr]) -> set[str]:
    """Values and arrays that expressions read."""
    found = set()
    for node in postorder(*exprs):
        if node.op == "value":
            found.add(str(node.attr))
        elif node.op == "read" and node.array.role == "local":
            found.add(node.array.name)
    return found


__all__ = ["ChunkReplay", "changed", "needed"]
