"""Names are evaluated when they are first read: equations, repeats, blocks, and what a def assigns.

What is finished is appended to the statements of its body, so these stand in an order in which
each reads what is before it.
"""

from __future__ import annotations

from collections.abc import Sequence

from attnc import syntax
from attnc.check import messages as m
from attnc.check.arrays import length_of
from attnc.check.binders import binder_axis
from attnc.check.bodies import (
    ArrayEntity,
    BlockEntity,
    Body,
    EquationEntity,
    LocalEntity,
    RepeatEntity,
    RepeatGroup,
    is_outer,
)
from attnc.check.checker import Checker, Statement
from attnc.check.equations import (
    assign,
    body_environment,
    domain_of_needs,
    equation,
    finish,
    left_side,
    settle,
)
from attnc.check.operators import WIDTH, cast
from attnc.check.outer_axes import outer_indices
from attnc.check.rounds import settle_rounds
from attnc.check.solving import solve_value
from attnc.check.values import Environment, bound_at
from attnc.check.vectors import fill_at
from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr, Kind, postorder
from attnc.spec import Definition, Repeat


def demand(checker: Checker, entity: ArrayEntity) -> Array | None:
    """The array of a name, evaluated now if it was not; None after an error."""
    if entity.state == "done":
        return entity.array
    if entity.state == "failed":
        return None
    if entity.state == "active":
        return _cycle(checker, entity)
    entity.state = "active"
    checker.active.append(entity)
    try:
        fine = _evaluate(checker, entity)
    finally:
        checker.active.pop()
    entity.state = "done" if fine and entity.array is not None else "failed"
    return entity.array if entity.state == "done" else None


def _cycle(checker: Checker, entity: ArrayEntity) -> Array | None:
    """The message for an equation that reads itself, over whatever names."""
    names = [each.name for each in checker.active]
    here = [index for index, each in enumerate(checker.active) if each is entity]
    place = max(here, default=len(names) - 1)  # not there: of the same repeat as the last one
    cycle = checker.active[place:]
    hidden = [each for each in cycle if each.what == "mask"]
    others = [each for each in cycle if each.what != "mask"]
    if hidden:
        first = (others or hidden)[0]
        row = first.body.row_names[-1] if first.body.row_names else "i"
        return checker.report(m.mask_of_itself(first.span, first.name, row))
    return checker.report(m.equation_cycle(entity.span, [*names[place:], entity.name]))


def _evaluate(checker: Checker, entity: ArrayEntity) -> bool:
    body = entity.body
    if isinstance(entity, EquationEntity):
        with checker.into(body.statements):
            return _equation(checker, body, entity)
    if isinstance(entity, RepeatEntity):
        assert entity.group is not None
        return _repeat(checker, body, entity.group)
    if isinstance(entity, BlockEntity):
        return checker.block(entity)
    if isinstance(entity, LocalEntity):
        checker.report(m.local_too_early(entity.span, entity.name))
    return False


def _equation(checker: Checker, body: Body, entity: EquationEntity) -> bool:
    env = body_environment(checker, body, entity.name)
    node = entity.node
    if isinstance(node, syntax.Solve):
        value = solve_value(checker, node, env)
        if value is None:
            return False
        title = body.prefix + entity.name
        found: Definition | None = finish(
            checker, value, (), env, entity, title, "definition", entity.span
        )
    else:
        assert node is not None
        found = equation(checker, body, node.name, node.binders, node.expr, env, entity)
    if found is None:
        return False
    checker.define(found)
    return True


# --------------------------------------------------------------------------------------- repeats


def _repeat(checker: Checker, body: Body, group: RepeatGroup) -> bool:
    """The first equations of the arrays of a repeat, then the repeat, as one. An array has the
    widest kind of its equations: where a later one is wider than the first, all are read again."""
    entities = _entities(body, group)
    kinds: dict[str, Kind] = {}
    while True:
        statements: list[Statement] = []
        for entity in entities.values():
            entity.state, entity.array = "active", None
        with checker.into(statements):
            repeat = _rounds(checker, body, group, entities, kinds)
        wider = {} if repeat is None else _wider(entities, repeat)
        if not wider:
            break
        kinds |= wider
        _forget(checker, statements)
    body.statements += statements
    return _settled(entities, repeat is not None)


def _rounds(
    checker: Checker,
    body: Body,
    group: RepeatGroup,
    entities: dict[str, RepeatEntity],
    kinds: dict[str, Kind],
) -> Repeat | None:
    outer = outer_indices(checker, body, (*group.first, group.node))
    starts = sorted(group.first, key=lambda node: node.span.start)  # one may read those above it
    fine = all([_first(checker, body, entities, node, outer, kinds) for node in starts])
    opened = repeat_index(checker, group.node, body_environment(checker, body, "repeat"))
    if opened is None or not fine:
        return None
    env, index, count = opened
    lines: list[Definition] = []
    for line in group.node.statements:
        if isinstance(line, syntax.Define):
            found = _line(checker, body, entities, line, outer, env, kinds)
            fine = fine and found is not None
            if found is not None:
                lines.append(found)
    if not fine:
        return None
    repeat = Repeat(index, count, tuple(lines), group.node.span)
    checker.sinks[-1].append(repeat)
    return repeat


