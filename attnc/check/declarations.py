"""Declarations: axes, rows and keys, numbers, inputs; and the names of all other statements."""

from __future__ import annotations

from collections.abc import Sequence

from attnc import syntax
from attnc.check import messages as m
from attnc.check.axis_declarations import (
    BATCH,
    GROUP,
    HEAD,
    declare_axis,
    declare_measured,
    declare_rows_and_keys,
    is_recurrence,
)
from attnc.check.binders import range_of
from attnc.check.bodies import (
    BlockEntity,
    Body,
    Entity,
    EquationEntity,
    InputEntity,
    LocalEntity,
    NumberEntity,
    RepeatEntity,
    RepeatGroup,
    StateEntity,
    is_outer,
)
from attnc.check.checker import Checker
from attnc.check.equations import body_environment
from attnc.check.operators import WIDTH, cast
from attnc.expressions import tree
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, Expr, Kind, number
from attnc.spec import Input, Number

RESERVED = ("pi", "inf", "true", "false")
DEFAULT_ARGUMENTS = ("q", "k", "v")


def declare(checker: Checker, body: Body) -> None:
    """Enters all names of a body. Nothing but lengths and defaults is evaluated."""
    statements = body.operator.statements
    _numbers(checker, body, statements)
    declare_measured(checker, body)
    for statement in statements:
        if isinstance(statement, syntax.Axis):
            declare_axis(checker, body, statement)
    declare_rows_and_keys(checker, body)
    for statement in statements:
        if isinstance(statement, syntax.Declaration) and statement.stage == "input":
            _inputs(checker, body, statement)
    if body.parent is None:
        _arguments(checker, body)
    for statement in statements:
        _names(checker, body, statement)


def add(checker: Checker, body: Body, entity: Entity) -> bool:
    """Enters a name; False (reported) where the body has it, or where a word has a meaning."""
    if entity.name in RESERVED:
        checker.report(m.reserved_name(entity.span, entity.name))
        return False
    known = body.entities.get(entity.name)
    if known is not None:
        checker.report(m.defined_twice(entity.span, entity.name, known.span.line))
        return False
    body.entities[entity.name] = entity
    return True


# -------------------------------------------------------------------------------------- numbers


def _numbers(checker: Checker, body: Body, statements: Sequence[syntax.Statement]) -> None:
    for statement in statements:
        if not isinstance(statement, syntax.Declaration):
            continue
        if statement.stage not in ("param", "static"):
            continue
        for group in statement.groups:
            for name in group.names:
                _number(checker, body, group, name, statement.stage == "static")


def _number(
    checker: Checker, body: Body, group: syntax.Declared, name: syntax.Name, static: bool
) -> None:
    if group.dims is not None:
        checker.report(m.number_with_axes(group.span, name.name, "static" if static else "param"))
    kind: Kind = group.scalar
    if kind == "complex":
        checker.report(m.complex_number(group.span, name.name))
        return
    default: Expr | None = None
    if group.default is not None:
        default = _default(checker, body, group.default, kind, name.name)
    title = name.name if body.parent is None else body.prefix + name.name
    expr = tree.param(title, kind, name.span)
    given = body.numbers.get(name.name)
    if static and given is None and name.name in checker.statics and body.is_root:
        given = default = _given(checker, name, kind)
    entry = Number(title, kind, static, default, name.span)
    if given is None and static and default is not None and default.op == "number":
        given = default
    entity = NumberEntity(name.name, name.span, body, number=entry)
    entity.expr = expr if given is None else given
    if add(checker, body, entity) and body.is_root:
        checker.numbers.append(entry)


def _given(checker: Checker, name: syntax.Name, kind: Kind) -> Expr | None:
    value = checker.statics[name.name]
    found: Kind = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "real"
    if WIDTH[found] > WIDTH[kind] or (found == "bool") != (kind == "bool"):
        checker.report(m.static_kind(name.span, name.name, kind, str(value)))
        return None
    return cast(number(value), kind)


def _default(
    checker: Checker, body: Body, node: syntax.Expression, kind: Kind, name: str
) -> Expr | None:
    env = body_environment(checker, body)
    value = checker.evaluate(node, env)
    if value is None:
        return None
    if value.over or WIDTH[value.kind] > WIDTH[kind] or (value.kind == "bool") != (kind == "bool"):
        checker.report(m.default_kind(node.span, name, kind, node.span.text))
        return None
    return cast(value.expr, kind)


