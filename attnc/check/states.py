"""States: what is carried from row to row, and the lines of `update`."""

from __future__ import annotations

from dataclasses import replace

from attnc import syntax
from attnc.check import messages as m
from attnc.check.arrays import grouped
from attnc.check.bodies import ArrayEntity, Body, LocalEntity, StateEntity, is_outer
from attnc.check.checker import Checker
from attnc.check.declarations import dimensions
from attnc.check.domains import settle_needs
from attnc.check.equations import (
    assign,
    body_environment,
    domain_of_needs,
    left_side,
    outer_of,
    settle,
)
from attnc.check.operators import WIDTH, axes_text, cast
from attnc.check.outer_axes import state_outer
from attnc.check.values import Bound, Environment, Part, Value
from attnc.check.vectors import fill_at
from attnc.expressions.index import Index
from attnc.expressions.text import expression_text
from attnc.expressions.tree import Array, Expr, Kind, is_number, number_of, position, postorder
from attnc.source import Span
from attnc.spec import Definition, State


def states_of(checker: Checker, body: Body) -> None:
    """The arrays of a body's states: outer axes, rows but the last, then the axes written."""
    if not body.states:
        if body.update is not None:
            checker.report(m.update_without_state(body.update.span))
        return
    if not body.rows:
        checker.report(m.state_without_rows(body.states[0].span))
        return
    lead = state_outer(checker, body)
    for entity in body.states:
        assert entity.declared is not None
        dims = dimensions(checker, body, entity.declared.dims or ())
        if dims is None:
            entity.state = "failed"
            continue
        explicit = [checker.outer_index(i.axis) for i in dims if is_outer(i.axis)]
        inner = [index for index in dims if not is_outer(index.axis)]
        families = {index.axis.of or index.axis for index in explicit}
        outer = [i for i in lead if (i.axis.of or i.axis) not in families]
        ordered = [i for i in checker.outer_in_order() if i in outer or i in explicit]
        indices = (*ordered, *body.rows[:-1], *inner)
        title = body.prefix + entity.name
        kind: Kind = entity.declared.scalar
        entity.array = checker.array(title, indices, kind, "state", entity.span)
        entity.state = "done"
        entity.explicit = tuple(explicit)
        entity.rows = body.rows[:-1]


def state_arrays(checker: Checker, body: Body) -> tuple[State, ...]:
    """States with the values that they begin with."""
    found: list[State] = []
    for entity in body.states:
        array, declared = entity.array, entity.declared
        if array is None or declared is None:
            continue
        if declared.default is None:
            checker.report(m.state_without_value(entity.span, entity.name))
            continue
        env = _dims_env(checker, body, array, f"state {entity.name}")
        value = checker.evaluate(declared.default, env)
        if value is None:
            continue
        strange = _strange(value, array)
        if strange:
            checker.report(m.first_value_axes(declared.default.span, entity.name, *strange))
            continue
        placed = _fitted(checker, value, array, entity.name, declared.default.span, env)
        if placed is not None:
            found.append(State(array, placed.expr, entity.span))
    return tuple(found)


def _dims_env(checker: Checker, body: Body, array: Array, place: str) -> Environment:
    """Outer axes, and those rows that are dimensions of the state, are bound."""
    env = body_environment(checker, body, place)
    names = dict(zip(body.rows, body.row_names, strict=True))
    bounds = {
        names[index]: Bound((Part(index.axis, position(index)),), checker.next_serial())
        for index in array.indices
        if index in names
    }
    return env.bind(bounds)


