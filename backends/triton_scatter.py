"""Prints sums into tables that pairs look up: gradients of `table[i - j]`, of `r[i - j, d]`.

No atomics: a program adds into a slice of its own, tile after tile, between barriers. Where the
place in the table is a function of i - j, the tile is skewed so that its diagonals are columns:
sums of columns, or a product with the operand's rows, are what each difference gets. A difference
then has a place of its own (i - j + 3), or several share one (buckets): those are compared with
each place that the tile touches. A place that is no function of i - j is compared pair by pair.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnc.backends.triton_frame import Stream, indented
from attnc.backends.triton_operands import Operands
from attnc.backends.triton_printer import Printer
from attnc.backends.triton_scope import Leaf, Scope

from attnc.errors import UnsupportedError
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import POINTWISE, Expr, call, number, position, postorder, value
from attnc.schedule.statements import Scatter
from attnc.schedule.streams import WalkedLoop

LAG = Index("lag", Axis("lag"), -1)  # the lanes of differences: an axis of its own
ENTRY = Index("entry", Axis("entry"), -1)  # the lanes of places in a table
DIFFERENCE = value("difference", "int")  # held position - walked position
ENTRIES = 32  # places of a table that are compared at once


def print_scatter(
    stream: Stream,
    loop: WalkedLoop,
    scatter: Scatter,
    term: str,
    operands: Operands,
    held: list[str],
    lines: list[str],
) -> None:
    """Adds the tile `term` (0 at masked pairs) to the table. `held` are lines before the walk."""
    difference = difference_form(scatter.at, stream.kernel.held, loop.walked)
    body: list[str] = []
    printer = _Scatter(stream, loop, scatter, operands, held, body)
    if scatter.at == position(loop.walked):
        printer.add_columns(term)
    elif difference is not None:
        printer.add_diagonals(term, *difference)
    else:
        printer.add_pairs(term)
    lines += [f"if {stream.arguments.pointer(scatter.array)} is not None:", *indented(body)]


@dataclass
class _Scatter:
    stream: Stream
    loop: WalkedLoop
    scatter: Scatter
    operands: Operands
    held: list[str]
    lines: list[str]

    def fresh(self, wanted: str) -> str:
        return self.stream.scope.names.fresh(wanted)

    def bound(self, wanted: str, text: str) -> str:
        """A statement of the step; its name."""
        name = self.fresh(wanted)
        self.lines.append(f"{name} = {text}")
        return name

    # --- Walked rows ------------------------------------------------------------------------------

    def add_columns(self, term: str) -> None:
        """What each walked row gets: the column sums of the tile, or its product with the rows of
        the operand."""
        walked = self.loop.walked
        if self.scatter.width is None:
            sums = self.bound("sums", f"tl.sum({term}, 0)")
        else:
            operand, block = self.rows()
            dot = f"tl.trans({term}).to(QUERY), {operand}, tl.zeros([BLOCK_WALKED, {block}], ACC)"
            sums = self.bound("sums", f"tl.dot({dot}, input_precision=PRECISION, out_dtype=ACC)")
        self.add(sums, self.stream.scope.positions[walked].text, walked, self.lines)

    # --- Differences ------------------------------------------------------------------------------

    def add_diagonals(self, term: str, at: Expr, apart: bool) -> None:
        """`at`: the place as an expression of DIFFERENCE; `apart`: no two differences share it."""
        self.stream.arguments.option("LAGS")
        place, loop = self.stream.place, self.loop
        shifts = place.start(self.stream.kernel.held), place.start(loop.walked)
        low = "held_tile * BLOCK_HELD - first - (BLOCK_WALKED - 1)"
        low += "".join(f" {sign} {s}" for sign, s in zip("+-", shifts, strict=True) if s != "0")
        lag = self.bound("lag", f"({low} + tl.arange(0, LAGS)).to(INDEX)")
        sums = self.diagonal_rows(term) if self.scatter.width else self.diagonal_sums(term)
        scope = self.stream.scope.extended(values={"difference": Leaf(lag, (LAG,))})
        self.stream.arguments.blocks[LAG] = "LAGS"
        printer = Printer(scope, (LAG,), self.lines, "place")
        places = self.bound("place", f"tl.zeros([LAGS], tl.int64) + {printer.text(at)}")
        if apart:
            self.add(sums, places, LAG, self.lines)
        else:
            self.add_buckets(sums, places)

    def diagonal_sums(self, term: str) -> str:
        """[LAGS]: the sum of each diagonal."""
        skewed = f"gpu_skewed({term}, BLOCK_HELD, BLOCK_WALKED, LAGS)"
        return self.bound("sums", f"tl.sum({skewed}, 0)")

    def diagonal_rows(self, term: str) -> str:
        """[LAGS, width]: the sum over each diagonal of the term times the operand's row."""
        operand, block = self.rows()
        skewed = f"gpu_skewed_rows({term}, BLOCK_HELD, BLOCK_WALKED, LAGS)"
        if not self.by_walked:
            skewed = f"tl.trans(gpu_skewed({term}, BLOCK_HELD, BLOCK_WALKED, LAGS))"
        dot = f"{skewed}.to(QUERY), {operand}, tl.zeros([LAGS, {block}], ACC)"
        return self.bound("sums", f"tl.dot({dot}, input_precision=PRECISION, out_dtype=ACC)")

    @property
    def by_walked(self) -> bool:
        """Whether the operand's rows are the walked ones, not the held."""
        assert self.scatter.operand is not None
        return self.loop.walked in self.scatter.operand.free

    def rows(self) -> tuple[str, str]:
        """The operand as a tile of (held or walked, width), and the constexpr of its width."""
        scatter, stream = self.scatter, self.stream
        assert scatter.width is not None and scatter.operand is not None
        block = stream.width_lanes(scatter.width, self.held)
        if self.by_walked:
            return self.operands.carried_tile(scatter.operand, scatter.width, self.lines), block
        around = scatter.operand.free & frozenset(self.loop.around)
        lines, held = self.operands.rounds if around else self.held, stream.kernel.held
        operand = self.fresh(f"{scatter.operand.array.name}_rows")
        text = self.operands.plain(scatter.operand, stream.scope, held, scatter.width, lines)
        lines.append(f"{operand} = {text}")
        return operand, block

    def add_buckets(self, sums: str, places: str) -> None:
        """Several differences share a place: each place that the tile touches takes its own."""
        axis = self.scatter.array.axes[self.at_place]
        length, start = self.extent(axis)
        used = self.bound(
            "used",
            f"(tl.arange(0, LAGS) < BLOCK_HELD + BLOCK_WALKED - 1) & "
            f"({places} >= {start}) & ({places} < {start} + {length})",
        )
        low = self.bound("place_low", f"tl.min(tl.where({used}, {places}, {start} + {length}), 0)")
        high = self.bound("place_high", f"tl.max(tl.where({used}, {places}, {start} - 1), 0)")
        entry, entries = self.fresh("entry"), self.fresh("entries")
        body = [f"{entries} = {entry} + tl.arange(0, {ENTRIES})"]
        hit = f"({entries}[:, None] == {places}[None, :]) & {used}[None, :]"
        found = self.fresh("found")
        if self.scatter.width is None:
            body.append(f"{found} = tl.sum(tl.where({hit}, {sums}[None, :], 0.0), 1)")
        else:
            ones = f"tl.where({hit}, 1.0, 0.0).to(ACC)"
            body.append(f'{found} = tl.dot({ones}, {sums}, input_precision="ieee", out_dtype=ACC)')
        self.stream.arguments.blocks[ENTRY] = str(ENTRIES)
        self.add(found, entries, ENTRY, body)
        self.lines.append(f"for {entry} in range({low}, {high} + 1, {ENTRIES}):")
        self.lines += indented(body)

    # --- Pair by pair -----------------------------------------------------------------------------

    def add_pairs(self, term: str) -> None:
        """The sum of the pairs at each place that the tile touches, one place after the other; of
        the rows of the operand, each times what its pairs there have."""
        operand = self.rows()[0] if self.scatter.width is not None else ""
        over = (self.stream.kernel.held, self.loop.walked)
        length, start = self.extent(self.scatter.array.axes[self.at_place])
        printer = Printer(self.stream.scope, over, self.lines, "place")
        shape = "[BLOCK_HELD, BLOCK_WALKED]"
        places = self.bound(
            "place", f"tl.zeros({shape}, tl.int64) + {printer.text(self.scatter.at)}"
        )
        used = self.bound("used", f"({places} >= {start}) & ({places} < {start} + {length})")
        self.lines += ["if EDGE:", f"    {used} = {used} & seen"]
        low = self.bound("place_low", f"tl.min(tl.where({used}, {places}, {start} + {length}))")
        high = self.bound("place_high", f"tl.max(tl.where({used}, {places}, {start} - 1))")
        entry, at, found = self.fresh("entry"), self.fresh("entry_at"), self.fresh("found")
        hit = f"tl.where(({places} == {at}) & {used}, {term}, 0.0)"
        body = [f"{at} = tl.full([], 0, tl.int64) + {entry}"]
        if not operand:
            body.append(f"{found} = tl.sum({hit})")
        else:
            row = self.fresh("row_sums")
            body.append(f"{row} = tl.sum({hit}, {int(not self.by_walked)})")
            body.append(f"{found} = tl.sum({row}[:, None] * {operand}.to(ACC), 0)")
        self.add(found, at, None, body)
        self.lines.append(f"for {entry} in range({low}, {high} + 1):")
        self.lines += indented(body)

    # --- Memory -----------------------------------------------------------------------------------

    @property
    def at_place(self) -> int:
        """Which dimension of the array is that of `at`."""
        return len(self.scatter.array.indices) - (2 if self.scatter.width else 1)

    def extent(self, axis: Axis) -> tuple[str, str]:
        """Length and first position of the table's axis."""
        printer = Printer(self.stream.scope, (), self.lines, "table")
        return printer.length(axis), printer.start(axis)

    def add(self, sums: str, places: str, lane: Index | None, lines: list[str]) -> None:
        """`array[..., places] += sums`, lanes of `lane` (None: one number) by the width."""
        array, width = self.scatter.array, self.scatter.width
        at = value("added_at", "int")
        leaf = Leaf(places, (lane,) if lane is not None else ())
        scope: Scope = self.stream.scope.extended(values={"added_at": leaf})
        layout = (*((lane,) if lane is not None else ()), *((width,) if width is not None else ()))
        known = (*self.stream.kernel.grid, *self.loop.around, *((width,) if width else ()))
        missing = [index for index in array.indices if index not in known]
        if len(missing) != 1:
            raise UnsupportedError(
                f"one table `{array.name}` for several programs", "triton", ("eager",)
            )
        exprs = [position(index) for index in array.indices]
        exprs[self.at_place] = at
        printer = Printer(scope, layout, lines, array.name)
        pointer, guards = printer.address(array, tuple(exprs))
        if width is None:
            guards = [*guards, "(block == 0)"]
        mask = " & ".join(dict.fromkeys(guards))
        lines.append(f"gpu_add({pointer}, {sums}, {mask})")


