"""A scalar tree as text in the language of attnc, for messages and printed stages.

The text is the language's own: its operators, precedence, chains of comparisons and folds. Casts
that the language makes silently are not written. Trees are graphs inside (equal nodes are one), so
the text of a small tree may be long: it is cut at `limit` characters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import BOXES, COMPARISON, Expr, Payload, postorder

# Binding strength, loosest first.
ELSE, OR, AND, NOT, COMPARE, RANGE, SUM, TERM, SIGN, POWER, PRIMARY = range(11)

INFIX: dict[str, tuple[str, int]] = {
    "or": ("or", OR), "and": ("and", AND),
    "eq": ("==", COMPARE), "ne": ("!=", COMPARE), "lt": ("<", COMPARE), "le": ("<=", COMPARE),
    "gt": (">", COMPARE), "ge": (">=", COMPARE),
    "add": ("+", SUM), "sub": ("-", SUM),
    "mul": ("*", TERM), "div": ("/", TERM), "floordiv": ("//", TERM), "mod": ("%", TERM),
}  # fmt: skip
SILENT = ("to_real", "to_complex")
OUTER = ("b", "h", "hk")
Piece = str | tuple[Expr, int]


def expression_text(expr: Expr, limit: int = 4000, outer: bool = True) -> str:
    """The text of a tree, at most about `limit` characters (then it ends in `...`).

    outer: whether positions on the axes b, h and hk are written, which the language fills by name.
    Indices of one name are told apart by their number where the tree has several.
    """
    names = index_names(expr)
    pieces: list[str] = []
    size = 0
    stack: list[Piece] = [(expr, ELSE)]
    while stack:
        piece = stack.pop()
        if isinstance(piece, str):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                return "".join(pieces).rstrip() + " ..."
            continue
        node, wanted = piece
        parts, strength = _pieces(node, outer, names)
        if strength < wanted:
            parts = ["(", *parts, ")"]
        stack.extend(reversed(parts))
    return "".join(pieces)


def _pieces(node: Expr, outer: bool, names: dict[Index, str]) -> tuple[list[Piece], int]:
    """What a node's text is made of, and how strongly it binds."""
    op, args = node.op, node.args
    if op in SILENT:
        return [(args[0], ELSE)], PRIMARY if not args[0].args else ELSE
    if op == "and":
        chain = _chain(node)
        if chain:
            return chain, COMPARE
    if op in INFIX:
        return _infix(node)
    if op == "not":
        return ["not ", (args[0], NOT)], NOT
    if op == "neg":
        return ["-", (args[0], SIGN)], SIGN
    if op == "pow":
        return [(args[0], PRIMARY), " ** ", (args[1], SIGN)], POWER
    if op == "default":
        return [(args[0], OR), " else ", (args[1], ELSE)], ELSE
    if op == "read":
        return _read(node, outer), PRIMARY
    if node.bound:
        return _fold(node, names), PRIMARY
    if op == "solve":
        low, high, left, right = args
        head: list[Piece] = [f"solve({node.attr} in ", (low, SUM), " .. ", (high, SUM), ": "]
        return [*head, (left, RANGE), " == ", (right, RANGE), ")"], PRIMARY
    if op == "grad":
        head = ["grad(", (args[0], ELSE), f", {node.array.name})"]
        return [*head, *_subscript(args[1:])], PRIMARY
    if op == "random":
        return ["random()"], PRIMARY
    if op in BOXES:
        spans: list[Piece] = []
        for low, high in zip(args[::2], args[1::2], strict=True):
            spans += [", "] if spans else []
            spans += [(low, RANGE)] if low == high else [(low, RANGE), " .. ", (high, RANGE)]
        return [f"{op}({node.array.name}[", *spans, "])"], PRIMARY
    if isinstance(node.attr, Index):
        return [names[node.attr]], PRIMARY
    if not args:
        return _leaf(op, node.attr)
    return [f"{op}(", *_joined(args), ")"], PRIMARY


def index_names(expr: Expr) -> dict[Index, str]:
    """How each index of the tree is written: its bare name, where no other has it."""
    found: dict[str, set[Index]] = {}
    for node in postorder(expr):
        here = (node.attr,) if isinstance(node.attr, Index) else node.bound
        for index in here:
            found.setdefault(index.name, set()).add(index)
    return {
        index: name if len(same) == 1 else str(index)
        for name, same in found.items()
        for index in same
    }


def _leaf(op: str, attr: Payload) -> tuple[list[Piece], int]:
    if isinstance(attr, Axis):
        return [f"{'len' if op == 'length' else op}({attr.name})"], PRIMARY
    if op != "number":
        return [str(attr)], PRIMARY
    if isinstance(attr, bool):
        return ["true" if attr else "false"], PRIMARY
    assert isinstance(attr, (int, float))
    if isinstance(attr, float) and math.isinf(attr):
        return (["inf"], PRIMARY) if attr > 0 else (["-inf"], SIGN)
    return [repr(attr)], SIGN if attr < 0 else PRIMARY


def _infix(node: Expr) -> tuple[list[Piece], int]:
    sign, strength = INFIX[node.op]
    if strength == COMPARE:
        left, right = node.args
        return [(left, RANGE), f" {sign} ", (right, RANGE)], COMPARE
    parts: list[Piece] = [(node.args[0], strength)]
    for arg in node.args[1:]:
        parts += [f" {sign} ", (arg, strength + 1)]
    return parts, strength


def _chain(node: Expr) -> list[Piece]:
    """`a <= b < c` for `a <= b and b < c`, as the language writes it; nothing if it is not one."""
    if len(node.args) != 2 or any(arg.op not in COMPARISON for arg in node.args):
        return []
    first, second = node.args
    if first.args[1] != second.args[0] or not (first.args[1].free or first.args[1].args):
        return []
    signs = (f" {INFIX[first.op][0]} ", f" {INFIX[second.op][0]} ")
    left, middle, right = first.args[0], first.args[1], second.args[1]
    return [(left, RANGE), signs[0], (middle, RANGE), signs[1], (right, RANGE)]


def _read(node: Expr, outer: bool) -> list[Piece]:
    positions = node.args
    if not outer:
        kept = [axis.name not in OUTER for axis in node.array.axes]
        positions = tuple(position for position, keep in zip(node.args, kept, strict=True) if keep)
    return [node.array.name, *_subscript(positions)]


def _subscript(positions: tuple[Expr, ...]) -> list[Piece]:
    return ["[", *_joined(positions), "]"] if positions else []


def _joined(args: tuple[Expr, ...]) -> Iterator[Piece]:
    for place, arg in enumerate(args):
        if place:
            yield ", "
        yield arg, ELSE


def _fold(node: Expr, names: dict[Index, str]) -> list[Piece]:
    name = node.monoid if node.op == "fold" else node.op
    binders = ", ".join(names[index] for index in node.bound)
    condition, body = node.args[:2]
    parts: list[Piece] = [f"{name}({binders}"]
    if not (condition.op == "number" and condition.attr is True):
        parts += [" if ", (condition, OR)]
    parts += [": ", (body, ELSE)]
    rest = node.args[2:]
    if node.op == "topk":
        parts += [", ", (rest[0], ELSE)]
        rest = rest[1:]
    return [*parts, ")", *_subscript(rest)]
