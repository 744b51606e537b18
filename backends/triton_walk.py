"""Prints one walked loop of a stream kernel: the holes of templates/triton/walk.py.jinja.

Rows held and keys walked, or keys held and rows walked: the same text with the roles swapped. A
walk may go around (the query heads of a key head): then what depends on the head, descriptors and
spans among it, stands inside that outer loop, and what is carried goes on through it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from attnc.backends.triton_frame import INFINITY, INITIAL, Stream, indented
from attnc.backends.triton_groups import head_rows
from attnc.backends.triton_operands import Key, Operands
from attnc.backends.triton_printer import Leaf, Printer, Scope
from attnc.backends.triton_region import float_text
from attnc.backends.triton_scatter import print_scatter
from attnc.backends.triton_texts import is_true, unwrapped
from attnc.backends.triton_tiles import Tiles
from attnc.backends.triton_turns import print_turn
from attnc.backends.triton_vectors import print_vectors

from attnc.errors import UnsupportedError
from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, position, postorder
from attnc.schedule.statements import (
    Carried,
    Contribution,
    Deposit,
    Let,
    PairStore,
    Product,
    Running,
    Scatter,
    Strided,
    is_pairwise,
)
from attnc.schedule.streams import WalkedLoop

PAIR = "[BLOCK_HELD, BLOCK_WALKED]"


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
class _Walk:
    stream: Stream
    loop: WalkedLoop
    number: int
    held: list[str] = field(default_factory=list)  # once: the held operands
    rounds: list[str] = field(default_factory=list)  # once a round of `around`
    restart: list[str] = field(default_factory=list)  # once a walk
    score: list[str] = field(default_factory=list)  # in a step
    combine: list[str] = field(default_factory=list)
    inside: str = ""
    hidden: bool = False
    counted: str = ""  # which held rows count in this turn, where that is not so in every turn
    rescaled: set[str] = field(default_factory=set)

    @property
    def over(self) -> tuple[Index, Index]:
        return self.stream.kernel.held, self.loop.walked

    def holes(self) -> dict[str, Any]:
        stream, loop = self.stream, self.loop
        around = self.print_around()
        if stream.place.batch_around:
            self.counted = print_turn(stream, loop, self.rounds)
        self.print_heads()
        count, start = stream.place.extent(loop.walked)
        visited = Tiles(stream.place, stream.scope)
        found = visited.print_in_order if loop.running else visited.print_tiles
        tiles, mixed_tile, full_tile = found(loop, self.number, count, start)
        lanes = self.print_lanes(count, start)
        operands = Operands(stream, loop.walked, count, self.rounds)
        for statement in loop.walked_values:
            once = not stream.over(statement.expr, self.over)
            stream.let(statement, (loop.walked,), self.rounds if once else self.score)
        self.products(operands)
        mask, hidden = self.pairs()
        self.hidden = bool(hidden)
        exponent = self.exponent(mask, hidden)
        reference = self.reference(exponent)
        for statement in loop.lifted:
            stream.let(statement, self.over, self.combine)
        for contribution in loop.contributions:
            self.contribute(contribution, operands)
        for carried in stream.kernel.carried:
            self.rescale_untouched(carried)
        for deposit in loop.deposits:
            at, (array, term) = position(loop.walked), (deposit.array, deposit.term)
            self.scatter(Scatter(array, at, term, deposit.width, deposit.operand), operands)
        for scatter in loop.scatters:
            self.scatter(scatter, operands)
        for store in loop.pair_stores:
            self.store_pairs(store)
        awake = f" * {stream.walks}" if stream.walks else ""
        return {
            "walked": loop.walked.name,
            "around": around,
            "held_operands": self.held,
            "rounds": self.rounds,
            "tiles": tiles,
            "mixed_count": f"mixed_count_{self.number}{awake}",
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

    # --- Products ---------------------------------------------------------------------------------

    def products(self, operands: Operands) -> None:
        """The matrix products, those over one width together: its parts are walked once."""
        widths = dict.fromkeys(product.width.axis.name for product in self.loop.products)
        for axis in widths:
            group = [p for p in self.loop.products if p.width.axis.name == axis]
            self.products_over(axis, group, operands)

    def products_over(self, axis: str, group: list[Product], operands: Operands) -> None:
        """Products over a width in parts: the held sides are loaded before the steps."""
        stream = self.stream
        names, arguments = stream.scope.names, stream.arguments
        width = arguments.width(axis)
        size = arguments.add(f"CHUNK_{axis.upper()}", "constexpr", "chunk", axis)
        lane, inside = names.fresh(group[0].width.name), names.fresh(f"{group[0].width.name}_in")
        head = [
            f"for part in tl.static_range(({width} + {size} - 1) // {size}):",
            f"    {lane} = part * {size} + tl.arange(0, {size})",
            f"    {inside} = gpu_below({lane}, {width}, {width} % {size} != 0, {size})",
        ]
        scope = stream.scope
        for index in dict.fromkeys(product.width for product in group):
            leaf = Leaf(lane, (index,))
            arguments.blocks[index] = size
            scope = scope.extended(
                positions={index: leaf},
                rows={index: leaf},
                inside={index: Leaf(inside, (index,))},
            )
        parts: dict[Key, str] = {}
        tiles: dict[Key, str] = {}
        body: list[str] = []
        for product in group:
            left_key = operands.key(product.left, product.width)
            right_key = operands.key(product.right, product.width)
            if left_key not in parts:
                parts[left_key] = self.held_parts(product, scope, size, head, operands)
            if right_key not in tiles:
                tiles[right_key] = operands.product_tile(
                    product.right, scope, product.width, size, body
                )
            name = names.fresh(product.name)
            self.score.append(f"{name} = tl.zeros({PAIR}, ACC)")
            left, right = f"{parts[left_key]}[part]", f"tl.trans({tiles[right_key]})"
            body.append(
                f"{name} = tl.dot({left}, {right}, {name}, input_precision=PRECISION, "
                "out_dtype=ACC)"
            )
            stream.scope = stream.scope.extended(values={product.name: Leaf(name, self.over)})
        self.score += [*head, *indented(body)]
        for index in (product.width for product in group):
            if index in stream.blocks:
                arguments.blocks[index] = stream.blocks[index]

    def held_parts(
        self, product: Product, scope: Scope, size: str, head: list[str], operands: Operands
    ) -> str:
        """The held side of a product as a tuple of its parts; its name."""
        held, lines = self.stream.kernel.held, list[str]()
        parts = scope.names.fresh(f"{product.left.array.name}_parts")
        left = operands.plain(product.left, scope, held, product.width, lines)
        if held not in Printer(scope, (held,), []).over(product.left):
            left = f"tl.broadcast_to({left}, [BLOCK_HELD, {size}])"
        lines.append(f"{parts} = {parts} + ({left},)")
        changing = product.left.free & frozenset(self.loop.around)
        target = self.rounds if changing else self.held
        target += [f"{parts} = ()", *head, *indented(lines)]
        return parts

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
        ready, rest = self.before_running()
        for let in ready:
            self.stream.let(let, self.over, self.score)
        self.mask(self.score)
        for one in rest:
            if isinstance(one, Let):
                self.stream.let(one, self.over, self.score)
            else:
                self.run(one)
        return mask, []

    def before_running(self) -> tuple[list[Let], list[Let | Running]]:
        """The values of pairs that use nothing that runs along the keys, and the others."""
        late = {one.name for one in self.loop.running}
        ready: list[Let] = []
        rest: list[Let | Running] = []
        for one in self.loop.pair_values:
            used = {str(n.attr) for n in postorder(one.expr) if n.op == "value"}
            if isinstance(one, Running) or used & late:
                late.add(one.name)
                rest.append(one)
            else:
                ready.append(one)
        return ready, rest

    def run(self, one: Running) -> None:
        """Prints a running value: along the tile, after what the tiles before have left, or ahead
        of what those after it come to. A sum over tiles is kept in two numbers."""
        names, unit = self.stream.scope.names, INITIAL[one.monoid]
        kept, low, name = (names.fresh(f"{one.name}{end}") for end in ("_kept", "_low", ""))
        first = [f"{each} = tl.full([BLOCK_HELD], {unit}, ACC)" for each in (kept, low)]
        (self.rounds if one.ahead else self.restart).extend(first)
        term = self.bound(self.full(one.expr, self.score, one.name), f"{one.name}_term", self.score)
        self.score.append(f"{term} = tl.where(seen, {term}, {unit})")
        options = f"{self.loop.backward}, {one.inclusive}, BLOCK_WALKED"
        part = f"tl.sum({term}, 1)"
        if one.ahead:
            self.score += [
                "if EDGE == 1:",
                f"    {kept}, {low} = gpu_sum_of_two({kept}, {part}, {low})",
                f"    {name} = {term}",
                "else:",
                f"    {kept}, {low} = gpu_sum_of_two({kept}, -{part}, {low})",
                f"    {name} = gpu_ahead({term}, {kept} + {low}, {options})",
            ]
        elif one.monoid == "sum":
            self.score += [
                f'{name}, _ = gpu_running({term}, {kept} + {low}, {unit}, "sum", {options})',
                f"{kept}, {low} = gpu_sum_of_two({kept}, {part}, {low})",
            ]
        else:
            call = f'gpu_running({term}, {kept}, {unit}, "{one.monoid}", {options})'
            self.score.append(f"{name}, {kept} = {call}")
        self.stream.scope = self.stream.scope.extended(values={one.name: Leaf(name, self.over)})

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

    def bound(self, text: str, wanted: str, lines: list[str]) -> str:
        name = self.stream.scope.names.fresh(wanted)
        lines.append(f"{name} = {unwrapped(text)}")
        return name

    def full(self, expr: Expr, lines: list[str], stem: str) -> str:
        """A real expression as a whole tile of pairs."""
        printer = Printer(self.stream.scope, self.over, lines, stem)
        text = printer.real(printer.text(expr), expr)
        if len(printer.over(expr)) == 2:
            return text
        return f"tl.zeros({PAIR}, ACC) + {text}"

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

    # --- What a pair adds -------------------------------------------------------------------------

    def contribute(self, contribution: Contribution, operands: Operands) -> None:
        """What a tile of pairs adds to a carried value."""
        kernel, lines = self.stream.kernel, self.combine
        carried = next(c for c in kernel.carried if c.name == contribution.carried)
        term = self.full(contribution.term, lines, carried.name)
        if not self.vanishes(contribution.term):
            term = self.masked(term, carried.name, INITIAL[carried.monoid])
        if carried.width is None:
            self.reduce_rows(carried, term)
            return
        if carried.monoid != "sum" or contribution.operand is None:
            raise UnsupportedError(f"a `{carried.monoid}` of tiles", "triton", ("eager", "numpy"))
        name = self.stream.scope.values[carried.name].text
        if is_pairwise(contribution.operand, self.loop.walked, kernel.held):
            self.add_vectors(contribution.operand, carried, term, operands.count)
            return
        tile = operands.carried_tile(contribution.operand, carried.width, lines)
        before = f"{name} * rescale[:, None]" if self.rescales(carried) else name
        dot = f"{term}.to(QUERY), {tile}, {before}"
        lines.append(f"{name} = tl.dot({dot}, input_precision=PRECISION, out_dtype=ACC)")

    def add_vectors(self, vector: Expr, carried: Carried, term: str, count: str) -> None:
        """Adds the term times a vector of the pair."""
        assert carried.width is not None
        stream, name = self.stream, self.stream.scope.values[carried.name].text
        if self.rescales(carried):
            self.combine.append(f"{name} = {name} * rescale[:, None]")
        self.combine += print_vectors(
            stream, self.loop, vector, carried.width, term, name, count, self.hidden
        )

    def reduce_rows(self, carried: Carried, term: str) -> None:
        """Adds to a row statistic."""
        if carried.monoid == "prod":
            raise UnsupportedError("a product over keys", "triton", ("eager", "numpy"))
        name = self.stream.scope.values[carried.name].text
        total = f"tl.{carried.monoid}({unwrapped(term)}, 1)"
        joined = f"{name} * rescale + {total}" if self.rescales(carried) else f"{name} + {total}"
        if carried.monoid != "sum":
            joined = f"gpu_{'larger' if carried.monoid == 'max' else 'smaller'}({name}, {total})"
        self.combine.append(f"{name} = {joined}")

    def rescales(self, carried: Carried) -> bool:
        """Whether this use is the one of the step that brings a carried value to the new
        reference: the first."""
        first = carried.name not in self.rescaled
        self.rescaled.add(carried.name)
        return first and carried.rescaled and self.loop.exponent is not None

    def rescale_untouched(self, carried: Carried) -> None:
        """Brings to the new reference what no pair of this walk adds to."""
        if self.rescales(carried):
            name = self.stream.scope.values[carried.name].text
            factor = "rescale[:, None]" if carried.width is not None else "rescale"
            self.combine.append(f"{name} = {name} * {factor}")

    def scatter(self, scatter: Scatter, operands: Operands) -> None:
        """What a tile of pairs adds to a table: 0 at masked pairs and in rows that do not count."""
        stream = self.stream
        term = self.masked(self.full(scatter.term, self.combine, "added"), "added", "0.0")
        counted = f"{stream.scope.inside[stream.kernel.held].text}[:, None]"
        self.combine.append(f"{term} = tl.where({counted}, {term}, 0.0)")
        print_scatter(stream, self.loop, scatter, term, operands, self.held, self.combine)

    def store_pairs(self, store: PairStore) -> None:
        """One number for each pair of the tile, and what stands where it is masked."""
        stream = self.stream
        pointer, body = stream.arguments.pointer(store.array), list[str]()
        bottom = float_text(repr(store.otherwise)) if store.otherwise else "0.0"
        term = self.masked(self.full(store.term, self.combine, "pair"), "pair", bottom)
        printer = Printer(stream.scope, self.over, body, store.array.name)
        entry, guards = printer.address(store.array, tuple(map(position, store.array.indices)))
        mask = " & ".join(dict.fromkeys([*guards, "(block == 0)"]))
        body.append(f"tl.store({entry}, {term}, mask={mask})")
        self.combine += [f"if {pointer} is not None:", *indented(body)]

    def masked(self, term: str, stem: str, identity: str) -> str:
        """The term, the identity of the monoid where a pair is masked."""
        name = self.bound(term, f"{stem}_term", self.combine)
        line = f"{name} = tl.where(seen, {name}, {identity})"
        self.combine += [line] if self.hidden else ["if EDGE:", f"    {line}"]
        return name

    def vanishes(self, term: Expr) -> bool:
        """Whether a term is 0 by itself where the exponent is -inf: exp2(exponent - reference)."""
        lets = {statement.name: statement.expr for statement in self.loop.lifted}
        while term.op == "value" and str(term.attr) in lets:
            term = lets[str(term.attr)]
        if term.op != "exp2" or term.args[0].op != "sub" or self.loop.exponent is None:
            return False
        left, right = term.args[0].args
        return left == self.loop.exponent and right.op == "value" and right.attr == "reference"
