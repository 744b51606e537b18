"""Prints the kernels that find the tiles of a masked loop at run time: bounds of data over tiles,
then the region predicate for every pair of tiles, compacted into lists of whole and edge tiles.
"""

from __future__ import annotations

from typing import Any

from attnc.backends.triton_grid import LANE, Place
from attnc.backends.triton_names import Arguments, Names
from attnc.backends.triton_printer import Printer
from attnc.backends.triton_scope import Leaf, Scope
from attnc.backends.triton_texts import is_false, is_true, unwrapped
from attnc.backends.triton_tiles import most_tiles, region_free, region_grid

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import BOXES, Expr, postorder
from attnc.schedule import Schedule
from attnc.schedule.regions import Summary
from attnc.schedule.streams import StreamKernel


class RegionPrinter(Printer):
    """Prints bounds, and what is true of the entries of tables within them."""

    def _node(self, node: Expr) -> str:
        return self._box(node) if node.op in BOXES else super()._node(node)

    def _box(self, node: Expr) -> str:
        """Looks at the entries of a box one after the other, each lane at those of its own."""
        arguments, names = self.scope.arguments, self.scope.names
        found = names.fresh(f"{self.stem}_{node.op}")
        shape = f"[{arguments.blocks[LANE]}]" if self.over(node) else "[]"
        self.lines.append(f"{found} = tl.full({shape}, {int(node.op == 'every')}, tl.int1)")
        rows, inside, loops = list[str](), list[str](), list[str]()
        for axis, *ends in zip(node.array.axes, node.args[::2], node.args[1::2], strict=True):
            row = self._row(axis, ends[0])
            if ends[0] != ends[1]:
                first, last, step = row, self._row(axis, ends[1]), names.fresh("step")
                most = f"tl.max({last} - {first}, 0)" if self.over(*ends) else f"{last} - {first}"
                loops.append(f"for {step} in range(0, {most} + 1):")
                row = f"({first} + {step})"
                inside.append(f"({row} <= {last})")
            rows.append(row)
        entry, stored = arguments.pointer(node.array), list[str]()
        for place, (axis, row) in enumerate(zip(node.array.axes, rows, strict=True)):
            entry += f" + {row} * {arguments.stride(node.array, place)}"
            stored.append(f"({row} >= 0) & ({row} < {self.length(axis)})")
        truth = f"(tl.load({entry}, mask={' & '.join((*inside, *stored))}, other=0) != 0)"
        if node.op == "every" and inside:
            truth = f"({truth} | (({' & '.join(inside)}) == 0))"
        self.lines += ["    " * depth + loop for depth, loop in enumerate(loops)]
        joined = f"{found} {'|' if node.op == 'some' else '&'} {truth}"
        self.lines.append("    " * len(loops) + f"{found} = {joined}")
        return found

    def _row(self, axis: Axis, position: Expr) -> str:
        text, start = self.done[position.digest], self.start(axis)
        if position.op == "number":
            text = f"tl.full([], {text}, tl.int64)"
        row = text if start == "0" else f"({text} - {start})"
        return self.bind(f"{self.stem}_row", f"{row}.to(tl.int64)")


