"""check_spec: a file becomes the Spec of one of its operators, or all that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from attnc import syntax
from attnc.check import messages as m
from attnc.check.blocks import build_block, clause, prepare
from attnc.check.bodies import Body, Entity, InputEntity, NumberEntity
from attnc.check.checker import Checker, Scalar, TooMuch
from attnc.check.declarations import declare
from attnc.check.domains import prove
from attnc.check.emits import emit_of, offered_emits, written_emits
from attnc.check.evaluate import evaluate
from attnc.check.library import Library, Loader
from attnc.check.local_statements import frame_statements
from attnc.check.operations import evaluate_all, nested
from attnc.check.statements import demand
from attnc.errors import SpecError
from attnc.source import Source
from attnc.spec import Block, Input, Spec


def check_spec(
    file: syntax.File,
    source: Source,
    operator: str | None = None,
    statics: Mapping[str, Scalar] | None = None,
    search: Sequence[str | Path] | None = None,
) -> Spec:
    """The Spec of an operator of a parsed file, with warnings.

    operator   its name; without one, the operator named like the file, else the last
    statics    values of statics, instead of their defaults
    search     folders of files that may be imported; by default the folder of the source

    Raises SpecError with every error that was found.
    """
    folders = (Path(source.name).parent,) if search is None else tuple(map(Path, search))
    loader = Loader(folders)
    library = loader.load(file)
    checker = make_checker(source, library, statics or {})
    for diagnostic in loader.diagnostics:
        checker.report(diagnostic)
    chosen = _chosen(checker, file, source, operator)
    if chosen is None:
        raise SpecError(checker.diagnostics)
    block: Block | None = None
    with suppress(TooMuch):
        block = _check(checker, library, chosen)
    if checker.failed or block is None:
        raise SpecError(checker.diagnostics)
    return _spec(checker, chosen, source, block)


def make_checker(source: Source, library: Library, statics: Mapping[str, Scalar]) -> Checker:
    """A checker with its parts put together."""
    checker = Checker(source, library, statics)
    checker.evaluate = lambda node, env, raw=False: evaluate(checker, node, env, raw)
    checker.prove = lambda facts, goal: prove(checker, facts, goal)
    checker.demand = lambda entity: demand(checker, entity)
    checker.clause = lambda body, keys, kind: clause(checker, body, keys, kind)
    checker.emit = lambda entity, node: emit_of(checker, entity, node)
    checker.statements = lambda frame, env: frame_statements(checker, frame, env)
    checker.block = lambda entity: nested(checker, entity)
    checker.everything = lambda body: evaluate_all(checker, body)
    checker.emits = lambda body: (written_emits(checker, body), offered_emits(checker, body))
    return checker


def _chosen(
    checker: Checker, file: syntax.File, source: Source, name: str | None
) -> syntax.Operator | None:
    """The operator to compile."""
    found = {each.name.name: each for each in file.operators}
    if not found:
        return checker.report(m.no_operator(file.span))
    if name is not None:
        if name not in found:
            return checker.report(m.no_such_operator(file.span, name, list(found)))
        return found[name]
    return found.get(Path(source.name).stem, file.operators[-1])


def _check(checker: Checker, library: Library, operator: syntax.Operator) -> Block | None:
    body = Body(operator, None, library, "", is_root=True)
    _static_names(checker, operator)
    checker.calling.append(operator)
    declare(checker, body)
    prepare(checker, body)
    block = build_block(checker, body)
    _measured(checker, body)
    _warn(checker, body)
    return block


def _measured(checker: Checker, body: Body) -> None:
    """Rows and keys whose number comes from tensors have one that brings it."""
    brought = {index.axis.name for one in checker.inputs for index in one.array.indices}
    header = (*body.rows, *(key for source in body.sources for key in source.keys))
    for index in () if checker.failed else header:
        if index.axis.form == "measured" and index.axis.name not in brought:
            checker.report(m.unmeasured_axis(body.operator.name.span, index.axis.name))


def _static_names(checker: Checker, operator: syntax.Operator) -> None:
    """Values are given for statics that exist only."""
    declared = {
        name.name: statement.stage
        for statement in operator.statements
        if isinstance(statement, syntax.Declaration)
        for group in statement.groups
        for name in group.names
    }
    known = [name for name, stage in declared.items() if stage == "static"]
    for name in checker.statics:
        if name not in known:
            param = declared.get(name) == "param"
            checker.report(m.unknown_static(operator.name.span, name, known, param))


def _warn(checker: Checker, body: Body) -> None:
    """Inputs that nothing reads; a kind of operator that its clauses do not fit."""
    operator = body.operator
    for entity in () if checker.failed else body.entities.values():
        unused = isinstance(entity, InputEntity | NumberEntity) and not entity.used
        if unused and isinstance(entity, Entity):
            checker.report(m.unused(entity.span, entity.what, entity.name))
    kinds = {clause.kind for clause in body.clauses} - {"read"}
    if operator.kind == "attention" and not kinds and body.update is None:
        checker.report(m.attention_without_clause(operator.name.span, operator.name.name))
    if operator.kind == "pipeline" and (kinds or body.update is not None):
        what = sorted(kinds)[0] if kinds else "update"
        checker.report(m.pipeline_with_clause(operator.name.span, operator.name.name, what))


def _as_called(inputs: Sequence[Input], names: Sequence[str]) -> tuple[Input, ...]:
    """The inputs with those given by place in the order of the header, whichever of them the body
    declares anew, and in whichever order."""
    places = (one for one in sorted(inputs, key=lambda i: _place(i, names)) if one.positional)
    return tuple(next(places) if one.positional else one for one in inputs)


def _place(given: Input, names: Sequence[str]) -> int:
    return names.index(given.name) if given.name in names else len(names)


def _spec(checker: Checker, operator: syntax.Operator, source: Source, block: Block) -> Spec:
    from attnc.check.finishing import used_axes

    warnings = tuple(one for one in checker.diagnostics if one.severity == "warning")
    checker.definitions[block.result.array.name] = block.result
    return Spec(
        operator.name.name,
        source,
        used_axes(checker, block),
        tuple(checker.numbers),
        _as_called(checker.inputs, [name.name for name in operator.arguments or ()]),
        block,
        tuple(checker.checks),
        checker.definitions,
        warnings,
        tuple(checker.read_checks),
    )