# --------------------------------------------------------------------------------------- inputs


def _inputs(checker: Checker, body: Body, node: syntax.Declaration) -> None:
    for group in node.groups:
        for name in group.names:
            entity = InputEntity(name.name, name.span, body, declared=group)
            if add(checker, body, entity):
                _input(checker, body, entity, group)


def _input(checker: Checker, body: Body, entity: InputEntity, group: syntax.Declared) -> None:
    indices = dimensions(checker, body, group.dims or ())
    if indices is None:
        entity.state = "failed"
        return
    default: Expr | None = None
    if group.default is not None:
        default = _default(checker, body, group.default, group.scalar, entity.name)
    _enter_input(checker, body, entity, indices, group.scalar, default)


def _enter_input(
    checker: Checker,
    body: Body,
    entity: InputEntity,
    indices: Sequence[Index],
    kind: Kind,
    default: Expr | None,
) -> None:
    argument = body.arguments.get(entity.name)
    if argument is not None:
        _bind_argument(checker, body, entity, indices, kind, argument)
        return
    if not body.is_root and body.parent is None:
        entity.state = "failed"  # the call has reported it
        return
    title = entity.name if body.is_root else body.prefix + entity.name
    entity.array = checker.array(title, indices, kind, "input", entity.span)
    entity.state = "done"
    names = [name.name for name in body.operator.arguments or ()]
    positional = entity.name in names
    checker.inputs.append(Input(entity.array, positional, default, entity.span))


def _bind_argument(
    checker: Checker,
    body: Body,
    entity: InputEntity,
    indices: Sequence[Index],
    kind: Kind,
    argument: Array,
) -> None:
    """An input of a called operator: the caller's array, its axes named as declared."""
    inner = iter([index.name for index in indices if not is_outer(index.axis)])
    entity.labels = tuple(
        old.name if is_outer(old.axis) else next(inner, old.name) for old in argument.indices
    )
    if WIDTH[argument.kind] > WIDTH[kind] or (argument.kind == "bool") != (kind == "bool"):
        checker.report(m.argument_kind(entity.span, entity.name, kind, argument.kind))
    entity.array = argument
    entity.state = "done"


def dimensions(checker: Checker, body: Body, dims: Sequence[syntax.Binder]) -> list[Index] | None:
    """The indices of declared dimensions, outer ones the shared outer indices."""
    found: list[Index] = []
    env = body_environment(checker, body)
    for binder in dims:
        name = binder.name.name
        axis: Axis | None
        if binder.form == "plain":
            axis = body.find_axis(name)
            if axis is None:
                known = body.known_names()
                checker.report(m.unknown_axis(binder.span, name, known, False))
        elif binder.form == "within" and isinstance(binder.bound, syntax.Name):
            axis = body.find_axis(binder.bound.name)
            if axis is None:
                span = binder.bound.span
                checker.report(m.unknown_axis(span, binder.bound.name, body.known_names(), False))
        else:
            axis = range_of(checker, name, binder.bound, env)
        if axis is None:
            return None
        if any(index.name == name for index in found):
            checker.report(m.bound_twice(binder.name.span, name))
            return None
        found.append(checker.fresh(name, axis))
    return found


def _arguments(checker: Checker, body: Body) -> None:
    """Positional names: declared by an input line, or q, k and v as they are by default."""
    operator = body.operator
    for name in operator.arguments or ():
        known = body.entities.get(name.name)
        if isinstance(known, InputEntity):
            continue
        if known is not None:
            checker.report(m.argument_not_input(name.span, name.name))
            continue
        axes = _default_dims(body, name.name)
        if axes is None:
            checker.report(m.argument_not_declared(name.span, name.name))
            entity = InputEntity(name.name, name.span, body, state="failed")
            add(checker, body, entity)
            continue
        entity = InputEntity(name.name, name.span, body)
        if add(checker, body, entity):
            indices = [checker.fresh(label, axis) for label, axis in axes]
            _enter_input(checker, body, entity, indices, "real", None)


