"""The value of a scalar tree for given indices, numbers, lengths and arrays.

A small vectorised evaluator: indices and values may be NumPy arrays, which broadcast against each
other. It is what planning, drawing and the tests of passes use; the NumPy oracle of a whole
operator is `attnc.backends.numpy_oracle`. Integers are int64 with floor division, reals float64,
truths bool. Selections, solves, random numbers and derivatives are the oracle's alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnc.errors import AttncError, InternalError
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr, postorder

Tensor = NDArray[Any]
Given = bool | int | float | complex | Tensor

DTYPES: dict[str, type] = {
    "bool": np.bool_, "int": np.int64, "real": np.float64, "complex": np.complex128
}  # fmt: skip


class OutsideError(AttncError):
    """A read outside its array at a point that is asked for."""


@dataclass(frozen=True)
class Environment:
    """What the leaves of a tree stand for.

    indices   positions of free indices: numbers, or arrays that broadcast
    params    numbers by name (params and statics)
    values    likewise for the `value` nodes of a Schedule
    lengths   lengths of measured and coarse axes; others follow from their declaration
    starts    first positions of axes; those not given start at their `low`, else at 0
    arrays    by name, one dimension for each of the Array's; the entry at position - start is read
    clamped   reads outside an array give its nearest entry, as a kernel's do
    """

    indices: Mapping[Index, Given] = field(default_factory=dict)
    params: Mapping[str, Given] = field(default_factory=dict)
    lengths: Mapping[Axis, int] = field(default_factory=dict)
    starts: Mapping[Axis, int] = field(default_factory=dict)
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, Given] = field(default_factory=dict)
    clamped: bool = False

    def length(self, axis: Axis) -> int:
        """The length of an axis: as given, or as declared."""
        if axis in self.lengths:
            return int(self.lengths[axis])
        if axis.form == "product":
            return math.prod(self.length(part) for part in axis.parts)
        if axis.length is None:
            raise InternalError(f"the length of axis {axis.name} was not given")
        return int(evaluate(axis.length, self))

    def start(self, axis: Axis) -> int:
        """The first position of an axis."""
        if axis in self.starts:
            return int(self.starts[axis])
        return 0 if axis.low is None else int(evaluate(axis.low, self))


@dataclass(frozen=True)
class _Result:
    """A node's value, and where a read under it fell outside its array (None: nowhere)."""

    value: Tensor
    outside: Tensor | None = None


def evaluate(root: Expr, environment: Environment = Environment()) -> Tensor:
    """The value of a tree, broadcast over what was given for its indices and values (else 0-d).

    Raises OutsideError where a read that is asked for lies outside its array. `where`, `and`, `or`,
    `else` and the condition of a fold ask for no more than they need.
    """
    rank = _rank(environment)
    places: dict[Index, int] = {}
    for node in postorder(root):
        for index in node.bound:
            places.setdefault(index, -(rank + 1 + len(places)))
    done: dict[bytes, _Result] = {}
    with np.errstate(all="ignore"):
        for node in postorder(root):
            operands = [done[arg.digest] for arg in node.args]
            done[node.digest] = _step(node, operands, environment, places)
    result = done[root.digest]
    outside = result.outside is not None and bool(result.outside.any())
    if outside and not environment.clamped:
        raise OutsideError("a read lies outside its array at a point that is asked for")
    return _trimmed(result.value, rank)


def _rank(environment: Environment) -> int:
    given = (*environment.indices.values(), *environment.values.values())
    return max((np.ndim(one) for one in (*given, *environment.params.values())), default=0)


def _trimmed(value: Tensor, rank: int) -> Tensor:
    """Without the leading dimensions that bound indices had."""
    extra = max(value.ndim - rank, 0)
    return value.reshape(value.shape[extra:])


def _step(
    node: Expr, operands: list[_Result], environment: Environment, places: dict[Index, int]
) -> _Result:
    if node.op in LEAF:
        return _Result(np.asarray(LEAF[node.op](node, environment, places), DTYPES[node.kind]))
    if node.op in SPECIAL:
        return SPECIAL[node.op](node, operands, environment, places)
    if node.op not in POINT:
        raise InternalError(f"evaluate does not know `{node.op}`: it is the oracle's")
    value = POINT[node.op](*(operand.value for operand in operands))
    return _Result(np.asarray(value, DTYPES[node.kind]), _either(*operands))


def _either(*operands: _Result) -> Tensor | None:
    found: Tensor | None = None
    for operand in operands:
        if operand.outside is not None:
            outside: Tensor = operand.outside
            found = outside if found is None else np.asarray(outside | found)
    return found


