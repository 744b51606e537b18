"""Folds, selections and reads over grids.

A fold sees the points of its bound indices where its condition holds, and nothing else: what a
masked point holds (NaN, infinities, troubles) is selected away, never multiplied by zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from attnc.backends.numpy_oracle import grid as g
from attnc.backends.numpy_oracle.grid import Grid, Trouble, Values

from attnc.expressions.index import Index

Size = Callable[[Index], int]

TRUE = g.constant(True)


def expanded(grid: Grid, outer: tuple[Index, ...], bound: tuple[Index, ...], size: Size) -> Grid:
    """The grid over outer and bound indices with the bound ones flattened into one last axis."""
    grid = g.over(grid, outer + bound)
    lead = grid.shape[: len(outer)]
    full = lead + tuple(size(index) for index in bound)
    count = int(np.prod(full[len(outer) :], dtype=np.int64))

    def flat(array: Values) -> Values:
        return np.broadcast_to(array, full).reshape(*lead, count)

    exponent = None if grid.exponent is None else flat(grid.exponent)
    return Grid(outer, flat(grid.mantissa), exponent, grid.troubles)


def outer_dims(bound: tuple[Index, ...], *grids: Grid) -> tuple[Index, ...]:
    return tuple(index for index in g.union(*grids) if index not in bound)


def exists(grid: Grid, bound: tuple[Index, ...], size: Size) -> Grid:
    """Whether a bool grid holds anywhere over the bound indices."""
    outer = outer_dims(bound, grid)
    return Grid(outer, np.asarray(expanded(grid, outer, bound, size).mantissa.any(axis=-1)))


def fold_troubles(
    condition: Grid, bodies: Sequence[Grid], bound: tuple[Index, ...], size: Size
) -> tuple[Trouble, ...]:
    """Troubles of a fold: those of its condition, and of its body where the condition holds."""
    inner = [t for body in bodies for t in g.restricted(body.troubles, condition)]
    return g.collected(
        replace(each, where=exists(each.where, bound, size))
        for each in (*condition.troubles, *inner)
    )


# folds ----------------------------------------------------------------------------------


def fold(
    monoid: str, condition: Grid, factors: Sequence[Grid], bound: tuple[Index, ...], size: Size
) -> Grid:
    """sum, prod, max or min over the bound indices of the product of the factors."""
    troubles = fold_troubles(condition, factors, bound, size)
    if monoid == "sum" and _is_contraction(condition, factors):
        return replace(_contract(condition, factors, bound, size), troubles=troubles)
    body = factors[0]
    for factor in factors[1:]:
        body = g.multiply(body, factor)
    outer = outer_dims(bound, condition, body)
    _, (condition, body) = g.joined(condition, body)
    body = expanded(body, outer, bound, size)
    mask = expanded(condition, outer, bound, size).mantissa
    shape = np.broadcast_shapes(body.mantissa.shape, mask.shape)
    mask = np.broadcast_to(mask, shape)
    body = replace(body, mantissa=np.broadcast_to(body.mantissa, shape))
    result = FOLDS[monoid](mask, body)
    return replace(result, troubles=troubles)


def _sum(mask: Values, body: Grid) -> Grid:
    chosen = np.where(mask, body.mantissa, body.mantissa.dtype.type(0))
    if body.exponent is None:
        total = chosen.sum(axis=-1, dtype=np.int64 if chosen.dtype == np.bool_ else None)
        return Grid(body.dims, np.asarray(total))
    live = np.isfinite(chosen) & (chosen != 0)
    top = np.where(live, body.exponent, -np.inf).max(axis=-1, initial=-np.inf, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    chosen = chosen * np.exp(np.where(live, body.exponent - top, 0.0))
    return g.real(body.dims, np.asarray(chosen.sum(axis=-1)), top[..., 0])


def _prod(mask: Values, body: Grid) -> Grid:
    """Pairwise, so that mantissas never leave their range."""
    exponent = body.exponent
    values = np.where(mask, body.mantissa, body.mantissa.dtype.type(1))
    if not np.issubdtype(values.dtype, np.inexact):
        return Grid(body.dims, np.asarray(values.prod(axis=-1)))
    if exponent is not None:
        exponent = np.where(mask, exponent, 0.0)
    flat = Index("#", None)  # type: ignore[arg-type]
    left = g.real((*body.dims, flat), values, exponent)
    while left.shape[-1] > 1:
        count = left.shape[-1] // 2
        pieces = [_cut(left, piece) for piece in _halves(count, left.shape[-1])]
        left = g.multiply(pieces[0], pieces[1])
        if len(pieces) > 2:
            left = _appended(left, pieces[2])
    if left.shape[-1] == 0:
        return Grid(body.dims, np.ones(left.shape[:-1], dtype=values.dtype))
    kept = None if left.exponent is None else left.exponent[..., 0]
    return Grid(body.dims, left.mantissa[..., 0], kept)


def _halves(count: int, whole: int) -> list[slice]:
    pieces = [slice(0, count), slice(count, 2 * count)]
    return [*pieces, slice(2 * count, whole)] if whole % 2 else pieces


def _cut(grid: Grid, piece: slice) -> Grid:
    kept = None if grid.exponent is None else grid.exponent[..., piece]
    return Grid(grid.dims, grid.mantissa[..., piece], kept)


def _appended(a: Grid, b: Grid) -> Grid:
    mantissa = np.concatenate([a.mantissa, b.mantissa], axis=-1)
    if a.exponent is None and b.exponent is None:
        return Grid(a.dims, mantissa)
    own = [
        np.zeros(each.mantissa.shape) if each.exponent is None else each.exponent for each in (a, b)
    ]
    return Grid(a.dims, mantissa, np.concatenate(own, axis=-1))


def _extreme(mask: Values, body: Grid, largest: bool) -> Grid:
    values = body.mantissa
    if body.exponent is None:
        none: float = -np.inf if largest else np.inf
        if not np.issubdtype(values.dtype, np.inexact):
            limits = np.iinfo(np.int64)
            none = limits.min if largest else limits.max
            values = values.astype(np.int64)
        chosen = np.where(mask, values, values.dtype.type(none))
        reduce = np.max if largest else np.min
        return Grid(body.dims, np.asarray(reduce(chosen, axis=-1, initial=none)))
    if mask.shape[-1] == 0:
        return Grid(body.dims, np.full(mask.shape[:-1], -np.inf if largest else np.inf))
    keys = ordering(body)
    if largest:
        keys = [-key for key in keys]
    nan = np.isnan(values)
    order = np.lexsort((*reversed(keys), ~nan, ~mask), axis=-1)
    first = order[..., :1]
    mantissa = np.take_along_axis(values, first, axis=-1)[..., 0]
    exponent = np.take_along_axis(body.exponent, first, axis=-1)[..., 0]
    empty = ~mask.any(axis=-1)
    mantissa = np.where(empty, -np.inf if largest else np.inf, mantissa)
    return Grid(body.dims, mantissa, np.where(empty, 0.0, exponent))


FOLDS: dict[str, Callable[[Values, Grid], Grid]] = {
    "sum": _sum,
    "prod": _prod,
    "max": lambda mask, body: _extreme(mask, body, True),
    "min": lambda mask, body: _extreme(mask, body, False),
}


def _is_contraction(condition: Grid, factors: Sequence[Grid]) -> bool:
    """Whether a sum of products may be one einsum: at most one exponent (two would need a common
    shift for each pair), and, under a condition, nothing that a zero cannot silence."""
    if len(factors) < 2 or not all(np.issubdtype(f.mantissa.dtype, np.inexact) for f in factors):
        return False
    if sum(factor.exponent is not None for factor in factors) > 1:
        return False
    if not condition.dims and bool(condition.mantissa):
        return True
    return all(np.isfinite(factor.mantissa).all() for factor in factors)


def _contract(
    condition: Grid, factors: Sequence[Grid], bound: tuple[Index, ...], size: Size
) -> Grid:
    always = not condition.dims and bool(condition.mantissa)
    operands = [factor for factor in factors if factor.exponent is None]
    carrier = next((factor for factor in factors if factor.exponent is not None), None)
    top = Grid((), np.zeros(()))
    if carrier is not None:
        carrier, top = _shift(carrier, condition, bound, size)
        operands.append(carrier)
    if not always:
        operands.append(replace(condition, mantissa=condition.mantissa.astype(np.float64)))
    operands = [_squeezed(operand, size) for operand in operands]
    present = g.union(*operands)
    operands += [Grid((index,), np.ones(size(index))) for index in bound if index not in present]
    present = g.union(*operands)
    letters = {index: place for place, index in enumerate(present)}
    outer = tuple(index for index in present if index not in bound)
    flat: list[object] = []
    for operand in operands:
        flat += [operand.mantissa, [letters[index] for index in operand.dims]]
    flat.append([letters[index] for index in outer])
    total = np.asarray(np.einsum(*flat, optimize="greedy"))  # type: ignore[call-overload]
    _, (mantissa, exponent) = g.joined(Grid(outer, total), top)
    return g.real(mantissa.dims, mantissa.mantissa, exponent.mantissa)


def _shift(
    carrier: Grid, condition: Grid, bound: tuple[Index, ...], size: Size
) -> tuple[Grid, Grid]:
    """The factor with exponents as plain numbers below the largest exponent of each fold, and that
    exponent."""
    assert carrier.exponent is not None
    dims, (both, mask) = g.joined(carrier, condition)
    assert both.exponent is not None
    live = np.isfinite(both.mantissa) & (both.mantissa != 0) & mask.mantissa
    axes = tuple(place for place, index in enumerate(dims) if index in bound)
    top = np.where(live, both.exponent, -np.inf).max(axis=axes, initial=-np.inf, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    shifted = np.where(mask.mantissa, both.mantissa, 0.0)
    shifted = shifted * np.exp(np.where(live, both.exponent - top, 0.0))
    kept = tuple(index for index in dims if index not in bound)
    return Grid(dims, shifted), Grid(kept, top.reshape([top.shape[dims.index(k)] for k in kept]))


def _squeezed(grid: Grid, size: Size) -> Grid:
    """The grid without axes along which it is constant."""
    constant = tuple(
        place for place, index in enumerate(grid.dims) if grid.mantissa.shape[place] != size(index)
    )
    dims = tuple(index for place, index in enumerate(grid.dims) if place not in constant)
    return Grid(dims, np.squeeze(grid.mantissa, axis=constant))


# selections -----------------------------------------------------------------------------


def ordering(grid: Grid) -> list[Values]:
    """Keys, most significant first, that sort like the values."""
    if grid.exponent is None:
        values = grid.mantissa
        return [values.astype(np.int64) if values.dtype == np.bool_ else values]
    if np.abs(grid.exponent).max(initial=0.0) < 400:
        return [g.settle(grid)]
    sign = np.sign(grid.mantissa)
    size = np.log(np.where(sign == 0, 1.0, np.abs(grid.mantissa))) + grid.exponent
    return [sign, sign * size]


def _sorted(
    condition: Grid, key: Grid, bound: tuple[Index, ...], size: Size, descending: bool
) -> tuple[tuple[Index, ...], Values, Values]:
    """Outer dimensions, the condition and the order (allowed points first, ties by index)."""
    outer = outer_dims(bound, condition, key)
    _, (condition, key) = g.joined(condition, key)
    flat = expanded(key, outer, bound, size)
    mask = expanded(condition, outer, bound, size).mantissa
    shape = np.broadcast_shapes(flat.shape, mask.shape)
    mask = np.broadcast_to(mask, shape)
    keys = [np.broadcast_to(-part if descending else part, shape) for part in ordering(flat)]
    return outer, mask, np.lexsort((*reversed(keys), ~mask), axis=-1)


def topk(condition: Grid, key: Grid, count: Grid, bound: tuple[Index, ...], size: Size) -> Grid:
    """True for the `count` largest, over the outer and the bound indices."""
    troubles = fold_troubles(condition, [key], bound, size)
    rest = outer_dims(bound, condition, key, count)
    key = g.over(key, g.union(Grid(rest, np.zeros((1,) * len(rest))), key))
    outer, mask, order = _sorted(condition, key, bound, size, descending=True)
    place = np.argsort(order, axis=-1)
    limit = g.over(count, outer).mantissa[..., None]
    return _unflattened(outer, bound, size, (place < limit) & mask, (*troubles, *count.troubles))


def rank(condition: Grid, key: Grid, bound: tuple[Index, ...], size: Size) -> Grid:
    """How many allowed points come before each point in (key, index) order."""
    troubles = fold_troubles(condition, [key], bound, size)
    outer = outer_dims(bound, condition, key)
    flat = expanded(g.over(key, outer + bound), outer, bound, size)
    allowed = expanded(condition, outer, bound, size).mantissa
    shape = np.broadcast_shapes(flat.shape, allowed.shape)
    keys = [np.broadcast_to(part, shape) for part in ordering(flat)]
    order = np.lexsort(tuple(reversed(keys)), axis=-1)
    counted = np.take_along_axis(np.broadcast_to(allowed, shape), order, axis=-1).astype(np.int64)
    before = np.cumsum(counted, axis=-1) - counted
    result = np.take_along_axis(before, np.argsort(order, axis=-1), axis=-1)
    return _unflattened(outer, bound, size, result, troubles)


def _unflattened(
    outer: tuple[Index, ...],
    bound: tuple[Index, ...],
    size: Size,
    values: Values,
    troubles: tuple[Trouble, ...],
) -> Grid:
    shape = values.shape[:-1] + tuple(size(index) for index in bound)
    return Grid(outer + bound, values.reshape(shape), None, troubles)


def extreme_row(
    condition: Grid, key: Grid, index: Index, size: Size, largest: bool
) -> tuple[Grid, Grid]:
    """The row of the extreme key, the lowest among equals, and whether there is any row at all."""
    outer, mask, order = _sorted(condition, key, (index,), size, descending=largest)
    troubles = fold_troubles(condition, [key], (index,), size)
    some = np.asarray(mask.any(axis=-1))
    if order.shape[-1] == 0:
        return Grid(outer, np.zeros(some.shape, dtype=np.int64), None, troubles), Grid(outer, some)
    return Grid(outer, order[..., 0].astype(np.int64), None, troubles), Grid(outer, some)


# reads ----------------------------------------------------------------------------------


def gather(grid: Grid, rows: dict[Index, Grid], size: Size) -> Grid:
    """The grid with each index of `rows` replaced by the rows given for it, clipped to its axis.
    Its other dimensions stay."""
    moved = [index for index in grid.dims if index in rows]
    stay = tuple(index for index in grid.dims if index not in rows)
    result = tuple(dict.fromkeys((*stay, *g.union(*(rows[index] for index in moved)))))
    if any(size(index) == 0 and grid.shape[grid.dims.index(index)] == 0 for index in moved):
        empty = _missing(grid, result, [rows[index] for index in moved], stay, size)
        return replace(empty, troubles=grid.troubles)
    at = []
    for place, index in enumerate(grid.dims):
        length = grid.shape[place]
        if index in rows:
            row = g.over(rows[index], result).mantissa if rows[index].dims else rows[index].mantissa
            at.append(np.clip(row, 0, max(length - 1, 0)))
        else:
            steps = [length if each == index else 1 for each in result]
            at.append(np.arange(length).reshape(steps))

    def pick(array: Values) -> Values:
        whole = np.broadcast_to(array, grid.shape)
        picked = np.asarray(whole[tuple(at)]) if at else whole
        return picked.reshape((1,) * (len(result) - picked.ndim) + picked.shape)

    exponent = None if grid.exponent is None else pick(grid.exponent)
    troubles = [
        replace(each, border=False, where=gather(each.where, rows, size)) for each in grid.troubles
    ]
    return Grid(result, pick(grid.mantissa), exponent, tuple(troubles))


def _missing(
    grid: Grid,
    dims: tuple[Index, ...],
    rows: Sequence[Grid],
    stay: tuple[Index, ...],
    size: Size,
) -> Grid:
    """What a read of an array without entries gives: zeros that nobody may demand."""
    kept = Grid(stay, np.zeros([grid.shape[grid.dims.index(index)] for index in stay]))
    shape = np.broadcast_shapes(
        *(g.over(each, dims).mantissa.shape for each in (kept, *rows)), (1,) * len(dims)
    )
    return Grid(dims, np.zeros(shape, dtype=grid.mantissa.dtype))
