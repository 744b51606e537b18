"""Divisors that numbers and lengths of the call decide: what a kernel divides by must not be 0.

Only those of `//` and `%` that are lengths, or formulas of params with lengths among them, can be
tested before a kernel runs. What a formula guards itself (a branch, a condition on numbers beside
it) is left to it, and a call without points divides by nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from attnc.expressions.index import Axis
from attnc.expressions.text import expression_text
from attnc.expressions.tree import Expr, call, length, number, postorder
from attnc.signature import Requirement
from attnc.spec import Block, Definition, Repeat, Spec

DIVIDING = ("floordiv", "mod")
PLAIN = ("number", "param", "length", "add", "sub", "mul", "neg", "min", "max", *DIVIDING)


def divisor_requirements(spec: Spec) -> tuple[Requirement, ...]:
    """For each divisor that the call decides, that it is not 0, or that nothing is divided."""
    found: dict[bytes, Expr] = {}
    for root in _equations(spec.root):
        for node in _unguarded(root):
            if node.op in DIVIDING and _of_the_call(node):
                found.setdefault(node.args[1].digest, node.args[1])
    sizes = _sizes(spec)
    empty = [call("eq", size, number(0)) for size in sizes]
    lengths = {size.digest for size in sizes}
    requirements = []
    for divisor in found.values():
        if _is_product(divisor, lengths):
            continue  # where it is 0 there are no points
        condition = _not_zero(divisor)
        for none in empty:
            condition = call("or", none, condition)
        said = f"a divisor {expression_text(divisor)} other than 0"
        requirements.append(Requirement(condition, said))
    return tuple(requirements)


def _not_zero(divisor: Expr) -> Expr:
    """That a divisor is not 0, and before it that those inside it are not."""
    inner = [node.args[1] for node in postorder(divisor) if node.op in DIVIDING]
    condition: Expr | None = None
    for each in (*inner, divisor):
        if each.op == "number":
            continue
        one = call("ne", each, number(0))
        condition = one if condition is None else call("and", condition, one)
    assert condition is not None
    return condition


def _of_the_call(node: Expr) -> bool:
    divisor = node.args[1]
    if divisor.op == "length":
        axis = divisor.attr
        assert isinstance(axis, Axis)
        # Heads that others are divided among are not 0, nor is an axis where an index is on it.
        return axis.form != "coarse" and all(index.axis != axis for index in node.free)
    nodes = list(postorder(divisor))
    return all(node.op in PLAIN for node in nodes) and any(node.op == "param" for node in nodes)


def _is_product(divisor: Expr, lengths: set[bytes]) -> bool:
    if divisor.op == "mul" and divisor.digest not in lengths:
        return all(_is_product(arg, lengths) for arg in divisor.args)
    return divisor.digest in lengths


def _unguarded(root: Expr) -> Iterator[Expr]:
    """The parts of an expression that nothing beside them can switch off."""
    stack, seen = [root], set()
    while stack:
        node = stack.pop()
        if node.digest in seen:
            continue
        seen.add(node.digest)
        yield node
        if node.op == "where":
            stack.append(node.args[0])
        elif node.op not in ("and", "or") or all(arg.free for arg in node.args):
            stack.extend(node.args)


def _sizes(spec: Spec) -> list[Expr]:
    """The lengths of the measured axes of rows, keys, heads and batch."""
    keys = (key for source in spec.root.sources for key in source.keys)
    sizes: dict[Axis, Expr] = {}
    for index in (*spec.root.result.array.indices, *keys):
        for axis in index.axis.parts or (index.axis,):
            size = axis.length if axis.length is not None else length(axis)
            if all(node.op in PLAIN for node in postorder(size)):
                sizes.setdefault(axis, size)
    return list(sizes.values())


def _equations(block: Block) -> Iterator[Expr]:
    """The expressions of the result: of a block and of the blocks in it."""
    stack: list[Block | Definition | Repeat] = [block]
    while stack:
        one = stack.pop()
        if isinstance(one, Definition):
            yield one.expr
        elif isinstance(one, Repeat):
            stack.extend(one.statements)
        else:
            stack.extend((*one.statements, *one.updates, one.result))
