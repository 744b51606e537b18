"""Mutants of a text: one small change each, made on the syntax tree and printed by spans.

A conjunct dropped, < for <=, another sign, a factor or term left out, an index one further, a
number one more, a function taken off, another normalizer. What no longer checks is not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attnc import syntax
from attnc.errors import AttncError
from attnc.front import read_spec
from attnc.parser import parse
from attnc.source import Source
from attnc.spec import Spec

OTHER = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
SIGN = {"+": "-", "-": "+", "*": "/", "/": "*"}
BARE = ("abs", "tanh", "sigmoid", "exp", "log", "rmsnorm", "relu", "l2norm", "softplus", "sqrt")
SWAPPED = {"min": "max", "max": "min"}
NORMALIZERS = {
    "softmax": "by_sum",
    "by_sum": "softmax",
    "softmax1": "softmax",
    "softmax_sink": "softmax",
    "by_length": "by_sum",
    "sparsemax": "softmax",
    "entmax": "softmax",
    "sinkhorn": "softmax",
}


@dataclass(frozen=True)
class Mutant:
    """A changed text. `name` says what was changed in which clause or equation."""

    name: str
    text: str


def mutants_of(path_text: str, name: str) -> Iterator[Mutant]:
    """Every mutant of the clauses and equations of a text, parents first."""
    file = parse(Source(path_text, name))
    roots = [one.expr for operator in file.operators for one in clauses(operator)]
    roots += [one.result for one in file.defs]
    seen: set[str] = set()
    for root in roots:
        for node in syntax.walk(root):
            for start, end, text in changes(node):
                changed = path_text[:start] + text + path_text[end:]
                label = f"{' '.join(path_text[start:end].split())} -> {' '.join(text.split())}"
                if changed not in seen and changed != path_text:
                    seen.add(changed)
                    yield Mutant(f"{head(path_text, root.span.start)}: {label}", changed)


def head(text: str, at: int) -> str:
    """The word that begins the statement around a place."""
    begin = text.rfind("\n", 0, at) + 1
    while text[begin:at].startswith("        ") and text[begin:at].strip() == "":
        begin = text.rfind("\n", 0, begin - 1) + 1
    return text[begin:].split("=")[0].split(":")[0].split("(")[0].strip()


def clauses(operator: syntax.Operator) -> Iterator[syntax.Clause | syntax.Define | syntax.Emit]:
    """Clauses and equations, in updates and blocks too."""
    stack: list[syntax.Node] = list(operator.statements)
    while stack:
        one = stack.pop(0)
        if isinstance(one, syntax.Clause | syntax.Define):
            yield one
        elif isinstance(one, syntax.Update | syntax.Repeat | syntax.Operator):
            stack[:0] = one.statements


Change = tuple[int, int, str]


def changes(node: syntax.Node) -> Iterator[Change]:
    """Each change of one node: where, and what stands there then."""
    if isinstance(node, syntax.Logic):
        for left_out in node.operands:
            kept = [f"({one.span.text})" for one in node.operands if one is not left_out]
            yield whole(node, f"({f' {node.op} '.join(kept)})")
    elif isinstance(node, syntax.Compare):
        for at, op in enumerate(node.ops):
            if op in OTHER:
                yield between(node.operands[at], node.operands[at + 1], OTHER[op])
    elif isinstance(node, syntax.Binary):
        if node.op in SIGN:
            yield between(node.left, node.right, SIGN[node.op])
        if node.op in ("*", "/", "+", "-", "**"):
            yield whole(node, f"({node.left.span.text})")
        if node.op == "-":
            yield whole(node, f"({node.span.text} + 1)")
    elif isinstance(node, syntax.Not | syntax.Unary):
        yield whole(node, f"({node.operand.span.text})")
    elif isinstance(node, syntax.Call | syntax.Fold):
        yield from changed_calls(node)
    elif isinstance(node, syntax.At) and node.args:
        last = node.args[-1]
        yield (last.span.start, last.span.end, f"{last.span.text} + 1")
        yield whole(node, f"(-{node.span.text})")
    elif isinstance(node, syntax.Number):
        yield whole(node, str(node.value + 1))


def changed_calls(node: syntax.Call | syntax.Fold) -> Iterator[Change]:
    name = node.function
    if name.name in BARE:
        argument = node.args[0].span.text
        yield whole(node, f"({argument})")
    for table in (SWAPPED, NORMALIZERS):
        if name.name in table:
            yield (name.span.start, name.span.end, table[name.name])
    if name.name == "dot":
        yield whole(node, f"(-{node.span.text})")
    if name.name == "rotary":
        moved = node.args[1].span
        yield (moved.start, moved.end, f"{moved.text} + 1")
        yield whole(node, node.args[0].span.text)
    if name.name == "where":
        first, second = node.args[1].span.text, node.args[2].span.text
        yield whole(node, f"where({node.args[0].span.text}, {second}, {first})")


def whole(node: syntax.Node, text: str) -> Change:
    return (node.span.start, node.span.end, text)


def between(left: syntax.Node, right: syntax.Node, op: str) -> Change:
    """The operator between two operands, with the brackets around either."""
    text = left.span.source.text[left.span.end : right.span.start]
    old = text.strip().strip("()").strip()
    return (left.span.end, right.span.start, text.replace(old, op, 1))


def checked(mutant: Mutant, name: str, statics: dict[str, object]) -> Spec | None:
    """The mutant's Spec; None if it is not well formed."""
    try:
        return read_spec(Source(mutant.text, name), statics=statics)
    except AttncError:
        return None
