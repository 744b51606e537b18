"""Binders: what an index ranges over, and binding it afresh.

A def's index stands for its caller's: binding it binds the caller's binders, over the caller's
domain. A key of a bound row ranges over what the row's mask shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from attnc import syntax
from attnc.check import messages as m
from attnc.check.arrays import grouped, length_of, outer_position
from attnc.check.checker import Checker
from attnc.check.row_masks import masks_of
from attnc.check.values import Bound, Environment, Need, Value, bound_at, join_needs
from attnc.expressions import tree
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr, call, number, position


@dataclass(frozen=True, slots=True, eq=False)
class Formal:
    """An index of an expanded def: the caller's binders that it stands for (several of one source
    are a group, several sources a union), and the condition under which they were bound."""

    name: str
    sources: tuple[tuple[syntax.Binder, ...], ...]
    condition: syntax.Expression | None


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """Names bound afresh: the environment inside, the indices, and what restricts them."""

    env: Environment
    indices: tuple[Index, ...] = ()
    conditions: tuple[Expr, ...] = ()
    needs: tuple[Need, ...] = ()


def caller_view(env: Environment) -> Environment:
    """The environment of the call that a def's text is expanded for, its binders standing where the
    def's indices stand now."""
    frame = env.frame
    assert frame is not None
    view = frame.caller
    for formal in frame.formals.values():
        bound = env.bounds.get(formal.name)
        if bound is None:
            names = {binder.name.name for source in formal.sources for binder in source}
            view = view.bind({}, drop=names if len(formal.sources) > 1 else ())
            continue
        view = _stand(view, formal, bound)
    return replace(view, facts=env.facts)


def _stand(view: Environment, formal: Formal, bound: Bound) -> Environment:
    others = {
        binder.name.name
        for place, source in enumerate(formal.sources)
        if place != bound.alternative
        for binder in source
    }
    binders = formal.sources[bound.alternative]
    if len(binders) == 1 and len(bound.parts) != 1:
        names = {binders[0].name.name: replace(bound, alternative=bound.alternative)}
        return view.bind(names, drop=others)
    names = {
        binder.name.name: Bound((part,), bound.serial)
        for binder, part in zip(binders, bound.parts, strict=True)
    }
    return view.bind(names, drop=others)


# ------------------------------------------------------------------------------------- binding


def formal_of(binder: syntax.Binder, env: Environment) -> Formal | None:
    """The index of the def around that a binder binds again (`j`, or `l in j`)."""
    if env.frame is None:
        return None
    if binder.form == "plain":
        return env.frame.formals.get(binder.name.name)
    if binder.form == "within" and isinstance(binder.bound, syntax.Name):
        return env.frame.formals.get(binder.bound.name)
    return None


def alternatives(
    sources: Sequence[Sequence[syntax.Binder]], env: Environment
) -> Iterator[tuple[Sequence[syntax.Binder], dict[str, int]]]:
    """The ways to bind: one for each written source, and for each source of a def's index."""
    for binders in sources:
        choices: list[dict[str, int]] = [{}]
        for binder in binders:
            formal = formal_of(binder, env)
            if formal is not None and len(formal.sources) > 1:
                count = range(len(formal.sources))
                choices = [{**c, binder.name.name: n} for c in choices for n in count]
        for choice in choices:
            yield binders, choice


def bind(
    checker: Checker,
    binders: Sequence[syntax.Binder],
    env: Environment,
    choice: dict[str, int] | None = None,
) -> Binding | None:
    """Binds names to fresh indices; conditions are those of domains and masks."""
    found = Binding(env)
    names: dict[str, str] = {}  # name bound -> name whose domain it inherits
    for binder in binders:
        alternative = (choice or {}).get(binder.name.name, 0)
        formal = formal_of(binder, env)
        if formal is not None:
            part = _bind_formal(checker, binder, formal, alternative, found)
        else:
            part = _bind_plain(checker, binder, found)
            names[binder.name.name] = _inherited(binder)
        if part is None:
            return None
        found = part
    if env.frame is None and names:
        inner, masks = masks_of(checker, found.env, names)
        found = replace(found, env=inner, conditions=(*found.conditions, *masks))
    return found


def _inherited(binder: syntax.Binder) -> str:
    """The name whose domain a binder has: its own, or j of `l in j`."""
    if binder.form == "within" and isinstance(binder.bound, syntax.Name):
        return binder.bound.name
    return binder.name.name


def _add(found: Binding, name: str, bound: Bound, indices: Sequence[Index]) -> Binding:
    env = found.env.bind({name: bound})
    return replace(found, env=env, indices=(*found.indices, *indices))


def _bind_formal(
    checker: Checker, binder: syntax.Binder, formal: Formal, alternative: int, found: Binding
) -> Binding | None:
    """Binds a def's index afresh: the caller's binders, in the caller's environment."""
    outside = caller_view(found.env)
    for place, source in enumerate(formal.sources):
        if place != alternative:
            outside = outside.bind({}, drop=[each.name.name for each in source])
    inner = bind(checker, formal.sources[alternative], outside, None)
    if inner is None:
        return None
    conditions, needs = list(inner.conditions), list(inner.needs)
    if formal.condition is not None:
        value = condition_value(checker, formal.condition, inner.env.assume(*inner.conditions))
        if value is None:
            return None
        conditions.append(value.expr)
        needs += value.needs
    names = [each.name.name for each in formal.sources[alternative]]
    parts = tuple(part for name in names for part in inner.env.bounds[name].parts)
    bound = Bound(parts, checker.next_serial(), alternative)
    added = _add(found, binder.name.name, bound, inner.indices)
    return replace(
        added,
        conditions=(*found.conditions, *conditions),
        needs=join_needs(found.needs, needs),
    )


