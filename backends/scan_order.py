"""What a row of a reversed scan needs, and when it is known: which printers share."""

from __future__ import annotations

from collections.abc import Iterable

from attnc.expressions.tree import Expr, postorder
from attnc.schedule.scans import ReverseScanKernel, RowWrite
from attnc.schedule.statements import Let


def names_read(exprs: Iterable[Expr]) -> frozenset[str]:
    """Values and carried arrays that expressions read."""
    found = set()
    for node in postorder(*exprs):
        if node.op == "value":
            found.add(str(node.attr))
        elif node.op == "read" and node.array.role != "input":
            found.add(node.array.name)
    return frozenset(found)


def write_parts(write: RowWrite) -> tuple[Expr, ...]:
    """The expressions of a gradient's row."""
    return (write.term, *write.at, *((write.condition,) if write.condition is not None else ()))


def lets_for(lets: Iterable[Let], exprs: Iterable[Expr]) -> tuple[Let, ...]:
    """Those of a row's values that expressions need, in their order."""
    needed = set(names_read(exprs))
    found: list[Let] = []
    for let in reversed(tuple(lets)):
        if let.name in needed:
            needed |= names_read((let.expr,))
            found.append(let)
    return tuple(reversed(found))


def early_writes(kernel: ReverseScanKernel) -> tuple[RowWrite, ...]:
    """Gradients of states alone, not of their cotangents: written where the states are computed
    again, so that they are not loaded once more."""
    states = {state.name for state in (*kernel.replay.states, *kernel.twins)}
    late = {array.name for array in kernel.carried}
    late |= {let.name for let in kernel.given if isinstance(let, Let)}

    def all_reads(write: RowWrite) -> frozenset[str]:
        parts = write_parts(write)
        return names_read((*parts, *(let.expr for let in lets_for(kernel.inside, parts))))

    reads = {id(write): all_reads(write) for write in kernel.writes}
    return tuple(
        write
        for write in kernel.writes
        if not write.adds and reads[id(write)] & states and not reads[id(write)] & late
    )
