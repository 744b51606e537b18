"""Prints which tiles a walk visits: from closed spans, or from the list that a region kernel has
made at run time. Whole tiles come first, then those at the edges of the mask.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnc.backends.triton_frame import indented
from attnc.backends.triton_grid import Place
from attnc.backends.triton_names import Arguments
from attnc.backends.triton_printer import Printer
from attnc.backends.triton_scope import Leaf, Scope
from attnc.backends.triton_texts import is_true, unwrapped

from attnc.expressions.index import Index
from attnc.expressions.tree import TRUE
from attnc.schedule.regions import Region
from attnc.schedule.streams import StreamKernel, WalkedLoop


@dataclass
class Tiles:
    """`scope` knows the grid and what the walk goes around."""

    place: Place
    scope: Scope

    def print_tiles(
        self, loop: WalkedLoop, number: int, count: str, start: str
    ) -> tuple[list[str], list[str], list[str]]:
        """The counts of whole and of edge tiles; and the tile of a step among each."""
        if is_dense(loop.region) or loop.region.segments:
            lines, mixed, full = self.print_segments(loop, number, count, start)
            if is_dense(loop.region):
                return lines, mixed, full
            flag = self.scope.arguments.option(f"TILE_LIST_{number}")
            listed, from_end, from_front = self.print_listed(number, count)
            return (
                [f"if {flag}:", *indented(listed), "else:", *indented(lines)],
                [f"if {flag}:", *indented(from_end), "else:", *indented(mixed)],
                [f"if {flag}:", *indented(from_front), "else:", *indented(full)],
            )
        return self.print_listed(number, count)

    def print_in_order(
        self, loop: WalkedLoop, number: int, count: str, start: str
    ) -> tuple[list[str], list[str], list[str]]:
        """The same where values run along the keys: all tiles of the spans (of the axis, where none
        are closed) count as edge tiles and follow one another."""
        region = loop.region if loop.region.segments else Region(TRUE, TRUE)
        lines, parts = self.print_spans(replace(loop, region=region), number, count, start)
        runs = [(first, f"({last} - {first})") for first, _, _, last in parts]
        tile = self.print_parts(f"mixed_count_{number}", runs, lines, "at")
        lines.append(f"full_count_{number} = 0")
        at = f"mixed_count_{number} - 1 - step" if loop.backward else "step"
        return lines, [f"at = {at}", *tile], []

    def print_listed(self, number: int, count: str) -> tuple[list[str], list[str], list[str]]:
        """From the list that the region kernel has made."""
        add = self.scope.arguments.add
        tiles, counts = f"tiles_{number}", f"counts_{number}"
        tiles_ptr = add(f"{tiles}_ptr", "pointer", "work", f"tiles.{number}")
        counts_ptr = add(f"{counts}_ptr", "pointer", "work", f"counts.{number}")
        most = most_tiles(self.scope.arguments, number, "walked")
        terms = []
        for index in region_grid(self.place.kernel, self.place.kernel.loops[number]):
            step = add(
                f"cells_{number}_{index.name}", "i64", "work", f"cells.{number}.{index.axis.name}"
            )
            terms.append(f"{self.scope.rows[index].text} * {step}")
        cells = " + ".join(terms) or "0"
        last = f"last_{number}"
        lines = [
            f"list_{number} = ({cells}) * held_tiles + held_tile",
            f"full_count_{number} = tl.load({counts_ptr} + list_{number} * 2)",
            f"mixed_count_{number} = tl.load({counts_ptr} + list_{number} * 2 + 1)",
            f"{last} = ({count} + BLOCK_WALKED - 1) // BLOCK_WALKED",
            f"{tiles} = {tiles_ptr} + list_{number} * {most}",
        ]
        return (
            lines,
            [f"tile = tl.load({tiles} + ({last} - 1 - step))"],
            [f"tile = tl.load({tiles} + step)"],
        )

    def print_segments(
        self, loop: WalkedLoop, number: int, count: str, start: str
    ) -> tuple[list[str], list[str], list[str]]:
        """From closed spans: their whole tiles one after another, their edges likewise."""
        lines, spans = self.print_spans(loop, number, count, start)
        whole_parts, edge_parts = [], []
        for first, full_first, full_last, last in spans:
            whole_parts.append((full_first, f"({full_last} - {full_first})"))
            edge_parts += [
                (first, f"({full_first} - {first})"),
                (full_last, f"({last} - {full_last})"),
            ]
        full = self.print_parts(f"full_count_{number}", whole_parts, lines)
        mixed = self.print_parts(f"mixed_count_{number}", edge_parts, lines)
        return lines, mixed, full

    def print_spans(
        self, loop: WalkedLoop, number: int, count: str, start: str
    ) -> tuple[list[str], list[tuple[str, str, str, str]]]:
        """Names each span's tiles: the first, the first whole one, the ends of those and of all."""
        lines = self.place.held_bounds() if loop.region.segments else []
        bounds = {name: Leaf(name) for name in ("held_low", "held_high")}
        printer = Printer(self.scope.extended(values=bounds), (), lines, f"span_{number}")
        spans = [
            tuple(unwrapped(printer.text(e)) for e in (s.start, s.full_start, s.full_stop, s.stop))
            for s in loop.region.segments
        ]
        if not spans:
            whole = (start, start, f"{count} + {start}", f"{count} + {start}")
            spans = [whole if start != "0" else ("0", "0", count, count)]
        named, previous = [], "0"
        for place, span in enumerate(spans):
            first, full_first, full_last, last = (
                f"{what}_{number}_{place}" for what in ("first", "full_first", "full_last", "last")
            )
            values = ", ".join(span)
            call = f"gpu_span({values}, {start}, {count}, {previous}, BLOCK_WALKED)"
            lines.append(f"{first}, {full_first}, {full_last}, {last} = {call}")
            named.append((first, full_first, full_last, last))
            previous = last
        return lines, named

    def print_parts(
        self, total: str, parts: list[tuple[str, str]], lines: list[str], step: str = "step"
    ) -> list[str]:
        """Runs of tiles laid end to end: prints where each ends, gives back the tile of a step."""
        ends: list[str] = []
        for place, (_, size) in enumerate(parts):
            end = f"{total}_{place}" if place < len(parts) - 1 else total
            before = f"{ends[-1]} + " if ends else ""
            lines.append(f"{end} = {before}{size if before else unwrapped(size)}")
            ends.append(end)
        offset = f" - {ends[-2]}" if len(ends) > 1 else ""
        chosen = [f"tile = {step}{offset} + {parts[-1][0]}"]
        for place in range(len(parts) - 2, -1, -1):
            offset = f" - {ends[place - 1]}" if place else ""
            chosen.append(
                f"tile = tl.where({step} < {ends[place]}, {step}{offset} + {parts[place][0]}, tile)"
            )
        return chosen


# --- Which tiles depend on what ----------------------------------------------------------------


def is_dense(region: Region) -> bool:
    """No mask: every tile is whole but for the border."""
    return is_true(region.possible) and is_true(region.certain) and not region.segments


def region_free(region: Region) -> frozenset[Index]:
    """The indices on which the tiles of a region depend by its text."""
    free = region.possible.free | region.certain.free
    return free.union(*(summary.expr.free for summary in region.summaries))


def region_grid(kernel: StreamKernel, loop: WalkedLoop) -> list[Index]:
    """The grid indices on which tiles may depend: the batch among them, since lengths and offsets
    may be one for each batch. Those that a walk goes around are the last."""
    free = region_free(loop.region)
    grid = [g for g in kernel.grid if g != kernel.split and (g in free or g.axis.name == "b")]
    return [*grid, *(g for g in loop.around if g in free or g.axis.name == "b")]


def most_tiles(arguments: Arguments, number: int, side: str) -> str:
    """The most tiles of a side that any cell has: what the lists of cells are laid out by."""
    return arguments.add(f"most_{side}", "i64", "work", f"most.{number}.{side}")
