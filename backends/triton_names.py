"""Names in an emitted Triton kernel: unique ones for values, and the kernel's arguments.

A kernel's arguments are collected while its text is printed, each with the place it comes from, so
that the definition, the launch and the ahead-of-time compilation share one list.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from attnc.expressions.index import Index
from attnc.expressions.tree import Array

# Names that the skeletons use, or that a kernel must not shadow.
RESERVED = frozenset(
    [
        "tl",
        "triton",
        "triton_jit",
        "float",
        "range",
        "min",
        "max",
        "True",
        "False",
        "None",
        "ACC",
        "INDEX",
        "QUERY",
        "EDGE",
        "SPLITS",
        "PACKED",
        "TILE_LIST",
        "PRECISION",
        "USE_DESCRIPTORS",
        "BLOCK_HELD",
        "BLOCK_WALKED",
        "BLOCKS",
        "BLOCK_ROWS",
        "CANDIDATES",
        "SPLIT",
        "pid",
        "tile",
        "tiles",
        "pack",
        "share",
        "first",
        "lane",
        "step",
        "count",
        "row",
        "b_row",
        "held_tile",
        "held_first",
        "held_stop",
        "held_share",
        "held_shares",
        "turn",
        "rest",
        "held_step",
        "LAGS",
        "held_low",
        "held_high",
        "walked_low",
        "walked_high",
        "reference",
        "peak",
        "top",
        "rescale",
        "block",
        "full_count",
        "mixed_count",
        "part",
        "parts",
        "possible",
        "certain",
        "slot",
        "cell",
        "listed",
        "inside",
        "lane",
        "low",
        "high",
        "value",
        "unknown",
        "at",
        "splits",
        "held_lane",
        "held_row",
        "held_tiles",
        "group",
        "head",
        "seen",
        "candidates",
    ]
)


LINE = 110  # characters of a line of prepared numbers


@dataclass
class Names:
    """Gives out names: legal identifiers, each once."""

    taken: set[str] = field(default_factory=lambda: set(RESERVED))

    def fresh(self, wanted: str) -> str:
        stem = re.sub(r"\W", "_", wanted, flags=re.ASCII) or "t"
        if stem[0].isdigit() or keyword.iskeyword(stem):
            stem = f"{stem}_" if keyword.iskeyword(stem) else f"t{stem}"
        name, number = stem, 0
        while name in self.taken:
            number += 1
            name = f"{stem}_{number}"
        self.taken.add(name)
        return name


@dataclass(frozen=True)
class Argument:
    """One argument of a kernel and where its value comes from.

    source   a pointer: ("tensor", name), ("work", name) for a buffer of the launch. An int:
             ("stride", name, dimension), ("length", axis), ("number", name), and what may be one
             int or, in a table on the device, one for each batch: ("start", axis) the first
             position with ("starts", axis) and ("starts_step", axis), ("valid", axis) the count of
             valid keys likewise; ("seed", "") of the call; ("share", tensor)
             the entries of a program's share of an array. A constexpr: ("align", tensor),
             ("unit", tensor), ("width", axis), ("padded", axis), ("chunk", axis),
             ("block", axis), ("option", name)
    type     "pointer", "i64", "fp64" or "constexpr"
    """

    name: str
    type: str
    source: tuple[str | int, ...]


@dataclass
class Arguments:
    """The arguments of one kernel, in order of first use, and what prepares them: at once strides
    (`promised`, by the flag of their array), the last ones (`units`) and numbers (`typed`, with
    their types); after the program knows its place in the grid `shifted`, positions, which may
    stand in a table of the batch."""

    names: Names
    used: dict[tuple[str | int, ...], Argument] = field(default_factory=dict)
    promised: dict[str, list[str]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    typed: dict[str, str] = field(default_factory=dict)
    shifted: dict[str, str] = field(default_factory=dict)
    blocks: dict[Index, str] = field(default_factory=dict)

    def add(self, wanted: str, kind: str, *source: str | int) -> str:
        """The name of the argument with this source."""
        argument = self.used.get(source)
        if argument is None:
            argument = Argument(self.names.fresh(wanted), kind, source)
            self.used[source] = argument
        return argument.name

    def pointer(self, array: Array) -> str:
        return self.add(f"{array.name}_ptr", "pointer", "tensor", array.name)

    def stride(self, array: Array, place: int) -> str:
        """The stride of a dimension in elements, with what its flags promise."""
        dimension = array.indices[place].name
        source = ("stride", array.name, place)
        known = source in self.used
        name = self.add(f"{array.name}_stride_{dimension}", "i64", *source)
        if known:
            return name
        if place == len(array.indices) - 1:
            flag = self.add(f"{array.name.upper()}_UNIT", "constexpr", "unit", array.name)
            self.units[name] = flag
        else:
            flag = self.add(f"{array.name.upper()}_ALIGN", "constexpr", "align", array.name)
            self.promised.setdefault(flag, []).append(name)
        return name

    @property
    def prepared(self) -> list[str]:
        """The lines that prepare what needs no place in the grid."""
        lines = []
        for part in (dict(each) for each in _within(self.typed.items())):
            converted = (f"{name}.to({type_})" for name, type_ in part.items())
            lines.append(f"{', '.join(part)} = {', '.join(converted)}")
        for flag, strides in self.promised.items():
            rest = list(strides)
            while rest:
                count = next(n for n in (3, 2, 1) if n <= len(rest) and _fits(rest[:n]))
                names, rest = ", ".join(rest[:count]), rest[count:]
                helper = f"gpu_promised_{count}" if count > 1 else "gpu_promised"
                lines.append(f"{names} = {helper}({names}, {flag})")
        lines += [f"{name} = gpu_unit({name}, {flag})" for name, flag in self.units.items()]
        return lines

    def length(self, axis: str) -> str:
        name = self.add(f"len_{axis}", "i64", "length", axis)
        self.typed[name] = "INDEX"
        return name

    def width(self, axis: str) -> str:
        return self.add(f"WIDTH_{axis.upper()}", "constexpr", "width", axis)

    def padded(self, axis: str) -> str:
        return self.add(f"PADDED_{axis.upper()}", "constexpr", "padded", axis)

    def start(self, axis: str) -> str:
        return self._shifted("start", axis)

    def valid(self, axis: str) -> str:
        """How many rows of an axis are valid."""
        return self._shifted("valid", axis)

    def _shifted(self, what: str, axis: str) -> str:
        name = self.add(f"{what}_{axis}", "i64", what, axis)
        table = self.add(f"{what}_{axis}_ptr", "pointer", f"{what}s", axis)
        step = self.add(f"{what}_{axis}_step", "i64", f"{what}s_step", axis)
        line = f"{name} = gpu_shift({name}, {table}, b_row, {step}, INDEX)"
        self.shifted.setdefault(f"{what}.{axis}", line)
        return name

    def reload(self, what: str, axis: str, name: str, batch: str) -> list[str]:
        """Lines that give `name` the first position or count of another row of the batch, where
        each has its own."""
        table = self.add(f"{what}_{axis}_ptr", "pointer", f"{what}s", axis)
        step = self.add(f"{what}_{axis}_step", "i64", f"{what}s_step", axis)
        load = f"    {name} = tl.load({table} + {batch} * {step}).to(INDEX)"
        return [f"if {table} is not None:", load]

    def number(self, name: str, kind: str) -> str:
        argument = self.add(name, "fp64" if kind == "real" else "i64", "number", name)
        if kind == "bool":
            return f"({argument} != 0)"
        self.typed[argument] = "ACC" if kind == "real" else "INDEX"
        return argument

    def option(self, name: str) -> str:
        """A constexpr of the planner, under its own name, which is reserved for it."""
        self.used.setdefault(("option", name), Argument(name, "constexpr", ("option", name)))
        return name

    def block(self, index: Index) -> str:
        """The tile size along an index."""
        return self.blocks[index]


def _fits(strides: list[str]) -> bool:
    """Whether a line holds these strides, twice, and what prepares them."""
    return len(strides) == 1 or 2 * sum(len(name) + 2 for name in strides) + 24 <= LINE


def _within(typed: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Numbers and their types in groups that fit a line."""
    group: list[tuple[str, str]] = []
    for name, type_ in typed:
        own = sum(2 * len(n) + len(t) + 8 for n, t in (*group, (name, type_)))
        if group and own > LINE:
            yield group
            group = []
        group.append((name, type_))
    if group:
        yield group
