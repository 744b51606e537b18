"""Emits: those that are written, and those that every score offers."""

from __future__ import annotations

from dataclasses import replace

from attnc import syntax
from attnc.check import messages as m
from attnc.check.blocks import pair_environment, row_environment
from attnc.check.bodies import ArrayEntity, BlockEntity, Body, Entity, Source
from attnc.check.checker import Checker
from attnc.check.domains import settle_needs
from attnc.check.equations import body_environment, finish, left_side
from attnc.check.values import Environment, Value
from attnc.spec import Definition

OFFERED = ("lse", "max", "argmax", "entropy", "colsum", "weight", "score")


# ------------------------------------------------------------------------------------- written


def written_emits(checker: Checker, body: Body) -> tuple[Definition, ...]:
    """The definitions of `emit` lines, in order."""
    found: list[Definition] = []
    for node in body.emit_nodes:
        entity = written_emit(checker, body, node.name.name)
        if entity is not None and entity.array is not None:
            found.append(checker.definitions[entity.array.name])
    return tuple(found)


def written_emit(checker: Checker, body: Body, name: str) -> ArrayEntity | None:
    """The array of a written emit, made when it is first read."""
    nodes = [node for node in body.emit_nodes if node.name.name == name]
    if not nodes:
        return None
    for extra in nodes[1:]:
        checker.report(m.defined_twice(extra.name.span, name, nodes[0].name.span.line))
    if name in body.emits:
        entity = body.emits[name]
        if entity.state == "active":
            checker.demand(entity)
        return entity if entity.state == "done" else None
    entity = body.emits[name] = ArrayEntity(name, nodes[0].name.span, body, state="active")
    checker.active.append(entity)
    try:
        with checker.into(body.statements):
            fine = _written(checker, body, nodes[0], entity)
    finally:
        checker.active.pop()
    entity.state = "done" if fine else "failed"
    return entity if fine else None


def _written(checker: Checker, body: Body, node: syntax.Emit, entity: ArrayEntity) -> bool:
    env = body_environment(checker, body, f"emit {node.name.name}")
    env = replace(env, step=body.update is not None)
    if node.binders is None and body.rows and body.operator.kind == "attention":
        env = replace(row_environment(checker, body, f"emit {node.name.name}"), step=env.step)
    sides = left_side(checker, body, node.binders, env)
    value = None if sides is None else checker.evaluate(node.expr, sides[0])
    if sides is None or value is None:
        return False
    settle_needs(checker, value.needs, env.facts)
    title = body.prefix + node.name.name
    indices = sides[1]
    if node.binders is None:
        indices = [index for index in body.rows if index in value.expr.free]
    definition = finish(checker, value, indices, sides[0], entity, title, "output", node.span)
    checker.definitions[definition.array.name] = definition
    return True


# ------------------------------------------------------------------------------------- offered


def offered_emits(checker: Checker, body: Body) -> tuple[Definition, ...]:
    """The unwritten emits of a block that has scores."""
    found: list[Definition] = []
    for name in offered_names(body):
        entity = offered_emit(checker, body, name)
        if entity is not None and entity.array is not None:
            found.append(checker.definitions[entity.array.name])
    return tuple(found)


def offered_names(body: Body) -> list[str]:
    """What a block offers: a statistic of each row, and of each source what is a pair's."""
    scored = [source for source in body.sources if "score" in source.clauses]
    if not scored or len(scored) < len(body.sources):
        return []
    written = {node.name.name for node in body.emit_nodes}
    single = len(body.sources) == 1
    names: list[str] = []
    for name in OFFERED:
        if name == "argmax" and (not single or len(body.sources[0].names) > 1):
            continue
        if name in ("colsum", "weight", "score") and not single:
            names += [f"{name}.{source.label}" for source in body.sources]
        else:
            names.append(name)
    return [name for name in names if name not in written]


def offered_emit(checker: Checker, body: Body, name: str) -> ArrayEntity | None:
    """The array of an unwritten emit, made when it is first asked for."""
    if name not in offered_names(body):
        return None
    if name in body.offered:
        entity = body.offered[name]
        return entity if entity.state == "done" else None
    span = body.operator.name.span
    entity = body.offered[name] = ArrayEntity(name, span, body, state="active")
    checker.active.append(entity)
    try:
        fine = _offered(checker, body, name, entity)
    finally:
        checker.active.pop()
    entity.state = "done" if fine else "failed"
    return entity if fine else None


def _offered(checker: Checker, body: Body, name: str, entity: ArrayEntity) -> bool:
    base, _, label = name.partition(".")
    sources = [source for source in body.sources if label in ("", source.label)]
    if base in ("weight", "score"):
        env = pair_environment(checker, body, sources[0], name)
        indices = [*body.rows, *sources[0].keys]
        node: syntax.Expression = _name(body, base)
    elif base == "colsum":
        env = _column(checker, body, sources[0], name)
        indices = list(sources[0].keys)
        rows = tuple(_binder(body, row) for row in body.row_names)
        node = _fold(body, "sum", (rows,), _name(body, "weight"))
    else:
        env = row_environment(checker, body, name)
        indices = list(body.rows)
        node = _statistic(body, base, sources)
    with checker.into(body.statements):
        value = checker.evaluate(node, replace(env, step=body.update is not None))
        if value is None:
            return False
        title = body.prefix + name
        value = Value(value.expr, value.over, ())
        found = finish(checker, value, indices, env, entity, title, "output", entity.span)
    checker.definitions[found.array.name] = found
    return True


def _column(checker: Checker, body: Body, source: Source, place: str) -> Environment:
    env = pair_environment(checker, body, source, place)
    return env.bind({}, drop=body.row_names)


def _statistic(body: Body, base: str, sources: list[Source]) -> syntax.Expression:
    binders = tuple(tuple(_binder(body, name) for name in source.names) for source in sources)
    of = "weight" if base == "entropy" else "score"
    return _fold(body, base, binders, _name(body, of))


def _name(body: Body, name: str) -> syntax.Name:
    return syntax.Name(body.operator.name.span, name)


def _binder(body: Body, name: str) -> syntax.Binder:
    return syntax.Binder(body.operator.name.span, _name(body, name), "plain", None)


def _fold(
    body: Body,
    function: str,
    sources: tuple[tuple[syntax.Binder, ...], ...],
    argument: syntax.Expression,
) -> syntax.Fold:
    span = body.operator.name.span
    return syntax.Fold(span, _name(body, function), sources, None, (argument,))


# ------------------------------------------------------------------------------ reading emits


def emit_of(checker: Checker, entity: Entity, node: syntax.Member) -> ArrayEntity | None:
    """`block.name`: a written or unwritten emit of a block; None after an error."""
    name = node.name.name
    if not isinstance(entity, BlockEntity):
        base = node.base.span.text
        return checker.report(m.member_of_what(node.span, base, name))
    if checker.demand(entity) is None or entity.inner is None:
        return None
    inner = entity.inner
    found = written_emit(checker, inner, name) or offered_emit(checker, inner, name)
    if found is None:
        known = [*(each.name.name for each in inner.emit_nodes), *offered_names(inner)]
        if name not in known:
            checker.report(m.unknown_emit(node.name.span, name, entity.name, known))
    return found
