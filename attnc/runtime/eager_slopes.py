"""Derivatives that masked points cannot spoil.

Where the incoming gradient is exactly zero and a local slope is not finite, their product is zero:
so the branch of a `where` that is not taken, and a masked key, contribute nothing even where they
are inf or NaN. Everywhere else derivatives are PyTorch's, to any order, forward and backward; under
torch.compile, which takes no Function that has a jvp, backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

broadcast: Any = torch.broadcast_tensors  # without types in torch
script: Any = torch.jit


def is_traced() -> bool:
    """Whether data may not decide what runs: the call is being compiled, exported or mapped."""
    if torch.compiler.is_compiling() or script.is_tracing():
        return True
    stack = torch._C._functorch.get_interpreter_stack()
    mapped = torch._C._functorch.TransformType.Vmap
    return stack is not None and any(level.key() == mapped for level in stack)


def joint_dtype(a: Tensor, b: Tensor) -> torch.dtype:
    """The dtype of a result of both, as torch.result_type has it: a tensor without axes counts only
    where it is of a higher kind."""
    if a.dtype == b.dtype or (a.ndim == 0) == (b.ndim == 0):
        return torch.promote_types(a.dtype, b.dtype)
    whole, lone = (b, a) if a.ndim == 0 else (a, b)
    higher = _dtype_kind(lone) > _dtype_kind(whole)
    return torch.promote_types(a.dtype, b.dtype) if higher else whole.dtype


def joint_shape(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape of tensors of these shapes, which fit, spread over one another. (At its first call
    torch.broadcast_shapes loads torch's compiler, a third of a second; where that runs it is there,
    and knows symbolic sizes.)"""
    if torch.compiler.is_compiling():
        return tuple(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]
    rank = max(map(len, shapes))
    rows = [(*(1,) * (rank - len(shape)), *shape) for shape in shapes]
    return tuple(
        next((size for size in column if size != 1), 1) for column in zip(*rows, strict=True)
    )


def volume(sizes: Iterable[int]) -> int:
    """The product of sizes, symbolic ones too."""
    product = 1
    for size in sizes:
        product *= size
    return product


def _dtype_kind(x: Tensor) -> int:
    """Truths, integers, reals, complex numbers in order."""
    if x.is_complex():
        return 3
    return 2 if x.is_floating_point() else int(x.dtype != torch.bool)


def all_finite(x: Tensor) -> bool:
    """Whether no number is infinite or NaN; its extrema say so in one pass over it."""
    if not x.is_floating_point() or x.numel() == 0:
        return bool(torch.isfinite(x).all())
    return all(math.isfinite(float(end)) for end in torch.aminmax(x.detach()))


def absorbed(gradient: Tensor, slope: Tensor) -> Tensor:
    """gradient * slope, 0 where the gradient is 0 and the slope is not finite."""
    if not is_traced() and all_finite(slope):
        return gradient * slope
    lost = (gradient == 0) & ~torch.isfinite(slope)
    return gradient * torch.where(lost, torch.zeros_like(slope), slope)


