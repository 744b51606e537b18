"""Which widths of a reversed scan programs share, and what each then has of a gradient.

A gradient is linear in the cotangents. A program that holds some entries of a width starts from
those cotangents alone, and what it folds along the width is its share of a sum: shares are added
once all programs have ended, which needs no atomics. A width splits where shares go to results
only: nothing of the states' own is folded along it, and no cotangent along it is made of a share.

does      classifies every value by a width: of states alone, a cotangent as it is, or a share
needs     the statements of a reversed scan, the names of its cotangents
does not  choose how many programs there are
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from attnc.backends.scan_order import write_parts
from attnc.backends.triton_tensors import STATES

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr, postorder
from attnc.schedule.scans import ReverseScanKernel, RowWrite
from attnc.schedule.statements import Let

Part = Literal["plain", "whole", "share"]


class Together(Exception):
    """The entries of a width meet."""


def shared_axes(kernel: ReverseScanKernel, axes: Iterable[Axis]) -> dict[Axis, frozenset[str]]:
    """The widths that programs may share, with the arrays of which each program has a share."""
    arrays = (*kernel.replay.states, *kernel.carried)
    once = {axis for array in arrays for axis in array.axes if array.axes.count(axis) == 1}
    found = {}
    for axis in axes:
        if axis not in once:
            continue
        try:
            found[axis] = _Along(kernel, axis).shares()
        except Together:
            continue
    return found


@dataclass
class _Along:
    """The values of a kernel along one width.

    values   what each let is; `arrays`: what each carried array is, as far as is known
    """

    kernel: ReverseScanKernel
    axis: Axis
    values: dict[str, Part] = field(default_factory=dict)
    arrays: dict[str, Part] = field(default_factory=dict)

    def shares(self) -> frozenset[str]:
        """The arrays that are written in shares. Raises Together."""
        kernel = self.kernel
        self.arrays = dict.fromkeys((a.name for a in kernel.carried), "plain")
        for let in (*kernel.grid_values, *kernel.replay.inside, *kernel.inside):
            if isinstance(let, Let):
                self._let(let)
        for expr in kernel.replay.advance:
            self._own(self._part(expr))
        self._settle(kernel.initial)
        while True:
            before = dict(self.arrays)
            self._settle(kernel.absorbed)
            for let in kernel.given:
                self._let(let)
            self._settle(kernel.advance)
            for let in kernel.last:
                self._let(let)
            self._settle(kernel.ending)
            if self.arrays == before:
                break
        found = {write.array.name for write in kernel.writes if self._write(write)}
        found |= {write.array.name for write in kernel.ended if self._write(write)}
        for final in kernel.finals:
            if self.arrays[final.state.name] == "share":
                found.add(final.array.name)
            elif self._spread(final.state.indices) and not self._placed(final.at):
                raise Together
        return frozenset(found)

    def _spread(self, indices: Iterable[Index]) -> bool:
        return any(index.axis is self.axis for index in indices)

    def _placed(self, at: Iterable[Expr]) -> bool:
        """Whether an entry of the width has an entry of the result to itself."""
        return any(one.op == "index" and self._spread(one.free) for one in at)

    def _own(self, part: Part) -> None:
        if part != "plain":
            raise Together

    def _let(self, let: Let) -> None:
        self.values[let.name] = self._part(let.expr)

    def _settle(self, exprs: Iterable[Expr]) -> None:
        """What is carried, after these expressions."""
        for array, expr in zip(self.kernel.carried, exprs, strict=True):
            self.arrays[array.name] = self._added(self.arrays[array.name], self._part(expr))
            if self.arrays[array.name] == "share" and self._spread(array.indices):
                raise Together

    def _write(self, write: RowWrite) -> bool:
        """Whether a row of a gradient is a share."""
        for at in write_parts(write)[1:]:
            self._own(self._part(at))
        part = self._part(write.term)
        if part == "share":
            return True
        spread = self._spread(write.over)
        if spread != self._placed(write.at) or (write.adds and not spread):
            raise Together
        return False

    # --- Expressions ------------------------------------------------------------------------------

    def _part(self, root: Expr) -> Part:
        done: dict[bytes, Part] = {}
        for node in postorder(root):
            part = self._node(node, [done[arg.digest] for arg in node.args])
            along = sum(index.axis is self.axis for index in node.free)
            if along > 1 or (part == "share" and along):
                raise Together
            done[node.digest] = part
        return done[root.digest]

    def _node(self, node: Expr, args: list[Part]) -> Part:
        if node.op == "value":
            return self.values[str(node.attr)]
        if node.op == "read":
            return self._read(node, args)
        if node.op == "fold":
            return self._fold(node, args)
        if node.op in ("add", "sub"):
            return self._added(*args)
        if node.op == "where":
            self._own(args[0])
            return self._added(*args[1:])
        given = [part for part in args if part != "plain"]
        if len(given) > 1:
            raise Together
        return given[0] if given else "plain"

    def _read(self, node: Expr, args: list[Part]) -> Part:
        for part in args:
            self._own(part)
        array = node.array
        if array.role in STATES:
            pairs = zip(array.indices, node.args, strict=True)
            if any(self._spread((i,)) and not self._same(i, at) for i, at in pairs):
                raise Together
            return self.arrays.get(array.name, "plain")
        return "whole" if array.name in self.kernel.cotangents else "plain"

    def _same(self, index: Index, at: Expr) -> bool:
        """Whether an index of a state is read at an index of its width: a lane at its own place."""
        return at.op == "index" and isinstance(at.attr, Index) and at.attr.axis is index.axis

    def _fold(self, node: Expr, args: list[Part]) -> Part:
        condition, part = args[:2]
        self._own(condition)
        if not self._spread(node.bound):
            return part
        if part != "whole" or node.monoid != "sum":
            raise Together
        return "share"

    def _added(self, left: Part, right: Part) -> Part:
        """The class of a sum: of what is no cotangent only zeros are added to one."""
        if left == right or right == "plain":
            return left
        if left == "plain":
            return right
        raise Together


def parts_text(parts: Iterable[tuple[str, str]]) -> str:
    """The number of a program's share, of (part, how many) of each width."""
    text = ""
    for part, count in parts:
        text = f"({text} * {count} + {part})" if text else part
    return text


__all__ = ["parts_text", "shared_axes"]
