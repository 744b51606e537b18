"""Fewer kernels: neighbours over the same indices become one, and stores that nobody reads go.

does      drops workspaces that no kernel reads, with the kernels that write nothing else; joins
          adjacent maps over the same indices
needs     kernels in an order that runs
does not  change a formula
"""

from __future__ import annotations

from dataclasses import replace

from attnc.expressions.naming import numbered_name
from attnc.expressions.tree import Expr, rewrite, value
from attnc.passes.prune import arrays_read, arrays_written, needed
from attnc.schedule import Kernel, Schedule
from attnc.schedule.maps import MapKernel
from attnc.schedule.statements import Let


def fuse(schedule: Schedule) -> Schedule:
    """The schedule with as few kernels as these rules give; results are the same."""
    kernels = _joined(needed(schedule))
    written = {name for kernel in kernels for name in arrays_written(kernel)}
    spaces = tuple(s for s in schedule.workspaces if s.array.name in written)
    return replace(schedule, kernels=kernels, workspaces=spaces)


def _joined(kernels: tuple[Kernel, ...]) -> tuple[Kernel, ...]:
    found: list[Kernel] = []
    for kernel in kernels:
        before = found[-1] if found else None
        if isinstance(kernel, MapKernel) and isinstance(before, MapKernel) and _fit(before, kernel):
            found[-1] = _join(before, kernel)
        else:
            found.append(kernel)
    return tuple(found)


def _fit(first: MapKernel, second: MapKernel) -> bool:
    """Over the same indices and widths, the second not reading what the first writes."""
    writes = {store.array.name for store in first.stores}
    widths = {store.width for store in (*first.stores, *second.stores)} - {None}
    return first.over == second.over and len(widths) <= 1 and not (writes & arrays_read(second))


def _join(first: MapKernel, second: MapKernel) -> MapKernel:
    """One map of both; values of one name are told apart, equal ones are one."""
    known = {let.expr.digest: let.name for let in first.values}
    taken = {let.name for let in first.values}
    renamed: dict[str, str] = {}
    values = list(first.values)
    for let in second.values:
        expr = _renamed(let.expr, renamed)
        if expr.digest in known:
            renamed[let.name] = known[expr.digest]
            continue
        name = numbered_name(let.name, taken)
        renamed[let.name] = name
        values.append(Let(name, expr))
    stores = tuple(replace(s, expr=_renamed(s.expr, renamed)) for s in second.stores)
    return MapKernel(first.name, first.over, tuple(values), (*first.stores, *stores))


def _renamed(expr: Expr, names: dict[str, str]) -> Expr:
    def change(node: Expr) -> Expr:
        name = names.get(str(node.attr)) if node.op == "value" else None
        return value(name, node.kind, node.free) if name else node

    return rewrite(expr, change) if names else expr
