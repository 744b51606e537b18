"""Formulas between the kernels of a pipeline that need no dense form: sums by group, cumulative
folds, causal convolutions, rows taken from one axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from attnc.runtime.eager_numbers import Real, Value, as_real, plain, shifted
from attnc.runtime.eager_rows import rows_at, sums_by_group
from attnc.runtime.eager_slopes import broadcast, joint_shape, volume
from attnc.runtime.eager_support import smallest, total

OVER_NOTHING = {"sum": 0.0, "prod": 1.0, "max": -math.inf, "min": math.inf}
REDUCTIONS = {"prod": "prod", "max": "amax", "min": "amin"}
OVER_NOTHING_INT = {"sum": 0, "prod": 1, "max": torch.iinfo(torch.int64).min, "min": 2**63 - 1}


def taken(x: Value, dim: int, row: Value) -> Value:
    """x at rows of one dimension, clipped (what a read outside gives is only ever selected away);
    the dimensions of `row` stand in its place."""
    tensor = x.mantissa if isinstance(x, Real) else x
    at = torch.as_tensor(row, device=tensor.device)
    size = tensor.shape[dim]
    if size == 0:
        shape = (*tensor.shape[:dim], *at.shape, *tensor.shape[dim + 1 :])
        empty = torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
        return Real(empty) if isinstance(x, Real) else empty
    flat = at.clamp(0, size - 1).reshape(-1)

    def pick(part: Tensor) -> Tensor:
        found = rows_at(part, flat, dim)
        return found.reshape(*part.shape[:dim], *at.shape, *part.shape[dim + 1 :])

    return x.each(pick) if isinstance(x, Real) else pick(x)


def grouped(
    how: str,
    x: Value,
    by: Tensor,
    count: int,
    sizes: Sequence[int],
    bound: int,
    where: Value = True,
) -> Value:
    """The fold of the last `bound` dimensions of `sizes` by group, `count` of them on a last
    dimension; points of no group, and those where the condition fails, are in none."""
    keep = (by >= 0) & (by < count)
    if where is not True:
        keep = keep & torch.as_tensor(where, device=by.device)
    group = _points(torch.where(keep, by, count), sizes, bound)  # one group more, dropped
    if not isinstance(x, Real):
        x = torch.as_tensor(x, device=by.device)
        return _scattered(how, _points(x, sizes, bound), group, count, OVER_NOTHING_INT[how])
    if x.exponent is None or how != "sum":
        return Real(
            _scattered(how, _points(plain(x), sizes, bound), group, count, OVER_NOTHING[how])
        )
    mantissa, exponent = (_points(part, sizes, bound) for part in (x.mantissa, x.exponent))
    mantissa, exponent = broadcast(mantissa, exponent)
    with torch.no_grad():
        counted = torch.where(torch.isfinite(mantissa) & (mantissa != 0), exponent, -math.inf)
        top = _scattered("max", counted, group, count, -math.inf)
        top = torch.where(torch.isfinite(top), top, 0.0)
        ends = torch.cat([top, torch.zeros_like(top[..., :1])], -1)
        ends = ends.gather(-1, group.expand(exponent.shape))
    return Real(_scattered("sum", shifted(Real(mantissa, exponent), ends), group, count, 0.0), top)


def _points(x: Tensor, sizes: Sequence[int], bound: int) -> Tensor:
    """The last `bound` dimensions, all there, as one."""
    inner = tuple(sizes[len(sizes) - bound :])
    outer = x.shape[: max(x.ndim - bound, 0)]
    return x.expand(*outer, *inner).reshape(*outer, volume(inner))


def _scattered(how: str, x: Tensor, group: Tensor, count: int, none: float) -> Tensor:
    """The fold of the last dimension by group."""
    outer = joint_shape(x.shape[:-1], group.shape[:-1])
    x = x.expand(*outer, x.shape[-1])
    if how == "sum":
        each = group if group.ndim == 1 else group.expand(x.shape)
        return sums_by_group(x, each, count + 1, x.ndim - 1)[..., :count]
    result = x.new_full((*outer, count + 1), none)
    return result.scatter_reduce(-1, group.expand(x.shape), x, REDUCTIONS[how])[..., :count]


def running(how: str, x: Value, strict: bool, where: Value = True) -> Value:
    """The fold of what comes before along the last dimension, itself among it unless strict."""
    if isinstance(x, Real) and x.exponent is not None:
        return _running_dense(how, x, strict, where)
    value = x.mantissa if isinstance(x, Real) else x
    none = OVER_NOTHING[how] if isinstance(x, Real) else OVER_NOTHING_INT[how]
    if where is not True:
        value = torch.where(torch.as_tensor(where, device=value.device), value, none)
    folds: dict[str, Callable[[], Tensor]] = {
        "sum": lambda: value.cumsum(-1),
        "prod": lambda: value.cumprod(-1),
        "max": lambda: _furthest(value, torch.cummax),
        "min": lambda: _furthest(value, torch.cummin),
    }
    found = folds[how]()
    if strict and value.shape[-1]:
        first = torch.full_like(found[..., :1], none)
        found = torch.cat([first, found[..., :-1]], -1)
    return Real(found) if isinstance(x, Real) else found


def _furthest(x: Tensor, fold: Any) -> Tensor:
    """The running extreme of the last dimension, read at its places: where its derivative goes."""
    if not x.shape[-1]:
        return x
    places: Tensor = fold(x.detach(), -1).indices
    return rows_at(x, places, x.ndim - 1)


def _running_dense(how: str, x: Real, strict: bool, where: Value) -> Value:
    """The same point by point: sums of exponentials of any size."""
    size = x.mantissa.shape[-1]
    at = torch.arange(size, device=x.mantissa.device)
    before = at < at[:, None] if strict else at <= at[:, None]
    if where is not True:
        before = before & torch.as_tensor(where, device=at.device)[..., None, :]
    every = x[..., None, :]
    if how == "sum":
        return total(every, (-1,), where=before)
    sign = -1.0 if how == "max" else 1.0
    return smallest(every * sign, (-1,), where=before) * sign


def convolved(lagged: Value, x: Value, strict: bool) -> Real:
    """The causal convolution along the last dimension: sum over s <= t of lagged[t - s] * x[s].
    In float64: a transform spreads the rounding of its largest entries over all."""
    left, right = as_real(lagged).plain(), as_real(x).plain()
    size = max(left.shape[-1], right.shape[-1])
    if size == 0:
        shape = joint_shape(left.shape[:-1], right.shape[:-1])
        return Real(right.new_zeros(*shape, 0))
    if strict:
        left = torch.cat([torch.zeros_like(left[..., :1]), left[..., 1:]], -1)
    many, dtype = 2 * size, torch.promote_types(left.dtype, right.dtype)
    spectrum = torch.fft.rfft(left.double(), many) * torch.fft.rfft(right.double(), many)
    return Real(torch.fft.irfft(spectrum, many)[..., :size].to(dtype))
