"""What the C++ text of an operator names: identifiers, the slots of the C ABI, and the fields of a
kernel's `Grid` (what is the same for all pairs of one grid instance).

Nothing from a spec becomes an identifier as it is: names are cut down to ASCII and numbered.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import groupby

from attnc.errors import InternalError, UnsupportedError
from attnc.expressions.index import Axis, Index
from attnc.expressions.places import same_places
from attnc.expressions.tree import Array, Expr, postorder
from attnc.schedule import Schedule, leaves
from attnc.schedule.maps import MapKernel
from attnc.schedule.streams import StreamKernel

MOST_AXES = 8  # of a `Tensor` of the C ABI
LINE = 96  # characters of a line of declarations
STRIDE = re.compile(r"(grid\.\w+) = (call\.tensors\[\d+\])\.stride\[(\d+)\];")


@dataclass
class Names:
    """Identifiers that are fresh within one C++ scope."""

    taken: set[str] = field(default_factory=set)

    def fresh(self, wanted: str) -> str:
        stem = re.sub(r"[^A-Za-z0-9]+", "_", wanted).strip("_")[:40] or "x"
        name, count = f"{stem}_", 1
        while name in self.taken:
            count += 1
            name = f"{stem}_{count}"
        self.taken.add(name)
        return name


@dataclass
class Slots:
    """The order of everything that a call hands over: tensors, integers, reals, and the macros that
    are fixed when the text is compiled.

    tensors    inputs, outputs, then `offset`, `key_offset`, `key_length` (int64 [b]), then
               workspaces, which the C++ side places itself
    """

    schedule: Schedule
    tensors: list[str] = field(default_factory=list)
    integers: list[str] = field(default_factory=list)
    reals: list[str] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)  # tensor name -> C++ type name
    macros: dict[str, str] = field(default_factory=dict)  # type macro -> tensor name
    widths: dict[str, str] = field(default_factory=dict)  # width macro -> axis name
    planned: dict[str, str] = field(default_factory=dict)  # axis of shares -> its length
    given: dict[str, str] = field(default_factory=dict)  # macro -> tensor that may be absent

    def __post_init__(self) -> None:
        signature = self.schedule.signature
        for argument in (*signature.inputs, *signature.outputs):
            self.tensors.append(argument.name)
            self.types[argument.name] = self._type_of(argument.name, argument.dtype)
        absent = (argument.name for argument in signature.inputs if argument.absent)
        self.given = {f"ATTNC_GIVEN_{place}": name for place, name in enumerate(absent)}
        self.tensors += ["offset", "key_offset", "key_length"]
        for workspace in self.schedule.workspaces:
            if len(workspace.array.indices) > MOST_AXES:
                raise UnsupportedError(f"an array of more than {MOST_AXES} axes", "cpu", ("eager",))
            self.tensors.append(workspace.array.name)
            kind = "Element" if workspace.dtype == "query" else "Acc"
            self.types[workspace.array.name] = kind
        for axis in self.schedule.widths:
            self.widths[f"ATTNC_WIDTH_{len(self.widths)}"] = axis.name
        for kernel in leaves(self.schedule.kernels):
            if isinstance(kernel, StreamKernel) and kernel.split is not None:
                self.planned[kernel.split.axis.name] = self._shares(kernel)
        for axis in self._own_axes():
            self.planned[axis.name] = self.length(axis)

    def _own_axes(self) -> list[Axis]:
        """Axes that kernels go over and no tensor of the call has (the heads of a group): their
        lengths are formulas."""
        found = [axis for workspace in self.schedule.workspaces for axis in workspace.array.axes]
        for kernel in leaves(self.schedule.kernels):
            if isinstance(kernel, StreamKernel):
                found += [one.axis for one in kernel.grid]
                found += [one.axis for loop in kernel.loops for one in loop.around]
            elif isinstance(kernel, MapKernel):
                found += [one.axis for one in kernel.over]
        return [axis for axis in found if axis.length is not None and not self._given(axis)]

    def _given(self, axis: Axis) -> bool:
        """Whether the call hands over the length of an axis."""
        signature = self.schedule.signature
        given = (*signature.inputs, *signature.outputs)
        known = {one.name for argument in given for one in argument.array.axes}
        return axis.name in known or self.width(axis) is not None

    def _shares(self, kernel: StreamKernel) -> str:
        """How many shares a kernel is split into, from shapes alone. Shares of walked tiles are not
        made here: the kernel for few rows splits by itself."""
        if not any(loop.deposits or loop.scatters for loop in kernel.loops):
            return "int64_t(1)"
        instances = [self.length(one.axis) for one in kernel.grid if one != kernel.split]
        return f"share_count({' * '.join(instances) or '1'}, {self.length(kernel.held.axis)})"

    def _type_of(self, name: str, dtype: str) -> str:
        if dtype in ("query", "accumulate"):
            return "Element" if dtype == "query" else "Acc"
        if dtype == "bool":
            return "bool"
        macro = f"ATTNC_TYPE_{len(self.macros)}"
        self.macros[macro] = name
        return macro

    def tensor(self, name: str, role: str = "") -> str:
        """The C++ expression of a tensor of the call. An output may have the name of an input."""
        first = len(self.schedule.signature.inputs) if role == "output" else 0
        return f"call.tensors[{self.tensors.index(name, first)}]"

    def width(self, axis: Axis) -> str | None:
        """The macro of a width's length, None for axes of run-time length."""
        for macro, name in self.widths.items():
            if name == axis.name:
                return macro
        return None

    def length(self, axis: Axis) -> str:
        """The C++ expression of an axis' length, by what the call hands over."""
        macro = self.width(axis)
        if macro is not None:
            return f"int64_t({macro})"
        if axis.name in self.planned:
            return self.planned[axis.name]
        if axis.length is None or self._given(axis):
            return self.integer(f"len_{axis.name}")
        done: dict[bytes, str] = {}
        for node in postorder(axis.length):
            done[node.digest] = self._formula(node, [done[arg.digest] for arg in node.args])
        return done[axis.length.digest]

    def _formula(self, node: Expr, args: list[str]) -> str:
        """One step of the formula of a length."""
        if node.op == "number":
            return f"int64_t({node.attr})"
        if node.op == "length":
            assert isinstance(node.attr, Axis)
            return self.length(node.attr)
        if node.op == "param":
            return self.integer(str(node.attr))
        infix = {"add": "+", "sub": "-", "mul": "*"}.get(node.op)
        if infix:
            return f"({args[0]} {infix} {args[1]})"
        calls = {"floordiv": "floor_div", "mod": "floor_mod", "max": "maximum", "min": "minimum"}
        if node.op not in calls:
            raise InternalError(f"`{node.op}` in the length of an axis")
        return f"{calls[node.op]}({', '.join(args)})"

    def integer(self, key: str) -> str:
        """The C++ expression of an integer of the call: `len_AXIS`, or a param."""
        if key.removeprefix("len_") in self.planned:
            return self.planned[key.removeprefix("len_")]
        if key not in self.integers:
            self.integers.append(key)
        return f"call.integers[{self.integers.index(key)}]"

    def real(self, key: str) -> str:
        if key not in self.reals:
            self.reals.append(key)
        return f"Acc(call.reals[{self.reals.index(key)}])"


