"""The folds that the compiler knows: sum, prod, max, min, and the selections argmax, argmin, topk
and rank. All others are defs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attnc import syntax
from attnc.check import messages as m
from attnc.check.binders import Binding, alternatives, bind, condition_value, is_dependent
from attnc.check.checker import Checker
from attnc.check.choices import settle_count
from attnc.check.operators import axes_text, cast, domain_of, join, widen
from attnc.check.values import Environment, Need, Part, Value, conjunction, join_needs
from attnc.check.vectors import fill_from
from attnc.expressions import tree
from attnc.expressions.index import Index
from attnc.expressions.tree import TRUE, Expr, call, number, position

MONOIDS = tree.MONOIDS
SELECTS = tree.SELECTS
BUILTIN = (*MONOIDS, *SELECTS)
ARGUMENTS = {"topk": 2}
JOIN = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}


def fold(checker: Checker, node: syntax.Fold, env: Environment, raw: bool) -> Value | None:
    """A builtin fold. `raw`: left-over indices of a selection are not filled by name, since
    subscripts follow."""
    name = node.function.name
    wanted = ARGUMENTS.get(name, 1)
    named = [arg for arg in node.args if isinstance(arg, syntax.Named)]
    if named or len(node.args) != wanted:
        return checker.report(m.fold_arguments(node.span, name, wanted, len(node.args)))
    if name in MONOIDS:
        return _monoid(checker, node, env)
    bindings = list(alternatives(node.sources, env))
    if len(bindings) > 1:
        return checker.report(m.union_in_selection(node.span, name))
    binders, choice = bindings[0]
    inside = _open(checker, node, binders, choice, env)
    if inside is None:
        return None
    if name in ("argmax", "argmin") and len(inside.indices) > 1:
        return checker.report(m.single_index_wanted(node.span, name))
    found = _selection(checker, node, inside, env)
    if found is None or raw:
        return found
    names = [binder.name.name for binder in binders]
    asked = dict(zip(inside.indices, found.over, strict=False))
    return fill_from(checker, found, _standing(inside.env, names, asked), env, names)


def _open(
    checker: Checker,
    node: syntax.Fold,
    binders: Sequence[syntax.Binder],
    choice: dict[str, int],
    env: Environment,
) -> Binding | None:
    """Binds a fold's indices; its `if` joins the conditions."""
    _distinct(checker, binders)
    inside = bind(checker, binders, env, choice)
    if inside is None:
        return None
    for index in inside.indices:
        if is_dependent(index.axis):
            checker.report(m.length_depends(node.span, index.name))
            return None
    if node.condition is None:
        return inside
    known = inside.env.assume(*inside.conditions)
    value = condition_value(checker, node.condition, known)
    if value is None:
        return None
    needs = tuple(need.under(inside.conditions) for need in value.needs)
    return replace(
        inside,
        conditions=(*inside.conditions, value.expr),
        needs=join_needs(inside.needs, needs),
    )


def _distinct(checker: Checker, binders: Sequence[syntax.Binder]) -> None:
    seen: set[str] = set()
    for binder in binders:
        if binder.name.name in seen:
            checker.report(m.bound_twice(binder.name.span, binder.name.name))
        seen.add(binder.name.name)


def _monoid(checker: Checker, node: syntax.Fold, env: Environment) -> Value | None:
    """sum, prod, max, min: over a union, the fold of the folds over its sources."""
    parts: list[Value] = []
    failed = False
    for binders, choice in alternatives(node.sources, env):
        inside = _open(checker, node, binders, choice, env)
        value = _folded(checker, node, inside) if inside is not None else None
        failed |= value is None
        if value is not None:
            parts.append(value)
    if failed:
        return None
    if len(parts) == 1:
        return parts[0]
    joined = join(checker, parts, node.span, node.function.name)
    if joined is None:
        return None
    exprs, over, placed = joined
    exprs = widen(exprs)
    total = exprs[0]
    for expr in exprs[1:]:
        total = call(JOIN[node.function.name], total, expr, span=node.span)
    return Value(total, over, join_needs(*(value.needs for value in placed)))


