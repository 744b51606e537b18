"""Where a program of a stream kernel stands: its place in the grid, the rows it holds, the tiles it
walks; and the kernel that finds these tiles at run time from the region predicate.

Does not print the algebra of pairs: see triton_stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attnc.backends.triton_names import Argument, Arguments
from attnc.backends.triton_printer import Leaf, Printer, Scope
from attnc.backends.triton_texts import is_true, unwrapped

from attnc.errors import UnsupportedError
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr, postorder
from attnc.schedule import Region, Schedule, StreamKernel, Strided, WalkedLoop

LANE = Index("lane", Axis("lane"), -1)  # candidates, entries of a map: an axis of its own


@dataclass
class Place:
    """The grid of a stream kernel. `packed` is the grid index whose groups may share a tile."""

    kernel: StreamKernel
    schedule: Schedule
    scope: Scope
    head: Index | None = None
    shared: Expr | None = None
    batch: Index | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.kernel.access, Strided):
            raise UnsupportedError("packed or paged rows", "triton", ("eager", "numpy"))
        found = shared_heads(self.kernel)
        if found is not None:
            self.head, self.shared = found
        self.batch = next((g for g in self.kernel.grid if g.axis.name == "b"), None)

    @property
    def arguments(self) -> Arguments:
        return self.scope.arguments

    def facts(self) -> dict[str, Any]:
        """What the launch must know of the place: the grid, and which lengths make a group."""
        group: tuple[str, str] | None = None
        if self.shared is not None:
            fine, coarse = group_axes(self.shared)
            group = (fine.name, coarse.name)
        return {
            "grid": tuple(g.axis.name for g in self.kernel.grid if g != self.kernel.split),
            "head": self.head.axis.name if self.head else None,
            "group": group,
            "held": self.kernel.held.axis.name,
            "split": self.kernel.split.axis.name if self.kernel.split else None,
        }

    # --- The place of a program -------------------------------------------------------------------

    def print_place(self, merge: bool) -> list[str]:
        """Splits the program number into block, share, tile and grid rows."""
        option = self.arguments.option
        length = self.arguments.length(self.kernel.held.axis.name)
        lines = [f"block = pid % {option('BLOCKS')}", "pid = pid // BLOCKS"]
        if self.kernel.split is not None:
            shares = self.arguments.length(self.kernel.split.axis.name)
            lines += [f"shares = {shares}", "share = pid % shares", "pid = pid // shares"]
        elif merge:
            lines.append(f"shares = {self.splits()}")
        else:
            shares = self.splits()
            lines += [
                f"if {option('SPLIT')}:",
                f"    shares = {shares}",
                "    share = pid % shares",
                "    pid = pid // shares",
                "else:",
                "    shares = 1",
                "    share = 0",
            ]
        lines += self.print_pack()
        option("BLOCK_HELD")
        lines += [
            f"held_tiles = ({length} * pack + BLOCK_HELD - 1) // BLOCK_HELD",
            "cell = pid",
            "held_tile = held_tiles - 1 - pid % held_tiles  # the longest walks first",
            "pid = pid // held_tiles",
        ]
        lines += self.print_grid()
        if self.kernel.split is not None:
            leaf = Leaf("share")
            tables = {"positions": {self.kernel.split: leaf}, "rows": {self.kernel.split: leaf}}
            self.scope = self.scope.extended(**tables)
        return lines

    def splits(self) -> str:
        """How many programs share the tiles of one held tile, a run-time number."""
        source = ("option", "splits")
        self.arguments.used.setdefault(source, Argument("splits", "i64", source))
        return "splits"

    def print_pack(self) -> list[str]:
        """How many heads are rows of one tile."""
        if self.shared is None:
            return ["pack = 1"]
        fine, coarse = (self.arguments.length(axis.name) for axis in group_axes(self.shared))
        return [
            f"group = {fine} // {coarse}  # heads that share their keys",
            f"if {self.arguments.option('PACKED')}:",
            "    pack = group",
            "else:",
            "    pack = 1",
        ]

    def print_grid(self) -> list[str]:
        """The rows of the outer axes, the last index fastest."""
        lines: list[str] = []
        outer = [g for g in self.kernel.grid if g != self.kernel.split]
        for place, index in enumerate(reversed(outer)):
            length = self.arguments.length(index.axis.name)
            name = "head" if index == self.head else self.grid_name(index)
            count = f"({length} // pack)" if index == self.head else length
            last = place == len(outer) - 1
            lines.append(f"{name} = pid" if last else f"{name} = pid % {count}")
            if not last:
                lines.append(f"pid = pid // {count}")
            if index != self.head:
                leaf = Leaf(name)
                self.scope = self.scope.extended(positions={index: leaf}, rows={index: leaf})
        if self.batch is None:
            lines.append("b_row = 0")
        return lines

    def grid_name(self, index: Index) -> str:
        return "b_row" if index == self.batch else self.scope.names.fresh(f"{index.name}_row")

    def print_lanes(self) -> list[str]:
        """The rows that the program holds, their positions, and which of them exist."""
        held, names = self.kernel.held, self.scope.names
        length = self.arguments.length(held.axis.name)
        row, inside, position = (
            names.fresh(wanted) for wanted in (f"{held.name}_row", f"{held.name}_in", held.name)
        )
        start = self.start(held)
        at = row if start == "0" else f"{row} + {start}"
        lines = [
            "held_lane = tl.arange(0, BLOCK_HELD)",
            "held_row = held_tile * BLOCK_HELD + held_lane",
        ]
        if self.head is None:
            lines.append(f"{row} = held_row")
        else:
            heads, shared = names.fresh(f"{self.head.name}_row"), names.fresh("shared_row")
            lines += [
                "if PACKED:",
                f"    {row} = held_row // group",
                f"    {heads} = head * group + held_row % group",
                f"    {shared} = head",
                "else:",
                f"    {row} = held_row",
                f"    {heads} = tl.full([BLOCK_HELD], 0, tl.int64) + head",
                f"    {shared} = head // group",
            ]
            leaf = Leaf(heads, (held,))
            assert self.shared is not None
            self.scope = self.scope.extended(
                positions={self.head: leaf},
                rows={self.head: leaf},
                known={self.shared.digest: Leaf(shared)},
            )
        lines += [
            f"{inside} = held_row < {length} * pack",
            f"{position} = ({at}).to(INDEX)",
        ]
        self.arguments.blocks[held] = "BLOCK_HELD"
        self.scope = self.scope.extended(
            positions={held: Leaf(position, (held,))},
            rows={held: Leaf(row, (held,))},
            inside={held: Leaf(inside, (held,))},
        )
        return lines

    def start(self, index: Index) -> str:
        """The first position of an index."""
        return Printer(self.scope, (), []).start(index.axis)

    def extent(self, index: Index) -> tuple[str, str]:
        """How many rows of a walked axis are valid, and its first position."""
        keys = self.schedule.signature.keys
        if keys is not None and keys.name == index.axis.name:
            return self.arguments.valid(index.axis.name), self.start(index)
        return self.arguments.length(index.axis.name), self.start(index)

    # --- Which tiles are walked -------------------------------------------------------------------

    def held_bounds(self) -> list[str]:
        """The positions of the held tile as inclusive bounds."""
        length = self.arguments.length(self.kernel.held.axis.name)
        start = self.start(self.kernel.held)
        shift = "" if start == "0" else f" + {start}"
        last = f"min((held_tile + 1) * BLOCK_HELD - 1, {length} * pack - 1)"
        return [
            f"held_low = (held_tile * BLOCK_HELD // pack{shift}).to(INDEX)",
            f"held_high = ({last} // pack{shift}).to(INDEX)",
        ]

    def print_tiles(
        self, loop: WalkedLoop, number: int, count: str, start: str
    ) -> tuple[list[str], list[str], list[str]]:
        """The counts of whole and of edge tiles; and the tile of a step among each."""
        if is_dense(loop.region) or loop.region.segments:
            lines, mixed, full = self.print_segments(loop, number, count, start)
            if is_dense(loop.region):
                return lines, mixed, full
            flag = self.arguments.option(f"TILE_LIST_{number}")
            listed, from_end, from_front = self.print_listed(number, count)
            return (
                [f"if {flag}:", *indented(listed), "else:", *indented(lines)],
                [f"if {flag}:", *indented(from_end), "else:", *indented(mixed)],
                [f"if {flag}:", *indented(from_front), "else:", *indented(full)],
            )
        return self.print_listed(number, count)

    def print_listed(self, number: int, count: str) -> tuple[list[str], list[str], list[str]]:
        """From the list that the region kernel has made."""
        add = self.arguments.add
        tiles, counts = f"tiles_{number}", f"counts_{number}"
        tiles_ptr = add(f"{tiles}_ptr", "pointer", "work", f"tiles.{number}")
        counts_ptr = add(f"{counts}_ptr", "pointer", "work", f"counts.{number}")
        most = most_tiles(self.arguments, number, "walked")
        terms = []
        for index in region_grid(self.kernel, self.kernel.loops[number].region):
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
        lines = self.held_bounds() if loop.region.segments else []
        bounds = {name: Leaf(name) for name in ("held_low", "held_high")}
        printer = Printer(self.scope.extended(values=bounds), (), lines, f"span_{number}")
        spans = [
            tuple(unwrapped(printer.text(e)) for e in (s.start, s.full_start, s.full_stop, s.stop))
            for s in loop.region.segments
        ]
        if not spans:
            whole = (start, start, f"{count} + {start}", f"{count} + {start}")
            spans = [whole if start != "0" else ("0", "0", count, count)]
        whole_parts, edge_parts, previous = [], [], "0"
        for place, span in enumerate(spans):
            first, full_first, full_last, last = (
                f"{what}_{number}_{place}" for what in ("first", "full_first", "full_last", "last")
            )
            values = ", ".join(span)
            call = f"gpu_span({values}, {start}, {count}, {previous}, BLOCK_WALKED)"
            lines.append(f"{first}, {full_first}, {full_last}, {last} = {call}")
            whole_parts.append((full_first, f"({full_last} - {full_first})"))
            edge_parts += [
                (first, f"({full_first} - {first})"),
                (full_last, f"({last} - {full_last})"),
            ]
            previous = last
        full = self.print_parts(f"full_count_{number}", whole_parts, lines)
        mixed = self.print_parts(f"mixed_count_{number}", edge_parts, lines)
        return lines, mixed, full

    def print_parts(self, total: str, parts: list[tuple[str, str]], lines: list[str]) -> list[str]:
        """Runs of tiles laid end to end: prints where each ends, gives back the tile of a step."""
        ends: list[str] = []
        for place, (_, size) in enumerate(parts):
            end = f"{total}_{place}" if place < len(parts) - 1 else total
            before = f"{ends[-1]} + " if ends else ""
            lines.append(f"{end} = {before}{size if before else unwrapped(size)}")
            ends.append(end)
        offset = f" - {ends[-2]}" if len(ends) > 1 else ""
        chosen = [f"tile = step{offset} + {parts[-1][0]}"]
        for place in range(len(parts) - 2, -1, -1):
            offset = f" - {ends[place - 1]}" if place else ""
            chosen.append(
                f"tile = tl.where(step < {ends[place]}, step{offset} + {parts[place][0]}, tile)"
            )
        return chosen


# --- The heads of a group in one tile ------------------------------------------------------------


def group_axes(shared: Expr) -> tuple[Axis, Axis]:
    """h // (len(h) // len(hk)): the axes of h and hk."""
    fine, coarse = shared.args[1].args
    assert isinstance(fine.attr, Axis) and isinstance(coarse.attr, Axis)
    return fine.attr, coarse.attr


