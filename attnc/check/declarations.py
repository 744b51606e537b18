"""Declarations: axes, rows and keys, numbers, inputs; and the names of all other statements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from attnc import syntax
from attnc.check import messages as m
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
    Source,
    StateEntity,
    is_outer,
)
from attnc.check.checker import Checker
from attnc.check.equations import body_environment
from attnc.check.operators import WIDTH, cast
from attnc.check.values import Environment
from attnc.expressions import tree
from attnc.expressions.index import Axis, AxisForm, Index
from attnc.expressions.tree import Array, Expr, Kind, number
from attnc.spec import Input, Number

BATCH, HEAD, GROUP = "b", "h", "hk"
RESERVED = ("pi", "inf", "true", "false")
DEFAULT_ARGUMENTS = ("q", "k", "v")


def declare(checker: Checker, body: Body) -> None:
    """Enters all names of a body. Nothing but lengths and defaults is evaluated."""
    statements = body.operator.statements
    _numbers(checker, body, statements)
    _measured(checker, body)
    for statement in statements:
        if isinstance(statement, syntax.Axis):
            _axis(checker, body, statement)
    _rows_and_keys(checker, body)
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
    entry = Number(title, kind, static, default, name.span)
    expr = tree.param(title, kind, name.span)
    given = body.numbers.get(name.name)
    if static and given is None and name.name in checker.statics and body.is_root:
        given = _given(checker, name, kind)
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


# ----------------------------------------------------------------------------------------- axes


def _dimension_binders(body: Body) -> Iterator[syntax.Binder]:
    for statement in body.operator.statements:
        if isinstance(statement, syntax.Declaration) and statement.stage == "input":
            for group in statement.groups:
                yield from group.dims or ()


def _measured(checker: Checker, body: Body) -> None:
    """Axes that tensors bring: every plain name in the dimensions of an input, in the header and in
    the default inputs, unless an `axis` line says what it is."""
    written = {
        name.name
        for statement in body.operator.statements
        if isinstance(statement, syntax.Axis)
        for name in statement.names
    }
    names: list[str] = []
    if body.parent is None:
        names += [BATCH, HEAD, GROUP]
    operator = body.operator
    sources = operator.keys or ()
    for binder in (*(operator.rows or ()), *(b for source in sources for b in source)):
        if binder.form == "plain":
            names.append(binder.name.name)
        elif binder.form == "within" and isinstance(binder.bound, syntax.Name):
            names.append(binder.bound.name)
    if body.parent is None:
        names += _default_axes(operator)
    for binder in _dimension_binders(body):
        if binder.form == "plain":
            names.append(binder.name.name)
    for name in names:
        if name not in written and body.find_axis(name) is None:
            body.axes[name] = _new_measured(checker, body, name)


def _default_axes(operator: syntax.Operator) -> list[str]:
    names = [name.name for name in operator.arguments or ()]
    found: list[str] = []
    if operator.rows is None:
        found.append("i")
    if operator.keys is None and not _is_recurrence(operator):
        found.append("j")
    if "q" in names or "k" in names:
        found.append("d")
    if "v" in names:
        found.append("e")
    return found


def _is_recurrence(operator: syntax.Operator) -> bool:
    """`for t` without `over`: rows in order, no keys."""
    return operator.kind == "attention" and operator.rows is not None and operator.keys is None


def _new_measured(checker: Checker, body: Body, name: str) -> Axis:
    if name == GROUP:
        head = body.find_axis(HEAD) or checker.new_axis(HEAD)
        return checker.new_axis(name, "coarse", of=head)
    return checker.new_axis(name, shifted=_shift(body, name))


def _shift(body: Body, name: str) -> Literal["", "offset", "key_offset"]:
    """Rows of an operator stand at an offset, keys at a key offset."""
    operator = body.operator
    if body.parent is not None or not _has_queries(body):
        return ""
    rows = [b.name.name for b in operator.rows or () if b.form == "plain"] or ["i"]
    if operator.rows is not None and not any(b.form == "plain" for b in operator.rows):
        rows = []
    if rows and name == rows[-1]:
        return "offset"
    keys = [b.name.name for source in operator.keys or () for b in source if b.form == "plain"]
    first = keys[0] if operator.keys and keys else "j"
    return "key_offset" if name == first and name == "j" else ""


def _has_queries(body: Body) -> bool:
    """Whether rows can stand at an offset: in an attention, and in a pipeline over queries."""
    names = [name.name for name in body.operator.arguments or ()]
    return body.operator.kind == "attention" or "q" in names


def _axis(checker: Checker, body: Body, node: syntax.Axis) -> None:
    for name in node.names:
        if name.name in body.axes:
            checker.report(m.axis_twice(name.span, name.name))
            return
    env = body_environment(checker, body)
    if node.form == "of":
        assert isinstance(node.bound, syntax.Name)
        fine = body.find_axis(node.bound.name)
        if fine is None:
            known = body.known_names()
            checker.report(m.unknown_axis(node.bound.span, node.bound.name, known, False))
        for name in node.names:
            form: AxisForm = "measured" if fine is None else "coarse"
            body.axes[name.name] = checker.new_axis(name.name, form, of=fine)
        return
    if node.form == "product":
        _product(checker, body, node, env)
        return
    assert node.bound is not None
    for name in node.names:
        found = range_of(checker, name.name, node.bound, env)
        body.axes[name.name] = found or checker.new_axis(name.name)


def _product(checker: Checker, body: Body, node: syntax.Axis, env: Environment) -> None:
    parts: list[Axis] = []
    for binder in node.coordinates:
        named = binder.form == "within" and isinstance(binder.bound, syntax.Name)
        found: Axis | None = None
        if binder.form not in ("below", "within") or named:
            checker.report(m.coordinate_without_length(binder.span, binder.name.name))
        else:
            found = range_of(checker, binder.name.name, binder.bound, env)
        parts.append(found or checker.new_axis(binder.name.name))
    labels = [binder.name.name for binder in node.coordinates]
    for name in node.names:
        axis = checker.new_axis(name.name, "product", parts=tuple(parts))
        checker.coordinates[axis] = labels
        body.axes[name.name] = axis


# -------------------------------------------------------------------------------- rows and keys


def _rows_and_keys(checker: Checker, body: Body) -> None:
    operator = body.operator
    rows: Sequence[syntax.Binder] = operator.rows or ()
    if operator.rows is None and body.parent is None:
        rows = (_plain(operator, "i"),)
    body.row_names, body.rows = _header(checker, body, rows)
    sources: Sequence[Sequence[syntax.Binder]] = operator.keys or ()
    if operator.keys is None and operator.rows is None and operator.kind == "attention":
        sources = ((_plain(operator, "j"),),)
    found = []
    for source in sources:
        names, keys = _header(checker, body, source)
        if len(keys) == len(source):
            found.append(Source(names, keys))
        for binder in source:
            if binder.form == "below" and binder.bound is not None:
                _static_length(checker, body, binder)
    body.sources = tuple(found)


def _plain(operator: syntax.Operator, name: str) -> syntax.Binder:
    span = operator.name.span
    return syntax.Binder(span, syntax.Name(span, name), "plain", None)


def _header(
    checker: Checker, body: Body, binders: Sequence[syntax.Binder]
) -> tuple[tuple[str, ...], tuple[Index, ...]]:
    """Names and indices of rows or of one source of keys; each name is an axis of the body."""
    names: list[str] = []
    indices: list[Index] = []
    for binder in binders:
        name = binder.name.name
        axis = _header_axis(checker, body, binder)
        if axis is None:
            continue
        if name in names:
            checker.report(m.bound_twice(binder.name.span, name))
            continue
        if binder.form != "plain":
            body.axes[name] = axis
        names.append(name)
        indices.append(checker.fresh(name, axis))
    return tuple(names), tuple(indices)


def _header_axis(checker: Checker, body: Body, binder: syntax.Binder) -> Axis | None:
    if binder.form == "plain":
        return body.find_axis(binder.name.name)
    if binder.form == "within" and isinstance(binder.bound, syntax.Name):
        return body.find_axis(binder.bound.name)
    return range_of(checker, binder.name.name, binder.bound, body_environment(checker, body))


def _static_length(checker: Checker, body: Body, binder: syntax.Binder) -> None:
    """`u < size` of a key: size must be known when the kernel is compiled."""
    assert binder.bound is not None
    for node in syntax.walk(binder.bound):
        if not isinstance(node, syntax.Name):
            continue
        found = body.find(node.name)
        if isinstance(found, NumberEntity) and found.what == "param":
            what = f"{binder.name.name} < {binder.bound.span.text}"
            checker.report(m.param_as_shape(node.span, node.name, f"counts a row's keys ({what})"))


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
    if _is_recurrence(body.operator):
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
