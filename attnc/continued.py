"""A recurrence that goes on from rows before: Spec -> Spec.

does      makes every first state an input of the state's name, whatever the text makes it of,
          and leaves out the inputs that only first states read; reads what is read of other
          rows (see lags) from inputs that hold the rows before and the call's own
needs     a recurrence whose reads of other rows are bounded
does not  change what a row is worth: `start(t)`, where an `else` begins, is the first row that
          is held
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import reduce

from attnc.build import first_value
from attnc.expressions.canonical import set_apart
from attnc.expressions.index import Axis, Index
from attnc.expressions.naming import fresh_name
from attnc.expressions.tree import (
    Array,
    Expr,
    Kind,
    call,
    length,
    number,
    postorder,
    read,
    rewrite,
    start,
    substitute,
)
from attnc.fallbacks import written_out
from attnc.spec import Block, Check, Definition, Input, ReadCheck, Repeat, Spec, State

_ZERO: dict[Kind, Expr] = {"real": number(0.0), "int": number(0), "bool": number(False)}


def continued(spec: Spec, lagged: Mapping[str, Expr]) -> Spec:
    """The Spec of a recurrence that goes on.

    lagged    the inputs that it reads at other rows, and how many rows back at most"""
    rows = Rows(spec, lagged)
    root = rows.block(spec.root)
    states = tuple(
        state if first_value(state) else replace(state, initial=_ZERO[state.array.kind])
        for state in root.states
    )
    root = replace(root, states=states)
    definitions = {one.array.name: rows.definition(one) for one in spec.definitions.values()}
    whole = replace(
        spec,
        axes=(*spec.axes, *(array.axes[rows.place(name)] for name, array in rows.takers.items())),
        inputs=(*spec.inputs, *rows.inputs()),
        root=root,
        definitions=definitions,
        checks=tuple(Check(rows.inside(c.condition), c.message, c.span) for c in spec.checks),
        read_checks=tuple(
            ReadCheck(rows.inside(c.condition), tuple(map(rows.expr, c.given)), c.text, c.span)
            for c in spec.read_checks
        ),
    )
    used = {node.array.name for node in postorder(*_exprs(whole)) if node.op == "read"}
    kept = tuple(one for one in whole.inputs if one.positional or one.name in used)
    return replace(whole, inputs=kept)


def _exprs(spec: Spec) -> Iterable[Expr]:
    """What rows are made of."""
    yield from (one.expr for one in spec.definitions.values())
    yield from (one.initial for one in spec.root.states)
    yield from (one.expr for one in spec.root.updates)
    for statement in spec.root.statements:
        if isinstance(statement, Repeat):
            yield from (one.expr for one in statement.statements)


def takers_of(spec: Spec, lagged: Iterable[str]) -> dict[str, Array]:
    """For each input that is read at other rows the one that holds the rows before a call's and
    those, along an axis of its own."""
    time = spec.root.rows[-1].axis if spec.root.rows else None
    taken = {*spec.definitions, *(one.name for one in spec.inputs)}
    taken |= {one.name for one in spec.numbers}
    taken |= {axis.name for axis in spec.axes} | {s.array.name for s in spec.root.states}
    found: dict[str, Array] = {}
    for name in lagged:
        array = next(one.array for one in spec.inputs if one.name == name)
        axis = Axis(fresh_name(f"{array.name}_rows", taken))
        indices = tuple(
            Index(axis.name, axis, index.number) if index.axis is time else index
            for index in array.indices
        )
        taker = fresh_name(f"{array.name}_held", taken)
        found[name] = Array(taker, indices, array.kind, array.role, array.span)
    return found


class Rows:
    """Expressions over the rows of a call as expressions over those and the rows before."""

    def __init__(self, spec: Spec, lagged: Mapping[str, Expr]) -> None:
        self.spec = spec
        self.time = spec.root.rows[-1].axis
        self.given = {one.name: one for one in spec.inputs}
        self.lagged = lagged
        self.takers = takers_of(spec, lagged)
        self.done: dict[str, Expr] = {}

    def place(self, name: str) -> int:
        """The dimension of time of an input."""
        return self.given[name].array.axes.index(self.time)

    def inputs(self) -> Iterable[Input]:
        for name, array in self.takers.items():
            own = self.given[name]
            yield Input(array, False, None, own.span)

    def before(self, name: str) -> Expr:
        """How many rows before the call's first are held of an input."""
        axis = self.takers[name].axes[self.place(name)]
        return call("sub", length(axis), length(self.time))

    def expr(self, expr: Expr) -> Expr:
        """The expression over what is held."""
        if not self.takers:
            return expr
        longest = reduce(lambda a, b: call("max", a, b), map(self.before, self.takers))
        first = call("sub", start(self.time), longest)
        end = call("add", start(self.time), length(self.time))
        exchange = {start(self.time): first, call("add", first, length(self.time)): end}

        def begin(node: Expr) -> Expr:
            return exchange.get(node, node)

        def change(node: Expr) -> Expr:
            return self._read(node) if node.op == "read" else node

        return rewrite(rewrite(written_out(expr), begin), change)

    def inside(self, condition: Expr) -> Expr:
        """What a read needs to be inside its array: where as many rows are held as are read, the
        first row of the call is no border."""
        if not self.takers or start(self.time) not in postorder(condition):
            return self.expr(condition)
        full = (call("ge", self.before(name), most) for name, most in self.lagged.items())
        return call("or", self.expr(condition), reduce(lambda a, b: call("and", a, b), full))

    def _read(self, node: Expr) -> Expr:
        """A read at another row: of an input in what is held, of an equation written out."""
        name = node.array.name
        definition = self.spec.definition(node.array)
        if name not in self.takers and definition is None:
            return node
        pairs = zip(node.args, node.array.axes, strict=True)
        if not any(axis is self.time and at.op != "index" for at, axis in pairs):
            return node
        if definition is not None:
            if name not in self.done:
                self.done[name] = set_apart(self.expr(definition.expr))
            moves = dict(zip(definition.array.indices, node.args, strict=True))
            return rewrite(substitute(self.done[name], moves), self._again)
        place = self.place(name)
        row = call("sub", node.args[place], start(self.time))
        held = call("add", row, self.before(name))
        at = (*node.args[:place], held, *node.args[place + 1 :])
        return read(self.takers[name], at, node.span)

    def _again(self, node: Expr) -> Expr:
        """A read in an equation that was written out at another row."""
        return self._read(node) if node.op == "read" else node

    def definition(self, one: Definition) -> Definition:
        return Definition(one.array, self.expr(one.expr), one.span, self.expr(one.domain))

    def block(self, block: Block) -> Block:
        def each(those: Iterable[Definition]) -> tuple[Definition, ...]:
            return tuple(map(self.definition, those))

        return replace(
            block,
            statements=tuple(self._statement(one) for one in block.statements),
            states=tuple(State(s.array, s.initial, s.span) for s in block.states),
            updates=each(block.updates),
            result=self.definition(block.result),
            emits=each(block.emits),
            offered=each(block.offered),
        )

    def _statement(self, one: Definition | Repeat | Block) -> Definition | Repeat | Block:
        if isinstance(one, Definition):
            return self.definition(one)
        if isinstance(one, Block):
            return self.block(one)
        lines = tuple(map(self.definition, one.statements))
        return replace(one, count=self.expr(one.count), statements=lines)
