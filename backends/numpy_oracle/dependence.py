"""What the values of a Spec depend on: where each array comes from, and through which names.

An array is an input, a state or local (its value lives in a step), an equation, the work of a
`repeat`, or what a block with states records row by row. `Sources` finds which by name, and says
for every expression the arrays and unknowns that it depends on, through definitions too: that
decides what must be evaluated again when a state moves on, and what not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attnc.errors import InternalError
from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, postorder
from attnc.spec import Block, Definition, Repeat, Spec

Name = str | Index


def unknown_name(name: str) -> str:
    """The unknown of a `solve`, apart from the names of arrays."""
    return f"?{name}"


def blocks(block: Block) -> Iterator[Block]:
    """A block and all blocks in it."""
    todo = [block]
    while todo:
        each = todo.pop()
        yield each
        todo += [inner for inner in each.statements if isinstance(inner, Block)]


class Sources:
    """Where the arrays of a Spec come from.

    definitions   the equation of an array, by name (the first of an array that a repeat assigns)
    repeats       the repeat that assigns an array, by name
    homes         the block with states in which an array is defined, by name
    states        the block of a state, by name
    lines         the lines of `update` that assign a state or a local of the step, by name
    """

    def __init__(self, spec: Spec) -> None:
        self.definitions: dict[str, Definition] = {}
        self.repeats: dict[str, Repeat] = {}
        self.homes: dict[str, Block] = {}
        self.states: dict[str, Block] = {}
        self.lines: dict[str, tuple[Definition, ...]] = {}
        for block in blocks(spec.root):
            self._enter(block)
        self._names: dict[str, frozenset[Name]] = {}
        self._expressions: dict[bytes, frozenset[Name]] = {}

    def _enter(self, block: Block) -> None:
        defined = [block.result, *block.emits, *block.offered]
        for statement in block.statements:
            if isinstance(statement, Definition):
                defined.append(statement)
            elif isinstance(statement, Repeat):
                self.repeats |= {each.array.name: statement for each in statement.statements}
        self.states |= {state.array.name: block for state in block.states}
        for definition in defined:
            self.definitions.setdefault(definition.array.name, definition)
            if block.states:
                self.homes[definition.array.name] = block
        for line in block.updates:
            name = line.array.name
            self.lines[name] = (*self.lines.get(name, ()), line)

    def reads(self, name: str) -> tuple[Expr, ...]:
        """The expressions that make an array; none for inputs and states."""
        if name in self.lines and name not in self.states:
            return tuple(line.expr for line in self.lines[name])
        made = [self.definitions[name].expr] if name in self.definitions else []
        if name in self.repeats:
            repeat = self.repeats[name]
            made += [repeat.count, *(each.expr for each in repeat.statements)]
            made += [
                self.definitions[each.array.name].expr
                for each in repeat.statements
                if each.array.name in self.definitions
            ]
        return tuple(made)

    def needed(self, roots: Iterable[Expr]) -> list[str]:
        """The arrays that expressions depend on, each after those that it depends on itself."""
        order: list[str] = []
        state: dict[str, int] = {}
        stack = [(name, False) for name in self._arrays(roots)]
        while stack:
            name, ready = stack.pop()
            if ready:
                order.append(name)
                state[name] = 2
            elif name not in state:
                state[name] = 1
                stack.append((name, True))
                inner = self._arrays(self.reads(name))
                stack += [(each, False) for each in inner if each not in state]
        return order

    def _arrays(self, roots: Iterable[Expr]) -> list[str]:
        nodes = postorder(*roots)
        return list(dict.fromkeys(n.array.name for n in nodes if n.op in ("read", "grad")))

    def names(self, root: Expr) -> frozenset[Name]:
        """Arrays, unknowns and free indices that the value of an expression depends on."""
        found = self._expressions.get(root.digest)
        if found is not None:
            return found
        for name in self.needed((root,)):
            if name not in self._names:
                self._names[name] = self._of_array(name)
        for node in postorder(root):
            if node.digest not in self._expressions:
                self._expressions[node.digest] = self._of_node(node)
        return self._expressions[root.digest]

    def _of_node(self, node: Expr) -> frozenset[Name]:
        bound = frozenset[Name](node.bound)
        names = frozenset[Name]().union(
            *(
                self._expressions[arg.digest] - (bound if place < 2 else frozenset())
                for place, arg in enumerate(node.args)
            )
        )
        if node.op == "index":
            assert isinstance(node.attr, Index)
            return names | {node.attr}
        if node.op == "unknown":
            return names | {unknown_name(str(node.attr))}
        if node.op == "solve":
            return names - {unknown_name(str(node.attr))}
        if node.op in ("read", "grad"):
            return names | {node.array.name} | self._names.get(node.array.name, frozenset())
        return names

    def _of_array(self, name: str) -> frozenset[Name]:
        if name in self.repeats:
            return self._of_repeat(self.repeats[name], name)
        lines = () if name in self.states else self.lines.get(name, ())
        made = (self.definitions[name],) if name in self.definitions else lines
        found: frozenset[Name] = frozenset()
        for definition in made:
            for node in postorder(definition.expr):
                if node.digest not in self._expressions:
                    self._expressions[node.digest] = self._of_node(node)
            found |= self._expressions[definition.expr.digest] - set(definition.array.indices)
        return found

    def _of_repeat(self, repeat: Repeat, name: str) -> frozenset[Name]:
        """Its arrays read one another, so this goes by what they read from outside."""
        own: set[Name] = {each.array.name for each in repeat.statements}
        indices = {index for each in repeat.statements for index in each.array.indices}
        roots = self.reads(name)
        found: set[Name] = {index for root in roots for index in root.free}
        for each in self._arrays(roots):
            found |= {each} | (self._names.get(each, frozenset()) if each not in own else set())
        return frozenset(found - own - indices - {repeat.index})

    def definition(self, name: str) -> Definition:
        if name not in self.definitions:
            raise InternalError(f"the array `{name}` has no definition")
        return self.definitions[name]
