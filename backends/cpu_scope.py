"""What names stand for where a statement is printed as C++."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from attnc.backends.cpu_names import GridFields, Names

from attnc.expressions.index import Index
from attnc.expressions.tree import Expr


@dataclass(frozen=True)
class Drawn:
    """The random numbers that a stream kernel keeps beside its held positions: an array for each
    `random()` that is drawn at a held and a walked position, `arrays` its name by ordinal."""

    held: Index
    walked: Index
    grid: frozenset[Index]
    arrays: dict[object, str]

    def array(self, node: Expr) -> str | None:
        """The array of a `random()`, None where its numbers are not kept."""
        b, h, i, j = node.args
        fixed = b.free | h.free <= self.grid
        if not fixed or i.free != {self.held} or j.free != {self.walked}:
            return None
        return self.arrays.setdefault(node.attr, f"drawn_{len(self.arrays)}")


@dataclass(frozen=True)
class Scope:
    """What names stand for where a statement is printed.

    positions, rows   of indices: a position counts from the start of the axis, a row from 0
    values            tile values by name; a text with `{row}` is a carried tile, read at the row of
                      the index in `widths`
    lanes             folds are over lanes (their sums start as lanes)
    drawn             where pairs are printed: what keeps the random numbers of held positions
    """

    fields: GridFields
    names: Names
    positions: dict[Index, str] = field(default_factory=dict)
    rows: dict[Index, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    widths: dict[str, Index] = field(default_factory=dict)
    lanes: bool = False
    drawn: Drawn | None = None

    def extended(
        self,
        positions: Mapping[Index, str] = MappingProxyType({}),
        rows: Mapping[Index, str] = MappingProxyType({}),
        values: Mapping[str, str] = MappingProxyType({}),
        widths: Mapping[str, Index] = MappingProxyType({}),
    ) -> Scope:
        """A scope that knows more."""
        return replace(
            self,
            positions={**self.positions, **positions},
            rows={**self.rows, **rows},
            values={**self.values, **values},
            widths={**self.widths, **widths},
        )

    def renamed(self, names: Names, lanes: bool = False) -> Scope:
        """The same scope in another C++ function."""
        return replace(self, names=names, lanes=lanes)
