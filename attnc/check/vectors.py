"""Vectors: subscripts on a value, and left-over indices that are read where an index stands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attnc import syntax
from attnc.check import messages as m
from attnc.check.arrays import coordinate_needs, flatten, inside, is_on, row_major, subscripts
from attnc.check.checker import Checker
from attnc.check.values import Bound, Environment, Need, Value, join_needs
from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, position
from attnc.source import Span


def read_vector(
    checker: Checker,
    value: Value,
    args: Sequence[syntax.Argument],
    env: Environment,
    span: Span,
    what: str,
) -> Value | None:
    """Subscripts on a value: they fill its left-over axes from the left."""
    given = subscripts(checker, args, env)
    if given is None:
        return None
    wanted = flatten(given, [index.axis for index in value.over])
    if len(wanted) + len(given.named) > len(value.over):
        axes = [index.name for index in value.over]
        return checker.report(m.too_many_subscripts(span, what, len(wanted), axes, (), ()))
    moves: dict[Index, Expr] = {}
    needs: list[Need] = list(given.needs)
    rest = list(value.over)
    for name, named in given.named.items():
        found = next((index for index in rest if index.name == name), None)
        if found is None:
            names = [index.name for index in value.over]
            return checker.report(m.no_such_axis(span, name, what, names))
        rest.remove(found)
        moves[found] = named.expr
    for index, at in zip(rest, wanted, strict=False):
        if isinstance(at, Bound):
            needs += coordinate_needs(index.axis, at, span)
            at = row_major(index.axis, at)
        if not is_on(index.axis, at):
            needs.append(Need(inside(index.axis, at), span, native=False))
        moves[index] = at
    moved = value.moved(moves)
    kept = checker.drop_proved(join_needs(moved.needs, needs), env.facts)
    return Value(moved.expr, (*given.over, *moved.over), kept)


def fill_from(
    checker: Checker, value: Value, inner: Environment, env: Environment, names: Iterable[str]
) -> Value:
    """The value with the indices that `names` were bound to in `inner` read where they stand in
    `env`; those that are not in scope there stay left over."""
    moves: dict[Index, Expr] = {}
    for name in names:
        own, here = inner.bounds.get(name), env.bounds.get(name)
        if own is None:
            continue
        if here is None or len(here.parts) != len(own.parts):
            continue
        if own.alternative != here.alternative:
            continue
        for part, place in zip(own.parts, here.parts, strict=True):
            assert isinstance(part.at.attr, Index)
            moves[part.at.attr] = place.at
    moves = {index: at for index, at in moves.items() if index in value.over}
    if not moves:
        return value
    span = value.expr.span
    needs = [
        Need(inside(index.axis, at), span, native=False)
        for index, at in moves.items()
        if not is_on(index.axis, at) and span is not None
    ]
    moved = value.moved(moves)
    kept = checker.drop_proved(join_needs(moved.needs, needs), env.facts)
    return Value(moved.expr, moved.over, kept)


def fill_at(
    checker: Checker, value: Value, indices: Sequence[Index], facts: tuple[Expr, ...]
) -> Value:
    """The value with left-over indices read at those of a left side: by name, else by axis."""
    moves: dict[Index, Expr] = {}
    taken: list[Index] = []
    for by_name in (True, False):
        for index in value.over:
            if index in moves:
                continue
            for other in indices:
                same = other.name == index.name or not by_name
                if same and other.axis is index.axis and other not in taken:
                    moves[index] = position(other)
                    taken.append(other)
                    break
    if not moves:
        return value
    moved = value.moved(moves)
    return Value(moved.expr, moved.over, checker.drop_proved(moved.needs, facts))
