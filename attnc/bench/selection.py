"""Chosen blocks of keys against attnc's own dense causal kernel, and what the choice itself takes.

16 blocks of 256: those whose mean keys agree best, the own one among them. A choice is shared by 64
queries, by the heads of a group, or is each query's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from attnc.bench.figures import Figure
from attnc.bench.measure import interleave
from attnc.bench.table import HELD

ROWS, BLOCK, KEPT, WIDTH = 16384, 64, 16, 64
CHECKED = 64  # rows of each head that are compared with float64
LARGEST_ERROR = 1e-5
DENSE = """attention dense(q, k, v):
    mask: j <= i
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
"""
CHOSEN = f"""attention chosen(q, k, v) for i over j:
    static shared: int
    axis s < (len(j) + {BLOCK - 1}) // {BLOCK}
    axis t < (len(i) + shared - 1) // shared
    input blocks: bool[b, hk, t, s]
    mask: j <= i and blocks[i // shared, j // {BLOCK}]
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
"""


@dataclass(frozen=True)
class Choice:
    """Who shares a choice: `rows` neighbouring queries, the `heads` of one key head."""

    name: str
    rows: int
    heads: int
    key_heads: int
    bar: float  # how much faster than dense; it holds at HELD of that


CHOICES = (
    Choice("64 queries share a choice", 64, 1, 8, 6.0),
    Choice("16 heads share a choice", 1, 16, 1, 6.0),
    Choice("each query has its own choice", 1, 1, 8, 3.0),
)


def run_selection(only: tuple[str, ...] = (), seconds: float = 8.0) -> Iterator[Figure]:
    """Every figure of every case whose name holds one of `only`."""
    for choice in CHOICES:
        if not only or any(text in choice.name for text in only):
            yield from _figures(choice, seconds)


def _figures(choice: Choice, seconds: float) -> Iterator[Figure]:
    import attnc

    draw = torch.Generator().manual_seed(0)
    heads = choice.key_heads * choice.heads
    q = torch.randn(1, heads, ROWS, WIDTH, generator=draw)
    k, v = (torch.randn(1, choice.key_heads, ROWS, WIDTH, generator=draw) for _ in range(2))
    blocks = choose(q, k, choice)
    chosen = attnc.compile(CHOSEN, backend="cpu", shared=choice.rows)
    dense = attnc.compile(DENSE, backend="cpu")
    yield Figure(f"{choice.name}: largest error", _error(chosen, q, k, v, blocks, choice), "",
                 LARGEST_ERROR)  # fmt: skip
    runs = {
        "chosen": lambda: chosen(q, k, v, blocks=blocks),
        "dense": lambda: dense(q, k, v),
        "choice": lambda: choose(q, k, choice),
    }
    times = {name: timing.median for name, timing in interleave(runs, seconds).items()}
    faster, ideal = times["dense"] / times["chosen"], _ideal(blocks, choice)
    note = (
        f"{faster:.2f} times faster, {faster / ideal:.0%} of the ideal {ideal:.2f} (pairs); "
        f"{times['chosen'] * 1e3:.0f} ms beside {times['choice'] * 1e3:.0f} ms of choosing in torch"
    )
    title = f"{choice.name}: time over dense causal, {ROWS} rows"
    yield Figure(title, times["chosen"] / times["dense"], "x", 1 / (HELD * choice.bar), note)


def choose(q: torch.Tensor, k: torch.Tensor, choice: Choice) -> torch.Tensor:
    """The blocks of each share of rows, as truths [b, hk, shares, blocks]."""
    means = k.reshape(1, choice.key_heads, -1, BLOCK, WIDTH).mean(3)
    asked = q.reshape(1, choice.key_heads, choice.heads, -1, choice.rows, WIDTH).mean(4).sum(2)
    own = torch.arange(asked.shape[2]) * choice.rows // BLOCK
    agreement = asked @ means.mT
    at = torch.arange(means.shape[2])
    later, same = at > own[:, None], at == own[:, None]
    agreement.masked_fill_(later, -torch.inf).masked_fill_(same, torch.inf)
    best = agreement.topk(KEPT, -1).indices
    return torch.zeros_like(agreement, dtype=torch.bool).scatter_(-1, best, True) & ~later


def _visible(blocks: torch.Tensor, choice: Choice, head: int, rows: torch.Tensor) -> torch.Tensor:
    seen = blocks[0, head][rows // choice.rows].repeat_interleave(BLOCK, -1)
    return seen & (torch.arange(ROWS) <= rows[:, None])


def _error(
    chosen: Callable[..., torch.Tensor], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
    blocks: torch.Tensor, choice: Choice,
) -> float:  # fmt: skip
    """The largest difference from dense weights in float64, over some rows of each head."""
    out = chosen(q, k, v, blocks=blocks)
    rows = torch.linspace(0, ROWS - 1, CHECKED).long()
    worst = 0.0
    for head in range(q.shape[1]):
        group = head // choice.heads
        score = q[0, head, rows].double() @ k[0, group].double().mT * WIDTH**-0.5
        seen = _visible(blocks, choice, group, rows)
        exact = score.masked_fill(~seen, -torch.inf).softmax(-1) @ v[0, group].double()
        worst = max(worst, float((out[0, head, rows] - exact).abs().max()))
    return worst


def _ideal(blocks: torch.Tensor, choice: Choice) -> float:
    """Pairs of the dense causal form over those that are chosen."""
    own = torch.arange(ROWS)
    whole = blocks[0].repeat_interleave(choice.rows, 1).sum(-1, dtype=torch.long)  # blocks of a row
    pairs = ((whole - 1).clamp(min=0) * BLOCK + own % BLOCK + 1).sum() / blocks.shape[1]
    return float((own + 1).sum() / pairs)


__all__ = ["run_selection"]
