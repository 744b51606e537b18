"""Which outputs a part of a schedule serves, as conditions of C++: what no wanted output needs is
left out when the text is compiled (macros `ATTNC_WANTED_<n>`, 1 or 0).

Only schedules with sweeps have such macros. The others drop a store whose array is absent at run
time, so that one library serves every choice of emits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from attnc.expressions.tree import Array, Expr, postorder
from attnc.passes.prune import exprs_of
from attnc.schedule import Kernel, Schedule, leaves
from attnc.schedule.maps import MapKernel
from attnc.schedule.streams import StreamKernel, WalkedLoop


@dataclass
class Wanted:
    """`feeds`: the outputs that each array serves, by name."""

    schedule: Schedule
    divided: bool
    feeds: dict[str, frozenset[str]] = field(default_factory=dict)
    macros: dict[str, str] = field(default_factory=dict)  # macro -> output

    def __post_init__(self) -> None:
        kernels = leaves(self.schedule.kernels)
        self.divided &= all(isinstance(one, (MapKernel, StreamKernel)) for one in kernels)
        if not self.divided:
            return
        for place, output in enumerate(self.schedule.signature.outputs):
            self.macros[f"ATTNC_WANTED_{place}"] = output.name
            self.feeds[output.name] = frozenset((output.name,))
        before: dict[str, frozenset[str]] = {}
        while before != self.feeds:  # rounds read what those before them have left
            before = dict(self.feeds)
            for kernel in reversed(kernels):
                self._feed(kernel)

    def _feed(self, kernel: Kernel) -> None:
        """What a kernel reads serves what it writes."""
        if isinstance(kernel, MapKernel):
            for store in kernel.stores:
                exprs = (store.expr, *(let.expr for let in kernel.values))
                self._serve(_reads(exprs), self.feeds.get(store.array.name, frozenset()))
        elif isinstance(kernel, StreamKernel):
            self._serve(_reads(exprs_of(kernel)), self._of_kernel(kernel))

    def array(self, array: Array) -> str:
        """Whether an output that an array serves is wanted."""
        return self._condition(self.feeds.get(array.name, frozenset()))

    def carried(self, kernel: StreamKernel, name: str) -> str:
        """The same of a carried value."""
        return self._condition(self._of_carried(kernel, name))

    def kernel(self, kernel: StreamKernel) -> str:
        return self._condition(self._of_kernel(kernel))

    def products(self, kernel: StreamKernel, loop: WalkedLoop) -> dict[str, str]:
        """The same of each product of a loop, by name."""
        found: dict[str, frozenset[str]] = {product.name: frozenset() for product in loop.products}
        users = [(c.term, self._of_carried(kernel, c.carried)) for c in loop.contributions]
        users += [(w.term, self.feeds.get(w.array.name, frozenset())) for w in loop.writes]
        users += [(s.at, self.feeds.get(s.array.name, frozenset())) for s in loop.scatters]
        whole = self._of_kernel(kernel)
        users += [(e, whole) for e in (loop.hidden, loop.exponent, loop.visible) if e is not None]
        lets = {let.name: let.expr for let in (*loop.pair_values, *loop.lifted)}
        for expr, serves in users:
            for name in _values_below(expr, lets) & found.keys():
                found[name] |= serves
        return {name: self._condition(serves) for name, serves in found.items()}

    def guarded(self, array: Array, lines: list[str]) -> list[str]:
        """Statements that only what an array serves needs."""
        condition = self.array(array)
        if condition == "true":
            return lines
        return [f"if constexpr ({condition}) {{", *(f"    {line}" for line in lines), "}"]

    def _serve(self, arrays: set[str], outputs: frozenset[str]) -> None:
        for name in arrays:
            self.feeds[name] = self.feeds.get(name, frozenset()) | outputs

    def _of_kernel(self, kernel: StreamKernel) -> frozenset[str]:
        arrays = [store.array for store in kernel.stores]
        for loop in kernel.loops:
            arrays += [write.array for write in loop.writes]
        return frozenset().union(*(self.feeds.get(array.name, frozenset()) for array in arrays))

    def _of_carried(self, kernel: StreamKernel, name: str) -> frozenset[str]:
        lets = {let.name: let.expr for let in kernel.finish}
        outputs: frozenset[str] = frozenset()
        for store in kernel.stores:
            if name in _values_below(store.expr, lets):
                outputs |= self.feeds.get(store.array.name, frozenset())
        return outputs

    def _condition(self, outputs: frozenset[str]) -> str:
        if not self.divided:
            return "true"
        return " || ".join(macro for macro, name in self.macros.items() if name in outputs) or "0"


def _values_below(expr: Expr, lets: dict[str, Expr]) -> set[str]:
    """The names of values that an expression uses, through statements."""
    found: set[str] = set()
    stack = [expr]
    while stack:
        for node in postorder(stack.pop()):
            if node.op == "value" and str(node.attr) not in found:
                found.add(str(node.attr))
                stack += [lets[str(node.attr)]] if str(node.attr) in lets else []
    return found


def _reads(exprs: Iterable[Expr]) -> set[str]:
    return {n.array.name for expr in exprs for n in postorder(expr) if n.op == "read"}
