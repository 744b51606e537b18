"""Blocks: clauses, states, the step, results and emits become the Block of a body."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attnc import syntax
from attnc.check import messages as m
from attnc.check.arrays import grouped
from attnc.check.bodies import CLAUSE_OF, ArrayEntity, Body, Source
from attnc.check.checker import Checker
from attnc.check.domains import settle_needs
from attnc.check.equations import (
    body_environment,
    finish,
    left_side,
    outer_of,
    settle,
)
from attnc.check.operators import axes_text, cast
from attnc.check.outer_axes import outer_indices
from attnc.check.states import state_arrays, states_of, update_lines
from attnc.check.values import Bound, Environment, Part, Value
from attnc.check.vectors import fill_at
from attnc.expressions import tree
from attnc.expressions.index import Index
from attnc.expressions.tree import TRUE, number, position
from attnc.spec import Block, Definition, KeySource

RESULT = "out"

# -------------------------------------------------------------------------------------- clauses


def source_clauses(checker: Checker, body: Body) -> None:
    """Gives each clause to its source: `mask[m]` to m's, one without brackets to all."""
    for clause in body.clauses:
        if clause.kind == "read":
            continue
        if not body.sources:
            checker.report(m.clause_without_keys(clause.span, clause.kind))
            continue
        targets = [s for s in body.sources if _is_for(clause, s)]
        if not targets:
            names = ", ".join(b.name.name for b in clause.binders or ())
            known = [", ".join(source.names) for source in body.sources]
            checker.report(m.clause_of_no_source(clause.span, clause.kind, names, known))
        for source in targets:
            if clause.kind in source.clauses:
                line = source.clauses[clause.kind].span.line
                checker.report(m.clause_twice(clause.span, clause.kind, line))
            source.clauses[clause.kind] = clause


def _is_for(clause: syntax.Clause, source: Source) -> bool:
    if clause.binders is None:
        return True
    names = {binder.name.name for binder in clause.binders}
    return names <= set(source.names)


def clause(checker: Checker, body: Body, source: Source, kind: str) -> ArrayEntity | None:
    """The array of mask, score or weight of a source; made when it is first read."""
    entity = source.arrays.get(kind)
    if entity is None:
        node = source.clauses.get(CLAUSE_OF[kind])
        span = node.span if node is not None else body.operator.name.span
        entity = ClauseEntity(kind, span, body)
        source.arrays[kind] = entity
    if entity.state == "new":
        entity.state = "active"
        checker.active.append(entity)
        try:
            with checker.into(body.statements):
                fine = _clause(checker, body, source, kind, entity)
        finally:
            checker.active.pop()
        entity.state = "done" if fine else "failed"
    elif entity.state == "active":
        checker.demand(entity)
        return None
    return entity if entity.state == "done" else None


class ClauseEntity(ArrayEntity):
    """mask, score or weight of a source."""

    @property
    def what(self) -> str:  # type: ignore[override]
        return self.name


def pair_environment(checker: Checker, body: Body, source: Source, place: str) -> Environment:
    """A row and a key of a source are bound, as in its clauses."""
    env = row_environment(checker, body, place)
    names = zip(source.names, source.keys, strict=True)
    return env.bind({name: _own(checker, index) for name, index in names})


def row_environment(
    checker: Checker, body: Body, place: str, rows: Sequence[str] | None = None
) -> Environment:
    """A row is bound."""
    env = body_environment(checker, body, place)
    names = zip(body.row_names, body.rows, strict=True)
    return env.bind(
        {name: _own(checker, index) for name, index in names if rows is None or name in rows}
    )


def _own(checker: Checker, index: Index) -> Bound:
    return Bound((Part(index.axis, position(index)),), checker.next_serial())


