"""Grids: arrays with named dimensions; reals are float64 mantissas with unbounded exponents.

A real or complex value is `mantissa * exp(exponent)`; the exponent is an array or None (zero).
`exp` makes exponents, products add them, sums align them, `settle` removes them. So exp(1000) /
(exp(1000) + 1) is 1 without a stabilizer. Two rules keep the form canonical: mantissas lie within
1e+-100, and where a mantissa is 0, infinite or NaN its exponent is 0.

A grid also knows where it must not be asked for: `troubles` hold the points that depend on a read
outside its array. Every value is computed on the whole grid, and only a point that somebody demands
makes a trouble an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from attnc.expressions.index import Index

Values = npt.NDArray[Any]

LARGE, SMALL = 1e100, 1e-100
LN2 = float(np.log(2.0))


@dataclass(frozen=True, eq=False, slots=True)
class Trouble:
    """Points at which a value is not there: of which argument, what was expected, what came.
    `border`: a read of this very expression outside its array, which `else` forgives; otherwise it
    came through a definition and is final."""

    argument: str
    expected: str
    came: str
    border: bool
    where: Grid


@dataclass(frozen=True, eq=False, slots=True)
class Grid:
    """Values over `dims`, one axis each; an axis of size 1 is constant along its index.

    mantissa   bool, int64, float64 or complex128
    exponent   float64 of as many axes, broadcast with the mantissa, or None
    """

    dims: tuple[Index, ...]
    mantissa: Values
    exponent: Values | None = None
    troubles: tuple[Trouble, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        if self.exponent is None:
            return self.mantissa.shape
        return np.broadcast_shapes(self.mantissa.shape, self.exponent.shape)


def constant(value: bool | int | float | complex) -> Grid:
    """A single number as a grid without dimensions."""
    array = np.asarray(value)
    if array.dtype == np.bool_ or np.issubdtype(array.dtype, np.integer):
        return Grid((), array)
    return real((), array)


def real(dims: tuple[Index, ...], mantissa: Values, exponent: Values | None = None) -> Grid:
    """A canonical grid of real or complex values mantissa * exp(exponent)."""
    size = np.abs(mantissa)
    finite = np.isfinite(size)
    wild = finite & (((size > 0) & (size < SMALL)) | (size > LARGE))
    if wild.any():
        power = np.where(wild, np.frexp(size)[1], 0)
        # In two halves: the power of a denormal is beyond what one factor can hold.
        mantissa = mantissa * np.ldexp(1.0, -(power // 2)) * np.ldexp(1.0, power // 2 - power)
        exponent = power * LN2 if exponent is None else exponent + power * LN2
    if exponent is None:
        return Grid(dims, mantissa)
    live = finite & (size > 0)
    mantissa, exponent, live = np.broadcast_arrays(mantissa, exponent, live)
    lost = ~np.isfinite(exponent)
    if (live & lost).any():  # exp(-inf) is 0, exp(inf) infinite, exp(NaN) NaN
        mantissa = np.where(live & lost, mantissa * np.exp(exponent), mantissa)
    exponent = np.where(live & ~lost, exponent, 0.0)
    return Grid(dims, mantissa, exponent if exponent.any() else None)


def view(array: Values, dims: tuple[Index, ...], onto: tuple[Index, ...]) -> Values:
    """The array over `dims` as one over `onto`, which holds them all; new axes have size 1."""
    if dims == onto:
        return array
    array = np.transpose(array, [dims.index(index) for index in onto if index in dims])
    sizes = iter(array.shape)
    return array.reshape([next(sizes) if index in dims else 1 for index in onto])


def union(*grids: Grid) -> tuple[Index, ...]:
    """All dimensions, in the order of their first appearance."""
    return tuple(dict.fromkeys(index for grid in grids for index in grid.dims))


def over(grid: Grid, dims: tuple[Index, ...]) -> Grid:
    """The same values with axes in the order of `dims`, a superset of the grid's own."""
    if grid.dims == dims:
        return grid
    exponent = None if grid.exponent is None else view(grid.exponent, grid.dims, dims)
    return Grid(dims, view(grid.mantissa, grid.dims, dims), exponent, grid.troubles)


