"""Prints what a walk around the batch reads anew in every turn: the first positions of rows and
keys, and how many keys count, since each row of the batch may have its own."""

from __future__ import annotations

from dataclasses import replace

from attnc.backends.triton_frame import Stream
from attnc.backends.triton_scope import Leaf

from attnc.schedule.streams import WalkedLoop


def print_turn(stream: Stream, loop: WalkedLoop, lines: list[str]) -> str:
    """Moves the stream's scope and place to the turn's row of the batch; which held rows count in
    it, "" where all do."""
    held, arguments, scope = stream.kernel.held, stream.arguments, stream.scope
    batch = next(scope.rows[index].text for index in loop.around if index.axis.name == "b")
    for index in (held, loop.walked):
        if not index.axis.shifted:
            continue
        keys = stream.schedule.signature.keys
        counts = keys is not None and keys.name == index.axis.name
        for what in ("start", "valid") if counts else ("start",):
            before = getattr(arguments, what)(index.axis.name)
            name = scope.names.fresh(before)
            lines += [f"{name} = {before}", *arguments.reload(what, index.axis.name, name, batch)]
            scope = scope.extended(moved={before: name})
    stream.place = replace(stream.place, scope=scope)
    if held.axis.shifted:
        position = scope.names.fresh(held.name)
        row = scope.rows[held].text
        lines.append(f"{position} = ({row} + {stream.place.start(held)}).to(INDEX)")
        scope = scope.extended(positions={held: Leaf(position, (held,))})
    stream.scope = scope
    stream.place = replace(stream.place, scope=scope)
    if not stream.place.held_keys:
        return ""
    counted = scope.names.fresh(f"{held.name}_counted")
    lines.append(f"{counted} = held_row < {stream.place.extent(held)[0]} * pack")
    return counted