def is_group(node: Expr, index: Index) -> bool:
    """Whether a node is `index // (len(h) // len(hk))`."""
    if node.op != "floordiv" or node.args[0].op != "index" or node.args[0].attr != index:
        return False
    size = node.args[1]
    return size.op == "floordiv" and all(arg.op == "length" for arg in size.args)


def shared_heads(kernel: StreamKernel) -> tuple[Index, Expr] | None:
    """The grid index whose groups share everything that is walked, with the expression of the
    group; None if there is none."""
    last = next((g for g in reversed(kernel.grid) if g != kernel.split), None)
    if last is None:
        return None
    walked: list[Expr] = []
    for loop in kernel.loops:
        walked += [product.right for product in loop.products]
        walked += [c.operand for c in loop.contributions if c.operand is not None]
        walked += [let.expr for let in loop.walked_values]
        region = (
            loop.region.possible,
            loop.region.certain,
            *(s.expr for s in loop.region.summaries),
        )
        spans = [
            e for s in loop.region.segments for e in (s.start, s.full_start, s.full_stop, s.stop)
        ]
        if any(last in expr.free for expr in (*region, *spans)):
            return None
    shared = [n for expr in walked for n in postorder(expr) if is_group(n, last)]
    if not shared or any(depends_otherwise(expr, last) for expr in walked):
        return None
    return last, shared[0]


