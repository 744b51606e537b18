"""Calls of defs: their text is expanded at the call, and parameters are evaluated where they stand.

A parameter is the syntax of its argument with the environment of the call; a def's index stands for
its caller's binders, so that a parameter read under `sum(j: s)` or as `s[l]` is evaluated anew at
the index of the fold. Local equations with indices, and `solve`, become definitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from attnc import syntax
from attnc.check import messages as m
from attnc.check.arrays import inside, is_on, subscripts
from attnc.check.binders import (
    Binding,
    Formal,
    bind,
    binder_axes,
    caller_view,
    condition_value,
    domain_at,
)
from attnc.check.bodies import ArrayEntity
from attnc.check.checker import MAX_EXPANSIONS, Checker, TooMuch
from attnc.check.library import Library
from attnc.check.values import Bound, Environment, Need, Part, Value, join_needs
from attnc.check.vectors import fill_from, read_vector
from attnc.source import Span

MAX_EXPANSION = 24  # defs inside one another


@dataclass(frozen=True, slots=True, eq=False)
class Closure:
    """The argument of a parameter: evaluated in the environment of the call, a default in the
    def's."""

    node: syntax.Expression
    is_default: bool


@dataclass(frozen=True, slots=True, eq=False)
class Local:
    """A local without indices: its text, and where the def's indices stood for its value. Where
    they are bound again (`sum(j: w)`), it is what its text says there."""

    closure: Closure
    standing: tuple[object, ...]


@dataclass(eq=False)
class Frame:
    """One expansion of a def.

    caller    the environment of the call
    local     values and arrays of its statements; `texts` of those that are names for a value
    chain     names of the defs around this one, outermost first
    call_sites   where the defs of the chain were called
    """

    definition: syntax.Def
    caller: Environment
    library: Library
    chain: tuple[str, ...]
    call_sites: tuple[tuple[str, int], ...] = ()
    formals: dict[str, Formal] = field(default_factory=dict)
    parameters: dict[str, Closure] = field(default_factory=dict)
    local: dict[str, Value | ArrayEntity | None] = field(default_factory=dict)
    texts: dict[str, Local] = field(default_factory=dict)
    vectors: dict[str, Value] = field(default_factory=dict)  # arguments with something left over
    reached: set[str] = field(default_factory=set)  # arguments that depend on an index of the def


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


# ------------------------------------------------------------------------------ reading parameters


def read_parameter(
    checker: Checker, name: str, closure: Closure, env: Environment, raw: bool = False
) -> Value | None:
    """A parameter where it stands: its argument, evaluated with the def's indices as they are."""
    frame = env.frame
    assert frame is not None
    key = (closure, _standing_key(frame, env), tuple(fact.digest for fact in env.facts))
    if key in checker.memo:
        return _noted(frame, name, checker.memo[key], env)  # type: ignore[arg-type]
    if closure.is_default:
        inner = replace(env, bounds={n: b for n, b in env.bounds.items() if n in frame.formals})
    else:
        inner = caller_view(env)
    value = checker.evaluate(closure.node, inner)
    checker.memo[key] = value
    return value if closure.is_default else _noted(frame, name, value, env)


def _noted(frame: Frame, name: str, value: Value | None, env: Environment) -> Value | None:
    """Remembers of an argument whether it depends on an index of the def, or leaves others over."""
    if value is None or name not in frame.parameters:
        return value
    own = [env.bounds[one] for one in frame.formals if one in env.bounds]
    indices = {index for bound in own for part in bound.parts for index in part.at.free}
    if value.expr.free & indices or {one.axis for one in value.over} & {
        one.axis for one in indices
    }:
        frame.reached.add(name)
    elif value.over:
        frame.vectors[name] = value
    return value


def enter_local(frame: Frame, name: str, node: syntax.Expression, env: Environment) -> None:
    """Keeps the text of a local, to be read again at other indices of the def."""
    frame.texts[name] = Local(Closure(node, True), _standing_key(frame, env))


def read_local(checker: Checker, name: str, env: Environment) -> Value | None:
    """A local without indices: its value, or what its text says where indices are bound again."""
    frame = env.frame
    assert frame is not None
    kept, text = frame.local[name], frame.texts.get(name)
    if text is not None and text.standing != _standing_key(frame, env):
        return read_parameter(checker, name, text.closure, env)
    assert not isinstance(kept, ArrayEntity)
    return kept


def _standing_key(frame: Frame, env: Environment) -> tuple[object, ...]:
    found: list[object] = []
    for name in frame.formals:
        bound = env.bounds.get(name)
        if bound is not None:
            found.append((name, bound.alternative, *(part.at.digest for part in bound.parts)))
    return tuple(found)


def parameter_at(
    checker: Checker, name: str, closure: Closure, node: syntax.At, env: Environment
) -> Value | None:
    """`s[l]`: subscripts stand for the def's indices in order, those that remain for left-over
    axes."""
    frame = env.frame
    assert frame is not None
    given = subscripts(checker, node.args, env)
    if given is None:
        return None
    moved: dict[str, Bound] = {}
    needs: list[Need] = list(given.needs)
    count = 0
    for formal, at in zip(frame.formals.values(), given.at, strict=False):
        count += 1
        bound = _moved_bound(checker, env, formal, at, node.span)
        if bound is None:
            return None
        current = binder_axes(checker, formal, bound.alternative, env) or []
        for part, axis in zip(bound.parts, current, strict=False):
            if not is_on(axis, part.at):
                needs.append(Need(inside(axis, part.at), node.span, native=False))
        moved[formal.name] = bound
    inner = env.bind(moved)
    conditions = [
        condition for name in moved for condition in domain_at(checker, frame.formals[name], inner)
    ]
    needs += [Need(condition, node.span, native=False) for condition in conditions]
    unproved = checker.drop_proved(join_needs(needs), env.facts)
    known = inner.assume(*(need.condition for need in unproved if not need.bound))
    value = read_parameter(checker, name, closure, known)
    if value is None:
        return None
    value = Value(value.expr, (*given.over, *value.over), join_needs(unproved, value.needs))
    rest = node.args[count:]
    if not rest:
        return value
    return read_vector(checker, value, rest, env, node.span, name)


def _moved_bound(
    checker: Checker, env: Environment, formal: Formal, at: Bound | Value, span: Span
) -> Bound | None:
    """Where a def's index stands for a subscript."""
    current = env.bounds.get(formal.name)
    serial = checker.next_serial()
    if isinstance(at, Bound):
        return replace(at, serial=serial)
    alternative = current.alternative if current is not None else 0
    axes = binder_axes(checker, formal, alternative, env)
    if axes is None:
        return None
    if len(axes) != 1:
        checker.report(m.group_subscript(span, formal.name))
        return None
    return Bound((Part(axes[0], at.expr),), serial, alternative)
