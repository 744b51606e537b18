"""Folds over windows between the kernels of a pipeline: convolutions, sums and extremes of what
lies around a point, on a line or on a map.

A step (size, results, count, stride, step, first) says of one coordinate that result r reads the
points stride * r + step * u + first, u < count, of `size`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product as combinations

import torch
from torch import Tensor
from torch.nn import functional

from attnc.runtime.eager_forms import OVER_NOTHING
from attnc.runtime.eager_numbers import Real, Value, as_real, plain
from attnc.runtime.eager_rows import rows_at
from attnc.runtime.eager_slopes import all_finite, broadcast, is_traced, volume
from attnc.runtime.eager_support import finite_part, largest, smallest, total
from attnc.runtime.forms import levels_live

Step = tuple[int, int, int, int, int, int]
CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def correlated(
    x: Value,
    taps: Value,
    kinds: tuple[int, int, int, int],
    steps: Sequence[Step],
    dtype: torch.dtype,
    flat: bool,
    held: tuple[int, int, int] | None = None,
) -> Real:
    """The sum over a window of x times taps, in `dtype`: [*batch, *groups, *outer, results].

    x        [*batch, *groups, *summed, points]; taps [*groups, *outer, *summed, *window]
    kinds    how many dimensions are batch, groups, outer and summed
    flat     whether the results of a map are one dimension
    held     where the points of a map begin that x has, and the first results and their number

    Where data may not decide (see is_traced), a window that meets NaN or an infinity gives NaN."""
    left, right = _settled(as_real(x)), _settled(as_real(taps))
    of_batch, of_groups, of_outer, _ = kinds
    lead = left.mantissa.shape[:-1]
    batch, groups = lead[:of_batch], lead[of_batch : of_batch + of_groups]
    summed = lead[of_batch + of_groups :]
    outer = right.mantissa.shape[of_groups : of_groups + of_outer]
    b, g, o, c = (volume(each) for each in (batch, groups, outer, summed))
    window = tuple(step[2] for step in steps)
    results = tuple(step[1] for step in steps)
    shape = (*batch, *groups, *outer, *((volume(results),) if flat else results))
    if not volume(shape) or not left.mantissa.numel() or not right.mantissa.numel():
        return Real(left.mantissa.new_zeros(_cut(shape, held)))
    left = _on_map(left, (b, g * c), steps, held)
    right = _whole(right)
    right = right.each(lambda part: part.expand(*part.shape[: -len(window)], *window))
    right = right.each(lambda part: part.reshape(g * o, c, *window))
    strange = any(step[3] < 1 or step[4] == 0 for step in steps) or len(steps) not in CONVOLUTIONS
    carried = left.exponent is not None or right.exponent is not None
    if strange or carried or not (is_traced() or (_is_finite(left) and _is_finite(right))):
        found = _tap_by_tap(left, right, (b, g, o, c), steps)
    elif is_traced():
        own, other = left.mantissa.to(dtype), right.mantissa.to(dtype)
        lost = _windows_met(own, other, g, steps)
        found = Real(_convolved(finite_part(own), finite_part(other), g, steps))
        found = found.each(lambda part: torch.where(lost, math.nan, part))
    else:
        found = Real(_convolved(left.mantissa.to(dtype), right.mantissa.to(dtype), g, steps))
    found = found.each(lambda part: part.expand(b, *part.shape[1:]).reshape(shape))
    return _rows(found, held)


def pooled(
    how: str,
    x: Value,
    steps: Sequence[Step],
    flat: bool,
    held: tuple[int, int, int] | None = None,
) -> Real:
    """The sum, the maximum or the minimum over a window of x [..., points]: [..., results]."""
    value = _settled(as_real(x))
    lead = value.mantissa.shape[:-1]
    value = _on_map(value, lead, steps, held, OVER_NOTHING[how])
    results = tuple(step[1] for step in steps)
    shape = (*lead, *((volume(results),) if flat else results))
    dims = tuple(range(len(lead) + len(steps), len(lead) + 2 * len(steps)))
    fold = {"sum": total, "max": largest, "min": smallest}[how]
    if not volume(shape):
        return Real(value.mantissa.new_zeros(_cut(shape, held)))
    if value.exponent is None and all(step[3] > 0 and step[4] for step in steps):
        padded = functional.pad(value.mantissa, _padding(steps), value=OVER_NOTHING[how])
        for place, (_, _, count, stride, gap, _) in enumerate(steps):
            padded = _unfolded(padded, len(lead) + place, count, stride, abs(gap))
        found: Real = fold(Real(padded), dims)
    else:
        inside = torch.ones(value.mantissa.shape[len(lead) :], dtype=torch.bool)
        inside = inside.to(value.mantissa.device)
        for step in steps:
            inside = _windows(inside, len(steps), step)
            value = value.each(lambda part, s=step: _windows(part, len(steps), s))  # type: ignore[misc]
        found = fold(value, dims, where=inside)
    return _rows(found.each(lambda part: part.expand(*lead, *results).reshape(shape)), held)


def _unfolded(x: Tensor, dim: int, count: int, stride: int, gap: int) -> Tensor:
    """The windows along a dimension that lie in it, as a last one."""
    span = gap * (count - 1) + 1
    if not torch.compiler.is_compiling():
        return x.unfold(dim, span, stride)[..., ::gap]
    # The derivative of `unfold` is another that inductor writes beyond its end (see eager_rows).
    first = stride * torch.arange((x.shape[dim] - span) // stride + 1, device=x.device)
    return _windows_at(x, dim, first[:, None] + gap * torch.arange(count, device=x.device))


def _windows_at(x: Tensor, dim: int, at: Tensor) -> Tensor:
    """x at [results, count] rows of a dimension: the results in its place, the counts last."""
    found = rows_at(x, at.reshape(-1), dim)
    return found.reshape(*x.shape[:dim], *at.shape, *x.shape[dim + 1 :]).movedim(dim + 1, -1)


def _windows(x: Tensor, place: int, step: Step) -> Tensor:
    """The points of each result along the dimension `place` from the end, as a last one."""
    size, results, count, stride, gap, first = step
    device = x.device
    at = stride * torch.arange(results, device=device)[:, None]
    at = at + gap * torch.arange(count, device=device) + first
    dim = x.ndim - place
    inside = (at >= 0) & (at < size)
    if not size:
        return x.new_zeros(*x.shape[:dim], results, *x.shape[dim + 1 :], count)
    found = _windows_at(x, dim, at.clamp(0, size - 1))
    return found & _to_end(inside, found.ndim, dim) if x.dtype == torch.bool else found


def _to_end(inside: Tensor, dims: int, dim: int) -> Tensor:
    """[results, count] with these at a dimension and at the end."""
    return inside.reshape(*(1,) * dim, inside.shape[0], *(1,) * (dims - dim - 2), inside.shape[1])


def _convolved(x: Tensor, taps: Tensor, groups: int, steps: Sequence[Step]) -> Tensor:
    """[batch, groups * outer, *results] of [batch, groups * summed, *points]."""
    for place, step in enumerate(steps):
        taps = taps.flip(place + 2) if step[4] < 0 else taps
    strides = [step[3] for step in steps]
    gaps = [abs(step[4]) for step in steps]
    padded = functional.pad(x, _padding(steps))
    return CONVOLUTIONS[len(steps)](padded, taps, None, strides, 0, gaps, groups)


def _windows_met(x: Tensor, taps: Tensor, groups: int, steps: Sequence[Step]) -> Tensor:
    """Whether the points or the taps of a result hold something that is not finite."""
    points = x.reshape(x.shape[0], groups, -1, *x.shape[2:])
    flags = (~torch.isfinite(points)).any(2).to(x.dtype)
    own = (~torch.isfinite(taps)).any(1, keepdim=True).to(x.dtype)
    by_points = _convolved(flags, torch.ones_like(own), groups, steps)
    by_taps = _convolved(torch.ones_like(flags[:1]), own, groups, steps)
    return (by_points + by_taps) > 0


def _padding(steps: Sequence[Step]) -> list[int]:
    """How many points lie outside before and after each coordinate, the last one first; below 0
    those that no window has."""
    padding: list[int] = []
    for size, results, count, stride, gap, first in steps:
        lowest = first + min(gap, 0) * (count - 1)
        highest = first + max(gap, 0) * (count - 1) + stride * (results - 1)
        padding = [-lowest, highest + 1 - size, *padding]
    return padding


def _tap_by_tap(
    x: Real, taps: Real, sizes: tuple[int, int, int, int], steps: Sequence[Step]
) -> Real:
    """The same for any numbers: what lies outside is in no product."""
    _, g, o, c = sizes
    result: Real | None = None
    device = x.mantissa.device
    for at in combinations(*(range(step[2]) for step in steps)):
        part, inside = x, torch.ones((), dtype=torch.bool, device=device)
        for place, (u, step) in enumerate(zip(at, steps, strict=True)):
            size, results, _, stride, gap, first = step
            rows = stride * torch.arange(results, device=device) + gap * u + first
            inside = inside[..., None] & (rows >= 0) & (rows < size)
            rows = rows.clamp(0, size - 1)
            part = part.each(lambda p, d=place + 2, r=rows: rows_at(p, r, d))  # type: ignore[misc]
        part = part.each(lambda p: p.reshape(-1, g, 1, c, *p.shape[2:]))
        tap = taps.each(lambda p, at=at: p[(..., *at)].reshape(1, g, o, c, *(1,) * len(steps)))  # type: ignore[misc]
        found = total(part * tap, (3,), where=inside)
        result = found if result is None else result + found
    assert result is not None
    return result.each(lambda p: p.reshape(p.shape[0], g * o, *p.shape[3:]))


def _settled(x: Real) -> Real:
    """Without an exponent, where no number is too large or too small for that."""
    if x.exponent is None or is_traced():
        return x
    value = plain(x)
    with torch.no_grad():
        kept = (value.abs() >= torch.finfo(value.dtype).tiny) | (x.mantissa == 0)
        fine = bool((kept & torch.isfinite(value)).all())
    return Real(value) if fine else x


def _whole(x: Real) -> Real:
    """Both of its tensors of one shape."""
    return x if x.exponent is None else Real(*broadcast(x.mantissa, x.exponent))


def _on_map(
    x: Real,
    lead: Sequence[int],
    steps: Sequence[Step],
    held: tuple[int, int, int] | None,
    nothing: float = 0.0,
) -> Real:
    """Points of a line as those of a map, `nothing` where x has none."""
    x = _whole(x)
    sizes = tuple(step[0] for step in steps)
    missing = 0 if held is None else volume(sizes) - held[0] - x.mantissa.shape[-1]
    if held is not None and (held[0] or missing):
        ends = (held[0], missing)
        mantissa = functional.pad(x.mantissa, ends, value=nothing)
        x = Real(mantissa, None if x.exponent is None else functional.pad(x.exponent, ends))
    return x.each(lambda part: part.reshape(*lead, *sizes))


def _rows(x: Real, held: tuple[int, int, int] | None) -> Real:
    if held is None or (held[1] == 0 and held[2] == x.mantissa.shape[-1]):
        return x
    return x.each(lambda part: part.narrow(-1, held[1], held[2]))


def _cut(shape: tuple[int, ...], held: tuple[int, int, int] | None) -> tuple[int, ...]:
    return shape if held is None else (*shape[:-1], held[2])


def _is_finite(x: Real) -> bool:
    return all_finite(x.mantissa)


def bagged(
    x: Value,
    lead: int,
    at: Value,
    weight: Value,
    sizes: tuple[Sequence[int], Sequence[int]],
    where: Value = True,
) -> Real:
    """The weighted sum of rows that are looked up: sum over the bag of weight * x[at].

    x        its first `lead` dimensions are the rows, in order
    sizes    of the results, and of a bag: at, weight and where broadcast over both"""
    rows = plain(x)
    rows = rows.reshape(volume(rows.shape[:lead]), *rows.shape[lead:])
    kept, bag = (tuple(each) for each in sizes)
    count, width = len(rows), rows.shape[1:]
    wide = torch.promote_types(rows.dtype, torch.float32)

    def flat(part: Value) -> Tensor:
        tensor = torch.as_tensor(part, device=rows.device)
        return tensor.expand(*kept, *bag).reshape(volume(kept), volume(bag))

    places = flat(at)
    inside = (places >= 0) & (places < count)
    if where is not True:
        inside = inside & flat(where)
    places = torch.where(inside, places, count)
    weights = as_real(weight)
    table = functional.pad(rows.reshape(count, volume(width)).to(wide), (0, 0, 0, 1))
    top = None
    mantissa = torch.where(inside, flat(weights.mantissa).to(wide), 0.0)
    if weights.exponent is not None:
        exponent = flat(weights.exponent)
        with torch.no_grad():
            counted = torch.where(inside & (mantissa != 0), exponent, -math.inf)
            top = counted.amax(-1) if counted.shape[-1] else counted.new_zeros(len(counted))
            top = torch.where(torch.isfinite(top), top, 0.0)
        mantissa = mantissa * torch.exp(torch.where(inside, exponent - top[:, None], 0.0))
        top = top.reshape(*kept, *(1,) * len(width))
    found = _gathered(table, places, mantissa)
    return Real(found.reshape(*kept, *width), top)


def _gathered(table: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """The weighted sums; where somebody traces or transforms, of plain operations."""
    if torch.compiler.is_compiling():
        return _bag(table, places, weights)
    if levels_live():
        return (table[places] * weights[..., None]).sum(1)
    found: Tensor = Bag.apply(table, places, weights)  # type: ignore[no-untyped-call]
    return found


def _bag(table: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    last = len(table) - 1
    if not places.numel() or not table.numel():
        return table.new_zeros(len(places), table.shape[1])
    return functional.embedding_bag(
        places, table, mode="sum", per_sample_weights=weights, padding_idx=last
    )


class Bag(torch.autograd.Function):
    """A sum of looked-up rows that keeps the rows' places alone, whose derivative has one too."""

    @staticmethod
    def forward(ctx, table, places, weights):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(table, places, weights)
        return _bag(table, places, weights)

    @staticmethod
    def backward(ctx, slope):  # type: ignore[no-untyped-def]
        table, places, weights = ctx.saved_tensors
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            if again:
                found = (table[places] * weights[..., None]).sum(1)
                wanted = (table, weights)
            else:
                wanted = (table.detach().requires_grad_(), weights.detach().requires_grad_())
                found = _bag(wanted[0], places, wanted[1])
            needed = [one for one, n in zip(wanted, ctx.needs_input_grad[::2], strict=True) if n]
            slopes = iter(torch.autograd.grad(found, needed, slope, create_graph=again))
        of_table, of_weights = (next(slopes) if n else None for n in ctx.needs_input_grad[::2])
        return of_table, None, of_weights


def transformed(x: Value, part: str, count: int) -> Real:
    """The sums over the last dimension, n long, of x[t] * cos(2 pi f t / n) or of sines, for f <
    count. In float64: a transform spreads the rounding of its largest entries over all."""
    value = as_real(x).plain()
    size = value.shape[-1]
    if not size:
        return Real(value.new_zeros(*value.shape[:-1], count))
    spectrum = torch.fft.fft(value.double())
    found = spectrum.real if part == "cos" else -spectrum.imag
    if count != size:
        found = rows_at(found, torch.arange(count, device=found.device) % size, found.ndim - 1)
    return Real(found.to(value.dtype))
