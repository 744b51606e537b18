"""Spec -> Graph: equations are put in for the arrays that they define, and bound indices get names
that depend on nothing but the formula, so that equal formulas are one node.

    does      inlines definitions, blocks and the lines of an update; writes out `e else d` as a
              condition on positions; counts a key whose score is -inf as masked; puts in what
              `slope` says for the derivatives that an update asks for
    needs     a checked Spec
    does not  simplify, or order anything
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from attnc.errors import InternalError
from attnc.expressions.canonical import canonical, set_apart
from attnc.expressions.index import Index
from attnc.expressions.tree import (
    FALSE,
    Array,
    Expr,
    call,
    number,
    position,
    postorder,
    read,
    rewrite,
    substitute,
)
from attnc.fallbacks import written_out
from attnc.graph import Graph, GraphOutput, Iteration, Recurrence
from attnc.spec import Block, Definition, KeySource, Repeat, Spec, State

Statement = Definition | Repeat | Block
SHARED = 2_000_000  # a number that no index of a text reaches, nor one that is set apart
# The derivative of a number by an array that it reads, over the array's indices.
Slope = Callable[[Expr, Array], Expr]


def build(spec: Spec, emit: Sequence[str] = (), slope: Slope | None = None) -> Graph:
    """The graph of the result and of the emits asked for, in that order. `slope`: None leaves
    `grad` as it is.

    Raises InternalError for an emit that the Spec does not have (calls check the name before)."""
    known = {definition.array.name: definition for definition in spec.root.offered}
    known.update((definition.array.name, definition) for definition in spec.root.emits)
    states = {state.array.name: state.array for state in spec.root.states}
    missing = [name for name in emit if name not in known and name not in states]
    if missing:
        raise InternalError(f"{spec.name} has no emit {', '.join(missing)}")
    equations = Equations(spec, slope)
    result = _output(equations, spec.root.result)
    emits = (
        _output(equations, known[name]) if name in known else _final(states[name]) for name in emit
    )
    outputs = (result, *emits)
    rows = outputs[0].array.indices
    held = {index.axis for index in spec.root.rows}
    return Graph(
        spec.name,
        outputs,
        tuple(equations.iterations(spec.root.statements)),
        tuple(equations.recurrences(spec.root, (output.expr for output in outputs))),
        tuple(index for index in rows if index.axis in held),
        tuple(tuple(key.axis for key in source.keys) for source in spec.root.sources),
    )


def _output(equations: Equations, definition: Definition) -> GraphOutput:
    array = definition.array
    fresh = output_indices(array.indices)
    named = Array(array.name, tuple(fresh.values()), array.kind, "output", array.span)
    moves = {old: position(new) for old, new in fresh.items()}
    body = set_apart(equations.value(definition))
    return GraphOutput(named, canonical(substitute(body, moves)))


def _final(state: Array) -> GraphOutput:
    """The value of a state after the last row."""
    fresh = output_indices(state.indices)
    named = Array(state.name, tuple(fresh.values()), state.kind, "output", state.span)
    return GraphOutput(named, read(_over(state, fresh), map(position, fresh.values())))


def first_value(state: State) -> Array | None:
    """The input by which a call may give the first value of a state; None where that is not a
    number unless given."""
    if any(node.op in ("read", "index", "fold") for node in postorder(state.initial)):
        return None
    return Array(state.array.name, state.array.indices, state.array.kind, "input", state.span)


def output_indices(indices: Iterable[Index]) -> dict[Index, Index]:
    """For each index of an output its canonical one: named after its axis, number 0."""
    fresh: dict[Index, Index] = {}
    for index in indices:
        name = index.axis.name
        while any(name == other.name for other in fresh.values()):
            name += "_"
        fresh[index] = Index(name, index.axis, 0)
    return fresh


def blocks(root: Block) -> Iterable[Block]:
    """The block and those nested in it."""
    stack = [root]
    while stack:
        block = stack.pop()
        yield block
        stack.extend(s for s in block.statements if isinstance(s, Block))


def _shared(index: Index, place: int) -> Index:
    """What stands for the index in this place of any closed definition: so that one whose rows are
    those of another takes its body as it is, and a long chain is not written out again."""
    return Index(index.axis.name, index.axis, SHARED + place)


class Equations:
    """What the arrays of a Spec stand for, in terms of inputs, states and repeated arrays.

    A definition is closed once and kept; an update's lines are closed in the order of the text, so
    that a later line sees what an earlier one assigned."""

    def __init__(self, spec: Spec, slope: Slope | None = None) -> None:
        self.spec = spec
        self.slope = slope
        self.done: dict[str, tuple[tuple[Index, ...], Expr]] = {}
        self.apart: set[bytes] = set()  # bodies in `done`, by digest
        self.assigned: dict[str, Definition] = {}
        found = [s for block in blocks(spec.root) for s in block.sources if s.mask and s.score]
        self.sources = {source.mask.name: source for source in found if source.mask}
        self.before_score = self._reached(
            array for s in found for array in (s.score, s.mask) if array is not None
        )

    def definition(self, array: Array) -> Definition | None:
        return self.assigned.get(array.name) or self.spec.definition(array)

    def value(self, definition: Definition) -> Expr:
        """The right side of a definition with every defined array written out."""
        return self.closed(self._hide(definition))

    def closed(self, expr: Expr) -> Expr:
        """The expression with every defined array written out."""
        self._close_below(expr)
        return self._inline(written_out(expr))

    def _close_below(self, expr: Expr) -> None:
        """Closes what `expr` reads, deepest first, without recursion."""
        stack = [(definition, False) for definition in self._read_by(expr)]
        while stack:
            definition, ready = stack.pop()
            name = definition.array.name
            if name in self.done:
                continue
            if ready:
                indices = definition.array.indices
                shared = tuple(map(_shared, indices, range(len(indices))))
                own = substitute(
                    self._hide(definition), dict(zip(indices, map(position, shared), strict=True))
                )
                body = set_apart(self._inline(written_out(own)), self.apart)
                self.done[name] = (shared, body)
                self.apart.add(body.digest)
                continue
            stack.append((definition, True))
            stack.extend((below, False) for below in self._read_by(self._hide(definition)))

    def _read_by(self, expr: Expr) -> list[Definition]:
        found = (self.definition(node.array) for node in postorder(expr) if node.op == "read")
        return [definition for definition in found if definition is not None]

    def _inline(self, expr: Expr) -> Expr:
        def change(node: Expr) -> Expr:
            if node.op != "read" or node.array.name not in self.done:
                return node
            indices, body = self.done[node.array.name]
            return substitute(body, dict(zip(indices, node.args, strict=True)))

        return rewrite(expr, change)

    # A key whose score is -inf counts as masked (a NaN stays visible): so says every reading of a
    # mask, save those that the score and the mask are made of.

    def _reached(self, arrays: Iterable[Array]) -> frozenset[str]:
        """The names of the definitions that the arrays are made of, their own among them."""
        names: set[str] = set()
        stack = list(arrays)
        while stack:
            array = stack.pop()
            if array.name in names:
                continue
            names.add(array.name)
            definition = self.spec.definition(array)
            if definition is not None:
                stack.extend(n.array for n in postorder(definition.expr) if n.op == "read")
        return frozenset(names)

    def _hide(self, definition: Definition) -> Expr:
        if definition.array.name in self.before_score or not self.sources:
            return definition.expr

        def change(node: Expr) -> Expr:
            source = self.sources.get(node.array.name) if node.op == "read" else None
            test = source and _above_bottom(source, node.args, definition.array.indices)
            return call("and", node, test) if test else node

        return rewrite(definition.expr, change)

    # ---------------------------------------------------------------------- repeats and states

    def iterations(self, statements: Iterable[Statement]) -> Iterable[Iteration]:
        """The repeats of a body as iterations, each array from what the text assigned before."""
        initial: dict[str, Definition] = {}
        for statement in statements:
            if isinstance(statement, Definition):
                initial[statement.array.name] = statement
            elif isinstance(statement, Block):
                yield from self.iterations(statement.statements)
            else:
                yield self._iteration(statement, initial)

    def _iteration(self, repeat: Repeat, initial: dict[str, Definition]) -> Iteration:
        arrays, first, after = [], [], []
        for line in repeat.statements:
            if line.array.name not in initial:
                raise InternalError(f"{line.array.name} is repeated and has no first value")
            begin = initial[line.array.name]
            fresh = output_indices(line.array.indices)
            arrays.append(_over(line.array, fresh))
            moves = dict(zip(begin.array.indices, map(position, fresh.values()), strict=True))
            first.append(_closed_over(self.value(begin), moves))
            after.append(_closed_over(self.value(line), _moves(fresh)))
        count = self.closed(repeat.count)
        return Iteration(repeat.index, count, tuple(arrays), tuple(first), tuple(after))

    def recurrences(self, block: Block, outputs: Iterable[Expr]) -> Iterable[Recurrence]:
        """The states of a body along its last row index, and the locals of a step that outputs
        read, as states that no step reads."""
        if not block.states:
            return
        seen = {node.array.name for node in postorder(*outputs) if node.op == "read"}
        carried = {state.array.name for state in block.states}
        for line in block.updates:
            expr = self.value(self._differentiated(line, block))
            self.assigned[line.array.name] = line
            self.done[line.array.name] = (line.array.indices, set_apart(expr))
        time = block.rows[-1]
        arrays, first, after = [], [], []
        for state in block.states:
            fresh = output_indices((time, *state.array.indices))
            arrays.append(_over(state.array, {i: fresh[i] for i in state.array.indices}))
            given = first_value(state)
            if given is None:
                first.append(_closed_over(self.closed(state.initial), _moves(fresh)))
            else:
                first.append(read(given, (position(fresh[i]) for i in given.indices)))
            after.append(_closed_over(self._after(state.array), _moves(fresh)))
        shown = {line.array.name: line.array for line in block.updates}
        for name, array in shown.items():
            if name in carried or name not in seen:
                continue
            fresh = output_indices((time, *array.indices))
            arrays.append(_over(array, {i: fresh[i] for i in array.indices}))
            first.append(_NOTHING[array.kind])
            after.append(_closed_over(self._after(array), _moves(fresh)))
        named = output_indices((time,))[time]
        yield Recurrence(named, tuple(arrays), tuple(first), tuple(after), block.reads_old)

    def _differentiated(self, line: Definition, block: Block) -> Definition:
        """The line with derivatives written out."""
        if self.slope is None or not any(node.op == "grad" for node in postorder(line.expr)):
            return line
        own = {one.array.name: one for one in block.updates}
        states = {state.array.name for state in block.states}

        def local(node: Expr) -> Expr:
            if node.op != "read" or node.array.name in states or node.array.name not in own:
                return node
            found = own[node.array.name]
            return substitute(found.expr, dict(zip(found.array.indices, node.args, strict=True)))

        def change(node: Expr) -> Expr:
            if node.op != "grad":
                return node
            number = node.args[0]
            while (longer := rewrite(number, local)) != number:
                number = longer
            return self._slope(number, node.array, node.args[1:])

        return replace(line, expr=rewrite(line.expr, change))

    def _slope(self, expr: Expr, array: Array, at: tuple[Expr, ...]) -> Expr:
        """The derivative of an expression of a step by an array of the step as it stands."""
        assert self.slope is not None
        own = tuple(_shared(index, place) for place, index in enumerate(array.indices))
        leaf = Array(f"variable {array.name}", own, array.kind, "input")
        places = tuple(map(position, array.indices))
        known = self.done.get(array.name)
        self.done[array.name] = (array.indices, read(leaf, places))
        found = self.slope(self.closed(expr), leaf)
        del self.done[array.name]
        if known is not None:
            self.done[array.name] = known
        self.done[leaf.name] = (array.indices, self._after(array))
        found = set_apart(self._inline(found))
        del self.done[leaf.name]
        return substitute(found, dict(zip(own, at, strict=True)))

    def _after(self, array: Array) -> Expr:
        """The value of a state after the step, over the state's own indices."""
        if array.name not in self.done:
            return read(array, map(position, array.indices))
        indices, body = self.done[array.name]
        moves = dict(zip(indices, map(position, array.indices), strict=True))
        return substitute(body, moves)


_NOTHING = {"real": number(0.0), "int": number(0), "bool": FALSE, "complex": number(0.0)}


def _over(array: Array, fresh: dict[Index, Index]) -> Array:
    return Array(array.name, tuple(fresh.values()), array.kind, array.role, array.span)


def _moves(fresh: dict[Index, Index]) -> dict[Index, Expr]:
    return {old: position(new) for old, new in fresh.items()}


def _closed_over(expr: Expr, moves: dict[Index, Expr]) -> Expr:
    return canonical(substitute(set_apart(expr), moves))


def _above_bottom(
    source: KeySource, at: tuple[Expr, ...], around: tuple[Index, ...]
) -> Expr | None:
    """Whether the score of the pair at which a mask is read is not -inf. What only the score has
    (a head) is that of the definition around."""
    assert source.score is not None and source.mask is not None
    places: dict[str, Expr] = {index.axis.name: position(index) for index in around}
    named = dict(zip((index.name for index in source.mask.indices), at, strict=True))
    filled = [named.get(i.name, places.get(i.axis.name)) for i in source.score.indices]
    args = [place for place in filled if place is not None]
    if len(args) < len(filled):
        return None
    return call("ne", read(source.score, args), number(float("-inf")))
