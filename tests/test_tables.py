"""Masks that a table of truths decides: both backends skip what no entry shows."""

from __future__ import annotations

import pytest
import torch

from attnc.compiler import compile
from attnc.runtime.cpu_build import levels_here

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
# What rows see: an entry for four tiles or for a part of one, two tables (of one, many entries for
# a tile), one beside a window, the entries that are false.
MASKS = {
    "wide": "j <= i + 400 and chosen[i, j // 256]",
    "narrow": "chosen[i, j // 16]",
    "torn": "j <= i + 400 and chosen[i, j // 48]",
    "twice": "j <= i + 400 and chosen[i, j // 64] and chosen[i, j // 8 % 44]",
    "window": "chosen[i, j // 64] or 0 <= i + 400 - j < 20",
    "hidden": "j <= i + 400 and not chosen[i, j // 64]",
}


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


ONCE = pytest.param(torch.bfloat16, marks=pytest.mark.torture)


@pytest.mark.parametrize("dtype", [torch.float64, ONCE], ids=str)
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


def _compare_mask(name: str, dtype: torch.dtype, seed: int) -> None:
    """Rows without a block, a block that all see, keys that none may see; alike on two threads."""
    draw = torch.Generator().manual_seed(seed)
    heads, key_heads = ((1, 1), (6, 2), (3, 3))[seed % 3]
    q, k, v = (
        torch.randn(1, h, n, w, generator=draw, dtype=torch.float64).to(dtype)
        for h, n, w in ((heads, 270, 21), (key_heads, 700, 21), (key_heads, 700, 40))
    )
    own = seed % 2  # each head its choice
    chosen = torch.rand(1, heads if own else key_heads, 44, 270, generator=draw).mT < 0.1
    chosen = chosen.contiguous() if own else chosen
    chosen[:, :, 90:97], chosen[..., 1] = False, True
    chosen = ~chosen if name == "hidden" else chosen
    text = CHOSEN.replace("j <= i and chosen[i, j // 16]", MASKS[name])
    text = text.replace("bool[b, hk, i, s]", "bool[b, h, i, s]") if own else text
    mine, eager = compile(text, backend="cpu"), compile(text, backend="eager")
    exact = eager(q.double(), k.double(), v.double(), chosen=chosen)
    allowed = (eager(q, k, v, chosen=chosen).double() - exact).norm()
    if name not in ("narrow", "window"):
        k[:, :, 670:], v[:, :, 670:] = torch.nan, torch.inf  # beyond the last row
    out = mine(q, k, v, chosen=chosen)
    assert (out.double() - exact).norm() <= 2 * allowed + 1e-13 * exact.norm()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        assert torch.equal(out, mine(q, k, v, chosen=chosen))
    finally:
        torch.set_num_threads(threads)


def test_two_tables_decide(quick_build: None) -> None:
    _compare_mask("twice", torch.float32, 1)


@pytest.mark.torture
@pytest.mark.parametrize("isa", levels_here())
@pytest.mark.parametrize("name", MASKS)
def test_masks_of_tables(name: str, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNC_CPU_ISA", isa)
    for seed, dtype in enumerate((torch.float32, torch.bfloat16, torch.float64), len(name)):
        _compare_mask(name, dtype, seed)


def test_masked_values_stay_in_their_rows(quick_build: None) -> None:
    """An infinite value within blocks of the diagonal: rows before it go with rows that see it.

    Heads of a group are neighbours, so that their products are made in place."""
    draw = torch.Generator().manual_seed(6)
    q, k, v = (torch.randn(1, h, 300, 16, generator=draw) for h in (8, 1, 1))
    chosen = torch.rand(1, 1, 300, 19, generator=draw) < 0.1
    chosen[..., torch.arange(300), torch.arange(300) // 16] = True
    exact = compile(CHOSEN, backend="eager")(q, k, v, chosen=chosen)
    v[:, :, 69], k[:, :, 133] = torch.inf, torch.nan
    out = compile(CHOSEN, backend="cpu")(q, k, v, chosen=chosen)
    sees = torch.stack([chosen[0, 0, :, j // 16] & (torch.arange(300) >= j) for j in (69, 133)])
    torch.testing.assert_close(out[:, :, ~sees.any(0)], exact[:, :, ~sees.any(0)])
    assert not out[:, :, sees.any(0)].isfinite().any()


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
