"""Prints a stream kernel of a Schedule as Triton: the holes of templates/triton/stream.py.jinja.

The held axis lies along the first axis of a tile, the walked one along the second. Where the heads
of a group share all that is walked, they may be rows of one tile (PACKED): then the head index is a
vector over the rows. Does not choose tile sizes: those are constexprs of the planner.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from attnc.backends.triton_grid import Place, print_comment
from attnc.backends.triton_names import Arguments, Names
from attnc.backends.triton_printer import Leaf, Printer, Scope
from attnc.backends.triton_texts import is_true, unwrapped

from attnc.errors import UnsupportedError
from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, position
from attnc.schedule import (
    Carried,
    Contribution,
    Let,
    Product,
    Schedule,
    Store,
    StreamKernel,
    Strided,
    WalkedLoop,
)

INFINITY = 'float("inf")'
INITIAL = {"sum": "0.0", "prod": "1.0", "max": f"-{INFINITY}", "min": INFINITY}
PAIR = "[BLOCK_HELD, BLOCK_WALKED]"


@dataclass
class StreamPrinter:
    """The state of printing one stream kernel, or the merge of its shares."""

    kernel: StreamKernel
    schedule: Schedule
    place: Place
    queries: frozenset[str]  # arrays in the query dtype
    scope: Scope = field(init=False)

    def __post_init__(self) -> None:
        self.scope = self.place.scope

    @property
    def arguments(self) -> Arguments:
        return self.scope.arguments

    # --- Lets -------------------------------------------------------------------------------------

    def let(self, statement: Let, layout: tuple[Index, ...], lines: list[str]) -> None:
        """`name = expr` at the shape of what it depends on."""
        over = Printer(self.scope, layout, lines).over(statement.expr)
        printer = Printer(self.scope, over, lines, statement.name)
        text = printer.text(statement.expr)
        if statement.expr.op == "number":
            kind = "ACC" if statement.expr.kind == "real" else "INDEX"
            text = f"tl.full([], {text}, {kind})"
        name = printer.bind(statement.name, text)
        self.scope = self.scope.extended(values={statement.name: Leaf(name, over)})

    def values(self) -> list[str]:
        """Values of a head and of a row."""
        lines: list[str] = []
        for statement in (*self.kernel.grid_values, *self.kernel.held_values):
            self.let(statement, (self.kernel.held,), lines)
        return lines

    # --- Carried ----------------------------------------------------------------------------------

    @property
    def rescaling(self) -> bool:
        return any(loop.exponent is not None for loop in self.kernel.loops)

    def carried(self) -> list[str]:
        """Names and first values of all that the loops carry; the lanes of their widths."""
        lines: list[str] = []
        if self.rescaling:
            lines.append(f"peak = tl.full([BLOCK_HELD], -{INFINITY}, ACC)")
        for each in self.kernel.carried:
            name = self.scope.names.fresh(each.name)
            over: tuple[Index, ...] = (self.kernel.held,)
            shape = "[BLOCK_HELD]"
            if each.width is not None:
                shape = f"[BLOCK_HELD, {self.width_lanes(each.width, lines)}]"
                over = (self.kernel.held, each.width)
            lines.append(f"{name} = tl.full({shape}, {INITIAL[each.monoid]}, ACC)")
            self.scope = self.scope.extended(values={each.name: Leaf(name, over)})
        return lines

    def width_lanes(self, index: Index, lines: list[str]) -> str:
        """The lanes of a carried or stored width, of the block that the program holds; its size."""
        block = self.arguments.add(
            f"BLOCK_{index.axis.name.upper()}", "constexpr", "block", index.axis.name
        )
        if index in self.scope.rows:
            return block
        width = self.arguments.width(index.axis.name)
        lane, inside = (
            self.scope.names.fresh(index.name),
            self.scope.names.fresh(f"{index.name}_in"),
        )
        lines.append(f"{lane} = block * {block} + tl.arange(0, {block})")
        check = f"{width} % {block} != 0 or BLOCKS * {block} > {width}"
        lines.append(f"{inside} = gpu_below({lane}, {width}, {check}, {block})")
        self.arguments.blocks[index] = block
        leaf = Leaf(lane, (index,))
        self.scope = self.scope.extended(
            positions={index: leaf}, rows={index: leaf}, inside={index: Leaf(inside, (index,))}
        )
        return block

    # --- One loop ---------------------------------------------------------------------------------

    def loop(self, loop: WalkedLoop, number: int) -> dict[str, Any]:
        """The holes of one walked loop. Its lanes and values are gone after it."""
        if not isinstance(loop.access, Strided) or loop.chosen is not None:
            raise UnsupportedError("packed, paged or listed keys", "triton", ("eager", "numpy"))
        if loop.around or loop.backward or loop.running or loop.scatters:
            raise UnsupportedError(
                "walks around heads, backward, with running values or scatters",
                "triton",
                ("eager", "numpy"),
            )
        outer = self.scope
        index, arguments = loop.walked, self.arguments
        arguments.blocks[index] = arguments.option("BLOCK_WALKED")
        count, start = self.place.extent(index)
        tiles, mixed_tile, full_tile = self.place.print_tiles(loop, number, count, start)
        names = self.scope.names
        row, at_name = names.fresh(f"{index.name}_row"), names.fresh(index.name)
        inside = names.fresh(f"{index.name}_in")
        at = f"first + {row}" if start == "0" else f"first + {row} + {start}"
        lanes = [
            "first = tile.to(tl.int64) * BLOCK_WALKED",
            f"{row} = tl.arange(0, BLOCK_WALKED)",
            f"{at_name} = ({at}).to(INDEX)",
            f"{inside} = gpu_below(first + {row}, {count}, EDGE, BLOCK_WALKED)",
        ]
        leaf = Leaf(row, (index,))
        self.scope = self.scope.extended(
            positions={index: Leaf(at_name, (index,))},
            rows={index: leaf},
            steps={index: ("first", leaf)},
            inside={index: Leaf(inside, (index,))},
        )
        held, score, mask, combine = (list[str]() for _ in range(4))
        for statement in loop.walked_values:
            self.let(statement, (index,), score)
        for product in loop.products:
            self.product(product, loop, held, score, count)
        for statement in loop.pair_values:
            self.let(statement, self.pair(loop), score)
        hidden = self.mask(loop, inside, mask)
        exponent = self.exponent(loop, score, mask, hidden)
        reference = self.reference(exponent)
        for statement in loop.lifted:
            self.let(statement, self.pair(loop), combine)
        for contribution in loop.contributions:
            self.contribute(contribution, loop, held, combine, count, bool(hidden))
        values = {each.name: self.scope.values[each.name] for each in self.kernel.carried}
        self.scope = outer.extended(values=values)
        return {
            "walked": index.name,
            "held_operands": held,
            "tiles": tiles,
            "mixed_count": f"mixed_count_{number}",
            "full_count": f"full_count_{number}",
            "mixed_tile": mixed_tile,
            "full_tile": full_tile,
            "lanes": lanes,
            "score": score,
            "mask": mask,
            "hidden": hidden,
            "reference": reference,
            "combine": combine,
        }

    def pair(self, loop: WalkedLoop) -> tuple[Index, Index]:
        return self.kernel.held, loop.walked

    def product(
        self, product: Product, loop: WalkedLoop, held: list[str], lines: list[str], count: str
    ) -> None:
        """A matrix product over a width in parts: the held side is loaded before the loop."""
        axis, arguments, names = product.width.axis.name, self.arguments, self.scope.names
        width = arguments.width(axis)
        size = arguments.add(f"CHUNK_{axis.upper()}", "constexpr", "chunk", axis)
        parts = names.fresh(f"{_array_name(product.left)}_parts")
        lane, inside = names.fresh(product.width.name), names.fresh(f"{product.width.name}_in")
        total = f"({width} + {size} - 1) // {size}"
        head = [
            f"for part in tl.static_range({total}):",
            f"    {lane} = part * {size} + tl.arange(0, {size})",
            f"    {inside} = gpu_below({lane}, {width}, {width} % {size} != 0, {size})",
        ]
        leaf = Leaf(lane, (product.width,))
        arguments.blocks[product.width] = size
        scope = self.scope.extended(
            positions={product.width: leaf},
            rows={product.width: leaf},
            inside={product.width: Leaf(inside, (product.width,))},
        )
        left_lines: list[str] = []
        left = self.operand(product.left, scope, self.kernel.held, product.width, left_lines)
        if self.kernel.held not in Printer(scope, (self.kernel.held,), []).over(product.left):
            left = f"tl.broadcast_to({left}, [BLOCK_HELD, {size}])"
        held += [
            f"{parts} = ()",
            *head,
            *_indented(left_lines),
            f"    {parts} = {parts} + ({left},)",
        ]
        name, right = names.fresh(product.name), names.fresh(f"{_array_name(product.right)}_tile")
        lines += [f"{name} = tl.zeros({PAIR}, ACC)", *head]
        tiles = self.descriptor(product.right, loop.walked, product.width, size, held, count)
        body = self.walked_operand(
            right, product.right, scope, loop.walked, product.width, tiles, f"part * {size}"
        )
        dot = f"{parts}[part], tl.trans({right}), {name}, input_precision=PRECISION, out_dtype=ACC"
        lines += _indented([*body, f"{name} = tl.dot({dot})"])
        self.scope = self.scope.extended(values={product.name: Leaf(name, self.pair(loop))})

    def operand(self, read: Expr, scope: Scope, tall: Index, wide: Index, lines: list[str]) -> str:
        """A loaded operand of a matrix product, in the query dtype."""
        text = Printer(scope, (tall, wide), lines, _array_name(read)).load(read)
        return text if read.array.name in self.queries else f"{text}.to(QUERY)"

    def walked_operand(
        self,
        name: str,
        read: Expr,
        scope: Scope,
        walked: Index,
        wide: Index,
        tiles: str | None,
        column: str,
    ) -> list[str]:
        """`name = ` a tile of (walked, width): through its descriptor where there is one."""
        lines: list[str] = []
        plain = f"{name} = {self.operand(read, scope, walked, wide, lines)}"
        if tiles is None:
            return [*lines, plain]
        cast = "" if read.array.name in self.queries else ".to(QUERY)"
        at = f"[(tile * BLOCK_WALKED).to(tl.int32), {column}]"
        through = f"    {name} = {tiles}.load({at}){cast}"
        return [
            "if USE_DESCRIPTORS:", through, "else:", *_indented([*lines, plain]),
        ]  # fmt: skip

    def descriptor(
        self, read: Expr, walked: Index, wide: Index, size: str, held: list[str], count: str
    ) -> str | None:
        """Prints the tensor descriptor of a walked operand before the loop, gives back its name.
        None where the rows of the operand do not lie in one plane for the program."""
        at = {arg.attr: place for place, arg in enumerate(read.args) if arg.op == "index"}
        if walked not in at or wide not in at or at[wide] != len(read.args) - 1:
            return None
        arguments, array = self.arguments, read.array
        printer = Printer(self.scope, (self.kernel.held,), held, array.name)
        fixed = []
        for place, at_place in enumerate(read.args):
            if at_place.attr in (walked, wide):
                continue
            if printer.over(at_place):
                return None
            text, _, _ = printer.row(array.indices[place].axis, at_place)
            fixed.append(f"{text} * {arguments.stride(array, place)}")
        arguments.option("USE_DESCRIPTORS")
        name = self.scope.names.fresh(f"{array.name}_tiles")
        strides = f"[{arguments.stride(array, at[walked])}, 1]"
        shape = f"[tl.maximum({count}, 1).to(tl.int32), {arguments.width(wide.axis.name)}]"
        base = " + ".join([arguments.pointer(array), *fixed])
        held += [
            "if USE_DESCRIPTORS:",
            f"    {name} = tl.make_tensor_descriptor(",
            f"        {base},",
            f"        shape={shape},",
            f"        strides={strides},",
            f"        block_shape=[BLOCK_WALKED, {size}],",
            "    )",
        ]
        return name

    def mask(self, loop: WalkedLoop, inside: str, lines: list[str]) -> list[str]:
        """Prints `seen` for edge tiles; gives back the lines for whole tiles (where `hidden` may
        still hide a pair)."""
        seen = f"{inside}[None, :]"
        if loop.visible is not None and not is_true(loop.visible):
            text = Printer(self.scope, self.pair(loop), lines, "visible").text(loop.visible)
            seen = f"{text} & {seen}"
        if loop.hidden is None:
            lines.append(f"seen = {seen}")
            return []
        hidden: list[str] = []
        text = Printer(self.scope, self.pair(loop), hidden, "hidden").text(loop.hidden)
        lines += [*hidden, f"seen = {seen} & ({text} == 0)"]
        return [*hidden, f"seen = {text} == 0"]

    def exponent(
        self, loop: WalkedLoop, score: list[str], mask: list[str], hidden: list[str]
    ) -> str | None:
        """The exponent, -inf where a pair is masked: so its exp2 is 0 without a further test."""
        if loop.exponent is None:
            return None
        over = self.pair(loop)
        printer = Printer(self.scope, over, score, "exponent")
        if loop.exponent.op == "value" and self.scope.values[str(loop.exponent.attr)].over == over:
            name = self.scope.values[str(loop.exponent.attr)].text
        else:
            text = self.full(loop.exponent, printer)
            name = printer.bind("exponent", text)
            known = {loop.exponent.digest: Leaf(name, over)}
            self.scope = self.scope.extended(known=known)
        line = f"{name} = tl.where(seen, {name}, -{INFINITY})"
        mask.append(line)
        if hidden:
            hidden.append(line)
        return name

    def full(self, expr: Expr, printer: Printer) -> str:
        """A real expression as a whole tile of pairs."""
        text = printer.real(printer.text(expr), expr)
        if len(printer.over(expr)) == 2:
            return text
        return f"tl.zeros({PAIR}, ACC) + {text}"

    def reference(self, exponent: str | None) -> list[str]:
        if exponent is None:
            if self.rescaling:
                peak = f"tl.where(peak == -{INFINITY}, 0.0, peak)"
                self.scope = self.scope.extended(
                    values={"reference": Leaf("reference", (self.kernel.held,))}
                )
                return [f"reference = {peak}"]
            return []
        self.scope = self.scope.extended(
            values={"reference": Leaf("reference", (self.kernel.held,))}
        )
        return [
            f"top = tl.maximum(peak, gpu_row_max({exponent}))",
            f"reference = tl.where(top == -{INFINITY}, 0.0, top)",
            "rescale = tl.exp2(peak - reference)",
            "peak = top",
        ]

    def contribute(
        self,
        contribution: Contribution,
        loop: WalkedLoop,
        held: list[str],
        lines: list[str],
        count: str,
        hidden: bool,
    ) -> None:
        """What a tile of pairs adds to a carried value."""
        carried = next(c for c in self.kernel.carried if c.name == contribution.carried)
        printer = Printer(self.scope, self.pair(loop), lines, carried.name)
        term = self.full(contribution.term, printer)
        if not self.vanishes(contribution.term, loop):
            term = self.masked(term, carried, lines, hidden)
        name = self.scope.values[carried.name].text
        scale = carried.rescaled and loop.exponent is not None
        if carried.width is None:
            if carried.monoid == "prod":
                raise UnsupportedError("a product over keys", "triton", ("eager", "numpy"))
            total = f"tl.{carried.monoid}({unwrapped(term)}, 1)"
            before = f"{name} * rescale" if scale else name
            joined = f"{before} + {total}"
            if carried.monoid != "sum":
                joined = (
                    f"gpu_{'larger' if carried.monoid == 'max' else 'smaller'}({name}, {total})"
                )
            lines.append(f"{name} = {joined}")
            return
        if carried.monoid != "sum" or contribution.operand is None:
            raise UnsupportedError(f"a `{carried.monoid}` of tiles", "triton", ("eager", "numpy"))
        read, wide = contribution.operand, carried.width
        size = self.arguments.blocks[wide]
        tile = self.scope.names.fresh(f"{_array_name(read)}_tile")
        tiles = self.descriptor(read, loop.walked, wide, size, held, count)
        column = f"(block * {size}).to(tl.int32)"
        lines += self.walked_operand(tile, read, self.scope, loop.walked, wide, tiles, column)
        before = f"{name} * rescale[:, None]" if scale else name
        dot = f"{term}.to(QUERY), {tile}, {before}"
        lines.append(f"{name} = tl.dot({dot}, input_precision=PRECISION, out_dtype=ACC)")

    def masked(self, term: str, carried: Carried, lines: list[str], hidden: bool) -> str:
        """The term, the identity of the monoid where a pair is masked."""
        name = self.scope.names.fresh(f"{carried.name}_term")
        line = f"{name} = tl.where(seen, {name}, {INITIAL[carried.monoid]})"
        lines.append(f"{name} = {unwrapped(term)}")
        lines += [line] if hidden else ["if EDGE:", f"    {line}"]
        return name

    def vanishes(self, term: Expr, loop: WalkedLoop) -> bool:
        """Whether a term is 0 by itself where the exponent is -inf: exp2(exponent - reference)."""
        lets = {statement.name: statement.expr for statement in loop.lifted}
        while term.op == "value" and str(term.attr) in lets:
            term = lets[str(term.attr)]
        if term.op != "exp2" or term.args[0].op != "sub" or loop.exponent is None:
            return False
        left, right = term.args[0].args
        return left == loop.exponent and right.op == "value" and right.attr == "reference"

    # --- Finish, shares ---------------------------------------------------------------------------

    def finish(self) -> list[str]:
        """Row values after the loops, and the stores."""
        lines: list[str] = []
        if self.rescaling:
            peak = Leaf("peak", (self.kernel.held,))
            self.scope = self.scope.extended(values={"reference": peak})
        for statement in self.kernel.finish:
            self.let(statement, (self.kernel.held,), lines)
        for store in self.kernel.stores:
            self.store(store, lines)
        return lines

    def store(self, store: Store, lines: list[str]) -> None:
        """One stored array; nothing where it is not wanted."""
        held = self.kernel.held
        body: list[str] = []
        layout: tuple[Index, ...] = (held,)
        if store.width is not None:
            self.width_lanes(store.width, lines)
            layout = (held, store.width)
        pointer = self.arguments.pointer(store.array)
        printer = Printer(self.scope, layout, body, store.array.name)
        text = unwrapped(printer.text(store.expr))
        entry, guards = printer.address(store.array, tuple(map(position, store.array.indices)))
        if store.width is None:
            guards = [*guards, "(block == 0)"]
        body.append(f"tl.store({entry}, {text}, mask={' & '.join(dict.fromkeys(guards))})")
        lines += [f"if {pointer} is not None:", *_indented(body)]

    def partial(self) -> list[str]:
        """Stores what is carried, one slot for each share."""
        lines = ["slot = ((cell * shares + share) * BLOCKS + block) * BLOCK_HELD + held_lane"]
        for name, pointer, block in self._slots():
            if block is None:
                lines.append(f"tl.store({pointer} + slot, {name})")
            else:
                columns = f"tl.arange(0, {block})[None, :]"
                lines.append(f"tl.store({pointer} + slot[:, None] * {block} + {columns}, {name})")
        return lines

    def _slots(self) -> list[tuple[str, str, str | None]]:
        """(name, pointer of the buffer, block of the width) of all that is carried."""
        add = self.arguments.add
        slots: list[tuple[str, str, str | None]] = []
        if self.rescaling:
            slots.append(("peak", add("peak_work_ptr", "pointer", "work", "peak"), None))
        for each in self.kernel.carried:
            pointer = add(f"{each.name}_work_ptr", "pointer", "work", f"carried.{each.name}")
            block = self.arguments.blocks[each.width] if each.width is not None else None
            slots.append((self.scope.values[each.name].text, pointer, block))
        return slots

    def combine(self) -> list[str]:
        """Merges the shares: the largest reference first, then the sums in order."""
        lines = self.carried()
        slot = "slot = ((cell * shares + share) * BLOCKS + block) * BLOCK_HELD + held_lane"
        slots = self._slots()
        if self.rescaling:
            lines += [
                "for share in range(0, shares):",
                f"    {slot}",
                f"    peak = tl.maximum(peak, tl.load({slots[0][1]} + slot))",
                f"reference = tl.where(peak == -{INFINITY}, 0.0, peak)",
            ]
        lines += ["for share in range(0, shares):", f"    {slot}"]
        if self.rescaling:
            lines.append(f"    rescale = tl.exp2(tl.load({slots[0][1]} + slot) - reference)")
        for each, (name, pointer, block) in zip(
            self.kernel.carried, slots[len(slots) - len(self.kernel.carried) :], strict=True
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


def _array_name(read: Expr) -> str:
    return read.array.name


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for text in lines for line in text.split("\n")]


def print_stream(
    kernel: StreamKernel, schedule: Schedule, queries: frozenset[str], merge: bool
) -> dict[str, Any]:
    """The holes of a stream kernel, or of the merge of its shares; and its arguments."""
    names = Names()
    arguments = Arguments(names)
    widths = frozenset(axis.name for axis in schedule.widths)
    scope = Scope(names, arguments, widths=widths)
    place = Place(kernel, schedule, scope)
    lines = place.print_place(merge)
    lanes = place.print_lanes()
    printer = StreamPrinter(kernel, schedule, place, queries)
    values = printer.values()
    holes: dict[str, Any] = {"merges": merge, "loops": [], "carried": [], "combine": []}
    if merge:
        holes["combine"] = printer.combine()
    else:
        holes["carried"] = printer.carried()
        holes["loops"] = [printer.loop(loop, n) for n, loop in enumerate(kernel.loops)]
    splits = kernel.split is None and not merge
    holes["partial"] = printer.partial() if splits else []
    holes["finish"] = printer.finish()
    function = f"kernel_{kernel.name}{'_merge' if merge else ''}"
    return {
        **holes,
        "function": function,
        "held": kernel.held.name,
        "place": lines + list(arguments.shifted.values()),
        "lanes": lanes,
        "values": values,
        "prepared": list(arguments.prepared.values()),
        "arguments": arguments,
        "comment": print_comment(kernel, schedule, merge),
        "place_facts": place.facts(),
    }
