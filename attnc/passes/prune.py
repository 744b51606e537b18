"""What only unwanted outputs need goes: stores, sums, products and values of pairs.

    only(schedule, wanted)    the schedule that computes these outputs alone
    needs(schedule)           for each kernel and each thing in it, the outputs that need it

A gradient that is not asked for costs nothing: kernels are compiled from `only`, or their texts
guard each statement by the outputs that `needs` gives for it.

does      walks kernels from the last to the first, and statements from their uses
needs     a verified Schedule
does not  change a formula or an order
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from attnc.expressions.tree import Expr, postorder
from attnc.schedule import Kernel, RepeatKernels, Schedule, leaves
from attnc.schedule.maps import MapKernel
from attnc.schedule.statements import Contribution, Deposit, Let, Running, Scatter
from attnc.schedule.streams import StreamKernel, WalkedLoop

Statement = TypeVar("Statement", Let, Let | Running)


def arrays_written(kernel: Kernel) -> frozenset[str]:
    """The names of the arrays that a map or a stream kernel writes, or the kernels of rounds."""
    if isinstance(kernel, RepeatKernels):
        return frozenset().union(*map(arrays_written, kernel.kernels))
    if not isinstance(kernel, (MapKernel, StreamKernel)):
        return frozenset()
    names = {store.array.name for store in kernel.stores}
    if isinstance(kernel, StreamKernel):
        for loop in kernel.loops:
            names |= {one.array.name for one in loop.deposits}
            names |= {one.array.name for one in loop.scatters}
            names |= {one.array.name for one in loop.pair_stores}
    return frozenset(names)


def arrays_read(kernel: Kernel) -> set[str]:
    """The names of the arrays that a map or a stream kernel reads, or the kernels of rounds."""
    if isinstance(kernel, RepeatKernels):
        return set().union(*map(arrays_read, kernel.kernels))
    return {node.array.name for node in postorder(*exprs_of(kernel)) if node.op == "read"}


def exprs_of(kernel: Kernel) -> Iterable[Expr]:
    """Every expression of a map or a stream kernel."""
    if isinstance(kernel, MapKernel):
        yield from (let.expr for let in kernel.values)
        yield from (store.expr for store in kernel.stores)
    if not isinstance(kernel, StreamKernel):
        return
    for lets in (kernel.grid_values, kernel.held_values, kernel.finish):
        yield from (let.expr for let in lets)
    yield from (store.expr for store in kernel.stores)
    if kernel.idle is not None:
        yield kernel.idle
    for loop in kernel.loops:
        yield from loop_exprs(loop)


def needed(schedule: Schedule, outputs: Iterable[str] | None = None) -> tuple[Kernel, ...]:
    """The kernels without stores and sums that nothing reads and the call does not ask for.
    `outputs`: those that it asks for, if not all."""
    asked = (argument.array.name for argument in schedule.signature.outputs)
    wanted = set(asked if outputs is None else outputs)
    kept: list[Kernel] = []
    for kernel in reversed(schedule.kernels):
        slim = trimmed(kernel, frozenset(wanted))
        if slim is None:
            continue
        wanted |= arrays_read(slim)
        kept.append(slim)
    return tuple(reversed(kept))


def trimmed(kernel: Kernel, wanted: frozenset[str]) -> Kernel | None:
    """The kernel without what the wanted arrays do not need; None where nothing is left. Rounds
    stay whole: what one leaves the next one reads."""
    if isinstance(kernel, RepeatKernels):
        return kernel if arrays_written(kernel) & wanted else None
    if not isinstance(kernel, (MapKernel, StreamKernel)):
        return kernel
    if not arrays_written(kernel) & wanted:
        return None
    if arrays_written(kernel) <= wanted:
        return kernel
    stores = tuple(store for store in kernel.stores if store.array.name in wanted)
    if isinstance(kernel, MapKernel):
        values = _live(kernel.values, [store.expr for store in stores])
        return replace(kernel, values=values, stores=stores)
    finish = _live(kernel.finish, [store.expr for store in stores])
    used = _names([*(store.expr for store in stores), *(let.expr for let in finish)])
    tracked = any(loop.exponent is not None for loop in kernel.loops)
    carried = tuple(one for one in kernel.carried if one.name in used)
    kept = frozenset(one.name for one in carried)
    slim = (_loop(loop, wanted, kept) for loop in kernel.loops)
    loops = tuple(loop for loop in slim if loop is not None) or kernel.loops
    inner = [expr for loop in loops for expr in loop_exprs(loop)]
    ends = [*(let.expr for let in finish), *(store.expr for store in stores), *inner]
    ends += [kernel.idle] if kernel.idle is not None else []
    held = _live(kernel.held_values, ends)
    grid = _live(kernel.grid_values, [*ends, *(let.expr for let in held)])
    adds = any(loop.deposits or loop.scatters for loop in loops)
    split = kernel.split if adds or not _adds(kernel) else None
    outer = tuple(i for i in kernel.grid if split is not None or i != kernel.split)
    if tracked and not any(loop.exponent is not None for loop in loops):
        return kernel  # a reference without carried values: as it was
    return replace(
        kernel, grid=outer, grid_values=grid, held_values=held, carried=carried, loops=loops,
        finish=finish, stores=stores, split=split,
    )  # fmt: skip


def _adds(kernel: StreamKernel) -> bool:
    return any(loop.deposits or loop.scatters for loop in kernel.loops)


def _loop(loop: WalkedLoop, wanted: frozenset[str], carried: frozenset[str]) -> WalkedLoop | None:
    contributions = tuple(one for one in loop.contributions if one.carried in carried)
    deposits = tuple(one for one in loop.deposits if one.array.name in wanted)
    scatters = tuple(one for one in loop.scatters if one.array.name in wanted)
    stores = tuple(one for one in loop.pair_stores if one.array.name in wanted)
    if not (contributions or deposits or scatters or stores or loop.exponent is not None):
        return None
    slim = replace(
        loop, contributions=contributions, deposits=deposits, scatters=scatters,
        pair_stores=stores,
    )  # fmt: skip
    return without_unused(slim)


def without_unused(loop: WalkedLoop) -> WalkedLoop:
    """The loop without values and products that nothing in it uses."""
    ends = list(_uses(loop))
    lifted = _live(loop.lifted, ends)
    ends += [let.expr for let in lifted]
    pair = _live(loop.pair_values, ends)
    ends += [let.expr for let in pair]
    names = _names(ends)
    products = tuple(one for one in loop.products if one.name in names)
    walked = _live(loop.walked_values, ends)
    return replace(loop, lifted=lifted, pair_values=pair, products=products, walked_values=walked)


def _uses(loop: WalkedLoop) -> Iterable[Expr]:
    """The expressions of a loop that are no Lets or products."""
    sums: tuple[Contribution | Deposit | Scatter, ...]
    sums = (*loop.contributions, *loop.deposits, *loop.scatters)
    for one in sums:
        yield one.term
        if one.operand is not None:
            yield one.operand
    yield from (scatter.at for scatter in loop.scatters)
    yield from (store.term for store in loop.pair_stores)
    yield from (expr for expr in (loop.visible, loop.exponent, loop.hidden) if expr is not None)
    yield from region_exprs(loop)


def region_exprs(loop: WalkedLoop) -> Iterable[Expr]:
    """Every expression that says which tiles a loop visits."""
    yield from (loop.region.possible, loop.region.certain)
    yield from (summary.expr for summary in loop.region.summaries)
    for span in loop.region.segments:
        yield from (span.start, span.full_start, span.full_stop, span.stop)


def loop_exprs(loop: WalkedLoop) -> Iterable[Expr]:
    """Every expression of a loop."""
    yield from _uses(loop)
    for lets in (loop.walked_values, loop.lifted):
        yield from (let.expr for let in lets)
    yield from (one.expr for one in loop.pair_values)
    yield from (side for product in loop.products for side in (product.left, product.right))


def _names(exprs: Iterable[Expr]) -> set[str]:
    """The names of the tile values that the expressions use."""
    return {str(node.attr) for node in postorder(*exprs) if node.op == "value"}


def _live(lets: tuple[Statement, ...], ends: Iterable[Expr]) -> tuple[Statement, ...]:
    """The Lets that the expressions use, themselves or through other Lets."""
    used = _names(ends)
    kept: list[Statement] = []
    for let in reversed(lets):
        if let.name in used:
            used |= _names([let.expr])
            kept.append(let)
    return tuple(reversed(kept))


def only(schedule: Schedule, wanted: Iterable[str]) -> Schedule:
    """The schedule that computes these outputs alone, with the signature that it had but for the
    outputs."""
    names = frozenset(wanted)
    kernels = needed(schedule, names)
    written = {name for kernel in kernels for name in arrays_written(kernel)}
    outputs = tuple(one for one in schedule.signature.outputs if one.name in names)
    return replace(
        schedule,
        kernels=kernels,
        workspaces=tuple(s for s in schedule.workspaces if s.array.name in written),
        signature=replace(schedule.signature, outputs=outputs),
    )


def needs(schedule: Schedule) -> dict[str, dict[str, frozenset[str]]]:
    """By kernel, by the name of what is in it (the kernel itself, carried values, Lets, products,
    arrays written), the outputs that need it."""
    found: dict[str, dict[str, set[str]]] = {}
    for output in schedule.signature.outputs:
        for kernel in leaves(only(schedule, (output.name,)).kernels):
            if not isinstance(kernel, (MapKernel, StreamKernel)):
                continue
            own = found.setdefault(kernel.name, {})
            for name in (kernel.name, *_contents(kernel)):
                own.setdefault(name, set()).add(output.name)
    return {
        kernel: {name: frozenset(outputs) for name, outputs in own.items()}
        for kernel, own in found.items()
    }


def _contents(kernel: MapKernel | StreamKernel) -> Iterable[str]:
    yield from arrays_written(kernel)
    if isinstance(kernel, MapKernel):
        yield from (let.name for let in kernel.values)
        return
    yield from (one.name for one in kernel.carried)
    for lets in (kernel.grid_values, kernel.held_values, kernel.finish):
        yield from (let.name for let in lets)
    for loop in kernel.loops:
        yield from (one.name for one in loop.products)
        for lets in (loop.walked_values, loop.lifted):
            yield from (let.name for let in lets)
        yield from (one.name for one in loop.pair_values)