def _fitted(
    checker: Checker, value: Value, array: Array, name: str, span: Span, env: Environment
) -> Value | None:
    """A value as the array's: its axes, its kind, its outer axes."""
    if (value.kind == "bool") != (array.kind == "bool") or WIDTH[value.kind] > WIDTH[array.kind]:
        return checker.report(m.state_kind(span, name, array.kind, value.kind))
    placed = assign(checker, value, array, (), env.facts, span, name)
    if placed is None:
        return None
    placed = settle(checker, placed)
    placed = _grouped(checker, placed, array)
    for index in outer_of(checker, placed.expr):
        if index not in array.indices:
            groups = [i.name for i in array.indices if i.axis.of is index.axis]
            return checker.report(m.state_of_group(span, name, index.name, groups))
    return placed.with_expr(cast(placed.expr, array.kind))


def _strange(value: Value, array: Array) -> tuple[str, str] | None:
    """The axes of a state, and what a value is that has others; None where it has none."""
    own = {index.axis for index in array.indices if not is_outer(index.axis)}
    if all(index.axis in own for index in value.over):
        return None
    names = [index.name for index in array.indices if not is_outer(index.axis)]
    return ", ".join(names) or "no axis", axes_text(value)


def _grouped(checker: Checker, value: Value, array: Array) -> Value:
    """A state over heads reads groups at theirs."""
    moves = {
        index: grouped(index.axis, position(checker.outer_index(index.axis.of)))
        for index in outer_of(checker, value.expr)
        if index.axis.of is not None
        and index not in array.indices
        and checker.outer_index(index.axis.of) in array.indices
    }
    return value.moved(moves)


# -------------------------------------------------------------------------------------- update


def update_lines(checker: Checker, body: Body) -> tuple[Definition, ...]:
    """The lines of `update` in order: states by their arrays, other names as locals of the step."""
    if body.update is None or not body.states:
        return ()
    checker.in_update = True
    try:
        with checker.into(body.updates):
            for node in body.update.statements:
                if isinstance(node, syntax.Define):
                    checker.memo.clear()
                    _line(checker, body, node)
    finally:
        checker.in_update = False
    return tuple(line for line in body.updates if isinstance(line, Definition))


def _line(checker: Checker, body: Body, node: syntax.Define) -> None:
    entity = body.entities.get(node.name.name)
    if not isinstance(entity, StateEntity | LocalEntity):
        if entity is not None:
            checker.report(m.assigned_in_update(node.name.span, node.name.name, entity.what))
        return
    env = _step_environment(checker, body, entity)
    sides = left_side(checker, body, node.binders, env)
    if sides is None:
        return
    value = checker.evaluate(node.expr, sides[0])
    if value is None:
        if entity.array is None:
            entity.state = "failed"
        return
    later = _later_row(value.expr, body.rows[-1]) or _every_row(value.expr, body)
    if later is not None:
        checker.report(
            m.update_of_later_row(later.span or node.span, _text(later), body.row_names[-1])
        )
        return
    settle_needs(checker, value.needs, env.facts)
    if isinstance(entity, LocalEntity):
        _local(checker, body, node, entity, value, sides)
        return
    array = entity.array
    if array is None:
        return
    moved = _onto(checker, node, value, array, sides)
    placed = None
    strange = moved and _strange(moved, array)
    if strange:
        checker.report(m.update_axes(node.span, entity.name, *strange))
    elif moved is not None:
        placed = _fitted(checker, moved, array, entity.name, node.span, env)
    if placed is not None:
        domain = domain_of_needs(placed)
        checker.sinks[-1].append(Definition(array, placed.expr, node.span, domain))


def _later_row(expr: Expr, row: Index) -> Expr | None:
    """A read of a row that comes a number of rows after, of a state as if it had rows, or a fold
    over rows that come after."""
    for node in postorder(expr):
        if node.op == "fold" and _after(node, row):
            return node
        axes = node.array.axes if node.op == "read" else ()
        for at, axis in zip(node.args, axes, strict=False):
            along = axis is row.axis or node.array.role == "state"
            parts = at.args if at.op == "add" and along else ()
            ahead = any(is_number(part) and number_of(part) > 0 for part in parts)
            if ahead and position(row) in parts:
                return node
    return None


