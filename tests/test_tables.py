"""Masks that a table of truths decides: both backends skip what no entry shows."""

from __future__ import annotations

import pytest
import torch

from attnc.compiler import compile

CHOSEN = """
attention chosen_blocks(q, k, v) for i over j:
    axis s < (len(j) + 15) // 16
    input chosen: bool[b, hk, i, s]
    mask: j <= i and chosen[i, j // 16]
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
"""
PICKED = """
attention picked(q, k, v) for i over j:
    input pick: int
    mask: j // 32 == pick
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
"""
BACKENDS = ("cpu", "triton")


def test_chosen_blocks(quick_build: None) -> None:
    """Values and gradients; keys that no row chose may hold anything."""
    draw = torch.Generator().manual_seed(4)
    q = torch.randn(2, 4, 150, 16, generator=draw)
    k, v = (torch.randn(2, 2, 150, 16, generator=draw) for _ in range(2))
    chosen = (torch.rand(2, 2, 10, 150, generator=draw) < 0.3).mT  # its blocks do not lie together
    chosen[..., 3] = False
    k[:, :, 48:64], v[:, :, 48:64] = torch.nan, torch.nan
    found, exact = [], []
    for one, into, dtype in (("cpu", found, torch.float32), ("eager", exact, torch.float64)):
        given = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        out = compile(CHOSEN, backend=one)(*given, chosen=chosen)
        into += [out, *torch.autograd.grad(out.sin().sum(), given)]
    for mine, wanted in zip(found, exact, strict=True):
        torch.testing.assert_close(mine.double(), wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_rows_that_see_blocks_of_their_own(dtype: torch.dtype, quick_build: None) -> None:
    """Widths that fill no vector, values out of order, more rows than go together, few that do."""
    draw = torch.Generator().manual_seed(5)
    q = torch.randn(1, 6, 270, 21, generator=draw, dtype=torch.float64).to(dtype)
    k = torch.randn(1, 2, 700, 21, generator=draw, dtype=torch.float64).to(dtype)
    v = torch.randn(1, 2, 40, 700, generator=draw, dtype=torch.float64).to(dtype).mT
    chosen = torch.rand(1, 2, 270, 44, generator=draw) < 0.1
    given = {"chosen": chosen, "offset": 400}
    mine = compile(CHOSEN, backend="cpu")(q, k, v, **given)
    exact = compile(CHOSEN, backend="eager")(q.double(), k.double(), v.double(), **given)
    rival = compile(CHOSEN, backend="eager")(q, k, v, **given)
    error, allowed = ((x.double() - exact).norm() for x in (mine, rival))
    assert error <= 2 * allowed + 1e-13


def test_queries_over_keys_that_a_batch_shares(quick_build: None) -> None:
    """The lengths of keys are each batch's own where the keys are the same memory."""
    q, k, v = torch.randn(3, 1, 1, 16), torch.randn(1, 1, 40, 16), torch.randn(1, 1, 40, 16)
    wide = [q, *(x.expand(3, 1, 40, 16) for x in (k, v))]
    dense = "attention f(q, k, v):\n    score: dot(q[i], k[j])\n    normalize: softmax(j: score)\n"
    lengths = torch.tensor([7, 40, 1])
    mine, eager = (
        compile(dense, backend=one)(*wide, key_length=lengths) for one in ("cpu", "eager")
    )
    torch.testing.assert_close(mine, eager)


def test_chosen_blocks_on_triton() -> None:
    q, k, v = (torch.randn(1, h, 70, 16) for h in (2, 1, 1))
    chosen = torch.rand(1, 1, 5, 70).mT < 0.3
    out = compile(CHOSEN, backend="triton")(q, k, v, chosen=chosen)
    torch.testing.assert_close(out, compile(CHOSEN, backend="eager")(q, k, v, chosen=chosen))


@pytest.mark.parametrize("backend", BACKENDS)
def test_tiles_follow_the_data_of_each_call(backend: str, quick_build: None) -> None:
    q, k, v = (torch.randn(1, 1, 100, 16) for _ in range(3))
    mine, eager = compile(PICKED, backend=backend), compile(PICKED, backend="eager")
    for pick in (0, 2, 1):
        at = torch.tensor(pick)
        torch.testing.assert_close(mine(q, k, v, pick=at), eager(q, k, v, pick=at))
