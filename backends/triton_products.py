"""Prints the matrix products of a walked loop: those over one width together, in parts of it."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.backends.triton_frame import indented
from attnc.backends.triton_operands import Key, Operands
from attnc.backends.triton_pairs import PAIR, Pairs
from attnc.backends.triton_printer import Printer
from attnc.backends.triton_scope import Leaf, Scope

from attnc.schedule.statements import Product


@dataclass
class Products(Pairs):
    """Prints products into `score`; held operands are loaded before the steps: once (`held`), or
    once a round where they change in it (`rounds`)."""

    held: list[str]
    rounds: list[str]
    score: list[str]

    def print_all(self, operands: Operands) -> None:
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
