"""A state beside keys in one block: the recurrence and the pass over keys apart.

    read: sum(j: weight * v[j]) + q[i] @ S       S_read[i] = q[i] @ S, by the recurrence alone
                                                 read: sum(j: weight * v[j]) + S_read[i]

does      names what the result reads of states as equations of their own, which a scan over rows
          makes; the pass over keys is given them like any input, and joins both row by row
needs     updates that read no mask, score or weight, and clauses that read no state: else rows
          carry values of keys (see carried)
does not  part a block whose emits read states, or that folds over keys around a state
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from attnc.expressions.canonical import canonical
from attnc.expressions.index import Index
from attnc.expressions.naming import fresh_name
from attnc.expressions.tree import Array, Expr, position, postorder, read, substitute
from attnc.passes.carried import carries, clauses_of
from attnc.spec import Block, Definition, Spec


@dataclass(frozen=True)
class Parted:
    """The Spec with the equations `reads`, which the recurrence makes; and of its root what scans
    and what goes over keys."""

    spec: Spec
    reads: tuple[Definition, ...]
    scanning: Block
    walking: Block


def parted(spec: Spec) -> Parted | None:
    """The Spec in two parts; None where they are one."""
    root = spec.root
    if not carries(root):
        return None
    reach = Reach(spec)
    moving = {one.array.name for one in root.states} | {one.array.name for one in root.updates}
    clauses = {one.name for one in clauses_of(root)}
    steps = [*(line.expr for line in root.updates), *(state.initial for state in root.states)]
    emits = [one.expr for one in (*root.emits, *root.offered)]
    made = [spec.definitions[name].expr for name in clauses if name in spec.definitions]
    if reach.of(steps) & clauses or reach.of([*made, *emits]) & moving:
        return None
    reads = Reads(spec, reach, moving, clauses)
    result = reads.without(root.result.expr)
    if result is None or not reads.found:
        return None
    own = tuple(reads.found.values())
    whole = replace(
        root,
        statements=(*root.statements, *own),
        result=replace(root.result, expr=result),
    )
    named = {one.array.name: one for one in (*own, whole.result)}
    after = replace(spec, root=whole, definitions={**spec.definitions, **named})
    scanning = replace(whole, name=reads.name, sources=(), result=own[0], emits=own[1:], offered=())
    return Parted(after, own, scanning, replace(whole, states=(), updates=()))


class Reach:
    """The names that expressions are made of."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def of(self, exprs: Iterable[Expr]) -> set[str]:
        found: set[str] = set()
        todo = list(exprs)
        while todo:
            for node in postorder(todo.pop()):
                name = node.array.name if node.op in ("read", "grad") else ""
                if name and name not in found:
                    found.add(name)
                    known = self.spec.definitions.get(name)
                    todo += [known.expr] if known else []
        return found


class Reads:
    """The parts of a result that states decide and keys do not."""

    def __init__(self, spec: Spec, reach: Reach, moving: set[str], clauses: set[str]) -> None:
        self.spec, self.reach = spec, reach
        self.moving, self.clauses = moving, clauses
        self.keys = {key.axis for source in spec.root.sources for key in source.keys}
        self.order = [index.axis for index in spec.root.result.array.indices]
        self.taken = {*spec.definitions, *(one.name for one in spec.inputs), *moving}
        self.taken |= {one.name for one in spec.numbers} | {axis.name for axis in spec.axes}
        self.name = fresh_name(f"{spec.root.name}_state", self.taken)
        self.found: dict[bytes, Definition] = {}

    def without(self, expr: Expr) -> Expr | None:
        """The expression over the found reads; None where a state is read at a key."""
        done: dict[bytes, Expr] = {}
        stack = [expr]
        while stack:
            node = stack[-1]
            if node.digest in done:
                stack.pop()
                continue
            names = self.reach.of([node])
            if not names & self.moving:
                done[node.digest] = node
            elif not names & self.clauses:
                found = self._read(node)
                if found is None:
                    return None
                done[node.digest] = found
            elif waiting := [arg for arg in node.args if arg.digest not in done]:
                stack += waiting
                continue
            else:
                done[node.digest] = node.with_args(tuple(done[arg.digest] for arg in node.args))
            stack.pop()
        return done[expr.digest]

    def _read(self, node: Expr) -> Expr | None:
        """A read of the equation that stands for a node."""
        axes = {index.axis for index in node.free}
        outer = [
            index for index in self.spec.root.result.array.indices if index.axis.name in ("b", "h")
        ]
        free = {*node.free, *outer, *self.spec.root.rows}
        if axes & self.keys or node.kind != "real" or any(i.axis not in self.order for i in free):
            return None
        indices = sorted(free, key=lambda index: (self.order.index(index.axis), index.number))
        if len({index.axis for index in indices}) < len(indices):
            return None
        own = [Index(index.axis.name, index.axis, 0) for index in indices]
        moves = dict(zip(indices, map(position, own), strict=True))
        body = canonical(substitute(node, moves))
        if body.digest not in self.found:
            name = fresh_name(f"{self.name}_{len(self.found) + 1}", self.taken)
            array = Array(name, tuple(own), "real", "definition", node.span)
            self.found[body.digest] = Definition(array, body, node.span)
        return read(self.found[body.digest].array, map(position, indices), node.span)
