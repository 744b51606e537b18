"""The text form of a Spec, for `attnc show --emit spec` and golden files: every array with its axes
and its equation, in the order of evaluation."""

from __future__ import annotations

from collections.abc import Iterator

from attnc.expressions.index import Axis
from attnc.expressions.text import expression_text
from attnc.expressions.tree import TRUE, Array
from attnc.spec import Block, Definition, KeySource, Number, Repeat, Spec

INDENT = "    "
SHIFTS = {"offset": "starts at offset", "key_offset": "starts at key_offset"}


def print_spec(spec: Spec) -> str:
    """A Spec as lines of text."""
    lines = [f"operator {spec.name}", "", "axes"]
    lines += [f"{INDENT}{_axis(axis)}" for axis in spec.axes]
    if spec.numbers:
        lines += ["", "numbers", *(f"{INDENT}{_number(number)}" for number in spec.numbers)]
    lines += ["", "inputs"]
    for given in spec.inputs:
        default = f" = {expression_text(given.default)}" if given.default is not None else ""
        keyword = "" if given.positional else "  (keyword)"
        lines.append(f"{INDENT}{_array(given.array)}{default}{keyword}")
    if spec.checks:
        lines += ["", "checks at the call"]
        lines += [f"{INDENT}{expression_text(check.condition)}" for check in spec.checks]
    lines += ["", *_block(spec.root, "")]
    return "\n".join(lines) + "\n"


def _axis(axis: Axis) -> str:
    if axis.form == "coarse" and axis.of is not None:
        return f"{axis.name} of {axis.of.name}"
    if axis.form == "product":
        return f"{axis.name} = ({', '.join(part.name for part in axis.parts)})"
    if axis.length is not None:
        low = "" if axis.low is None else f" from {expression_text(axis.low)}"
        return f"{axis.name} < {expression_text(axis.length)}{low}"
    shift = SHIFTS.get(axis.shifted)
    return f"{axis.name}" + (f" ({shift})" if shift else "")


def _number(number: Number) -> str:
    stage = "static" if number.static else "param"
    default = "" if number.default is None else f" = {expression_text(number.default)}"
    return f"{stage} {number.name}: {number.kind}{default}"


def _array(array: Array) -> str:
    names = [
        str(index) if index.name == index.axis.name else f"{index} in {index.axis.name}"
        for index in array.indices
    ]
    return f"{array.name}: {array.kind}[{', '.join(names)}]"


def _block(block: Block, indent: str) -> Iterator[str]:
    inner = indent + INDENT
    rows = ", ".join(map(str, block.rows))
    head = f"block {block.name}" + (f" for {rows}" if rows else "")
    keys = " | ".join(", ".join(map(str, source.keys)) for source in block.sources)
    yield f"{indent}{head}{f' over {keys}' if keys else ''}"
    for source in block.sources:
        yield f"{inner}keys {_source(source)}"
    for state in block.states:
        yield f"{inner}state {_array(state.array)} = {expression_text(state.initial)}"
    for statement in block.statements:
        if isinstance(statement, Block):
            yield from _block(statement, inner)
        elif isinstance(statement, Repeat):
            count = expression_text(statement.count)
            yield f"{inner}repeat {statement.index} < {count}"
            for line in statement.statements:
                yield from _definition("", line, inner + INDENT)
        else:
            yield from _definition("", statement, inner)
    result = list(_definition("read ", block.result, inner))
    if block.reads_old:
        yield from result
    if block.updates:
        yield f"{inner}update"
        for line in block.updates:
            yield from _definition("", line, inner + INDENT)
    if not block.reads_old:
        yield from result
    for emit in block.emits:
        yield from _definition("emit ", emit, inner)
    for offered in block.offered:
        yield from _definition("offer ", offered, inner)


def _source(source: KeySource) -> str:
    names = ", ".join(map(str, source.keys))
    arrays = [
        f"{kind} {array.name}"
        for kind, array in (
            ("mask", source.mask),
            ("score", source.score),
            ("weight", source.weight),
        )
        if array is not None
    ]
    return f"{names}: {', '.join(arrays)}"


def _definition(head: str, definition: Definition, indent: str) -> Iterator[str]:
    yield f"{indent}{head}{_array(definition.array)} = {expression_text(definition.expr)}"
    if definition.domain != TRUE:
        yield f"{indent}{INDENT}where {expression_text(definition.domain)}"
