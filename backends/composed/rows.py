"""Prints stages whose rows carry values of keys: a loop over rows that calls the operator of one
row, with the updates as torch operations between the calls.

The loop is a function of its own, of the first row, the last one and the carried values: where
gradients are wanted it runs in segments (attnc/runtime/carried.py). What the result needs is
recorded row by row; an emit that the row's operator does not give runs the rows once more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from attnc.backends.composed.printer import StagePrinter
from attnc.backends.eager.function import FunctionPrinter
from attnc.backends.eager.head import quoted, short
from attnc.backends.eager.prepare import all_blocks, all_definitions, clauses
from attnc.backends.eager.printer import Text

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr
from attnc.passes.carried import exchanged, given_for, sees_new_states, with_given
from attnc.signature import Signature
from attnc.spec import Block, Definition, Spec
from attnc.stages import KernelStage, Pipeline


def reading_what_is_given(spec: Spec, pipeline: Pipeline) -> Spec:
    """The Spec whose equations read the scores and weights that rows' operators give."""
    for stage in pipeline.kernels:
        if stage.carry is None:
            continue
        block = next(one for one in all_blocks(spec.root) if one.name == stage.block)
        given = given_for(block)
        made = [given[name] for name, _ in stage.carry.clauses]
        spec = exchanged(spec, block, with_given(block, made))
    return spec


