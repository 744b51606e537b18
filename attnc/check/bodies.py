"""Operator bodies: the names that statements introduce, before anything is evaluated.

A `Body` is one operator's block. Its entities are found by name from inside it and from the bodies
in it; equations, blocks and clauses are evaluated when first read (see statements.py, blocks.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from attnc import syntax
from attnc.check.checker import Checker, Statement
from attnc.check.library import Library
from attnc.check.values import Need, Value
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, Expr
from attnc.source import Span
from attnc.spec import Block, Input, Number

OUTER = ("b", "h")
CLAUSE_OF = {"mask": "mask", "score": "score", "weight": "normalize"}  # of a source's arrays


@dataclass(eq=False)
class Entity:
    """A name of a body, with the place where it was introduced."""

    name: str
    span: Span
    body: Body
    used: bool = False
    state: str = "new"  # new, active (being evaluated), done, failed

    what = "name"


@dataclass(eq=False)
class NumberEntity(Entity):
    """A param or a static; `value` where it is bound now."""

    number: Number | None = None
    expr: Expr | None = None

    @property
    def what(self) -> str:  # type: ignore[override]
        return "static" if self.number is not None and self.number.static else "param"


@dataclass(eq=False)
class ArrayEntity(Entity):
    """Something that is read as an array once it is known.

    needs     conditions on the array's indices under which its entries are defined
    labels    names of dimensions here, where they differ from the array's own (arguments)
    rows      rows that are dimensions of a state or local: filled by name, never by position
    context   indices that are filled with themselves: those around an expanded def
    """

    array: Array | None = None
    needs: tuple[Need, ...] = ()
    context: tuple[Index, ...] = ()
    labels: tuple[str, ...] = ()
    rows: tuple[Index, ...] = ()
    what = "array"

    def label(self, place: int) -> str:
        """The name of a dimension: an index in scope of this name fills it."""
        assert self.array is not None
        return self.labels[place] if self.labels else self.array.indices[place].name


@dataclass(eq=False)
class InputEntity(ArrayEntity):
    declared: syntax.Declared | None = None
    input: Input | None = None
    argument: Value | None = None
    what = "input"


@dataclass(eq=False)
class EquationEntity(ArrayEntity):
    node: syntax.Define | syntax.Solve | None = None
    what = "equation"


@dataclass(eq=False)
class RepeatEntity(ArrayEntity):
    """An array that a `repeat` assigns: all of one repeat are evaluated together."""

    group: RepeatGroup | None = None
    what = "array"


@dataclass(eq=False)
class RepeatGroup:
    """The first equations of the arrays of a repeat, and the repeat."""

    first: list[syntax.Define]
    node: syntax.Repeat


@dataclass(eq=False)
class StateEntity(ArrayEntity):
    declared: syntax.Declared | None = None
    explicit: tuple[Index, ...] = ()  # outer axes that it names itself
    what = "state"


@dataclass(eq=False)
class LocalEntity(ArrayEntity):
    """A name assigned in `update` that is no state."""

    what = "local of the step"


@dataclass(eq=False)
class BlockEntity(ArrayEntity):
    """A nested attention or pipeline, or a call of an operator."""

    node: syntax.Operator | syntax.Define | None = None
    inner: Body | None = None
    block: Block | None = None
    what = "block"


@dataclass(eq=False)
class Source:
    """One source of keys of a block: its indices, and the arrays of its clauses once made."""

    names: tuple[str, ...]
    keys: tuple[Index, ...]
    clauses: dict[str, syntax.Clause] = field(default_factory=dict)
    arrays: dict[str, ArrayEntity] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return "".join(self.names) if all(len(n) == 1 for n in self.names) else "_".join(self.names)


@dataclass(eq=False)
class Body:
    """One operator's block while it is checked.

    outer       the outer indices that score ranges over (see outer_axes.py), and mask too unless
                a state steps for groups of heads: then mask ranges over what it reads itself
    prefix      what array names of this body begin with
    numbers, arguments   what a call of the operator binds its params and inputs to
    is_root     whether it is the operator that is compiled
    """

    operator: syntax.Operator
    parent: Body | None
    library: Library
    prefix: str
    axes: dict[str, Axis] = field(default_factory=dict)
    entities: dict[str, Entity] = field(default_factory=dict)
    rows: tuple[Index, ...] = ()
    row_names: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    statements: list[Statement] = field(default_factory=list)
    updates: list[Statement] = field(default_factory=list)
    states: list[StateEntity] = field(default_factory=list)
    emits: dict[str, ArrayEntity] = field(default_factory=dict)
    offered: dict[str, ArrayEntity] = field(default_factory=dict)
    clauses: list[syntax.Clause] = field(default_factory=list)
    update: syntax.Update | None = None
    outer: tuple[Index, ...] = ()
    mask_outer: tuple[Index, ...] = ()
    bindings: dict[str, Index] = field(default_factory=dict)
    emit_nodes: list[syntax.Emit] = field(default_factory=list)
    numbers: dict[str, Expr] = field(default_factory=dict)
    arguments: dict[str, Array] = field(default_factory=dict)
    is_root: bool = False
    scanned: dict[object, frozenset[Axis]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.operator.name.name

    def chain(self) -> Iterator[Body]:
        """This body and those around it, nearest first."""
        body: Body | None = self
        while body is not None:
            yield body
            body = body.parent

    @property
    def root(self) -> Body:
        return list(self.chain())[-1]

    def find(self, name: str) -> Entity | None:
        for body in self.chain():
            if name in body.entities:
                return body.entities[name]
        return None

    def find_axis(self, name: str) -> Axis | None:
        for body in self.chain():
            if name in body.axes:
                return body.axes[name]
        return None

    def attention(self) -> Body | None:
        """The nearest body with keys or states: whose mask, score and weight are in scope."""
        for body in self.chain():
            if body.operator.kind == "attention" or body.sources:
                return body
        return None

    def index(self, checker: Checker, name: str, axis: Axis) -> Index:
        """The index of a left side: the block's own row or key of that name, else one a body."""
        for body in self.chain():
            own = dict(zip(body.row_names, body.rows, strict=True))
            for source in body.sources:
                own |= dict(zip(source.names, source.keys, strict=True))
            if name in own and own[name].axis is axis:
                return own[name]
        if is_outer(axis) and name == axis.name:
            return checker.outer_index(axis)
        found = self.bindings.get(name)
        if found is None or found.axis is not axis:
            found = self.bindings[name] = checker.fresh(name, axis)
        return found

    def known_names(self) -> list[str]:
        names: list[str] = []
        for body in self.chain():
            names += [*body.entities, *body.axes]
        return names


def is_outer(axis: Axis) -> bool:
    """Whether an axis is filled by name only: batch, heads, coarse ones."""
    return axis.name in OUTER or axis.form == "coarse"
