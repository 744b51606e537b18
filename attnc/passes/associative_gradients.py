"""The backward of a recurrence whose rows combine, in tiles of rows: the adjoint of an elementwise
affine recurrence is one again, walked from the last row to the first.

    S(t) = a(t) S(t - 1) + b(t)        the forward, once more from a checkpoint: all rows at once
    g(t) = c(t) + r(t)                 a cotangent with what the row's results add
    c(t - 1) = a(t) g(t) + ...         of the same algebra: all rows at once, the last first

does      writes out a reversed scan's statements, scans what is carried in it one after another,
          and says what each row gives to gradients from states and cotangents of all rows
needs     a reversed scan, row by row, whose gradients go to the row itself or to sums
does not  tile what adds to other rows, or where rows do not combine (associative)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, position, rewrite, substitute
from attnc.graph import Graph, Recurrence
from attnc.passes.associative import NotCombined, is_state
from attnc.passes.chunk import instance_of
from attnc.passes.hoist import Names
from attnc.passes.row_tiles import Rescanned, in_order
from attnc.passes.rows import Rows
from attnc.schedule import Kernel
from attnc.schedule.scans import ReverseScanKernel, ReverseTiles, RowWrite
from attnc.schedule.statements import Let

Change = Callable[[Expr], Expr]


def with_tiles(kernels: Sequence[Kernel], graph: Graph) -> tuple[tuple[Kernel, ...], str]:
    """The kernels of a derivative, a reversed scan in tiles too where rows combine, and what is
    said of it."""
    found: list[Kernel] = []
    said = ""
    for kernel in kernels:
        if isinstance(kernel, ReverseScanKernel):
            try:
                tiles = reverse_tiles(kernel, _rows_of(kernel, graph))
                kernel, said = replace(kernel, tiled=tiles), "In tiles of rows too, on a GPU."
            except NotCombined as reason:
                said = f"Not in tiles of rows: {reason}."
        found.append(kernel)
    return tuple(found), said


def _rows_of(kernel: ReverseScanKernel, graph: Graph) -> Rows:
    """An empty collection of a row's statements, with names that the kernel has not."""
    one, replay = instance_of(graph), kernel.replay
    lets = _lets((*kernel.grid_values, *replay.inside, *kernel.inside, *kernel.given, *kernel.last))
    taken = {*one.taken, *(let.name for let in lets)}
    arrays = (*replay.states, *kernel.twins, *kernel.carried)
    arrays += tuple(write.array for write in (*kernel.writes, *kernel.ended))
    return one.rows(Names({*taken, *(array.name for array in arrays)}))


def reverse_tiles(kernel: ReverseScanKernel, rows: Rows) -> ReverseTiles:
    """The loop of a reversed scan in tiles of rows. Raises NotCombined."""
    time, replay = kernel.replay.time, kernel.replay
    if any(write.adds or time not in _free(write.at) for write in kernel.writes):
        raise NotCombined("a gradient is added at rows that are computed")
    lets = {let.name: let.expr for let in _lets((*kernel.grid_values, *replay.inside))}
    lets |= {let.name: let.expr for let in _lets((*kernel.inside, *kernel.given))}
    whole = _written_out(lets)
    again = Recurrence(time, replay.states, (), tuple(map(whole, replay.advance)), False)
    forward = Rescanned(rows, again)
    seen = dict(forward.before)
    for state, twin in zip(replay.states, kernel.twins, strict=True):
        seen[twin.name] = forward.after[state.name]
    scans = forward.scans()

    def known(expr: Expr) -> Expr:
        return forward.known(whole(expr), seen, {})

    absorbed = {
        array.name: (array.indices, known(expr))
        for array, expr in zip(kernel.carried, kernel.absorbed, strict=True)
    }
    received = _at_places(absorbed)
    nexts = tuple(received(known(expr)) for expr in kernel.advance)
    backward = Rescanned(rows, Recurrence(time, kernel.carried, (), nexts, True), later=True)
    scans += backward.scans()

    def settled(expr: Expr) -> Expr:
        given = received(known(expr))
        return rows.settle(backward.known(given, backward.before, {}), "before")

    writes = tuple(_write(write, time, settled) for write in kernel.writes)
    inside = in_order((*rows.lets["row"], *rows.lets["before"]), scans)
    return ReverseTiles(tuple(rows.lets["constant"]), inside, writes)


def _write(write: RowWrite, time: Index, settled: Change) -> RowWrite:
    return replace(
        write,
        at=tuple(map(settled, write.at)),
        over=(time, *write.over),
        term=settled(write.term),
        condition=None if write.condition is None else settled(write.condition),
    )


def _free(exprs: Iterable[Expr]) -> frozenset[Index]:
    return frozenset(index for expr in exprs for index in expr.free)


def _lets(statements: Iterable[object]) -> Iterable[Let]:
    return (one for one in statements if isinstance(one, Let))


def _written_out(lets: Mapping[str, Expr]) -> Change:
    """Expressions with the values of a row written out."""
    done: dict[str, Expr] = {}

    def change(node: Expr) -> Expr:
        if node.op != "value" or str(node.attr) not in lets:
            return node
        name = str(node.attr)
        if name not in done:
            done[name] = rewrite(lets[name], change)
        return done[name]

    return lambda expr: rewrite(expr, change)


def _at_places(arrays: Mapping[str, tuple[tuple[Index, ...], Expr]]) -> Change:
    """Expressions with what these arrays hold, at the places where they are read."""

    def change(node: Expr) -> Expr:
        if not is_state(node) or node.array.name not in arrays:
            return node
        indices, expr = arrays[node.array.name]
        pairs = zip(indices, node.args, strict=True)
        return substitute(expr, {i: at for i, at in pairs if at != position(i)})

    return lambda expr: rewrite(expr, change)
