"""The operator that the tests of the surface share: a window, a learned slope, all kinds of
arguments."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

import attnc

TEXT = """\
attention local(q, k, v):
    param window: int = 8, cap: real = 4.0
    param both: bool = false
    static least: int = 0
    input slope: real[h] = 0.25
    input doc: int[b, n] = 0
    mask: (both or j <= i) and abs(i - j) < window and doc[i] == doc[j] and j >= least
    score: cap * tanh(dot(q[i], k[j]) * scale / cap) - slope * abs(i - j)
    normalize: softmax(j: score)
"""


@cache
def compiled() -> Any:
    """`local`, compiled once a process."""
    return attnc.compile(TEXT)


def inputs(
    rows: int = 9,
    keys: int | None = None,
    batch: int = 2,
    heads: int = 4,
    groups: int = 2,
    width: int = 16,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k, v of a call."""
    generator = torch.Generator().manual_seed(seed)
    keys = rows if keys is None else keys

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    return (
        draw(batch, heads, rows, width),
        draw(batch, groups, keys, width),
        draw(batch, groups, keys, width),
    )


def close(out: Any, truth: Any, tolerance: float = 2e-5) -> bool:
    """Whether a result is that of the oracle, to float32."""
    return torch.allclose(
        torch.as_tensor(out).double(), torch.as_tensor(truth).double(), rtol=0, atol=tolerance
    )
