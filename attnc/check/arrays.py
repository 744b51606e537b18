"""Reads: of arrays, of the clauses of a block, of vectors, and of a def's parameter at another
index.

Subscripts fill the inner axes from the left; outer axes, and inner ones without a subscript, are
filled by the index in scope of their name; what remains is left over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attnc import syntax
from attnc.check import messages as m
from attnc.check.bodies import ArrayEntity, Body, Source, is_outer
from attnc.check.checker import Checker
from attnc.check.values import Bound, Environment, Need, Part, Value, join_needs
from attnc.expressions import tree
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, Expr, call, number, position
from attnc.source import Span

CLAUSES = ("score", "weight")


# --------------------------------------------------------------------------------- lengths, starts


def length_of(axis: Axis) -> Expr:
    """The length of an axis as an expression: of a range its formula, of a product the product."""
    if axis.form == "product":
        found = length_of(axis.parts[0])
        for part in axis.parts[1:]:
            found = call("mul", found, length_of(part))
        return found
    return axis.length if axis.length is not None else tree.length(axis)


def start_of(axis: Axis) -> Expr:
    """The first position of an axis: 0, the low end of a range, or what the call shifts it to."""
    if axis.low is not None:
        return axis.low
    return tree.start(axis) if axis.shifted else number(0)


def inside(axis: Axis, at: Expr) -> Expr:
    """Whether a position is on an axis."""
    low = start_of(axis)
    end = length_of(axis) if tree.is_number(low, 0) else call("add", low, length_of(axis))
    return call("and", call("ge", at, low), call("lt", at, end))


def is_on(axis: Axis, at: Expr) -> bool:
    """Whether a position is an index of the axis itself, so inside without a proof."""
    return at.op == "index" and isinstance(at.attr, Index) and at.attr.axis is axis


# ------------------------------------------------------------------------------------- outer axes


def outer_position(checker: Checker, axis: Axis, env: Environment, span: Span) -> Expr | None:
    """Where an outer axis is read from here; None where no index of its name is in scope."""
    own = env.bounds.get(axis.name)
    if axis.form != "coarse":
        if own is not None and own.serial == 0:
            for coarse in checker.coarse_of(axis):
                group = env.bounds.get(coarse.name)
                if group is not None and group.serial > 0:
                    checker.report(m.head_of_group(span, axis.name, coarse.name))
        return own.at if own is not None else None
    assert axis.of is not None
    fine = env.bounds.get(axis.of.name)
    if own is not None and (fine is None or own.serial >= fine.serial):
        return own.at
    return grouped(axis, fine.at) if fine is not None else None


def grouped(coarse: Axis, at: Expr) -> Expr:
    """The member of a coarse axis to which a head belongs: h // (len(h) // len(hk))."""
    assert coarse.of is not None
    size = call("floordiv", length_of(coarse.of), length_of(coarse))
    return call("floordiv", at, size)


# -------------------------------------------------------------------------------------- subscripts


@dataclass(frozen=True, slots=True)
class Subscripts:
    """The positions in brackets: in order, and by name."""

    at: tuple[Bound | Value, ...]
    named: dict[str, Value]
    over: tuple[Index, ...] = ()
    needs: tuple[Need, ...] = ()
    spans: tuple[Span, ...] = ()


def subscripts(
    checker: Checker, args: Sequence[syntax.Argument], env: Environment
) -> Subscripts | None:
    """Evaluates what stands in brackets: whole numbers, names of groups, coordinates."""
    at: list[Bound | Value] = []
    named: dict[str, Value] = {}
    values: list[Value] = []
    failed = False
    for arg in args:
        group = env.bounds.get(arg.name) if isinstance(arg, syntax.Name) else None
        if group is not None:
            at.append(group)
            continue
        items = arg.items if isinstance(arg, syntax.Tuple) else (arg,)
        nodes = [item.value if isinstance(item, syntax.Named) else item for item in items]
        found = [value for node in nodes if (value := whole(checker, node, env)) is not None]
        values += found
        if len(found) < len(nodes):
            failed = True
        elif isinstance(arg, syntax.Tuple):
            at.append(Bound(tuple(Part(ANY, value.expr) for value in found)))
        elif isinstance(arg, syntax.Named):
            named[arg.name.name] = found[0]
        else:
            at.append(found[0])
    if failed:
        return None
    over = tuple(dict.fromkeys(index for value in values for index in value.over))
    needs = join_needs(*(value.needs for value in values))
    return Subscripts(tuple(at), named, over, needs, tuple(arg.span for arg in args))


