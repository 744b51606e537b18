"""Operators inside operators: nested blocks, and calls of other operators of the library."""

from __future__ import annotations

from collections.abc import Sequence

from attnc import syntax
from attnc.check import messages as m
from attnc.check.axis_declarations import BATCH, GROUP, HEAD
from attnc.check.blocks import build_block, prepare
from attnc.check.bodies import (
    ArrayEntity,
    BlockEntity,
    Body,
    InputEntity,
    LocalEntity,
    is_outer,
)
from attnc.check.checker import Checker
from attnc.check.declarations import declare
from attnc.check.emits import written_emit
from attnc.check.equations import body_environment, finish
from attnc.expressions.index import Axis
from attnc.expressions.tree import Array

MAX_OPERATORS = 16  # operators called inside one another


def evaluate_all(checker: Checker, body: Body) -> None:
    """Evaluates everything that a body names, read or not, so that all mistakes are found."""
    for entity in list(body.entities.values()):
        if isinstance(entity, LocalEntity | InputEntity):
            continue
        if isinstance(entity, ArrayEntity) and entity.state == "new":
            checker.demand(entity)
    for node in body.emit_nodes:
        written_emit(checker, body, node.name.name)


def nested(checker: Checker, entity: BlockEntity) -> bool:
    """Checks a block and enters its result as the array of its name."""
    body = entity.body
    if isinstance(entity.node, syntax.Operator):
        inner = Body(entity.node, body, body.library, f"{body.prefix}{entity.name}.")
        if entity.node.arguments is not None:
            checker.report(m.arguments_of_block(entity.node.name.span, entity.name))
    else:
        called = _called(checker, entity)
        if called is None:
            return False
        inner = called
    entity.inner = inner
    declare(checker, inner)
    prepare(checker, inner)
    block = build_block(checker, inner, "definition")
    if block is None:
        return False
    entity.block = block
    entity.array = block.result.array
    body.statements.append(block)
    checker.definitions[block.result.array.name] = block.result
    return True


# ----------------------------------------------------------------------------------------- calls


def _called(checker: Checker, entity: BlockEntity) -> Body | None:
    """The body of `name = operator(...)`: its inputs are arrays of the caller."""
    node = entity.node
    assert isinstance(node, syntax.Define) and isinstance(node.expr, syntax.Call)
    call, body = node.expr, entity.body
    operator = body.library.operators[call.function.name]
    if node.binders is not None:
        checker.report(m.call_with_indices(node.name.span, node.name.name, operator.name.name))
        return None
    if operator in checker.calling or len(checker.calling) >= MAX_OPERATORS:
        names = [each.name.name for each in checker.calling]
        checker.report(m.operator_cycle(call.function.span, [*names, operator.name.name]))
        return None
    library = body.library.home(operator)
    inner = Body(operator, None, library, f"{body.prefix}{entity.name}.")
    for name in (BATCH, HEAD, GROUP):
        axis = body.find_axis(name)
        if axis is not None:
            inner.axes[name] = axis
    if not _bind_arguments(checker, inner, call, entity):
        return None
    return inner


def _bind_arguments(checker: Checker, inner: Body, call: syntax.Call, entity: BlockEntity) -> bool:
    """Matches a call's arguments with the operator's positional names and keywords."""
    operator = inner.operator
    positional = [name.name for name in operator.arguments or ()]
    declared = _declared(operator)
    keywords = [*declared, *positional]
    given: dict[str, syntax.Expression] = {}
    place, fine = 0, True
    for arg in call.args:
        if isinstance(arg, syntax.Named):
            name = arg.name.name
            if name not in keywords:
                title = operator.name.name
                checker.report(m.unknown_keyword(arg.name.span, name, title, keywords))
                fine = False
            elif name in given:
                checker.report(m.given_twice(arg.name.span, name))
                fine = False
            else:
                given[name] = arg.value
            continue
        if place >= len(positional):
            title = operator.name.name
            checker.report(m.too_many_arguments(arg.span, title, len(positional)))
            return False
        given[positional[place]] = arg
        place += 1
    for name in dict.fromkeys((*positional, *declared)):
        group = declared.get(name)
        if name not in given and (group is None or group[1].default is None):
            checker.report(m.argument_missing(call.span, name, operator.name.name))
            fine = False
    for name, node in given.items():
        stage, group = declared.get(name, ("input", None)), None
        if stage[0] in ("param", "static"):
            fine = _bind_number(checker, inner, name, node, entity) and fine
        else:
            dims = stage[1].dims if isinstance(stage[1], syntax.Declared) else None
            fine = _bind_array(checker, inner, name, node, dims, entity) and fine
    return fine


def _declared(operator: syntax.Operator) -> dict[str, tuple[str, syntax.Declared]]:
    return {
        name.name: (statement.stage, group)
        for statement in operator.statements
        if isinstance(statement, syntax.Declaration) and statement.stage != "state"
        for group in statement.groups
        for name in group.names
    }


def _bind_number(
    checker: Checker, inner: Body, name: str, node: syntax.Expression, entity: BlockEntity
) -> bool:
    value = checker.evaluate(node, body_environment(checker, entity.body, entity.name))
    if value is None:
        return False
    if value.over or value.expr.free:
        checker.report(m.number_argument(node.span, name))
        return False
    inner.numbers[name] = value.expr
    return True


def _bind_array(
    checker: Checker,
    inner: Body,
    name: str,
    node: syntax.Expression,
    dims: Sequence[syntax.Binder] | None,
    entity: BlockEntity,
) -> bool:
    """An array of the caller, or an expression that becomes one, as an input of the operator."""
    array = _argument_array(checker, node, name, entity)
    if array is None:
        return False
    labels = _labels(inner, name) if dims is None else [each.name.name for each in dims]
    inner_axes = [axis for axis in array.axes if not is_outer(axis)]
    own = [label for label in labels if label not in (BATCH, HEAD, GROUP)]
    if len(own) != len(inner_axes):
        checker.report(m.argument_axes(node.span, name, own, [a.name for a in inner_axes]))
        return False
    for label, axis in zip(own, inner_axes, strict=True):
        known: Axis | None = inner.axes.setdefault(label, axis)
        if known is not axis:
            assert known is not None
            checker.report(m.argument_axis(node.span, name, label, axis.name, known.name))
            return False
    inner.arguments[name] = array
    return True


def _labels(inner: Body, name: str) -> list[str]:
    """The dimensions of q, k and v where they are not declared."""
    operator = inner.operator
    row = operator.rows[-1].name.name if operator.rows else "i"
    recurrent = operator.rows is not None and operator.keys is None
    key = row if recurrent and operator.kind == "attention" else "j"
    return [BATCH, HEAD, row if name == "q" else key, "e" if name == "v" else "d"]


def _argument_array(
    checker: Checker, node: syntax.Expression, name: str, entity: BlockEntity
) -> Array | None:
    body = entity.body
    if isinstance(node, syntax.Name):
        found = body.find(node.name)
        if isinstance(found, ArrayEntity):
            found.used = True
            return checker.demand(found)
    env = body_environment(checker, body, entity.name)
    with checker.into(body.statements):
        value = checker.evaluate(node, env)
        if value is None:
            return None
        made = ArrayEntity(name, node.span, body, state="done")
        title = f"{body.prefix}{entity.name}.{name}"
        checker.define(finish(checker, value, (), env, made, title, "definition", node.span))
    return made.array
