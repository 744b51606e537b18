"""Whether positions may be computed in 32 bits: the largest value that any integer expression of a
schedule can take for lengths, positions and numbers up to 2**20.

Integers read from tensors are int64 in the kernels and carry what they touch along, so they do not
count here.
"""

from __future__ import annotations

from collections.abc import Iterator

from attnc.backends.scan_order import write_parts

from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, postorder
from attnc.schedule import Kernel, Schedule, leaves
from attnc.schedule.maps import MapKernel
from attnc.schedule.scans import ReverseScanKernel, ScanKernel
from attnc.schedule.statements import Let
from attnc.schedule.streams import StreamKernel

LARGEST = 2**20
LIMIT = 2**31 - 1


def fits_int32(schedule: Schedule, lanes_only: bool = False) -> bool:
    """Whether no integer expression leaves 32 bits as long as its leaves are within LARGEST.

    lanes_only: what is the same for all pairs of a grid instance has 64 bits anyway."""
    for kernel in leaves(schedule.kernels):
        lanes = None
        if lanes_only and isinstance(kernel, StreamKernel):
            lanes = frozenset((kernel.held, *(loop.walked for loop in kernel.loops)))
        if any(magnitude(expr, lanes) > LIMIT for expr in _expressions(kernel)):
            return False
    return True


def magnitude(root: Expr, lanes: frozenset[Index] | None = None) -> int:
    """A bound of the absolute value of every integer node under the root that varies along one of
    `lanes` (None: of every one)."""
    sizes: dict[bytes, int] = {}
    worst = 0
    for node in postorder(root):
        size = _size(node, [sizes[arg.digest] for arg in node.args])
        sizes[node.digest] = size
        if node.kind == "int" and (lanes is None or node.free & lanes):
            worst = max(worst, size)
    return worst


def _size(node: Expr, args: list[int]) -> int:
    if node.kind != "int":
        return 1 if node.kind == "bool" else 0
    if node.op == "number":
        return abs(int(node.attr))  # type: ignore[arg-type]
    if node.op in ("add", "sub"):
        return sum(args)
    if node.op == "mul":
        return args[0] * args[1]
    if node.op == "floordiv":
        return args[0] + 1
    if node.op == "mod":
        return args[1]
    if node.op == "where":
        return max(args[1:])
    if node.op in ("min", "max", "neg", "abs"):
        return max(args)
    if node.op == "sign":
        return 1
    if node.op == "pow":
        return int(args[0] ** min(args[1], 64))
    if node.op in ("index", "param", "length", "start", "value"):
        return 2 * LARGEST  # a position is an offset and a row
    return 0  # read or computed from reals: int64


def _expressions(kernel: Kernel) -> Iterator[Expr]:
    if isinstance(kernel, MapKernel):
        yield from (let.expr for let in kernel.values)
        yield from (store.expr for store in kernel.stores)
    elif isinstance(kernel, StreamKernel):
        yield from _stream_expressions(kernel)
    elif isinstance(kernel, ScanKernel):
        lets = (*kernel.grid_values, *kernel.loop.inside, *kernel.loop.after)
        yield from (let.expr for let in lets if isinstance(let, Let))
        yield from (*kernel.loop.initial, *kernel.loop.advance)
        yield from (store.expr for store in kernel.stores)
    elif isinstance(kernel, ReverseScanKernel):
        lets = (*kernel.grid_values, *kernel.replay.inside, *kernel.inside, *kernel.given)
        yield from (let.expr for let in (*lets, *kernel.last) if isinstance(let, Let))
        yield from (*kernel.replay.advance, *kernel.initial, *kernel.absorbed)
        yield from (*kernel.advance, *kernel.ending)
        for write in (*kernel.writes, *kernel.ended):
            yield from write_parts(write)


def _stream_expressions(kernel: StreamKernel) -> Iterator[Expr]:
    lets = (*kernel.grid_values, *kernel.held_values, *kernel.finish)
    yield from (let.expr for let in lets)
    yield from (store.expr for store in kernel.stores)
    for loop in kernel.loops:
        yield from (let.expr for let in (*loop.walked_values, *loop.pair_values, *loop.lifted))
        yield from (one.term for one in loop.sums)
        yield from (one.term for one in loop.pair_stores)
        yield from (scatter.at for scatter in loop.scatters)
        region = loop.region
        yield from (region.possible, region.certain, *(s.expr for s in region.summaries))
        for segment in region.segments:
            yield from (segment.start, segment.full_start, segment.full_stop, segment.stop)
        yield from (e for e in (loop.visible, loop.hidden, loop.exponent) if e is not None)
