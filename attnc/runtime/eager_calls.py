"""Solves, slopes, random numbers, and calls entry by entry, for the dense torch form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from attnc.runtime.eager_numbers import Real, Value, as_real
from attnc.runtime.eager_slopes import broadcast, is_traced

vjp: Any = torch.func.vjp  # its types allow for a third result


# Who asks which roots are missing: the unknown, where both ends are on one side, the ends and the
# sides' difference there.
Asked = tuple[str, Tensor, tuple[Tensor, ...]]
ASKED: ContextVar[list[Asked] | None] = ContextVar("ASKED", default=None)


@contextmanager
def asked_roots() -> Iterator[list[Asked]]:
    """Collects the unknowns that are solved for inside, each with where it has no root."""
    found: list[Asked] = []
    token = ASKED.set(found)
    try:
        yield found
    finally:
        ASKED.reset(token)


def root(
    low: Value, high: Value, sides: Callable[[Value], tuple[Value, Value]], name: str = ""
) -> Real:
    """The unknown between low and high at which the two sides meet; NaN where both ends of a finite
    bracket are on one side by more than a thousandth, or a few roundings of 16 bits.

    Bisection to the last bit (where data may not decide, as often as that can take), then two steps
    of Newton's method: they move the value by rounding only, and carry the implicit function's
    derivatives up to second order."""

    def difference(at: Tensor) -> Tensor:
        left, right = sides(Real(at))
        return as_real(left - right).plain()

    with torch.no_grad():
        a, b = (as_real(end).plain().detach() for end in (low, high))
        first, last = difference(a).detach(), difference(b).detach()
        a, b, first, last = broadcast(a, b, first, last)
        bracket, falls = (a, b, first, last), first >= last
        unit = torch.finfo(a.dtype).eps
        bit = unit / 2 * torch.maximum(a.abs(), b.abs())
        for _ in range(2 - round(math.log2(unit))):
            middle = a + (b - a) / 2
            if not is_traced() and not bool(((b - a > bit) & (middle != a) & (middle != b)).any()):
                break
            value = difference(middle).detach()
            above = torch.where(falls, value > 0, value < 0)
            a, b = torch.where(above, middle, a), torch.where(above, b, middle)
        unknown = a + (b - a) / 2
        ends = torch.minimum(first, last), torch.maximum(first, last)
        beyond = torch.maximum(ends[0], -ends[1]) / torch.clamp(unknown.abs(), min=1.0)
        asked = None if is_traced() else ASKED.get()
        if asked is not None:
            asked.append((name, beyond > 1e-9, bracket))
        lost = (beyond > max(2**-10, 4 * unit)) & torch.isfinite(unknown) & torch.isfinite(beyond)
        unknown = torch.where(lost, math.nan, unknown)
    for _ in range(2):
        value, pull = vjp(difference, unknown)
        (slope,) = pull(torch.ones_like(value))
        flat = (slope == 0) | ~torch.isfinite(slope) | ~torch.isfinite(value)
        one, zero = torch.ones_like(value), torch.zeros_like(value)
        unknown = unknown - torch.where(flat, zero, value) / torch.where(flat, one, slope)
    return Real(unknown)


def slope_by(number: Callable[[Value], Value], at: Value) -> Real:
    """The derivative of a number (one for each outer point) by a state; differentiable itself."""

    def whole(x: Tensor) -> Tensor:
        return as_real(number(Real(x))).plain().sum()

    value, pull = vjp(whole, as_real(at).plain())
    return Real(pull(torch.ones_like(value))[0])


def _wide_product(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low words of a product of 32-bit words held in int64, which has no room for it."""
    low, high = a & 0xFFFF, a >> 16
    first, second = low * b, high * b
    lower = (first + ((second & 0xFFFF) << 16)) & 0xFFFFFFFF
    carry = ((first >> 16) + (second & 0xFFFF)) >> 16
    return (second >> 16) + carry, lower


def random(seed: int, ordinal: int, b: Value, h: Value, i: Value, j: Value, like: Tensor) -> Real:
    """Philox4x32-10 (Salmon et al., SC 2011): counter (j // 4, i, h, b), key seed + ordinal, word
    j % 4, its upper 24 bits times 2**-24."""
    at = [torch.as_tensor(x, dtype=torch.int64, device=like.device) for x in (b, h, i, j)]
    b, h, i, j = broadcast(*at)
    c = [x & 0xFFFFFFFF for x in (torch.div(j, 4, rounding_mode="floor"), i, h, b)]
    mixed = (seed + ordinal) % 2**64
    k0, k1 = mixed & 0xFFFFFFFF, mixed >> 32
    for _ in range(10):
        high0, low0 = _wide_product(0xD2511F53, c[0])
        high1, low1 = _wide_product(0xCD9E8D57, c[2])
        c = [high1 ^ c[1] ^ k0, low1, high0 ^ c[3] ^ k1, low0]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    word = torch.stack(c, -1).gather(-1, (j % 4)[..., None])[..., 0]
    return Real(
        (word >> 8).to(torch.float64 if like.dtype == torch.float64 else torch.float32) * 2.0**-24
    )


# --- Calls ---------------------------------------------------------------------------------------


def per_batch(*given: Any) -> bool:
    """Whether an offset or a key length is given for each batch entry."""
    return any(
        (isinstance(x, Tensor) and x.ndim > 0) or isinstance(x, (list, tuple)) for x in given
    )


def over_batch(
    form: Callable[..., dict[str, Tensor]],
    tensors: dict[str, Tensor | None],
    batched: dict[str, int],
    results: dict[str, int],
    shifts: dict[str, Any],
    others: dict[str, Any],
) -> dict[str, Tensor]:
    """The form for one batch entry after the other: `batched` and `results` are the batch axes of
    the tensors and of what comes out; `shifts` are offsets and key lengths, one or one each."""
    given = {name: x for name, x in tensors.items() if x is not None}
    count = next(x.shape[batched[name]] for name, x in given.items() if name in batched)
    if count == 0:
        alike = {name: 0 if per_batch(x) else x for name, x in shifts.items()}
        return form(**tensors, **alike, **others)
    parts = []
    for entry in range(count):
        one = {
            name: x.narrow(batched[name], entry, 1) if name in batched and x is not None else x
            for name, x in tensors.items()
        }
        own = {
            name: int(x[entry if len(x) > 1 else 0]) if per_batch(x) else x
            for name, x in shifts.items()
        }
        parts.append(form(**one, **own, **others, first_entry=entry))
    return {name: torch.cat([part[name] for part in parts], results[name]) for name in parts[0]}
