"""What the trees of a Region take for granted, as conditions that are tested with them.

Does: finds how large integers may become in a tree (positions and lengths are below 2**30) and,
for leaves of unknown size (params, reads, summaries) that meet arithmetic, the power of two that
keeps every sum and product within 62 bits. Needs: nothing. Does not: rewrite the tree; where a
leaf is beyond its limit the caller says "mixed", which is always right.
"""

from __future__ import annotations

from attnc.expressions.tree import Expr, call, number, postorder
from attnc.passes.integers import both

POSITION_BITS = 30
WORD_BITS = 62
CHOICES = (60, 56, 48, 40, 31, 30, 24, 20, 16, 12)
SUMS = ("add", "sub", "neg", "mul")


def safe(*roots: Expr) -> Expr:
    """The condition under which integer arithmetic in the trees cannot leave 64 bits."""
    leaves = _leaves_in_arithmetic(roots)
    for bits in CHOICES:
        if _largest(roots, bits) <= WORD_BITS:
            break
    else:
        return number(False)
    return both(*(_within(leaf, bits) for leaf in leaves))


def _within(leaf: Expr, bits: int) -> Expr:
    limit = number(1 << bits)
    return call("and", call("le", call("neg", limit), leaf), call("le", leaf, limit))


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


def _largest(roots: tuple[Expr, ...], bits: int) -> int:
    """The bits of the largest integer in the trees, where leaves of unknown size have `bits`."""
    sizes: dict[bytes, int] = {}
    largest = 0
    for node in postorder(*roots):
        if node.kind != "int":
            continue
        inner = [sizes[arg.digest] for arg in node.args if arg.kind == "int"]
        if node.op == "number":
            assert isinstance(node.attr, int)
            size = abs(node.attr).bit_length()
        elif _is_leaf(node):
            size = POSITION_BITS if _bounded(node) else bits
        elif node.op == "mul":
            size = sum(inner)
        elif node.op in ("add", "sub"):
            size = max(inner) + 1
        else:
            size = max(inner, default=bits)
        sizes[node.digest] = size
        if node.op in SUMS:
            largest = max(largest, size)
    return largest
