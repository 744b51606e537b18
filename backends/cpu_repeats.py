"""Outputs that repeat a workspace, where what a map sums over has one place at a call.

The gradient of a key is summed over the shares of the rows and the heads of its group. Where there
is one of either, and numbers of one type, the workspace lies where the output does, and the map has
nothing to do: neither memory nor a walk through it.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnc.backends.cpu_names import Slots

from attnc.expressions.index import Axis
from attnc.expressions.tree import TRUE, Array, Expr, length, number, position, rewrite
from attnc.passes.simplify import pin, simplify_expr
from attnc.schedule import Schedule
from attnc.schedule.maps import MapKernel


@dataclass(frozen=True)
class Repeat:
    """A map whose output is a workspace summed over `summed`; `axes`: those of the workspace, in
    the order of the output's; `flag`: says at run time that the workspace lies in the output."""

    flag: str
    kernel: str
    workspace: Array
    output: Array
    axes: tuple[int, ...]
    summed: tuple[Axis, ...]

    def placed(self, slots: Slots) -> str:
        """The statement that places the workspace and sets the flag."""
        kinds = [slots.types[one.name] for one in (self.workspace, self.output)]
        given = slots.tensor(self.output.name, "output").removeprefix("call.")
        own = slots.tensor(self.workspace.name).removeprefix("call.")
        sizes = ", ".join(map(slots.length, self.workspace.axes))
        axes = ", ".join(map(str, self.axes))
        alone = " && ".join(f"{slots.length(axis)} == 1" for axis in self.summed)
        return (
            f"{self.flag} = place_in<{', '.join(kinds)}>"
            f"(arena, {own}, {{{sizes}}}, {given}, {{{axes}}}, {alone});"
        )


def repeats(schedule: Schedule) -> tuple[Repeat, ...]:
    """The maps of a schedule that repeat a workspace, the first one of each: it lies in one output,
    where the maps of others read it."""
    workspaces = {one.array.name for one in schedule.workspaces}
    found: dict[str, Repeat] = {}
    for kernel in schedule.kernels:
        one = _repeat(kernel, f"repeated[{len(found)}]") if isinstance(kernel, MapKernel) else None
        if one is not None and one.workspace.name in workspaces:
            found.setdefault(one.workspace.name, one)
    return tuple(found.values())


def _repeat(kernel: MapKernel, flag: str) -> Repeat | None:
    if len(kernel.stores) != 1 or kernel.stores[0].expr.op != "fold":
        return None
    (store,) = kernel.stores
    fold = store.expr
    condition, body = fold.args
    if fold.monoid != "sum" or condition != TRUE or body.op != "read":
        return None
    lets = {let.name: let.expr for let in kernel.values}

    def inlined(node: Expr) -> Expr:
        return lets.get(str(node.attr), node) if node.op == "value" else node

    ones: dict[Expr, Expr] = {}
    for index in fold.bound:
        ones[position(index)] = number(0)
        many = simplify_expr(length(index.axis))
        if many.op != "number":
            ones[many] = number(1)
    at = [pin(simplify_expr(rewrite(arg, inlined)), ones) for arg in body.args]
    wanted = [position(index) for index in store.array.indices]
    rest = [one for one in at if one != number(0)]
    if store.array.role != "output" or sorted(map(str, rest)) != sorted(map(str, wanted)):
        return None
    axes = tuple(at.index(one) for one in wanted)
    summed = tuple(index.axis for index in fold.bound)
    return Repeat(flag, kernel.name, body.array, store.array, axes, summed)
