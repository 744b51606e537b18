"""What names stand for where a statement is printed as Triton."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from attnc.backends.triton_names import Arguments, Names

from attnc.expressions.index import Index


@dataclass(frozen=True)
class Leaf:
    """A printed name and the tile axes it lives on, in the order of its own axes."""

    text: str
    over: tuple[Index, ...] = ()


@dataclass(frozen=True)
class Scope:
    """What the names of a kernel stand for where a statement is printed.

    positions   index -> its position
    rows        index -> its row in tensors (int64), where it is walked straight
    steps       index -> (row of the tile's first entry, lane): a row in two parts, which keeps what
                a loop does not change out of the loop
    inside      index -> which of its rows are valid; indices that are always valid are not here
    values      tile values by name
    known       expressions that are printed as a name, by digest
    widths      axes of compile-time length
    moved       first positions and counts that a walk around the batch has read anew, by argument
    """

    names: Names
    arguments: Arguments
    positions: dict[Index, Leaf] = field(default_factory=dict)
    rows: dict[Index, Leaf] = field(default_factory=dict)
    steps: dict[Index, tuple[str, Leaf]] = field(default_factory=dict)
    inside: dict[Index, Leaf] = field(default_factory=dict)
    values: dict[str, Leaf] = field(default_factory=dict)
    known: dict[bytes, Leaf] = field(default_factory=dict)
    widths: frozenset[str] = frozenset()
    moved: dict[str, str] = field(default_factory=dict)

    def extended(
        self, **changes: Mapping[Any, Leaf] | Mapping[Index, tuple[str, Leaf]] | Mapping[str, str]
    ) -> Scope:
        """A scope that knows more: the given tables are laid over these."""
        merged = {name: {**getattr(self, name), **table} for name, table in changes.items()}
        return replace(self, **merged)  # type: ignore[arg-type]