def joined(*grids: Grid) -> tuple[tuple[Index, ...], tuple[Grid, ...]]:
    """The grids over one order of dimensions, ready to broadcast."""
    dims = union(*grids)
    return dims, tuple(over(grid, dims) for grid in grids)


def settle(grid: Grid) -> Values:
    """The values themselves, without exponents (infinite where float64 ends)."""
    if grid.exponent is None:
        return grid.mantissa
    half = np.exp(grid.exponent / 2)  # in halves: a tiny mantissa with a huge exponent is finite
    return np.asarray(grid.mantissa * half * half)


def plain(grid: Grid) -> Grid:
    """The grid without exponents."""
    return Grid(grid.dims, settle(grid), None, grid.troubles)


# troubles -------------------------------------------------------------------------------


def collected(troubles: Iterable[Trouble]) -> tuple[Trouble, ...]:
    """Troubles of one kind merged into one."""
    found: dict[tuple[object, ...], Trouble] = {}
    for each in troubles:
        key = (each.argument, each.expected, each.came, each.border)
        old = found.get(key)
        if old is None:
            found[key] = each
        elif old.where is not each.where:
            found[key] = replace(each, where=either(old.where, each.where))
    return tuple(found.values())


def restricted(troubles: Iterable[Trouble], condition: Grid) -> tuple[Trouble, ...]:
    """The troubles at points where the condition holds."""
    kept = (replace(each, where=both(each.where, condition)) for each in troubles)
    return tuple(each for each in kept if each.where.mantissa.any())


def both(a: Grid, b: Grid) -> Grid:
    dims, (a, b) = joined(a, b)
    return Grid(dims, a.mantissa & b.mantissa)


def either(a: Grid, b: Grid) -> Grid:
    dims, (a, b) = joined(a, b)
    return Grid(dims, a.mantissa | b.mantissa)


def inverse(a: Grid) -> Grid:
    return Grid(a.dims, ~a.mantissa)


# arithmetic -----------------------------------------------------------------------------


def shifted(*grids: Grid) -> tuple[list[Values], Values | None]:
    """Mantissas of joined grids under one exponent for each point: the largest among the live."""
    if all(grid.exponent is None for grid in grids):
        return [grid.mantissa for grid in grids], None
    tops = [_live_exponent(grid) for grid in grids]
    top = tops[0]
    for each in tops[1:]:
        top = np.maximum(top, each)
    top = np.where(np.isfinite(top), top, 0.0)
    return [_scaled(grid, top) for grid in grids], top


def _live_exponent(grid: Grid) -> Values:
    """Exponents, -inf where there is none to respect: at 0, infinities and NaN."""
    live = np.isfinite(grid.mantissa) & (grid.mantissa != 0)
    return np.where(live, 0.0 if grid.exponent is None else grid.exponent, -np.inf)


def _scaled(grid: Grid, top: Values) -> Values:
    """Mantissas with respect to the exponent `top`; 0, infinities and NaN stay what they are."""
    live = np.isfinite(grid.mantissa) & (grid.mantissa != 0)
    own: Values | float = 0.0 if grid.exponent is None else grid.exponent
    return np.asarray(grid.mantissa * np.exp(np.where(live, own - top, 0.0)))


def _is_real(*grids: Grid) -> bool:
    return any(np.issubdtype(grid.mantissa.dtype, np.inexact) for grid in grids)


def add(a: Grid, b: Grid) -> Grid:
    dims, pair = joined(a, b)
    (left, right), top = shifted(*pair)
    if not _is_real(a, b):
        return Grid(dims, left + right)
    return Grid(dims, left + right) if top is None else real(dims, left + right, top)


def negative(a: Grid) -> Grid:
    return Grid(a.dims, -a.mantissa, a.exponent)


def multiply(a: Grid, b: Grid) -> Grid:
    dims, (a, b) = joined(a, b)
    if not _is_real(a, b):
        return Grid(dims, a.mantissa * b.mantissa)
    exponent = a.exponent if b.exponent is None else b.exponent
    if a.exponent is not None and b.exponent is not None:
        exponent = a.exponent + b.exponent
    return real(dims, a.mantissa * b.mantissa, exponent)


