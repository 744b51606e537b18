"""The head of the printed function: its arguments, a call for each entry of a batch, lengths, first
positions and positions of the axes, and what optional arguments are when left out."""

from __future__ import annotations

from attnc.backends.eager.folds import FoldPrinter
from attnc.backends.eager.prepare import Equations, all_blocks, all_definitions
from attnc.backends.eager.printer import Names, Text

from attnc.errors import InternalError
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, Expr, postorder
from attnc.spec import Input, Spec

SHIFTS = ("offset", "key_offset")


class HeadPrinter:
    """Prints the arguments of one Spec and what follows from them.

    function    the name of the printed function
    passed_on   further keywords of it, which a call for each batch entry hands on
    """

    function = "eager"
    passed_on: tuple[str, ...] = ()
    printer_class = FoldPrinter

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.equations = Equations(spec)
        self.names = Names()
        self.printer = self.printer_class(self.names)
        self.states = {s.array.name: s for b in all_blocks(spec.root) for s in b.states}
        inputs = [given.name for given in spec.inputs]
        numbers = [number.name for number in spec.numbers]
        wanted = dict.fromkeys((*inputs, *numbers, *self.states))
        self.arguments = {name: self.names.fresh(name) for name in wanted}
        self.printer.arrays |= {name: self.arguments[name] for name in inputs}
        self.printer.numbers |= {name: self.arguments[name] for name in numbers}
        self.printed: set[str] = set(inputs)
        self.rows: dict[str, tuple[Array, str]] = {}  # recorded row by row, by name: the list

    def _all(self) -> list[Expr]:
        return [d.expr for b in all_blocks(self.spec.root) for d in all_definitions(b)]

    def _head(self) -> None:
        spec, p = self.spec, self.printer
        positional = [self.arguments[i.name] for i in spec.inputs if i.positional]
        keywords = [
            self.arguments[i.name] + ("" if i.default is None else "=None")
            for i in spec.inputs
            if not i.positional
        ]
        keywords += [
            self.arguments[n.name] + ("" if n.default is None else "=None") for n in spec.numbers
        ]
        keywords += [f"{self.arguments[name]}=None" for name in self.states]
        keywords += ["offset=0", "key_offset=0", "key_length=None", "seed=0", "emit=()"]
        keywords += [*self.passed_on, "first_entry=None"]
        p.depth = 0
        p.line(f"def {self.function}({', '.join([*positional, '*', *keywords])}):")
        p.depth = 1

    def _over_batch(self) -> None:
        """A call of its own for each batch entry where an offset or a key length is given per
        entry."""
        p, spec = self.printer, self.spec
        p.line("if per_batch(offset, key_offset, key_length):")
        p.depth += 1
        arrays = [i.array for i in spec.inputs] + [s.array for s in self.states.values()]
        tensors = ", ".join(
            f"{quoted(self.arguments[a.name])}: {self.arguments[a.name]}" for a in arrays
        )
        batched = ", ".join(
            f"{quoted(self.arguments[a.name])}: {at}" for a in arrays if (at := batch_place(a)) >= 0
        )
        named = [("out", spec.root.result.array), *self._emitted()]
        results = ", ".join(f"{quoted(name)}: {batch_place(a)}" for name, a in named)
        numbers = [
            f"{quoted(self.arguments[n.name])}: {self.arguments[n.name]}" for n in spec.numbers
        ]
        further = [f"{quoted(name)}: {name}" for name in ("seed", "emit", *self.passed_on)]
        others = ", ".join([*numbers, *further])
        feature = self._needs_whole_batch()
        if feature:
            p.line(f'raise UnsupportedError({quoted(feature)}, "eager", ("numpy",))')
        else:
            p.line(
                'shifts = {"offset": offset, "key_offset": key_offset, "key_length": key_length}'
            )
            p.line(f"tensors = {{{tensors}}}")
            p.line(f"batched, results = {{{batched}}}, {{{results}}}")
            given = f"tensors, batched, results, shifts, {{{others}}}"
            p.line(f"return over_batch({self.function}, {given})")
        p.depth -= 1

    def _needs_whole_batch(self) -> str:
        """Why there is no call for each batch entry, if there is none."""
        root = self.spec.root
        outputs = [root.result, *root.emits, *root.offered]
        apart = all(batch_place(each.array) >= 0 for each in outputs) and not self._mixes_batch()
        return "" if apart else "offsets per batch where entries of a batch meet"

    def _mixes_batch(self) -> bool:
        for node in postorder(*self._all()):
            if any(index.axis.name == "b" for index in node.bound):
                return True
            if node.op == "read":
                places = zip(node.array.axes, node.args, strict=True)
                if any(axis.name == "b" and at.op != "index" for axis, at in places):
                    return True
        return False

    def _emitted(self) -> list[tuple[str, Array]]:
        root = self.spec.root
        found = [(d.array.name, d.array) for d in (*root.emits, *root.offered)]
        return found + [(name, state.array) for name, state in self.states.items()]

    def _tensors(self) -> None:
        """Casts: integers are int64; reals become Real, in the dtype they have."""
        p = self.printer
        certain = [i for i in self.spec.inputs if i.array.kind == "real" and i.default is None]
        like = next((i for i in certain if i.positional), (certain or self.spec.inputs)[0])
        p.line(f"narrow = {self.arguments[like.name]}.dtype")
        p.arrays["#like"] = self.names.fresh("some")
        p.line(f"{p.arrays['#like']} = {self.arguments[like.name]}")
        wide = "wide = torch.float64 if narrow == torch.float64 else torch.float32"
        p.line(f"{wide}  # of statistics, states and positions")
        cut = [i for i in self.spec.inputs if any(a.shifted == "key_offset" for a in i.array.axes)]
        if cut:
            axis = next(a for a in cut[0].array.axes if a.shifted == "key_offset")
            p.line(f"all_keys = {self._measured(axis)}")
            p.line("if key_length is not None:")
            p.depth += 1
            for given in cut:
                name = self.arguments[given.name]
                at = [a.shifted for a in given.array.axes].index("key_offset")
                code = f"{name} = {name}.narrow({at}, 0, int(key_length))"
                p.line(code if given.default is None else f"{code} if {name} is not None else None")
            p.depth -= 1

    def _axes(self) -> None:
        """Lengths and first positions, numbers left out, positions; inputs left out."""
        p = self.printer
        axes = self._used_axes()
        for axis in axes:
            if axis.form in ("measured", "coarse"):
                self._measure(axis)
        for number in self.spec.numbers:
            if number.default is not None:
                name = self.arguments[number.name]
                p.line(f"{name} = {self._host(number.default)} if {name} is None else {name}")
        for axis in axes:
            self._length(axis)
        for given in self.spec.inputs:
            self._cast(given)
        for axis in axes:
            self._start(axis)
        for axis in axes:
            name = self.names.fresh(axis.name)
            p.positions[axis.name] = name
            code = f"torch.arange({p.lengths[axis.name]}, device={p.arrays['#like']}.device)"
            first = p.starts.get(axis.name)
            p.line(f"{name} = {code if first is None else f'{first} + {code}'}")
        for given in self.spec.inputs:
            if given.default is not None:
                self._default(given)

    def _used_axes(self) -> list[Axis]:
        found: dict[str, Axis] = {}
        arrays = [given.array for given in self.spec.inputs]
        for block in all_blocks(self.spec.root):
            arrays += [d.array for d in all_definitions(block)] + [s.array for s in block.states]
        for array in arrays:
            found |= {axis.name: axis for axis in array.axes if axis.name not in found}
        for node in postorder(*self._all()):
            own = [index.axis for index in node.bound]
            own += [node.attr] if isinstance(node.attr, Axis) else []
            own += [node.attr.axis] if isinstance(node.attr, Index) else []
            found |= {axis.name: axis for axis in own if axis.name not in found}
        for axis in self.spec.axes:
            found.setdefault(axis.name, axis)
        return list(found.values())

    def _measure(self, axis: Axis) -> None:
        p = self.printer
        name = p.lengths[axis.name] = self.names.fresh(f"n_{axis.name}")
        p.line(f"{name} = {self._measured(axis)}")

    def _measured(self, axis: Axis) -> str:
        """The length of an axis on an input that every call has, or on one that this call has."""
        sites = [
            (given, place)
            for given in self.spec.inputs
            for place, each in enumerate(given.array.axes)
            if each.name == axis.name
        ]
        for given, place in sites:
            if given.default is None:
                return f"{self.arguments[given.name]}.shape[{place}]"
        options = [f"({self.arguments[given.name]}, {place})" for given, place in sites]
        return f"measured({', '.join(options)})"

    def _length(self, axis: Axis) -> None:
        """The length of a range or product axis, after those that it is made of."""
        p = self.printer
        if axis.name in p.lengths:
            return
        for part in axis.parts:
            self._length(part)
        if axis.length is not None:
            for node in postorder(axis.length):
                if isinstance(node.attr, Axis):
                    self._length(node.attr)
            code = f"max({self._host(axis.length)}, 0)"
        elif axis.parts:
            code = " * ".join(p.lengths[part.name] for part in axis.parts)
        else:
            raise InternalError(f"the axis `{axis.name}` has no length")
        p.lengths[axis.name] = self.names.fresh(f"n_{axis.name}")
        p.line(f"{p.lengths[axis.name]} = {code}")

    def _start(self, axis: Axis) -> None:
        p = self.printer
        first = [] if axis.low is None else [self._host(axis.low)]
        first += [axis.shifted] if axis.shifted else []
        if axis.name == "b":
            first = ["(first_entry or 0)"]
        if first and first != ["0"]:
            p.starts[axis.name] = self.names.fresh(f"{axis.name}_start")
            p.line(f"{p.starts[axis.name]} = {' + '.join(first)}")

    def _host(self, expr: Expr) -> str:
        """Code of an expression of lengths and numbers."""
        return self.printer.expression(expr, ()).code

    def _cast(self, given: Input) -> None:
        name = self.arguments[given.name]
        kind = given.array.kind
        code = {"bool": f"{name}.bool()", "int": f"{name}.long()"}.get(kind, f"Real({name})")
        tail = "" if given.default is None else f" if {name} is not None else None"
        self.printer.line(f"{name} = {code}{tail}")

    def _default(self, given: Input) -> None:
        assert given.default is not None
        p, name = self.printer, self.arguments[given.name]
        p.line(f"if {name} is None:")
        p.depth += 1
        text = p.expression(given.default, given.array.indices)
        if not text.dims and given.array.kind in ("real", "complex"):
            text = Text(f"constant({text.code}, wide, {p.arrays['#like']})")
        p.line(f"{name} = {p.spread(text, given.array.indices)}")
        p.depth -= 1


def short(name: str) -> str:
    """`lse` of `coarse.lse`."""
    return name.rpartition(".")[2]


def batch_place(array: Array) -> int:
    """The place of the batch axis, -1 where there is none."""
    names = [axis.name for axis in array.axes]
    return names.index("b") if "b" in names else -1


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "").replace('"', "") + '"'
