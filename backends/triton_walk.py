"""Prints one walked loop of a stream kernel: the holes of templates/triton/walk.py.jinja.

Rows held and keys walked, or keys held and rows walked: the same text with the roles swapped. A
walk may go around (the query heads of a key head): then what depends on the head, descriptors and
spans among it, stands inside that outer loop, and what is carried goes on through it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from attnc.backends.triton_adds import Additions
from attnc.backends.triton_frame import INFINITY, Stream
from attnc.backends.triton_groups import head_rows
from attnc.backends.triton_operands import Operands
from attnc.backends.triton_pairs import Pairs
from attnc.backends.triton_printer import Printer
from attnc.backends.triton_products import Products
from attnc.backends.triton_running import RunningValues
from attnc.backends.triton_scope import Leaf
from attnc.backends.triton_shown import shown_rows
from attnc.backends.triton_texts import is_true
from attnc.backends.triton_tiles import Tiles
from attnc.backends.triton_turns import print_turn

from attnc.errors import UnsupportedError
from attnc.schedule.statements import (
    Deposit,
    Let,
    Strided,
)
from attnc.schedule.streams import WalkedLoop


def print_walk(stream: Stream, loop: WalkedLoop, number: int) -> dict[str, Any]:
    """The holes of one walked loop. Its lanes and values are gone after it."""
    _check_walk(loop)
    outer, place = stream.scope, stream.place
    holes = _Walk(stream, loop, number).holes()
    stream.place = place
    values = {each.name: stream.scope.values[each.name] for each in stream.kernel.carried}
    stream.scope = outer.extended(values=values)
    return holes


def _check_walk(loop: WalkedLoop) -> None:
    """Raises UnsupportedError for walks that have no text yet."""
    refused = (
        (not isinstance(loop.access, Strided), "packed or paged keys"),
        (loop.chosen is not None, "tiles that data chooses"),
        (any(_is_vector(loop, one) for one in loop.deposits), "vectors of pairs, added to keys"),
    )
    for found, feature in refused:
        if found:
            raise UnsupportedError(feature, "triton", ("eager", "numpy"))


def _is_vector(loop: WalkedLoop, one: Deposit) -> bool:
    return one.operand is not None and loop.walked in one.operand.free


@dataclass
class _Walk(Pairs):
    number: int
    held: list[str] = field(default_factory=list)  # once: the held operands
    rounds: list[str] = field(default_factory=list)  # once a round of `around`
    restart: list[str] = field(default_factory=list)  # once a walk
    score: list[str] = field(default_factory=list)  # in a step
    combine: list[str] = field(default_factory=list)
    inside: str = ""
    counted: str = ""  # which held rows count in this turn, where that is not so in every turn

    def holes(self) -> dict[str, Any]:
        stream = self.stream
        around = self.print_around()
        if stream.place.batch_around:
            self.counted = print_turn(stream, self.loop, self.rounds)
        self.print_heads()
        shown = shown_rows(stream, self.loop)
        loop = self.loop = shown.loop
        count, start = stream.place.extent(loop.walked)
        visited = Tiles(stream.place, stream.scope)
        found = visited.print_in_order if loop.running else visited.print_tiles
        tiles, mixed_tile, full_tile = found(loop, self.number, count, start)
        count = shown.print_count(stream, count, start, self.rounds)
        lanes = self.print_lanes(count, start)
        for statement in loop.walked_values:
            once = not stream.over(statement.expr, self.over)
            stream.let(statement, (loop.walked,), self.rounds if once else self.score)
        tested = shown.print_tests(stream, self.score)
        operands = Operands(stream, loop, count, self.rounds, tested)
        Products(stream, loop, self.held, self.rounds, self.score).print_all(operands)
        mask, hidden = self.pairs()
        exponent = self.exponent(mask, hidden)
        reference = self.reference(exponent)
        for statement in loop.lifted:
            stream.let(statement, self.over, self.combine)
        Additions(stream, loop, self.held, self.combine, bool(hidden)).print_all(operands)
        awake = f" * {stream.walks}" if stream.walks else ""
        some = f" * ({count} > 0)" if shown.ends else ""  # a descriptor has a row at least
        return {
            "walked": loop.walked.name,
            "around": around,
            "held_operands": self.held,
            "rounds": self.rounds,
            "tiles": tiles,
            "mixed_count": f"mixed_count_{self.number}{awake}{some}",
            "full_count": f"full_count_{self.number}{awake}",
            "mixed_tile": mixed_tile,
            "full_tile": full_tile,
            "lanes": lanes,
            "score": self.score,
            "mask": mask or ["pass"],
            "hidden": hidden,
            "in_order": bool(loop.running),
            "rehearsed": any(one.ahead for one in loop.running),
            "restart": self.restart,
            "reference": reference,
            "combine": self.combine,
        }

    # --- Rounds, lanes ----------------------------------------------------------------------------

    def print_around(self) -> str:
        """How many rounds there are ("" without); the rows of their indices go to the rounds."""
        scope, counts = self.stream.scope, list[str]()
        if self.loop.around:
            self.rounds.append("rest = tl.full([], 0, tl.int64) + turn")
        for place, index in enumerate(reversed(self.loop.around)):
            length = self.stream.arguments.length(index.axis.name)
            counts.insert(0, length)
            row = scope.names.fresh(f"{index.name}_row")
            last = place == len(self.loop.around) - 1
            self.rounds.append(f"{row} = rest" if last else f"{row} = rest % {length}")
            if not last:
                self.rounds.append(f"rest = rest // {length}")
            start, leaf = self.stream.place.start(index), Leaf(row)
            at = leaf
            if start != "0":
                at = Leaf(scope.names.fresh(index.name))
                self.rounds.append(f"{at.text} = {row} + {start}")
            scope = scope.extended(rows={index: leaf}, positions={index: at})
        self.stream.scope = scope
        return " * ".join(counts)

    def print_heads(self) -> None:
        """Names the rows of heads that reads stand at: `hk * group + g`. They lie inside their axis
        by the schedule's word, so that no load need ask."""
        for digest, at in head_rows(self.stream.kernel, self.loop).items():
            printer = Printer(self.stream.scope, (), self.rounds, "head_at")
            name = printer.bind("head_at", f"({printer.text(at)}).to(tl.int64)")
            self.stream.scope = self.stream.scope.extended(known={digest: Leaf(name)})

    def print_lanes(self, count: str, start: str) -> list[str]:
        """The walked rows of a step."""
        stream, index = self.stream, self.loop.walked
        stream.arguments.blocks[index] = stream.arguments.option("BLOCK_WALKED")
        names = stream.scope.names
        row, at_name = names.fresh(f"{index.name}_row"), names.fresh(index.name)
        self.inside = names.fresh(f"{index.name}_in")
        at = f"first + {row}" if start == "0" else f"first + {row} + {start}"
        leaf = Leaf(row, (index,))
        stream.scope = stream.scope.extended(
            positions={index: Leaf(at_name, (index,))},
            rows={index: leaf},
            steps={index: ("first", leaf)},
            inside={index: Leaf(self.inside, (index,))},
        )
        return [
            "first = tile.to(tl.int64) * BLOCK_WALKED",
            f"{row} = tl.arange(0, BLOCK_WALKED)",
            f"{at_name} = ({at}).to(INDEX)",
            f"{self.inside} = gpu_below(first + {row}, {count}, EDGE, BLOCK_WALKED)",
        ]

    # --- Masks, exponent, reference ---------------------------------------------------------------

    def pairs(self) -> tuple[list[str], list[str]]:
        """Prints the values of pairs; gives back the masks of edge tiles and of whole ones. Where
        values run along the keys every tile is an edge, and its mask is known before they are."""
        mask: list[str] = []
        if not self.loop.running:
            for let in self.loop.pair_values:
                assert isinstance(let, Let)
                self.stream.let(let, self.over, self.score)
            hidden = self.mask(mask)
            return mask, hidden
        running = RunningValues(self.stream, self.loop, self.rounds, self.restart, self.score)
        ready, rest = running.parted()
        for let in ready:
            self.stream.let(let, self.over, self.score)
        self.mask(self.score)
        for one in rest:
            if isinstance(one, Let):
                self.stream.let(one, self.over, self.score)
            else:
                running.print(one)
        return mask, []

    def mask(self, lines: list[str]) -> list[str]:
        """Prints `seen` for edge tiles; gives back the lines for whole tiles (where `hidden` may
        still hide a pair)."""
        loop, scope = self.loop, self.stream.scope
        seen = f"{self.inside}[None, :]"
        if loop.visible is not None and not is_true(loop.visible):
            text = Printer(scope, self.over, lines, "visible").text(loop.visible)
            seen = f"{text} & {seen}"
        if self.counted:
            seen = f"{seen} & {self.counted}[:, None]"
        if loop.hidden is None:
            lines.append(f"seen = {seen}")
            return [f"seen = {self.counted}[:, None]"] if self.counted else []
        hidden: list[str] = []
        text = Printer(scope, self.over, hidden, "hidden").text(loop.hidden)
        lines += [*hidden, f"seen = {seen} & ({text} == 0)"]
        also = f" & {self.counted}[:, None]" if self.counted else ""
        return [*hidden, f"seen = ({text} == 0){also}"]

    def exponent(self, mask: list[str], hidden: list[str]) -> str | None:
        """The exponent, -inf where a pair is masked: so its exp2 is 0 without a further test."""
        exponent, stream = self.loop.exponent, self.stream
        if exponent is None:
            return None
        values = stream.scope.values
        if exponent.op == "value" and values[str(exponent.attr)].over == self.over:
            name = values[str(exponent.attr)].text
        else:
            name = self.bound(self.full(exponent, self.score, "exponent"), "exponent", self.score)
            known = {exponent.digest: Leaf(name, self.over)}
            stream.scope = stream.scope.extended(known=known)
        line = f"{name} = tl.where(seen, {name}, -{INFINITY})"
        mask.append(line)
        if hidden:
            hidden.append(line)
        return name

    def reference(self, exponent: str | None) -> list[str]:
        """The reference moves to the largest exponent of the row."""
        stream = self.stream
        if not stream.rescaling:
            return []
        stream.scope = stream.scope.extended(
            values={"reference": Leaf("reference", (stream.kernel.held,))}
        )
        if exponent is None:
            return [f"reference = tl.where(peak == -{INFINITY}, 0.0, peak)"]
        return [
            f"top = tl.maximum(peak, gpu_row_max({exponent}))",
            f"reference = tl.where(top == -{INFINITY}, 0.0, top)",
            "rescale = tl.exp2(peak - reference)",
            "peak = top",
        ]
