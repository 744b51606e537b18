"""Which outer axes a text reads, found without evaluating it.

Scores, states and arrays of a repeat are read before they are evaluated, so their outer axes must
be known first. A text reads the axes of what it names, down to inputs, but for those that a fold
around binds. The answer may be a little too large; it is never too small.
"""

from __future__ import annotations

from collections.abc import Iterable

from attnc import syntax
from attnc.check.bodies import (
    ArrayEntity,
    BlockEntity,
    Body,
    Entity,
    EquationEntity,
    InputEntity,
    RepeatEntity,
    StateEntity,
    is_outer,
)
from attnc.check.checker import Checker
from attnc.expressions.index import Axis, Index

Axes = frozenset[Axis]


def outer_indices(checker: Checker, body: Body, nodes: Iterable[syntax.Node]) -> tuple[Index, ...]:
    """The outer indices of what the nodes read, in order; of a group and its heads, the heads."""
    axes = scan(body, nodes)
    kept = {axis for axis in axes if axis.of not in axes}
    groups = [axis for axis in kept if axis.form == "coarse"]
    for axis in groups:
        if any(other is not axis and other.of is axis.of for other in groups):
            kept.discard(axis)
            if axis.of is not None:
                kept.add(axis.of)
    for axis in kept:
        checker.outer_index(axis)
    return tuple(index for index in checker.outer_in_order() if index.axis in kept)


def scan(body: Body, nodes: Iterable[syntax.Node]) -> Axes:
    """The outer axes that expressions of a body read."""
    found: set[Axis] = set()
    stack: list[tuple[syntax.Node, frozenset[str]]] = [(node, frozenset()) for node in nodes]
    while stack:
        node, bound = stack.pop()
        if isinstance(node, syntax.Name):
            found |= _unbound(_named(body, node.name), bound)
            continue
        if isinstance(node, syntax.Fold):
            names = {binder.name.name for source in node.sources for binder in source}
            bound = bound | names
            stack += [(arg, bound) for arg in node.args]
            if node.condition is not None:
                stack.append((node.condition, bound))
            continue
        if isinstance(node, syntax.Call):
            stack += [(arg, bound) for arg in node.args]
        elif isinstance(node, syntax.Named):
            stack.append((node.value, bound))
        elif isinstance(node, syntax.Member):
            stack.append((node.base, bound))
        elif isinstance(node, syntax.Binder):
            if node.bound is not None:
                stack.append((node.bound, bound))
        elif isinstance(node, syntax.Define | syntax.Emit):
            stack.append((node.expr, bound))
            found |= _left(body, node.binders)
        else:
            stack += [(child, bound) for child in syntax.children(node)]
    return frozenset(found)


def _unbound(axes: Axes, bound: frozenset[str]) -> Axes:
    """The axes without those that a fold binds: a group is bound with its heads."""
    return frozenset(
        axis
        for axis in axes
        if axis.name not in bound and not (axis.of is not None and axis.of.name in bound)
    )


def _left(body: Body, binders: Iterable[syntax.Binder] | None) -> Axes:
    axes = (body.find_axis(binder.name.name) for binder in binders or ())
    return frozenset(axis for axis in axes if axis is not None and is_outer(axis))


def _named(body: Body, name: str) -> Axes:
    """The outer axes of a name: of an entity, of a clause, of an outer index itself."""
    for each in body.chain():
        entity = each.entities.get(name)
        if entity is not None:
            return _entity(entity)
        if name in ("score", "weight") and each.sources:
            return _remembered(each, name, _clauses(each, name))
    axis = body.find_axis(name)
    return frozenset((axis,)) if axis is not None and is_outer(axis) else frozenset()


def _clauses(body: Body, name: str) -> list[syntax.Node]:
    kinds = ("mask", "score") if name == "score" else ("mask", "score", "normalize")
    return [clause.expr for clause in body.clauses if clause.kind in kinds]


def _remembered(body: Body, key: object, nodes: Iterable[syntax.Node]) -> Axes:
    """A scan that is made once; one that meets itself adds nothing."""
    if key not in body.scanned:
        body.scanned[key] = frozenset()
        body.scanned[key] = scan(body, nodes)
    return body.scanned[key]


def _entity(entity: Entity) -> Axes:
    body = entity.body
    if isinstance(entity, InputEntity):
        array = entity.array
        return frozenset(a for a in array.axes if is_outer(a)) if array is not None else frozenset()
    if isinstance(entity, EquationEntity) and entity.node is not None:
        return _remembered(body, entity, (entity.node,))
    if isinstance(entity, RepeatEntity) and entity.group is not None:
        return _remembered(body, entity.group, (*entity.group.first, entity.group.node))
    if isinstance(entity, StateEntity):
        return frozenset(_remembered(body, "states", _state_texts(body)) | _declared(entity))
    if isinstance(entity, BlockEntity) and entity.node is not None:
        if entity.inner is not None:
            operator = entity.inner.operator
            found = _remembered(entity.inner, "all", operator.statements)
            return found | _remembered(entity.inner, "read", _default_read(entity.inner))
        nodes: tuple[syntax.Node, ...] = (entity.node,)
        if isinstance(entity.node, syntax.Operator):
            nodes = entity.node.statements
        return _remembered(body, entity, nodes)
    if isinstance(entity, ArrayEntity) and body.update is not None:
        return _remembered(body, "states", _state_texts(body))
    return frozenset()


def _default_read(body: Body) -> list[syntax.Node]:
    if any(clause.kind == "read" for clause in body.clauses):
        return []
    return [syntax.Name(body.operator.span, "v")]


def _state_texts(body: Body) -> list[syntax.Node]:
    nodes: list[syntax.Node] = [body.update] if body.update is not None else []
    for state in body.states:
        if state.declared is not None and state.declared.default is not None:
            nodes.append(state.declared.default)
    return nodes


def _declared(entity: StateEntity) -> Axes:
    assert entity.declared is not None
    return _left(entity.body, entity.declared.dims)


def state_outer(checker: Checker, body: Body) -> tuple[Index, ...]:
    """The outer indices of the states of a body that name none themselves."""
    return outer_indices(checker, body, _state_texts(body))
