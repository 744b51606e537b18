"""Calls of defs: their text is expanded at the call, and parameters are evaluated where they stand
(parameters). Local equations with indices, and `solve`, become definitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attnc import syntax
from attnc.check import messages as m
from attnc.check.binders import (
    Binding,
    Formal,
    bind,
    caller_view,
    condition_value,
)
from attnc.check.checker import MAX_EXPANSIONS, Checker, TooMuch
from attnc.check.library import Library
from attnc.check.parameters import Closure, Frame
from attnc.check.values import Bound, Environment, Need, Value, join_needs
from attnc.check.vectors import fill_from

MAX_EXPANSION = 24  # defs inside one another


def expand(
    checker: Checker,
    node: syntax.Call | syntax.Fold,
    definition: syntax.Def,
    library: Library,
    env: Environment,
    raw: bool,
) -> Value | None:
    """The value of a call of a def; None after an error."""
    name = definition.name.name
    chain = env.frame.chain if env.frame is not None else ()
    if name in chain:
        cycle = (*chain[chain.index(name) :], name)
        return checker.report(m.recursion(node.function.span, cycle))
    if len(chain) >= MAX_EXPANSION:
        return checker.report(m.expansion_too_deep(node.function.span, MAX_EXPANSION))
    checker.expansions += 1
    if checker.expansions > MAX_EXPANSIONS:
        checker.report(m.expression_too_large(node.span, f"{MAX_EXPANSIONS} calls of defs"))
        raise TooMuch
    sites = env.frame.call_sites if env.frame is not None else ()
    site = (node.span.source.name, node.span.start)
    frame = Frame(definition, env, library, (*chain, name), (*sites, site))
    if not _parameters(checker, frame, node) or not _formals(checker, frame, node):
        return None
    opened = _open(checker, frame, node, env)
    if opened is None:
        return None
    start = replace(env, frame=frame, bounds={}, facts=(*env.facts, *opened.conditions)).bind(
        {n: b for n, b in opened.env.bounds.items() if n in frame.formals}
    )
    checker.sites.append((node.span, name))
    fine = checker.statements(frame, start)
    value = checker.evaluate(definition.result, start) if fine else None
    checker.sites.pop()
    if value is None:
        return None
    if env.frame is None and frame.vectors and not frame.reached and _is_whole(node):
        _warn_untouched(checker, frame, node)
    return _leave(checker, frame, node, value, opened, env, raw)


def _is_whole(node: syntax.Call | syntax.Fold) -> bool:
    """Whether a fold goes over all of its axis."""
    return isinstance(node, syntax.Fold) and node.condition is None


def _warn_untouched(checker: Checker, frame: Frame, node: syntax.Call | syntax.Fold) -> None:
    """A def that folds over an axis which its arguments, vectors over others, do not have."""
    binders = [binder.name.name for source in _sources(node) for binder in source]
    name, value = next(iter(frame.vectors.items()))
    closure = frame.parameters[name]
    axes = [index.name for index in value.over]
    title = frame.definition.name.name
    checker.report(m.fold_beside(node.span, title, binders, closure.node.span.text, axes))


def _leave(
    checker: Checker,
    frame: Frame,
    node: syntax.Call | syntax.Fold,
    value: Value,
    opened: Binding,
    env: Environment,
    raw: bool,
) -> Value:
    """The value outside the def: indices of the def that it still depends on are left over, over
    their domain, or read at the index in scope of their name."""
    left = tuple(index for index in opened.indices if index in value.expr.free)
    needs = list(value.needs)
    for condition in opened.conditions:
        if condition.free & set(left):
            needs.append(Need(condition, node.span, native=False))
    needs += opened.needs if left else ()
    kept = tuple(
        need
        for need in needs
        if not (need.condition.free - set(left) - set(need.bound)) & set(opened.indices)
    )
    over = (*left, *(index for index in value.over if index not in left))
    result = Value(value.expr, over, join_needs(kept))
    if raw:
        return result
    binders = [binder.name.name for source in _sources(node) for binder in source]
    inner = _standing(frame, opened, env)
    return fill_from(checker, result, inner, env, binders)


def _standing(frame: Frame, opened: Binding, env: Environment) -> Environment:
    """The call's environment with its binders where the def's indices stand at its start."""
    names = {name: b for name, b in opened.env.bounds.items() if name in frame.formals}
    start = replace(env, frame=frame, bounds=names)
    return caller_view(start)


def _sources(node: syntax.Call | syntax.Fold) -> tuple[tuple[syntax.Binder, ...], ...]:
    return node.sources if isinstance(node, syntax.Fold) else ()


# ------------------------------------------------------------------------- parameters and indices


def _parameters(checker: Checker, frame: Frame, node: syntax.Call | syntax.Fold) -> bool:
    """Matches arguments with parameters: in order, then by name; the rest have defaults."""
    definition = frame.definition
    names = [parameter.name.name for parameter in definition.parameters]
    indices = [] if _sources(node) else [index.name for index in definition.indices]
    named = {arg.name.name for arg in node.args if isinstance(arg, syntax.Named)}
    if indices and (len(node.args) > len(names) or not named <= set(names)):
        # `softmax(score, dim=j)`: the index is meant to be one of the arguments.
        checker.report(m.binders_missing(node.span, definition.name.name, indices))
        return False
    place, fine = 0, True
    for arg in node.args:
        if isinstance(arg, syntax.Named):
            name = arg.name.name
            if name not in names:
                checker.report(m.unknown_keyword(arg.name.span, name, definition.name.name, names))
                fine = False
            elif name in frame.parameters:
                checker.report(m.given_twice(arg.name.span, name))
                fine = False
            else:
                frame.parameters[name] = Closure(arg.value, False)
            continue
        if place >= len(names):
            span = arg.span
            checker.report(m.too_many_arguments(span, definition.name.name, len(names)))
            return False
        frame.parameters[names[place]] = Closure(arg, False)
        place += 1
    for parameter in definition.parameters:
        name = parameter.name.name
        if name in frame.parameters:
            continue
        if parameter.default is None:
            checker.report(m.argument_missing(node.span, name, definition.name.name))
            fine = False
        else:
            frame.parameters[name] = Closure(parameter.default, True)
    return fine


def _formals(checker: Checker, frame: Frame, node: syntax.Call | syntax.Fold) -> bool:
    """Matches binders with the def's indices: a single one takes them all."""
    names = [index.name for index in frame.definition.indices]
    title = frame.definition.name.name
    if isinstance(node, syntax.Call):
        if names:
            checker.report(m.binders_missing(node.span, title, names))
        return not names
    if not names:
        checker.report(m.binders_unwanted(node.span, title))
        return False
    if len(names) == 1:
        frame.formals[names[0]] = Formal(names[0], node.sources, node.condition)
        return True
    binders = node.sources[0]
    if len(node.sources) > 1 or len(binders) != len(names):
        checker.report(m.binder_count(node.span, title, names))
        return False
    for place, (name, binder) in enumerate(zip(names, binders, strict=True)):
        condition = node.condition if place == len(names) - 1 else None
        frame.formals[name] = Formal(name, ((binder,),), condition)
    return True


