"""What a user would pick instead: torch SDPA and compiled FlexAttention, on the same tensors."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from attnc.bench.suite import BenchCase, Tensors
from attnc.errors import AttncError


@dataclass(frozen=True)
class Peer:
    """A peer on one case: how to run it, or why it cannot. `setup_seconds`: block masks, made
    beforehand; `note`: what a reader must know of its numbers."""

    name: str
    run: Callable[[], torch.Tensor] | None
    reason: str = ""
    setup_seconds: float = 0.0
    note: str = ""


def peers_of(case: BenchCase, tensors: Tensors) -> list[Peer]:
    """SDPA and FlexAttention for a case (their inputs prepared: rotated, masks materialised)."""
    prepared = case.prepare(tensors) if case.prepare else tensors
    return [sdpa_peer(case, prepared), flex_peer(case, prepared)]


def sdpa_peer(case: BenchCase, tensors: Tensors) -> Peer:
    """torch.nn.functional.scaled_dot_product_attention, with is_causal or a materialised mask."""
    if case.sdpa not in ("dense", "causal", "mask"):
        return Peer("sdpa", None, case.sdpa)
    q, k, v = tensors["q"], tensors["k"], tensors["v"]
    attend = torch.nn.functional.scaled_dot_product_attention
    if case.sdpa != "mask":
        is_causal = case.sdpa == "causal"
        return Peer("sdpa", lambda: attend(q, k, v, is_causal=is_causal))
    start = time.perf_counter()
    bias = materialised(case, tensors)
    seconds = time.perf_counter() - start
    return Peer("sdpa", lambda: attend(q, k, v, attn_mask=bias), "", seconds)


def materialised(case: BenchCase, tensors: Tensors) -> torch.Tensor:
    """The mask (bool) or the bias (mask and score terms) that SDPA is given."""
    q, k = tensors["q"], tensors["k"]
    i = torch.arange(q.shape[2], device=q.device)[:, None] + case.offset
    j = torch.arange(k.shape[2], device=q.device)[None, :]
    visible = torch.ones(len(i), j.shape[1], dtype=torch.bool, device=q.device)
    if case.visible is not None:
        visible = visible & case.visible(i, j)
    if "doc" in tensors:
        doc = tensors["doc"][0]
        visible = visible & (doc[i] == doc[j])
    if case.score is None:
        return visible
    heads = torch.arange(q.shape[1], device=q.device)[:, None, None]
    added = case.score(tensors)(torch.zeros((), device=q.device), 0, heads, i, j)
    return torch.where(visible, added, -torch.inf).to(q.dtype)


def flex_peer(case: BenchCase, tensors: Tensors) -> Peer:
    """Compiled FlexAttention; its block mask is made before and timed beside it."""
    if case.flex:
        return Peer("flex", None, case.flex)
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q, k, v = tensors["q"], tensors["k"], tensors["v"]
    mask_mod = _mask_mod(case, tensors)
    block_mask, seconds = None, 0.0
    if mask_mod is not None:
        start = time.perf_counter()
        block_mask = create_block_mask(
            mask_mod, None, None, q.shape[2], k.shape[2], device=q.device.type
        )
        seconds = time.perf_counter() - start
    score_mod = case.score(tensors) if case.score else None

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        result = flex_attention(q, k, v, score_mod=score_mod, block_mask=block_mask)
        assert isinstance(result, torch.Tensor)
        return result

    # Dynamo keeps few variants of one code object and runs the rest uncompiled: every case begins
    # with none, and the whole function must be one graph.
    torch._dynamo.reset()
    compiled = torch.compile(attend, dynamic=False, fullgraph=True)
    before = _graphs()
    try:
        with torch.no_grad():
            compiled(q, k, v)
    except Exception as error:  # a peer's failure is a finding of the table, not of this program
        return Peer("flex", None, f"fails: {type(error).__name__}")
    note = "" if _graphs() == before + 1 else "it ran uncompiled"
    return Peer("flex", lambda: compiled(q, k, v), "", seconds, note)


def _graphs() -> int:
    """How many graphs Dynamo has compiled in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def _mask_mod(case: BenchCase, tensors: Tensors) -> Callable[..., Any] | None:
    visible = case.visible
    if visible is None:
        return None
    if "doc" in tensors:
        doc = tensors["doc"][0]
        return lambda b, h, i, j: visible(i, j) & (doc[i] == doc[j])
    return lambda b, h, i, j: visible(i, j)


def check_peer(name: str, result: torch.Tensor, truth: torch.Tensor) -> None:
    """A peer must compute the same function before it is timed."""
    error = float((result.double() - truth).norm() / truth.norm())
    if not error < 0.02:
        raise AttncError(f"bench: {name} computes something else (relative error {error:.1e})")