def _asked(outside: Tensor | None, condition: Tensor) -> Tensor | None:
    """Where an operand was outside and it was asked for."""
    return None if outside is None else outside & condition


# --- leaves ---------------------------------------------------------------------------------------


def _index(node: Expr, environment: Environment, places: dict[Index, int]) -> Given:
    index = node.attr
    assert isinstance(index, Index)
    if index not in places:
        return environment.indices[index]
    first, count = environment.start(index.axis), environment.length(index.axis)
    return np.arange(first, first + count).reshape(-1, *[1] * (-places[index] - 1))


def _named(kept: str) -> Callable[[Expr, Environment, dict[Index, int]], Given]:
    def look(node: Expr, environment: Environment, _: dict[Index, int]) -> Given:
        found: Mapping[str, Given] = getattr(environment, kept)
        assert isinstance(node.attr, str)
        if node.attr not in found:
            raise InternalError(f"evaluate was not given {node.attr}, one of its {kept}")
        return found[node.attr]

    return look


def _measure(kind: str) -> Callable[[Expr, Environment, dict[Index, int]], Given]:
    def look(node: Expr, environment: Environment, _: dict[Index, int]) -> Given:
        measured: int = getattr(environment, kind)(node.attr)
        return measured

    return look


LEAF: dict[str, Callable[[Expr, Environment, dict[Index, int]], Any]] = {
    "number": lambda node, environment, places: node.attr,
    "index": _index,
    "param": _named("params"),
    "value": _named("values"),
    "length": _measure("length"),
    "start": _measure("start"),
}

# --- what does not ask for everything -------------------------------------------------------------


def _read(
    node: Expr, operands: list[_Result], environment: Environment, _: dict[Index, int]
) -> _Result:
    array = environment.arrays[node.array.name]
    outside = _either(*operands)
    rows: list[Tensor] = []
    for place, (axis, operand) in enumerate(zip(node.array.axes, operands, strict=True)):
        row = operand.value - environment.start(axis)
        beyond = (row < 0) | (row >= array.shape[place])
        if beyond.any():
            outside = beyond if outside is None else outside | beyond
        rows.append(np.clip(row, 0, max(array.shape[place] - 1, 0)))
    if array.size == 0 and rows:
        shape = np.broadcast_shapes(*(row.shape for row in rows))
        return _Result(np.zeros(shape, DTYPES[node.kind]), np.ones(shape, np.bool_))
    return _Result(np.asarray(array[tuple(rows)], DTYPES[node.kind]), outside)


def _where(
    node: Expr, operands: list[_Result], environment: Environment, _: dict[Index, int]
) -> _Result:
    condition, yes, no = operands
    value: Tensor = np.where(condition.value, yes.value, no.value).astype(DTYPES[node.kind])
    branches = (
        _Result(value, _asked(yes.outside, condition.value)),
        _Result(value, _asked(no.outside, ~condition.value)),
    )
    return _Result(value, _either(condition, *branches))


def _logic(
    node: Expr, operands: list[_Result], environment: Environment, _: dict[Index, int]
) -> _Result:
    """`and` asks for an operand where those before it are true, `or` where they are false."""
    conjunction = node.op == "and"
    so_far = operands[0]
    for operand in operands[1:]:
        asked = so_far.value if conjunction else ~so_far.value
        outside = _either(so_far, _Result(operand.value, _asked(operand.outside, asked)))
        joined = so_far.value & operand.value if conjunction else so_far.value | operand.value
        so_far = _Result(joined, outside)
    return so_far


def _default(
    node: Expr, operands: list[_Result], environment: Environment, _: dict[Index, int]
) -> _Result:
    inner, fallback = operands
    if inner.outside is None:
        return _Result(inner.value)
    value: Tensor = np.where(inner.outside, fallback.value, inner.value).astype(DTYPES[node.kind])
    return _Result(value, _asked(fallback.outside, inner.outside))


_NEUTRAL: dict[str, tuple[np.ufunc, dict[str, float]]] = {
    "sum": (np.add, {"int": 0, "real": 0.0, "complex": 0.0}),
    "prod": (np.multiply, {"int": 1, "real": 1.0, "complex": 1.0}),
    "max": (np.maximum, {"int": np.iinfo(np.int64).min, "real": -np.inf}),
    "min": (np.minimum, {"int": np.iinfo(np.int64).max, "real": np.inf}),
}


