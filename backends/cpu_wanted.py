"""Which outputs a part of a schedule serves, as conditions of C++: what no wanted output needs is
left out when the text is compiled (macros `ATTNC_WANTED_<n>`, 1 or 0).

Only schedules with sweeps have such macros. The others drop a store whose array is absent at run
time, so that one library serves every choice of emits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attnc.expressions.tree import Array
from attnc.passes.prune import arrays_written, needs
from attnc.schedule import Schedule, leaves
from attnc.schedule.maps import MapKernel
from attnc.schedule.streams import StreamKernel, WalkedLoop

Outputs = frozenset[str]  # names
NONE: Outputs = frozenset()


@dataclass
class Wanted:
    """`needed`: by kernel and by the name of what is in it, the outputs that need it; `feeds`: the
    outputs that each array serves, by name."""

    schedule: Schedule
    divided: bool
    needed: dict[str, dict[str, Outputs]] = field(default_factory=dict)
    feeds: dict[str, Outputs] = field(default_factory=dict)
    macros: dict[str, str] = field(default_factory=dict)  # macro -> output

    def __post_init__(self) -> None:
        kernels = leaves(self.schedule.kernels)
        self.divided &= all(isinstance(one, (MapKernel, StreamKernel)) for one in kernels)
        if not self.divided:
            return
        for place, output in enumerate(self.schedule.signature.outputs):
            self.macros[f"ATTNC_WANTED_{place}"] = output.name
        self.needed = needs(self.schedule)
        for kernel in kernels:
            assert isinstance(kernel, (MapKernel, StreamKernel))
            own = self.needed.get(kernel.name, {})
            for name in arrays_written(kernel):
                self.feeds[name] = self.feeds.get(name, NONE) | own.get(name, NONE)

    def array(self, array: Array) -> str:
        """Whether an output that an array serves is wanted."""
        return self._condition(self.feeds.get(array.name, NONE))

    def carried(self, kernel: StreamKernel, name: str) -> str:
        """The same of a carried value."""
        return self._condition(self._of(kernel, name))

    def kernel(self, kernel: StreamKernel) -> str:
        return self._condition(self._of(kernel, kernel.name))

    def products(self, kernel: StreamKernel, loop: WalkedLoop) -> dict[str, str]:
        """The same of each product of a loop, by name."""
        return {one.name: self._condition(self._of(kernel, one.name)) for one in loop.products}

    def guarded(self, array: Array, lines: list[str]) -> list[str]:
        """Statements that only what an array serves needs."""
        condition = self.array(array)
        if condition == "true":
            return lines
        return [f"if constexpr ({condition}) {{", *(f"    {line}" for line in lines), "}"]

    def _of(self, kernel: StreamKernel, name: str) -> Outputs:
        return self.needed.get(kernel.name, {}).get(name, NONE)

    def _condition(self, outputs: Outputs) -> str:
        if not self.divided:
            return "true"
        return " || ".join(macro for macro, name in self.macros.items() if name in outputs) or "0"
