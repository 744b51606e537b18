"""The bench set: operators, shapes, and what a user would pick instead of each.

The texts are ordinary specs. A peer that cannot run a case says why instead of a number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]

SOFTMAX = """
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
"""
CAUSAL = "    mask: j <= i" + SOFTMAX


@dataclass(frozen=True)
class BenchCase:
    """One operator at one shape.

    body            the spec's body
    numbers         params of the call; `extra`: builds further inputs; `offset` of the rows
    visible         (rows, keys) positions -> bool: the mask, None if dense
    score           a FlexAttention score_mod of (inputs), None if the score is the plain product
    sdpa            "dense", "causal", "mask" (a materialised mask or bias), or why there is none
    flex            "" or why there is none
    bars            (dtype name, peer) -> the ratio to reach
    """

    name: str
    body: str
    rows: int
    keys: int
    width: int
    heads: int = 8
    numbers: dict[str, Any] = field(default_factory=dict)
    statics: dict[str, Any] = field(default_factory=dict)
    extra: Callable[[Tensors], Tensors] = lambda tensors: {}
    visible: Callable[..., Any] | None = None
    score: Callable[[Tensors], Callable[..., Any]] | None = None
    bias: Callable[[Tensors, torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    sdpa: str = "mask"
    flex: str = ""
    prepare: Callable[[Tensors], Tensors] | None = None
    bars: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return f"attention bench(q, k, v):\n{self.body}"

    @property
    def offset(self) -> int:
        """Rows end where keys end."""
        return self.keys - self.rows


def _bars(
    sdpa32: float, flex32: float, sdpa16: float, flex16: float
) -> dict[tuple[str, str], float]:
    wanted = {
        ("float32", "sdpa"): sdpa32,
        ("float32", "flex"): flex32,
        ("bfloat16", "sdpa"): sdpa16,
        ("bfloat16", "flex"): flex16,
    }
    return {key: bar for key, bar in wanted.items() if bar}


def causal(i: Any, j: Any) -> Any:
    return j <= i


def window(size: int) -> Callable[[Any, Any], Any]:
    return lambda i, j: (j <= i) & (i - j < size)


def _slopes(tensors: Tensors) -> Tensors:
    heads, device = tensors["q"].shape[1], tensors["q"].device
    return {"slope": 2.0 ** (-8.0 * torch.arange(1, heads + 1, device=device) / heads)}


def _alibi_score(tensors: Tensors) -> Callable[..., Any]:
    slope = tensors["slope"]
    return lambda score, b, h, i, j: score - slope[h] * (i - j)


def _softcap_score(tensors: Tensors) -> Callable[..., Any]:
    return lambda score, b, h, i, j: 50.0 * torch.tanh(score / 50.0)


def _table(tensors: Tensors) -> Tensors:
    heads, rows = tensors["q"].shape[1:3]
    keys = tensors["k"].shape[2]
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(heads, rows + keys, generator=generator)
    return {"table": table.to(tensors["q"].device)}


def _table_score(tensors: Tensors) -> Callable[..., Any]:
    table, rows = tensors["table"], tensors["q"].shape[2]
    return lambda score, b, h, i, j: score + table[h, i - j + rows]


def _documents(tensors: Tensors) -> Tensors:
    keys = tensors["k"].shape[2]
    edges = torch.tensor([0.11, 0.17, 0.38, 0.52, 0.55, 0.83, 0.91]) * keys
    doc = torch.searchsorted(edges, torch.arange(keys).float(), right=True)
    return {"doc": doc[None].to(tensors["q"].device)}


def _grid_near(height: int, width: int, size: int) -> Callable[[Any, Any], Any]:
    def near(i: Any, j: Any) -> Any:
        half = size // 2
        first_y = (i // width - half).clamp(0, height - size)
        first_x = (i % width - half).clamp(0, width - size)
        y, x = j // width - first_y, j % width - first_x
        return (y >= 0) & (y < size) & (x >= 0) & (x < size)

    return near


def _rotated(tensors: Tensors) -> Tensors:
    """q and k rotated in torch: what a user of the peers does before the call."""

    def rotate(x: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        at = torch.arange(x.shape[2], device=x.device)[:, None]
        angle = at * 10000.0 ** (-torch.arange(half, device=x.device) / half)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    return {**tensors, "q": rotate(tensors["q"]), "k": rotate(tensors["k"])}


WINDOW = "    param size: int\n    mask: 0 <= i - j < size" + SOFTMAX
ALIBI = """    input slope: real[h]
    mask: j <= i
    score: dot(q[i], k[j]) * scale - slope * (i - j)
    normalize: softmax(j: score)
