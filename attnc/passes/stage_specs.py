"""A block of a body as a Spec of its own: what other stages make are its inputs.

does      renames (`gather.lse` is `lse` there, the block's result is `out`), measures axes on
          the arrays that come in, and takes lengths that none of them measures as params
needs     the block's equations, and which arrays are cut off from it
does not  decide what is cut off
"""

from __future__ import annotations

import keyword
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from attnc.errors import UnsupportedError
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, Expr, param, postorder, rewrite
from attnc.source import Span
from attnc.spec import Block, Definition, Input, KeySource, Number, Repeat, Spec, State

if TYPE_CHECKING:
    from attnc.passes.stages import Body

RESULT = "out"
OF_EVERY_CALL = ("offset", "key_offset", "key_length", "seed", "dtype", "emit")


@dataclass(frozen=True, slots=True)
class Made:
    """The Spec of a block, and how it hangs on the pipeline (see stages.KernelStage)."""

    spec: Spec
    arguments: tuple[tuple[str, Array], ...]
    lengths: tuple[tuple[str, Axis], ...]
    provides: tuple[tuple[str, str], ...]


def short(name: str) -> str:
    """`lse` of `coarse.lse`."""
    return name.rpartition(".")[2]


def operator_of(body: Body, block: Block, emits: tuple[str, ...], cuts: set[str]) -> Made:
    """The block as an operator. Raises UnsupportedError for positions that only the pipeline
    knows."""
    inner = _inner(body, block, emits, cuts)
    given = _given(body, block, inner, cuts)
    names = Names(body.spec, block, given)
    axes = Axes(block, given)
    exchange = Exchange(names, axes)
    inputs = tuple(_input(body, block, array, exchange) for array in given)
    statements = tuple(_statements(body, block, inner, exchange))
    result = exchange.definition(block.result)
    own = {one.array.name: one for one in (*block.emits, *block.offered)}
    offered = tuple(exchange.definition(own[name]) for name in emits)
    root = replace(
        block,
        rows=tuple(map(exchange.index, block.rows)),
        sources=tuple(map(exchange.source, block.sources)),
        statements=statements,
        states=tuple(map(exchange.state, block.states)),
        updates=tuple(map(exchange.definition, block.updates)),
        result=result,
        emits=(),
        offered=offered,
    )
    numbers = tuple(n for n in body.spec.numbers if n.static or n.name in exchange.numbers)
    numbers = tuple(n if n.static else replace(n, default=None) for n in numbers)
    lengths = tuple(exchange.lengths.items())
    span = span_of(block, body.spec)
    definitions = {one.array.name: one for one in _all(root)}
    spec = Spec(
        f"{body.spec.name}_{block.name}",
        body.spec.source,
        tuple(axes.made()),
        (*numbers, *(Number(name, "int", False, None, span) for name, _ in lengths)),
        inputs,
        root,
        definitions=definitions,
    )
    provides = ((block.result.array.name, RESULT), *((n, names.of(own[n].array)) for n in emits))
    arguments = tuple((names.of(array), array) for array in given)
    return Made(spec, arguments, lengths, provides)


def span_of(block: Block, spec: Spec) -> Span:
    """Where the block stands in the text."""
    return block.span or Span(spec.source, 0, 0)


def _all(root: Block) -> Iterable[Definition]:
    yield from (one for one in root.statements if isinstance(one, Definition))
    yield from (root.result, *root.emits, *root.offered)


def _inner(body: Body, block: Block, emits: tuple[str, ...], cuts: set[str]) -> set[str]:
    """The names of the arrays whose equations stay with the block."""
    found: set[str] = set()
    todo = [block.result.array.name, *emits]
    todo += [c.name for s in block.sources for c in (s.mask, s.score, s.weight) if c is not None]
    exprs = [*(s.initial for s in block.states), *(line.expr for line in block.updates)]
    todo += [n.array.name for n in postorder(*exprs) if n.op in ("read", "grad")]
    while todo:
        name = todo.pop()
        if name not in found and name not in cuts:
            found.add(name)
            todo += [array.name for array in body.read_by(name)]
    return found


