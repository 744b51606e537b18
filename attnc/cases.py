"""Random calls of any operator: tensors, numbers, lengths and offsets that fit a Spec.

What verify, the torture run, the benchmarks' checks and the tests feed to every backend. A case is
drawn from a seed, so a
failure is repeated by its seed and its shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnc.errors import AttncError
from attnc.expressions.evaluate import Environment, evaluate
from attnc.expressions.index import Axis
from attnc.expressions.tree import Expr, postorder
from attnc.spec import Block, Definition, Input, Number, Repeat, Spec

# Lengths and widths that break kernels: around powers of two and tile sizes, primes, one and none.
HOSTILE_LENGTHS = (0, 1, 2, 127, 128, 129, 257, 521)
HOSTILE_WIDTHS = (1, 3, 8, 15, 31, 64, 72, 80, 96, 121, 128, 192, 256, 576)
HOSTILE_GROUPS = (1, 3, 7, 8)


@dataclass(frozen=True)
class Shape:
    """What is asked of a case. Rows and keys are lengths; where one axis serves both, `rows`
    counts."""

    rows: int = 33
    keys: int = 47
    width: int = 16
    value_width: int = 16
    batch: int = 2
    key_heads: int = 2
    group: int = 1
    magnitude: float = 1.0
    offset: int = 0


@dataclass(frozen=True)
class Case:
    """One call: arrays by name (float64, int64, bool), numbers by name, where rows and keys
    begin; `note`: how inputs differ from plain draws."""

    tensors: dict[str, NDArray[Any]]
    numbers: dict[str, Any]
    shape: Shape
    extras: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in self.tensors.items())
        numbers = "".join(f", {name}={value}" for name, value in self.numbers.items())
        shifts = "".join(f", {name}={value}" for name, value in self.extras.items())
        return sizes + numbers + shifts + (f" ({self.note})" if self.note else "")


def draw_case(spec: Spec, shape: Shape, seed: int, given: Mapping[str, Any] | None = None) -> Case:
    """A random call of `spec` near `shape` (grids and other declared axes may force other lengths).

    given: numbers to use instead of drawn ones. Raises AttncError if no call of this shape is
    legal."""
    moves = any(index.axis.shifted == "offset" for index in spec.root.rows)
    offset = shape.offset if moves else 0
    why = ""
    for attempt in range(40):
        rng = np.random.default_rng((seed, attempt))
        numbers = _draw_numbers(spec, shape, rng, attempt, given or {})
        lengths = _draw_lengths(spec, shape, numbers, attempt)
        if lengths is None:
            continue
        environment = _environment(spec, numbers, lengths, offset)
        if all(bool(evaluate(check.condition, environment)) for check in spec.checks):
            tensors = _draw_tensors(spec, shape, rng, environment)
            extras = {"offset": offset} if offset else {}
            return Case(tensors, numbers, shape, extras)
        broken = next(c for c in spec.checks if not bool(evaluate(c.condition, environment)))
        why = f": {broken.message}"
    sizes = f"{shape.rows} rows and {shape.keys} keys"
    raise AttncError(f"{spec.name}: no legal call with {sizes} was found{why}")


def _draw_numbers(
    spec: Spec, shape: Shape, rng: np.random.Generator, attempt: int, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Params: the given ones, defaults in every other attempt's place, small numbers for the
    rest."""
    numbers: dict[str, Any] = {}
    for number in spec.numbers:
        if number.static:
            continue
        if number.name in given:
            numbers[number.name] = given[number.name]
        elif number.default is not None and (_is_derived(number) or attempt % 2 == 0):
            continue
        else:
            numbers[number.name] = _draw_number(number, shape, rng)
    return numbers


def _is_derived(number: Number) -> bool:
    """A default that is not a plain number (scale)."""
    assert number.default is not None
    return any(node.op in ("length", "param") for node in postorder(number.default))


def _draw_number(number: Number, shape: Shape, rng: np.random.Generator) -> Any:
    if number.kind == "bool":
        return bool(rng.integers(2))
    if number.kind == "int":
        return int(rng.integers(1, max(2, math.isqrt(max(shape.rows, 1)) + 3)))
    return float(np.round(rng.uniform(0.1, 2.0), 3))