"""
SOFTCAP = """    param cap: real = 50.0
    mask: j <= i
    score: cap * tanh(dot(q[i], k[j]) * scale / cap)
    normalize: softmax(j: score)
"""
SIGMOID = """    param bias: real
    mask: j <= i
    score: dot(q[i], k[j]) * scale + bias
    normalize: sigmoid(score)
"""
SINK = """    input sink: real[h]
    mask: j <= i
    score: dot(q[i], k[j]) * scale
    normalize: softmax_sink(j: score, sink)
"""
DOCUMENTS = "    input doc: int[b, j]\n    mask: doc[i] == doc[j] and j <= i" + SOFTMAX
TABLE = """    input table: real[h, lag]
    param middle: int
    mask: j <= i
    score: dot(q[i], k[j]) * scale + table[i - j + middle]
    normalize: softmax(j: score)
"""
ROPE = """    mask: j <= i
    score: dot(rotary(d: q[i], i), rotary(d: k[j], j)) * scale
    normalize: softmax(j: score)
"""
GRID = """    param height, width: int
    static size: int
    axis i, j = (y < height, x < width)
    mask: near(i.y, j.y, height, size) and near(i.x, j.x, width, size)
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
"""


def _shapes() -> list[BenchCase]:
    dense64, dense128 = _bars(1.25, 2.5, 2.7, 4.2), _bars(1.0, 2.0, 1.7, 2.9)
    cases = []
    for length, width, bars in ((4096, 64, dense64), (4096, 128, dense128)):
        cases.append(
            BenchCase("dense", SOFTMAX[1:], length, length, width, sdpa="dense", bars=bars)
        )
        cases.append(
            BenchCase(
                "causal", CAUSAL, length, length, width, visible=causal, sdpa="causal", bars=bars
            )
        )
    cases.append(
        BenchCase(
            "causal",
            CAUSAL,
            1024,
            1024,
            64,
            visible=causal,
            sdpa="causal",
            bars=_bars(1.45, 2.4, 2.2, 3.1),
        )
    )
    return cases


def _variants() -> list[BenchCase]:
    n = 4096
    no_sink = "a learned sink is not in its softmax"
    return [
        BenchCase("window 256", WINDOW, n, n, 64, numbers={"size": 256}, visible=window(256),
                  bars=_bars(0, 2.6, 0, 2.8)),
        BenchCase("causal ALiBi", ALIBI, n, n, 64, extra=_slopes, visible=causal,
                  score=_alibi_score, bars=_bars(0, 2.4, 0, 3.3)),
        BenchCase("decode", CAUSAL, 1, n, 128, heads=32, visible=None, sdpa="dense",
                  bars=_bars(1.05, 1.15, 1.3, 1.5)),
        BenchCase("soft cap", SOFTCAP, n, n, 64, visible=causal, score=_softcap_score,
                  sdpa="a score function cannot be given"),
        BenchCase("sigmoid", SIGMOID, n, n, 64, numbers={"bias": -8.0}, visible=causal,
                  sdpa="softmax only", flex="softmax only"),
        BenchCase("learned sink", SINK, n, n, 64, visible=causal, sdpa=no_sink, flex=no_sink,
                  extra=lambda t: {"sink": torch.zeros(t["q"].shape[1], device=t["q"].device)}),
        BenchCase("documents", DOCUMENTS, n, n, 64, extra=_documents, visible=causal),
        BenchCase("RoPE in the spec", ROPE, n, n, 64, visible=causal, sdpa="causal",
                  prepare=_rotated),
        BenchCase("learned table bias", TABLE, n, n, 64, numbers={"middle": n}, extra=_table,
                  visible=causal, score=_table_score),
        *(
            BenchCase(f"neighborhood 64x64, {size}x{size}", GRID, n, n, 64,
                      numbers={"height": 64, "width": 64}, statics={"size": size},
                      visible=_grid_near(64, 64, size))
            for size in (7, 13)
        ),
    ]  # fmt: skip


def bench_set() -> list[BenchCase]:
    """Every case, the shapes with bars first."""
    return [*_shapes(), *_variants()]


def quick_set() -> list[BenchCase]:
    """A small set for a look in under a minute or two."""
    names = ("window 256", "causal ALiBi", "decode")
    return [case for case in bench_set() if case.rows == 1024 or case.name in names]