def print_region(kernel: StreamKernel, schedule: Schedule, number: int) -> dict[str, Any]:
    """The holes of the kernel that lists the tiles of loop `number`: one program a held tile."""
    names = Names()
    arguments = Arguments(names)
    widths = frozenset(axis.name for axis in schedule.widths)
    loop = kernel.loops[number]
    place = Place(kernel, schedule, Scope(names, arguments, widths=widths))
    for option in ("BLOCK_HELD", "BLOCK_WALKED", "CANDIDATES"):
        arguments.option(option)
    lines = place.print_pack()
    length = arguments.length(kernel.held.axis.name)
    lines += [
        f"held_tiles = ({length} * pack + BLOCK_HELD - 1) // BLOCK_HELD",
        "cell = pid",
        "held_tile = pid % held_tiles",
        "pid = pid // held_tiles",
    ]
    outer = region_grid(kernel, loop)
    cells = print_cells(place, outer, number, lines)
    count, start = place.extent(loop.walked)
    bounds = [
        *place.held_bounds(),
        f"tiles = ({count} + BLOCK_WALKED - 1) // BLOCK_WALKED",
        f"listed = {arguments.add('tiles_ptr', 'pointer', 'work', f'tiles.{number}')}"
        f" + cell * {most_tiles(arguments, number, 'walked')}",
    ]
    arguments.add("counts_ptr", "pointer", "work", f"counts.{number}")
    shift = "" if start == "0" else f" + {start}"
    candidates = [
        "inside = tile < tiles",
        f"walked_low = (tile * BLOCK_WALKED{shift}).to(INDEX)",
        f"walked_high = (tl.minimum((tile + 1) * BLOCK_WALKED, {count}) - 1{shift}).to(INDEX)",
    ]
    values = {name: Leaf(name) for name in ("held_low", "held_high")}
    values |= {name: Leaf(name, (LANE,)) for name in ("walked_low", "walked_high")}
    for summary in loop.region.summaries:
        values |= print_summary_loads(place, kernel, number, summary, cells, bounds, candidates)
    printer = RegionPrinter(place.scope.extended(values=values), (LANE,), [], "region")
    arguments.blocks[LANE] = "CANDIDATES"
    predicate, asked = printer.lines, (loop.region.possible, loop.region.certain)
    for name, expr in (("possible", loop.region.possible), ("certain", loop.region.certain)):
        text = printer.text(expr)
        if is_true(expr) or is_false(expr):
            text = f"tl.full([CANDIDATES], {int(is_true(expr))}, tl.int1)"
        predicate.append(f"{name} = {unwrapped(text)}")
    predicate += [
        "possible = possible & inside",
        f"certain = certain & ((tile + 1) * BLOCK_WALKED <= {count})",
    ]
    return {
        "function": f"kernel_{kernel.name}_region_{number}",
        "held": kernel.held.name,
        "place": lines + list(arguments.shifted.values()),
        "bounds": bounds,
        "candidates": candidates,
        "predicate": predicate,
        "prepared": arguments.prepared,
        "arguments": arguments,
        "comment": [
            f'"""Lists the tiles of `{loop.walked.name}` that a tile of `{kernel.held.name}` sees.',
            "",
            "Bounds of positions in place of positions: possible false proves that no pair of a",
            'tile is visible, certain true that every pair is."""',
        ],
        "cells": tuple(index.axis.name for index in outer),
        "data": any(node.op in ("read", *BOXES) for node in postorder(*asked)),
        "needs": tuple(i.axis.name for i in outer if i in region_free(loop.region)),
    }


def print_cells(place: Place, outer: list[Index], number: int, lines: list[str]) -> str:
    """Splits what is left of the program number into the grid rows that a list depends on."""
    for position, index in enumerate(reversed(outer)):
        count = place.arguments.add(
            f"cell_{index.name}", "i64", "work", f"count.{number}.{index.axis.name}"
        )
        name = place.grid_name(index)
        lines.append(f"{name} = pid % {count}")
        if position < len(outer) - 1:
            lines.append(f"pid = pid // {count}")
        leaf = Leaf(name)
        place.scope = place.scope.extended(positions={index: leaf}, rows={index: leaf})
    if not any(index.axis.name == "b" for index in outer):
        lines.append("b_row = 0")
    return "cell // held_tiles"