def _draw_lengths(
    spec: Spec, shape: Shape, numbers: Mapping[str, Any], attempt: int
) -> dict[Axis, int] | None:
    """Lengths of every measured axis. An axis that is neither row, key, head nor width takes a few
    sizes in turn, the largest of which covers every distance of a row and a key."""
    rows = {index.axis for index in spec.root.rows}
    keys = {index.axis for source in spec.root.sources for index in source.keys}
    first_keys = {index.axis for index in spec.root.sources[0].keys} if spec.root.sources else set()
    if not spec.root.sources:  # a pipeline: its blocks have keys
        first_keys = {axis for axis in measured_axes(spec) if axis.shifted == "key_offset"}
    spare = (5, 3, shape.rows + shape.keys + shape.offset + 1, 17, max(shape.rows, shape.keys) + 1)
    known = {"b": shape.batch, "h": shape.key_heads * shape.group, "d": shape.width}
    known["e"] = shape.value_width
    lengths: dict[Axis, int] = {}
    for axis in measured_axes(spec):
        if axis.form == "coarse":
            lengths[axis] = shape.key_heads
        elif axis in rows:
            lengths[axis] = shape.rows
        elif axis in first_keys:
            lengths[axis] = shape.keys
        elif axis in keys:
            lengths[axis] = max(shape.keys // 8, min(shape.keys, 1))
        else:
            lengths[axis] = known.get(axis.name, spare[attempt % len(spare)])
    return lengths


def measured_axes(spec: Spec) -> list[Axis]:
    """The axes whose lengths are read off tensors."""
    found: dict[Axis, None] = {}
    for given in spec.inputs:
        for axis in given.array.axes:
            if axis.form in ("measured", "coarse"):
                found.setdefault(axis)
    return list(found)


def _environment(
    spec: Spec, numbers: Mapping[str, Any], lengths: Mapping[Axis, int], offset: int
) -> Environment:
    starts = {axis: offset for axis in _all_axes(spec) if axis.shifted == "offset"}
    partial = Environment(params=dict(numbers), lengths=lengths, starts=starts)
    params = dict(numbers)
    for number in spec.numbers:
        if number.name not in params and number.default is not None:
            value = evaluate(number.default, partial).item()
            params[number.name] = value
            partial = Environment(params=dict(params), lengths=lengths, starts=starts)
    return partial


def _all_axes(spec: Spec) -> list[Axis]:
    return list(dict.fromkeys([*spec.axes, *measured_axes(spec)]))


def _draw_tensors(
    spec: Spec, shape: Shape, rng: np.random.Generator, environment: Environment
) -> dict[str, NDArray[Any]]:
    tensors: dict[str, NDArray[Any]] = {}
    bounds = position_bounds(spec)
    for given in spec.inputs:
        if given.default is not None and rng.integers(2):
            continue
        sizes = tuple(environment.length(axis) for axis in given.array.axes)
        tensors[given.name] = _draw_tensor(given, sizes, shape, rng, bounds, environment)
    return tensors


def _draw_tensor(
    given: Input,
    sizes: tuple[int, ...],
    shape: Shape,
    rng: np.random.Generator,
    bounds: Mapping[str, Axis],
    environment: Environment,
) -> NDArray[Any]:
    if given.array.kind == "bool":
        return rng.random(sizes) < 0.7
    if given.array.kind == "int":
        low, high = 0, 4
        if given.name in bounds:
            low = environment.start(bounds[given.name])
            high = low + max(environment.length(bounds[given.name]), 1)
        drawn = rng.integers(low, high, size=sizes)
        return np.sort(drawn, axis=-1) if given.name not in bounds and sizes else drawn
    normal = rng.standard_normal(sizes)
    if given.array.kind == "complex":
        return normal + 1j * rng.standard_normal(sizes)
    return normal * shape.magnitude if given.positional else normal


def position_bounds(spec: Spec) -> dict[str, Axis]:
    """The int inputs that are used as positions, with the axis whose positions they must hold."""
    bounds: dict[str, Axis] = {}
    for root in expressions(spec.root):
        for node in postorder(root):
            if node.op != "read":
                continue
            for place, axis in zip(node.args, node.array.axes, strict=True):
                if place.op == "read" and place.array.kind == "int":
                    bounds.setdefault(place.array.name, axis)
    return bounds


def deciding(spec: Spec) -> frozenset[str]:
    """The arrays that masks, choices and integers are made of, directly or through equations."""
    found: set[str] = set()
    left = [
        node
        for root in expressions(spec.root)
        for node in postorder(root)
        if node.kind in ("bool", "int")
    ]
    while left:
        for node in postorder(left.pop()):
            if node.op != "read" or node.array.name in found:
                continue
            found.add(node.array.name)
            definition = spec.definition(node.array)
            if definition is not None:
                left.append(definition.expr)
    return frozenset(found)


def expressions(block: Block) -> list[Expr]:
    """Every expression of a block and of the blocks in it."""
    found: list[Expr] = []
    stack: list[Block | Definition | Repeat] = [block]
    while stack:
        one = stack.pop()
        if isinstance(one, Definition):
            found.append(one.expr)
        elif isinstance(one, Repeat):
            stack.extend(one.statements)
        else:
            stack.extend((*one.statements, *one.updates, one.result, *one.emits))
            found.extend(state.initial for state in one.states)
    return found