def _given(body: Body, block: Block, inner: set[str], cuts: set[str]) -> list[Array]:
    """The arrays that come in: inputs of the pipeline first, in their order."""
    exprs = [body.definitions[name].expr for name in inner if name in body.definitions]
    for repeat in _repeats(body, inner):
        exprs += [repeat.count, *(line.expr for line in repeat.statements)]
    exprs += [*(s.initial for s in block.states), *(line.expr for line in block.updates)]
    read = {n.array.name: n.array for n in postorder(*exprs) if n.op in ("read", "grad")}
    inputs = [one.array for one in body.spec.inputs if one.name in read]
    order = [name for name in body.definitions if name in cuts and name in read]
    order += [name for name in sorted(cuts) if name in read and name not in body.definitions]
    return inputs + [read[name] for name in order]


def _repeats(body: Body, inner: set[str]) -> list[Repeat]:
    """The loops of whose arrays some stay with the block, each once."""
    found = {id(one): one for name, one in body.repeats.items() if name in inner}
    return list(found.values())


def _statements(
    body: Body, block: Block, inner: set[str], exchange: Exchange
) -> Iterable[Definition | Repeat]:
    own = {one.array.name for one in (block.result, *block.emits, *block.offered)}
    for name, definition in body.definitions.items():
        if name in inner and name not in own:
            yield exchange.definition(definition)
    yield from map(exchange.repeat, _repeats(body, inner))


def _input(body: Body, block: Block, array: Array, exchange: Exchange) -> Input:
    """An input of the stage. What has a width goes into products and shares the dtype of the
    queries."""
    given = next((one for one in body.spec.inputs if one.name == array.name), None)
    outer = {index.axis.name for index in block.rows}
    outer |= {key.axis.name for source in block.sources for key in source.keys}
    outer |= {axis.name for axis in array.axes if axis.name in ("b", "h") or axis.form == "coarse"}
    wide = any(axis.name not in outer for axis in array.axes)
    positional = given.positional if given else wide and array.kind == "real"
    moved = replace_array(exchange.array(array), role="input")
    return Input(moved, positional, None, array.span or span_of(block, body.spec))


def replace_array(array: Array, **changes: object) -> Array:
    fields = {name: getattr(array, name) for name in ("name", "indices", "kind", "role", "span")}
    return Array(**{**fields, **changes})


class Names:
    """What the arrays are called in the stage."""

    def __init__(self, spec: Spec, block: Block, given: Iterable[Array]) -> None:
        self.block = block
        self.found = {block.result.array.name: RESULT}
        self.prefix = f"{block.name}." if block is not spec.root else ""
        taken = {RESULT, *OF_EVERY_CALL, *(number.name for number in spec.numbers)}
        taken |= {one.name for one in spec.inputs} | {f"len_{axis.name}" for axis in spec.axes}
        inputs = {one.name for one in spec.inputs}
        for array in given:
            if array.name in inputs:
                self.found[array.name] = array.name
                continue
            name = array.name.replace(".", "_")
            while name in taken or keyword.iskeyword(name) or name.startswith("__"):
                name += "_"
            taken.add(name)
            self.found[array.name] = name

    def of(self, array: Array) -> str:
        known = self.found.get(array.name)
        if known is not None:
            return known
        if self.prefix and array.name.startswith(self.prefix):
            return array.name.removeprefix(self.prefix)
        return array.name


