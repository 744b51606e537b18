"""Calls of CPU kernels on the shelf of operators, and their error beside eager PyTorch's."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
import triton_shelf
from attnc.backends.cpu import emit
from triton_cases import bind
from triton_shelf import CASES, Shelf, column

from attnc.runtime.cpu_calls import CpuBackend

WANTED = frozenset(("out", "lse"))
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def grouped(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Key heads repeated for the heads of their group, in their own dtype."""
    return x.repeat_interleave(heads // x.shape[1], 1) if heads else x


def turned(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Rows turned by their positions, as eager PyTorch does it: angles in float32 at least."""
    half, dtype = x.shape[-1] // 2, torch.promote_types(x.dtype, torch.float32)
    angle = at[..., None] * 100.0 ** (-torch.arange(half, dtype=dtype) / half)
    cos, sin = torch.cos(angle), torch.sin(angle)
    left, right = x[..., :half], x[..., half:]
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1).to(x.dtype)


# So that the formulas of the shelf also run in the dtype of a call.
triton_shelf.grouped = grouped
triton_shelf.turned = turned


def cpu_backend(name: str) -> CpuBackend:
    """The backend of an operator of the shelf, for the compiler's flags of now."""
    return _cpu_backend(name, os.environ.get("ATTNC_CXXFLAGS"))


@cache
def _cpu_backend(name: str, flags: str | None) -> CpuBackend:
    return CpuBackend(emit(CASES[name].schedule))


def run(name: str, tensors: dict[str, Any], numbers: dict[str, Any], **extras: Any) -> Any:
    """(output, lse) of a call."""
    call = bind(CASES[name].schedule, tensors, numbers, **extras)
    return cpu_backend(name)(call, WANTED)


def eager(case: Shelf, tensors: dict[str, torch.Tensor], **extras: Any) -> torch.Tensor:
    """The dense formula in the dtype of the call, as a user would write it."""
    q, heads = tensors["q"], tensors["q"].shape[1]
    k, v = grouped(tensors["k"], heads), grouped(tensors["v"], heads)
    i = torch.arange(q.shape[2])[:, None] + column(extras.get("offset", 0))
    j = torch.arange(k.shape[2])[None, :] + column(extras.get("key_offset", 0))
    score = q @ k.mT * case.numbers["scale"]
    seen = case.mask(i=i, j=j, tensors=tensors, **case.numbers).expand(score.shape)
    if extras.get("key_length") is not None:
        seen = seen & (torch.arange(k.shape[2]) < column(extras["key_length"]))
    return case.dense(score, i, j, seen, v, tensors, case.numbers)[0].to(q.dtype)


def check(name: str, tensors: dict[str, torch.Tensor], at_most: float = 2.0, **extras: Any) -> None:
    """The error against float64 is at most `at_most` times that of eager PyTorch in the same dtype,
    in the Frobenius norm and in the worst row. Where eager is exact, a rounding of the output is
    granted."""
    case = CASES[name]
    out, lse = run(name, tensors, case.numbers, **extras)
    doubled = {x: t.double() if t.is_floating_point() else t for x, t in tensors.items()}
    wanted, wanted_lse = case.reference(doubled, **extras)
    mine = out.double() - wanted
    theirs = eager(case, tensors, **extras).double() - wanted
    # In float64 eager is the reference itself: a few roundings are granted.
    unit = torch.finfo(out.dtype).eps * (16 if out.dtype is torch.float64 else 0.5)
    assert out.isfinite().all()
    whole = wanted.norm()
    assert mine.norm() <= at_most * max(theirs.norm(), unit * whole), _ratio(mine, theirs)
    if wanted.numel():
        rows = wanted.flatten(0, -2).norm(dim=-1)
        granted = torch.maximum(theirs.flatten(0, -2).norm(dim=-1).max(), unit * rows.max())
        assert mine.flatten(0, -2).norm(dim=-1).max() <= at_most * granted, _ratio(mine, theirs)
    accumulate = torch.float64 if out.dtype is torch.float64 else torch.float32
    slack = 64 * torch.finfo(accumulate).eps
    if name != "rotary":  # its queries are rounded on the way
        seen = wanted_lse.isfinite()
        assert torch.equal(lse[~seen].double(), wanted_lse[~seen])
        far = (lse.double() - wanted_lse)[seen].abs() / wanted_lse[seen].abs().clamp(min=4)
        assert not far.numel() or far.max() <= slack


def _ratio(mine: torch.Tensor, theirs: torch.Tensor) -> str:
    return f"error {mine.norm():.3g}, eager's {theirs.norm():.3g}"
