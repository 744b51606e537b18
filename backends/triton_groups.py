"""Heads of a group: those that share what is walked, and may be rows of one tile; those that a walk
goes around."""

from __future__ import annotations

from collections.abc import Collection

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr, postorder
from attnc.schedule.streams import StreamKernel, WalkedLoop

LEAVES_OF_HEADS = frozenset(
    ("index", "number", "length", "add", "sub", "mul", "floordiv", "mod", "min", "max")
)


def group_axes(shared: Expr) -> tuple[Axis, Axis]:
    """h // (len(h) // len(hk)): the axes of h and hk."""
    fine, coarse = shared.args[1].args
    assert isinstance(fine.attr, Axis) and isinstance(coarse.attr, Axis)
    return fine.attr, coarse.attr


def is_group(node: Expr, index: Index) -> bool:
    """Whether a node is `index // (len(h) // len(hk))`."""
    if node.op != "floordiv" or node.args[0].op != "index" or node.args[0].attr != index:
        return False
    size = node.args[1]
    return size.op == "floordiv" and all(arg.op == "length" for arg in size.args)


def shared_heads(kernel: StreamKernel) -> tuple[Index, Expr] | None:
    """The grid index whose groups share everything that is walked, with the expression of the
    group; None if there is none."""
    last = next((g for g in reversed(kernel.grid) if g != kernel.split), None)
    if last is None:
        return None
    walked: list[Expr] = []
    for loop in kernel.loops:
        walked += [product.right for product in loop.products]
        walked += [c.operand for c in loop.contributions if c.operand is not None]
        walked += [let.expr for let in loop.walked_values]
        region = (
            loop.region.possible,
            loop.region.certain,
            *(s.expr for s in loop.region.summaries),
        )
        spans = [
            e for s in loop.region.segments for e in (s.start, s.full_start, s.full_stop, s.stop)
        ]
        if any(last in expr.free for expr in (*region, *spans)):
            return None
    shared = [n for expr in walked for n in postorder(expr) if is_group(n, last)]
    own = _own_values(kernel, last)
    if not shared or any(depends_otherwise(expr, last, own) for expr in walked):
        return None
    return last, shared[0]


def _own_values(kernel: StreamKernel, index: Index) -> set[str]:
    """The names of values that depend on an index other than through its group."""
    lets = [*kernel.grid_values, *(let for loop in kernel.loops for let in loop.walked_values)]
    own: set[str] = set()
    for let in lets:
        if depends_otherwise(let.expr, index, own):
            own.add(let.name)
    return own


def depends_otherwise(expr: Expr, index: Index, own: Collection[str] = ()) -> bool:
    """Whether an expression depends on an index other than through its group; `own`: the values
    that do."""
    stack = [expr]
    while stack:
        node = stack.pop()
        if is_group(node, index):
            continue
        if (node.op == "index" and node.attr == index) or (node.op == "value" and node.attr in own):
            return True
        stack.extend(node.args)
    return False


def head_rows(kernel: StreamKernel, loop: WalkedLoop) -> dict[bytes, Expr]:
    """The places on outer axes that a walk's reads stand at and that change with its rounds
    (`hk * group + g`), by digest."""
    inner = frozenset(loop.around)
    grid = frozenset(kernel.grid) | inner
    found: dict[bytes, Expr] = {}
    for read in _reads(loop):
        for at in read.args:
            if at.op != "index" and at.free & inner and not at.free - grid and _is_computed(at):
                found[at.digest] = at
    return found


def _reads(loop: WalkedLoop) -> list[Expr]:
    """Every read in the expressions of a loop."""
    roots = [let.expr for let in (*loop.walked_values, *loop.pair_values, *loop.lifted)]
    roots += [side for product in loop.products for side in (product.left, product.right)]
    terms = [(c.term, c.operand) for c in loop.contributions]
    terms += [(s.term, s.operand) for s in loop.deposits]
    terms += [(s.term, s.operand) for s in loop.scatters]
    roots += [expr for pair in terms for expr in pair if expr is not None]
    roots += [store.term for store in loop.pair_stores]
    roots += [expr for expr in (loop.visible, loop.hidden, loop.exponent) if expr is not None]
    return [node for node in postorder(*roots) if node.op == "read"]


def _is_computed(at: Expr) -> bool:
    """Whether a position is computed from indices, lengths and numbers alone."""
    return all(node.op in LEAVES_OF_HEADS for node in postorder(at))