class Axes:
    """The axes of the stage: what comes in measures its own, whatever they were made of."""

    def __init__(self, block: Block, given: Iterable[Array]) -> None:
        self.measured = {axis.name for array in given for axis in array.axes}
        self.shifted = {index.axis.name for index in block.rows}
        self.shifted |= {key.axis.name for source in block.sources for key in source.keys}
        every = (axis for array in given for axis in array.axes)  # read by rows: `k[t]`
        self.shifted |= {axis.name for axis in every if axis.shifted == "key_offset"}
        self.found: dict[Axis, Axis] = {}

    def of(self, axis: Axis, exchange: Exchange) -> Axis:
        if axis not in self.found:
            self.found[axis] = self._moved(axis, exchange)
        return self.found[axis]

    def _moved(self, axis: Axis, exchange: Exchange) -> Axis:
        shift = axis.shifted if axis.name in self.shifted else ""
        if axis.form == "range" and axis.low is None and axis.name in self.measured:
            return Axis(axis.name, shifted=shift)
        low, size = (
            None if each is None else exchange.expr(each) for each in (axis.low, axis.length)
        )
        of = None if axis.of is None else self.of(axis.of, exchange)
        parts = tuple(self.of(part, exchange) for part in axis.parts)
        same = (low, size, of, shift) == (axis.low, axis.length, axis.of, axis.shifted)
        if same and all(a is b for a, b in zip(parts, axis.parts, strict=True)):
            return axis
        return Axis(axis.name, axis.form, low, size, parts, of, shift)

    def made(self) -> list[Axis]:
        return list(dict.fromkeys(self.found.values()))


class Exchange:
    """Expressions of the pipeline as expressions of the stage."""

    def __init__(self, names: Names, axes: Axes) -> None:
        self.names = names
        self.axes = axes
        self.arrays: dict[str, Array] = {}
        self.lengths: dict[str, Axis] = {}
        self.numbers: set[str] = set()

    def index(self, index: Index) -> Index:
        return Index(index.name, self.axes.of(index.axis, self), index.number)

    def array(self, array: Array) -> Array:
        found = self.arrays.get(array.name)
        if found is None:
            indices = tuple(map(self.index, array.indices))
            role = "input" if array.name in self.names.found else array.role
            role = array.role if array.name == self.names.block.result.array.name else role
            found = replace_array(array, name=self.names.of(array), indices=indices, role=role)
            self.arrays[array.name] = found
        return found

    def expr(self, expr: Expr) -> Expr:
        return rewrite(expr, self._node)

    def _node(self, node: Expr) -> Expr:
        attr = node.attr
        if node.op == "param":
            self.numbers.add(str(attr))
        if node.op in ("length", "start"):
            assert isinstance(attr, Axis)
            return self._extent(node, attr)
        if isinstance(attr, Index):
            return Expr(node.op, node.args, self.index(attr), node.kind, node.span)
        if isinstance(attr, Array):
            return Expr(node.op, node.args, self.array(attr), node.kind, node.span)
        if isinstance(attr, tuple):
            moved = tuple(self.index(x) if isinstance(x, Index) else x for x in attr)
            return Expr(node.op, node.args, moved, node.kind, node.span)
        return node

    def _extent(self, node: Expr, axis: Axis) -> Expr:
        """A length or a first position: of an axis that nothing of the stage has, a param."""
        if node.op == "start" and axis.shifted and axis.name not in self.axes.shifted:
            feature = f"pipeline: the first position of `{axis.name}`, no row or key of the stage"
            raise UnsupportedError(feature, "kernel", ("eager", "numpy"))
        known = axis.name in self.axes.measured or axis.form in ("range", "product")
        if node.op == "length" and not known:
            name = f"{axis.name}_length"
            self.lengths[name] = axis
            return param(name, "int", node.span)
        return Expr(node.op, (), self.axes.of(axis, self), node.kind, node.span)

    def definition(self, definition: Definition) -> Definition:
        return Definition(
            self.array(definition.array),
            self.expr(definition.expr),
            definition.span,
            self.expr(definition.domain),
        )

    def repeat(self, repeat: Repeat) -> Repeat:
        lines = tuple(map(self.definition, repeat.statements))
        return Repeat(self.index(repeat.index), self.expr(repeat.count), lines, repeat.span)

    def source(self, source: KeySource) -> KeySource:
        clauses = (source.mask, source.score, source.weight)
        mask, score, weight = (None if one is None else self.array(one) for one in clauses)
        return KeySource(tuple(map(self.index, source.keys)), mask, score, weight)

    def state(self, state: State) -> State:
        return State(self.array(state.array), self.expr(state.initial), state.span)
