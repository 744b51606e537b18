"""A def's parameters and locals where they stand.

A parameter is the syntax of its argument with the environment of the call; a def's index stands for
its caller's binders, so that a parameter read under `sum(j: s)` or as `s[l]` is evaluated anew at
the index of the fold.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from attnc import syntax
from attnc.check import messages as m
from attnc.check.arrays import inside, is_on, subscripts
from attnc.check.binders import (
    Formal,
    binder_axes,
    caller_view,
    domain_at,
)
from attnc.check.bodies import ArrayEntity
from attnc.check.checker import Checker
from attnc.check.library import Library
from attnc.check.values import Bound, Environment, Need, Part, Value, join_needs
from attnc.check.vectors import read_vector
from attnc.source import Span


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