class BackwardProduct(torch.autograd.Function):
    """a * b of one shape, without forward mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return a * b

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        needs = ctx.needs_input_grad
        return (
            absorbed(gradient, b.conj()) if needs[0] else None,
            absorbed(gradient, a.conj()) if needs[1] else None,
        )


class Product(BackwardProduct):
    """a * b of one shape."""

    @staticmethod
    def jvp(ctx: Any, da: Tensor | None, db: Tensor | None) -> Tensor:
        a, b = ctx.saved_tensors
        left = torch.zeros_like(a * b) if da is None else absorbed(da, b)
        return left if db is None else left + absorbed(db, a)


class BackwardQuotient(torch.autograd.Function):
    """a / b of one shape, without forward mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return a / b

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def slopes(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        over = chained("reciprocal", b)
        return over, -multiplied(divided(a, b), over)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        left, right = BackwardQuotient.slopes(*ctx.saved_tensors)
        needs = ctx.needs_input_grad
        return (
            absorbed(gradient, left.conj()) if needs[0] else None,
            absorbed(gradient, right.conj()) if needs[1] else None,
        )


class Quotient(BackwardQuotient):
    """a / b of one shape."""

    @staticmethod
    def jvp(ctx: Any, da: Tensor | None, db: Tensor | None) -> Tensor:
        left, right = BackwardQuotient.slopes(*ctx.saved_tensors)
        result = torch.zeros_like(left) if da is None else absorbed(da, left)
        return result if db is None else result + absorbed(db, right)


class BackwardChained(torch.autograd.Function):
    """A function of one tensor by name, without forward mode; its slope is written with safe
    functions again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, name: str, by: float) -> Tensor:
        return FUNCTIONS[name][0](x, by)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, str, float], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.name, ctx.by = inputs[1:]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        (x,) = ctx.saved_tensors
        return absorbed(gradient, FUNCTIONS[ctx.name][1](x, ctx.by).conj()), None, None


class Chained(BackwardChained):
    """A function of one tensor by name."""

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, *_: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        return absorbed(dx, FUNCTIONS[ctx.name][1](x, ctx.by))


def _apply(function: Any, backward: Any, *args: Any) -> Tensor:
    compiling = torch.compiler.is_compiling()
    result: Tensor = (backward if compiling else function).apply(*args)
    return result


def chained(name: str, x: Tensor, by: float = 0.0) -> Tensor:
    return _apply(Chained, BackwardChained, x, name, by)


def multiplied(a: Tensor, b: Tensor) -> Tensor:
    dtype = joint_dtype(a, b)
    a, b = broadcast(a.to(dtype), b.to(dtype))
    return _apply(Product, BackwardProduct, a, b)


def divided(a: Tensor, b: Tensor) -> Tensor:
    dtype = joint_dtype(a, b)
    a, b = broadcast(a.to(dtype), b.to(dtype))
    return _apply(Quotient, BackwardQuotient, a, b)


def _power_slope(x: Tensor, by: float) -> Tensor:
    if by == 0:
        return torch.zeros_like(x)
    return by * (chained("power", x, by - 1) if by != 1 else torch.ones_like(x))


# name -> the function and its slope
FUNCTIONS: dict[
    str, tuple[Callable[[Tensor, float], Tensor], Callable[[Tensor, float], Tensor]]
] = {
    "reciprocal": (lambda x, _: 1 / x, lambda x, _: -chained("power", x, -2.0)),
    "power": (lambda x, by: x**by, _power_slope),
    "exp": (lambda x, _: torch.exp(x), lambda x, _: chained("exp", x)),
    "log": (lambda x, _: torch.log(x), lambda x, _: chained("reciprocal", x)),
    "softplus": (
        lambda x, _: torch.relu(x) + torch.log1p(torch.exp(-torch.abs(x))),
        lambda x, _: chained("sigmoid", x),
    ),
    "sigmoid": (
        lambda x, _: torch.sigmoid(x),
        lambda x, _: chained("sigmoid", x) * chained("sigmoid", -x),
    ),
    "sqrt": (lambda x, _: torch.sqrt(x), lambda x, _: chained("power", x, -0.5) / 2),
    "sin": (lambda x, _: torch.sin(x), lambda x, _: chained("cos", x)),
    "cos": (lambda x, _: torch.cos(x), lambda x, _: -chained("sin", x)),
    "asin": (lambda x, _: torch.asin(x), lambda x, _: chained("power", 1 - x * x, -0.5)),
    "acos": (lambda x, _: torch.acos(x), lambda x, _: -chained("power", 1 - x * x, -0.5)),
    "atan": (lambda x, _: torch.atan(x), lambda x, _: chained("reciprocal", 1 + x * x)),
    "tanh": (lambda x, _: torch.tanh(x), lambda x, _: 1 - chained("tanh", x) ** 2),
    "erf": (
        lambda x, _: torch.erf(x),
        lambda x, _: 2 / math.sqrt(math.pi) * chained("exp", -x * x),
    ),
}