def _folded(checker: Checker, node: syntax.Fold, inside: Binding) -> Value | None:
    name = node.function.name
    conditions = inside.conditions
    body = checker.evaluate(_argument(node, 0), inside.env.assume(*conditions))
    if body is None:
        return None
    if body.kind == "bool":
        return checker.report(m.truth_folded(node.span, name))
    if body.kind == "complex" and name in ("max", "min"):
        return checker.report(m.complex_order(node.span, name))
    expr = body.expr
    if name in ("max", "min"):
        expr = cast(expr, "real")  # over nothing: -inf or inf
    needs = body.needs
    domain: list[Expr] = []
    for index in inside.indices:
        more, needs = domain_of(needs, index)
        domain += more
    condition = conjunction((*conditions, *domain))
    total = checker.fold(name, inside.indices, condition, expr)
    return Value(total, body.over, _outside(inside, needs, conditions))


def _outside(
    inside: Binding, needs: Sequence[Need], conditions: Sequence[Expr]
) -> tuple[Need, ...]:
    """Needs of a fold's body as needs of the fold: where its conditions hold, for all its
    indices."""
    bound = inside.indices
    found = []
    for need in needs:
        touched = need.condition.free & set(bound) or any(
            fact.free & set(bound) for fact in need.given
        )
        found.append(need.under(tuple(conditions), bound) if touched else need)
    return join_needs(inside.needs, found)


def _argument(node: syntax.Fold, place: int) -> syntax.Expression:
    arg = node.args[place]
    assert not isinstance(arg, syntax.Named)
    return arg


# ------------------------------------------------------------------------------------- selections


def _selection(
    checker: Checker, node: syntax.Fold, inside: Binding, env: Environment
) -> Value | None:
    name, span = node.function.name, node.span
    key = checker.evaluate(_argument(node, 0), inside.env.assume(*inside.conditions))
    count: Value | None = None
    if name == "topk":
        count = checker.evaluate(_argument(node, 1), env)
        if count is None:
            return None
        if count.kind != "int" or count.over:
            where = _argument(node, 1).span
            return checker.report(m.count_not_whole(where, where.text))
    if key is None:
        return None
    if key.kind not in ("int", "real"):
        return checker.report(m.key_not_ordered(_argument(node, 0).span, name, key.kind))
    if key.over:
        return checker.report(m.key_is_vector(_argument(node, 0).span, name, axes_text(key)))
    condition = conjunction(inside.conditions)
    needs = _outside(inside, key.needs, inside.conditions)
    bound = inside.indices
    if count is not None and condition == TRUE:
        settle_count(checker, node, bound, count.expr, env)
    if name in ("argmax", "argmin"):
        chosen = Expr(name, (condition, key.expr), bound, "int", span)
        return Value(checker.shared(chosen), (), needs)
    asked = tuple(checker.fresh(index.name, index.axis) for index in bound)
    at = tuple(position(index) for index in asked)
    middle = () if count is None else (count.expr,)
    if count is not None:
        needs = join_needs(needs, count.needs)
    kind: tree.Kind = "bool" if name == "topk" else "int"
    chosen = Expr(name, (condition, key.expr, *middle, *at), bound, kind, span)
    if name == "rank" and condition != TRUE:
        moves = {old: position(new) for old, new in zip(bound, asked, strict=True)}
        needs = (*needs, Need(tree.substitute(condition, moves), span, native=False))
    return Value(_shared_selection(checker, chosen, asked), asked, needs)


def _standing(env: Environment, names: Sequence[str], asked: dict[Index, Index]) -> Environment:
    """The bindings of a selection, standing at the indices asked for."""
    moved = {}
    for name in names:
        bound = env.bounds[name]
        parts = tuple(
            Part(part.axis, position(asked.get(part.at.attr, part.at.attr)))  # type: ignore[arg-type]
            for part in bound.parts
        )
        moved[name] = replace(bound, parts=parts)
    return env.bind(moved)


def _shared_selection(checker: Checker, node: Expr, asked: Sequence[Index]) -> Expr:
    """A selection over the bound indices of its first equal: positions asked for do not count."""
    plain = node.with_args((*node.args[: len(node.args) - len(asked)], *(number(0),) * len(asked)))
    first = checker.shared(plain)
    at = node.args[len(node.args) - len(asked) :]
    return first.with_args((*first.args[: len(first.args) - len(asked)], *at))
