"""Which outer axes a text reads, found without evaluating it.

Scores, states and arrays of a repeat are read before they are evaluated, so their outer axes must
be known first. A text reads the axes of what it names, down to inputs, but for those that a fold
around binds. The answer may be a little too large; it is never too small.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Request:
    """A scan of some texts of a body, made once and kept under `key`."""

    body: Body
    key: Hashable
    nodes: tuple[syntax.Node, ...]


Scan = Generator[Request, Axes, Axes]


def scan(body: Body, nodes: Iterable[syntax.Node]) -> Axes:
    """The outer axes that expressions of a body read.

    A scan asks for others and is sent their answers, so that a long chain of equations needs no
    deep stack. One that meets itself adds nothing."""
    running: list[tuple[Request | None, Scan]] = [(None, _scan(body, nodes))]
    answer: Axes | None = None
    while running:
        request, asking = running[-1]
        try:
            asked = next(asking) if answer is None else asking.send(answer)
        except StopIteration as stop:
            answer = stop.value
            running.pop()
            if request is not None:
                request.body.scanned[request.key] = stop.value
            continue
        answer = asked.body.scanned.get(asked.key)
        if answer is None:
            asked.body.scanned[asked.key] = frozenset()
            running.append((asked, _scan(asked.body, asked.nodes)))
    assert answer is not None
    return answer


def _scan(body: Body, nodes: Iterable[syntax.Node]) -> Scan:
    found: set[Axis] = set()
    stack: list[tuple[syntax.Node, frozenset[str]]] = [(node, frozenset()) for node in nodes]
    while stack:
        node, bound = stack.pop()
        if isinstance(node, syntax.Name):
            axes, requests = _named(body, node.name)
            for request in requests:
                axes |= yield request
            found |= _unbound(axes, bound)
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


def _named(body: Body, name: str) -> tuple[Axes, list[Request]]:
    """The outer axes of a name: of an entity, of a clause, of an outer index itself; those that are
    known, and the scans that find the others."""
    for each in body.chain():
        entity = each.entities.get(name)
        if entity is not None:
            return _entity(entity)
        if name in ("score", "weight") and each.sources:
            return frozenset(), [Request(each, name, tuple(_clauses(each, name)))]
    axis = body.find_axis(name)
    outer = axis is not None and is_outer(axis)
    return frozenset((axis,)) if outer and axis is not None else frozenset(), []


def _clauses(body: Body, name: str) -> list[syntax.Node]:
    kinds = ("mask", "score") if name == "score" else ("mask", "score", "normalize")
    return [clause.expr for clause in body.clauses if clause.kind in kinds]


def _entity(entity: Entity) -> tuple[Axes, list[Request]]:
    body = entity.body
    none: Axes = frozenset()
    if isinstance(entity, InputEntity):
        axes = entity.array.axes if entity.array is not None else ()
        return frozenset(axis for axis in axes if is_outer(axis)), []
    if isinstance(entity, EquationEntity) and entity.node is not None:
        return none, [Request(body, entity, (entity.node,))]
    if isinstance(entity, RepeatEntity) and entity.group is not None:
        group = entity.group
        return none, [Request(body, group, (*group.first, group.node))]
    if isinstance(entity, StateEntity):
        return _declared(entity), [Request(body, "states", tuple(_state_texts(body)))]
    if isinstance(entity, BlockEntity) and entity.node is not None:
        if entity.inner is not None:
            inner = entity.inner
            whole = Request(inner, "all", inner.operator.statements)
            return none, [whole, Request(inner, "read", tuple(_default_read(inner)))]
        nodes: tuple[syntax.Node, ...] = (entity.node,)
        if isinstance(entity.node, syntax.Operator):
            nodes = entity.node.statements
        return none, [Request(body, entity, nodes)]
    if isinstance(entity, ArrayEntity) and body.update is not None:
        return none, [Request(body, "states", tuple(_state_texts(body)))]
    return none, []


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
