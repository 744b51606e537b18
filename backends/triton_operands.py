"""Prints the tiles that a walk loads for its matrix products: pointers, or tensor descriptors.

A tile that several products or sums of one step use is loaded once where the parts of its width
agree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from attnc.backends.triton_frame import Stream, indented
from attnc.backends.triton_printer import Printer
from attnc.backends.triton_scope import Leaf, Scope
from attnc.backends.triton_shown import summed_operands

from attnc.expressions.index import Index
from attnc.expressions.tree import Expr
from attnc.schedule.streams import WalkedLoop

Key = tuple[str, tuple[bytes | int, ...]]


@dataclass
class Operands:
    """The walked operands of one walk.

    rounds     lines before the steps: descriptors
    count      text: how many rows of the walked axis are valid
    shown      of these rows those that a held one may see, where the mask tests them one by one
    loaded     what a product of this step has loaded: its name, by what it is
    """

    stream: Stream
    loop: WalkedLoop
    count: str
    rounds: list[str]
    shown: Leaf | None
    loaded: dict[Key, str] = field(default_factory=dict)
    descriptors: dict[tuple[Key, str], str | None] = field(default_factory=dict)

    @property
    def walked(self) -> Index:
        return self.loop.walked

    @cached_property
    def summed(self) -> frozenset[Key]:
        """The operands that are summed along the walked axis."""
        found = summed_operands(self.stream.kernel, self.loop)
        return frozenset(self.key(read, width) for read, width in found)

    def key(self, read: Expr, wide: Index) -> Key:
        """What a read loads, whatever its width index is called."""
        return read.array.name, tuple(
            place if arg.op == "index" and arg.attr == wide else arg.digest
            for place, arg in enumerate(read.args)
        )

    def plain(self, read: Expr, scope: Scope, tall: Index, wide: Index, lines: list[str]) -> str:
        """A loaded operand of a matrix product, in the query dtype."""
        text = Printer(scope, (tall, wide), lines, read.array.name).load(read)
        return text if read.array.name in self.stream.queries else f"{text}.to(QUERY)"

    def product_tile(
        self, read: Expr, scope: Scope, wide: Index, size: str, lines: list[str]
    ) -> str:
        """The tile (walked, part of the width) of a product: its name, printed into `lines`, the
        body of the loop over parts."""
        name = scope.names.fresh(f"{read.array.name}_tile")
        lines += self.walked_tile(name, read, scope, wide, size, f"part * {size}")
        self.loaded[self.key(read, wide)] = name
        return name

    def carried_tile(self, read: Expr, wide: Index, lines: list[str]) -> str:
        """The tile (walked, block of the width) that a carried sum takes: its name. A product's own
        tile where that has all of the width."""
        scope, block = self.stream.scope, self.stream.blocks[wide]
        name = scope.names.fresh(f"{read.array.name}_tile")
        loads = self.walked_tile(name, read, scope, wide, block, f"(block * {block}).to(tl.int32)")
        known = self.loaded.get(self.key(read, wide))
        if known is None:
            lines += loads
            return name
        chunk = self.stream.arguments.add(
            f"CHUNK_{wide.axis.name.upper()}", "constexpr", "chunk", wide.axis.name
        )
        lines += [
            f"if {chunk} == {block} and BLOCKS == 1:",
            f"    {name} = {known}",
            "else:",
            *indented(loads),
        ]
        return name

    def walked_tile(
        self, name: str, read: Expr, scope: Scope, wide: Index, size: str, column: str
    ) -> list[str]:
        """`name = ` a tile of (walked, width): through its descriptor where there is one that has
        no rows which it must leave out."""
        lines: list[str] = []
        tiles = self.descriptor(read, wide, size)
        whole = ""
        if self.shown is not None and self.key(read, wide) in self.summed:
            scope = scope.extended(inside={self.walked: self.shown})
            whole = " and not EDGE"
        plain = f"{name} = {self.plain(read, scope, self.walked, wide, lines)}"
        if tiles is None:
            return [*lines, plain]
        cast = "" if read.array.name in self.stream.queries else ".to(QUERY)"
        at = f"[(tile * BLOCK_WALKED).to(tl.int32), {column}]"
        through = f"    {name} = {tiles}.load({at}){cast}"
        return [
            f"if USE_DESCRIPTORS{whole}:", through, "else:", *indented([*lines, plain]),
        ]  # fmt: skip

    def descriptor(self, read: Expr, wide: Index, size: str) -> str | None:
        """The tensor descriptor of a walked operand, printed before the steps. None where the rows
        of the operand do not lie in one plane for the program."""
        key = (self.key(read, wide), size)
        if key not in self.descriptors:
            self.descriptors[key] = self.new_descriptor(read, wide, size)
        return self.descriptors[key]

    def new_descriptor(self, read: Expr, wide: Index, size: str) -> str | None:
        at = {arg.attr: place for place, arg in enumerate(read.args) if arg.op == "index"}
        if self.walked not in at or wide not in at or at[wide] != len(read.args) - 1:
            return None
        stream, array = self.stream, read.array
        arguments, lines = stream.arguments, self.rounds
        printer = Printer(stream.scope, (stream.kernel.held,), lines, array.name)
        fixed = []
        for place, at_place in enumerate(read.args):
            if at_place.attr in (self.walked, wide):
                continue
            if printer.over(at_place):
                return None
            text, _, _ = printer.row(array.indices[place].axis, at_place)
            fixed.append(f"{text} * {arguments.stride(array, place)}")
        arguments.option("USE_DESCRIPTORS")
        name = stream.scope.names.fresh(f"{array.name}_tiles")
        strides = f"[{arguments.stride(array, at[self.walked])}, 1]"
        shape = f"[tl.maximum({self.count}, 1).to(tl.int32), {arguments.width(wide.axis.name)}]"
        base = " + ".join([arguments.pointer(array), *fixed])
        lines += [
            "if USE_DESCRIPTORS:",
            f"    {name} = tl.make_tensor_descriptor(",
            f"        {base},",
            f"        shape={shape},",
            f"        strides={strides},",
            f"        block_shape=[BLOCK_WALKED, {size}],",
            "    )",
        ]
        return name
