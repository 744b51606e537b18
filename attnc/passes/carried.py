"""Blocks whose rows carry values of keys: what the operator of one row is.

does      makes the states that mask, score or weight see inputs of a row's operator; finds which
          clauses the updates read, and what the row's operator gives for them
needs     a block with states and clauses: its last row index is walked in order
does not  run the updates: they are equations between the rows (backends/composed)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from attnc.errors import UnsupportedError
from attnc.expressions.text import expression_text
from attnc.expressions.tree import Array, Expr, position, postorder, rewrite, substitute
from attnc.passes.refusals import refuse
from attnc.source import Span
from attnc.spec import Block, Definition, Input, Repeat, Spec


def carries(block: Block) -> bool:
    """Whether a block carries values from one row of queries to the next."""
    return bool(block.states) and bool(clauses_of(block))


def clauses_of(block: Block) -> list[Array]:
    """Mask, score and weight of a block's sources."""
    every = (one for s in block.sources for one in (s.mask, s.score, s.weight))
    return [one for one in every if one is not None]


def of_one_row(spec: Spec, block: Block) -> Spec:
    """The Spec with the states of a block as inputs, which no update changes."""
    span = block.span or Span(spec.source, 0, 0)
    given = tuple(
        Input(replace(state.array, role="input"), False, None, state.span or span)
        for state in block.states
    )
    still = replace(block, states=(), updates=())
    return replace(spec, inputs=(*spec.inputs, *given), root=_exchanged(spec.root, block, still))


def _exchanged(root: Block, old: Block, new: Block) -> Block:
    if root is old:
        return new
    inner = (
        _exchanged(each, old, new) if isinstance(each, Block) else each for each in root.statements
    )
    return replace(root, statements=tuple(inner))


# ------------------------------------------------------------- what a row gives for its clauses


def given_for(block: Block) -> dict[str, Definition]:
    """The emits that are a score or a weight where the mask holds, by the clause's name."""
    names = {one.name for s in block.sources for one in (s.score, s.weight) if one is not None}
    found: dict[str, Definition] = {}
    for one in (*block.offered, *block.emits):
        expr = one.expr
        inner = expr.args[1] if expr.op == "where" else expr
        at = tuple(map(position, one.array.indices))
        if inner.op == "read" and inner.array.name in names and inner.args == at:
            found.setdefault(inner.array.name, one)
    return found


def as_given(expr: Expr, given: Iterable[Definition]) -> Expr:
    """The expression where `where(mask, weight, 0)` is the weight that a row gives: 0 where it is
    masked."""
    by_name = {one.expr.args[1].array.name: one for one in given if one.expr.op == "where"}

    def change(node: Expr) -> Expr:
        if node.op != "where" or node.args[1].op != "read":
            return node
        inner = node.args[1]
        one = by_name.get(inner.array.name)
        if one is None:
            return node
        same = substitute(one.expr, dict(zip(one.array.indices, inner.args, strict=True)))
        return inner if same == node else node

    return rewrite(expr, change)


def with_given(block: Block, given: Iterable[Definition]) -> Block:
    """The block whose equations read what a row gives (see `as_given`)."""
    own = tuple(given)

    def changed(one: Definition) -> Definition:
        return replace(one, expr=as_given(one.expr, own))

    def statement(one: Definition | Repeat | Block) -> Definition | Repeat | Block:
        return changed(one) if isinstance(one, Definition) and one.expr.op != "read" else one

    return replace(
        block,
        statements=tuple(map(statement, block.statements)),
        updates=tuple(map(changed, block.updates)),
        emits=tuple(map(changed, block.emits)),
        offered=tuple(map(changed, block.offered)),
    )


def exchanged(spec: Spec, old: Block, new: Block) -> Spec:
    """The Spec with one block in the place of another."""
    return replace(spec, root=_exchanged(spec.root, old, new))


def read_by_updates(block: Block) -> list[str]:
    """The clauses that the updates read, themselves or by equations of the row."""
    given = given_for(block)
    clauses = {one.name for one in clauses_of(block)}
    equations = {s.array.name: s for s in block.statements if isinstance(s, Definition)}
    todo = [as_given(line.expr, given.values()) for line in block.updates]
    todo += [one.expr for one in (block.result, *block.emits) if sees_new_states(block, one)]
    found: dict[str, None] = {}
    seen: set[str] = set()
    while todo:
        for node in postorder(todo.pop()):
            name = node.array.name if node.op in ("read", "grad") else ""
            if name in clauses:
                found.setdefault(name)
            elif name in equations and name not in seen:
                seen.add(name)
                todo.append(as_given(equations[name].expr, given.values()))
    return list(found)


def sees_new_states(block: Block, output: Definition) -> bool:
    """Whether a result or an emit reads states, by more than the clauses, as the row's update
    leaves them."""
    if block.reads_old:
        return False
    clauses = {one.name for one in clauses_of(block)}
    moving = {state.array.name for state in block.states}
    moving |= {line.array.name for line in block.updates}
    equations = {s.array.name: s for s in block.statements if isinstance(s, Definition)}
    todo = [output.expr]
    seen: set[str] = set()
    while todo:
        for node in postorder(todo.pop()):
            name = node.array.name if node.op in ("read", "grad") else ""
            if name in moving:
                return True
            if name in equations and name not in clauses and name not in seen:
                seen.add(name)
                todo.append(equations[name].expr)
    return False


# ------------------------------------------------------------------------- what one row may read


def check_row(spec: Spec) -> None:
    """Raises UnsupportedError where the operator of one row would need others."""
    row = spec.root.rows[-1]
    axis = row.axis
    definitions = [one for one in spec.root.statements if isinstance(one, Definition)]
    exprs = [one.expr for one in (*definitions, spec.root.result, *spec.root.offered)]
    inputs = {one.name for one in spec.inputs}
    if not any(axis in one.array.axes for one in spec.inputs):
        raise _needs("rows that no input of the operator has")
    for node in postorder(*exprs):
        if axis in (index.axis for index in node.bound):
            raise _needs("a fold over rows", node)
        if node.op in ("length", "start") and node.attr is axis:
            raise _needs(f"the {node.op} of the axis of rows", node)
        if node.op == "index" and node.attr == row and not axis.shifted:
            raise _needs(f"the position of `{row.name}`, which no offset says", node)
        if node.op == "read" and node.array.name in inputs:
            pairs = zip(node.args, node.array.axes, strict=True)
            if any(one is axis and at != position(row) for at, one in pairs):
                raise _needs(f"`{node.array.name}` at another row", node)


def _needs(what: str, node: Expr | None = None) -> UnsupportedError:
    where = "" if node is None else f" (`{expression_text(node, 60)}`)"
    return refuse(f"query_carry: {what}{where} where rows are run one by one")
