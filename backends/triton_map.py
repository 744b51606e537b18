"""Prints a map kernel of a Schedule as Triton: entries of all its indices in one row of lanes."""

from __future__ import annotations

from typing import Any

from attnc.backends.triton_grid import LANE
from attnc.backends.triton_names import Arguments, Names
from attnc.backends.triton_printer import Printer
from attnc.backends.triton_scope import Leaf, Scope
from attnc.backends.triton_texts import unwrapped

from attnc.expressions.index import Index
from attnc.expressions.tree import position
from attnc.schedule import Schedule
from attnc.schedule.maps import MapKernel


def print_map(kernel: MapKernel, schedule: Schedule) -> dict[str, Any]:
    """The holes of a map kernel: each lane is one entry of `over`, a width lies across."""
    names = Names()
    arguments = Arguments(names)
    scope = Scope(names, arguments, widths=frozenset(axis.name for axis in schedule.widths))
    arguments.blocks[LANE] = arguments.option("BLOCK_ROWS")
    scope, lanes = _print_lanes(kernel, scope)
    values: list[str] = []
    for statement in kernel.values:
        over = Printer(scope, (LANE,), values).over(statement.expr)
        printer = Printer(scope, over, values, statement.name)
        text = printer.text(statement.expr)
        if statement.expr.op == "number":
            text = f"tl.full([], {text}, {'ACC' if statement.expr.kind == 'real' else 'INDEX'})"
        name = printer.bind(statement.name, text)
        scope = scope.extended(values={statement.name: Leaf(name, over)})
    stores: list[str] = []
    for store in kernel.stores:
        layout: tuple[Index, ...] = (LANE,)
        here = scope
        if store.width is not None:
            here = _print_width(store.width, scope, stores)
            layout = (LANE, store.width)
        body: list[str] = []
        printer = Printer(here, layout, body, store.array.name)
        text = unwrapped(printer.text(store.expr))
        entry, guards = printer.address(store.array, tuple(map(position, store.array.indices)))
        if LANE not in printer.over(*map(position, store.array.indices)):
            entry = f"{entry} + {printer.expand(Leaf('lane', (LANE,)))} * 0"  # one entry: lane 0
        guards.append(printer.expand(Leaf("inside", (LANE,))))
        body.append(f"tl.store({entry}, {text}, mask={' & '.join(dict.fromkeys(guards))})")
        stores.append(f"if {arguments.pointer(store.array)} is not None:")
        stores += [f"    {line}" for text in body for line in text.split("\n")]
    over_names = ", ".join(index.name for index in kernel.over)
    return {
        "function": f"kernel_{kernel.name}",
        "lanes": lanes + list(arguments.shifted.values()) + _positions(kernel, scope),
        "values": values,
        "stores": stores,
        "prepared": arguments.prepared,
        "arguments": arguments,
        "comment": [f'"""Every entry of ({over_names}), BLOCK_ROWS of them a program."""'],
        "over": tuple(index.axis.name for index in kernel.over),
    }


def _print_lanes(kernel: MapKernel, scope: Scope) -> tuple[Scope, list[str]]:
    """The row of each index for a lane, the last index fastest; lanes past the end are clamped."""
    lengths = [scope.arguments.length(index.axis.name) for index in kernel.over]
    lines = [f"inside = lane < {' * '.join(f'{each}.to(tl.int64)' for each in lengths) or '1'}"]
    lines.append("rest = tl.where(inside, lane, 0)")
    printer = Printer(scope, (), [])
    for place in range(len(kernel.over) - 1, -1, -1):
        index = kernel.over[place]
        name = "b_row" if index.axis.name == "b" else scope.names.fresh(f"{index.name}_row")
        lines.append(f"{name} = rest % {lengths[place]}" if place else f"{name} = rest")
        if place:
            lines.append(f"rest = rest // {lengths[place]}")
        at = scope.names.fresh(index.name) if printer.start(index.axis) != "0" else name
        scope = scope.extended(
            rows={index: Leaf(name, (LANE,))}, positions={index: Leaf(at, (LANE,))}
        )
    if not any(index.axis.name == "b" for index in kernel.over):
        lines.append("b_row = 0")
    return scope, lines


def _positions(kernel: MapKernel, scope: Scope) -> list[str]:
    """The positions of the indices whose axis does not begin at 0."""
    printer = Printer(scope, (), [])
    return [
        f"{scope.positions[index].text} = {scope.rows[index].text} + {printer.start(index.axis)}"
        for index in kernel.over
        if scope.positions[index] != scope.rows[index]
    ]


def _print_width(index: Index, scope: Scope, lines: list[str]) -> Scope:
    """The lanes across: a padded width, or a block of a long one."""
    arguments, axis = scope.arguments, index.axis
    lane, inside = scope.names.fresh(index.name), scope.names.fresh(f"{index.name}_in")
    arguments.blocks[index] = arguments.padded(axis.name)
    lines += [
        f"{lane} = tl.arange(0, {arguments.padded(axis.name)})",
        f"{inside} = {lane} < {arguments.width(axis.name)}",
    ]
    leaf = Leaf(lane, (index,))
    return scope.extended(
        positions={index: leaf}, rows={index: leaf}, inside={index: Leaf(inside, (index,))}
    )
