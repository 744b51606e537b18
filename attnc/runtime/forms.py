"""What kind of call this is: plain, to be remembered by its form, or watched by somebody."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch

from attnc.runtime.slots import Signature

# Parts of torch without type annotations.
forward_ad: Any = torch.autograd.forward_ad
jit: Any = torch.jit


def form_of(args: tuple[Any, ...], kwargs: dict[str, Any], emit: tuple[str, ...]) -> Any:
    """All of a call but its data, to know it again; None where its data or somebody who watches
    decides what happens."""
    grad = torch.is_grad_enabled()
    parts: list[Any] = [len(args), emit, torch.get_num_threads(), os.environ.get("ATTNC_CPU_ISA")]
    parts.extend(kwargs)
    for value in (*args, *kwargs.values()):
        kind = type(value)
        if kind is torch.Tensor or kind is torch.nn.Parameter:
            if value.is_neg() or not is_dense(value):
                return None
            needs = grad and value.requires_grad
            parts.append((value.shape, value.stride(), value.dtype, value.device, needs))
        elif kind is float:
            parts.append((kind, value, math.copysign(1.0, value)))  # -0.0 equals 0.0
        elif value is None or kind in (int, bool):
            parts.append((kind, value))
        else:
            return None
    return None if is_watched() else tuple(parts)


def is_dense(value: torch.Tensor) -> bool:
    return value.layout is torch.strided and not value.is_nested


def is_own(value: torch.Tensor) -> bool:
    """Whether a tensor has data of its own; the vmap inside autograd (`is_grads_batched`) has
    tensors that stand for many."""
    return bool(torch._C._has_storage(value))


def is_watched() -> bool:
    """Whether a mode, a transform or a tracer wants to see the call."""
    return bool(
        torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or levels_live()
        or jit.is_tracing()
    )


def is_plain(tensors: dict[str, torch.Tensor]) -> bool:
    """Ordinary tensors, no gradient wanted, nobody watching: the kernel may be called directly."""
    grad = torch.is_grad_enabled()
    for value in tensors.values():
        kind = type(value)
        if kind is not torch.Tensor and kind is not torch.nn.Parameter:
            return not isinstance(value, torch.Tensor)  # not a tensor: check_call says so
        if (grad and value.requires_grad) or (is_dense(value) and value.is_neg()):
            return False
    return not is_watched()


def levels_live() -> bool:
    """Whether a forward-mode level or a functorch transform (grad, jvp, vmap) is live."""
    if forward_ad._current_level >= 0:
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None


def gradient_wanted(tensors: Iterable[Any]) -> bool:
    """Whether a gradient of one of these may be asked for, by autograd or by a transform."""
    if torch.is_grad_enabled() and any(
        isinstance(value, torch.Tensor) and value.requires_grad for value in tensors
    ):
        return True
    stack = torch._C._functorch.get_interpreter_stack()
    grad = torch._C._functorch.TransformType.Grad
    return stack is not None and any(level.key() == grad for level in stack)


def autocast(
    signature: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Under autocast, queries and their like in its dtype (float64 stays), as torch's attention
    has them."""
    if not torch.is_autocast_enabled("cpu") and not torch.is_autocast_enabled("cuda"):
        return args, kwargs
    queries = {slot.name for slot in signature.inputs if slot.dtype == "query"}
    places = [slot.name for slot in signature.inputs if slot.positional]
    args = tuple(
        _lowered(value) if place < len(places) and places[place] in queries else value
        for place, value in enumerate(args)
    )
    return args, {n: _lowered(v) if n in queries else v for n, v in kwargs.items()}


def exact_region(device: torch.device) -> Any:
    """Where torch's operations run in the dtypes of their tensors, whatever autocast would do."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _lowered(value: Any) -> Any:
    """A tensor as autocast passes it."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value
    kind = value.device.type
    if value.dtype is torch.float64 or not torch.is_autocast_enabled(kind):
        return value
    return value.to(torch.get_autocast_dtype(kind))
