"""The statements of an expanded def: local names, arrays, unknowns and repeats.

A local without indices is a name for its value. One with indices, an unknown of `solve`, and what a
`repeat` assigns become definitions, over whatever indices around them they depend on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attnc import syntax
from attnc.check import messages as m
from attnc.check.binders import bind
from attnc.check.bodies import ArrayEntity
from attnc.check.checker import Checker
from attnc.check.equations import assign, domain_of_needs, settle
from attnc.check.operators import cast
from attnc.check.parameters import Frame, enter_local
from attnc.check.solving import solve_value
from attnc.check.statements import repeat_index
from attnc.check.values import Environment, Value
from attnc.check.vectors import fill_at
from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr, position, read, rewrite
from attnc.spec import Definition, Repeat


def frame_statements(checker: Checker, frame: Frame, env: Environment) -> bool:
    """Evaluates the statements of an expanded def in order; False after an error."""
    repeated = {
        line.name.name
        for statement in frame.definition.body
        if isinstance(statement, syntax.Repeat)
        for line in statement.statements
        if isinstance(line, syntax.Define)
    }
    cells: dict[str, _Cell] = {}
    fine = True
    for statement in frame.definition.body:
        if isinstance(statement, syntax.Define):
            name = statement.name.name
            if name in frame.parameters or name in frame.formals:
                checker.report(
                    m.defined_twice(statement.name.span, name, frame.definition.span.line)
                )
                fine = False
            elif name in repeated:
                fine = _cell(checker, frame, statement, cells, env) and fine
            else:
                fine = _local(checker, frame, statement, env) and fine
        elif isinstance(statement, syntax.Solve):
            fine = _local_solve(checker, frame, statement, env) and fine
        elif isinstance(statement, syntax.Repeat):
            fine = _local_repeat(checker, frame, statement, cells, env) and fine
        else:
            checker.report(m.not_in_step(statement.span, "def"))
            fine = False
    return fine


def _local(checker: Checker, frame: Frame, node: syntax.Define, env: Environment) -> bool:
    """A local: without indices it is a name for its value, with some it is an array."""
    name = node.name.name
    if node.binders is None:
        value = checker.evaluate(node.expr, env)
        frame.local[name] = value
        enter_local(frame, name, node.expr, env)
        return value is not None
    opened = _local_side(checker, node, env)
    value = None if opened is None else checker.evaluate(node.expr, opened[0])
    if opened is None or value is None:
        frame.local[name] = None
        return False
    value = settle(checker, fill_at(checker, value, opened[1], env.facts))
    frame.local[name] = _local_array(checker, frame, name, value, opened[1])
    return True


def _local_side(
    checker: Checker, node: syntax.Define, env: Environment
) -> tuple[Environment, list[Index]] | None:
    """Binds the left side of a local: a def's index stands for its caller's, at a place of its
    own."""
    found = bind(checker, node.binders or (), env)
    if found is None:
        return None
    return found.env.assume(*found.conditions), list(found.indices)


def _local_array(
    checker: Checker, frame: Frame, name: str, value: Value, indices: Sequence[Index]
) -> ArrayEntity:
    """The definition of a local; whatever else it depends on is filled with itself."""
    own = (*indices, *value.over)
    context = _context(checker, [value.expr], own)
    title = f"{frame.definition.name.name}.{name}"
    body = frame.caller.body
    array = checker.array(
        body.prefix + title, (*context, *own), value.kind, "definition", frame.definition.span
    )
    definition = Definition(array, value.expr, frame.definition.span, domain_of_needs(value))
    known = checker.same_local(definition)
    if known is None:
        checker.define(definition)
    entity = ArrayEntity(name, frame.definition.span, body, state="done")
    entity.array, entity.context = known or array, context
    return entity


def _context(checker: Checker, exprs: Iterable[Expr], own: Sequence[Index]) -> tuple[Index, ...]:
    free: set[Index] = set()
    for expr in exprs:
        free |= expr.free
    free -= set(own)
    outer = [index for index in checker.outer_in_order() if index in free]
    rest = sorted(free - set(outer), key=lambda index: (index.name, index.number))
    return (*outer, *rest)


def _local_solve(checker: Checker, frame: Frame, node: syntax.Solve, env: Environment) -> bool:
    name = node.name.name
    value = solve_value(checker, node, env)
    if value is None:
        frame.local[name] = None
        return False
    frame.local[name] = _local_array(checker, frame, name, settle(checker, value), ())
    return True


class _Cell:
    """A local that a repeat assigns: its lines over a provisional array, which gets the indices
    around once all lines are known."""

    def __init__(self, entity: ArrayEntity, line: Definition) -> None:
        self.entity = entity
        self.lines = [line]


def _cell(
    checker: Checker,
    frame: Frame,
    node: syntax.Define,
    cells: dict[str, _Cell],
    env: Environment,
) -> bool:
    name = node.name.name
    opened = _local_side(checker, node, env)
    value = None if opened is None else checker.evaluate(node.expr, opened[0])
    if opened is None or value is None:
        frame.local[name] = None
        return False
    value = settle(checker, fill_at(checker, value, opened[1], env.facts))
    known = cells.get(name)
    if known is None:
        dims = (*opened[1], *value.over)
        array = Array(f"{name}?", dims, "real", "definition", node.span)
        entity = ArrayEntity(name, node.span, frame.caller.body, state="done")
        entity.array = array
        cells[name] = _Cell(entity, Definition(array, value.expr, node.span))
        frame.local[name] = entity
        return True
    array = known.lines[0].array
    moves = {new: position(old) for new, old in zip(opened[1], array.indices, strict=False)}
    value = Value(value.expr, (*opened[1], *value.over), value.needs).moved(moves)
    placed = assign(checker, value, array, array.indices[: len(moves)], (), node.span, name)
    if placed is None:
        return False
    known.lines.append(Definition(array, placed.expr, node.span))
    return True


def _local_repeat(
    checker: Checker,
    frame: Frame,
    node: syntax.Repeat,
    cells: dict[str, _Cell],
    env: Environment,
) -> bool:
    opened = repeat_index(checker, node, env)
    if opened is None:
        return False
    inner, index, count = opened
    before = {name: len(cell.lines) for name, cell in cells.items()}
    order: list[tuple[_Cell, Definition]] = []
    for line in node.statements:
        if not isinstance(line, syntax.Define):
            checker.report(m.not_in_step(line.span, "repeat"))
            return False
        checker.memo.clear()
        if not _cell(checker, frame, line, cells, inner):
            return False
        cell = cells[line.name.name]
        order.append((cell, cell.lines[-1]))
    for name in cells:
        if name not in before:
            checker.report(m.repeat_without_start(node.span, name))
            return False
    first = [cell.lines[0] for cell in cells.values()]
    everything = [*first, *(line for _, line in order)]
    own = {i for cell in cells.values() for i in cell.lines[0].array.indices}
    context = _context(checker, [line.expr for line in everything], (*own, index))
    finals: dict[Array, Array] = {}
    for name, cell in cells.items():
        array = cell.lines[0].array
        title = f"{frame.caller.body.prefix}{frame.definition.name.name}.{name}"
        dims = (*context, *array.indices)
        finals[array] = checker.array(title, dims, "real", "definition", node.span)

    def change(expr: Expr) -> Expr:
        if expr.op != "read" or expr.array not in finals:
            return expr
        at = (*map(position, context), *expr.args)
        return read(finals[expr.array], at, expr.span)

    def final(line: Definition) -> Definition:
        return Definition(finals[line.array], cast(rewrite(line.expr, change), "real"), line.span)

    checker.sinks[-1] += [final(start) for start in first]
    lines = tuple(final(each) for _, each in order)
    checker.sinks[-1].append(Repeat(index, count, lines, node.span))
    for cell in cells.values():
        cell.entity.array = finals[cell.lines[0].array]
        cell.entity.context = context
    checker.memo.clear()
    return True