def _fold(
    node: Expr, operands: list[_Result], environment: Environment, places: dict[Index, int]
) -> _Result:
    condition, body = operands
    lengths = {places[index]: environment.length(index.axis) for index in node.bound}
    shape = list(np.broadcast_shapes(condition.value.shape, body.value.shape))
    shape = [1] * (max(-place for place in lengths) - len(shape)) + shape
    for place, count in lengths.items():
        shape[place] = count
    combine, neutral = _NEUTRAL[node.monoid]
    start = neutral[node.kind]
    terms = np.broadcast_to(np.where(condition.value, body.value, start), shape)
    value = combine.reduce(terms, axis=tuple(lengths), keepdims=True, initial=start)
    outside = _either(condition, _Result(value, _asked(body.outside, condition.value)))
    if outside is not None:
        spread = np.broadcast_to(outside, shape)
        outside = np.asarray(spread.any(axis=tuple(lengths), keepdims=True))
    return _Result(np.asarray(value, DTYPES[node.kind]), outside)


def _box(
    node: Expr, operands: list[_Result], environment: Environment, _: dict[Index, int]
) -> _Result:
    """How many entries of each box are true, by sums over all boxes that begin at the first."""
    array = environment.arrays[node.array.name]
    sums = np.pad(array.astype(np.int64), [(1, 0)] * array.ndim)
    for place in range(array.ndim):
        sums = sums.cumsum(place)
    count, entries = np.zeros((), np.int64), np.ones((), np.int64)
    corners = []
    for place, axis in enumerate(node.array.axes):
        low, high = (one.value - environment.start(axis) for one in operands[2 * place :][:2])
        entries = entries * np.maximum(high - low + 1, 0)
        ends = (np.clip(low, 0, array.shape[place]), np.clip(high + 1, 0, array.shape[place]))
        corners.append(((ends[0], -1), (np.maximum(*ends), 1)))
    for corner in itertools.product(*corners):
        sign = math.prod(one[1] for one in corner)
        count = count + sign * sums[tuple(one[0] for one in corner)]
    return _Result(np.asarray(count > 0 if node.op == "some" else count == entries))


SPECIAL: dict[
    str, Callable[[Expr, list[_Result], Environment, dict[Index, int]], _Result]
] = {
    "read": _read, "where": _where, "and": _logic, "or": _logic, "default": _default, "fold": _fold,
    "some": _box, "every": _box,
}  # fmt: skip

# --- pointwise ------------------------------------------------------------------------------------


def _power(base: Tensor, exponent: Tensor) -> Tensor:
    integers = np.issubdtype(base.dtype, np.integer) and np.issubdtype(exponent.dtype, np.integer)
    if integers and not (exponent < 0).any():
        return np.asarray(np.power(base, exponent))
    wide = base if np.iscomplexobj(base) else base.astype(np.float64)
    return np.asarray(np.power(wide, exponent))


def _erf(x: Tensor) -> Tensor:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x))


def _sum_of(x: Tensor, *others: Tensor) -> Tensor:
    return sum(others, start=x)


def _product_of(x: Tensor, *others: Tensor) -> Tensor:
    return math.prod(others, start=x)


def _least(x: Tensor, *others: Tensor) -> Tensor:
    for other in others:
        x = np.minimum(x, other)
    return x


def _greatest(x: Tensor, *others: Tensor) -> Tensor:
    for other in others:
        x = np.maximum(x, other)
    return x


def _same(x: Tensor) -> Tensor:
    return x


POINT: dict[str, Callable[..., Tensor]] = {
    "add": _sum_of, "sub": np.subtract, "mul": _product_of, "div": np.true_divide,
    "floordiv": np.floor_divide, "mod": np.mod, "pow": _power, "neg": np.negative,
    "min": _least, "max": _greatest, "abs": np.abs, "sign": np.sign,
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
    "gt": np.greater, "ge": np.greater_equal, "not": np.logical_not,
    "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "sin": np.sin, "cos": np.cos,
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
    "tanh": np.tanh, "erf": _erf, "floor": np.floor, "ceil": np.ceil, "round": np.round,
    "re": np.real, "im": np.imag, "conj": np.conj, "stop": _same, "exp2": np.exp2,
    "log2": np.log2, "log1p": np.log1p, "softplus": lambda x: np.logaddexp(0.0, x),
    "sigmoid": lambda x: np.exp(-np.logaddexp(0.0, -x)),
    "to_int": np.trunc, "to_real": _same, "to_complex": _same,
}  # fmt: skip