def depends_otherwise(expr: Expr, index: Index) -> bool:
    """Whether an expression depends on an index other than through its group."""
    stack = [expr]
    while stack:
        node = stack.pop()
        if is_group(node, index):
            continue
        if node.op == "index" and node.attr == index:
            return True
        stack.extend(node.args)
    return False


# --- Which tiles depend on what ----------------------------------------------------------------


def is_dense(region: Region) -> bool:
    """No mask: every tile is whole but for the border."""
    return is_true(region.possible) and is_true(region.certain) and not region.segments


def region_free(region: Region) -> frozenset[Index]:
    """The indices on which the tiles of a region depend by its text."""
    free = region.possible.free | region.certain.free
    return free.union(*(summary.expr.free for summary in region.summaries))


def region_grid(kernel: StreamKernel, region: Region) -> list[Index]:
    """The grid indices on which tiles may depend: the batch among them, since lengths and offsets
    may be one for each batch."""
    free = region_free(region)
    return [g for g in kernel.grid if g != kernel.split and (g in free or g.axis.name == "b")]


def walked_arrays(kernel: StreamKernel) -> tuple[tuple[str, int], ...]:
    """The walked operands of matrix products, each with its walked dimension."""
    found: dict[tuple[str, int], None] = {}
    for loop in kernel.loops:
        reads = [p.right for p in loop.products]
        reads += [c.operand for c in loop.contributions if c.operand is not None]
        for read in reads:
            places = [n for n, arg in enumerate(read.args) if arg.attr == loop.walked]
            found.update({(read.array.name, place): None for place in places})
    return tuple(found)


