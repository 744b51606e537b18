"""A stream kernel right behind another one: what that forms for each pair need not be formed again.

The two hold the same rows and walk the same keys, so that a backend may run them tile by tile, the
leader's products of a tile kept until the other one has read them.

does      says of two kernels in a row whether the second can follow, and which products it finds
needs     verified kernels
does not  change kernels: a backend that runs them one after the other is right too
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from attnc.expressions.tree import Expr, position, postorder
from attnc.passes.prune import arrays_read, arrays_written, exprs_of, region_exprs
from attnc.schedule import Kernel
from attnc.schedule.statements import STRIDED
from attnc.schedule.streams import StreamKernel, WalkedLoop


def leaders(kernels: Sequence[Kernel]) -> dict[str, StreamKernel]:
    """The kernels that can follow the one before them tile by tile, by name, and that one."""
    found: dict[str, StreamKernel] = {}
    for leader, kernel in pairwise(kernels):
        if not isinstance(leader, StreamKernel) or not isinstance(kernel, StreamKernel):
            continue
        if leader.name not in found and _follows(kernel, leader):
            found[kernel.name] = leader
    return found


def found_products(loop: WalkedLoop, led: WalkedLoop) -> dict[str, int]:
    """The products of a loop that the leader's loop forms too, by name, and their places there."""
    places = {(p.width, p.left, p.right): place for place, p in enumerate(led.products)}
    names = {p.name: places.get((p.width, p.left, p.right)) for p in loop.products}
    return {name: place for name, place in names.items() if place is not None}


def _follows(kernel: StreamKernel, leader: StreamKernel) -> bool:
    shares = () if kernel.split is None else (kernel.split,)
    if (*shares, *leader.grid) != kernel.grid or leader.held != kernel.held:
        return False
    if leader.split or leader.idle or kernel.idle or len(leader.loops) != len(kernel.loops):
        return False
    if arrays_written(kernel) & (arrays_read(leader) | arrays_written(leader)):
        return False
    if any(one.width is not None for one in leader.carried):
        return False  # its weights would stand where its products are kept
    both = list(zip(kernel.loops, leader.loops, strict=True))
    plain = all(map(_is_plain, (*kernel.loops, *leader.loops)))
    if not plain or any(loop.writes for loop in leader.loops):
        return False
    if not all(_walks_alike(kernel, loop, leader, led) for loop, led in both):
        return False
    if not any(found_products(loop, led) for loop, led in both):
        return False
    return _reads_own_rows(kernel, leader)


def _is_plain(loop: WalkedLoop) -> bool:
    """Whether a loop walks its keys once, each tile by itself."""
    ordered = loop.running or loop.around or loop.exponent is not None
    return not ordered and loop.chosen is None and loop.access == STRIDED


def _walks_alike(
    kernel: StreamKernel, loop: WalkedLoop, leader: StreamKernel, led: WalkedLoop
) -> bool:
    """Whether two loops visit the same tiles."""
    if loop.walked != led.walked or loop.region != led.region:
        return False
    own, other = (
        {let.name: let.expr for let in (*one.grid_values, *one.held_values)}
        for one in (kernel, leader)
    )
    names = _values_below(region_exprs(loop), own)
    return all(own.get(name) == other.get(name) for name in names)


def _values_below(exprs: Iterable[Expr], values: dict[str, Expr]) -> set[str]:
    """The names of values that expressions use, themselves or through others."""
    used = {str(node.attr) for node in postorder(*exprs) if node.op == "value"}
    known = [values[name] for name in used if name in values]
    return used | _values_below(known, values) if known else used


def _reads_own_rows(kernel: StreamKernel, leader: StreamKernel) -> bool:
    """Whether of what the leader stores each row reads its own."""
    rows = (*leader.grid, leader.held)
    stored = {store.array.name for store in leader.stores}
    for node in postorder(*exprs_of(kernel)):
        if node.op == "read" and node.array.name in stored:
            places = [position(index) for index in node.array.indices]
            if list(node.args) != places or not set(node.array.indices) <= set(rows):
                return False
            if leader.held not in node.array.indices:
                return False
    return True
