"""Where a program of a stream kernel stands: its place in the grid and the rows it holds.

Most programs hold one tile. Where a kernel adds to tables in memory, a program holds the tiles of
its share one after another, so that its sums have one order.

Does not print which tiles are walked (triton_tiles), or the algebra of pairs (triton_walk).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attnc.backends.triton_groups import group_axes, shared_heads
from attnc.backends.triton_names import Argument, Arguments
from attnc.backends.triton_printer import Printer
from attnc.backends.triton_scope import Leaf, Scope

from attnc.errors import UnsupportedError
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr
from attnc.schedule import Schedule
from attnc.schedule.statements import Strided
from attnc.schedule.streams import StreamKernel

LANE = Index("lane", Axis("lane"), -1)  # candidates, entries of a map: an axis of its own


@dataclass
class Place:
    """The grid of a stream kernel.

    head      the grid index whose groups may share a tile, with the expression of the group
    shared    that expression
    batch     the grid index of the batch
    stored    which held rows exist; those that count may be fewer (key_length)
    """

    kernel: StreamKernel
    schedule: Schedule
    scope: Scope
    head: Index | None = None
    shared: Expr | None = None
    batch: Index | None = None
    stored: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.kernel.access, Strided):
            raise UnsupportedError("packed or paged rows", "triton", ("eager", "numpy"))
        found = shared_heads(self.kernel)
        if found is not None and not self.ordered:
            self.head, self.shared = found
        self.batch = next((g for g in self.kernel.grid if g.axis.name == "b"), None)

    @property
    def arguments(self) -> Arguments:
        return self.scope.arguments

    @property
    def ordered(self) -> bool:
        """Whether a program runs several held tiles in order: sums go to memory."""
        return any(loop.scatters or loop.deposits for loop in self.kernel.loops)

    @property
    def held_keys(self) -> bool:
        """Whether keys are held: key_length bounds them."""
        keys = self.schedule.signature.keys
        return keys is not None and keys.name == self.kernel.held.axis.name

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
            "ordered": self.ordered,
        }

    # --- The place of a program -------------------------------------------------------------------

    def print_place(self, merge: bool) -> list[str]:
        """Splits the program number into block, share, tile and grid rows."""
        option = self.arguments.option
        option("BLOCK_HELD")
        lines = [f"block = pid % {option('BLOCKS')}", "pid = pid // BLOCKS"]
        lines += self.print_shares(merge)
        lines += self.print_pack()
        length = self.arguments.length(self.kernel.held.axis.name)
        lines.append(f"held_tiles = ({length} * pack + BLOCK_HELD - 1) // BLOCK_HELD")
        if self.ordered:
            lines += [
                "held_first = held_tiles * held_share // held_shares",
                "held_stop = held_tiles * (held_share + 1) // held_shares",
            ]
        else:
            # A causal mask gives the last rows the longest walks, and the first keys.
            first = "" if self.held_keys else "held_tiles - 1 - "
            lines += [
                "cell = pid",
                f"held_tile = {first}pid % held_tiles  # the longest walks first",
                "pid = pid // held_tiles",
            ]
        lines += self.print_grid()
        if self.kernel.split is not None:
            leaf = Leaf("held_share" if self.ordered else "share")
            tables = {"positions": {self.kernel.split: leaf}, "rows": {self.kernel.split: leaf}}
            self.scope = self.scope.extended(**tables)
        return lines

    def print_shares(self, merge: bool) -> list[str]:
        """Which share of the walked tiles the program takes, or of the held ones."""
        split = self.kernel.split
        if self.ordered:
            shares = self.arguments.length(split.axis.name) if split is not None else "1"
            return [
                "shares = 1",
                "share = 0",
                f"held_shares = {shares}",
                "held_share = pid % held_shares",
                "pid = pid // held_shares",
            ]
        if split is not None:
            shares = self.arguments.length(split.axis.name)
            return [f"shares = {shares}", "share = pid % shares", "pid = pid // shares"]
        if merge:
            return [f"shares = {self.splits()}"]
        return [
            f"if {self.arguments.option('SPLIT')}:",
            f"    shares = {self.splits()}",
            "    share = pid % shares",
            "    pid = pid // shares",
            "else:",
            "    shares = 1",
            "    share = 0",
        ]

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
        return "b_row" if index.axis.name == "b" else self.scope.names.fresh(f"{index.name}_row")

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
            f"{inside} = held_row < {self.held_count()} * pack",
            f"{position} = ({at}).to(INDEX)",
        ]
        self.stored = inside
        if self.held_count() != length:
            self.stored = names.fresh(f"{held.name}_stored")
            lines.append(f"{self.stored} = held_row < {length} * pack")
        self.arguments.blocks[held] = "BLOCK_HELD"
        self.scope = self.scope.extended(
            positions={held: Leaf(position, (held,))},
            rows={held: Leaf(row, (held,))},
            inside={held: Leaf(inside, (held,))},
        )
        return lines

    @property
    def batch_around(self) -> bool:
        """Whether the walks go around the batch: then each turn has its own positions and keys."""
        return any(g.axis.name == "b" for loop in self.kernel.loops for g in loop.around)

    def held_count(self) -> str:
        """How many rows of the held axis count, in one turn at least."""
        if self.batch_around:
            return self.arguments.length(self.kernel.held.axis.name)
        return self.extent(self.kernel.held)[0]

    def start(self, index: Index) -> str:
        """The first position of an index."""
        return Printer(self.scope, (), []).start(index.axis)

    def extent(self, index: Index) -> tuple[str, str]:
        """How many rows of an axis are valid, and its first position."""
        keys = self.schedule.signature.keys
        if keys is not None and keys.name == index.axis.name:
            name = self.arguments.valid(index.axis.name)
            return self.scope.moved.get(name, name), self.start(index)
        return self.arguments.length(index.axis.name), self.start(index)

    def held_bounds(self) -> list[str]:
        """The positions of the held tile as inclusive bounds."""
        start = self.start(self.kernel.held)
        shift = "" if start == "0" else f" + {start}"
        last = f"min((held_tile + 1) * BLOCK_HELD - 1, {self.held_count()} * pack - 1)"
        return [
            f"held_low = (held_tile * BLOCK_HELD // pack{shift}).to(INDEX)",
            f"held_high = ({last} // pack{shift}).to(INDEX)",
        ]