def most_tiles(arguments: Arguments, number: int, side: str) -> str:
    """The most tiles of a side that any cell has: what the lists of cells are laid out by."""
    return arguments.add(f"most_{side}", "i64", "work", f"most.{number}.{side}")


def indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for text in lines for line in text.split("\n")]


def print_comment(kernel: StreamKernel, schedule: Schedule, merge: bool) -> list[str]:
    """The opening comment: dimensions and options."""
    grid = ", ".join(index.name for index in kernel.grid)
    walked = ", ".join(f"`{loop.walked.name}`" for loop in kernel.loops)
    if merge:
        return [f'"""Merges the shares of {walked} that split programs have left: in order."""']
    return [
        f'"""Holds a tile of `{kernel.held.name}` and walks {walked}, for each ({grid}).',
        "",
        "X_stride_y       elements from one y of X to the next; X_ALIGN: all but the last",
        "                 dimension's are multiples of it; X_UNIT: the last one's is 1",
        "len_y, start_y, valid_y   length of y, its first position, how many of it are valid",
        "BLOCK_HELD, BLOCK_WALKED  rows and columns of a tile of pairs",
        "CHUNK_y, BLOCK_y part of a width in one product, and in one program (BLOCKS of them)",
        "SPLIT, splits    programs that share the tiles of one held tile; a merge follows",
        "ACC, QUERY, INDEX   types of sums, of operands of products, and of positions",
        'PRECISION        of products of float32: "ieee", or "tf32" where torch allows it"""',
    ]
