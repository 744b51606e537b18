"""The last step: which axes a finished Spec has."""

from __future__ import annotations

from collections.abc import Iterator

from attnc.check.checker import Checker
from attnc.expressions.index import Axis
from attnc.expressions.tree import Expr, postorder
from attnc.spec import Block, Definition, Repeat


def definitions_of(block: Block) -> Iterator[Definition]:
    """Every definition of a block and of those in it."""
    stack: list[Block] = [block]
    while stack:
        top = stack.pop()
        for statement in top.statements:
            if isinstance(statement, Block):
                stack.append(statement)
            elif isinstance(statement, Repeat):
                yield from statement.statements
            else:
                yield statement
        yield from (*top.updates, top.result, *top.emits, *top.offered)


def used_axes(checker: Checker, block: Block) -> tuple[Axis, ...]:
    """The axes that inputs have or expressions mention, in the order they were made."""
    used: set[Axis] = {index.axis for index in block.rows}
    used |= {axis for given in checker.inputs for axis in given.array.axes}
    exprs: list[Expr] = [check.condition for check in checker.checks]
    exprs += [part for check in checker.read_checks for part in (check.condition, *check.given)]
    for definition in definitions_of(block):
        used.update(definition.array.axes)
        exprs.append(definition.expr)
    for node in postorder(*exprs):
        used.update(index.axis for index in node.bound)
        if isinstance(node.attr, Axis):
            used.add(node.attr)
    for axis in list(used):
        used.update(axis.parts)
        if axis.of is not None:
            used.add(axis.of)
    return tuple(axis for axis in checker.axes if axis in used)
