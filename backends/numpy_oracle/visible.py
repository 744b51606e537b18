"""A key whose score is -inf counts as masked: the Spec with masks that say so.

The score itself, and what it is made of, see the mask as it is written; everything else sees it
without such keys. A NaN score is no -inf: its key stays, and its row becomes NaN.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from attnc.backends.numpy_oracle.dependence import Sources, blocks

from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, call, number, position, postorder, read, rewrite
from attnc.spec import Block, Definition, KeySource, Repeat, Spec

Statement = Definition | Repeat | Block


def with_visible_keys(spec: Spec) -> Spec:
    """The same Spec, reads of a mask joined by a test of its score where that decides more."""
    root = _block(spec.root, Sources(spec))
    return spec if root is spec.root else replace(spec, root=root)


def _block(block: Block, sources: Sources) -> Block:
    inner = tuple(
        _block(each, sources) if isinstance(each, Block) else each for each in block.statements
    )
    if any(a is not b for a, b in zip(inner, block.statements, strict=True)):
        block = replace(block, statements=inner)
    found = [s for s in block.sources if s.mask is not None and s.score is not None]
    if not found:
        return block
    scores = [_any_read(s) for s in found]
    before = {s.score.name for s in found if s.score} | set(sources.needed(scores))
    before |= {s.mask.name for s in found if s.mask}

    def change(definition: Definition) -> Definition:
        if definition.array.name in before:
            return definition
        return _seen(definition, found)

    return replace(
        block,
        statements=tuple(_changed(each, change) for each in block.statements),
        updates=tuple(map(change, block.updates)),
        result=change(block.result),
        emits=tuple(map(change, block.emits)),
        offered=tuple(map(change, block.offered)),
    )


def _changed(statement: Statement, change: object) -> Statement:
    assert callable(change)
    if isinstance(statement, Definition):
        return change(statement)  # type: ignore[no-any-return]
    if isinstance(statement, Repeat):
        return replace(statement, statements=tuple(map(change, statement.statements)))
    return statement


def _seen(definition: Definition, found: Iterable[KeySource]) -> Definition:
    masks = {source.mask.name: source for source in found if source.mask is not None}
    around = definition.array.indices

    def change(node: Expr) -> Expr:
        if node.op != "read" or node.array.name not in masks:
            return node
        test = _above_bottom(masks[node.array.name], node.args, around)
        return node if test is None else call("and", node, test)

    expr = rewrite(definition.expr, change)
    return definition if expr == definition.expr else replace(definition, expr=expr)


def _above_bottom(
    source: KeySource, at: tuple[Expr, ...], around: tuple[Index, ...]
) -> Expr | None:
    """Whether the score of the key that a mask is read at is not -inf. Axes that only the score has
    are filled by the indices around."""
    assert source.mask is not None and source.score is not None
    places = {index.axis.name: position(index) for index in around}
    named = dict(zip((index.name for index in source.mask.indices), at, strict=True))
    filled = [named.get(i.name, places.get(i.axis.name)) for i in source.score.indices]
    args = [each for each in filled if each is not None]
    if len(args) != len(filled):
        return None
    return call("ne", read(source.score, args), number(float("-inf")))


def _any_read(source: KeySource) -> Expr:
    assert source.score is not None
    return read(source.score, map(position, source.score.indices))


def score_names(spec: Spec) -> frozenset[str]:
    """The arrays that hold scores."""
    return frozenset(
        source.score.name
        for block in blocks(spec.root)
        for source in block.sources
        if source.score is not None
    )


def expressions(spec: Spec) -> list[Expr]:
    """The expressions of all definitions that a call may evaluate."""
    found: list[Expr] = []
    for block in blocks(spec.root):
        found += [each.expr for each in (block.result, *block.emits, *block.updates)]
        for each in block.statements:
            if isinstance(each, Definition):
                found.append(each.expr)
            elif isinstance(each, Repeat):
                found += [line.expr for line in each.statements]
    return found


def nodes(spec: Spec) -> Iterable[Expr]:
    """Every node of those expressions once."""
    return postorder(*expressions(spec))
