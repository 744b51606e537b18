"""Which walked rows a mask hides from every held one: what it asks of the walked row alone.

Memory there may hold anything: where a product sums the walked axis, NaN times a weight of 0 is
NaN, so such rows are not loaded. An end (`j < length[b]`) lowers the count of rows that are valid,
before the steps. Other tests (`valid[b, j]`) are part of what edge tiles of such operands are
loaded by. Whole tiles have no hidden rows.

Does not know rows that some held rows see.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial, reduce

from attnc.backends.triton_frame import Stream, indented
from attnc.backends.triton_printer import Printer
from attnc.backends.triton_scope import Leaf

from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, call, postorder
from attnc.graph import conjuncts
from attnc.passes.prune import without_unused
from attnc.schedule.statements import is_pairwise
from attnc.schedule.streams import StreamKernel, WalkedLoop


@dataclass(frozen=True)
class End:
    """Walked rows are hidden from position `at` on; `last`: from the next one on."""

    at: Expr
    last: bool


@dataclass(frozen=True)
class Shown:
    """A loop's mask in parts.

    loop    the loop without what `ends` say
    ends    the same for all held rows
    tests   its other conditions of the walked row alone
    """

    loop: WalkedLoop
    ends: tuple[End, ...]
    tests: tuple[Expr, ...]

    def print_count(self, stream: Stream, count: str, start: str, lines: list[str]) -> str:
        """How many of `count` rows lie before every end."""
        printer = Printer(stream.scope, (), lines, "end")
        for end in self.ends:
            at = printer.text(end.at)
            count = printer.bind(
                f"shown_{self.loop.walked.name}",
                f"gpu_rows_before({at}, {start}, {count}, {end.last})",
            )
        return count

    def print_tests(self, stream: Stream, lines: list[str]) -> Leaf | None:
        """Which rows of the tile stand the tests; None where nothing is tested."""
        if not self.tests:
            return None
        walked, body = self.loop.walked, list[str]()
        inside = stream.scope.inside[walked]
        printer = Printer(stream.scope, (walked,), body, "shown")
        text = " & ".join([inside.text, *map(printer.text, self.tests)])
        name = stream.scope.names.fresh(f"{walked.name}_shown")
        lines += ["if EDGE:", *indented([*body, f"{name} = {text}"])]
        lines += ["else:", f"    {name} = {inside.text}"]
        return Leaf(name, inside.over)


def summed_operands(kernel: StreamKernel, loop: WalkedLoop) -> list[tuple[Expr, Index]]:
    """The operands of products that sum the walked axis, each with its width: there a row counts,
    whatever its weight."""
    widths = {each.name: each.width for each in kernel.carried}
    summed = [(one.operand, widths[one.carried]) for one in loop.contributions]
    summed += [(one.operand, one.width) for one in loop.scatters]
    return [
        (operand, width)
        for operand, width in summed
        if operand is not None and width is not None and loop.walked in operand.free
        if not is_pairwise(operand, loop.walked, kernel.held)
    ]


def shown_rows(stream: Stream, loop: WalkedLoop) -> Shown:
    """The parts of a loop's mask, by the axes of its tiles: what depends on a head that lies along
    the held rows is of the pair. A loop that sums no rows stays as it is."""
    if loop.visible is None or not summed_operands(stream.kernel, loop):
        return Shown(loop, (), ())
    held, over = stream.kernel.held, (stream.kernel.held, loop.walked)
    values = {let.name: let.expr for let in loop.walked_values}

    def meant(part: Expr) -> Expr:
        return values.get(str(part.attr), part) if part.op == "value" else part

    def end(part: Expr) -> End | None:
        found = _end(part, loop.walked)
        if found is None or stream.over(found.at, over):
            return None
        late = any(n.op == "value" and n.attr in values for n in postorder(found.at))
        return None if late else found

    parts: list[Expr] = []
    for part in conjuncts(loop.visible):
        inner = conjuncts(meant(part))
        parts += inner if any(map(end, inner)) else (part,)
    rest = [part for part in parts if end(part) is None]
    tests = tuple(part for part in rest if held not in stream.over(meant(part), over))
    ends = tuple(found for found in map(end, parts) if found is not None)
    if ends:
        visible = reduce(partial(call, "and"), rest) if rest else None
        loop = without_unused(replace(loop, visible=visible))
    return Shown(loop, ends, tests)


def _end(condition: Expr, walked: Index) -> End | None:
    """The end that a condition sets to the walked axis: `j < e`, `e >= j`."""
    if condition.op not in ("lt", "le", "gt", "ge"):
        return None
    below, above = condition.args if condition.op in ("lt", "le") else condition.args[::-1]
    if below.op != "index" or below.attr != walked or above.kind != "int" or walked in above.free:
        return None
    return End(above, condition.op in ("le", "ge"))