def _every_row(expr: Expr, body: Body) -> Expr | None:
    """A mask, score or weight of the block itself in a fold over all of its rows."""
    entities = (one for source in body.sources for one in source.arrays.values())
    clauses = {one.array.name for one in entities if one.array is not None}
    axis = body.rows[-1].axis
    for node in postorder(expr):
        bound = [position(index) for index in node.bound if index.axis is axis]
        for inner in postorder(*node.args) if bound else ():
            named = inner.op == "read" and inner.array.name in clauses and inner.span is not None
            if named and any(at in bound for at in inner.args):
                return inner
    return None


def _after(fold: Expr, row: Index) -> bool:
    """Whether a condition of a fold lets in rows after this one: `s > t`, `t <= s`."""
    bound = [position(index) for index in fold.bound if index.axis is row.axis]
    conditions = [fold.args[0]]
    while bound and conditions:
        one = conditions.pop()
        if one.op == "and":
            conditions.extend(one.args)
        elif one.op in ("gt", "ge", "lt", "le"):
            later, sooner = one.args if one.op in ("gt", "ge") else reversed(one.args)
            if later in bound and sooner == position(row):
                return True
    return False


def _text(node: Expr) -> str:
    return node.span.text if node.span is not None else expression_text(node)


def _onto(
    checker: Checker,
    node: syntax.Define,
    value: Value,
    array: Array,
    sides: tuple[Environment, list[Index]],
) -> Value | None:
    """The value over the array's own indices instead of those of the left side."""
    inner = [i for i in array.indices if not is_outer(i.axis)]
    written = [i for i in sides[1] if not is_outer(i.axis)]
    rows = [i for i in inner if i in sides[0].body.rows]
    targets = [i for i in inner if i not in rows]
    value = fill_at(checker, value, sides[1], sides[0].facts)
    if len(written) > len(targets):
        return checker.report(m.left_side_differs(node.name.span, node.name.name))
    moves = {}
    for index, target in zip(written, targets, strict=False):
        if index.axis is not target.axis:
            return checker.report(m.left_side_differs(node.name.span, node.name.name))
        moves[index] = position(target)
    return Value(value.expr, (*written, *value.over), value.needs).moved(moves)


def _step_environment(checker: Checker, body: Body, entity: ArrayEntity) -> Environment:
    """A row is bound, and the outer axes that the state names itself."""
    from attnc.check.blocks import row_environment

    env = replace(row_environment(checker, body, "update"), step=True)
    explicit = entity.explicit if isinstance(entity, StateEntity) else ()
    bounds = {
        index.axis.name: Bound((Part(index.axis, position(index)),), checker.next_serial())
        for index in explicit
    }
    return env.bind(bounds)


def _local(
    checker: Checker,
    body: Body,
    node: syntax.Define,
    entity: LocalEntity,
    value: Value,
    sides: tuple[Environment, list[Index]],
) -> None:
    value = settle(checker, fill_at(checker, value, sides[1], sides[0].facts))
    rows = [index for index in body.rows[:-1] if index in value.expr.free]
    inner = [i for i in sides[1] if not is_outer(i.axis) and i not in rows]
    lead = outer_of(checker, value.expr)
    lead = [i for i in checker.outer_in_order() if i in lead or i in sides[1]]
    dims = (*lead, *rows, *inner, *value.over)
    if entity.array is not None:
        placed = assign(checker, value, entity.array, inner, (), node.span, entity.name)
        if placed is None:
            return
        if set(lead) - set(entity.array.indices):
            checker.report(m.left_side_differs(node.name.span, entity.name))
            return
        line = Definition(entity.array, cast(placed.expr, entity.array.kind), node.span)
        checker.sinks[-1].append(line)
        return
    title = body.prefix + entity.name
    entity.array = checker.array(title, dims, value.kind, "local", node.name.span)
    entity.needs = value.needs
    entity.rows = tuple(rows)
    entity.state = "done"
    checker.sinks[-1].append(Definition(entity.array, value.expr, node.span))
