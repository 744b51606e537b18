"""Row values that are kept in arrays: what a loop finishes, for loops that come after it.

A row value that may be any power of two is kept as mantissa and exponent, so that what is relative
to it is formed without overflow. (As one logarithm it would be rounded to its own size, and all
weights of a row would be off by that.)

does      gives each value its arrays, and the expression that reads them
needs     the reductions that finish the values; canonical expressions, as values of one row
does not  choose what is kept
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr, Role, number, position, postorder
from attnc.passes.exponents import scaled
from attnc.passes.factors import ONE, ZERO
from attnc.passes.finish import Target
from attnc.passes.fold_results import Kept
from attnc.passes.frame import Frame
from attnc.passes.hoist import Names
from attnc.passes.nesting import nesting
from attnc.passes.reductions import Reductions
from attnc.passes.refusals import refuse
from attnc.passes.simplify import make


@dataclass(frozen=True)
class Stored:
    """Arrays that stand for an expression, what each is, and the expression made of their reads."""

    expr: Expr
    targets: tuple[Target, ...]
    value: Expr


@dataclass
class KeptRows:
    """Row values that the same reductions finish.

    word        what their arrays are called
    role        what their arrays are: outputs of another schedule, or workspaces of this one
    exponents   the names of all arrays of exponents
    """

    frame: Frame
    names: Names
    reductions: Reductions
    word: str
    role: Role
    exponents: set[str]
    stored: dict[bytes, Stored] = field(default_factory=dict)

    @property
    def targets(self) -> list[Target]:
        return [target for one in self.stored.values() for target in one.targets]

    def value(self, expr: Expr, width: Index | None) -> Expr:
        """The expression of reads that the row value is; `width`: the one it runs along."""
        if expr.digest not in self.stored:
            self.stored[expr.digest] = self._made(expr, width)
        return self.stored[expr.digest].value

    def levels(self) -> Iterator[tuple[Target, ...]]:
        """The targets, by how many of the same loops must run before theirs."""
        levels: dict[str, int] = {}
        for one in self.stored.values():
            below = [levels[name] + 1 for name in self._needs(one.expr) if name in levels]
            levels |= {target.array.name: max(below, default=0) for target in one.targets}
        for level in sorted(set(levels.values())):
            yield tuple(t for t in self.targets if levels[t.array.name] == level)

    def _needs(self, expr: Expr) -> set[str]:
        """The names of the arrays that are read for an expression, by values of keys too."""
        columns = self.reductions.columns.values()
        of = {array.name: c for c in columns for array in (c.mantissa, c.exponent) if array}
        names = [node.array.name for node in postorder(expr) if node.op == "read"]
        met: set[str] = set()
        while names:
            name = names.pop()
            if name not in met and name in of:
                names += of[name].reads()
            met.add(name)
        return met

    def _made(self, expr: Expr, width: Index | None) -> Stored:
        over = (*self.frame.grid, self.frame.held, *((width,) if width else ()))
        if not expr.free <= frozenset(over):
            raise refuse("map_stage: a derivative that meets two rows or two keys")
        truth = expr.kind == "bool"
        formula = self.reductions.finish(make("where", expr, ONE, ZERO) if truth else expr)
        self.reductions.compared(formula)
        places = tuple(map(position, over))

        def target(base: str, part: Literal["whole", "mantissa", "exponent"]) -> Target:
            array = Array(self.names.fresh(f"{self.word}_{base}"), over, "real", self.role)
            return Target(array, width, formula, part)

        if width is not None or not scaled(formula, self.reductions.symbolic).exponent:
            whole = target("row" if width is None else "rows", "whole")
            value = Kept(_given(whole), None).at(places)
            return Stored(expr, (whole,), make("ne", value, number(0.0)) if truth else value)
        mantissa, exponent = target("row", "mantissa"), target("power", "exponent")
        self.exponents.add(exponent.array.name)
        self.names.exponents[exponent.array.name] = nesting(expr, self.names)
        value = Kept(_given(mantissa), _given(exponent)).at(places)
        return Stored(expr, (mantissa, exponent), value)


def _given(target: Target) -> Array:
    """The target's array as those who read it have it: an output of another schedule is given."""
    array = target.array
    role: Role = "input" if array.role == "output" else "workspace"
    return Array(array.name, array.indices, array.kind, role)
