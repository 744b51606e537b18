"""Reads that data decides: the call finds those outside their axis, as the oracle does.

A kernel never leaves its tensors: it reads the nearest entry. So a position that a tensor holds
(`table[kind[j]]`), or that an offset moves, is tested before: first by the least and largest
entries of the tensors, in microseconds; where these leave a doubt, point by point, and then only
visible points count. On a device other than the CPU that would wait for the device, and is left
out unless the environment variable ATTNC_CHECK_READS is set.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch

from attnc.runtime.failures import ValueRangeError
from attnc.runtime.slots import SHIFTS

POINTS = 1 << 21  # tested at once
Interval = tuple[Any, Any]
NOTHING: Interval = (None, None)


@dataclass(frozen=True)
class ReadCheck:
    """`condition` must hold wherever all of `given` do, for all `indices`.

    text, said   the read as written, the condition as text
    indices      (name, axis, first position)
    Formulas are nested tuples, operation first: ("lt", ("read", "kind", ("index", "j")), 4). A
    first position is ("offset",) or ("key_offset",) where the call moves it."""

    text: str
    said: str
    indices: tuple[tuple[str, str, Any], ...]
    condition: Any
    given: tuple[Any, ...] = ()


def check_reads(call: Any) -> None:
    """Raises ValueRangeError where a read of a checked call is outside its axis.

    call: a `Call`; symbolic and fake ones pass, their kernels test when they run."""
    if not call.signature.reads or _is_traced(call):
        return
    for check in call.signature.reads:
        _check(call, check)


def with_reads_checked(call: Any, run: Callable[..., Any]) -> Callable[..., Any]:
    """`run` of a checked call, which is called again with other tensors: they are tested first."""
    moves = [getattr(call, name) for name in SHIFTS]
    moved = any(isinstance(one, torch.Tensor) for one in moves)
    checks = [
        check
        for check in call.signature.reads
        if moved or _reads(check, condition=True) or (_reads(check) and not _proved(call, check))
    ]
    if not checks:
        return run
    names = [slot.name for slot in call.signature.inputs]
    read = {node[1] for check in checks for node in _nodes(check.condition) if node[0] == "read"}
    places = [names.index(name) for name in read if name in names]
    plain = len(places) == len(read) and all(_proved(call, check) for check in checks)
    entries = (*(call.tensors[names[place]] for place in places), *moves)
    proved = [_extent(one) for one in entries] if plain and call.device.type == "cpu" else None

    def checked(inputs: list[Any]) -> Any:
        # Behind the inputs stand first positions and a length, where these are tensors.
        shifts = [
            old if new is None else new for old, new in zip_longest(moves, inputs[len(names) :])
        ]
        # What was proved of some extents holds of the same ones: a form of call has one set of
        # lengths, numbers and offsets.
        if proved == [_extent(one) for one in (*(inputs[place] for place in places), *shifts)]:
            return run(inputs)
        given = {name: x for name, x in zip(names, inputs, strict=False) if x is not None}
        now = _Again(call, {**call.tensors, **given}, shifts)
        for check in checks:
            _check(now, check)
        return run(inputs)

    return checked


class _Again:
    """A call with other tensors and shifts of the same form."""

    def __init__(self, call: Any, tensors: dict[str, Any], shifts: list[Any]) -> None:
        self.signature, self.known, self.device = call.signature, call.known, call.device
        batch = call.known.get("len_b", 1)
        self.offset, self.key_offset, self.key_length = (
            one.expand(batch) if isinstance(one, torch.Tensor) else one for one in shifts
        )
        self.tensors = tensors


def _check(call: Any, check: ReadCheck) -> None:
    if _waits(call, check) and not os.environ.get("ATTNC_CHECK_READS"):
        return
    if _proved(call, check):
        return
    place = _Grid(call, check, check.condition).failure(())
    if place is not None and check.given:
        place = _Grid(call, check).failure(check.given)
    if place is None:
        return
    written = ((name.partition("'")[0], position) for name, position in place)
    at = ", ".join(f"{name} = {position}" for name, position in written) or "every point"
    expected = f"{check.said} wherever {check.text} is read"
    argument = _to_blame(call, check)
    raise ValueRangeError(call.signature.name, argument, expected, f"a read outside at {at}")


def _to_blame(call: Any, check: ReadCheck) -> str:
    """The argument that decides: a tensor of positions, what moves an index, the tensor that is
    read, one that has the length of an index."""
    nodes = _nodes(check.condition)
    deciding = [node[1] for node in nodes if node[0] == "read"]
    held = {node[1] for node in nodes if node[0] == "index"}
    indices = [(axis, first) for name, axis, first in check.indices if name in held]
    shifts = [first[0] for _, first in indices if first]
    shifts += [node[0] for node in nodes if node[0] in ("offset", "key_offset")]
    moved = [shift for shift in shifts if _moves(getattr(call, shift))]
    array = check.text.partition("[")[0]
    read = [array] if array in call.tensors else []
    axes = {axis for axis, _ in indices}
    sized = [slot.name for slot in call.signature.inputs if axes & set(slot.axes)]
    return next(iter((*deciding, *moved, *read, *sized)), "offset")


def _moves(shift: Any) -> bool:
    return bool((torch.as_tensor(shift) != 0).any())


# --- What a check looks at ----------------------------------------------------------------------


def _nodes(formula: Any) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    stack = [formula]
    while stack:
        node = stack.pop()
        if isinstance(node, tuple):
            found.append(node)
            stack += [part for part in node[1:] if isinstance(part, tuple)]
    return found


def _reads(check: ReadCheck, condition: bool = False) -> bool:
    """Whether tensors decide: the condition, or what is given too."""
    parts = (check.condition,) if condition else (check.condition, *check.given)
    return any(node[0] == "read" for part in parts for node in _nodes(part))


def _is_traced(call: Any) -> bool:
    values = (*call.known.values(), call.offset, call.key_offset, call.key_length)
    symbolic = (torch.SymInt, torch.SymFloat, torch.SymBool)
    tensors = (*call.tensors.values(), *values)
    return (
        torch.compiler.is_compiling()
        or call.device.type == "meta"
        or any(isinstance(value, symbolic) for value in values)
        or any(
            isinstance(value, torch.Tensor)
            and (
                type(value) not in (torch.Tensor, torch.nn.Parameter)
                or torch._C._functorch.is_functorch_wrapped_tensor(value)
            )
            for value in tensors
        )
    )


def _waits(call: Any, check: ReadCheck) -> bool:
    """Whether the answer lies on another device."""
    if call.device.type == "cpu":
        return False
    shifts = (call.offset, call.key_offset, call.key_length)
    return _reads(check) or any(isinstance(shift, torch.Tensor) for shift in shifts)


# --- By least and largest entries ---------------------------------------------------------------


def _proved(call: Any, check: ReadCheck) -> bool:
    """Whether the condition holds at all points by the ranges of what stands in it."""
    ranges: dict[str, Interval] = {}
    for name, axis, first in check.indices:
        low, high = _bounds(call, first, ranges)
        count = call.known[f"len_{axis}"]
        if count == 0:
            return True
        ranges[name] = NOTHING if low is None else (low, high + count - 1)
    return bool(_bounds(call, check.condition, ranges)[0])


def _bounds(call: Any, formula: Any, ranges: dict[str, Interval]) -> Interval:
    """The least and the largest value; (None, None) where they are not known."""
    if not isinstance(formula, tuple):
        return formula, formula
    op = formula[0]
    if op == "known":
        return call.known[formula[1]], call.known[formula[1]]
    if op == "index":
        return ranges[formula[1]]
    if op in ("offset", "key_offset"):
        return _extent(getattr(call, op))
    if op == "read":
        return _extent(call.tensors[formula[1]])
    rule = BOUNDS.get(op)
    parts = [_bounds(call, part, ranges) for part in formula[1:]] if rule else []
    if rule is None or any(low is None or high is None for low, high in parts):
        return NOTHING
    found: Interval = rule(*parts)
    return found


def _extent(value: Any) -> Interval:
    if not isinstance(value, torch.Tensor):
        return value, value
    if value.numel() == 0 or value.is_floating_point() or value.is_complex():
        return NOTHING
    if value.dtype is torch.bool:
        return False, True
    low, high = torch.aminmax(value)
    return int(low), int(high)


def _corners(x: Interval, y: Interval, rule: Callable[[Any, Any], Any]) -> Interval:
    values = [rule(a, b) for a in x for b in y]
    return min(values), max(values)


def _quotient(x: Interval, y: Interval) -> Interval:
    return _corners(x, y, lambda a, b: a // b) if y[0] > 0 else NOTHING


def _rest(x: Interval, y: Interval) -> Interval:
    if y[0] <= 0:
        return NOTHING
    return x if x[0] >= 0 and x[1] < y[0] else (0, y[1] - 1)


def _size(x: Interval) -> Interval:
    return max(0, x[0], -x[1]), max(x[1], -x[0])


BOUNDS: dict[str, Callable[..., Interval]] = {
    "add": lambda x, y: (x[0] + y[0], x[1] + y[1]),
    "sub": lambda x, y: (x[0] - y[1], x[1] - y[0]),
    "mul": lambda x, y: _corners(x, y, lambda a, b: a * b),
    "neg": lambda x: (-x[1], -x[0]),
    "abs": _size,
    "floordiv": _quotient,
    "mod": _rest,
    "min": lambda *parts: (min(x[0] for x in parts), min(x[1] for x in parts)),
    "max": lambda *parts: (max(x[0] for x in parts), max(x[1] for x in parts)),
    "lt": lambda x, y: (x[1] < y[0], x[0] < y[1]),
    "le": lambda x, y: (x[1] <= y[0], x[0] <= y[1]),
    "gt": lambda x, y: (x[0] > y[1], x[1] > y[0]),
    "ge": lambda x, y: (x[0] >= y[1], x[1] >= y[0]),
    "and": lambda *parts: (all(x[0] for x in parts), all(x[1] for x in parts)),
    "or": lambda *parts: (any(x[0] for x in parts), any(x[1] for x in parts)),
    "not": lambda x: (not x[1], not x[0]),
    "where": lambda c, x, y: (min(x[0], y[0]), max(x[1], y[1])),
}


# --- Point by point -----------------------------------------------------------------------------


class _Grid:
    """The points of a check: of all its indices, or of those in one formula."""

    def __init__(self, call: Any, check: ReadCheck, formula: Any = None) -> None:
        self.call, self.check = call, check
        used = {node[1] for node in _nodes(formula) if node[0] == "index"}
        indices = [one for one in check.indices if formula is None or one[0] in used]
        shifts = (call.offset, call.key_offset, call.key_length)
        moved = any(isinstance(shift, torch.Tensor) for shift in shifts)
        self.indices = [one for one in indices if one[0] != "b"]
        if moved or len(self.indices) < len(indices):
            self.indices.insert(0, ("b", "b", 0))
        self.lengths = [call.known.get(f"len_{axis}", 1) for _, axis, _ in self.indices]

    def failure(self, given: tuple[Any, ...]) -> list[tuple[str, int]] | None:
        """The first point where all of `given` hold and the condition fails."""
        points = math.prod(self.lengths)
        if points == 0:
            return None
        if not self.indices:
            return None if bool(self._value(self.check.condition, {})) else []
        longest = max(range(len(self.lengths)), key=lambda place: self.lengths[place])
        step = max(POINTS * self.lengths[longest] // points, 1)
        for begin in range(0, self.lengths[longest], step):
            rows = self._rows(longest, begin, min(begin + step, self.lengths[longest]))
            at = {
                name: row + self._value(first, rows)
                for (name, _, first), row in zip(self.indices, rows.values(), strict=True)
            }
            fails = ~self._value(self.check.condition, at, rows) & self._is_key(rows)
            for part in given:
                fails = fails & self._value(part, at, rows)
            if not bool(fails.any()):
                continue
            shape = [
                max(sizes) for sizes in zip(*(row.shape for row in rows.values()), strict=True)
            ]
            first_point = fails.expand(shape).nonzero()[0].tolist()
            full = [position.expand(shape) for position in at.values()]
            found = [int(position[tuple(first_point)]) for position in full]
            return list(zip(at, found, strict=True))
        return None

    def _rows(self, cut: int, begin: int, end: int) -> dict[str, torch.Tensor]:
        """Rows of each index, each along a dimension of its own."""
        rows: dict[str, torch.Tensor] = {}
        for place, ((name, _, _), count) in enumerate(zip(self.indices, self.lengths, strict=True)):
            line = torch.arange(begin, end) if place == cut else torch.arange(count)
            shape = [1] * len(self.indices)
            shape[place] = line.numel()
            rows[name] = line.view(shape).to(self.call.device)
        return rows

    def _is_key(self, rows: dict[str, torch.Tensor]) -> torch.Tensor:
        """False at keys from `key_length` on."""
        inside = torch.ones((), dtype=torch.bool, device=self.call.device)
        if self.call.key_length is None:
            return inside
        for name, axis, first in self.indices:
            if axis == self.call.signature.keys and first == ("key_offset",):
                inside = inside & (rows[name] < self._shift(self.call.key_length, rows))
        return inside

    def _shift(self, value: Any, rows: dict[str, torch.Tensor]) -> torch.Tensor:
        """An int, or one per batch along the dimension of the batch."""
        if not isinstance(value, torch.Tensor):
            return torch.tensor(value, device=self.call.device)
        found: torch.Tensor = value[rows["b"]]
        return found

    def _value(
        self, formula: Any, at: dict[str, torch.Tensor], rows: dict[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """The value of a formula at all points; a read outside gives the nearest entry."""
        if not isinstance(formula, tuple):
            return torch.tensor(formula, device=self.call.device)
        op = formula[0]
        if op == "known":
            return torch.tensor(self.call.known[formula[1]], device=self.call.device)
        if op == "index":
            return at[formula[1]]
        if op in ("offset", "key_offset"):
            return self._shift(getattr(self.call, op), at if rows is None else rows)
        parts = [self._value(part, at, rows) for part in formula[(2 if op == "read" else 1) :]]
        if op != "read":
            return VALUES[op](*parts)
        tensor: torch.Tensor = self.call.tensors[formula[1]]
        if tensor.numel() == 0:
            return tensor.new_zeros(())
        sizes = zip(parts, tensor.shape, strict=True)
        return tensor[tuple(part.long().clamp(0, size - 1) for part, size in sizes)]


def _chained(rule: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def all_of(first: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        for other in others:
            first = rule(first, other)
        return first

    return all_of


VALUES: dict[str, Callable[..., torch.Tensor]] = {
    "add": _chained(torch.add), "sub": torch.sub, "mul": _chained(torch.mul), "div": torch.div,
    "floordiv": torch.floor_divide, "mod": torch.remainder, "pow": torch.pow, "neg": torch.neg,
    "min": _chained(torch.minimum), "max": _chained(torch.maximum), "abs": torch.abs,
    "sign": torch.sign, "eq": torch.eq, "ne": torch.ne, "lt": torch.lt, "le": torch.le,
    "gt": torch.gt, "ge": torch.ge, "and": _chained(torch.logical_and),
    "or": _chained(torch.logical_or), "not": torch.logical_not, "where": torch.where,
    "exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt, "sin": torch.sin, "cos": torch.cos,
    "asin": torch.asin, "acos": torch.acos, "atan": torch.atan,
    "tanh": torch.tanh, "erf": torch.erf, "floor": torch.floor, "ceil": torch.ceil,
    "round": torch.round, "stop": lambda x: x, "exp2": torch.exp2, "log2": torch.log2,
    "log1p": torch.log1p, "softplus": torch.nn.functional.softplus, "sigmoid": torch.sigmoid,
    "to_int": lambda x: x.to(torch.int64), "to_real": lambda x: x.to(torch.float64),
}  # fmt: skip
