"""Equations: `name[indices] = expr` becomes an array and its definition, when it is first read.

An array's dimensions are the outer axes that its expression reads, the indices of its left side,
and the axes that are left over, in this order.
"""

from __future__ import annotations

from collections.abc import Sequence

from attnc import syntax
from attnc.check import messages as m
from attnc.check.arrays import grouped
from attnc.check.binders import binder_axis
from attnc.check.bodies import ArrayEntity, Body, is_outer
from attnc.check.checker import Checker
from attnc.check.operators import axes_text, matches
from attnc.check.values import Bound, Environment, Part, Value, bound_at, conjunction
from attnc.check.vectors import fill_at
from attnc.expressions import tree
from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, Role, position
from attnc.source import Span
from attnc.spec import Definition


def body_environment(checker: Checker, body: Body, place: str = "") -> Environment:
    """Where the equations of a body begin: only the outer axes are bound."""
    bounds: dict[str, Bound] = {}
    for each in reversed(list(body.chain())):
        for axis in each.axes.values():
            if is_outer(axis):
                bounds[axis.name] = bound_at(checker.outer_index(axis))
    return Environment(body, None, bounds, place=place)


def left_side(
    checker: Checker,
    body: Body,
    binders: Sequence[syntax.Binder] | None,
    env: Environment,
) -> tuple[Environment, list[Index]] | None:
    """Binds the indices of a left side; those of rows and keys are the block's own."""
    indices: list[Index] = []
    failed = False
    for binder in binders or ():
        name = binder.name.name
        if any(index.name == name for index in indices):
            checker.report(m.bound_twice(binder.name.span, name))
            failed = True
            continue
        axis = binder_axis(checker, binder, env)
        if axis is None:
            failed = True
            continue
        index = body.index(checker, name, axis)
        indices.append(index)
        env = env.bind({name: Bound((Part(axis, position(index)),), checker.next_serial())})
    return None if failed else (env, indices)


def settle(checker: Checker, value: Value) -> Value:
    """Heads and groups together: where the value is over both h and hk, hk is that of h."""
    free = value.expr.free
    moves: dict[Index, Expr] = {}
    for axis, index in list(checker.outer.items()):
        if index not in free or axis.form != "coarse" or axis.of is None:
            continue
        fine = checker.outer_index(axis.of)
        others = [i for a, i in checker.outer.items() if a.of is axis.of and a is not axis]
        if fine in free or any(other in free for other in others):
            moves[index] = grouped(axis, position(fine))
    return value.moved(moves)


def outer_of(checker: Checker, expr: Expr, skip: Sequence[Index] = ()) -> list[Index]:
    """The outer indices that an expression depends on, in the order b, h, groups."""
    return [index for index in checker.outer_in_order() if index in expr.free and index not in skip]


def equation(
    checker: Checker,
    body: Body,
    name: syntax.Name,
    binders: Sequence[syntax.Binder] | None,
    node: syntax.Expression,
    env: Environment,
    entity: ArrayEntity,
    role: Role = "definition",
    title: str | None = None,
) -> Definition | None:
    """Evaluates an equation and fills its entity; None after an error."""
    sides = left_side(checker, body, binders, env)
    value = None if sides is None else checker.evaluate(node, sides[0])
    if sides is None or value is None:
        return None
    inner, indices = sides
    return finish(
        checker, value, indices, inner, entity, title or body.prefix + name.name, role, name.span
    )


def finish(
    checker: Checker,
    value: Value,
    indices: Sequence[Index],
    env: Environment,
    entity: ArrayEntity,
    title: str,
    role: Role,
    span: Span,
) -> Definition:
    """The array and the definition of a value over the indices of its left side."""
    value = settle(checker, fill_at(checker, value, indices, env.facts))
    explicit = [index for index in indices if is_outer(index.axis)]
    inner = [index for index in indices if not is_outer(index.axis)]
    lead = outer_of(checker, value.expr)
    lead = [i for i in checker.outer_in_order() if i in lead or i in explicit]
    dims = (*lead, *inner, *value.over)
    array = checker.array(title, dims, value.kind, role, span)
    entity.array = array
    entity.needs = tuple(need for need in value.needs)
    definition = Definition(array, value.expr, span, domain_of_needs(value))
    return definition


def domain_of_needs(value: Value) -> Expr:
    """Where an equation is defined: what restricts the vectors that it reads."""
    return conjunction(need.whole() for need in value.needs if not need.native)


def assign(
    checker: Checker,
    value: Value,
    array: tree.Array,
    indices: Sequence[Index],
    facts: tuple[Expr, ...],
    span: Span,
    name: str,
) -> Value | None:
    """A value for an array that exists: left-over axes become its dimensions, its kind the array's.
    None where they do not fit."""
    value = fill_at(checker, value, indices, facts)
    moves: dict[Index, Expr] = {}
    taken: list[Index] = []
    for index in value.over:
        found = matches(index, array.indices, [*taken, *indices])
        if found is None:
            return checker.report(
                m.axes_of_left_side(span, name, axes_text(value), _dims_text(array))
            )
        taken.append(found)
        moves[index] = position(found)
    value = value.moved(moves)
    return Value(value.expr, (), value.needs)


def _dims_text(array: tree.Array) -> str:
    inner = [index.name for index in array.indices if not is_outer(index.axis)]
    return ", ".join(inner) if inner else "no axis"