@dataclass
class GridFields:
    """The fields of one kernel's Grid, in the order in which `enter` sets them."""

    slots: Slots
    grid: tuple[Index, ...]
    names: Names = field(default_factory=Names)
    declarations: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, kind: str, wanted: str, initial: str) -> str:
        """The text of a field, made at its first use."""
        if key not in self.known:
            name = self.names.fresh(wanted)
            self.declarations.append(f"{kind} {name};")
            self.statements.append(f"grid.{name} = {initial};")
            self.known[key] = f"grid.{name}"
        return self.known[key]

    def declared(self) -> tuple[str, ...]:
        """The declarations, those of one type together."""
        lines: list[str] = []
        for kind, group in groupby(sorted(self.declarations, key=_type), _type):
            line = kind
            for name in (each.removeprefix(f"{kind} ").removesuffix(";") for each in group):
                apart = kind.endswith("*") or len(line) + len(name) > LINE
                if line != kind and apart:
                    lines.append(f"{line};")
                    line = kind
                line += f", {name}" if line != kind else f" {name}"
            lines.append(f"{line};")
        return tuple(lines)

    def entered(self) -> tuple[str, ...]:
        """The statements of `enter`, all strides of a tensor in one."""
        strides: dict[str, dict[int, str]] = {}
        for one in filter(None, map(STRIDE.fullmatch, self.statements)):
            field_, tensor, place = one.groups()
            strides.setdefault(tensor, {})[int(place)] = field_
        lines: list[str] = []
        for line in self.statements:
            found = STRIDE.fullmatch(line)
            places = strides.get(found[2], {}) if found else {}
            if found is None or len(places) == 1 or set(places) != set(range(len(places))):
                lines.append(line)
            elif places[int(found[3])] == next(iter(places.values())):  # the first to be used
                names = ", ".join(places[place] for place in range(len(places)))
                lines.append(f"strides_of({found[2]}, {names});")
        return tuple(lines)

    def number(self, name: str, kind: str) -> str:
        if kind == "real":
            return self.add(f"n {name}", "Acc", name, self.slots.real(name))
        cast = "bool" if kind == "bool" else "int64_t"
        return self.add(f"n {name}", cast, name, f"{cast}({self.slots.integer(name)})")

    def length(self, axis: Axis) -> str:
        macro = self.slots.width(axis)
        if macro is not None:
            return f"int64_t({macro})"
        initial = self.slots.length(axis)
        return self.add(f"len {axis.name}", "int64_t", f"len {axis.name}", initial)

    def enter(self, indices: tuple[Index, ...]) -> str:
        """Fields for the rows of the indices, read off the number of the instance; how many
        instances there are."""
        counts = []
        for index in reversed(indices):
            length = self.slots.integer(f"len_{index.axis.name}")
            key = f"row {index.number} {index.name}"
            self.add(key, "int64_t", f"{index.name} row", f"instance % {length}")
            self.statements.append(f"instance /= {length};")
            counts.append(length)
        return " * ".join(counts) or "1"

    def batch(self) -> str:
        """The row of the batch index of the grid, 0 where there is none."""
        for index in self.grid:
            if index.axis.name == "b":
                return self.row(index)
        return "0"

    def shift(self, axis: Axis) -> str:
        """The first position of a shifted axis: an int64 of the call for each batch."""
        tensor = self.slots.tensor(axis.shifted)
        initial = f"entry<int64_t>({tensor}, {self.batch()})"
        return self.add(f"start {axis.name}", "int64_t", f"start {axis.name}", initial)

    def key_length(self, axis: Axis) -> str:
        """How many rows of the key axis count."""
        tensor = self.slots.tensor("key_length")
        initial = f"minimum(entry<int64_t>({tensor}, {self.batch()}), {self.length(axis)})"
        return self.add(f"valid {axis.name}", "int64_t", f"valid {axis.name}", initial)

    def row(self, index: Index) -> str:
        """The row of a grid index."""
        name = self.known.get(f"row {index.number} {index.name}")
        if name is None:
            raise InternalError(f"`{index}` is not an index of the grid")
        return name

    def pointer(self, array: Array) -> str:
        kind = self.slots.types[array.name]
        initial = f"(const {kind}*){self.slots.tensor(array.name, array.role)}.data"
        key = f"p {array.role == 'output'} {array.name}"
        return self.add(key, f"const {kind}*", f"{array.name} at", initial)

    def given(self, array: Array) -> str:
        """Whether the call has an input, when the text is compiled."""
        macros = (m for m, name in self.slots.given.items() if name == array.name)
        return next(macros, "true") if array.role == "input" else "true"

    def stride(self, array: Array, place: int) -> str:
        initial = f"{self.slots.tensor(array.name, array.role)}.stride[{place}]"
        return self.add(
            f"s {array.role == 'output'} {array.name} {place}",
            "int64_t",
            f"{array.name} per {array.axes[place].name}",
            initial,
        )


def _type(declaration: str) -> str:
    return declaration.rpartition(" ")[0]


def straight(index: Index, array: Array, place: int, at: Expr) -> bool:
    """Whether a dimension of a read is walked by `index` itself, row by row."""
    axis = array.axes[place]
    own = axis.name == index.axis.name or same_places(axis, index.axis)
    return at.op == "index" and at.attr == index and own