class RowsPrinter(FunctionPrinter, ABC):
    """Prints the blocks of a pipeline that carry values from row to row.

    carried   their stages by the block's name
    quiet     in what an emit alone needs
    begun     the blocks whose states have their first values
    """

    printer: StagePrinter
    carried: dict[str, KernelStage]

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.quiet = False
        self.begun: set[str] = set()

    @abstractmethod
    def print_call(
        self, stage: KernelStage, tensors: Iterable[str], shifts: Iterable[str], emits: str
    ) -> str:
        """The call of a stage; what its outputs by name are called."""

    @abstractmethod
    def _shifts(self, signature: Signature, row: str = "") -> Iterable[str]:
        """The first positions of a stage; `row`: that of its rows, where it is the loop's."""

    # --- What is needed before ----------------------------------------------------------------

    def _steps_of(self, name: str) -> Block | None:
        block = self.equations.owner.get(name)
        stage = self.carried.get(block.name) if block is not None else None
        if block is not None and stage is not None and self._given(stage, name):
            return block
        return super()._steps_of(name)

    def _below(self, name: str) -> list[str]:
        block = self._steps_of(name)
        stage = self.carried.get(block.name) if block is not None else None
        if block is None or stage is None:
            return super()._below(name)
        exprs = [state.initial for state in block.states]
        exprs += self._between(block)
        if not self._gives(stage, block, name):
            exprs.append(self._formula(block, self.equations.first[name].array))
        exprs += [self._formula(block, each) for each in self._printed_in(stage, block, exprs)]
        names = [array.name for _, array in stage.arguments]
        names += [each for expr in exprs for each in self._read_by(expr)]
        own = {*self.equations.moving[block.name], *(array.name for array in clauses(block))}
        return [each for each in names if each not in own]

    def _between(self, block: Block) -> list[Expr]:
        """What is printed after a row's operator: the updates, and a result that sees them."""
        exprs = [self.equations.prepared(line, block) for line in block.updates]
        if sees_new_states(block, block.result):
            exprs.append(self.equations.prepared(block.result, block))
        return exprs

    def _formula(self, block: Block, array: Array) -> Expr:
        return self.equations.prepared(self.equations.first[array.name], block)

    def _printed_in(self, stage: KernelStage, block: Block, exprs: Sequence[Expr]) -> list[Array]:
        """What the loop prints by its formula: what the stage is given that moves, and clauses that
        expressions read and the stage does not give."""
        moving = self.equations.moving[block.name]
        states = {state.array.name for state in block.states}
        given = [a for _, a in stage.arguments if a.name in moving and a.name not in states]
        return [*given, *self._clauses_in(stage, block, exprs)]

    def _clauses_in(self, stage: KernelStage, block: Block, exprs: Sequence[Expr]) -> list[Array]:
        """The clauses that expressions read, and what these are made of, that no stage gives."""
        assert stage.carry is not None
        made = {name for name, _ in stage.carry.clauses}
        every = {array.name: array for array in clauses(block)}
        found: set[str] = set()
        todo = list(exprs)
        while todo:
            for name in self._read_by(todo.pop()):
                if name in every and name not in found and name not in made:
                    found.add(name)
                    todo.append(self._formula(block, every[name]))
        return [array for name, array in every.items() if name in found]

    # --- The loop -----------------------------------------------------------------------------

    def _steps(self, block: Block, wanted: Sequence[Definition]) -> None:
        stage = self.carried.get(block.name)
        if stage is None:
            super()._steps(block, wanted)
            return
        always = list({d.array.name: d for d in (*wanted, *self._also(block))}.values())
        asked = [] if self.quiet else self._asked(block, always)
        self._first_values(block)
        p, row = self.printer, block.rows[-1]
        states = [self.arguments[state.array.name] for state in block.states]
        walk, begin, end, at = map(
            self.names.fresh,
            (f"rows_of_{block.name}", f"first_{row.name}", f"end_{row.name}", f"{row.name}_at"),
        )
        p.line(f"def {walk}({', '.join([begin, end, *states])}):")
        p.depth += 1
        for state, name in zip(block.states, states, strict=True):
            p.arrays[state.array.name] = name
        for each in (*always, *asked):
            name = self.names.fresh(f"rows_of_{short(each.array.name)}")
            self.rows[each.array.name] = (each.array, name)
            p.line(f"{name} = []")
        p.line(f"for {at} in range({begin}, {end}):")
        self._row_of_loop(stage, block, at, always, asked)
        rows = {one.array.name: self.rows[one.array.name] for one in (*always, *asked)}
        found = ", ".join(f"{quoted(name)}: {rows[name][1]}" for name in rows)
        p.line(f"return {{{found}}}, ({', '.join(states)},)")
        p.depth -= 1
        self._run(block, walk, states)
        for name, (array, _) in rows.items():
            self.rows[name] = (array, f"{walk}_[{quoted(name)}]")
        for each in always:
            self._stack(each.array.name, row)

    def _run(self, block: Block, walk: str, states: Sequence[str]) -> None:
        """All rows, and what is carried after the last."""
        p, row = self.printer, block.rows[-1]
        last = [self.names.fresh(f"last_{short(state.array.name)}") for state in block.states]
        self.names.taken.add(f"{walk}_")
        first, length = p.starts.get(row.axis.name, "0"), p.lengths[row.axis.name]
        given = f"{walk}, {first}, {length}, ({', '.join(states)},)"
        p.line(f"{walk}_, ({', '.join(last)},) = in_segments({given})")
        for state, name in zip(block.states, last, strict=True):
            p.arrays[state.array.name] = name

    def _first_values(self, block: Block) -> None:
        if block.name in self.begun:
            return
        self.begun.add(block.name)
        for state in block.states:
            self._initial(state.array, state.initial)

    def _row_of_loop(
        self,
        stage: KernelStage,
        block: Block,
        at: str,
        always: Sequence[Definition],
        asked: Sequence[Definition],
    ) -> None:
        p, row = self.printer, block.rows[-1]
        p.depth += 1
        p.fixed[row] = at
        p.product_type = "wide"
        held = set(p.rowless)
        extra = [one for one in always if not self._gives(stage, block, one.array.name)]
        read = [*self._between(block), *(self.equations.prepared(one, block) for one in extra)]
        found = self._call_of_row(stage, block, at, (always, asked), read)
        if not block.reads_old:
            self._update(block)
        for each in (*always, *asked):
            name = each.array.name
            optional = each in asked
            if optional:
                p.line(f"if {quoted(name)} in emit:")
                p.depth += 1
            if name in dict(stage.provides) and self._gives(stage, block, name):
                code = self._taken(stage, found, each.array, row)
                p.line(f"{self.rows[name][1]}.append({code})")
            else:
                self._record(each, block, row)
            p.depth -= optional
        if block.reads_old:
            self._update(block)
        p.product_type = "narrow"
        p.depth -= 1
        del p.fixed[row]
        for name in set(p.rowless) - held:
            del p.rowless[name]

    def _call_of_row(
        self,
        stage: KernelStage,
        block: Block,
        at: str,
        recorded: tuple[Sequence[Definition], Sequence[Definition]],
        read: Sequence[Expr],
    ) -> str:
        """The call of the row's operator, and the clauses that are read after it. `recorded`:
        always, and where the call asks for it."""
        p, row, carry = self.printer, block.rows[-1], stage.carry
        assert carry is not None
        always, asked = recorded
        arguments = {array.name for _, array in stage.arguments}
        printed = self._printed_in(stage, block, read)
        for array in printed:
            if array.name in arguments:
                self._of_row(array, block)
        tensors = [f"{quoted(n)}: {self._sliced(a, row, at)}" for n, a in stage.arguments]
        outputs = dict(stage.provides)
        sure = dict.fromkeys(output for _, output in carry.clauses)
        sure |= dict.fromkeys(one.array.name for one in always if one.array.name in outputs)
        names = [f"{quoted(outputs[n])}, " for n in sure if n != block.result.array.name]
        names += [
            f"*([{quoted(outputs[n])}] if {quoted(n)} in emit else []), "
            for n in (one.array.name for one in asked)
            if n in outputs and n not in sure
        ]
        shifts = self._shifts(stage.signature, at)
        found = self.print_call(stage, tensors, shifts, "".join(names).rstrip())
        made = {name: self.equations.first[output].array for name, output in carry.clauses}
        for array in clauses(block):
            if array.name in made:
                p.arrays[array.name] = self.names.fresh(array.name)
                p.line(
                    f"{p.arrays[array.name]} = {self._taken(stage, found, made[array.name], row)}"
                )
                p.rowless[array.name] = array.indices.index(row)
            elif array in printed:
                self._of_row(array, block)
        return found

    def _gives(self, stage: KernelStage, block: Block, name: str) -> bool:
        """Whether a row's operator gives an array, or what stands for a clause."""
        if name == block.result.array.name:
            return not sees_new_states(block, block.result)
        return self._given(stage, name)

    def _given(self, stage: KernelStage, name: str) -> bool:
        assert stage.carry is not None
        if name in dict(stage.carry.clauses):
            return True
        block = next(one for one in all_blocks(self.spec.root) if one.name == stage.block)
        given = name in dict(stage.provides)
        return given and not sees_new_states(block, self.equations.first[name])

    def _of_row(self, array: Array, block: Block) -> None:
        """One row of an array that moves, by its formula."""
        definition = self.equations.first[array.name]
        self.printer.arrays.pop(array.name, None)
        self._define(definition, self.equations.prepared(definition, block))
        if block.rows[-1] in array.indices:
            self.printer.rowless[array.name] = array.indices.index(block.rows[-1])

    def _sliced(self, array: Array, row: Index, at: str) -> str:
        """What the row's operator is given of an array: of one over rows, the row."""
        p = self.printer
        name = p.arrays[array.name]
        places = [n for n, axis in enumerate(array.axes) if axis.name == row.axis.name]
        if not places:
            return name
        before = ":, " * places[0]
        if array.name in p.rowless:
            return f"{name}[{before}None]"
        first = p._row(Text(at), row)
        return f"{name}[{before}{first} : {first} + 1]"

    def _taken(self, stage: KernelStage, found: str, array: Array, row: Index) -> str:
        """What an output of the row's operator is, without the axis of its one row."""
        place = [axis.name for axis in array.axes].index(row.axis.name)
        code = f"{found}[{quoted(dict(stage.provides)[array.name])}][{':, ' * place}0]"
        return f"Real({code})" if array.kind in ("real", "complex") else code

    # --- What is recorded ---------------------------------------------------------------------

    def _asked(self, block: Block, always: Sequence[Definition]) -> list[Definition]:
        """The emits that a row's operator gives beside its result, recorded where they are asked
        for; all others run the rows once more."""
        stage = self.carried.get(block.name)
        if stage is None:
            return super()._asked(block, always)
        known = {one.array.name for one in always}
        made = {name for name in dict(stage.provides) if self._given(stage, name)} - known
        emits = (*block.emits, *block.offered) if block is self.spec.root else ()
        return [one for one in emits if one.array.name in made]

    def _also(self, block: Block) -> list[Definition]:
        """The result, and what other equations that are no emits read of all rows."""
        if block.name not in self.carried:
            return super()._also(block)
        if self.quiet:
            return []
        found = [block.result]
        for other in all_blocks(self.spec.root):
            emits = (*other.emits, *other.offered)
            for one in all_definitions(other):
                inside = other is block and (
                    one.array.name in self.equations.moving[block.name] or one in block.updates
                )
                if inside or (one in emits and other is self.spec.root):
                    continue
                names = self._read_by(self._text(one))
                found += [self.equations.first[n] for n in names if self._is_recorded(n, block)]
        return found

    def _emit(self, definition: Definition) -> None:
        self.quiet, rows = True, dict(self.rows)
        super()._emit(definition)
        self.quiet, self.rows = False, rows