def _clause(checker: Checker, body: Body, source: Source, kind: str, entity: ArrayEntity) -> bool:
    node = source.clauses.get(CLAUSE_OF[kind])
    if kind == "weight" and node is None:
        return _default_weight(checker, body, source, entity)
    if kind == "score" and node is None:
        checker.report(m.no_score(body.operator.name.span, body.name))
        return False
    env = pair_environment(checker, body, source, kind)
    masked = True
    if kind != "mask":
        hidden = clause(checker, body, source, "mask")
        masked = hidden is not None and hidden.array is not None
        if hidden is not None and hidden.array is not None:
            env = env.assume(tree.read(hidden.array, map(position, hidden.array.indices)))
    value: Value | None = Value(TRUE)
    if node is not None:
        value = checker.evaluate(node.expr, env)
        value = _clause_value(checker, value, node, source, body, kind, env, masked)
    if value is None or not masked:
        return False
    _enter_clause(checker, body, source, kind, value, entity)
    return True


def _clause_value(
    checker: Checker,
    value: Value | None,
    node: syntax.Clause,
    source: Source,
    body: Body,
    kind: str,
    env: Environment,
    masked: bool,
) -> Value | None:
    """A clause is one truth, or one real number, for each row and key. Unless its mask is known
    (`masked`), nothing can be said about where it reads."""
    if value is None:
        return None
    value = settle(checker, fill_at(checker, value, [*source.keys, *body.rows], env.facts))
    if value.over:
        pair = ", ".join((*body.row_names, *source.names))
        others = {key.axis for other in body.sources if other is not source for key in other.keys}
        left = all(index.axis in others for index in value.over)
        sources = " | ".join(", ".join(each.names) for each in body.sources) if left else ""
        return checker.report(
            m.clause_vector(node.expr.span, node.kind, pair, axes_text(value), sources)
        )
    if kind == "mask":
        if value.kind != "bool":
            text = node.expr.span.text
            return checker.report(m.mask_not_truth(node.expr.span, text, value.kind))
    elif value.kind not in ("int", "real"):
        return checker.report(m.clause_not_real(node.expr.span, node.kind, value.kind))
    if masked:
        settle_needs(checker, value.needs, env.facts)
    if node.kind == "score" and _hides_by_zero(node.expr):
        checker.report(m.score_as_mask(node.expr.span))
    return value if kind == "mask" else value.with_expr(cast(value.expr, "real"))


def _hides_by_zero(node: syntax.Expression) -> bool:
    """`where(c, s, 0)` as a whole score: meant as a mask, as a rule."""
    if not isinstance(node, syntax.Call) or node.function.name != "where" or len(node.args) != 3:
        return False
    last = node.args[2]
    return isinstance(last, syntax.Number) and last.value == 0


def _enter_clause(
    checker: Checker, body: Body, source: Source, kind: str, value: Value, entity: ArrayEntity
) -> None:
    least = body.mask_outer if kind == "mask" else body.outer
    lead = set(outer_of(checker, value.expr)) | set(least)
    if any(i.axis.of is not None and checker.outer_index(i.axis.of) in lead for i in lead):
        value, lead = _with_heads(checker, value, lead)
    ordered = [index for index in checker.outer_in_order() if index in lead]
    dims = (*ordered, *body.rows, *source.keys)
    title = f"{body.prefix}{source.label}.{kind}"
    entity.array = checker.array(title, dims, value.kind, "definition", entity.span)
    domain = TRUE
    if kind != "mask":
        hidden = source.arrays["mask"].array
        assert hidden is not None
        domain = tree.read(hidden, map(position, hidden.indices))
        domain = _with_heads(checker, Value(domain), set(ordered) | set(hidden.indices))[0].expr
    checker.define(Definition(entity.array, value.expr, entity.span, domain))


def _with_heads(checker: Checker, value: Value, lead: set[Index]) -> tuple[Value, set[Index]]:
    """Groups are those of the heads, where the array is over both."""
    moves = {}
    for index in list(lead):
        of = index.axis.of
        if of is not None and checker.outer_index(of) in lead:
            moves[index] = grouped(index.axis, position(checker.outer_index(of)))
            lead.discard(index)
    return value.moved(moves), lead


def _default_weight(checker: Checker, body: Body, source: Source, entity: ArrayEntity) -> bool:
    """Without normalize the weight is the score; without a score, 1."""
    hidden = clause(checker, body, source, "mask")
    if hidden is None or hidden.array is None:
        return False
    if "score" in source.clauses:
        score = clause(checker, body, source, "score")
        if score is None or score.array is None:
            return False
        value = Value(tree.read(score.array, map(position, score.array.indices)))
    else:
        value = Value(number(1.0))
    _enter_clause(checker, body, source, "weight", value, entity)
    return True