# --- Which places are functions of a difference ---------------------------------------------------

Affine = tuple[int, int, Expr]  # a * held + b * walked + rest


def difference_form(at: Expr, held: Index, walked: Index) -> tuple[Expr, bool] | None:
    """A place as an expression of DIFFERENCE, and whether differences lie apart in it; None where
    it depends on the two positions otherwise."""
    affine: dict[bytes, Affine | None] = {}
    forms: dict[bytes, Expr | None] = {}
    pair = {held, walked}
    for node in postorder(at):
        known = [affine[arg.digest] for arg in node.args]
        affine[node.digest] = _affine(node, known, held, walked)
        forms[node.digest] = _form(node, affine[node.digest], forms, pair)
    form, found = forms[at.digest], affine[at.digest]
    if form is None:
        return None
    return form, found is not None and found[0] != 0


def _form(
    node: Expr, affine: Affine | None, forms: dict[bytes, Expr | None], pair: set[Index]
) -> Expr | None:
    if not node.free & pair:
        return node
    if affine is not None:
        slope, other, rest = affine
        if slope != -other:
            return None
        return call("add", call("mul", number(slope), DIFFERENCE), rest)
    args = [forms[arg.digest] for arg in node.args]
    if node.op not in POINTWISE and node.op != "read":
        return None
    if any(arg is None for arg in args):
        return None
    return node.with_args(tuple(arg for arg in args if arg is not None))


def _affine(node: Expr, args: list[Affine | None], held: Index, walked: Index) -> Affine | None:
    if not node.free & {held, walked}:
        return 0, 0, node
    if node.op == "index":
        return int(node.attr == held), int(node.attr == walked), number(0)
    if any(arg is None for arg in args):
        return None
    known = [arg for arg in args if arg is not None]
    if node.op in ("add", "sub"):
        (a, b, rest), (c, d, other) = known
        sign = 1 if node.op == "add" else -1
        return a + sign * c, b + sign * d, call(node.op, rest, other)
    if node.op == "neg":
        a, b, rest = known[0]
        return -a, -b, call("neg", rest)
    return None
