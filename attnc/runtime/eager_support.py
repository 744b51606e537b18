"""Folds, selections and reads that the dense torch form of an operator is printed with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from attnc.runtime.eager_numbers import Real, Value, as_real, live, plain, shifted
from attnc.runtime.eager_rows import rows_at
from attnc.runtime.eager_slopes import all_finite, broadcast, is_traced, volume


def spread(x: Value, sizes: Sequence[int]) -> Value:
    """x, a tensor, Real or number, over all of `sizes`."""
    if isinstance(x, Real):
        return x.each(lambda part: part.expand(*sizes))
    return torch.as_tensor(x).expand(*sizes)


def finished(x: Value, sizes: Sequence[int], dtype: torch.dtype | None, like: Tensor) -> Tensor:
    """An output: a tensor of `sizes` and, where it is real, of `dtype`."""
    tensor = torch.as_tensor(plain(x), device=like.device)
    if dtype is not None and not tensor.is_complex():
        tensor = tensor.to(dtype)
    tensor = tensor.expand(*sizes).contiguous()
    return tensor if torch.is_grad_enabled() else tensor.detach()


def padded(x: Tensor, dim: int, size: int, fill: float) -> Tensor:
    """An output over keys that `key_length` has cut, filled up to all of them."""
    shape = list(x.shape)
    shape[dim] = size - shape[dim]
    return torch.cat([x, x.new_full(shape, fill)], dim)


def measured(*sites: tuple[Tensor | None, int]) -> int:
    """The length of an axis, from the first of the optional tensors that is given."""
    return next((tensor.shape[dim] for tensor, dim in sites if tensor is not None), 0)


def constant(x: Value, dtype: torch.dtype, like: Tensor) -> Real:
    """A number as a Real."""
    return (
        as_real(x)
        if isinstance(x, (Real, Tensor))
        else Real(torch.tensor(x, dtype=dtype, device=like.device))
    )


def stacked(rows: list[Value], dim: int, sizes: Sequence[int], dtype: torch.dtype) -> Value:
    """What was recorded row by row, along `dim` of `sizes`; sizes without that dimension are those
    of a row."""
    inner = [*sizes[:dim], *sizes[dim + 1 :]]
    if not rows:
        empty = torch.zeros(*sizes, dtype=dtype)
        return Real(empty) if dtype.is_floating_point or dtype.is_complex else empty
    whole = [spread(row, inner) for row in rows]
    if not isinstance(whole[0], Real):
        return torch.stack(whole, dim)
    if all(row.exponent is None for row in whole):
        return Real(torch.stack([row.mantissa for row in whole], dim))
    exponents = [
        torch.zeros_like(row.mantissa.real) if row.exponent is None else row.exponent
        for row in whole
    ]
    return Real(torch.stack([row.mantissa for row in whole], dim), torch.stack(exponents, dim))


# --- Folds: over the points where the condition holds, and nothing else --------------------------


def _masked(x: Value, condition: Value) -> tuple[Real, Tensor]:
    """x and its condition over one shape."""
    value = as_real(x)
    parts = [value.mantissa] if value.exponent is None else [value.mantissa, value.exponent]
    condition = torch.as_tensor(condition, device=value.mantissa.device)
    *parts, condition = broadcast(*parts, condition)
    return Real(*parts), condition


def total(x: Value, dim: tuple[int, ...], where: Value = True) -> Value:
    """The sum over dimensions."""
    if not isinstance(x, Real):
        condition = torch.as_tensor(where, device=x.device)
        x, condition = broadcast(x, condition)
        return torch.where(condition, x, torch.zeros_like(x)).sum(dim)
    x, condition = _masked(x, where)
    mantissa = torch.where(condition, x.mantissa, torch.zeros_like(x.mantissa))
    if x.exponent is None:
        return Real(mantissa.sum(dim))
    top = _top(x, condition, dim)
    kept = Real(mantissa, torch.where(condition, x.exponent, top))
    return Real(shifted(kept, top).sum(dim), _dropped(top, dim))


def _top(x: Real, condition: Tensor, dim: tuple[int, ...]) -> Tensor:
    """The largest exponent that counts in each fold, 0 where there is none; a constant."""
    assert x.exponent is not None
    with torch.no_grad():
        counted = torch.where(condition & live(x), x.exponent, -math.inf)
        if 0 in counted.shape:
            shape = [
                1 if place in _positive(dim, x) else n for place, n in enumerate(counted.shape)
            ]
            return torch.zeros(shape, dtype=counted.dtype, device=counted.device)
        top = counted.amax(dim, keepdim=True)
        return torch.where(torch.isfinite(top), top, torch.zeros_like(top))


def _positive(dim: tuple[int, ...], x: Real) -> list[int]:
    return [place % x.mantissa.ndim for place in dim]


def _dropped(x: Tensor, dim: tuple[int, ...]) -> Tensor:
    return x.squeeze(dim)


def product(x: Value, dim: tuple[int, ...], where: Value = True) -> Value:
    """The product over dimensions; what the factors are large by goes to the exponent."""
    if not isinstance(x, Real):
        condition = torch.as_tensor(where, device=x.device)
        x, condition = broadcast(x, condition)
        x = torch.where(condition, x, torch.ones_like(x))
        return _folded(x, dim).prod(-1)
    x, condition = _masked(x, where)
    mantissa = torch.where(condition, x.mantissa, torch.ones_like(x.mantissa))
    with torch.no_grad():
        size = torch.where(live(Real(mantissa)), mantissa.abs(), 1.0)
        power = torch.log(size)
    exponent = power if x.exponent is None else power + torch.where(condition, x.exponent, 0.0)
    scaled = mantissa / size
    return Real(_folded(scaled, dim).prod(-1), exponent.sum(dim))


def _folded(x: Tensor, dim: tuple[int, ...]) -> Tensor:
    """The dimensions of a fold as one, the last."""
    inner = [place % x.ndim for place in dim]
    outer = [place for place in range(x.ndim) if place not in inner]
    count = volume(x.shape[place] for place in inner)
    return x.permute(*outer, *inner).reshape([x.shape[place] for place in outer] + [count])


def largest(x: Value, dim: tuple[int, ...], where: Value = True) -> Value:
    """The maximum over dimensions, -inf over nothing; ties share the gradient, as torch.amax."""
    return _extreme(x, dim, where, -math.inf)


def smallest(x: Value, dim: tuple[int, ...], where: Value = True) -> Value:
    return -_extreme(-x, dim, where, -math.inf)


def _extreme(x: Value, dim: tuple[int, ...], condition: Value, none: float) -> Value:
    if not isinstance(x, Real):
        allowed = torch.as_tensor(condition, device=x.device)
        x, allowed = broadcast(x, allowed)
        flat = _folded(torch.where(allowed, x, torch.iinfo(torch.int64).min), dim)
        if flat.shape[-1] == 0:
            return torch.full(flat.shape[:-1], torch.iinfo(torch.int64).min, device=x.device)
        return flat.amax(-1)
    x, allowed = _masked(x, condition)
    flat = _folded(torch.where(allowed, x.mantissa, none), dim)
    if flat.shape[-1] == 0:
        return Real(flat.new_full(flat.shape[:-1], none))
    if x.exponent is None:
        return Real(flat.amax(-1))
    exponent = _folded(torch.where(allowed, x.exponent, 0.0), dim)
    sign = torch.sign(flat)
    size = torch.log(torch.where(sign == 0, 1.0, flat.abs())) + exponent
    size = torch.where(torch.isinf(flat), math.inf, size)
    first = sign == sign.amax(-1, keepdim=True)
    place = torch.where(first, sign * size, none).argmax(-1, keepdim=True)
    found = (rows_at(part, place, part.ndim - 1)[..., 0] for part in (flat, exponent))
    return Real(*found)


def contract(
    equation: str,
    *factors: Value,
    where: tuple[str, Tensor] | None = None,
    dtype: torch.dtype,
) -> Real:
    """The sum of a product as one einsum in `dtype` (complex factors stay complex).

    where    the letters of a condition and the condition: other points are outside the sum.
    One factor may have an exponent: it is taken relative to the largest of its fold. Two would need
    a common shift for each pair, and what is not finite would leak from masked points through
    0 * inf, so those cases are multiplied out and then summed. Where data may not decide (see
    is_traced), a sum that meets something not finite is NaN.
    """
    inputs, output = equation.split("->")
    letters = inputs.split(",")
    reals = [as_real(factor) for factor in factors]
    carriers = [place for place, each in enumerate(reals) if each.exponent is not None]
    lost: Tensor | None = None
    if len(carriers) > 1 or not (is_traced() or _are_finite(reals)):
        return _multiplied_out(letters, output, reals, where)
    if where is not None and is_traced():
        flags = [~torch.isfinite(each.mantissa) for each in reals]
        lost = _flags_met(letters, output, flags, where)
        reals = [Real(finite_part(each.mantissa), each.exponent) for each in reals]
    top = None
    if carriers:
        place = carriers[0]
        names = (
            letters[place] + "".join(c for c in where[0] if c not in letters[place])
            if where
            else letters[place]
        )
        x = reals[place].each(lambda part: _onto(part, letters[place], names))
        condition = _onto(where[1], where[0], names) if where else torch.as_tensor(True)
        x, condition = _masked(x, condition.to(x.mantissa.device))
        dim = tuple(at for at, letter in enumerate(names) if letter not in output)
        assert x.exponent is not None
        top = _top(x, condition, dim) if dim else x.exponent.detach()
        kept = Real(
            torch.where(condition, x.mantissa, torch.zeros_like(x.mantissa)),
            torch.where(condition, x.exponent, top),
        )
        reals = [*reals[:place], Real(shifted(kept, top)), *reals[place + 1 :]]
        letters = [*letters[:place], names, *letters[place + 1 :]]
        shown = "".join(letter for letter in names if letter in output)
        ordered = "".join(letter for letter in output if letter in shown)
        top = _onto(_dropped(top, dim) if dim else top, shown, ordered)
        top = top[tuple(slice(None) if letter in shown else None for letter in output)]
    elif where is not None:
        reals = [_shown(own, each, where) for own, each in zip(letters, reals, strict=True)]
        letters, reals = [*letters, where[0]], [*reals, Real(where[1].to(dtype))]
    whole = torch.promote_types(dtype, torch.complex64)
    complex_ones = any(each.mantissa.is_complex() for each in reals)
    cast = [each.mantissa.to(whole if complex_ones else dtype) for each in reals]
    found = torch.einsum(f"{','.join(letters)}->{output}", *cast)
    return Real(found if lost is None else torch.where(lost, math.nan, found), top)


def _shown(letters: str, x: Real, where: tuple[str, Tensor]) -> Real:
    """x, and 0 at masked points if it is of them all: a tangent there may be NaN."""
    if not set(where[0]) <= set(letters):
        return x
    condition = _onto(where[1], where[0], letters)
    return Real(torch.where(condition, x.mantissa, torch.zeros_like(x.mantissa)))


def finite_part(x: Tensor) -> Tensor:
    """x with 0 for what is not finite."""
    return torch.where(torch.isfinite(x), x, torch.zeros_like(x))


def _are_finite(reals: Sequence[Real]) -> bool:
    return all(all_finite(each.mantissa) for each in reals)


def _flags_met(
    letters: Sequence[str], output: str, flags: Sequence[Tensor], where: tuple[str, Tensor]
) -> Tensor:
    """Whether one of the flags is met in a fold where the condition holds."""
    found = torch.zeros((), dtype=torch.bool, device=flags[0].device)
    for own, each in zip(letters, flags, strict=True):
        shown = "".join(letter for letter in output if letter in own + where[0])
        counted = torch.einsum(f"{own},{where[0]}->{shown}", each.float(), where[1].float())
        found = found | (_onto(counted, shown, output) > 0)
    return found


def _onto(x: Tensor, letters: str, onto: str) -> Tensor:
    """The tensor with the axes `onto`, which hold its own."""
    order = [letters.index(letter) for letter in onto if letter in letters]
    x = x.permute(*order) if order else x
    return x[tuple(slice(None) if letter in letters else None for letter in onto)]


def _multiplied_out(
    letters: list[str], output: str, reals: list[Real], condition: tuple[str, Tensor] | None
) -> Real:
    summed = "".join(dict.fromkeys(c for each in letters for c in each if c not in output))
    if condition is not None:
        summed += "".join(c for c in condition[0] if c not in output + summed)
    names = output + summed
    result: Real | None = None
    for own, each in zip(letters, reals, strict=True):
        part = each.each(lambda x, own=own: _onto(x, own, names))  # type: ignore[misc]
        result = part if result is None else result * part
    assert result is not None
    mask: Value = True if condition is None else _onto(condition[1], condition[0], names)
    dim = tuple(range(len(output), len(names)))
    return total(result, dim, where=mask)  # type: ignore[no-any-return]


# --- Selections ----------------------------------------------------------------------------------


def _order(key: Value, condition: Value, descending: bool) -> tuple[Tensor, Tensor]:
    """Places along the last axis, allowed ones first, ties by place; and the condition."""
    with torch.no_grad():
        parts = _keys(key)
        allowed = torch.as_tensor(condition, device=parts[0].device)
        *parts, allowed = broadcast(*parts, allowed)
        order = torch.arange(allowed.shape[-1], device=allowed.device).expand(allowed.shape)
        for part in reversed(parts):
            order = _resorted(part, order, descending)
        return _resorted(allowed, order, True), allowed


def _keys(key: Value) -> list[Tensor]:
    """Tensors, most significant first, that sort like the values."""
    if not isinstance(key, Real):
        return [key.to(torch.int64)]
    if key.exponent is None:
        return [key.mantissa]
    sign = torch.sign(key.mantissa)
    size = torch.log(torch.where(sign == 0, 1.0, key.mantissa.abs())) + key.exponent
    if is_traced():  # what is far below the largest is told apart by its logarithm
        top = torch.where(live(key), key.exponent, -math.inf)
        top = top.amax(-1, keepdim=True) if top.shape[-1] else top
        return [shifted(key, torch.where(torch.isfinite(top), top, 0.0)), sign * size]
    if key.exponent.numel() == 0 or key.exponent.abs().max() < 80:
        return [key.plain()]
    return [sign, sign * size]


def _resorted(part: Tensor, order: Tensor, descending: bool) -> Tensor:
    part = part.to(torch.int8) if part.dtype == torch.bool else part
    again = torch.sort(part.gather(-1, order), dim=-1, descending=descending, stable=True).indices
    return order.gather(-1, again)


def among_largest(key: Value, count: Value, dim: tuple[int, ...], where: Value = True) -> Tensor:
    """True for the `count` largest over dimensions, which become the last ones. A tensor `count`
    has the other dimensions and one of size 1."""
    flat, mask, shape = _flat(key, where, dim)
    order, allowed = _order(flat, mask, True)
    chosen: Tensor = (order.argsort(-1) < count) & allowed
    return chosen.reshape(*chosen.shape[:-1], *shape)


def ranked(key: Value, dim: tuple[int, ...], where: Value = True) -> Tensor:
    """How many allowed points come before each in (key, place) order; the dimensions come last."""
    flat, mask, shape = _flat(key, where, dim)
    order, _ = _order(flat, True, False)
    mask = torch.as_tensor(mask, device=order.device).expand(order.shape)
    counted = mask.gather(-1, order).to(torch.int64)
    before = (counted.cumsum(-1) - counted).gather(-1, order.argsort(-1))
    return before.reshape(*before.shape[:-1], *shape)


def first_extreme(
    key: Value, dim: tuple[int, ...], descending: bool, start: int, where: Value = True
) -> Tensor:
    """The position of the largest or smallest, the lowest among equals; -1 over nothing."""
    flat, mask, _ = _flat(key, where, dim)
    order, allowed = _order(flat, mask, descending)
    if order.shape[-1] == 0:
        return torch.full(order.shape[:-1], -1, device=order.device)
    return torch.where(allowed.any(-1), order[..., 0] + start, -1)


def _flat(key: Value, condition: Value, dim: tuple[int, ...]) -> tuple[Value, Value, list[int]]:
    """Key and condition with the dimensions as one, the last; and the lengths of those."""
    real = key if isinstance(key, Real) else None
    tensor = real.mantissa if real is not None else key
    allowed = torch.as_tensor(condition, device=tensor.device)
    if real is not None and real.exponent is not None:
        tensor, exponent, allowed = broadcast(tensor, real.exponent, allowed)
        flat: Value = Real(_folded(tensor, dim), _folded(exponent, dim))
    else:
        tensor, allowed = broadcast(tensor, allowed)
        flat = _folded(tensor, dim) if real is None else Real(_folded(tensor, dim))
    return flat, _folded(allowed, dim), [tensor.shape[place] for place in dim]


# --- Reads ---------------------------------------------------------------------------------------


def at(x: Value, *rows: Value) -> Value:
    """x at rows of all its axes, integers that broadcast together, clipped: what a read outside
    gives is only ever selected away."""
    tensor = x.mantissa if isinstance(x, Real) else x
    places = [torch.as_tensor(row, device=tensor.device) for row in rows]
    if 0 in tensor.shape:
        shape = broadcast(*places)[0].shape
        empty = torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
        return Real(empty) if isinstance(x, Real) else empty
    if isinstance(x, Real) and x.exponent is not None:
        tensor = broadcast(x.mantissa, x.exponent)[0]
    clipped = tuple(p.clamp(0, n - 1) for p, n in zip(places, tensor.shape, strict=True))
    if not torch.compiler.is_compiling():
        return x[clipped]
    # torch's tracer does not always lay out a read by several indices as the read itself does.
    flat = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for place, size in zip(clipped, tensor.shape, strict=True):
        flat = flat * size + place

    def pick(part: Tensor) -> Tensor:
        return rows_at(part.reshape(-1), flat.reshape(-1), 0).reshape(flat.shape)

    return x.each(pick) if isinstance(x, Real) else pick(x)
