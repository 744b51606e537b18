"""Names of bound indices: the same for trees that differ only in them.

A fold's bound indices are named after their axis and numbered by the height of the fold (how deeply
folds are nested below it), so that alpha-equal folds have equal digests. Free indices are kept.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, position, postorder, rewrite, scoped, substitute

APART = 1_000_000  # a number that no index of a text reaches


def set_apart(root: Expr, done: Container[bytes] = ()) -> Expr:
    """The tree with every bound index numbered beyond APART: nothing put into it is captured.

    done: digests of subtrees that were set apart before"""

    bound = {i for node in postorder(root, done=done) for i in node.bound if i.number < APART}
    hidden = bound & root.free  # a fold's own and the tree's: one index is two

    def change(node: Expr) -> Expr:
        if node.op == "index" and node.attr in bound - hidden:
            assert isinstance(node.attr, Index)
            return position(_apart(node.attr))
        node = rename_bound(node, {index: _apart(index) for index in node.bound if index in hidden})
        return rebind(node, {index: _apart(index) for index in node.bound})

    return rewrite(root, change) if bound else root


def _apart(index: Index) -> Index:
    return index if index.number >= APART else Index(index.name, index.axis, index.number + APART)


def rebind(node: Expr, exchange: dict[Index, Index]) -> Expr:
    """A fold or selection that binds other indices; its operands are taken as they are."""
    if not node.bound or not exchange:
        return node
    assert isinstance(node.attr, tuple)
    attr = tuple(exchange.get(p, p) if isinstance(p, Index) else p for p in node.attr)
    return node if attr == node.attr else Expr(node.op, node.args, attr, node.kind, node.span)


def rename_bound(node: Expr, exchange: dict[Index, Index]) -> Expr:
    """A fold with its bound indices renamed, in what sees them too. The new ones must be free in
    neither operand."""
    moves = {old: position(new) for old, new in exchange.items() if old != new}
    if not moves:
        return node
    inner = scoped(node)
    args = tuple(
        substitute(arg, moves) if place < inner else arg for place, arg in enumerate(node.args)
    )
    return rebind(node, exchange).with_args(args)


def indices_in(*roots: Expr) -> set[Index]:
    """Every index that the trees bind or leave free."""
    free = (index for root in roots for index in root.free)
    return {*free, *(index for node in postorder(*roots) for index in node.bound)}


def fresh_index(index: Index, taken: Iterable[Index]) -> Index:
    """An index of the same axis and name that is none of the taken, nor any that `canonical` or
    `set_apart` could give a fold."""
    numbers = (one.number for one in taken if one.name == index.name)
    return Index(index.name, index.axis, 1 + max((2 * APART, *numbers)))


def canonical(root: Expr) -> Expr:
    """The tree with its bound indices renamed by axis and height."""
    height: dict[bytes, int] = {}

    def change(node: Expr) -> Expr:
        level = max((height[arg.digest] for arg in node.args), default=0)
        if node.bound:
            exchange = {
                index: Index(index.axis.name, index.axis, level + place)
                for place, index in enumerate(node.bound, 1)
            }
            node = rename_bound(node, exchange)
            level += len(node.bound)
            _note_heights(node, height)
        height[node.digest] = level
        return node

    return rewrite(set_apart(root), change)


def _note_heights(node: Expr, height: dict[bytes, int]) -> None:
    """Heights of the nodes that a renaming made anew: as of their operands and bound indices."""
    for below in postorder(*node.args):
        if below.digest not in height:
            level = max((height[arg.digest] for arg in below.args), default=0)
            height[below.digest] = level + len(below.bound)
