"""Names of a traced text: of numbers, tensors, their axes and the equations between."""

from __future__ import annotations

import re
from collections.abc import Iterable

from attnc.flex.terms import Dim, Table, Term, postorder

TAKEN = frozenset((
    "b", "h", "hk", "i", "j", "d", "e", "q", "k", "v", "scale", "pi", "inf", "true", "false",
    "mask", "score", "normalize", "read", "weight", "update", "emit", "solve", "repeat", "axis",
    "lse", "max", "min", "argmax", "entropy", "colsum", "len", "start", "random",
    "input", "param", "static", "state", "attention", "pipeline", "def", "return", "from",
    "import", "for", "over", "in", "of", "if", "else", "and", "or", "not",
    "offset", "key_offset", "key_length", "seed", "state", "return_state", "dtype", "backend",
))  # fmt: skip
LETTERS = ("n", "m", "r", "c", "u", "w", "s", "a", "x", "y", "z")


class Names:
    """Gives each thing one name that nothing else has."""

    def __init__(self) -> None:
        self.used = set(TAKEN)

    def fresh(self, wanted: str, suffix: str = "") -> str:
        """The wanted name, or one like it."""
        base = re.sub(r"\W+", "_", wanted, flags=re.ASCII).strip("_") or "x"
        base = f"x{base}" if base[0].isdigit() else base
        if base in TAKEN and suffix:
            base = f"{base}_{suffix}"
        name, count = base, 1
        while name in self.used:
            count += 1
            name = f"{base}{count}"
        self.used.add(name)
        return name

    def letter(self) -> str:
        """A short name, for an axis."""
        free = next((letter for letter in LETTERS if letter not in self.used), None)
        if free is None:
            return self.fresh("n")
        self.used.add(free)
        return free


class Axes:
    """The axes of the tables that some terms read.

    A dimension that is read at b, h, i or j alone is on that axis; what one vector shares with
    another is one axis; every other dimension has its own.
    """

    def __init__(
        self,
        roots: Iterable[Term],
        same: Iterable[tuple[tuple[Table, int], tuple[Table, int]]],
        names: Names,
    ) -> None:
        self.names = names
        reads = [node for node in postorder(*roots) if node.op == "read"]
        self.tables = sorted({_table(node) for node in reads}, key=lambda table: table.order)
        self._axis: dict[tuple[Table, int], str] = {}
        self._binders: dict[Dim, tuple[str, str]] = {}
        for table in self.tables:
            at = [node.args for node in reads if _table(node) is table]
            taken: set[str] = set()
            for place in range(len(table.shape)):
                name = _natural({_index(positions[place]) for positions in at})
                if name and name not in taken:
                    taken.add(name)
                    self._axis[table, place] = name
        classes = _classes(same)
        for table in self.tables:
            for place in range(len(table.shape)):
                if (table, place) in self._axis:
                    continue
                name = names.letter()
                for member in classes.get((table, place), [(table, place)]):
                    self._axis.setdefault(member, name)

    def dims(self, table: Table) -> tuple[str, ...]:
        """The axes of a table, in the order of the tensor."""
        return tuple(self._axis[table, place] for place in range(len(table.shape)))

    def binder(self, dim: Dim) -> tuple[str, str]:
        """The name of a fold's index, and its binder."""
        if dim not in self._binders:
            axis = self._axis.get(dim.home) if dim.home else None
            if axis is None:
                name = self.names.letter()
                self._binders[dim] = (name, f"{name} < {dim.size}")
            elif any(name == axis for name, _ in self._binders.values()):
                name = self.names.letter()
                self._binders[dim] = (name, f"{name} in {axis}")
            else:
                self._binders[dim] = (axis, axis)
        return self._binders[dim]


def _table(node: Term) -> Table:
    assert isinstance(node.value, Table)
    return node.value


def _index(position: Term) -> str:
    return str(position.value) if position.op == "index" else ""


def _natural(positions: set[str]) -> str:
    """The axis of a dimension that is read at these indices; nothing where it is one of its own."""
    if len(positions) == 1:
        return next(iter(positions))
    return "j" if positions == {"i", "j"} else ""


def _classes(
    same: Iterable[tuple[tuple[Table, int], tuple[Table, int]]],
) -> dict[tuple[Table, int], list[tuple[Table, int]]]:
    """The dimensions that are one axis, for each of them."""
    found: dict[tuple[Table, int], list[tuple[Table, int]]] = {}
    for one, other in same:
        joined = [*found.get(one, [one]), *found.get(other, [other])]
        unique = list(dict.fromkeys(joined))
        for member in unique:
            found[member] = unique
    return found
