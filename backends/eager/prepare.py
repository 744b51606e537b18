"""A Spec as the eager form prints it: borders and invisible keys are conditions, and what moves
with a state is written out in the step.

    does      e else d  ->  where(every read of e is inside, e, d)
              a mask    ->  the mask and no score of -inf, but for the score and what it is made of
    does not  simplify anything
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attnc.expressions.index import Index
from attnc.expressions.tree import (
    FALSE,
    TRUE,
    Array,
    Expr,
    call,
    fold,
    length,
    number,
    position,
    postorder,
    read,
    rewrite,
    start,
    substitute,
)
from attnc.spec import Block, Definition, KeySource, Repeat, Spec

BOTTOM = number(float("-inf"))


def all_blocks(block: Block) -> Iterator[Block]:
    """The block and those inside it."""
    yield block
    for each in block.statements:
        if isinstance(each, Block):
            yield from all_blocks(each)


def all_definitions(block: Block) -> Iterator[Definition]:
    """Everything that a block (without the blocks inside it) defines, in text order."""
    for each in block.statements:
        if isinstance(each, Definition):
            yield each
        elif isinstance(each, Repeat):
            yield from each.statements
    yield from block.updates
    yield block.result
    yield from block.emits
    yield from block.offered


class Equations:
    """The equations of a Spec by name, prepared for printing."""

    def __init__(self, spec: Spec) -> None:
        self.first: dict[str, Definition] = {}
        self.repeats: dict[str, Repeat] = {}
        self.owner: dict[str, Block] = {}
        self.masks: dict[str, KeySource] = {}
        self.moving: dict[str, frozenset[str]] = {}
        for block in all_blocks(spec.root):
            self._enter(block)
        self.before = {name: self._reached(s) for name, s in self.masks.items()}
        for block in all_blocks(spec.root):
            if block.states:
                self.moving[block.name] = self._moving(block)

    def _enter(self, block: Block) -> None:
        for each in block.statements:
            if isinstance(each, Definition):
                self.first.setdefault(each.array.name, each)
                self.owner[each.array.name] = block
            elif isinstance(each, Repeat):
                self.repeats |= {line.array.name: each for line in each.statements}
        for each in (block.result, *block.emits, *block.offered):
            self.first.setdefault(each.array.name, each)
            self.owner[each.array.name] = block
        for source in block.sources:
            if source.mask is not None and source.score is not None:
                self.masks[source.mask.name] = source

    def _reached(self, source: KeySource) -> frozenset[str]:
        """The score, the mask, and all that they are made of: these see the mask as written."""
        assert source.score is not None and source.mask is not None
        found: set[str] = set()
        todo = [source.score.name, source.mask.name]
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo += [r.array.name for e in self.expressions(name) for r in _reads(e)]
        return frozenset(found)

    def expressions(self, name: str) -> list[Expr]:
        """What an array is made of, as written."""
        found = [self.first[name].expr] if name in self.first else []
        if name in self.repeats:
            found += [line.expr for line in self.repeats[name].statements]
            found += [
                self.first[line.array.name].expr
                for line in self.repeats[name].statements
                if line.array.name in self.first
            ]
            found.append(self.repeats[name].count)
        return found

    def _moving(self, block: Block) -> frozenset[str]:
        """The arrays of a block that depend on its states or on locals of its step."""
        moving = {state.array.name for state in block.states}
        moving |= {line.array.name for line in block.updates}
        row = block.rows[-1]  # what has no row is made of all rows, after the last
        own = [d for d in all_definitions(block) if d not in block.updates]
        own = [d for d in own if row in d.array.indices]
        while True:
            more = {
                d.array.name for d in own if any(r.array.name in moving for r in _reads(d.expr))
            }
            if more <= moving:
                return frozenset(moving)
            moving |= more

    def prepared(self, definition: Definition, block: Block | None = None) -> Expr:
        """The expression to print; in a step of `block` with what moves written out."""
        expr = self._visible(definition.array.name, definition.expr, definition.array.indices)
        if block is not None:
            expr = self._written_out(expr, block)
            expr = rewrite(expr, lambda node: self._standing_alone(node, block))
        return bordered(expr)

    def _standing_alone(self, node: Expr, block: Block) -> Expr:
        """A `grad` whose number names no local of the step that depends on its variable."""
        if node.op != "grad":
            return node
        lines = {line.array.name: line for line in block.updates}
        states = {state.array.name for state in block.states}

        def change(each: Expr) -> Expr:
            name = each.array.name if each.op == "read" else ""
            if name in states or name not in lines:
                return each
            line = lines[name]
            return substitute(line.expr, dict(zip(line.array.indices, each.args, strict=True)))

        number = node.args[0]
        while True:
            longer = rewrite(number, change)
            if longer == number:
                return node.with_args((number, *node.args[1:]))
            number = longer

    def _written_out(self, expr: Expr, block: Block) -> Expr:
        moving = self.moving[block.name] - {array.name for array in clauses(block)}

        def change(node: Expr) -> Expr:
            if node.op != "read" or node.array.name not in moving:
                return node
            found = self.first.get(node.array.name)
            if found is None:
                return node
            body = self._visible(node.array.name, found.expr, found.array.indices)
            return substitute(body, dict(zip(found.array.indices, node.args, strict=True)))

        while True:
            longer = rewrite(expr, change)
            if longer == expr:
                return expr
            expr = longer

    def _visible(self, name: str, expr: Expr, around: tuple[Index, ...]) -> Expr:
        outer = {index.axis.name: position(index) for index in around}

        def change(node: Expr) -> Expr:
            source = self.masks.get(node.array.name) if node.op == "read" else None
            if source is None or name in self.before[node.array.name]:
                return node
            assert source.mask is not None and source.score is not None
            places = {i.name: a for i, a in zip(source.mask.indices, node.args, strict=True)}
            at = [places.get(i.name, outer.get(i.axis.name)) for i in source.score.indices]
            if any(each is None for each in at):
                return node
            score = read(source.score, [each for each in at if each is not None])
            return call("and", node, call("ne", score, BOTTOM))

        return rewrite(expr, change)


def clauses(block: Block) -> list[Array]:
    """Mask, score and weight of a block's sources, each after those that it may read: in a step
    they see the states as the last row left them, so they are evaluated first."""
    found = [(source.mask, source.score, source.weight) for source in block.sources]
    return [array for each in zip(*found, strict=True) for array in each if array is not None]


def _reads(expr: Expr) -> list[Expr]:
    return [node for node in postorder(expr) if node.op in ("read", "grad")]


# --- else ----------------------------------------------------------------------------------------


def bordered(expr: Expr) -> Expr:
    """The expression with `else` as a condition on the positions of reads."""

    def change(node: Expr) -> Expr:
        if node.op != "default":
            return node
        value, fallback = node.args
        test = inside(value)
        return value if test == TRUE else call("where", test, value, fallback, kind=node.kind)

    return rewrite(expr, change)


def inside(expr: Expr) -> Expr:
    """Whether every read that the expression demands lies inside its array."""
    tests: dict[bytes, Expr] = {}
    for node in postorder(expr):
        tests[node.digest] = _inside(node, [tests[arg.digest] for arg in node.args])
    return tests[expr.digest]


def _inside(node: Expr, args: list[Expr]) -> Expr:
    if all(test == TRUE for test in args) and node.op not in ("read", "topk", "rank"):
        return TRUE
    if node.op == "where":
        return _both(args[0], call("where", node.args[0], args[1], args[2], kind="bool"))
    if node.op == "and":
        return _both(args[0], call("or", call("not", node.args[0]), args[1]))
    if node.op == "or":
        return _both(args[0], call("or", node.args[0], args[1]))
    if node.bound:
        tests = [_over(node, args[0], TRUE), _over(node, args[1], node.args[0]), *args[2:]]
        if node.op in ("topk", "rank"):
            places = node.args[-len(node.bound) :]
            tests += [_between(at, i) for at, i in zip(places, node.bound, strict=True)]
        return _every(tests)
    tests = list(args)
    if node.op == "read":
        for index, at in zip(node.array.indices, node.args, strict=True):
            tests.append(_between(at, index))
    return _every(tests)


def _over(node: Expr, test: Expr, condition: Expr) -> Expr:
    """Whether a test holds at all bound points where the condition does."""
    if test == TRUE:
        return TRUE
    failing = _both(condition, call("not", test))
    return call("eq", fold("sum", node.bound, number(1), failing), number(0))


def _between(at: Expr, index: Index) -> Expr:
    if at.op == "index" and isinstance(at.attr, Index) and at.attr.axis.name == index.axis.name:
        return TRUE
    first = start(index.axis)
    end = call("add", first, length(index.axis))
    return call("and", call("le", first, at), call("lt", at, end))


def _every(tests: Iterable[Expr]) -> Expr:
    result = TRUE
    for test in tests:
        result = _both(result, test)
    return result


def _both(a: Expr, b: Expr) -> Expr:
    if FALSE in (a, b):
        return FALSE
    return b if a == TRUE else a if b == TRUE else call("and", a, b)