def whole(checker: Checker, node: syntax.Expression, env: Environment) -> Value | None:
    """A position: the expression must be an int."""
    value = checker.evaluate(node, env)
    if value is None:
        return None
    if value.kind != "int":
        return checker.report(m.index_not_whole(node.span, node.span.text, value.kind))
    return value


ANY = Axis("coordinates")


def linear(group: Sequence[Part]) -> Expr:
    """The position of a group as one number, row-major."""
    found = group[0].at
    for part in group[1:]:
        found = call("add", call("mul", found, length_of(part.axis)), part.at)
    return found


# ------------------------------------------------------------------------------------------ reads


def read_array(
    checker: Checker,
    entity: ArrayEntity,
    args: Sequence[syntax.Argument],
    env: Environment,
    fill: Environment,
    span: Span,
) -> Value | None:
    """`entity[args]`: subscripts are evaluated in `env`, others filled by the names in `fill`."""
    array = checker.demand(entity)
    known = array is None or _axes_known(checker, array, args, span)
    given = subscripts(checker, args, env)
    if array is None or given is None or not known:
        return None
    places = _place(checker, array, given, span, (*entity.context, *entity.rows))
    if places is None:
        return None
    at: list[Expr] = []
    left: list[Index] = []
    needs: list[Need] = list(given.needs)
    for place, index in enumerate(array.indices):
        found = places.get(place)
        if isinstance(found, Bound):
            needs += coordinate_needs(index.axis, found, span)
            found = row_major(index.axis, found)
        if found is None and index in entity.context:
            found = position(index)
        elif found is None:
            found = _fill(checker, index, entity.label(place), fill, span)
        if found is None:
            fresh = checker.fresh(entity.label(place), index.axis)
            left.append(fresh)
            found = position(fresh)
        elif not is_on(index.axis, found) and not (
            index.axis.form == "coarse" and place not in places
        ):
            needs.append(Need(inside(index.axis, found), span, native=True))
        at.append(found)
    value = tree.read(array, at, span)
    moves = dict(zip(array.indices, at, strict=True))
    needs += [need.moved(moves) for need in entity.needs]
    kept = checker.drop_proved(join_needs(needs), env.facts)
    return Value(value, (*given.over, *left), kept)


def _axes_known(
    checker: Checker, array: Array, args: Sequence[syntax.Argument], span: Span
) -> bool:
    """Whether each axis that a subscript names is one of the array's; told before what stands
    there is looked at, which is often a name that the axis was to introduce."""
    names = {name for index in array.indices for name in (index.name, index.axis.name)}
    wrong = [a.name.name for a in args if isinstance(a, syntax.Named) and a.name.name not in names]
    for name in wrong:
        checker.report(
            m.no_such_axis(span, name, array.name, [index.name for index in array.indices])
        )
    return not wrong


def _fill(checker: Checker, index: Index, label: str, fill: Environment, span: Span) -> Expr | None:
    """The index in scope of a dimension's name; of an outer axis the one that stands for it where
    the name is the axis' own, or nobody has it."""
    bound = fill.bounds.get(label)
    if bound is not None and len(bound.parts) != 1:
        bound = None
    renamed = label != index.axis.name and bound is not None and bound.axis == index.axis
    if is_outer(index.axis) and not renamed:
        return outer_position(checker, index.axis, fill, span)
    return None if bound is None else bound.at


def _place(
    checker: Checker, array: Array, given: Subscripts, span: Span, context: tuple[Index, ...]
) -> dict[int, Expr | Bound] | None:
    """Which dimension each subscript is for."""
    places: dict[int, Expr | Bound] = {}
    names = [index.name for index in array.indices]
    for name, value in given.named.items():
        fitting = [
            place
            for place, index in enumerate(array.indices)
            if name in (index.name, index.axis.name) and place not in places
        ]
        if not fitting:
            checker.report(m.no_such_axis(span, name, array.name, names))
            return None
        places[fitting[0]] = value.expr
    inner = [
        place
        for place, index in enumerate(array.indices)
        if not is_outer(index.axis) and place not in places and index not in context
    ]
    wanted = flatten(given, [array.indices[place].axis for place in inner])
    if len(wanted) > len(inner):
        return _too_many(checker, array, given, len(inner), span)
    places.update(zip(inner, wanted, strict=False))
    return places