def print_summary_loads(
    place: Place,
    kernel: StreamKernel,
    number: int,
    summary: Summary,
    cells: str,
    bounds: list[str],
    candidates: list[str],
) -> dict[str, Leaf]:
    """Loads the lower and upper bounds of a summary: of the held tile once, of walked ones each."""
    values: dict[str, Leaf] = {}
    held = summary.index == kernel.held
    for side in ("low", "high"):
        name = place.scope.names.fresh(f"{summary.name}_{side}")
        source = f"summary.{summary.name}.{side}"
        pointer = place.arguments.add(f"{name}_ptr", "pointer", "work", source)
        if held:
            bounds.append(f"{name} = tl.load({pointer} + cell)")
        else:
            most = most_tiles(place.arguments, number, "walked")
            load = f"tl.load({pointer} + {cells} * {most} + tile, mask=inside, other=0)"
            candidates.append(f"{name} = {load}")
        values[f"{summary.name}_{side}"] = Leaf(name, () if held else (LANE,))
    return values


def print_summary(
    kernel: StreamKernel, schedule: Schedule, number: int, summary: Summary
) -> dict[str, Any]:
    """The holes of the kernel that bounds one expression over the tiles of its index."""
    names = Names()
    arguments = Arguments(names)
    loop = kernel.loops[number]
    widths = frozenset(axis.name for axis in schedule.widths)
    place = Place(kernel, schedule, Scope(names, arguments, widths=widths))
    held = summary.index == kernel.held
    size = arguments.option("BLOCK_HELD" if held else "BLOCK_WALKED")
    lines = place.print_pack() if held else ["pack = 1"]
    count, start = place.extent(summary.index)
    outer = region_grid(kernel, loop)
    grid: list[str] = []
    print_cells(place, outer, number, grid)
    most = most_tiles(arguments, number, "held" if held else "walked")
    split = [f"tile = pid % {most}", f"cell = pid // {most}", "slot = pid", "pid = cell"]
    shift = "" if start == "0" else f" + {start}"
    lanes = [
        f"lane = tile * {size} + tl.arange(0, {size})",
        f"inside = lane < {count} * pack",
        "row = lane // pack",
        f"at = (row{shift}).to(INDEX)",
    ]
    leaf = Leaf("row", (summary.index,))
    arguments.blocks[summary.index] = size
    scope = place.scope.extended(
        positions={summary.index: Leaf("at", (summary.index,))},
        rows={summary.index: leaf},
        inside={summary.index: Leaf("inside", (summary.index,))},
    )
    printer = Printer(scope, (summary.index,), [], "value")
    text = unwrapped(printer.text(summary.expr))
    value = [*printer.lines]
    if summary.expr.kind == "real":
        value += [
            f"value = tl.zeros([{size}], ACC) + {text}",
            "unknown = tl.sum((inside & (value != value)).to(tl.int32), 0) > 0",
            f"low = tl.min(tl.where(inside, value, {float_text('inf')}), 0)",
            f"high = tl.max(tl.where(inside, value, {float_text('-inf')}), 0)",
            f"low = tl.where(unknown, {float_text('-inf')}, low)",
            f"high = tl.where(unknown, {float_text('inf')}, high)",
        ]
    else:
        whole = f"({text}).to(tl.int64)" if summary.expr.kind == "bool" else text
        value += [
            f"value = tl.zeros([{size}], tl.int64) + {whole}",
            "low = tl.min(tl.where(inside, value, 9223372036854775807), 0)",
            "high = tl.max(tl.where(inside, value, -9223372036854775807), 0)",
        ]
    for side in ("low", "high"):
        arguments.add(f"{side}_ptr", "pointer", "work", f"summary.{summary.name}.{side}")
    return {
        "function": f"kernel_{kernel.name}_{summary.name}_{number}",
        "place": lines + split + grid + list(arguments.shifted.values()),
        "lanes": lanes,
        "value": value,
        "prepared": arguments.prepared,
        "arguments": arguments,
        "comment": [f'"""Lower and upper bounds of `{summary.name}` over tiles of its index."""'],
        "held": held,
        "real": summary.expr.kind == "real",
    }


def float_text(value: str) -> str:
    return f'float("{value}")'
