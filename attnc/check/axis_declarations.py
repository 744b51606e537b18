"""Axes: those that tensors bring, those that are declared, and the rows and keys of a header."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from attnc import syntax
from attnc.check import messages as m
from attnc.check.binders import range_of
from attnc.check.bodies import Body, NumberEntity, Source
from attnc.check.checker import Checker
from attnc.check.equations import body_environment
from attnc.check.values import Environment
from attnc.expressions.index import Axis, AxisForm, Index

BATCH, HEAD, GROUP = "b", "h", "hk"


def _inputs(operator: syntax.Operator) -> Iterator[syntax.Declared]:
    for statement in operator.statements:
        if isinstance(statement, syntax.Declaration) and statement.stage == "input":
            yield from statement.groups


def _dimension_binders(body: Body) -> Iterator[syntax.Binder]:
    for group in _inputs(body.operator):
        yield from group.dims or ()


def declare_measured(checker: Checker, body: Body) -> None:
    """Axes that tensors bring: every plain name in the dimensions of an input, in the header and in
    the default inputs, unless an `axis` line says what it is."""
    written = {
        name.name
        for statement in body.operator.statements
        if isinstance(statement, syntax.Axis)
        for name in statement.names
    }
    names: list[str] = []
    if body.parent is None:
        names += [BATCH, HEAD, GROUP]
    operator = body.operator
    sources = operator.keys or ()
    for binder in (*(operator.rows or ()), *(b for source in sources for b in source)):
        if binder.form == "plain":
            names.append(binder.name.name)
        elif binder.form == "within" and isinstance(binder.bound, syntax.Name):
            names.append(binder.bound.name)
    if body.parent is None:
        names += _default_axes(operator)
    for binder in _dimension_binders(body):
        known = body.entities.get(binder.name.name)
        if binder.form == "plain" and isinstance(known, NumberEntity):
            line = known.span.line
            checker.report(m.number_as_axis(binder.name.span, known.name, known.what, line))
        if binder.form == "plain":
            names.append(binder.name.name)
    for name in names:
        if name not in written and body.find_axis(name) is None:
            body.axes[name] = _new_measured(checker, body, name)


def _default_axes(operator: syntax.Operator) -> list[str]:
    declared = {name.name for group in _inputs(operator) for name in group.names}
    names = {name.name for name in operator.arguments or ()} - declared
    found: list[str] = []
    if operator.rows is None:
        found.append("i")
    if operator.keys is None and not is_recurrence(operator):
        found.append("j")
    if names & {"q", "k"}:
        found.append("d")
    if "v" in names:
        found.append("e")
    return found


def is_recurrence(operator: syntax.Operator) -> bool:
    """`for t` without `over`: rows in order, no keys."""
    return operator.kind == "attention" and operator.rows is not None and operator.keys is None


def _new_measured(checker: Checker, body: Body, name: str) -> Axis:
    if name == GROUP:
        head = body.find_axis(HEAD) or checker.new_axis(HEAD)
        return checker.new_axis(name, "coarse", of=head)
    return checker.new_axis(name, shifted=_shift(body, name))


def _shift(body: Body, name: str) -> Literal["", "offset", "key_offset"]:
    """Rows of an operator stand at an offset, keys at a key offset."""
    operator = body.operator
    if body.parent is not None or not _has_queries(body):
        return ""
    rows = [b.name.name for b in operator.rows or () if b.form == "plain"] or ["i"]
    if operator.rows is not None and not any(b.form == "plain" for b in operator.rows):
        rows = []
    if rows and name == rows[-1]:
        return "offset"
    keys = [b.name.name for source in operator.keys or () for b in source if b.form == "plain"]
    first = keys[0] if operator.keys and keys else "j"
    return "key_offset" if name == first and name == "j" else ""


def _has_queries(body: Body) -> bool:
    """Whether rows can stand at an offset: in an attention, and in a pipeline over queries."""
    names = [name.name for name in body.operator.arguments or ()]
    return body.operator.kind == "attention" or "q" in names


def declare_axis(checker: Checker, body: Body, node: syntax.Axis) -> None:
    for name in node.names:
        if name.name in body.axes:
            checker.report(m.axis_twice(name.span, name.name))
            return
    env = body_environment(checker, body)
    if node.form == "of":
        assert isinstance(node.bound, syntax.Name)
        fine = body.find_axis(node.bound.name)
        if fine is None:
            known = body.known_names()
            checker.report(m.unknown_axis(node.bound.span, node.bound.name, known, False))
        for name in node.names:
            form: AxisForm = "measured" if fine is None else "coarse"
            body.axes[name.name] = checker.new_axis(name.name, form, of=fine)
        return
    if node.form == "product":
        _product(checker, body, node, env)
        return
    assert node.bound is not None
    for name in node.names:
        found = range_of(checker, name.name, node.bound, env)
        body.axes[name.name] = found or checker.new_axis(name.name)


def _product(checker: Checker, body: Body, node: syntax.Axis, env: Environment) -> None:
    parts: list[Axis] = []
    for binder in node.coordinates:
        named = binder.form == "within" and isinstance(binder.bound, syntax.Name)
        found: Axis | None = None
        if binder.form not in ("below", "within") or named:
            checker.report(m.coordinate_without_length(binder.span, binder.name.name))
        else:
            found = range_of(checker, binder.name.name, binder.bound, env)
        parts.append(found or checker.new_axis(binder.name.name))
    labels = [binder.name.name for binder in node.coordinates]
    for name in node.names:
        axis = checker.new_axis(name.name, "product", parts=tuple(parts))
        checker.coordinates[axis] = labels
        body.axes[name.name] = axis


# -------------------------------------------------------------------------------- rows and keys


def declare_rows_and_keys(checker: Checker, body: Body) -> None:
    operator = body.operator
    rows: Sequence[syntax.Binder] = operator.rows or ()
    if operator.rows is None and body.parent is None:
        rows = (_plain(operator, "i"),)
    body.row_names, body.rows = _header(checker, body, rows)
    sources: Sequence[Sequence[syntax.Binder]] = operator.keys or ()
    if operator.keys is None and operator.rows is None and operator.kind == "attention":
        sources = ((_plain(operator, "j"),),)
    found = []
    for source in sources:
        names, keys = _header(checker, body, source)
        if len(keys) == len(source):
            found.append(Source(names, keys))
        for binder in source:
            if binder.form == "below" and binder.bound is not None:
                _static_length(checker, body, binder)
    body.sources = tuple(found)


def _plain(operator: syntax.Operator, name: str) -> syntax.Binder:
    span = operator.name.span
    return syntax.Binder(span, syntax.Name(span, name), "plain", None)


def _header(
    checker: Checker, body: Body, binders: Sequence[syntax.Binder]
) -> tuple[tuple[str, ...], tuple[Index, ...]]:
    """Names and indices of rows or of one source of keys; each name is an axis of the body."""
    names: list[str] = []
    indices: list[Index] = []
    for binder in binders:
        name = binder.name.name
        axis = _header_axis(checker, body, binder)
        if axis is None:
            continue
        if name in names:
            checker.report(m.bound_twice(binder.name.span, name))
            continue
        if binder.form != "plain":
            body.axes[name] = axis
        names.append(name)
        indices.append(checker.fresh(name, axis))
    return tuple(names), tuple(indices)


def _header_axis(checker: Checker, body: Body, binder: syntax.Binder) -> Axis | None:
    if binder.form == "plain":
        return body.find_axis(binder.name.name)
    if binder.form == "within" and isinstance(binder.bound, syntax.Name):
        return body.find_axis(binder.bound.name)
    return range_of(checker, binder.name.name, binder.bound, body_environment(checker, body))


def _static_length(checker: Checker, body: Body, binder: syntax.Binder) -> None:
    """`u < size` of a key: size must be known when the kernel is compiled."""
    assert binder.bound is not None
    for node in syntax.walk(binder.bound):
        if not isinstance(node, syntax.Name):
            continue
        found = body.find(node.name)
        if isinstance(found, NumberEntity) and found.what == "param":
            what = f"{binder.name.name} < {binder.bound.span.text}"
            checker.report(m.param_as_shape(node.span, node.name, f"counts a row's keys ({what})"))
