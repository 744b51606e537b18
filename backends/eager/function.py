"""The printed function: its arguments, lengths and positions, the equations in the order in which
they need one another, repeats and steps as loops, the result and the emits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from attnc.backends.eager.head import HeadPrinter, quoted, short
from attnc.backends.eager.prepare import all_blocks, all_definitions, clauses
from attnc.backends.eager.printer import Text
from attnc.backends.eager.titles import listed

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr, postorder
from attnc.spec import Block, Definition, Repeat

WORD = re.compile(r"[A-Za-z_]\w*")
DTYPES = {"bool": "torch.bool", "int": "torch.int64", "real": "wide", "complex": "torch.complex128"}


class FunctionPrinter(HeadPrinter):
    """Prints one Spec."""

    # --- the whole ----------------------------------------------------------------------------

    def text(self) -> str:
        p = self.printer
        self._head()
        self._over_batch()
        self._tensors()
        self._axes()
        p.line()
        self._results()
        return "\n".join(_without_unused(p.lines)) + "\n"

    # --- equations ----------------------------------------------------------------------------

    def _needed(self, roots: Iterable[Definition]) -> list[str]:
        """The definitions and what they read, each after what it reads itself; an array that moves
        with a state counts as the steps that record it."""
        order: list[str] = []
        seen: set[str] = set()
        stack = [(definition.array.name, False) for definition in roots]
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
            moving = self.equations.moving[block.name]
            exprs = [self._text(d) for d in all_definitions(block) if d.array.name in moving]
            exprs += [self._text(d) for d in block.updates] + [s.initial for s in block.states]
            return [n for expr in exprs for n in self._read_by(expr) if n not in moving]
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
        if name in self.rows and block is not None:
            self._stack(name, block.rows[-1])
        elif block is not None:
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
        shown = listed(array.indices)
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
        for name, definition in self.equations.first.items():  # one may read another
            if name in names:
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
        """A block with states: a loop over its last row index that records what is wanted, and
        emits where the call asks for them."""
        p = self.printer
        always = list({d.array.name: d for d in (*wanted, *self._also(block))}.values())
        asked = self._asked(block, always)
        for state in block.states:
            self._initial(state.array, state.initial)
        for each in (*always, *asked):
            name = each.array.name
            self.rows[name] = (each.array, self.names.fresh(f"rows_of_{short(name)}"))
            p.line(f"{self.rows[name][1]} = []")
        self._loop(block, always, asked)
        for each in always:
            self._stack(each.array.name, block.rows[-1])

    def _loop(
        self, block: Block, always: Sequence[Definition], asked: Sequence[Definition]
    ) -> None:
        p, row = self.printer, block.rows[-1]
        at = self.names.fresh(f"{row.name}_at")
        first = p.starts.get(row.axis.name)
        p.line(f"for {at} in range({_span(first, p.lengths[row.axis.name])}):")
        p.depth += 1
        p.fixed[row] = at
        p.product_type = "wide"
        self._clauses(block, row)
        if not block.reads_old:
            self._update(block)
        for each in always:
            self._record(each, block, row)
        for each in asked:
            p.line(f"if {quoted(each.array.name)} in emit:")
            p.depth += 1
            self._record(each, block, row)
            p.depth -= 1
        if block.reads_old:
            self._update(block)
        p.product_type = "narrow"
        p.depth -= 1
        del p.fixed[row]
        for array in clauses(block):
            p.rowless.pop(array.name, None)

    def _update(self, block: Block) -> None:
        for line in block.updates:
            self._define(line, self.equations.prepared(line, block))

    def _record(self, definition: Definition, block: Block, row: Index) -> None:
        p = self.printer
        text = self._row_of(definition, block)
        inner = [index for index in definition.array.indices if index != row]
        fitted = p.spread(text, inner) if inner else text.code
        p.line(f"{self.rows[definition.array.name][1]}.append({fitted})")

    def _asked(self, block: Block, always: Sequence[Definition]) -> list[Definition]:
        """The emits that move with the rows."""
        if block is not self.spec.root:
            return []
        moving, known = self.equations.moving[block.name], {d.array.name for d in always}
        emits = (*block.emits, *block.offered)
        return [d for d in emits if d.array.name in moving and d.array.name not in known]

    def _clauses(self, block: Block, row: Index) -> None:
        """Mask, score and weight of this row, where states move them: before any update."""
        p = self.printer
        for array in clauses(block):
            definition = self.equations.first.get(array.name)
            if definition is None or array.name not in self.equations.moving[block.name]:
                continue
            p.arrays.pop(array.name, None)
            self._define(definition, self.equations.prepared(definition, block))
            if row in array.indices:
                p.rowless[array.name] = array.indices.index(row)

    def _row_of(self, definition: Definition, block: Block) -> Text:
        """What one row of a definition is, in the loop over rows."""
        p, array = self.printer, definition.array
        if array.name in p.rowless:
            inner = tuple(index for index in array.indices if index not in p.fixed)
            return Text(p.arrays[array.name], inner)
        return p.expression(self.equations.prepared(definition, block), array.indices)

    def _also(self, block: Block) -> list[Definition]:
        """What the rows must record besides: the result, and what is read once all rows are
        there."""
        moving = self.equations.moving[block.name]
        found = [block.result] if block.result.array.name in moving else []
        for other in all_blocks(self.spec.root):
            for definition in all_definitions(other):
                inside = other is block and (
                    definition.array.name in moving or definition in block.updates
                )
                names = [] if inside else self._read_by(self._text(definition))
                found += [self.equations.first[n] for n in names if self._is_recorded(n, block)]
        return found

    def _is_recorded(self, name: str, block: Block) -> bool:
        return name in self.equations.moving[block.name] and name in self.equations.first

    def _initial(self, array: Array, initial: Expr) -> None:
        p = self.printer
        given = self.arguments[array.name]
        text = p.expression(initial, array.indices)
        code = self._whole(text, array, Definition(array, initial))
        kind = array.kind
        cast = {"bool": f"{given}.bool()", "int": f"{given}.long()"}.get(kind, f"Real({given})")
        p.line(f"{given} = {code} if {given} is None else {cast}")
        p.arrays[array.name] = given

    def _stack(self, name: str, row: Index) -> None:
        p = self.printer
        array, rows = self.rows[name]
        p.arrays[name] = self.names.fresh(name)
        sizes = ", ".join(p.lengths[index.axis.name] for index in array.indices)
        dim = array.indices.index(row)
        kind = DTYPES[array.kind]
        p.line(f"{p.arrays[name]} = stacked({rows}, {dim}, ({sizes},), {kind})")
        self.printed.add(name)

    # --- results ------------------------------------------------------------------------------

    def _results(self) -> None:
        p, root = self.printer, self.spec.root
        for name in self._needed([root.result]):
            self._ensure(name)
        self._ensure(root.result.array.name)
        p.line(f'results = {{"out": {self._finished(root.result.array)}}}')
        for definition in (*root.emits, *root.offered):
            self._emit(definition)
        for name, state in self.states.items():
            p.line(f"if {quoted(name)} in emit:")
            p.depth += 1
            block = next(b for b in all_blocks(self.spec.root) if state in b.states)
            if block.result.array.name in self.printed:
                p.line(f"results[{quoted(name)}] = {self._finished(state.array, 'wide')}")
            else:
                p.line(f"raise KeyError({quoted(name)})")
            p.depth -= 1
        p.line("return results")

    def _emit(self, definition: Definition) -> None:
        """An emit on request; what only it needs is printed in its branch."""
        p = self.printer
        name = definition.array.name
        printed, arrays = set(self.printed), dict(p.arrays)
        p.line(f"if {quoted(name)} in emit:")
        p.depth += 1
        for each in self._needed([definition]):
            self._ensure(each)
        self._ensure(definition.array.name)
        p.line(f"results[{quoted(name)}] = {self._finished(definition.array, 'wide')}")
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


def _without_unused(lines: list[str]) -> list[str]:
    """The lines without lengths, first positions and positions that nothing uses: those of the
    first assignments, up to the empty line."""
    end = lines.index("") if "" in lines else 0
    kept: list[str] = []
    used = set(WORD.findall("\n".join(lines[end:])))
    for line in reversed(lines[:end]):
        name = line.strip().partition(" = ")[0]
        plain = line.startswith("    ") and not line.startswith("     ") and name.isidentifier()
        if plain and name not in used and not line.strip().startswith("return"):
            continue
        used |= set(WORD.findall(line))
        kept.append(line)
    return [*reversed(kept), *lines[end:]]
