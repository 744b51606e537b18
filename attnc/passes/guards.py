"""What the trees of a Region take for granted, as conditions that are tested with them.

Does: finds how large integers may become in a tree and, for leaves of unknown size (params, reads,
summaries) that meet arithmetic, the power of two that keeps every sum and product in 64 bits.
Needs: lengths and positions below 2**30; params within 2**62, which the call checks. Does not:
rewrite the tree; where a leaf is beyond its limit the caller says "mixed", which is always right.
"""

from __future__ import annotations

import math

from attnc.expressions.tree import FALSE, Expr, call, number, postorder
from attnc.passes.integers import both

POSITION = 2**30
PARAM = 2**62
WORD = 2**63 - 1
CHOICES = tuple(2**bits for bits in (62, 60, 56, 48, 40, 31, 30, 24, 20, 16, 12))
SUMS = ("add", "sub", "neg", "mul")


def safe(*roots: Expr) -> Expr:
    """The condition under which integer arithmetic in the trees cannot leave 64 bits."""
    leaves = _leaves_in_arithmetic(roots)
    for limit in CHOICES:
        if _largest(roots, limit) <= WORD:
            checked = [leaf for leaf in leaves if leaf.op != "param" or limit < PARAM]
            return both(*(_within(leaf, limit) for leaf in checked))
    return FALSE


def _within(leaf: Expr, limit: int) -> Expr:
    return call("and", call("le", number(-limit), leaf), call("le", leaf, number(limit)))


def _is_leaf(node: Expr) -> bool:
    return not node.args or node.op == "read"


def _bounded(node: Expr) -> bool:
    """Numbers, positions and lengths: of known size."""
    name = node.attr if isinstance(node.attr, str) else ""
    corner = node.op == "value" and name.startswith(("held_", "walked_"))
    return node.op in ("number", "index", "length", "start") or corner


def _leaves_in_arithmetic(roots: tuple[Expr, ...]) -> list[Expr]:
    """Leaves of unknown size that reach a sum or product (through minima and quotients too)."""
    found: dict[bytes, Expr] = {}
    reached: set[bytes] = set()
    order = list(postorder(*roots))
    for node in reversed(order):  # users before operands
        carries = node.op in SUMS or (node.digest in reached and node.kind == "int")
        if carries and node.kind == "int" and not _is_leaf(node):
            operands = node.args[1:] if node.op == "where" else node.args
            reached.update(arg.digest for arg in operands if arg.kind == "int")
        if node.digest in reached and _is_leaf(node) and not _bounded(node):
            found[node.digest] = node
    return list(found.values())


def _largest(roots: tuple[Expr, ...], limit: int) -> int:
    """The largest magnitude of a sum or product in the trees, leaves of unknown size within
    `limit`."""
    sizes: dict[bytes, int] = {}
    largest = 0
    for node in postorder(*roots):
        if node.kind != "int":
            continue
        inner = [sizes[arg.digest] for arg in node.args if arg.kind == "int"]
        if node.op == "number":
            assert isinstance(node.attr, int)
            size = abs(node.attr)
        elif _is_leaf(node):
            size = POSITION if _bounded(node) else limit
        elif node.op == "mul":
            size = _product(node, inner, sizes)
        elif node.op in ("add", "sub"):
            size = sum(inner)
        elif node.op == "mod":
            size = inner[1]
        else:
            size = max(inner, default=limit)
        sizes[node.digest] = min(size, 2**200)  # beyond every word; no need to count further
        if node.op in SUMS:
            largest = max(largest, size)
    return largest


def _product(node: Expr, inner: list[int], sizes: dict[bytes, int]) -> int:
    """The magnitude of a product; d * (x // d) is at most |x| + |d|."""
    for divisor, other in (node.args, node.args[::-1]):
        if other.op == "floordiv" and other.args[1] == divisor:
            return sizes[other.args[0].digest] + sizes[divisor.digest]
    return math.prod(inner)
