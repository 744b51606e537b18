"""The printed function: its arguments, lengths and positions, the equations in the order in which
they need one another, repeats and steps as loops, the result and the emits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attnc.backends.eager.prepare import Equations, all_blocks, all_definitions
from attnc.backends.eager.printer import Names, Printer, Text

from attnc.errors import InternalError
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, Expr, postorder
from attnc.spec import Block, Definition, Input, Repeat, Spec

SHIFTS = ("offset", "key_offset")
DTYPES = {"bool": "torch.bool", "int": "torch.int64", "real": "wide", "complex": "torch.complex128"}


class FunctionPrinter:
    """Prints one Spec."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.equations = Equations(spec)
        self.names = Names()
        self.printer = Printer(self.names)
        self.states = {s.array.name: s for b in all_blocks(spec.root) for s in b.states}
        inputs = [given.name for given in spec.inputs]
        numbers = [number.name for number in spec.numbers]
        wanted = dict.fromkeys((*inputs, *numbers, *self.states))
        self.arguments = {name: self.names.fresh(name) for name in wanted}
        self.printer.arrays |= {name: self.arguments[name] for name in inputs}
        self.printer.numbers |= {name: self.arguments[name] for name in numbers}
        self.printed: set[str] = set(inputs)
        self.recorded: dict[str, list[Definition]] = {}
        self.differentiated = {
            node.array.name for expr in self._all() for node in postorder(expr) if node.op == "grad"
        }

    def _all(self) -> list[Expr]:
        return [d.expr for b in all_blocks(self.spec.root) for d in all_definitions(b)]

    # --- the whole ----------------------------------------------------------------------------

    def text(self) -> str:
        p = self.printer
        self._head()
        self._over_batch()
        self._tensors()
        self._axes()
        p.line()
        for name in self._needed([self.spec.root.result]):
            self._ensure(name)
        self._results()
        return "\n".join(p.lines) + "\n"

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
        p.depth = 0
        p.line(f"def eager({', '.join([*positional, '*', *keywords, 'first_entry=None'])}):")
        p.depth = 1

    def _over_batch(self) -> None:
        """A call of its own for each batch entry where an offset or a key length is given per
        entry."""
        p, spec = self.printer, self.spec
        p.line("if per_batch(offset, key_offset, key_length):")
        p.depth += 1
        arrays = [i.array for i in spec.inputs] + [s.array for s in self.states.values()]
        outputs = [spec.root.result, *spec.root.emits, *spec.root.offered]
        tensors = ", ".join(
            f"{_quoted(self.arguments[a.name])}: {self.arguments[a.name]}" for a in arrays
        )
        batched = ", ".join(
            f"{_quoted(self.arguments[a.name])}: {at}" for a in arrays if (at := _batch(a)) >= 0
        )
        named = [("out", spec.root.result.array), *self._emitted()]
        results = ", ".join(f"{_quoted(name)}: {_batch(a)}" for name, a in named)
        numbers = [
            f"{_quoted(self.arguments[n.name])}: {self.arguments[n.name]}" for n in spec.numbers
        ]
        others = ", ".join([*numbers, '"seed": seed', '"emit": emit'])
        if any(_batch(each.array) < 0 for each in outputs) or self._mixes_batch():
            p.line('raise NotImplementedError("offsets per batch where entries of a batch meet")')
        else:
            p.line(
                'shifts = {"offset": offset, "key_offset": key_offset, "key_length": key_length}'
            )
            p.line(f"tensors = {{{tensors}}}")
            p.line(f"batched, results = {{{batched}}}, {{{results}}}")
            p.line(f"return over_batch(eager, tensors, batched, results, shifts, {{{others}}})")
        p.depth -= 1

    def _entry(self, name: str) -> str:
        return f"{_quoted(self.arguments[name])}: {self.arguments[name]}"

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
        found = [(short(d.array.name), d.array) for d in (*root.emits, *root.offered)]
        return found + [(name, state.array) for name, state in self.states.items()]

    # --- arguments ----------------------------------------------------------------------------

    def _tensors(self) -> None:
        """Casts: integers are int64; reals become Real, in the dtype they have."""
        p = self.printer
        like = next(
            (i for i in self.spec.inputs if i.array.kind == "real" and i.default is None),
            self.spec.inputs[0],
        )
        p.line(f"narrow = {self.arguments[like.name]}.dtype")
        p.arrays["#like"] = self.names.fresh("some")
        p.line(f"{p.arrays['#like']} = {self.arguments[like.name]}")
        wide = "wide = torch.float64 if narrow == torch.float64 else torch.float32"
        p.line(f"{wide}  # of statistics, states and positions")
        cut = [i for i in self.spec.inputs if any(a.shifted == "key_offset" for a in i.array.axes)]
        if cut:
            axis = next(a for a in cut[0].array.axes if a.shifted == "key_offset")
            place = cut[0].array.axes.index(axis)
            p.line(f"all_keys = {self.arguments[cut[0].name]}.shape[{place}]")
            p.line("if key_length is not None:")
            p.depth += 1
            for given in cut:
                name = self.arguments[given.name]
                at = [a.shifted for a in given.array.axes].index("key_offset")
                code = f"{name} = {name}.narrow({at}, 0, key_length)"
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
        sites = [
            (given, place)
            for given in self.spec.inputs
            for place, each in enumerate(given.array.axes)
            if each.name == axis.name
        ]
        certain = [site for site in sites if site[0].default is None]
        name = p.lengths[axis.name] = self.names.fresh(f"n_{axis.name}")
        if certain:
            given, place = certain[0]
            p.line(f"{name} = {self.arguments[given.name]}.shape[{place}]")
            return
        options = [f"({self.arguments[given.name]}, {place})" for given, place in sites]
        p.line(f"{name} = measured({', '.join(options)})")

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

    # --- equations ----------------------------------------------------------------------------

    def _needed(self, roots: Iterable[Definition]) -> list[str]:
        """The arrays that definitions read, each after those that it reads itself; a moving array
        counts as the steps that record it."""
        order: list[str] = []
        seen: set[str] = set()
        stack = [(name, False) for d in roots for name in self._read_by(self._text(d))]
        while stack:
            name, ready = stack.pop()
            if ready:
                order.append(name)
            elif name not in seen and name not in self.printed:
                seen.add(name)
                stack.append((name, True))
                stack += [(each, False) for each in self._below(name) if each not in seen]
        return order

    def _text(self, definition: Definition) -> Expr:
        return self.equations.prepared(definition)

    def _read_by(self, expr: Expr) -> list[str]:
        return list(
            dict.fromkeys(n.array.name for n in postorder(expr) if n.op in ("read", "grad"))
        )

    def _below(self, name: str) -> list[str]:
        block = self._steps_of(name)
        exprs = self.equations.expressions(name)
        if block is not None:
            exprs = [d.expr for d in (*block.updates, block.result)]
            exprs += [s.initial for s in block.states]
            exprs += [d.expr for d in all_definitions(block) if d.array.name == name]
        elif name in self.equations.first:
            exprs = [*exprs, self._text(self.equations.first[name])]
        return [each for expr in exprs for each in self._read_by(expr)]

    def _steps_of(self, name: str) -> Block | None:
        """The block with states whose rows record an array."""
        block = self.equations.owner.get(name)
        moves = block is not None and name in self.equations.moving.get(block.name, ())
        return block if moves else None

    def _ensure(self, name: str) -> None:
        if name in self.printed or name in self.states:
            return
        block = self._steps_of(name)
        if block is not None:
            self._steps(block, [self.equations.first[name]])
        elif name in self.equations.repeats:
            self._repeat(self.equations.repeats[name])
        elif name in self.equations.first:
            definition = self.equations.first[name]
            self._define(definition, self._text(definition))
            self.printed.add(name)

    def _define(self, definition: Definition, expr: Expr) -> str:
        """Prints an equation: a tensor over all of the array's dimensions."""
        p = self.printer
        array = definition.array
        text = p.expression(expr, array.indices)
        name = p.arrays.get(array.name) or self.names.fresh(array.name)
        code = self._whole(text, array, definition)
        shown = ", ".join(str(index) for index in array.indices)
        p.line(f"{name} = {code}" + (f"  # [{shown}]" if shown else ""))
        p.arrays[array.name] = name
        return name

    def _whole(self, text: Text, array: Array, definition: Definition) -> str:
        p = self.printer
        rest = tuple(index for index in array.indices if index not in p.fixed)
        if not text.dims and array.kind in ("real", "complex"):
            text = Text(f"constant({text.code}, wide, {p.arrays['#like']})")
        if not text.dims and array.kind in ("bool", "int"):
            text = Text(f"torch.as_tensor({text.code}, device={p.arrays['#like']}.device)")
        return p.spread(text, rest) if rest else text.code

    def _repeat(self, repeat: Repeat) -> None:
        """The arrays of a repeat: their first values, then a loop."""
        p = self.printer
        names = list(dict.fromkeys(line.array.name for line in repeat.statements))
        for name in names:
            if name in self.equations.first:
                definition = self.equations.first[name]
                self._define(definition, self._text(definition))
        count = self._host(repeat.count)
        row = self.names.fresh(repeat.index.name)
        first = p.starts.get(repeat.index.axis.name)
        p.line(
            f"for {row} in range({count}):"
            if first is None
            else f"for {row} in range({first}, {first} + {count}):"
        )
        p.depth += 1
        p.fixed[repeat.index] = row
        for line in repeat.statements:
            self._define(line, self._text(line))
        p.depth -= 1
        del p.fixed[repeat.index]
        self.printed |= set(names)

    # --- steps --------------------------------------------------------------------------------

    def _steps(self, block: Block, wanted: Sequence[Definition]) -> None:
        """A block with states: a loop over its last row index that records what is wanted."""
        p = self.printer
        wanted = list({d.array.name: d for d in (*wanted, *self._also(block, wanted))}.values())
        graph = any(s.array.name in self.differentiated for s in block.states)
        if graph:
            p.line("grad_mode = torch.is_grad_enabled()")
            p.line("torch.set_grad_enabled(True)  # grad() below needs a graph")
        for state in block.states:
            self._initial(state.array, state.initial)
        lists = {d.array.name: self.names.fresh(f"rows_of_{short(d.array.name)}") for d in wanted}
        for name in lists.values():
            p.line(f"{name} = []")
        row = block.rows[-1]
        at = self.names.fresh(f"{row.name}_at")
        first = p.starts.get(row.axis.name)
        count = p.lengths[row.axis.name]
        p.line(
            f"for {at} in range({count}):"
            if first is None
            else f"for {at} in range({first}, {first} + {count}):"
        )
        p.depth += 1
        p.fixed[row] = at
        p.product_type = "wide"
        for line in block.updates:
            name = self._define(line, self.equations.prepared(line, block))
            if line.array.name in self.differentiated:
                p.line(f"{name} = tracked({name})")
        for each in wanted:
            text = p.expression(self.equations.prepared(each, block), each.array.indices)
            inner = [index for index in each.array.indices if index != row]
            fitted = p.spread(text, inner) if inner else text.code
            p.line(f"{lists[each.array.name]}.append({fitted})")
        p.product_type = "narrow"
        p.depth -= 1
        del p.fixed[row]
        if graph:
            p.line("torch.set_grad_enabled(grad_mode)")
        for each in wanted:
            self._stack(each.array, row, lists[each.array.name])

    def _also(self, block: Block, wanted: Sequence[Definition]) -> list[Definition]:
        """What the rows must record besides: the result, and what others read or may ask for."""
        moving = self.equations.moving[block.name]
        own = {d.array.name for d in all_definitions(block)}
        found = [d for d in (block.result, *block.emits) if d.array.name in moving]
        if block is self.spec.root:
            found += [d for d in block.offered if d.array.name in moving]
        for other in all_blocks(self.spec.root):
            if other is block:
                continue
            for definition in all_definitions(other):
                for name in self._read_by(definition.expr):
                    if name in moving and name in own and name in self.equations.first:
                        found.append(self.equations.first[name])
        return found

    def _initial(self, array: Array, initial: Expr) -> None:
        p = self.printer
        given = self.arguments[array.name]
        text = p.expression(initial, array.indices)
        code = self._whole(text, array, Definition(array, initial))
        kind = array.kind
        cast = {"bool": f"{given}.bool()", "int": f"{given}.long()"}.get(kind, f"Real({given})")
        p.line(f"{given} = {code} if {given} is None else {cast}")
        p.arrays[array.name] = given
        if array.name in self.differentiated:
            p.line(f"{given} = tracked({given})")

    def _stack(self, array: Array, row: Index, rows: str) -> None:
        p = self.printer
        name = self.names.fresh(array.name)
        sizes = ", ".join(p.lengths[index.axis.name] for index in array.indices)
        if row in array.indices:
            dim = array.indices.index(row)
            p.line(f"{name} = stacked({rows}, {dim}, ({sizes},), {DTYPES[array.kind]})")
        else:
            p.line(f"{name} = {rows}[-1]")
        p.arrays[array.name] = name
        self.printed.add(array.name)

    # --- results ------------------------------------------------------------------------------

    def _results(self) -> None:
        p, root = self.printer, self.spec.root
        self._ensure(root.result.array.name)
        p.line(f'results = {{"out": {self._finished(root.result.array)}}}')
        for definition in (*root.emits, *root.offered):
            self._emit(definition)
        for name, state in self.states.items():
            p.line(f"if {_quoted(name)} in emit:")
            p.depth += 1
            block = next(b for b in all_blocks(self.spec.root) if state in b.states)
            if block.result.array.name in self.printed:
                p.line(f"results[{_quoted(name)}] = {self._finished(state.array, 'wide')}")
            else:
                p.line(f"raise KeyError({_quoted(name)})")
            p.depth -= 1
        p.line("return results")

    def _emit(self, definition: Definition) -> None:
        """An emit on request; what only it needs is printed in its branch."""
        p = self.printer
        name = short(definition.array.name)
        printed, arrays = set(self.printed), dict(p.arrays)
        p.line(f"if {_quoted(name)} in emit:")
        p.depth += 1
        for each in self._needed([definition]):
            self._ensure(each)
        self._ensure(definition.array.name)
        p.line(f"results[{_quoted(name)}] = {self._finished(definition.array, 'wide')}")
        p.depth -= 1
        self.printed, p.arrays = printed, arrays

    def _finished(self, array: Array, dtype: str = "narrow") -> str:
        p = self.printer
        sizes = "".join(f"{p.lengths[index.axis.name]}, " for index in array.indices)
        kind = dtype if array.kind == "real" else "None"
        code = f"finished({p.arrays[array.name]}, ({sizes.rstrip()}), {kind}, {p.arrays['#like']})"
        shifted = [axis.shifted == "key_offset" for axis in array.axes]
        if not any(shifted):
            return code
        scores = {s.score.name for b in all_blocks(self.spec.root) for s in b.sources if s.score}
        fill = 'float("-inf")' if array.name in scores or short(array.name) == "score" else "0"
        return f"padded({code}, {shifted.index(True)}, all_keys, {fill})"


def _span(first: str | None, count: str) -> str:
    return count if first is None else f"{first}, {first} + {count}"


def short(name: str) -> str:
    """`lse` of `coarse.lse`."""
    return name.rpartition(".")[2]


def _batch(array: Array) -> int:
    """The place of the batch axis, -1 where there is none."""
    names = [axis.name for axis in array.axes]
    return names.index("b") if "b" in names else -1


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "").replace('"', "") + '"'