def flatten(given: Subscripts, axes: Sequence[Axis]) -> list[Expr | Bound]:
    """Subscripts in order; a group gives one for each of its indices, coordinates stay together."""
    found: list[Expr | Bound] = []
    for each in given.at:
        if isinstance(each, Value):
            found.append(each.expr)
        elif each.parts[0].axis is ANY:
            found.append(each)
        else:
            found += [part.at for part in each.parts]
    return found


def _too_many(
    checker: Checker, array: Array, given: Subscripts, inner: int, span: Span
) -> dict[int, Expr | Bound] | None:
    """The message for more subscripts than inner axes: an outer axis was written, as a rule."""
    outer_names = [index.name for index in array.indices if is_outer(index.axis)]
    for place in given.spans:
        if place.text in outer_names:
            return checker.report(m.outer_axis_in_brackets(place, array.name, place.text))
    axes = [index.name for index in array.indices if not is_outer(index.axis)]
    extra = [place.text for place in given.spans if place.text in ("b", "h", "hk")]
    said = m.too_many_subscripts(span, array.name, len(given.at), axes, outer_names, extra)
    return checker.report(said)


def row_major(axis: Axis, group: Bound) -> Expr:
    if axis.form != "product":
        return linear(group.parts) if group.parts[0].axis is not ANY else group.parts[0].at
    parts = [Part(part, each.at) for part, each in zip(axis.parts, group.parts, strict=False)]
    low = [start_of(part.axis) for part in parts]
    moved = [
        Part(part.axis, part.at if tree.is_number(first, 0) else call("sub", part.at, first))
        for part, first in zip(parts, low, strict=True)
    ]
    return linear(moved)


def coordinate_needs(axis: Axis, group: Bound, span: Span) -> list[Need]:
    if axis.form != "product" or group.parts[0].axis is not ANY:
        return []
    return [
        Need(inside(part, each.at), span, native=False)
        for part, each in zip(axis.parts, group.parts, strict=False)
        if not is_on(part, each.at)
    ]


# --------------------------------------------------------------------------- clauses: score, weight


def source_in_scope(body: Body, env: Environment, span: Span) -> Source | None:
    """The source whose key is bound here: with several, the one bound last; without, the only."""
    best: tuple[int, Source] | None = None
    for source in body.sources:
        bounds = [env.bounds.get(name) for name in source.names]
        if all(bound is not None for bound in bounds):
            serial = max(bound.serial for bound in bounds if bound is not None)
            if best is None or serial > best[0]:
                best = (serial, source)
    if best is not None:
        return best[1]
    return body.sources[0] if len(body.sources) == 1 else None


def read_clause(
    checker: Checker,
    body: Body,
    kind: str,
    args: Sequence[syntax.Argument],
    env: Environment,
    fill: Environment,
    span: Span,
) -> Value | None:
    """`score` or `weight` of the block around: -inf or 0 outside the mask."""
    source = source_in_scope(body, fill, span)
    if source is None:
        names = [source.names[0] for source in body.sources]
        return checker.report(m.which_source(span, kind, names))
    entity = checker.clause(body, source, kind)
    if entity is None:
        return None
    value = read_array(checker, entity, args, env, fill, span)
    hidden = checker.clause(body, source, "mask")
    if value is None or hidden is None or hidden.array is None:
        return value
    return masked(checker, value, entity, hidden, kind, env)


def masked(
    checker: Checker,
    value: Value,
    entity: ArrayEntity,
    hidden: ArrayEntity,
    kind: str,
    env: Environment,
) -> Value:
    """The value where the mask holds, else -inf (score) or 0."""
    assert entity.array is not None and hidden.array is not None
    places = {index: at for index, at in zip(entity.array.indices, value.expr.args, strict=True)}
    for index in hidden.array.indices:
        if index not in places:
            places[index] = _group_place(checker, index, places)
    visible = tree.read(hidden.array, (places[index] for index in hidden.array.indices))
    needs = tuple(need for need in value.needs if need.condition != visible)
    if env.knows(visible):
        return Value(value.expr, value.over, needs)
    neutral = number(float("-inf")) if kind == "score" else number(0.0)
    chosen = call("where", visible, value.expr, neutral, span=value.expr.span)
    return Value(chosen, value.over, tuple(need.under((visible,)) for need in needs))


def _group_place(checker: Checker, group: Index, places: dict[Index, Expr]) -> Expr:
    """The group of the head at which another array is read."""
    for index, at in places.items():
        if index.axis is group.axis.of and at != position(checker.outer_index(index.axis)):
            return grouped(group.axis, at)
    return position(group)
