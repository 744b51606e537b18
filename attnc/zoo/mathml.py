"""A Spec's equations as MathML, from its expression trees.

One `<math>` an equation, in the order of evaluation: what is visible, the score, the weight, the
equations between, states, the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attnc.expressions.tree import TRUE
from attnc.spec import Block, Definition, Repeat, Spec
from attnc.zoo.forms import OUTER, identifier, joined, math
from attnc.zoo.line import Known, Line


@dataclass(frozen=True)
class Equation:
    """One line: `kind` (visible, equation, state, update, result, emit), its block, its MathML."""

    kind: str
    block: str
    mathml: str


def print_equations(spec: Spec) -> list[Equation]:
    """The equations of an operator."""
    return list(_block(spec, spec.root, ""))


def _block(spec: Spec, block: Block, name: str) -> Iterator[Equation]:
    many = len(block.sources) > 1
    known = known_masks(spec)
    for state in block.states:
        line = Line(many, known).equation(state.array, state.initial, "←")
        yield Equation("state", name, line)
    hidden = {one.array.name for one in block.offered}
    result = [
        Equation("result", name, Line(many, known).equation(block.result.array, block.result.expr))
    ]
    for statement in block.statements:
        if isinstance(statement, Block):
            yield from _block(spec, statement, statement.name)
        elif isinstance(statement, Repeat):
            count = Line(many, known).print(statement.count)
            index = identifier(statement.index.name)
            yield Equation(
                "repeat",
                name,
                math(f"<mtext>for each&#160;</mtext>{index}<mo>&lt;</mo>{count[0]}"),
            )
            for step in statement.statements:
                shown = Line(many, known).equation(step.array, step.expr, "←")
                yield Equation("update", name, shown)
        elif statement.array.name not in hidden:
            yield from _definition(statement, name, many, known)
    if block.reads_old:
        yield from result
    for update in block.updates:
        yield Equation("update", name, Line(many, known).equation(update.array, update.expr, "←"))
    if not block.reads_old:
        yield from result
    for emit in block.emits:
        yield Equation("emit", name, Line(many, known).equation(emit.array, emit.expr))


def _definition(definition: Definition, name: str, many: bool, known: Known) -> Iterator[Equation]:
    array, expr = definition.array, definition.expr
    if array.name not in known.keys:
        yield Equation("equation", name, Line(many, known).equation(array, expr))
        return
    if expr == TRUE:
        return
    line = Line(many, known)
    last = known.keys[array.name]
    keys = [index for index in array.indices if index.name in last]
    line.name_all(array.indices, expr)
    rows = [index for index in array.indices if index not in keys and index.name not in OUTER]
    left = line.subscripted(line.label(array), [line.index(row) for row in rows])
    shown = joined([line.index(key) for key in keys])
    body = line.print(expr)[0]
    inside = f'<mo stretchy="false">{{</mo>{shown}<mo>:</mo>{body}<mo stretchy="false">}}</mo>'
    yield Equation("visible", name, math(f"{left}<mo>=</mo>{inside}"))


def known_masks(spec: Spec) -> Known:
    """The masks of all blocks."""
    keys, blocks = {}, [spec.root]
    while blocks:
        block = blocks.pop()
        blocks += [one for one in block.statements if isinstance(one, Block)]
        for source in block.sources:
            if source.mask is not None:
                keys[source.mask.name] = tuple(index.name for index in source.keys)
    hidden = (n for n, one in spec.definitions.items() if n in keys and one.expr == TRUE)
    return Known(
        frozenset(hidden), keys, frozenset(name.split(".")[-2] for name in keys if "." in name)
    )