def _wider(entities: dict[str, RepeatEntity], repeat: Repeat) -> dict[str, Kind]:
    """The kinds of arrays whose lines hold wider numbers."""
    names = {entity.array: name for name, entity in entities.items() if entity.array is not None}
    found: dict[str, Kind] = {}
    for line in repeat.statements:
        kind = line.expr.kind
        if WIDTH[kind] > WIDTH[line.array.kind]:
            found[names[line.array]] = kind
    return found


def _forget(checker: Checker, statements: Sequence[Statement]) -> None:
    """Arrays of statements that stand nowhere, and the checks that read them."""
    gone = {line.array for line in statements if isinstance(line, Definition)}
    for array in gone:
        checker.names.discard(array.name)
        checker.definitions.pop(array.name, None)
    checker.read_checks[:] = [
        check
        for check in checker.read_checks
        if not any(node.array in gone for node in postorder(check.condition, *check.given))
    ]


def _entities(body: Body, group: RepeatGroup) -> dict[str, RepeatEntity]:
    return {
        entity.name: entity
        for entity in body.entities.values()
        if isinstance(entity, RepeatEntity) and entity.group is group
    }


def _settled(entities: dict[str, RepeatEntity], fine: bool) -> bool:
    for entity in entities.values():
        entity.state = "done" if fine and entity.array is not None else "failed"
    return fine


def repeat_index(
    checker: Checker, node: syntax.Repeat, env: Environment
) -> tuple[Environment, Index, Expr] | None:
    """Binds the index of a repeat; its count must not depend on a param, nor be too large."""
    binder = node.binder
    if binder.form != "below" or binder.bound is None:
        return checker.report(m.repeat_count(binder.span))
    axis = binder_axis(checker, binder, env)
    if axis is None:
        return None
    count = length_of(axis)
    if checker.names_param(count):
        return checker.report(
            m.param_as_shape(binder.bound.span, binder.bound.span.text, "is the count of a repeat")
        )
    if not settle_rounds(checker, binder, count, env):
        return None
    index = checker.fresh(binder.name.name, axis)
    bound = bound_at(index, checker.next_serial())
    return env.bind({binder.name.name: bound}), index, count


def _first(
    checker: Checker,
    body: Body,
    entities: dict[str, RepeatEntity],
    node: syntax.Define,
    outer: Sequence[Index],
    kinds: dict[str, Kind],
) -> bool:
    env = body_environment(checker, body, node.name.name)
    found = _line(checker, body, entities, node, outer, env, kinds)
    if found is None:
        return False
    checker.sinks[-1].append(found)
    return True


def _line(
    checker: Checker,
    body: Body,
    entities: dict[str, RepeatEntity],
    node: syntax.Define,
    outer: Sequence[Index],
    env: Environment,
    kinds: dict[str, Kind],
) -> Definition | None:
    """One equation of an array of a repeat; the first one fixes the array's axes."""
    name = node.name.name
    entity = entities[name]
    sides = left_side(checker, body, node.binders, env)
    value = None if sides is None else checker.evaluate(node.expr, sides[0])
    if sides is None or value is None:
        return None
    indices = [index for index in sides[1] if not is_outer(index.axis)]
    if entity.array is None:
        value = settle(checker, fill_at(checker, value, sides[1], env.facts))
        lead = [i for i in checker.outer_in_order() if i in outer or i in sides[1]]
        dims = (*lead, *indices, *value.over)
        kind = kinds.get(name, value.kind)
        entity.array = checker.array(body.prefix + name, dims, kind, "definition", node.name.span)
        entity.state = "done"
        return Definition(entity.array, cast(value.expr, kind), node.span, domain_of_needs(value))
    array = entity.array
    kept = [i for i in array.indices if not is_outer(i.axis)][: len(indices)]
    if [i.axis for i in kept] != [i.axis for i in indices]:
        return checker.report(m.left_side_differs(node.name.span, name))
    if (value.kind == "bool") != (array.kind == "bool"):
        return checker.report(m.rounds_differ(node.expr.span, name, array.kind, value.kind))
    placed = assign(checker, value, array, kept, env.facts, node.span, name)
    if placed is None:
        return None
    placed = settle(checker, placed)
    expr = placed.expr if WIDTH[placed.kind] > WIDTH[array.kind] else cast(placed.expr, array.kind)
    return Definition(array, expr, node.span, domain_of_needs(placed))
