"""Inputs that a call may lack, so that one set of kernels serves calls with them and without.

    with_absent(schedule, names)    the schedule where these may be absent, None where it cannot be

What adds such an input to something becomes a choice between the sum and that something; what
begins as one begins as 0. The choice is made when a kernel is compiled, so a call without the
input costs nothing for it, and its numbers are those of a schedule that knows no such input.

    with_absent(schedule, names, factors=True)    the same where it is multiplied first

does      rewrites sums (`given` nodes), marks the signature's inputs
needs     a verified Schedule; what knows no `given` node comes before
does not  hold where an input is used otherwise (in a product of tiles, a function): None
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from attnc.expressions.tree import Array, Expr, call, number, postorder, rewrite
from attnc.schedule import Schedule
from attnc.schedule.scans import ReverseScanKernel


def with_absent(
    schedule: Schedule, names: Collection[str], factors: bool = False
) -> Schedule | None:
    """The schedule whose inputs of these names may be absent; None where one is used otherwise than
    in a sum or as the beginning of what is carried. `factors`: it may be added with a factor."""
    choices = Choices(frozenset(names), factors)
    kernels = []
    for kernel in schedule.kernels:
        if isinstance(kernel, ReverseScanKernel):
            kernel = replace(kernel, initial=tuple(map(choices.begun, kernel.initial)))
        kernels.append(_with_exprs(kernel, choices.made))
    if not all(choices.cover(expr) for kernel in kernels for expr in _exprs(kernel)):
        return None
    signature = schedule.signature
    inputs = tuple(
        replace(one, optional=True, absent=True) if one.name in names else one
        for one in signature.inputs
    )
    return replace(schedule, kernels=tuple(kernels), signature=replace(signature, inputs=inputs))


@dataclass(frozen=True, slots=True)
class Choices:
    """Expressions as choices by whether inputs are there."""

    names: frozenset[str]
    factors: bool

    def lacks(self, node: Expr) -> Array | None:
        """The input without which an expression is nothing: it, or where factors are allowed a
        product or quotient of it."""
        while self.factors and node.op in ("mul", "div", "neg"):
            sides = node.args if node.op == "mul" else node.args[:1]
            node = next((one for one in sides if self.lacks(one)), number(1.0))
        return node.array if node.op == "read" and node.array.name in self.names else None

    def begun(self, expr: Expr) -> Expr:
        """A first value."""
        array = self.lacks(expr)
        return expr if array is None else Expr("given", (expr, number(0.0)), array, expr.kind)

    def made(self, expr: Expr) -> Expr:
        return rewrite(expr, self._chosen)

    def _chosen(self, node: Expr) -> Expr:
        """A sum of which one side may be absent as a choice."""
        if node.op not in ("add", "sub"):
            return node
        left, right = node.args
        array = self.lacks(left)
        if array is not None:
            other = right if node.op == "add" else call("neg", right)
            return Expr("given", (node, other), array, node.kind)
        array = self.lacks(right)
        return node if array is None else Expr("given", (node, left), array, node.kind)

    def cover(self, expr: Expr) -> bool:
        """Whether every read of an input that may be absent stands in its choice."""
        return not any(
            node.op == "read" and node.array.name in self.names
            for node in postorder(expr, operands=self._uncovered)
        )

    def _uncovered(self, node: Expr) -> tuple[Expr, ...]:
        if node.op != "given":
            return node.args
        first, other = node.args
        sides = first.args if first.op in ("add", "sub") else (first,)
        return (*(one for one in sides if self.lacks(one) is not node.array), other)


def _exprs(value: Any) -> list[Expr]:
    """The expressions of a kernel."""
    found: list[Expr] = []

    def keep(expr: Expr) -> Expr:
        found.append(expr)
        return expr

    _with_exprs(value, keep)
    return found


def _with_exprs(value: Any, change: Callable[[Expr], Expr]) -> Any:
    """A kernel with every expression in it changed, in statements, loops and other forms alike."""
    if isinstance(value, Expr):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_with_exprs(one, change) for one in value)
    if not is_dataclass(value) or not type(value).__module__.startswith(SCHEDULES):
        return value
    assert not isinstance(value, type)
    made = {one.name: getattr(value, one.name) for one in fields(value)}
    new = {name: _with_exprs(part, change) for name, part in made.items()}
    return replace(value, **{name: part for name, part in new.items() if part is not made[name]})


SCHEDULES = "attnc.schedule"
