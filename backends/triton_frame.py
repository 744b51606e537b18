"""The state of printing one stream kernel as Triton: its scope, and statements at their own shape.

The held axis lies along the first axis of a tile, the walked one along the second. Where the heads
of a group share all that is walked, they may be rows of one tile (PACKED): then the head index is a
vector over the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attnc.backends.triton_grid import Place
from attnc.backends.triton_names import Arguments
from attnc.backends.triton_printer import Printer
from attnc.backends.triton_scope import Leaf, Scope

from attnc.expressions.index import Index
from attnc.expressions.tree import Expr
from attnc.schedule import Schedule
from attnc.schedule.statements import Let
from attnc.schedule.streams import StreamKernel

INFINITY = 'float("inf")'
INITIAL = {"sum": "0.0", "prod": "1.0", "max": f"-{INFINITY}", "min": INFINITY}


@dataclass
class Stream:
    """What the parts of a stream kernel share while they are printed.

    queries    arrays in the query dtype
    blocks     carried and stored widths -> the constexpr of the part that a program holds
    walks      the name of the number that is 0 where a tile's rows are all idle
    """

    kernel: StreamKernel
    schedule: Schedule
    place: Place
    queries: frozenset[str]
    scope: Scope = field(init=False)
    blocks: dict[Index, str] = field(default_factory=dict)
    walks: str = ""

    def __post_init__(self) -> None:
        self.scope = self.place.scope

    @property
    def arguments(self) -> Arguments:
        return self.scope.arguments

    @property
    def rescaling(self) -> bool:
        """Whether there is a running reference."""
        return any(loop.exponent is not None for loop in self.kernel.loops)

    def let(self, statement: Let, layout: tuple[Index, ...], lines: list[str]) -> None:
        """`name = expr` at the shape of what it depends on."""
        over = self.over(statement.expr, layout)
        printer = Printer(self.scope, over, lines, statement.name)
        text = printer.text(statement.expr)
        if statement.expr.op == "number":
            kind = "ACC" if statement.expr.kind == "real" else "INDEX"
            text = f"tl.full([], {text}, {kind})"
        name = printer.bind(statement.name, text)
        self.scope = self.scope.extended(values={statement.name: Leaf(name, over)})

    def over(self, expr: Expr, layout: tuple[Index, ...]) -> tuple[Index, ...]:
        """The tile axes that an expression varies along."""
        return Printer(self.scope, layout, []).over(expr)

    def values(self) -> list[str]:
        """Values of a head and of a row."""
        lines: list[str] = []
        for statement in (*self.kernel.grid_values, *self.kernel.held_values):
            self.let(statement, (self.kernel.held,), lines)
        return lines

    def awake(self) -> list[str]:
        """1 where a row of the tile is not idle, 0 where there is nothing to walk for."""
        if self.kernel.idle is None:
            return []
        lines: list[str] = []
        held = (self.kernel.held,)
        idle = Printer(self.scope, held, lines, "idle").text(self.kernel.idle)
        inside = self.scope.inside[self.kernel.held].text
        self.walks = self.scope.names.fresh("awake")
        return [*lines, f"{self.walks} = tl.max(({inside} & ({idle} == 0)).to(tl.int32), 0)"]

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
        if index in self.blocks and index in self.scope.rows:
            return block
        width = self.arguments.width(index.axis.name)
        names = self.scope.names
        lane, inside = names.fresh(index.name), names.fresh(f"{index.name}_in")
        lines.append(f"{lane} = block * {block} + tl.arange(0, {block})")
        check = f"{width} % {block} != 0 or BLOCKS * {block} > {width}"
        lines.append(f"{inside} = gpu_below({lane}, {width}, {check}, {block})")
        self.blocks[index] = self.arguments.blocks[index] = block
        leaf = Leaf(lane, (index,))
        self.scope = self.scope.extended(
            positions={index: leaf}, rows={index: leaf}, inside={index: Leaf(inside, (index,))}
        )
        return block


def indented(lines: list[str]) -> list[str]:
    """Lines one level deeper."""
    return [f"    {line}" for text in lines for line in text.split("\n")]
