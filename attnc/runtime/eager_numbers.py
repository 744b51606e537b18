"""The numbers that the dense torch form of an operator is printed with.

The yardstick. In float64 this is the reference of every derivative. In a lower dtype it is what a
researcher would write by hand: products that are matrix products run in the input dtype, sums of
exponentials (softmax) and all that is divided by them in float32, the result of a softmax goes back
to the input dtype before it meets the values. States are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attnc.runtime.eager_slopes import (
    broadcast,
    chained,
    divided,
    joint_dtype,
    joint_shape,
    multiplied,
)

Value = Any  # a Real, a tensor, or a Python number


class Real:
    """Real or complex numbers mantissa * exp(exponent): a tensor, and one that broadcasts with it
    or None. `exp` makes exponents, products add them, sums align them, `plain` removes them; the
    exponents that sums are aligned at are constants to autograd."""

    __slots__ = ("exponent", "mantissa")

    def __init__(self, mantissa: Tensor, exponent: Tensor | None = None) -> None:
        self.mantissa = mantissa
        self.exponent = exponent

    def __mul__(self, other: Value) -> Real:
        if isinstance(other, (int, float, complex)):
            return Real(self.mantissa * other, self.exponent)
        other = as_real(other)
        return Real(multiplied(self.mantissa, other.mantissa), _plus(self.exponent, other.exponent))

    __rmul__ = __mul__

    def __truediv__(self, other: Value) -> Real:
        if isinstance(other, (int, float, complex)) and other != 0:
            return Real(self.mantissa / other, self.exponent)
        other = as_real(other, self)
        negative = None if other.exponent is None else -other.exponent
        return Real(divided(self.mantissa, other.mantissa), _plus(self.exponent, negative))

    def __rtruediv__(self, other: Value) -> Real:
        return as_real(other, self) / self

    def __add__(self, other: Value) -> Real:
        if self.exponent is None and isinstance(other, (int, float, complex)):
            return Real(self.mantissa + other)
        other = as_real(other, self)
        (left, right), top = aligned(self, other)
        return Real(left + right, top)

    __radd__ = __add__

    def __neg__(self) -> Real:
        return Real(-self.mantissa, self.exponent)

    def __sub__(self, other: Value) -> Real:
        difference: Real = self + (-other)
        return difference

    def __rsub__(self, other: Value) -> Real:
        negative: Real = -self + other
        return negative

    def __pow__(self, by: Value) -> Real:
        if isinstance(by, Real):
            by = by.plain()
        if isinstance(by, Tensor) and (by.ndim or by.requires_grad):
            return self._power_of_each(by)
        by = float(by)
        exponent = None if self.exponent is None else self.exponent * by
        return Real(chained("power", self.mantissa, by), exponent)

    def _power_of_each(self, by: Tensor) -> Real:
        """A power of its own for each entry; of a negative number where it is a whole one."""
        by = by if by.is_floating_point() else by.to(self.mantissa.real.dtype)
        size = exp(log(absolute(self)) * Real(by))
        negative = self.mantissa.real < 0
        sign = torch.where(negative & (by.detach() % 2 == 1), -1.0, 1.0).to(by.dtype)
        lost = negative & (by.detach() != by.detach().round())
        value = where(lost, math.nan, size * Real(sign))
        return where(by.detach() == 0, 1.0, value)  # type: ignore[no-any-return]

    def __rpow__(self, base: Value) -> Real:
        if base <= 0:
            return as_real(base, self) ** self
        return where(*_whole_power(base, self.plain()), exp(self * math.log(base)))  # type: ignore[no-any-return]

    def _compared(self, op: str, other: Value) -> Tensor:
        (left, right), _ = aligned(self, as_real(other, self))
        result: Tensor = getattr(torch, op)(left, right)
        return result

    def __lt__(self, other: Value) -> Tensor:
        return self._compared("lt", other)

    def __le__(self, other: Value) -> Tensor:
        return self._compared("le", other)

    def __gt__(self, other: Value) -> Tensor:
        return self._compared("gt", other)

    def __ge__(self, other: Value) -> Tensor:
        return self._compared("ge", other)

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        return self._compared("eq", other)

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        return self._compared("ne", other)

    __hash__ = None  # type: ignore[assignment]

    def each(self, change: Callable[[Tensor], Tensor]) -> Real:
        """A change of shape, of both tensors."""
        mantissa, exponent = self.mantissa, self.exponent
        if exponent is not None:
            mantissa, exponent = broadcast(mantissa, exponent)
            exponent = change(exponent)
        return Real(change(mantissa), exponent)

    def __getitem__(self, at: Any) -> Real:
        return self.each(lambda x: x[at])

    def permute(self, *dims: int) -> Real:
        return self.each(lambda x: x.permute(*dims))

    def plain(self) -> Tensor:
        """The numbers themselves."""
        if self.exponent is None:
            return self.mantissa
        half = chained("exp", self.exponent / 2)  # in halves, so that neither factor overflows
        return multiplied(multiplied(self.mantissa, half), half)


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def as_real(value: Value, like: Real | None = None) -> Real:
    """A tensor or a Python number as a Real (of the dtype and device of `like`)."""
    if isinstance(value, Real):
        return value
    if isinstance(value, Tensor):
        return Real(value if value.is_floating_point() or value.is_complex() else value.double())
    if like is None:
        return Real(torch.tensor(value, dtype=torch.float64))
    return Real(torch.as_tensor(value, dtype=like.mantissa.dtype, device=like.mantissa.device))


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of statistics, states and positions."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def real(value: Value, dtype: torch.dtype) -> Value:
    """Integers or reals as reals."""
    if isinstance(value, Tensor):
        return Real(value.to(dtype))
    return value if isinstance(value, Real) else float(value)


def plain(value: Value) -> Value:
    return value.plain() if isinstance(value, Real) else value


def live(x: Real) -> Tensor:
    """Where a mantissa can be shifted: it is finite and not 0."""
    return torch.isfinite(x.mantissa) & (x.mantissa != 0)


def aligned(*values: Real) -> tuple[list[Tensor], Tensor | None]:
    """Mantissas under one exponent for each point, the largest of those that count."""
    if all(value.exponent is None for value in values):
        return [value.mantissa for value in values], None
    with torch.no_grad():
        tops = [torch.where(live(value), _exponent(value), -math.inf) for value in values]
        top = tops[0]
        for each in tops[1:]:
            top = torch.maximum(*broadcast(top, each))
        top = torch.where(torch.isfinite(top), top, 0.0)
    return [shifted(value, top) for value in values], top


def _exponent(x: Real) -> Tensor:
    if x.exponent is not None:
        return x.exponent
    dtype = x.mantissa.real.dtype if x.mantissa.is_complex() else x.mantissa.dtype
    return torch.zeros((), dtype=dtype, device=x.mantissa.device)


def shifted(x: Real, top: Tensor) -> Tensor:
    """Mantissas with respect to the exponent `top`; infinities and NaN stay what they are."""
    finite = torch.isfinite(x.mantissa)
    most = 700.0 if top.dtype == torch.float64 else 85.0  # above it only beside mantissas 0
    difference = torch.clamp(_exponent(x) - top, max=most)
    difference = torch.where(finite, difference, torch.zeros_like(difference))
    return multiplied(x.mantissa, torch.exp(difference))


# --- Functions -----------------------------------------------------------------------------------


def exp(x: Value) -> Real:
    value = as_real(x).plain()
    if value.dtype in (torch.float16, torch.bfloat16):
        value = value.float()
    if value.is_complex():
        return Real(torch.polar(torch.ones_like(value.imag), value.imag), value.real)
    finite = torch.isfinite(value)
    zero = torch.zeros_like(value)
    return Real(chained("exp", torch.where(finite, zero, value)), torch.where(finite, value, zero))


def log(x: Value) -> Value:
    if isinstance(x, (int, float)):
        return math.log(x) if x > 0 else -math.inf if x == 0 else math.nan
    value = as_real(x)
    mantissa = chained("log", value.mantissa)
    return Real(mantissa if value.exponent is None else mantissa + value.exponent)


def sqrt(x: Value) -> Value:
    if isinstance(x, (int, float)):
        return math.sqrt(x) if x >= 0 else math.nan
    value = as_real(x)
    half = None if value.exponent is None else value.exponent / 2
    return Real(chained("sqrt", value.mantissa), half)


def function(name: str, x: Value) -> Value:
    """softplus, sin, cos, asin, acos, atan, tanh or erf."""
    if isinstance(x, (int, float)):
        return float(chained(name, torch.tensor(x, dtype=torch.float64)))
    value = as_real(x).plain()
    if name == "softplus":  # the numbers that exp and log give
        value = value.to(wide(value.dtype))
    return Real(chained(name, value))


def _whole_power(base: float, by: Tensor) -> tuple[Tensor, Real]:
    """Where `by` is whole and the power no larger than a mantissa, and that power: to the last bit,
    for a floor may look at it."""
    at = by.detach()
    whole = (at == at.round()) & ((at * math.log2(base)).abs() < 24)
    power = torch.pow(base, torch.where(whole, by, torch.zeros_like(by)))
    if float(base).is_integer():
        nearest = torch.where(at < 0, power, power.round()).detach()
        power = power + (nearest - power.detach())
    return whole, Real(power)


def absolute(x: Value) -> Value:
    if isinstance(x, Real):
        return Real(torch.abs(x.mantissa), x.exponent)
    return abs(x)


def sign(x: Value) -> Value:
    if isinstance(x, Real):
        return Real(torch.sgn(x.mantissa))
    return torch.sign(x) if isinstance(x, Tensor) else (x > 0) - (x < 0)


def stop(x: Value) -> Value:
    """The value, a constant to autograd."""
    if isinstance(x, Real):
        return Real(x.mantissa.detach(), None if x.exponent is None else x.exponent.detach())
    return x


def rounded(name: str, x: Value) -> Value:
    """floor, ceil, round (half to even) or trunc, as integers."""
    if isinstance(x, (int, float)):
        return getattr(math, name)(x) if name != "round" else round(x)
    value = plain(x)
    if not value.is_floating_point():
        return value
    return getattr(torch, name)(value).nan_to_num(0.0, 0.0, 0.0).to(torch.int64)


def divided_down(a: Value, b: Value) -> Value:
    """Floor division; by 0 at points that nobody reads, something."""
    a, b = plain(a), plain(b)
    if isinstance(a, Tensor) and not a.is_floating_point() and torch.compiler.is_compiling():
        # Inductor takes a quotient of positions for two loops, and leaves the last block unwritten
        # where it is not whole (torch 2.13 on a CPU). What has been through `^` is no position.
        a = a ^ 0
    if isinstance(b, Tensor):
        a = torch.as_tensor(a, device=b.device)
        return torch.div(a, torch.where(b == 0, torch.ones_like(b), b), rounding_mode="floor")
    return a // b if b != 0 else a * 0


def remainder(a: Value, b: Value) -> Value:
    return a - divided_down(a, b) * b


def maximum(a: Value, b: Value) -> Value:
    """The larger; at a tie half of the gradient each, and none beside a written 0, as ReLU."""
    for x, y in ((a, b), (b, a)):
        if isinstance(x, Real) and isinstance(y, (int, float)) and y == 0:
            return Real(torch.relu(x.mantissa), x.exponent)
    if not isinstance(a, Real) and not isinstance(b, Real):
        return _larger_integer(a, b)
    a, b = as_real(a, b if isinstance(b, Real) else None), as_real(b, a)
    if a.exponent is None and b.exponent is None:
        dtype = joint_dtype(a.mantissa, b.mantissa)
        return Real(torch.maximum(a.mantissa.to(dtype), b.mantissa.to(dtype)))
    return where(a >= b, a, b)


def _larger_integer(a: Value, b: Value) -> Value:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        device = (a if isinstance(a, Tensor) else b).device
        return torch.maximum(torch.as_tensor(a, device=device), torch.as_tensor(b, device=device))
    return max(a, b)


def minimum(a: Value, b: Value) -> Value:
    return -maximum(-a, -b)


def where(condition: Value, a: Value, b: Value) -> Value:
    """a where the condition holds, b elsewhere: selected, never multiplied."""
    if isinstance(condition, bool):
        chosen, other = (a, b) if condition else (b, a)
        return _spread(chosen, other) if isinstance(other, Real) else chosen
    if not isinstance(a, Real) and not isinstance(b, Real):
        device = condition.device
        return torch.where(
            condition, torch.as_tensor(a, device=device), torch.as_tensor(b, device=device)
        )
    a, b = as_real(a, b if isinstance(b, Real) else None), as_real(b, a)
    mantissa = torch.where(condition, a.mantissa, b.mantissa)
    if a.exponent is None and b.exponent is None:
        return Real(mantissa)
    return Real(mantissa, torch.where(condition, _exponent(a), _exponent(b)))


def _spread(x: Value, like: Real) -> Real:
    """A number over the axes of another too: which of the two is taken does not change a shape."""
    real = as_real(x, like)
    sizes = real.mantissa.shape, like.mantissa.shape
    shape = joint_shape(*sizes)
    exponent = None if real.exponent is None else real.exponent.expand(shape)
    return Real(real.mantissa.expand(shape), exponent)


def over(a: Value, b: Value) -> Value:
    """a / b of Python numbers, as floating point divides."""
    if isinstance(a, Real) or isinstance(b, Real):
        return a / b
    if b != 0:
        return a / b
    return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a)


def part(name: str, x: Value) -> Value:
    """re, im or conj of complex numbers."""
    value = as_real(x)
    if not value.mantissa.is_complex():
        return Real(torch.zeros_like(value.mantissa)) if name == "im" else value
    take = {"re": torch.real, "im": torch.imag, "conj": torch.conj}[name]
    return Real(take(value.mantissa), value.exponent)


def to_complex(x: Value) -> Value:
    value = as_real(x)
    if value.mantissa.is_complex():
        return value
    wide_type = torch.complex128 if value.mantissa.dtype == torch.float64 else torch.complex64
    return Real(value.mantissa.to(wide_type), value.exponent)
