"""What expressions are worth while they are checked: values, bindings, environments.

A `Value` is one scalar tree and the indices that it leaves over. An `Environment` says what names
mean at a place of the text (bindings of indices; the body, or the expanded def, whose names are in
scope) and what is known to hold there. Environments are immutable: binding makes a new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from attnc import syntax
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import (
    FALSE,
    TRUE,
    Expr,
    Kind,
    call,
    fold,
    number,
    position,
    substitute,
)
from attnc.source import Span

if TYPE_CHECKING:
    from attnc.check.bodies import Body
    from attnc.check.parameters import Frame

Facts = tuple[Expr, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Need:
    """A condition that must hold wherever a value is demanded, and could not be proved so far.

    given     conditions under which alone it matters (of `where`, folds, `and`)
    bound     indices of folds passed on the way out: it must hold for all of them
    native    whether it says that a read is inside its array, which `default` sees by itself
    label     the read as written, and what leaves its place (for messages)
    """

    condition: Expr
    span: Span
    native: bool
    given: Facts = ()
    bound: tuple[Index, ...] = ()

    @property
    def key(self) -> tuple[bytes, ...]:
        return (self.condition.digest, *(fact.digest for fact in self.given))

    def moved(self, moves: dict[Index, Expr]) -> Need:
        condition = substitute(self.condition, moves)
        given = tuple(substitute(fact, moves) for fact in self.given)
        return replace(self, condition=condition, given=given)

    def under(self, facts: Facts, bound: tuple[Index, ...] = ()) -> Need:
        """The same need where it matters only under further facts."""
        return replace(self, given=(*facts, *self.given), bound=(*self.bound, *bound))

    def whole(self) -> Expr:
        """The need as one condition: for all bound indices, where it is given."""
        condition = self.condition
        for fact in self.given:
            condition = call("or", negation(fact), condition)
        if not condition.free & set(self.bound):
            return condition
        misses = call("where", condition, number(0), number(1))
        return call("eq", fold("sum", self.bound, misses), number(0))


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """One number as a function of indices; `over` are those that are left over, in order."""

    expr: Expr
    over: tuple[Index, ...] = ()
    needs: tuple[Need, ...] = ()

    @property
    def kind(self) -> Kind:
        return self.expr.kind

    def with_expr(self, expr: Expr) -> Value:
        return replace(self, expr=expr)

    def moved(self, moves: Mapping[Index, Expr]) -> Value:
        """The value with left-over indices replaced: by positions, or by other left-over ones."""
        if not moves:
            return self
        exchange = dict(moves)
        over: list[Index] = []
        for index in self.over:
            if index not in exchange:
                over.append(index)
        needs = tuple(need.moved(exchange) for need in self.needs)
        return Value(substitute(self.expr, exchange), tuple(over), needs)


def join_needs(*groups: Iterable[Need]) -> tuple[Need, ...]:
    """The needs of all groups, each once."""
    found: dict[tuple[bytes, ...], Need] = {}
    for group in groups:
        for need in group:
            found.setdefault(need.key, need)
    return tuple(found.values())


def negation(condition: Expr) -> Expr:
    if condition == TRUE:
        return FALSE
    if condition == FALSE:
        return TRUE
    return condition.args[0] if condition.op == "not" else call("not", condition)


def conjunction(conditions: Iterable[Expr], span: Span | None = None) -> Expr:
    """All conditions joined by `and`; true for none."""
    found = TRUE
    for condition in conditions:
        if condition == TRUE:
            continue
        found = condition if found == TRUE else call("and", found, condition, span=span)
    return found


def conjuncts(condition: Expr) -> Facts:
    """The conditions that `and` joins in a condition, from left to right."""
    found: list[Expr] = []
    stack = [condition]
    while stack:
        top = stack.pop()
        if top.op == "and":
            stack.extend(reversed(top.args))
        elif top != TRUE:
            found.append(top)
    return tuple(found)


# ------------------------------------------------------------------------------------- bindings


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One index of a binding: its axis and where it stands now."""

    axis: Axis
    at: Expr


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """What an index name means at a place of the text.

    parts         one position, or several for a group (a def's index that stands for `u, w`)
    serial        bindings made later have greater numbers; 0 for the outer axes of a definition
    alternative   of which source of a union the positions are
    """

    parts: tuple[Part, ...]
    serial: int = 0
    alternative: int = 0

    @property
    def at(self) -> Expr:
        return self.parts[0].at

    @property
    def axis(self) -> Axis:
        return self.parts[0].axis


def bound_at(index: Index, serial: int = 0) -> Bound:
    return Bound((Part(index.axis, position(index)),), serial)


@dataclass(frozen=True, slots=True, eq=False)
class Environment:
    """What names mean at a place.

    body      the operator body around the place; of a def: that of its call
    frame     the expanded def whose text this is, if it is one's
    bounds    index names in scope
    facts     conditions that hold here
    place     the equation or clause, for messages
    unknowns  unknowns of a solve around
    step      whether locals of the step are in scope (in update, read and emit)
    """

    body: Body
    frame: Frame | None = None
    bounds: Mapping[str, Bound] = field(default_factory=dict)
    facts: Facts = ()
    step: bool = False
    place: str = ""
    unknowns: Mapping[str, Value] = field(default_factory=dict)

    def bind(self, bounds: Mapping[str, Bound], drop: Iterable[str] = ()) -> Environment:
        kept = {name: bound for name, bound in self.bounds.items() if name not in set(drop)}
        return replace(self, bounds={**kept, **bounds})

    def assume(self, *facts: Expr) -> Environment:
        new = tuple(part for fact in facts for part in conjuncts(fact))
        return replace(self, facts=(*self.facts, *new)) if new else self

    def knows(self, fact: Expr) -> bool:
        return fact == TRUE or any(fact.digest == known.digest for known in self.facts)


class Evaluate(Protocol):
    """Evaluates an expression in an environment; None after an error."""

    def __call__(
        self, node: syntax.Expression, env: Environment, raw: bool = False
    ) -> Value | None: ...