def divide(a: Grid, b: Grid) -> Grid:
    dims, (a, b) = joined(a, b)
    exponent = a.exponent
    if b.exponent is not None:
        exponent = -b.exponent if exponent is None else exponent - b.exponent
    return real(dims, np.true_divide(a.mantissa, b.mantissa), exponent)


def power(a: Grid, b: Grid) -> Grid:
    """a ** b; integers stay integers (a negative exponent gives the floor of the true power)."""
    dims, (a, b) = joined(a, b)
    if not _is_real(a, b):
        base, by = a.mantissa.astype(np.int64), b.mantissa.astype(np.int64)
        raised = base ** np.abs(by)
        return Grid(dims, np.where(by < 0, 1 // np.where(raised == 0, 1, raised), raised))
    by = settle(b)
    if np.iscomplexobj(a.mantissa) or np.iscomplexobj(by):
        return real(dims, settle(a) ** by)
    with_mantissa = np.asarray(np.power(a.mantissa.astype(np.float64), by))
    exponent = None if a.exponent is None else np.where(by == 0, 0.0, a.exponent * by)
    base = a.mantissa + 0.0 * by
    burst = ((with_mantissa == 0) | np.isinf(with_mantissa)) & np.isfinite(base) & (base != 0)
    burst &= np.isfinite(by)
    if burst.any():  # the mantissa's power leaves float64: carry it in the exponent
        sign = np.where((base < 0) & (by % 2 == 1), -1.0, 1.0)
        carried = by * np.log(np.where(burst, np.abs(base), 1.0))
        with_mantissa = np.where(burst, sign, with_mantissa)
        carried = np.where(burst, carried, 0.0)
        exponent = carried if exponent is None else exponent + carried
    return real(dims, with_mantissa, exponent)


def exp(a: Grid) -> Grid:
    values = settle(a)
    if np.iscomplexobj(values):
        return real(a.dims, np.exp(1j * values.imag), values.real.copy())
    values = values.astype(np.float64)
    return real(a.dims, np.ones((1,) * values.ndim), values)


def log(a: Grid) -> Grid:
    values = np.log(a.mantissa)
    return Grid(a.dims, values if a.exponent is None else values + a.exponent)


def sqrt(a: Grid) -> Grid:
    exponent = None if a.exponent is None else a.exponent / 2
    return real(a.dims, np.sqrt(a.mantissa), exponent)


def absolute(a: Grid) -> Grid:
    return Grid(a.dims, np.abs(a.mantissa), a.exponent)


def part(a: Grid, of: Callable[[Values], Values]) -> Grid:
    """The real or imaginary part, or the conjugate."""
    mantissa = np.asarray(of(a.mantissa))
    return Grid(a.dims, mantissa) if a.exponent is None else real(a.dims, mantissa, a.exponent)


def compare(op: Callable[[Values, Values], Values], a: Grid, b: Grid) -> Grid:
    """An exact comparison, whatever the exponents."""
    dims, pair = joined(a, b)
    (left, right), _ = shifted(*pair)
    return Grid(dims, np.asarray(op(left, right)))


def larger(a: Grid, b: Grid) -> Grid:
    """The larger of two; NaN if one is."""
    return choose(compare(_not_less, a, b), a, b)


def smaller(a: Grid, b: Grid) -> Grid:
    """The smaller of two; NaN if one is."""
    return choose(compare(_not_more, a, b), a, b)


def _not_less(a: Values, b: Values) -> Values:
    return np.asarray((a >= b) | np.isnan(a))


def _not_more(a: Values, b: Values) -> Values:
    return np.asarray((a <= b) | np.isnan(a))


def choose(condition: Grid, a: Grid, b: Grid) -> Grid:
    """a where the condition holds, b elsewhere: selected, never multiplied."""
    dims, (condition, a, b) = joined(condition, a, b)
    mantissa = np.where(condition.mantissa, a.mantissa, b.mantissa)
    if a.exponent is None and b.exponent is None:
        return Grid(dims, mantissa)
    own = [0.0 if each.exponent is None else each.exponent for each in (a, b)]
    return Grid(dims, mantissa, np.where(condition.mantissa, own[0], own[1]))
