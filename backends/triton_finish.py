"""Prints the end of a stream kernel: row values, stores, what split programs leave and merge."""

from __future__ import annotations

from dataclasses import replace

from attnc.backends.triton_frame import INFINITY, Stream, indented
from attnc.backends.triton_printer import Printer
from attnc.backends.triton_scope import Leaf
from attnc.backends.triton_texts import unwrapped

from attnc.expressions.index import Index
from attnc.expressions.tree import position
from attnc.schedule.statements import Store

SLOT = "slot = ((cell * shares + share) * BLOCKS + block) * BLOCK_HELD + held_lane"


def print_finish(stream: Stream) -> list[str]:
    """Row values after the loops, and the stores."""
    lines: list[str] = []
    kernel = stream.kernel
    if stream.rescaling:
        peak = Leaf("peak", (kernel.held,))
        stream.scope = stream.scope.extended(values={"reference": peak})
    for statement in kernel.finish:
        stream.let(statement, (kernel.held,), lines)
    for store in kernel.stores:
        print_store(stream, store, lines)
    return lines


def print_store(stream: Stream, store: Store, lines: list[str]) -> None:
    """One stored array; nothing where it is not wanted. Rows that exist and do not count (keys past
    key_length) get 0."""
    held, place = stream.kernel.held, stream.place
    body: list[str] = []
    layout: tuple[Index, ...] = (held,)
    if store.width is not None:
        stream.width_lanes(store.width, lines)
        layout = (held, store.width)
    pointer = stream.arguments.pointer(store.array)
    printer = Printer(stream.scope, layout, body, store.array.name)
    text = unwrapped(printer.text(store.expr))
    counted, stored = stream.scope.inside[held], Leaf(place.stored, (held,))
    if stored != counted:
        text = f"tl.where({printer.expand(counted)}, {text}, 0)"
    scope = stream.scope.extended(inside={held: stored})
    target = replace(printer, scope=scope)
    entry, guards = target.address(store.array, tuple(map(position, store.array.indices)))
    if store.width is None:
        guards = [*guards, "(block == 0)"]
    body.append(f"tl.store({entry}, {text}, mask={' & '.join(dict.fromkeys(guards))})")
    lines += [f"if {pointer} is not None:", *indented(body)]


def print_partial(stream: Stream) -> list[str]:
    """Stores what is carried, one slot for each share."""
    lines = [SLOT]
    for name, pointer, block in _slots(stream):
        if block is None:
            lines.append(f"tl.store({pointer} + slot, {name})")
        else:
            columns = f"tl.arange(0, {block})[None, :]"
            lines.append(f"tl.store({pointer} + slot[:, None] * {block} + {columns}, {name})")
    return lines


def _slots(stream: Stream) -> list[tuple[str, str, str | None]]:
    """(name, pointer of the buffer, block of the width) of all that is carried."""
    add = stream.arguments.add
    slots: list[tuple[str, str, str | None]] = []
    if stream.rescaling:
        slots.append(("peak", add("peak_work_ptr", "pointer", "work", "peak"), None))
    for each in stream.kernel.carried:
        pointer = add(f"{each.name}_work_ptr", "pointer", "work", f"carried.{each.name}")
        block = stream.blocks[each.width] if each.width is not None else None
        slots.append((stream.scope.values[each.name].text, pointer, block))
    return slots


def print_combine(stream: Stream) -> list[str]:
    """Merges the shares: the largest reference first, then the sums in order."""
    lines = stream.carried()
    slots = _slots(stream)
    carried = stream.kernel.carried
    if stream.rescaling:
        lines += [
            "for share in range(0, shares):",
            f"    {SLOT}",
            f"    peak = tl.maximum(peak, tl.load({slots[0][1]} + slot))",
            f"reference = tl.where(peak == -{INFINITY}, 0.0, peak)",
        ]
    lines += ["for share in range(0, shares):", f"    {SLOT}"]
    if stream.rescaling:
        lines.append(f"    rescale = tl.exp2(tl.load({slots[0][1]} + slot) - reference)")
    for each, (name, pointer, block) in zip(
        carried, slots[len(slots) - len(carried) :], strict=True
    ):
        text, scale = f"tl.load({pointer} + slot)", "rescale"
        if block is not None:
            at = f"slot[:, None] * {block} + tl.arange(0, {block})[None, :]"
            text, scale = f"tl.load({pointer} + {at})", "rescale[:, None]"
        if each.rescaled:
            text = f"{text} * {scale}"
        joined = {
            "sum": f"{name} + {text}",
            "prod": f"{name} * {text}",
            "max": f"gpu_larger({name}, {text})",
            "min": f"gpu_smaller({name}, {text})",
        }[each.monoid]
        lines.append(f"    {name} = {joined}")
    return lines
