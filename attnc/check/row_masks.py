"""The mask of a bound row: what restricts the keys that a fold binds."""

from __future__ import annotations

from attnc.check.arrays import outer_position
from attnc.check.bodies import ArrayEntity, Body, Source
from attnc.check.checker import Checker
from attnc.check.values import Environment
from attnc.expressions import tree
from attnc.expressions.tree import Expr


def masks_of(
    checker: Checker, env: Environment, names: dict[str, str]
) -> tuple[Environment, tuple[Expr, ...]]:
    """The masks that hold where names are bound: each name with the one whose domain it has. In the
    environment that comes back, keys of other sources are free."""
    body = env.body.attention()
    if body is None or not body.sources or not row_bound(body, env):
        return env, ()
    found: list[Expr] = []
    for source in body.sources:
        if not any(source.names.count(each) for pair in names.items() for each in pair):
            continue
        env = _other_keys_freed(body, source, env, names)
        for each in _key_choices(source, names):
            condition = visible(checker, body, source, env, each)
            if condition is not None:
                found.append(condition)
    return env, tuple(found)


def _key_choices(source: Source, names: dict[str, str]) -> list[dict[str, str]]:
    """Which bound name stands for which key: `j, l in j` of a single key j are two choices."""
    choices: list[dict[str, str]] = [{}]
    for key in source.names:
        own = [key] if key in names else [n for n, base in names.items() if base == key]
        if key in names and len(source.names) == 1:
            own = [n for n, base in names.items() if base == key]
        if own:
            choices = [{**choice, key: name} for choice in choices for name in own]
    return choices


def _other_keys_freed(
    body: Body, source: Source, env: Environment, names: dict[str, str]
) -> Environment:
    drop = {
        name
        for other in body.sources
        if other is not source
        for name in other.names
        if name not in names and name not in source.names
    }
    return env.bind({}, drop=drop) if drop else env


def row_bound(body: Body, env: Environment) -> bool:
    """Whether a row of the block is bound here."""
    if not body.rows:
        return False
    for name, index in zip(body.row_names, body.rows, strict=True):
        bound = env.bounds.get(name)
        if bound is None or bound.axis is not index.axis:
            return False
    return True


def visible(
    checker: Checker, body: Body, source: Source, env: Environment, exchange: dict[str, str]
) -> Expr | None:
    """The mask at the bound row and keys; None where there is none, or not all keys are bound."""
    moved = {key: env.bounds[name] for key, name in exchange.items() if name in env.bounds}
    env = env.bind(moved)
    if any(name not in env.bounds for name in source.names):
        return None
    entity = checker.clause(body, source, "mask")
    if entity is None or entity.array is None:
        return None
    return clause_at(checker, body, source, entity, env)


def clause_at(
    checker: Checker, body: Body, source: Source, entity: ArrayEntity, env: Environment
) -> Expr | None:
    """A clause's array read at the rows and keys in scope."""
    array = entity.array
    assert array is not None
    names = dict(zip(body.rows, body.row_names, strict=True))
    names |= dict(zip(source.keys, source.names, strict=True))
    at: list[Expr] = []
    for index in array.indices:
        if index in names:
            at.append(env.bounds[names[index]].at)
            continue
        place = outer_position(checker, index.axis, env, array.span or body.operator.span)
        if place is None:
            return None
        at.append(place)
    return tree.read(array, at)