def _open(
    checker: Checker, frame: Frame, node: syntax.Call | syntax.Fold, env: Environment
) -> Binding | None:
    """Binds the def's indices at its start: to fresh ones over the caller's binders. The index of a
    union stands at the source whose names are in scope, or nowhere."""
    found = Binding(env)
    if isinstance(node, syntax.Call):
        return found
    alternative = _alternative(node.sources, env)
    if alternative is None:
        return found
    inner = bind(checker, node.sources[alternative], env, _inherited(node, alternative, env))
    if inner is None:
        return None
    conditions, needs = list(inner.conditions), inner.needs
    if node.condition is not None:
        value = condition_value(checker, node.condition, inner.env.assume(*conditions))
        if value is None:
            return None
        conditions.append(value.expr)
        needs = join_needs(needs, value.needs)
    parts = [inner.env.bounds[binder.name.name].parts for binder in node.sources[alternative]]
    names = list(frame.formals)
    serial = checker.next_serial()
    if len(names) == 1:
        nested = inner.env.bounds[node.sources[alternative][0].name.name].alternative
        flat = tuple(part for group in parts for part in group)
        chosen = alternative if len(node.sources) > 1 else nested
        bounds = {names[0]: Bound(flat, serial, chosen if len(node.sources) > 1 else 0)}
    else:
        bounds = {name: Bound(group, serial) for name, group in zip(names, parts, strict=True)}
    return Binding(inner.env.bind(bounds), inner.indices, tuple(conditions), needs)


def _alternative(sources: Sequence[Sequence[syntax.Binder]], env: Environment) -> int | None:
    """The source at which an index of a call stands: the only one, or the one in scope."""
    if len(sources) == 1:
        for binder in sources[0]:
            formal = env.frame.formals.get(binder.name.name) if env.frame else None
            if formal is not None and len(formal.sources) > 1:
                return 0 if binder.name.name in env.bounds else None
        return 0
    best: tuple[int, int] | None = None
    for place, source in enumerate(sources):
        bounds = [env.bounds.get(binder.name.name) for binder in source]
        if all(bound is not None for bound in bounds):
            serial = max(bound.serial for bound in bounds if bound is not None)
            if best is None or serial > best[0]:
                best = (serial, place)
    return None if best is None else best[1]


def _inherited(node: syntax.Fold, alternative: int, env: Environment) -> dict[str, int]:
    """Where binders are indices of a def around that stand for unions: the source they are at."""
    return {
        binder.name.name: env.bounds[binder.name.name].alternative
        for binder in node.sources[alternative]
        if binder.name.name in env.bounds
    }
