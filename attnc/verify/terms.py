"""What every statement of a Schedule must hold to: expressions of what is there, names given once,
stores over the kernel's indices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from attnc.errors import InternalError
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr, postorder
from attnc.schedule.statements import (
    Let,
    Running,
    Store,
)

TILE_BOUNDS = frozenset(("held_low", "held_high", "walked_low", "walked_high"))
REFERENCE = "reference"


def broken(invariant: str, what: str) -> InternalError:
    return InternalError(f"invariant `{invariant}`: {what}")


def names_of(indices: Iterable[Index]) -> str:
    return ", ".join(sorted(map(str, indices)))


def bound_apart(root: Expr, where: str) -> frozenset[Index]:
    """The indices that folds of an expression bind, no two of which stand in each other: within the
    inner one a value over the index would be that of the outer."""
    below: dict[bytes, frozenset[Index]] = {}
    for node in postorder(root):
        inner = frozenset().union(*(below[arg.digest] for arg in node.args[:2]))
        rest = frozenset().union(*(below[arg.digest] for arg in node.args[2:]))
        again = inner & set(node.bound)
        if again:
            what = f"{names_of(again)} is bound twice, one fold within the other"
            raise broken("apart", f"{where}: {what}")
        below[node.digest] = inner | rest | frozenset(node.bound)
    return below[root.digest]


@dataclass
class Terms:
    """Arrays that are inputs, workspaces and outputs, by name; axes that a call measures; what
    has been written so far."""

    arrays: set[str]
    spaces: set[str]
    outputs: set[str]
    measured: set[Axis]
    written: set[str] = field(default_factory=set)

    def expr(self, expr: Expr, where: str, values: dict[str, Expr], free: frozenset[Index]) -> None:
        """One expression: over `free` only, of values and arrays that are there."""
        extra = expr.free - free
        if extra:
            raise broken("levels", f"{where} depends on {names_of(extra)}")
        bound_apart(expr, where)
        for node in postorder(expr):
            if node.op == "value" and str(node.attr) not in values:
                raise broken("defined", f"{where} uses {node.attr}, which is not there yet")
            if node.op == "read" and node.array.name not in self.arrays | self.written:
                raise broken("stored", f"{where} reads {node.array.name}, which is not there yet")
            if node.op == "length" and isinstance(node.attr, Axis):
                self._measured(node.attr, where)

    def _measured(self, axis: Axis, where: str) -> None:
        if axis.form in ("measured", "coarse") and axis not in self.measured:
            raise broken("measured", f"{where} asks for the length of {axis.name}")

    def lets(
        self,
        lets: Iterable[Let | Running],
        where: str,
        values: dict[str, Expr],
        free: frozenset[Index],
    ) -> None:
        for let in lets:
            self.expr(let.expr, f"{where} `{let.name}`", values, free)
            self.name(let.name, let.expr, values)

    def name(self, name: str, expr: Expr, values: dict[str, Expr]) -> None:
        if name in values or name == REFERENCE:
            raise broken("defined", f"{name} is defined twice")
        values[name] = expr

    def store(self, store: Store, values: dict[str, Expr], over: tuple[Index, ...]) -> None:
        name = store.array.name
        widths = (store.width,) if store.width else ()
        if set(store.array.indices) - {*over, *widths}:
            raise broken("stored", f"{name} is not over indices of its kernel")
        if name not in self.outputs | self.spaces:
            raise broken("stored", f"{name} is neither an output nor a workspace")
        self.expr(store.expr, f"store {name}", values, frozenset((*over, *widths)))

    def array(self, name: str, where: str) -> None:
        if name not in self.arrays | self.written:
            raise broken("stored", f"{where} reads {name}, which is not there yet")

    def operand(
        self, expr: Expr, width: Index, along: set[Index], where: str, grid: frozenset[Index]
    ) -> None:
        if expr.op != "read" or width not in expr.free:
            raise broken("plain", f"{where}: an operand is no read along {width}")
        straight = {place.attr for place in expr.args if place.op == "index"}
        for place in expr.args:
            if place.free - grid and place.attr not in straight:
                raise broken("plain", f"{where}: {expr.array.name} is not read straight")
        self.expr(expr, f"{where}: operand", {}, grid | {width} | frozenset(along))
