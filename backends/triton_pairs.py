"""Tiles of pairs: what printing them knows of their kernel and loop."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.backends.triton_frame import Stream
from attnc.backends.triton_printer import Printer
from attnc.backends.triton_texts import unwrapped

from attnc.expressions.index import Index
from attnc.expressions.tree import Expr
from attnc.schedule.streams import WalkedLoop

PAIR = "[BLOCK_HELD, BLOCK_WALKED]"


@dataclass
class Pairs:
    """The pairs of one loop."""

    stream: Stream
    loop: WalkedLoop

    @property
    def over(self) -> tuple[Index, Index]:
        return self.stream.kernel.held, self.loop.walked

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