# --------------------------------------------------------------------------------------- blocks


def prepare(checker: Checker, body: Body) -> None:
    """What must be known before anything of the body is read."""
    source_clauses(checker, body)
    masks = [clause.expr for clause in body.clauses if clause.kind == "mask"]
    scores = [clause.expr for clause in body.clauses if clause.kind == "score"]
    states_of(checker, body)
    if body.sources:
        body.outer = outer_indices(checker, body, (*masks, *scores))
        grouped_state = any(entity.explicit for entity in body.states)
        body.mask_outer = outer_indices(checker, body, masks) if grouped_state else body.outer


def build_block(checker: Checker, body: Body, role: tree.Role = "output") -> Block | None:
    """Evaluates a body: everything in it, in the order of the text. None where it has no result."""
    checker.everything(body)
    for source in body.sources:
        for kind in ("mask", "score", "weight"):
            if kind != "score" or "score" in source.clauses:
                clause(checker, body, source, kind)
    states = state_arrays(checker, body)
    updates = update_lines(checker, body)
    result = _result(checker, body, role)
    emits, offered = checker.emits(body)
    if result is None:
        return None
    return Block(
        body.name,
        body.rows,
        tuple(_key_source(source) for source in body.sources),
        tuple(body.statements),
        states,
        updates,
        result,
        emits,
        offered,
        body.operator.span,
        _reads_old(body),
    )


def _key_source(source: Source) -> KeySource:
    arrays = {kind: entity.array for kind, entity in source.arrays.items()}
    return KeySource(source.keys, arrays.get("mask"), arrays.get("score"), arrays.get("weight"))


def _reads_old(body: Body) -> bool:
    reads = [clause for clause in body.clauses if clause.kind == "read"]
    return bool(reads and body.update and reads[0].span.start < body.update.span.start)


def _result(checker: Checker, body: Body, role: tree.Role) -> Definition | None:
    """The array of `read`, or of the weighted sum of the values."""
    reads = [clause for clause in body.clauses if clause.kind == "read"]
    for extra in reads[1:]:
        checker.report(m.clause_twice(extra.span, "read", reads[0].span.line))
    if reads:
        node, binders, span = reads[0].expr, reads[0].binders, reads[0].span
    else:
        made = _default_read(checker, body)
        if made is None:
            return None
        node, binders, span = made, None, body.operator.name.span
    env = _step(row_environment(checker, body, "read"), body)
    with checker.into(body.statements):
        sides = left_side(checker, body, binders, env)
        value = None if sides is None else checker.evaluate(node, sides[0])
        if value is None or sides is None:
            return None
        if value.kind == "bool":
            value = checker.report(m.read_not_number(node.span)) if body.is_root else value
        if value is None:
            return None
        indices = (*body.rows, *(i for i in sides[1] if i not in body.rows))
        settle_needs(checker, value.needs, env.facts)
        entity = ArrayEntity(body.name, span, body)
        title = RESULT if body.is_root else body.prefix[:-1]
        return finish(checker, value, indices, sides[0], entity, title, role, span)


def _step(env: Environment, body: Body) -> Environment:
    return replace(env, step=body.update is not None)


def _default_read(checker: Checker, body: Body) -> syntax.Expression | None:
    """sum(j: weight * v[j]), for a block with one source and an array v."""
    span = body.operator.name.span
    if len(body.sources) != 1 or len(body.sources[0].names) != 1 or body.find("v") is None:
        checker.report(m.no_read(span, body.operator.kind, len(body.sources)))
        return None
    key = syntax.Name(span, body.sources[0].names[0])
    weight = syntax.Name(span, "weight")
    values = syntax.At(span, syntax.Name(span, "v"), (key,))
    product = syntax.Binary(span, "*", weight, values)
    binder = syntax.Binder(span, key, "plain", None)
    return syntax.Fold(span, syntax.Name(span, "sum"), ((binder,),), None, (product,))