def _bind_plain(checker: Checker, binder: syntax.Binder, found: Binding) -> Binding | None:
    name = binder.name.name
    axis = binder_axis(checker, binder, found.env)
    if axis is None:
        return None
    index = checker.fresh(name, axis)
    added = _add(found, name, bound_at(index, checker.next_serial()), (index,))
    if binder.form != "of":
        return added
    assert isinstance(binder.bound, syntax.Name)
    return _members(checker, binder.bound, axis, index, added, found.env)


def _members(
    checker: Checker,
    group: syntax.Name,
    axis: Axis,
    index: Index,
    added: Binding,
    env: Environment,
) -> Binding | None:
    """`h of hk`: the heads that belong to the group in scope."""
    coarse = env.body.find_axis(group.name)
    if coarse is None or coarse.form != "coarse" or coarse.of is not axis:
        checker.report(m.not_coarse(group.span, group.name, axis.name))
        return None
    here = outer_position(checker, coarse, env, group.span)
    assert here is not None  # outer axes are bound wherever a body's text is evaluated
    belongs = call("eq", grouped(coarse, position(index)), here)
    return replace(added, conditions=(*added.conditions, belongs))


def binder_axis(checker: Checker, binder: syntax.Binder, env: Environment) -> Axis | None:
    """The axis that a binder's index ranges over; None after an error."""
    name = binder.name.name
    if binder.form in ("plain", "of"):
        axis = _named_axis(env, name)
        if axis is None:
            known = _axes_known(env)
            checker.report(m.unknown_axis(binder.name.span, name, known, env.frame is not None))
        return axis
    if binder.form == "within" and isinstance(binder.bound, syntax.Name):
        base = binder.bound
        bound = env.bounds.get(base.name)
        axis = bound.axis if bound is not None else _named_axis(env, base.name)
        if axis is None:
            checker.report(m.unknown_axis(base.span, base.name, _axes_known(env), False))
        return axis
    return range_of(checker, name, binder.bound, env)


def range_of(
    checker: Checker, name: str, node: syntax.Expression | None, env: Environment
) -> Axis | None:
    """The axis of `name < node` or `name in low .. high`."""
    assert node is not None
    if isinstance(node, syntax.RangeExpr):
        low, high = _bound(checker, node.low, env), _bound(checker, node.high, env)
        if low is None or high is None:
            return None
        return checker.range_axis(name, low, _difference(high, low))
    length = _bound(checker, node, env)
    return None if length is None else checker.range_axis(name, None, length)


def _difference(high: Expr, low: Expr) -> Expr:
    if isinstance(high.attr, int) and isinstance(low.attr, int):
        return number(high.attr - low.attr)
    return high if tree.is_number(low, 0) else call("sub", high, low)


def _bound(checker: Checker, node: syntax.Expression, env: Environment) -> Expr | None:
    value = checker.evaluate(node, env)
    if value is None:
        return None
    if value.kind != "int" or value.over:
        return checker.report(m.length_not_whole(node.span, node.span.text))
    return value.expr


def _named_axis(env: Environment, name: str) -> Axis | None:
    if env.frame is not None:
        return None
    bound = env.bounds.get(name)
    axis = env.body.find_axis(name)
    return axis if axis is not None else bound.axis if bound is not None else None


def _axes_known(env: Environment) -> list[str]:
    if env.frame is not None:
        return list(env.frame.formals)
    return [name for body in env.body.chain() for name in body.axes]


def condition_value(checker: Checker, node: syntax.Expression, env: Environment) -> Value | None:
    """A condition: one truth value."""
    value = checker.evaluate(node, env)
    if value is None:
        return None
    if value.kind != "bool":
        return checker.report(m.condition_wanted(node.span, "if", value.kind))
    if value.over:
        names = ", ".join(index.name for index in value.over)
        return checker.report(m.condition_is_vector(node.span, names))
    return value


def is_dependent(axis: Axis) -> bool:
    """Whether an axis' length depends on an index: nothing can be folded over it."""
    length, low = length_of(axis), axis.low
    return bool(length.free) or (low is not None and bool(low.free))


# ------------------------------------------------------------------------------- domains of names


def binder_axes(
    checker: Checker, formal: Formal, alternative: int, env: Environment
) -> list[Axis] | None:
    """The axes that a def's index ranges over in one of its sources."""
    current = env.bounds.get(formal.name)
    if current is not None and current.alternative == alternative:
        return [part.axis for part in current.parts]
    outside = caller_view(env)
    axes: list[Axis] = []
    for binder in formal.sources[alternative]:
        inner = formal_of(binder, outside)
        if inner is not None:
            found = binder_axes(checker, inner, 0, outside)
            if found is None:
                return None
            axes += found
            continue
        axis = binder_axis(checker, binder, outside)
        if axis is None:
            return None
        axes.append(axis)
    return axes


def domain_at(checker: Checker, formal: Formal, env: Environment) -> list[Expr]:
    """What must hold where a def's index stands: its caller's masks and conditions."""
    bound = env.bounds.get(formal.name)
    if bound is None:
        return []
    outside = caller_view(env)
    found: list[Expr] = []
    names: dict[str, str] = {}
    for binder in formal.sources[bound.alternative]:
        inner = formal_of(binder, outside)
        if inner is not None and outside.frame is not None:
            found += domain_at(checker, outside.frame.formals[inner.name], outside)
        elif outside.frame is None:
            names[binder.name.name] = _inherited(binder)
    if names:
        found += masks_of(checker, outside, names)[1]
    if formal.condition is not None:
        value = condition_value(checker, formal.condition, outside.assume(*found))
        if value is not None:
            found.append(value.expr)
    return found