def _default_dims(body: Body, name: str) -> list[tuple[str, Axis]] | None:
    if name not in DEFAULT_ARGUMENTS or not body.rows:
        return None
    row, key = body.row_names[-1], _key_name(body)
    tokens = row if name == "q" else key
    width = "e" if name == "v" else "d"
    labels = (BATCH, HEAD if name == "q" else GROUP, tokens, width)
    axes: list[tuple[str, Axis]] = []
    for label in labels:
        axis = body.find_axis(label)
        if axis is None:
            return None
        axes.append((label, axis))
    return axes


def _key_name(body: Body) -> str:
    """The axis of k and v: the row of a recurrence, else j, else the first key that is measured."""
    if is_recurrence(body.operator):
        return body.row_names[-1]
    first = body.sources[0] if body.sources else None
    if "j" in body.axes or first is None:
        return "j"
    return first.names[0]


# ------------------------------------------------------------------------------ other statements


def _names(checker: Checker, body: Body, statement: syntax.Statement) -> None:
    if isinstance(statement, syntax.Define):
        _equation(checker, body, statement)
    elif isinstance(statement, syntax.Solve):
        add(
            checker,
            body,
            EquationEntity(statement.name.name, statement.name.span, body, node=statement),
        )
    elif isinstance(statement, syntax.Repeat):
        _repeat(checker, body, statement)
    elif isinstance(statement, syntax.Operator):
        add(
            checker,
            body,
            BlockEntity(statement.name.name, statement.name.span, body, node=statement),
        )
    elif isinstance(statement, syntax.Clause):
        body.clauses.append(statement)
    elif isinstance(statement, syntax.Emit):
        body.emit_nodes.append(statement)
    elif isinstance(statement, syntax.Update):
        if body.update is not None:
            checker.report(m.update_twice(statement.span, body.update.span.line))
            return
        body.update = statement
        _locals(checker, body, statement)
    elif isinstance(statement, syntax.Declaration) and statement.stage == "state":
        _states(checker, body, statement)


def _equation(checker: Checker, body: Body, node: syntax.Define) -> None:
    name = node.name.name
    call = node.expr
    library = body.library
    called = call.function.name if isinstance(call, syntax.Call) else ""
    if called in library.operators and called not in library.defs:
        entity = BlockEntity(name, node.name.span, body, node=node)
        add(checker, body, entity)
        return
    add(checker, body, EquationEntity(name, node.name.span, body, node=node))


def _repeat(checker: Checker, body: Body, node: syntax.Repeat) -> None:
    """A repeat takes over the arrays that it assigns, with their first equations."""
    group = RepeatGroup([], node)
    for statement in node.statements:
        if isinstance(statement, syntax.Repeat):
            checker.report(m.repeat_in_repeat(statement.span))
            continue
        if not isinstance(statement, syntax.Define):
            checker.report(m.not_in_step(statement.span, "repeat"))
            continue
        name = statement.name.name
        known = body.entities.get(name)
        if isinstance(known, RepeatEntity) and known.group is group:
            continue
        if isinstance(known, EquationEntity) and isinstance(known.node, syntax.Define):
            group.first.append(known.node)
            del body.entities[name]
        elif known is None:
            checker.report(m.repeat_without_start(statement.span, name))
        span = statement.name.span if known is None else known.span
        add(checker, body, RepeatEntity(name, span, body, group=group))


def _states(checker: Checker, body: Body, node: syntax.Declaration) -> None:
    for group in node.groups:
        for name in group.names:
            entity = StateEntity(name.name, name.span, body, declared=group)
            known = body.entities.get(name.name)
            if isinstance(known, LocalEntity):
                del body.entities[name.name]
            if add(checker, body, entity):
                body.states.append(entity)


def _locals(checker: Checker, body: Body, node: syntax.Update) -> None:
    """Names assigned in update that are no state."""
    for statement in node.statements:
        if not isinstance(statement, syntax.Define):
            checker.report(m.not_in_step(statement.span, "update"))
            continue
        name = statement.name.name
        if name in body.entities or _is_state(body, name):
            continue
        add(checker, body, LocalEntity(name, statement.name.span, body))


def _is_state(body: Body, name: str) -> bool:
    return any(
        isinstance(statement, syntax.Declaration)
        and statement.stage == "state"
        and any(each.name == name for group in statement.groups for each in group.names)
        for statement in body.operator.statements
    )
